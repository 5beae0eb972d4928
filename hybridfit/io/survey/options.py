"""Options of reading whole images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option

AUTO = "auto"
LAYOUTS = (
    *(AUTO, "plain", "jwst", "hst", "lsst", "legacy", "des", "kids", "euclid", "panstarrs"),
    "sdss",
)


def _file(content: str) -> Any:
    """Return a field for a file that takes precedence over what the layout finds."""
    help = f"file, or file.fits[HDU], with {content}"
    return option(None, help=help, metavar="FILE", default_text="found by the layout", common=True)


@dataclass(frozen=True)
class SurveyOptions:
    """How to read an image of a survey; files and values given here take precedence."""

    layout: str = option(
        AUTO,
        help="layout of the files; auto recognises it by names and headers",
        choices=LAYOUTS,
        common=True,
    )
    sigma: str | None = _file("the standard deviation of the noise")
    variance: str | None = _file("the variance of the noise")
    ivar: str | None = _file("the inverse variance of the noise")
    weight: str | None = _file("the weight map, 0 where there are no data")
    mask: str | None = _file("the mask, nonzero or with bits for bad pixels")
    weight_is_ivar: bool = option(
        False, help="the weight map is the inverse variance, as drizzle's with weights ERR or IVM"
    )
    mask_bits: str = option(
        "",
        help="bits of the mask that exclude a pixel, by name (SAT,CR) or value (1,4096)",
        default_text="all harmful bits",
    )
    zeropoint: float | None = option(
        None,
        help="magnitude of one flux unit",
        common=True,
        unit="mag",
        above=-math.inf,
        below=math.inf,
        default_text="from the header's unit or keywords",
    )
    pixel_scale: float | None = option(
        None, help="pixel scale", unit="arcsec/pix", above=0, default_text="from the WCS"
    )
    gain: float | None = option(
        None, help="electrons per image unit", above=0, default_text="from the header"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        given = [name for name in ("sigma", "variance", "ivar") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"the noise is given as {' and as '.join(given)}: expected one of them"
            )
