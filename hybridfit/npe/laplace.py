"""Gaussians about which a flow works: in units of their widths all posteriors look alike.

At high signal to noise a posterior is the Gaussian of its Fisher information. With its mean m and
precision L L^T the flow's variable is

    w = 3 asinh(L^T (t - m) / 3),

N(0, I) in that limit for every galaxy; the asinh keeps a Gaussian in the wrong place, as that of a
galaxy beside a bright neighbour, within the reach of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch

LINEAR = 3.0  # deviations, up to which w follows them
FAR = 30.0  # of t and w / 3: larger values are cut


@dataclass(frozen=True)
class Laplace(Batch):
    """Gaussians in the flow's coordinates t of B galaxies.

    Args:
        mean: (B, T) float64.
        factor: (B, T, T) float64 lower L of the precision, L L^T.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def unknown(cls, n: int, size: int, device: torch.device | str = "cpu") -> Laplace:
        """Of n galaxies and ``size`` coordinates that are not known yet: NaN."""
        nothing = torch.full((n, size, size), torch.nan, dtype=torch.float64, device=device)
        return cls(nothing[:, :, 0], nothing)

    def whiten(self, t: Tensor) -> Tensor:
        """w (B, S, T) float64 of coordinates t (B, S, T)."""
        offset = (t.double() - self.mean[:, None]) @ self.factor
        return LINEAR * torch.asinh(offset / LINEAR)

    def original(self, w: Tensor) -> Tensor:
        """Coordinates t (B, S, T) float64 of w (B, S, T)."""
        offset = LINEAR * torch.sinh((w.double() / LINEAR).clamp(-FAR, FAR))
        step = torch.linalg.solve_triangular(self.factor, offset, upper=False, left=False)
        return self.mean[:, None] + step

    def log_slope(self, w: Tensor) -> Tensor:
        """ln |d w / d t| (B, S) at w (B, S, T)."""
        volume = torch.diagonal(self.factor, dim1=1, dim2=2).log().sum(dim=1)
        bent = torch.log(torch.cosh((w.double() / LINEAR).clamp(-FAR, FAR))).sum(dim=2)
        return volume[:, None] - bent
