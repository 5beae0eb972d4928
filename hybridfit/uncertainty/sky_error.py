"""How the sky may differ from what is fitted: slopes and a bowl over the cutout."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.fitting.problem import Problem


def sky_derivatives(problem: Problem) -> Tensor:
    """Derivatives of the model by what the fitted sky cannot follow, over each pixel's sigma.

    Args:
        problem: of B galaxies.

    Returns:
        (B, K, H, W) in units of a typical pixel's noise: slopes that rise by 1 from side to side
        (not where the fit has them), a bowl that rises by 1 from the middle to a side; first the
        level itself where the fit holds it fixed. 0 where masked.
    """
    weight = problem.pixels.weight
    height, width = weight.shape[1:]
    x = ((torch.arange(width, device=weight.device) + 0.5) / width - 0.5).to(weight.dtype)
    y = ((torch.arange(height, device=weight.device) + 0.5) / height - 0.5).to(weight.dtype)
    zero = torch.zeros(height, width, dtype=weight.dtype, device=weight.device)
    bowl = 4 * (x**2 + y[:, None] ** 2)
    modes = [bowl - bowl.mean()]  # beside the level, which the fit has
    if problem.space.sky != "plane":
        modes = [zero + x, zero + y[:, None], *modes]
    if problem.space.sky == "fixed":
        modes = [zero + 1, *modes]
    return torch.stack(modes) * weight[:, None]


def sloping(sky: str) -> tuple[bool, ...]:
    """Which of `sky_derivatives` are slopes, for a sky that is constant, plane or fixed."""
    return {
        "constant": (True, True, False),
        "plane": (False,),
        "fixed": (False, True, True, False),
    }[sky]
