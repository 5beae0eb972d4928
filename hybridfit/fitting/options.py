"""Options of the fit: the model, its prior, and the optimiser."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridfit.deprecations import renamed_fields
from hybridfit.model.prior import Prior
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option

if TYPE_CHECKING:
    from hybridfit.model.parameters import ParameterSpace
    from hybridfit.model.profiles import Profile
    from hybridfit.model.scene import Scene

MOST_COMPONENTS = 40  # memory grows by the square of their number, and FITS tables have 999 columns
SKIES = ("constant", "plane", "fixed")


@renamed_fields("fit")
@dataclass(frozen=True)
class FitOptions:
    """Options of the fit; each field's help stands in its metadata."""

    model: str = option(
        "sersic",
        help=(
            "model of each source: a profile (sersic, exponential, point...), profiles joined by + "
            "(bulge+disk, sersic+point), my_module:MyProfile of an imported module, or a YAML file"
        ),
        group="Model",
        metavar="MODEL",
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
    neighbours: str = option(
        "mask",
        help=(
            "other sources in a cutout: mask them, fit them together with the target (fit), or "
            "take them for part of it (ignore)"
        ),
        choices=("mask", "fit", "ignore"),
        default_text="mask; fit in the catalogue of an image",
        group="Model",
        common=True,
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
        if not isinstance(self.model, str) or self.model != "sersic":
            object.__setattr__(self, "model", _model_text(self.model))
        check_fields(self, "fit")
        if self.model == "sersic":
            return
        from hybridfit.model.profiles import check_profile, find_profile
        from hybridfit.model.scene_checks import check_scene

        scene = self.scene  # checks that components are known
        space = self.space
        for component in space.components:
            if ":" in component.profile:
                medians = component.medians(self.prior)
                check_profile(component.profile, find_profile(component.profile), medians)
        if len(scene.components) > MOST_COMPONENTS:
            raise ValueError(
                f"fit.model has {len(scene.components)} components, expected {MOST_COMPONENTS} at "
                "most"
            )
        check_scene(scene, self.prior)

    @property
    def is_one_sersic(self) -> bool:
        """Whether the model is one free Sersic profile, as the network knows it."""
        return self.model == "sersic"

    @property
    def is_special(self) -> bool:
        """Whether parameters of the model are fixed, tied, bounded, or have a start or prior."""
        scene = self.scene
        return bool(scene.sky.parameters) or any(c.parameters for c in scene.components)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profile objects."""
        from hybridfit.model.profiles import find_profile  # here: options need not wait for torch

        return tuple(find_profile(component.profile) for component in self.scene.components)

    @property
    def space(self) -> ParameterSpace:
        """The parameters these options fit."""
        from hybridfit.model.compile import compile_scene

        return compile_scene(self.scene, self.prior)

    @property
    def scene(self) -> Scene:
        """The scene that these options fit."""
        from hybridfit.model.declaration import declared_scene
        from hybridfit.model.scene import Sky

        scene = declared_scene(self.model)
        return scene if self.sky == "constant" else replace(scene, sky=Sky(self.sky))


def _model_text(model: Any) -> str:
    """Return a model as a text that needs no file: a name, or the content of a YAML file."""
    from hybridfit.model.declaration import declared_scene, scene_mapping

    if isinstance(model, list | tuple) and all(isinstance(part, str) for part in model) and model:
        model = "+".join(model)
    if isinstance(model, str) and not model.endswith((".yaml", ".yml")):
        return model
    return json.dumps(scene_mapping(declared_scene(model)))
