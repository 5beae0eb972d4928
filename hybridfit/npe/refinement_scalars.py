"""One Gauss-Newton step on the pixels, and the scalars that describe two of them to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.npe.frame import N_TARGETS
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.normal_equations import NormalEquations

PAIRS = torch.tril_indices(N_TARGETS, N_TARGETS, -1)
# mean, ln width, correlations, step, its length, how much was cut, chi2 of all and of the galaxy,
# what pixels kept of their weight; length and cut of the first step
N_SCALARS = 3 * N_TARGETS + PAIRS.shape[1] + 8


@dataclass(frozen=True)
class Step:
    """One Gauss-Newton step of B galaxies; all float64.

    Args:
        laplace: the Gaussians at its end.
        taken: (B, 8) the step in units of their widths.
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
    """Return scalars that describe two steps to a network, (B, `N_SCALARS`) float32."""
    first, last = steps
    covariance = torch.cholesky_inverse(last.laplace.factor)
    width = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    i, j = PAIRS.to(width.device)
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
    """Return the factors (K, `N_SCALARS`) of the scalars where those of t are ``signs`` (K, 8)."""
    i, j = PAIRS
    one = torch.ones_like(signs)
    return torch.cat([signs, one, signs[:, i] * signs[:, j], signs, one], dim=1)
