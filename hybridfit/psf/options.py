"""Options of PSFs made from the stars of an image."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@dataclass(frozen=True)
class StarOptions:
    """How to find stars, and how to make a PSF of them."""

    min_snr: float = option(20.0, help="smallest signal-to-noise ratio of a star", above=5)
    max_stars: int = option(150, help="largest number of stars, the brightest ones", low=3)
    max_size_scatter: float = option(
        0.12, help="largest deviation of ln(size) from that of stars", above=0, below=1
    )
    degree: int | None = option(
        None,
        help="degree of the polynomial in x and y",
        low=0,
        high=4,
        default_text="2, less if there are few stars",
    )
    side: int | None = option(
        None,
        help="side of the PSF's image",
        unit="image pix",
        low=7,
        default_text="10 times the FWHM",
    )
    oversampling: int | None = option(
        None, help="PSF pixels per image pixel", low=1, high=5, default_text="from the FWHM"
    )
    saturation: float | None = option(
        None, help="level of the image above which stars are not used", default_text="none"
    )

    def __post_init__(self) -> None:
        check_fields(self)
