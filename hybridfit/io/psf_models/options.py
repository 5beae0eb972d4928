"""Options of reading PSFs by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybridfit.data.names import INTERPOLATIONS, PSF_CENTERS
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@dataclass(frozen=True)
class PSFOptions:
    """How to read the PSF of an image.

    Args:
        wcs: astropy WCS of the image, for PSFs whose positions are ra, dec; None without one.
        image_scale: arcsec per image pixel, for PSFs whose header has a pixel scale; None if
            unknown.
    """

    oversampling: int | None = option(
        None,
        help="PSF pixels per image pixel",
        above=0,
        default_text="from the PSF's header, else 1",
    )
    includes_pixel: bool | None = option(
        None,
        help="the PSF includes the pixel response (a star, an effective PSF)",
        default_text="as the format of the file defines it, else no",
    )
    center: str = option(
        "array",
        help="position taken as the PSF's centre: its middle pixel (array) or its centroid",
        choices=PSF_CENTERS,
    )
    interpolation: str = option(
        "linear",
        help="between the positions of a grid: linear, or the PSF of the nearest position",
        choices=INTERPOLATIONS,
    )
    origin: int = option(
        0,
        help="number of the first pixel in positions given by file names and tables",
        choices=(0, 1),
    )
    detector: int | None = option(
        None,
        help="number of the detector (STDPSF) or chip (Piff) in files with several",
    )
    stamp: int = option(51, help="side of the images drawn from a Piff file", unit="pix", low=5)
    wcs: Any = None
    image_scale: float | None = option(
        None, help="pixel scale of the image", unit="arcsec/pix", above=0
    )

    def __post_init__(self) -> None:
        check_fields(self)
