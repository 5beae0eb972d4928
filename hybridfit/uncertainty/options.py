"""Options of errors: replicas of the bootstrap, and the terms of the error budget."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.deprecations import renamed_fields
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@renamed_fields("bootstrap")
@dataclass(frozen=True)
class BootstrapOptions:
    """Creation and fitting of bootstrap replicas."""

    kind: str = option(
        "pixels",
        help=(
            "draw pixels with replacement (pixels), or add new noise to the best model "
            "(parametric), where the noise map is right"
        ),
        choices=("pixels", "parametric"),
    )
    replicas: int = option(
        100, help="replicas of each galaxy; an error from 100 is known to 7 %", low=2
    )
    refit: bool = option(
        True, help="fit each replica; off takes one step from the fit, some 40 times faster"
    )
    seed: int = option(0, help="seed of the random numbers")

    def __post_init__(self) -> None:
        check_fields(self, "bootstrap")


@renamed_fields("budget")
@dataclass(frozen=True)
class BudgetOptions:
    """Terms of the error budget and their priors.

    With the PSF's defaults the coverage of 68 % intervals is closest to 68 % for galaxies with
    the right PSF and stays above 60 % if it is 2 % too narrow: a small probability of a large
    error does better than a certain small error. An error of 0 omits its term.
    """

    correlated_noise: str = option(
        "measure",
        help=(
            "measure the noise's autocorrelation on the sky of each image (measure), take it as "
            "white (off), or read it from a FITS image with lag 0 in the middle"
        ),
        metavar="measure|off|FILE",
    )
    psf_width_error: float = option(
        0.06, help="standard deviation of ln(width) of a PSF that is wrong", low=0, below=1
    )
    psf_shape_error: float = option(
        0.005,
        help="standard deviation of the ellipticity, about (1 - q) / 2, of a PSF that is wrong",
        low=0,
        below=1,
    )
    psf_wrong_fraction: float = option(
        0.15, help="fraction of galaxies whose PSF is wrong at all", low=0, below=1
    )
    sky_error: float = option(
        0.005,
        help=(
            "standard deviation of a sky that is bowl-shaped over the cutout, and of the level "
            "of a fixed sky"
        ),
        unit="noise of a pixel",
        low=0,
        below=1,
    )
    sky_slope_error: float = option(
        0.5,
        help="standard deviation of the slopes of the sky over the cutout",
        unit="noise of a pixel",
        low=0,
        below=1,
    )
    misfit: bool = option(True, help="widen errors where the residuals show structure")
    covariance: bool = option(
        False, help="widen errors from the covariance too; those from the posterior always are"
    )

    def __post_init__(self) -> None:
        check_fields(self, "budget")
