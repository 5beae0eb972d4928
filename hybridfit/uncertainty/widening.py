"""Widen draws so that their covariance is C + E, with errors E that the likelihood lacks.

    c' = m + T (c - m),   T = C^-1/2 (C^1/2 (C + E) C^1/2)^1/2 C^-1/2

T is the symmetric map between the two Gaussians that moves draws least (optimal transport;
Olkin & Pukelsheim 1982). The shape of the posterior, skewness included, is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-12  # of the correlation matrices' eigenvalues


def widened(points: Tensor, weights: Tensor, extra: Tensor) -> Tensor:
    """Return draws (B, S, C) with their covariance raised by ``extra``.

    Args:
        points: (B, S, C); may be NaN where the weight is 0.
        weights: (B, S), sum 1, or all 0 for a galaxy without draws.
        extra: (B, C, C) E, positive semi-definite; a matrix that is not finite adds nothing.
    """
    counts = (weights > 0) & torch.isfinite(points).all(dim=2)
    safe = torch.where(counts[..., None], points, 0.0)
    share = torch.where(counts, weights, 0.0)
    mean = (safe * share[..., None]).sum(dim=1, keepdim=True)
    offset = torch.where(counts[..., None], points - mean, 0.0)
    covariance = offset.mT @ (offset * share[..., None])
    fine = torch.isfinite(extra).flatten(1).all(dim=1) & counts.any(dim=1)
    extra = torch.where(fine[:, None, None], extra, 0.0)
    turn = transport(covariance, extra)
    moved = mean + offset @ turn.mT
    return torch.where(counts[..., None], moved, points)


def transport(covariance: Tensor, extra: Tensor) -> Tensor:
    """Return T (B, P, P) from N(0, C) to N(0, C + E), in a metric where C has unit diagonal.

    Args:
        covariance: (B, P, P) C.
        extra: (B, P, P) E.
    """
    diagonal = torch.diagonal(covariance, dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
    unit = scale[:, :, None] * scale[:, None, :]
    value, vector = torch.linalg.eigh(covariance / unit)
    value = value.clamp_min(FLOOR)
    root = (vector * value.sqrt()[:, None]) @ vector.mT
    inverse = (vector * value.rsqrt()[:, None]) @ vector.mT
    inner, axes = torch.linalg.eigh(root @ ((covariance + extra) / unit) @ root)
    middle = (axes * inner.clamp_min(0).sqrt()[:, None]) @ axes.mT
    turn = inverse @ middle @ inverse
    return scale[:, :, None] * turn / scale[:, None, :]
