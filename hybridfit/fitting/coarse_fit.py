"""A first fit on the middle of the cutout, at a third of the cost, to start the real one near.

A quarter of the pixels hold nearly all that is known of most galaxies. The optimiser gets within
a standard deviation or two of the answer there, so that the whole cutout is rendered two or three
times instead of four or five. Nothing of it remains in the result but the start. Several components
take more steps, of which most are made there, on smaller cutouts too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.pixels import EAGER
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.window import window_problem

SMALLEST = 96  # pix: sides below this are not worth a stage of their own
COARSE = LMOptions(max_iter=12, tolerance=0.05)
# the same of several components, with short steps: long ones exchange the components
SMALLEST_OF_SEVERAL = 48
SEVERAL = LMOptions(max_iter=40, tolerance=1.0, max_step=0.7, correlated=True)
AT_ONCE = 24  # galaxies in an eager kernel call, whose overhead counts on small windows
INSIDE = 0.25  # of the window's sides: how far from its middle components may start


def coarse_start(problem: Problem, cutouts: Cutouts, start: Tensor) -> Tensor:
    """Return better whitened starting values (B, P) where the middle of the cutout gives them.

    Args:
        problem: the one on the whole cutouts.
        cutouts: the same B galaxies.
        start: (B, P) whitened starting values.
    """
    if problem.space.n_components > 1:
        return _start_of_several(problem, cutouts, start)
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST:
        return start
    sides = (height // 4 * 2, width // 4 * 2)
    small, _ = window_problem(problem, cutouts, problem.constants.centre, sides)
    return _usable(minimise(small, start, COARSE), start)


def _usable(minimum: Minimum, start: Tensor) -> Tensor:
    usable = torch.isfinite(minimum.normal.cost) & (minimum.point.abs().amax(dim=1) < 3)
    return torch.where(usable[:, None], minimum.point, start)


def _start_of_several(problem: Problem, cutouts: Cutouts, start: Tensor) -> Tensor:
    """Return `coarse_start` of galaxies all of whose components start near the window's middle."""
    middle = middle_of_several(problem, cutouts, start)
    if middle is None:
        return start
    small, rows = middle
    better, _ = fit_of_several(small[rows], start[rows])
    return start.index_copy(0, rows, better)


def middle_of_several(
    problem: Problem, cutouts: Cutouts, start: Tensor
) -> tuple[Problem, Tensor] | None:
    """Return the problem on the middle of cutouts, and which galaxies (b,) it serves.

    It serves those whose components start near its own middle. None where it serves nobody.

    Args:
        problem: of several components, on the whole cutouts.
        cutouts: the same B galaxies.
        start: (B, P) whitened.
    """
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST_OF_SEVERAL:
        return None
    if problem.terms is not None and problem.space.n_sky > 1:
        return None  # fixed slopes of the sky are over the sides of the cutout
    sides = (height // 4 * 2, width // 4 * 2)
    small, corner = window_problem(problem, cutouts, problem.constants.centre, sides)
    if problem.kernels is EAGER:
        small = replace(small, chunk=max(small.chunk, AT_ONCE))
    coords, _ = problem.space.from_whitened(start, problem.constants)
    side = start.new_tensor([sides[1], sides[0]])
    inside = torch.ones(len(start), dtype=torch.bool, device=start.device)
    for columns in problem.space.slices():
        place = coords[:, columns.start : columns.start + 2] - corner - (side - 1) / 2
        inside &= (place.abs() < INSIDE * side).all(dim=1)
    rows = inside.nonzero()[:, 0]
    return (small, rows) if len(rows) else None


def fit_of_several(small: Problem, start: Tensor) -> tuple[Tensor, Minimum]:
    """Return better starts (b, P) where a small problem has them, and the minima it ended in."""
    minimum = minimise(small, start, SEVERAL)
    everyone = torch.arange(len(start), device=start.device)
    flux = small.fluxes(minimum.point, minimum.normal.carry[0], everyone)
    # from a minimum without light in a component no way leads back
    lit = (flux > 0).all(dim=1)[:, None]
    return torch.where(lit, _usable(minimum, start), start), minimum
