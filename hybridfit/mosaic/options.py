"""Options of the catalogue of an image."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.detection.limits import FAINTER
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@dataclass(frozen=True)
class CatalogOptions:
    """How sources are found and cut out."""

    threshold: float = option(
        FAINTER,
        help="least height of a source in the filtered image, in standard deviations of its noise",
        above=0,
        group="Detection",
    )
    tile: int = option(
        1024, help="side of the parts in which the image is searched", unit="pix", low=128
    )
    margin: int = option(
        128, help="by which the parts overlap, so that a source is whole in one", unit="pix", low=16
    )
    reach: float = option(
        6.0, help="half-width of a cutout in half-light radii, the PSF included", above=1
    )
    smallest: int = option(64, help="smallest side of a cutout", unit="pix", low=32)
    largest: int = option(320, help="largest side of a cutout", unit="pix", low=64)
    detections: str | None = option(
        None,
        help="table of positions x, y (pixels, the first is 0) to use in place of a detection",
        metavar="FILE",
        group="Detection",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.smallest > self.largest:
            raise ValueError(
                f"smallest is {self.smallest} and largest {self.largest}, expected smallest <= "
                "largest"
            )
