"""Other starts of doubtful fits, in render coordinates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.fit_flags import MAX_MAG_ERROR
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import Solution, to_fit
from hybridfit.model.parameters import ParameterSpace

# ln n, and what is added to ln of the size, of all ellipses
ALIKE = ((-0.4, 0.3), (1.3, 0.0), (0.3, -1.2))
# ln of all n, and what is added to ln of the size of the smallest ellipse and of the others
SEVERAL = ((0.0, -0.9, 0.0), (0.9, 0.0, 0.6), (0.0, -2.0, 0.3))
EXCHANGED_N = 0.0  # ln of all n where the smallest and the largest ellipse exchange their sizes


def other_starts(coords: Tensor, space: ParameterSpace) -> Iterator[Tensor]:
    """Yield other starts (B, C), with isophotes that are rounder by half.

    Args:
        coords: (B, C) render coordinates of the first start.
        space: what is fitted; only what is free will follow.
    """
    ellipses = [
        (columns, component.shape)
        for columns, component in zip(space.slices(), space.components, strict=True)
        if component.is_ellipse
    ]
    rounder = coords.clone()
    for columns, _ in ellipses:
        rounder[:, columns.stop - 2 : columns.stop] *= 0.5
    at = [columns.start + 2 for columns, _ in ellipses]
    indices = [c.start + 3 + shape.index("n") for c, shape in ellipses if "n" in shape]
    sizes = coords[:, at]
    for log_n, larger in ALIKE:
        yield _changed(rounder, at, indices, sizes + larger, log_n)
    if len(ellipses) < 2:
        return
    smallest = sizes.argmin(dim=1, keepdim=True)
    is_smallest = torch.zeros_like(sizes, dtype=torch.bool).scatter_(1, smallest, True)
    for log_n, small, large in SEVERAL:
        change = torch.where(is_smallest, small, large)
        yield _changed(rounder, at, indices, sizes + change, log_n)
    low, high = sizes.amin(dim=1, keepdim=True), sizes.amax(dim=1, keepdim=True)
    swapped = torch.where(is_smallest, high, torch.where(sizes == high, low, sizes))
    yield _changed(rounder, at, indices, swapped, EXCHANGED_N)


def _changed(
    coords: Tensor, at: list[int], indices: list[int], sizes: Tensor, log_n: float
) -> Tensor:
    """Return coordinates with these sizes and one index for all."""
    other = coords.clone()
    other[:, at] = sizes
    other[:, indices] = log_n
    return other


def has_uncertain_component(solution: Solution, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Return (B,) whether one of several components has a magnitude that is hardly known.

    Such a component has often moved off to where there is no light of its own.
    """
    space = problem.space
    if space.n_components == 1:
        return torch.zeros_like(solution.converged)
    error = to_fit(solution, problem, cutouts).error
    columns = [space.column(k, "mag") for k in range(space.n_components)]
    return ~(error[:, columns] < MAX_MAG_ERROR).all(dim=1) & torch.isfinite(solution.cost)
