"""A first fit on the middle of the cutout, at a third of the cost, to start the real one near.

A quarter of the pixels hold nearly all that is known of most galaxies. The optimiser gets within
a standard deviation or two of the answer there, so that the whole cutout is rendered two or three
times instead of four or five. Nothing of it remains in the result but the start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.lm import LMOptions, minimise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.window import window_problem

SMALLEST = 96  # pix: sides below this are not worth a stage of their own
COARSE = LMOptions(max_iter=12, tolerance=0.05)


def coarse_start(problem: Problem, cutouts: Cutouts, start: Tensor) -> Tensor:
    """Return better whitened starting values (B, P) where the middle of the cutout gives them.

    Args:
        problem: the one on the whole cutouts.
        cutouts: the same B galaxies.
        start: (B, P) whitened starting values.
    """
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST:
        return start
    sides = (height // 4 * 2, width // 4 * 2)
    small, _ = window_problem(problem, cutouts, problem.constants.centre, sides)
    minimum = minimise(small, start, COARSE)
    usable = torch.isfinite(minimum.normal.cost) & (minimum.point.abs().amax(dim=1) < 3)
    return torch.where(usable[:, None], minimum.point, start)
