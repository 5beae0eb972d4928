"""Scenes of a batch: the model, with each galaxy's own initial and fixed values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene import Parameter, Scene
from hybridfit.model.scene_checks import value_problem
from hybridfit.model.scene_values import SceneValues, scene_values
from hybridfit.model.value_columns import FIXED, ValueColumns, value_columns, with_fixed


def scenes_of(cutouts: Cutouts, options: FitOptions) -> SceneValues | None:
    """Return the scenes of B galaxies; None where the model and the galaxies leave all free.

    Args:
        cutouts: B galaxies that fix the same parameters, see `fixed_groups`.
        options: with the model.

    Raises:
        ValueError: for values of a parameter that the model does not have, and for galaxies that
            fix different parameters.
        BadInput: for a value that the parameter cannot have.
    """
    given = {name: v for name, v in cutouts.parameters.items() if bool(torch.isfinite(v).any())}
    if not given and not options.is_special:
        return None
    scene = options.scene
    columns = value_columns(scene)
    columns.check(cutouts.parameters)
    fixed = {name.removesuffix(FIXED): v for name, v in given.items() if name.endswith(FIXED)}
    for name, values in fixed.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"some galaxies of a batch fix {name} and others do not: fit them one group at a "
                "time, see hybridfit.fitting.galaxy_scenes.fixed_groups"
            )
    scene = with_fixed(scene, {name: float(v[0]) for name, v in fixed.items()} if fixed else {})
    scenes = scene_values([scene], options.prior)[[0] * len(cutouts)]
    start = scenes.start.clone()
    for name in sorted(given, key=lambda name: name.endswith(FIXED)):  # a fixed value counts last
        own = given[name].cpu()
        _check_values(name, own, columns, scene, scenes.space, cutouts.id)
        column = scenes.space.names.index(name.removesuffix(FIXED))
        start[:, column] = torch.where(torch.isfinite(own), own, start[:, column])
    return replace(scenes, start=start)


def fixed_groups(cutouts: Cutouts) -> list[Tensor]:
    """Return the rows of galaxies that fix the same parameters, one tensor for each group."""
    fixed = [v for name, v in sorted(cutouts.parameters.items()) if name.endswith(FIXED)]
    if not fixed:
        return [torch.arange(len(cutouts))]
    pattern = torch.isfinite(torch.stack(fixed, dim=1)).cpu()
    _, group = pattern.unique(dim=0, return_inverse=True)
    return [(group == k).nonzero()[:, 0] for k in group.unique()]


def _check_values(
    name: str,
    values: Tensor,
    columns: ValueColumns,
    scene: Scene,
    space: ParameterSpace,
    ids: Sequence[str],
) -> None:
    """Raise BadInput for the first galaxy with a value that a parameter cannot have."""
    k, parameter = columns.places[name.removesuffix(FIXED)]
    declared: Mapping[str, Parameter] = (
        scene.sky.parameters if k is None else scene.components[k].parameters
    )
    own = declared.get(parameter, Parameter())
    for id, value in zip(ids, values.tolist(), strict=True):
        if math.isnan(value):
            continue
        problem = "" if k is None else value_problem(space.components[k], parameter, value)
        if not problem and not own.reaches(value):
            problem = "outside of its prior or bounds"
        if problem:
            raise BadInput(f"{name} of galaxy '{id}' is {value:g}, {problem}")
