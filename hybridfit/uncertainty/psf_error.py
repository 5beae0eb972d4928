"""Derivatives of the model by the PSF's width, ellipticity, background and wings.

A PSF stretched by (1 + G) has the transform T((1 + G)^T k), so that the derivative of T by a
stretch is a sum of k_i dT / dk_j, and dT / dk_j is the transform of -i x_j PSF(x): exact for the
given PSF, sampled or oversampled, of any shape. Its flux is kept.

If a PSF has a background P, or its image cuts off wings W (both of sum 1), the model is linear in
their share v of the flux, because the true PSF is PSF + v (P - PSF).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.problem import Problem
from hybridfit.rendering.psf_wings import find_wings
from hybridfit.rendering.transfer import transfer_function
from hybridfit.uncertainty.image_view import ImageView

N_WINGS = 2  # a background, and truncated wings
N_MODES = 3  # ln width, and the stretches along x against y and along the diagonals


def psf_derivatives(view: ImageView) -> Tensor:
    """Return derivatives of the model by the PSF's width and shape, over each pixel's sigma.

    Args:
        view: an image of B galaxies.

    Returns:
        (B, 3, H, W) by d ln width, and by the stretches (1 + g, 1 - g) along x, y and along the
        diagonals; 0 where masked, and everywhere without a PSF.
    """
    weight = view.problem.pixels.weight
    if view.cutouts.psf is None:
        return weight.new_zeros(len(weight), N_MODES, *weight.shape[1:])
    slopes = _transfer_slopes(view.problem, view.cutouts)
    return torch.stack([_model(view, slope) for slope in slopes], dim=1)


def wing_derivatives(view: ImageView) -> Tensor:
    """Return derivatives of the model by the PSF's background and wings, over each pixel's sigma.

    Args:
        view: an image, with PSFs, of B galaxies.

    Returns:
        (B, 2, H, W) in units of the uncertainty of each: the standard error of the background, or a
        background that was not subtracted, and the flux outside the cutout; 0 where masked.
    """
    problem, cutouts = view.problem, view.cutouts
    psf, oversampling = cutouts.psf, int(cutouts.psf_oversampling[0])
    assert psf is not None
    own = _model(view, problem.pixels.transfer)
    side = oversampling * min(problem.grid.rows, problem.grid.columns)
    images = [other_wings(one, side - 1 + side % 2) for one in psf.double().cpu().numpy()]
    modes = []
    for k in range(N_WINGS):
        image = torch.stack([torch.from_numpy(found[0][k]) for found in images]).to(psf)
        width = torch.tensor([found[1][k] for found in images]).to(own)[:, None, None]
        includes = cutouts.psf_includes_pixel
        transfer = transfer_function(image, oversampling, includes, problem.grid, len(psf))
        modes.append(width * (_model(view, transfer) - own))
    return torch.stack(modes, dim=1)


def other_wings(psf: NDArray[np.float64], side: int) -> tuple[NDArray[np.float64], list[float]]:
    """Return a background and the wings beyond a PSF's cutout, and the possible flux of each.

    Args:
        psf: (h, w), odd sides, sum 1.
        side: pixels, odd.

    Returns:
        (2, side, side), each of sum 1 except for flux outside, and two widths.
    """
    images, middle = np.zeros((N_WINGS, side, side)), side // 2
    centre = psf.shape[0] // 2, psf.shape[1] // 2
    wings = find_wings(psf, centre)
    if wings is None:
        return images, [0.0] * N_WINGS
    y, x = (where - half for where, half in zip(wings.support.nonzero(), centre, strict=True))
    inside = (abs(y) <= middle) & (abs(x) <= middle)
    area = float(wings.support.sum())
    images[0, middle + y[inside], middle + x[inside]] = 1 / area
    background = (
        abs(wings.background) if wings.has_background else min(wings.error, abs(wings.edge))
    )
    if wings.lost > 0:
        index = np.arange(side) - middle
        radius2 = index[:, None] ** 2 + index**2
        outside = radius2 > area / math.pi
        ratio = (radius2 + wings.core2) / (area / math.pi + wings.core2)
        power = wings.slope / 2
        density = (power - 1) / (math.pi * (area / math.pi + wings.core2))  # at the edge, for sum 1
        images[1] = np.where(outside, density * ratio**-power, 0.0)
    return images, [background, wings.lost]


def _model(view: ImageView, transfer: Tensor) -> Tensor:
    """Return the galaxies rendered with another transfer function, over sigma, (B, H, W)."""
    problem = view.problem
    weight = problem.pixels.weight
    rows = torch.arange(len(view.coords), device=weight.device)
    other = replace(problem, pixels=replace(problem.pixels, transfer=transfer))
    pieces = []
    for pick, used, images in other.images(view.coords, rows, jacobian=False):
        flux = view.flux[pick].to(weight.dtype)
        model = sum(image[:, 0] * flux[:, k, None, None] for k, image in enumerate(images))
        pieces.append((model * weight[pick])[:used])
    return torch.cat(pieces)


def _transfer_slopes(problem: Problem, cutouts: Cutouts) -> list[Tensor]:
    """Return derivatives of the transfer function by the three stretches, each (B, 2, K, L)."""
    psf, grid = cutouts.psf, problem.grid
    assert psf is not None
    oversampling = int(cutouts.psf_oversampling[0])
    height, width = psf.shape[-2:]
    x = (torch.arange(width, device=psf.device) - width // 2) / oversampling
    y = (torch.arange(height, device=psf.device) - height // 2)[:, None] / oversampling

    def moment(weighted: Tensor) -> Tensor:
        includes = cutouts.psf_includes_pixel
        both = transfer_function(weighted, oversampling, includes, grid, len(psf))
        return torch.stack([both[:, 1], -both[:, 0]], dim=1)  # times -i

    by_kx, by_ky = moment(psf * x), moment(psf * y)
    kx, ky = grid.kx, grid.ky
    return [kx * by_kx + ky * by_ky, kx * by_kx - ky * by_ky, kx * by_ky + ky * by_kx]
