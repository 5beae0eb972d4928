"""Tables of one-dimensional transforms, and their values between the nodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.rendering.grid import S_STEP, Grid


class Lookup:
    """Where values lie in a table with a step of S_STEP.

    Args:
        s: (B, ...) frequencies times the window's scale, >= 0.
        size: of the table.
    """

    def __init__(self, s: Tensor, size: int) -> None:
        position = (s / S_STEP).clamp_max(size - 1.001)
        index = position.to(torch.int64).clamp_min(0)  # NaN has no index, but stays NaN in t
        self.t = position - index
        self.index = index.flatten(1)

    def at(self, column: Tensor) -> Tensor:
        """Return a table's column (B, S) at the node below."""
        return column.gather(1, self.index).view_as(self.t)

    def linear(self, column: Tensor) -> Tensor:
        """Return a column (B, S), linear between the nodes."""
        return self.at(column) + self.t * self.at(column[:, 1:] - column[:, :-1])

    def cubic(self, value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and slope of the cubic Hermite interpolant.

        Args:
            value, slope: (B, S) at the nodes; the slope by s.
        """
        jump = value[:, 1:] - value[:, :-1]
        d0, d1 = S_STEP * slope[:, :-1], S_STEP * slope[:, 1:]
        columns = (value, d0, 3 * jump - 2 * d0 - d1, d0 + d1 - 2 * jump)
        start, linear, square, cube = (self.at(c) for c in columns)
        t = self.t
        rise = linear + t * (2 * square + 3 * t * cube)
        return start + t * (linear + t * (square + t * cube)), rise / S_STEP


def cosine_matrices(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights t dt (N,), cos(s t) and -t sin(s t) (N, S) at the nodes of a grid."""
    t = grid.nodes[:, None]
    s = S_STEP * torch.arange(grid.hankel.shape[1], dtype=t.dtype, device=t.device)
    weight = grid.hankel[:, 0] / (2 * math.pi)  # J0(0) = 1
    return weight, torch.cos(s * t), -t * torch.sin(s * t)


def core_window(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 - (1 - exp(-t^2 / 2))^4, the window of the core, and its derivative."""
    gauss = torch.exp((-0.5 * t * t).clamp_min(-80.0))
    hole = 1 - gauss
    hole3 = hole * hole * hole
    return 1 - hole3 * hole, -4 * hole3 * gauss * t
