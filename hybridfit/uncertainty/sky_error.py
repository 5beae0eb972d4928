"""Possible differences of the sky from the fitted one: slopes and a bowl over the cutout."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.fitting.problem import Problem


def sky_derivatives(problem: Problem) -> Tensor:
    """Return derivatives of the model by sky shapes not fitted, over each pixel's sigma.

    Args:
        problem: of B galaxies.

    Returns:
        (B, K, H, W) in units of a typical pixel's noise: slopes that rise by 1 from side to side
        (unless fitted), a bowl that rises by 1 from the centre to a side; first the level itself if
        the fit keeps it fixed. 0 where masked.
    """
    weight = problem.pixels.weight
    height, width = weight.shape[1:]
    x = ((torch.arange(width, device=weight.device) + 0.5) / width - 0.5).to(weight.dtype)
    y = ((torch.arange(height, device=weight.device) + 0.5) / height - 0.5).to(weight.dtype)
    zero = torch.zeros(height, width, dtype=weight.dtype, device=weight.device)
    bowl = 4 * (x**2 + y[:, None] ** 2)
    modes = [bowl - bowl.mean()]  # minus the level, which is fitted
    if problem.space.sky != "plane":
        modes = [zero + x, zero + y[:, None], *modes]
    if problem.space.n_sky == 0:
        modes = [zero + 1, *modes]
    return torch.stack(modes) * weight[:, None]


def sloping(sky: str) -> tuple[bool, ...]:
    """Return which of `sky_derivatives` are slopes, for a constant, plane or fixed sky."""
    return {
        "constant": (True, True, False),
        "plane": (False,),
        "fixed": (False, True, True, False),
    }[sky]
