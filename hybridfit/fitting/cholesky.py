"""Cholesky factors of symmetric matrices whose rows differ by many orders of magnitude."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def scaled_cholesky(matrix: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Factor matrices that were scaled to a unit diagonal, D M D = L L^T.

    Args:
        matrix: (B, N, N) symmetric, positive semi-definite.
        jitter: added to the unit diagonal, so that rounding leaves the matrix positive.

    Returns:
        L (B, N, N), and the diagonal of D (B, N), 1 where that of ``matrix`` is not positive.
    """
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    unit = matrix * scale[:, :, None] * scale[:, None, :] + jitter * eye
    return torch.linalg.cholesky_ex(unit)[0], scale


def solver(matrix: Tensor, jitter: float) -> Callable[[Tensor], Tensor]:
    """Return what solves systems (B, N, N) for right sides (B, N, C), see `scaled_cholesky`."""
    factor, scale = scaled_cholesky(matrix, jitter)
    return lambda right: scale[:, :, None] * torch.cholesky_solve(scale[:, :, None] * right, factor)
