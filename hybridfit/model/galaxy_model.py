"""Models of a galaxy that networks know and the simulator draws: a scene and its prior."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hybridfit.model.constants import Constants
from hybridfit.model.declaration import declared_scene, scene_mapping
from hybridfit.model.distributions import Family
from hybridfit.model.model_names import SERSIC_NAME
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.scene import Scene
from hybridfit.model.scene_values import SceneValues, scene_values


@dataclass(frozen=True)
class Position:
    """A pair of whitened coordinates that is a position.

    Args:
        column: of x among the whitened coordinates; y follows.
        rows: of x among the render coordinates, one of each component there; y follows each.
    """

    column: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class GalaxyModel:
    """One source of components on a constant sky, with nothing fixed, and its prior.

    Args:
        name: as users write it: a profile or a preset.
        declaration: the scene as JSON of `scene_mapping`, which keeps its meaning should a later
            version change the preset; "" for what ``name`` stands for.
        prior: of what has no prior of its own in the scene.
    """

    name: str = SERSIC_NAME
    declaration: str = ""
    prior: Prior = field(default_factory=Prior)

    @classmethod
    def named(cls, name: str, prior: Prior = Prior()) -> GalaxyModel:
        """Return the model of a profile or preset, with its scene as it is now."""
        if name == SERSIC_NAME:
            return cls(name, prior=prior)
        return cls(name, json.dumps(scene_mapping(declared_scene(name))), prior)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what was derived, some of which cannot be pickled."""
        return GalaxyModel, (self.name, self.declaration, self.prior)

    @property
    def is_one_sersic(self) -> bool:
        """Whether it is one Sersic profile."""
        return self.name == SERSIC_NAME

    @cached_property
    def scene(self) -> Scene:
        """The scene as declared."""
        return declared_scene(self.declaration or self.name)

    @cached_property
    def space(self) -> ParameterSpace:
        """Its parameters.

        Raises:
            ValueError: for a scene that this class does not describe.
        """
        space = self.values.space
        links = space.links
        at = {p.column + i for p in positions_of(space) for i in (0, 1)}
        families = enumerate(space.whitening.families)
        if (
            space.n_sky != 1
            or (links is not None and (any(links.fixed) or links.fluxes))
            or any(c.polar or c.source or not c.is_ellipse for c in space.components)
            or any(family is Family.UNIFORM and j not in at for j, family in families)
            or bool(torch.isnan(self.values.tie).any())
        ):
            raise ValueError(
                f"the model '{self.name}' cannot be drawn and learned: expected one source of "
                "ellipses and a constant sky, nothing fixed or bounded, and no priors of "
                "magnitudes or angles"
            )
        return space

    @cached_property
    def values(self) -> SceneValues:
        """The numbers of one such scene."""
        found = scene_values([self.scene], self.prior)
        return replace(found, start=torch.full_like(found.start, torch.nan))

    def constants(self, bounds: Tensor) -> Constants:
        """Return the numbers of the priors of B galaxies.

        Args:
            bounds: (B, 4) float64: centre x, y and half-widths of the position's prior, pixels.
        """
        if self.space.links is None:
            return self.space.constants(bounds)
        return constants_in(self.values[[0] * len(bounds)].to(bounds.device), bounds)


def constants_in(scenes: SceneValues, bounds: Tensor) -> Constants:
    """Return the numbers of the priors of B scenes without initial values, see `GalaxyModel`.

    Args:
        scenes: B of them.
        bounds: (B, 4) as of `GalaxyModel.constants`.
    """
    # nothing follows from initial values, so that any will do
    theta, half = torch.ones_like(scenes.start), bounds[:, 2]
    return scenes.constants(theta, torch.zeros_like(half), bounds[:, :2], half, half)


def positions_of(space: ParameterSpace) -> tuple[Position, ...]:
    """Return the positions of a space; components of one centre share them."""
    slices = space.slices()
    if space.links is None:
        return tuple(Position(s.start, (s.start,)) for s in slices)
    found: dict[int, list[int]] = {}
    for s in slices:
        (x, y) = space.links.rows[s.start : s.start + 2]
        if len(x) == 1 and len(y) == 1 and y[0][0] == x[0][0] + 1:
            found.setdefault(x[0][0], []).append(s.start)
    return tuple(Position(column, tuple(rows)) for column, rows in found.items())
