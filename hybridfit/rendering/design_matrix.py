"""The design matrix of a model, and the normal equations of a least-squares fit with it.

With J the derivatives of the model by its parameters, W the weights of the pixels and r the
residuals, ``J^T W J`` is the Fisher information and ``J^T W r`` the gradient of the log
likelihood. The columns of J have the same order everywhere: the shape parameters of each component,
its flux, then the terms of the sky.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shape_columns(images: Sequence[Tensor], flux: Tensor) -> list[Tensor]:
    """Return derivatives by the shape parameters (render coordinates), (B, D, H, W) per component.

    Args:
        images: for each component (B, 1 + D, H, W): unit-flux image, then derivatives.
        flux: (B, K) of the components.
    """
    return [image[:, 1:] * flux[:, k, None, None, None] for k, image in enumerate(images)]


def linear_columns(images: Sequence[Tensor], sky: Tensor) -> list[Tensor]:
    """Return derivatives by fluxes and sky: (B, 1, H, W) per component, then (B, T, H, W).

    Args:
        images: for each component (B, 1 + D, H, W), the first a unit-flux image.
        sky: (T, H, W) the terms of the sky.
    """
    batch = len(images[0])
    return [*(image[:, :1] for image in images), sky.expand(batch, *sky.shape)]


def gram_matrix(columns: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return the Gram matrix (B, C, C) of columns times ``weight``.

    Args:
        columns: (B, C_i, H, W), C in all; a residual as last column gives J^T W r in the last row.
        weight: (B, H, W), one over the standard deviation of each pixel.
    """
    weighted = weighted_columns(columns, weight)
    return weighted @ weighted.transpose(1, 2)


def weighted_columns(columns: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return columns times ``weight``, (B, C, H * W); see `gram_matrix`."""
    return (torch.cat(list(columns), dim=1) * weight[:, None]).flatten(2)


def information_and_gradient(
    columns: Sequence[Tensor], weight: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Return J^T W J (B, C, C) and J^T W r (B, C), float64.

    Args:
        columns: (B, C_i, H, W), C in all.
        weight: (B, H, W), one over the variance of each pixel, not its root as for `gram_matrix`.
        residual: (B, H, W).
    """
    flat = torch.cat(list(columns), dim=1).flatten(2)
    weighted = flat * weight.flatten(1)[:, None]
    gradient = (weighted @ residual.flatten(1)[:, :, None])[:, :, 0]
    return (weighted @ flat.mT).double(), gradient.double()
