"""What the likelihood reads of an image, and the pixel functions that the problem calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch, shared
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import typical_sigma
from hybridfit.rendering.design_matrix import gram_matrix, linear_columns, shape_columns
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.kernels import component_images
from hybridfit.rendering.sky import sky_terms
from hybridfit.rendering.transfer import transfer_of


@dataclass(frozen=True)
class Pixels(Batch):
    """What the kernels read of a batch, in units of each galaxy's own noise.

    Args:
        data: (B, H, W) image minus ``background``, over ``scale``.
        weight: (B, H, W) scale / sigma, 0 where masked.
        transfer: (B, 2, K, L) of PSF and pixel.
        scale: (B,) typical sigma, flux units.
        background: (B,) flux units, so that a high sky costs no digits.
        sky: (T, H, W) the free sky terms, each of order one.
    """

    data: Tensor
    weight: Tensor
    transfer: Tensor
    scale: Tensor
    background: Tensor
    sky: Tensor = shared()


def make_pixels(
    cutouts: Cutouts,
    background: Tensor,
    n_sky: int,
    grid: Grid,
    dtype: torch.dtype,
) -> Pixels:
    """Normalise a batch whose galaxies share one PSF oversampling."""
    scale = typical_sigma(cutouts)
    unit = scale.to(dtype)[:, None, None]
    weight = torch.where(cutouts.mask, 0.0, unit / cutouts.sigma)
    # the cutouts are float32: their difference from a level near their own is exact enough
    data = (cutouts.image - background.to(dtype)[:, None, None]) / unit
    return Pixels(
        torch.where(cutouts.mask, 0.0, data).to(dtype),
        weight.to(dtype),
        transfer_of(cutouts, grid),
        scale,
        background,
        sky_terms(n_sky, grid.height, grid.width, dtype, cutouts.image.device),
    )


def pixel_gram(
    images: list[Tensor], linear: Tensor, data: Tensor, weight: Tensor, sky: Tensor
) -> Tensor:
    """Gram matrix of the weighted columns, (b, Q + 1, Q + 1).

    Args:
        images: for each component (b, 1 + D, H, W): unit-flux image, then derivatives.
        linear: (b, K + T) fluxes and sky coefficients at which the residual is taken.
        data, weight: (b, H, W).
        sky: (T, H, W).
    """
    return gram_matrix(pixel_columns(images, linear, data, sky), weight)


def pixel_columns(images: list[Tensor], linear: Tensor, data: Tensor, sky: Tensor) -> list[Tensor]:
    """Return the columns of `pixel_gram`: derivatives, linear columns, and the residual."""
    flux = linear[:, : len(images)]
    level = torch.einsum("bt,thw->bhw", linear[:, len(images) :], sky)
    residual = data - level
    for k, image in enumerate(images):
        residual = residual - flux[:, k, None, None] * image[:, 0]
    return [*shape_columns(images, flux), *linear_columns(images, sky), residual[:, None]]


def linear_gram(images: list[Tensor], data: Tensor, weight: Tensor, sky: Tensor) -> Tensor:
    """Gram matrix of the weighted linear columns and the data alone, (b, L + 1, L + 1)."""
    return gram_matrix([*linear_columns(images, sky), data[:, None]], weight)


@dataclass(frozen=True)
class Kernels:
    """The pixel functions, eager or compiled."""

    images: Callable[..., Tensor] = component_images
    linear: Callable[..., Tensor] = linear_gram
    gram: Callable[..., Tensor] = pixel_gram


EAGER = Kernels()
