"""From the render coordinates of a scene to those of another image of it.

The pixels of the image follow from those of the first image, which the scene is declared in, by
``p = A p_0 + b``. An ellipse ``d^T M d = r^2`` with det M = 1 is one there as well, with

    M' = |det A| A^-T M A^-1,    ln r' = ln r + ln |det A| / 2,

for any rotation, flip, change of scale and shear. Boxy isophotes and edge-on disks are exact but
for the shear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch

ROUND = 1e-3  # lengths below which series take the place of sinh g / g and its inverse


@dataclass(frozen=True)
class Frame(Batch):
    """How coordinates and fluxes of B scenes appear in another image.

    Args:
        matrix: (B, 2, 2) float64 A.
        shift: (B, 2) float64 b, pixels.
        gain: (B,) float64 flux in units of the image's noise, for a unit of that of the first.
    """

    matrix: Tensor
    shift: Tensor
    gain: Tensor

    @property
    def scale(self) -> Tensor:
        """(B,) pixels of the image along one pixel of the first, the root of their areas' ratio."""
        return torch.linalg.det(self.matrix).abs().sqrt()

    def positions(self, first: Tensor) -> Tensor:
        """Return positions (B, 2) in the image of those in the first."""
        return (self.matrix @ first[:, :, None])[:, :, 0] + self.shift

    def place(self, coords: Tensor, components: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Return the scene's coordinates in the image, and their derivatives.

        Args:
            coords: (B, C) float64 render coordinates of all components; further columns stay.
            components: columns of each component; of a point its position alone.

        Returns:
            (B, C), and (B, C, C) by those of the scene.
        """
        own = coords.clone()
        slope = torch.eye(coords.shape[1], dtype=coords.dtype, device=coords.device)
        slope = slope.repeat(len(coords), 1, 1)
        by_cosh, turn = _turn(self.matrix)
        log_scale = self.scale.log()
        for columns in components:
            x, last = columns.start, columns.stop
            own[:, x : x + 2] = self.positions(coords[:, x : x + 2])
            slope[:, x : x + 2, x : x + 2] = self.matrix
            if last - x > 2:
                own[:, x + 2] += log_scale
                eta = slice(last - 2, last)
                own[:, eta], slope[:, eta, eta] = _turned(coords[:, eta], by_cosh, turn)
        return own, slope


def _turn(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return how the shape of a metric follows, (B, 2) for its mean and (B, 2, 2) for its shape.

    A metric is ``c 1 + w_1 Z + w_2 X``, with its mean c, its shape w and the matrices Z of the
    axes and X of the diagonals.
    """
    inverse = torch.linalg.inv(matrix)
    area = torch.linalg.det(matrix).abs()[:, None, None]
    basis = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [0, -1]], [[0, 1], [1, 0]]]).to(matrix)
    turned = area[:, None] * inverse.mT[:, None] @ basis @ inverse[:, None]  # (B, 3, 2, 2)
    shape = torch.stack(
        [(turned[..., 0, 0] - turned[..., 1, 1]) / 2, turned[..., 0, 1]], dim=1
    )  # (B, 2, 3)
    return shape[:, :, 0], shape[:, :, 1:]


def _turned(eta: Tensor, by_cosh: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return eta (B, 2) in the image, and its derivatives (B, 2, 2); regular at a round galaxy.

    With g = |eta| the metric's mean is cosh g and its shape eta sinh g / g.
    """
    g2 = (eta**2).sum(dim=1)
    g = g2.sqrt()
    small = g < ROUND
    safe = torch.where(small, 1.0, g)
    ratio = torch.where(small, 1 + g2 / 6, torch.sinh(safe) / safe)
    ratio_slope = torch.where(small, 1 / 3 + g2 / 30, (torch.cosh(safe) - ratio) / safe**2)
    shape = by_cosh * torch.cosh(g)[:, None] + (turn @ (ratio[:, None] * eta)[:, :, None])[:, :, 0]
    slope = turn @ _stretched(eta, ratio, ratio_slope)
    slope = slope + by_cosh[:, :, None] * (ratio[:, None] * eta)[:, None, :]
    s2 = (shape**2).sum(dim=1)
    s = s2.sqrt()
    small = s < ROUND
    safe = torch.where(small, 1.0, s)
    back = torch.where(small, 1 - s2 / 6, torch.asinh(safe) / safe)
    back_slope = (1 / torch.sqrt(1 + safe**2) - back) / safe**2
    back_slope = torch.where(small, -1 / 3 + 0.3 * s2, back_slope)
    return back[:, None] * shape, _stretched(shape, back, back_slope) @ slope


def _stretched(vector: Tensor, factor: Tensor, slope: Tensor) -> Tensor:
    """Return derivatives (B, 2, 2) of ``factor`` (B,) times a vector (B, 2).

    Args:
        vector: (B, 2).
        factor: (B,) a function of its length.
        slope: (B,) the derivative of the factor over the length.
    """
    eye = torch.eye(2, dtype=vector.dtype, device=vector.device)
    outer = vector[:, :, None] * vector[:, None, :]
    return factor[:, None, None] * eye + slope[:, None, None] * outer
