"""Settings of the fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.profiles import Profile, find_profile
from hybridfit.options.checks import check_choice, check_fields

MOST_COMPONENTS = 40  # memory grows by the square of their number, and FITS tables have 999 columns


@dataclass(frozen=True)
class FitOptions:
    """Settings of the fit.

    Args:
        components: names in `hybridfit.model.profiles.PROFILES`, or ``"my_module:MyProfile"`` of
            a module that is imported, one for each component.
        estimator: "map" (with the prior) or "ml" (maximum likelihood, the prior's bounds only).
        sky: "constant" (free), "plane" (free with two slopes) or "fixed" (at ``sky_value``).
        sky_value: flux per pixel of a fixed sky.
        convolution: "continuous" takes the PSF for samples of a smooth function; "galfit" does as
            GALFIT does (galaxy and PSF as sums over pixels, the sub-pixel centre by a shift
            afterwards), ten times slower, to compare with its results to the last digit.
        method: "lm", or "adam" as a check.
        max_iter: evaluations a galaxy may use in each try.
        tolerance: see `LMOptions.tolerance`.
        coarse: whether stamps of 96 pixels and more are fitted on their middle first, where the
            fit starts from moments.
        second_tries: whether doubtful fits are repeated from other starts, the best one kept.
        compile: "auto" (from 2,000 galaxies of one shape on), "on" or "off".
        chunk: galaxies a kernel takes at once; 0 chooses up to 8 on a CPU, fewer of
            large stamps, and 256 on a GPU.
        precision: "float32", or "float64" to check it.
        prior: see `Prior`.
    """

    components: tuple[str, ...] = ("sersic",)
    estimator: str = "map"
    sky: str = "constant"
    sky_value: float = 0.0
    convolution: str = "continuous"
    method: str = "lm"
    max_iter: int = 40
    tolerance: float = 5e-3
    coarse: bool = True
    second_tries: bool = True
    compile: str = "auto"
    chunk: int = 0
    precision: str = "float32"
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        if isinstance(self.prior, Mapping):
            object.__setattr__(self, "prior", Prior.from_mapping(self.prior))
        check_fields(self)
        choices = {
            "estimator": ("map", "ml"),
            "convolution": ("continuous", "galfit"),
            "method": ("lm", "adam"),
            "compile": ("auto", "on", "off"),
            "precision": ("float32", "float64"),
        }
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), allowed)
        if not self.components:
            raise ValueError("components is empty, expected at least one profile")
        if len(self.components) > MOST_COMPONENTS:
            raise ValueError(
                f"components are {len(self.components)}, expected {MOST_COMPONENTS} at most"
            )
        if self.max_iter < 1 or not 0 < self.tolerance < math.inf or self.chunk < 0:
            raise ValueError(
                f"max_iter, tolerance and chunk are {self.max_iter}, {self.tolerance} and "
                f"{self.chunk}, expected max_iter >= 1, tolerance > 0 and chunk >= 0"
            )
        if not math.isfinite(self.sky_value):
            raise ValueError(f"sky_value is {self.sky_value}, expected a finite number")
        _ = self.space  # checks profiles, sky and prior

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profile objects."""
        return tuple(find_profile(name) for name in self.components)

    @property
    def space(self) -> ParameterSpace:
        """The parameters these options fit."""
        return ParameterSpace(tuple(p.shape for p in self.profiles), self.sky, self.prior)
