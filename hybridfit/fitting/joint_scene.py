"""Scenes of a target with neighbours, and the values of their sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.fitting.options import FitOptions
from hybridfit.model.scene import Component, Scene, Source
from hybridfit.model.scene_values import SceneValues, scene_values

SERSIC, POINT = "sersic", "point"
POINT_VALUES = 3  # x, y, mag
SERSIC_VALUES = 7  # x, y, mag, r_eff, n, q, pa


@dataclass(frozen=True)
class JointStart:
    """What is known of the sources of one cutout.

    Args:
        target: (T,) physical values of the target's components in cutout pixels, x and y first; NaN
            where the fitter shall choose.
        neighbours: (M, 7) x, y, mag, r_eff, n, q, pa; of a point NaN from r_eff on.
        kinds: profile of each neighbour.
        tried: neighbours that were tried as points.
        needed: neighbours without which the fit is worse.
        complete: whether a further source was tried and is not there.
    """

    target: Tensor
    neighbours: Tensor
    kinds: tuple[str, ...]
    tried: tuple[int, ...] = ()
    needed: tuple[int, ...] = ()
    complete: bool = False

    @property
    def target_size(self) -> Tensor:
        """() r_eff of the target's first component; NaN for a point."""
        if len(self.target) <= POINT_VALUES:
            return torch.full((), torch.nan, dtype=torch.float64)
        return self.target[POINT_VALUES]

    def added(self, values: Tensor) -> JointStart:
        """Return the same with one more neighbour of values (7,)."""
        more = torch.cat([self.neighbours, values[None]])
        return replace(self, neighbours=more, kinds=(*self.kinds, SERSIC))

    def as_point(self, k: int) -> JointStart:
        """Return the same with neighbour ``k`` as a point."""
        neighbours = self.neighbours.clone()
        neighbours[k, POINT_VALUES:] = torch.nan
        kinds = (*self.kinds[:k], POINT, *self.kinds[k + 1 :])
        return replace(self, neighbours=neighbours, kinds=kinds, tried=(*self.tried, k))

    def exchanged(self, k: int) -> JointStart:
        """Return the same with the places of the target and of neighbour ``k`` exchanged.

        Both are one free Sersic profile.
        """
        neighbours = self.neighbours.clone()
        neighbours[k] = self.target
        return replace(self, target=self.neighbours[k], neighbours=neighbours, tried=())

    def without(self, k: int) -> JointStart:
        """Return the same without neighbour ``k``; no further source is looked for."""
        keep = torch.arange(len(self.kinds)) != k
        return replace(self.only(keep), complete=True)

    def only(self, keep: Tensor) -> JointStart:
        """Return the same with the neighbours of a mask (M,) alone."""
        kinds = tuple(kind for kind, own in zip(self.kinds, keep.tolist(), strict=True) if own)
        return replace(self, neighbours=self.neighbours[keep], kinds=kinds, tried=(), needed=())


def joint_scene(target: Scene, kinds: Sequence[str]) -> Scene:
    """Return the scene of a target with neighbours of these profiles, ``neighbour1`` first."""
    sources = target.sources
    if not target.components[0].name:
        names = iter(f"target{k + 1}" for k in range(len(target.components)))
        sources = tuple(
            Source(tuple(replace(c, name=next(names)) for c in source.components))
            for source in sources
        )
    others = [Source((Component(f"neighbour{k + 1}", kind),)) for k, kind in enumerate(kinds)]
    return Scene((*sources, *others), target.sky)


def joint_values(options: FitOptions, starts: Sequence[JointStart]) -> SceneValues:
    """Return the scenes of galaxies with neighbours of the same kinds, and their initial values."""
    kinds = starts[0].kinds
    scene = joint_scene(options.scene, kinds)
    values = scene_values([scene], options.prior)[[0] * len(starts)]
    start = values.start.clone()
    for row, own in zip(start, starts, strict=True):
        row[: len(own.target)] = torch.where(
            torch.isfinite(own.target), own.target, row[: len(own.target)]
        )
        first = len(own.target)
        for kind, neighbour in zip(kinds, own.neighbours, strict=True):
            count = POINT_VALUES if kind == POINT else SERSIC_VALUES
            row[first : first + count] = neighbour[:count]
            first += count
    return replace(values, start=start)


def known_sources(theta: Tensor, before: JointStart) -> JointStart:
    """Return the sources of a fit.

    Args:
        theta: (Q,) physical values of the joint scene.
        before: where the fit started.
    """
    first = len(before.target)
    neighbours = torch.full_like(before.neighbours, torch.nan)
    for k, kind in enumerate(before.kinds):
        count = POINT_VALUES if kind == POINT else SERSIC_VALUES
        own = theta[first : first + count]
        neighbours[k, :count] = own
        first += count
    return replace(before, target=theta[: len(before.target)], neighbours=neighbours)
