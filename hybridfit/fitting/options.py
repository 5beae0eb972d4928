"""Options of the fit: the model, its prior, and the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridfit.deprecations import renamed_fields
from hybridfit.model.prior import Prior
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option

if TYPE_CHECKING:
    from hybridfit.model.parameters import ParameterSpace
    from hybridfit.model.profiles import Profile

MOST_COMPONENTS = 40  # memory grows by the square of their number, and FITS tables have 999 columns
SKIES = ("constant", "plane", "fixed")


@renamed_fields("fit")
@dataclass(frozen=True)
class FitOptions:
    """Options of the fit; each field's help stands in its metadata."""

    components: tuple[str, ...] = option(
        ("sersic",),
        help=(
            "profile of each component: sersic, exponential, or my_module:MyProfile of an "
            "imported module"
        ),
        group="Model",
        metavar="NAMES",
        common=True,
    )
    objective: str = option(
        "map",
        help="maximise the posterior (map), or the likelihood within the prior's bounds (ml)",
        choices=("map", "ml"),
        group="Model",
    )
    sky: str = option(
        "constant",
        help="sky level: free (constant), free with two slopes (plane), or fixed at sky_value",
        choices=SKIES,
        group="Model",
        common=True,
    )
    sky_value: float = option(
        0.0,
        help="level of a fixed sky",
        unit="flux/pix",
        above=-math.inf,
        below=math.inf,
        group="Model",
    )
    convolution: str = option(
        "continuous",
        help=(
            "take the PSF as samples of a smooth function (continuous), or convolve sums over "
            "pixels as GALFIT does, which is ten times slower (galfit)"
        ),
        choices=("continuous", "galfit"),
        group="Model",
    )
    method: str = option(
        "lm",
        help="optimiser: Levenberg-Marquardt (lm), or Adam as a check (adam)",
        choices=("lm", "adam"),
    )
    max_iter: int = option(
        40, help="maximum number of model evaluations in each attempt at a galaxy", low=1
    )
    tolerance: float = option(
        5e-3,
        help="convergence tolerance: expected fall of chi2 / 2 below which a fit has converged",
        above=0,
        below=math.inf,
    )
    coarse_fit: bool = option(
        True,
        help=(
            "fit the centre of cutouts of 96 pixels and more first, where initial values come "
            "from moments"
        ),
    )
    retry: bool = option(
        True, help="repeat doubtful fits from other initial values and keep the best one"
    )
    compile: str = option(
        "auto",
        help="compile the pixel kernels: always (on), never (off), or from 2,000 galaxies (auto)",
        choices=("auto", "on", "off"),
    )
    chunk: int = option(
        0,
        help="galaxies that a kernel takes at once",
        low=0,
        default_text="0: up to 8 on a CPU, 256 on a GPU",
    )
    precision: str = option(
        "float32", help="floating-point type of the pixels", choices=("float32", "float64")
    )
    prior: Prior = option(
        default_factory=Prior, help="prior of the parameters, which also bounds the fit"
    )

    def __post_init__(self) -> None:
        if isinstance(self.prior, Mapping):
            object.__setattr__(self, "prior", Prior.from_mapping(self.prior))
        check_fields(self, "fit")
        if not self.components:
            raise ValueError("fit.components is empty, expected at least one profile")
        if len(self.components) > MOST_COMPONENTS:
            raise ValueError(
                f"fit.components has {len(self.components)} entries, expected "
                f"{MOST_COMPONENTS} at most"
            )
        if self.components != ("sersic",):  # whose parameters always have a prior
            _ = self.space  # checks that profiles are known and their parameters have priors

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profile objects."""
        from hybridfit.model.profiles import find_profile  # here: options need not wait for torch

        return tuple(find_profile(name) for name in self.components)

    @property
    def space(self) -> ParameterSpace:
        """The parameters these options fit."""
        from hybridfit.model.parameters import ParameterSpace

        for name, profile in zip(self.components, self.profiles, strict=True):
            if not profile.has_plain_parameters:
                raise ValueError(
                    f"fit.components: '{name}' can be rendered, but not fitted yet: expected a "
                    f"profile with a size, an ellipticity and positive shape parameters"
                )
        return ParameterSpace(tuple(p.shape for p in self.profiles), self.sky, self.prior)
