"""One Gauss-Newton step on the pixels, and the scalars that describe two of them to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.npe.coordinates import SERSIC
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.normal_equations import NormalEquations


def n_step_scalars(n: int) -> int:
    """Return how many scalars describe two steps in ``n`` coordinates.

    They are mean, ln width, correlations, step, its length, how much was cut, chi2 of all and of
    the galaxy, what pixels kept of their weight; length and cut of the first step.
    """
    return 3 * n + n * (n - 1) // 2 + 8


N_SCALARS = n_step_scalars(SERSIC.n)


@dataclass(frozen=True)
class Step:
    """One Gauss-Newton step of B galaxies; all float64.

    Args:
        laplace: the Gaussians at its end.
        taken: (B, T) the step in units of their widths.
        length: (B,) of the whole step, in them.
        cut: (B,) share of the whole step that was taken.
        pixels: the normal equations at its start.
    """

    laplace: Laplace
    taken: Tensor
    length: Tensor
    cut: Tensor
    pixels: NormalEquations


def scalars_of(steps: Sequence[Step]) -> Tensor:
    """Return scalars that describe two steps to a network, (B, F) float32, see `n_step_scalars`."""
    first, last = steps
    covariance = torch.cholesky_inverse(last.laplace.factor)
    width = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    i, j = _pairs(width)
    columns = [
        last.laplace.mean,
        torch.log(width),
        covariance[:, i, j] / (width[:, i] * width[:, j]),
        torch.asinh(last.taken),
        torch.log1p(last.length)[:, None],
        torch.log(last.cut)[:, None],
        torch.log(last.pixels.chi2.clamp_min(1e-6)),
        last.pixels.kept,
        torch.log1p(first.length)[:, None],
        torch.log(first.cut)[:, None],
    ]
    scalars = torch.cat(columns, dim=1).float()
    return torch.nan_to_num(scalars, 0.0, 0.0, 0.0).clamp(-1e3, 1e3)


def step_signs(signs: Tensor) -> Tensor:
    """Return the factors (K, F) of the scalars where those of t are ``signs`` (K, T)."""
    i, j = _pairs(signs)
    one = torch.ones_like(signs)
    rest = torch.ones_like(signs[:, :1]).expand(-1, 8)
    return torch.cat([signs, one, signs[:, i] * signs[:, j], signs, rest], dim=1)


def _pairs(like: Tensor) -> Tensor:
    """Return rows and columns (2, T (T - 1) / 2) below the diagonal, for ``like`` (N, T)."""
    n = like.shape[1]
    return torch.tril_indices(n, n, -1, device=like.device)
