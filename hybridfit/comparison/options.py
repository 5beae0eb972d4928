"""Options of comparisons with other catalogues."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridfit.deprecations import renamed_fields
from hybridfit.io.formats import FORMATS, check_format
from hybridfit.io.references.options import ReferenceKeywords
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option
from hybridfit.pipeline.devices import MOST_THREADS

WAYS = ("auto", "id", "guess", "sky", "pixel", "row")  # ways of matching galaxies


@renamed_fields("compare")
@dataclass(frozen=True)
class VerdictOptions:
    """Limits on agreement, and on the chi2 that decides between two models."""

    max_sigma: float = option(
        3.0,
        help="largest difference of parameters that agree, in units of both errors",
        above=0,
        below=math.inf,
        group="Verdicts",
    )
    delta_chi2: float = option(
        9.0,
        help="difference of chi2 that decides between two models; scaled by chi2/dof if above 1",
        above=0,
        below=math.inf,
        group="Verdicts",
    )
    poor_chi2: float = option(
        2.0,
        help="chi2/dof of the better model above which both are poor",
        above=0,
        below=math.inf,
        group="Verdicts",
    )

    def __post_init__(self) -> None:
        check_fields(self, "compare")


@renamed_fields("compare")
@dataclass(frozen=True)
class CompareOptions(VerdictOptions):
    """Options of matching and comparing catalogues, and of the output."""

    match: str = option(
        "auto",
        help="how to match galaxies: by id, else on the sky (auto), or in a single way",
        choices=WAYS,
        common=True,
    )
    radius: float = option(
        0.0,
        help="matching radius",
        unit="arcsec on the sky, pix in the image",
        low=0,
        below=math.inf,
        default_text="1 arcsec or 2 pix",
        common=True,
    )
    estimate: str = option(
        "best",
        help="which values of the run to compare; mean needs a run with --save-samples",
        choices=("best", "median", "mean"),
    )
    pixels: bool = option(True, help="evaluate both models on the fitted pixels", common=True)
    n_worst: int = option(
        12, help="number of disagreements shown with images", low=0, metavar="N", common=True
    )
    n_rows: int = option(2000, help="number of galaxies in the report's table", low=0, metavar="N")
    format: str = option("fits", help="file format of comparison.*", choices=FORMATS)
    threads: int = option(1, help="CPU threads", low=1, high=MOST_THREADS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.format)


class CompareKeywords(ReferenceKeywords, total=False):
    """The fields of `CompareOptions` and `ReferenceOptions`, as keywords of a function."""

    max_sigma: float
    delta_chi2: float
    poor_chi2: float
    match: str
    radius: float
    estimate: str
    pixels: bool
    n_worst: int
    n_rows: int
    format: str
    threads: int
