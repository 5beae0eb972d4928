"""What the model would be with a slightly wider or rounder PSF.

A PSF stretched by (1 + G) has the transform T((1 + G)^T k), so that the derivative of T by a
stretch is a sum of k_i dT / dk_j, and dT / dk_j is the transform of -i x_j PSF(x): exact for the
PSF as it is given, sampled or oversampled, whatever its shape. Its flux is kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.problem import Problem
from hybridfit.model.grid import transfer_function

N_MODES = 3  # ln width, and the stretches along x against y and along the diagonals


def psf_derivatives(problem: Problem, cutouts: Cutouts, free: Tensor, linear: Tensor) -> Tensor:
    """Derivatives of the model by the PSF's width and shape, over each pixel's sigma.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        free: (B, P) and
        linear: (B, L) the fit, see `hybridfit.fitting.linearised.Linearised`.

    Returns:
        (B, 3, H, W) by d ln width, and by the stretches (1 + g, 1 - g) along x, y and along the
        diagonals; 0 where masked, and everywhere without a PSF.
    """
    weight = problem.pixels.weight
    if cutouts.psf is None:
        return weight.new_zeros(len(weight), N_MODES, *weight.shape[1:])
    raw, _ = problem.space.to_raw(free, problem.box)
    rows = torch.arange(len(free), device=free.device)
    slopes = []
    for transfer in _transfer_slopes(problem, cutouts):
        stretched = replace(problem, pixels=replace(problem.pixels, transfer=transfer))
        pieces = []
        for pick, used, images in stretched.images(raw, rows, jacobian=False):
            flux = linear[pick].to(weight.dtype)
            model = sum(image[:, 0] * flux[:, k, None, None] for k, image in enumerate(images))
            pieces.append((model * weight[pick])[:used])
        slopes.append(torch.cat(pieces))
    return torch.stack(slopes, dim=1)


def _transfer_slopes(problem: Problem, cutouts: Cutouts) -> list[Tensor]:
    """Derivatives of the transfer function by the three stretches, each (B, 2, K, L)."""
    psf, grid = cutouts.psf, problem.grid
    assert psf is not None
    # as GALFIT has it the centre moves by other frequencies than the modes' own
    galfit = not torch.equal(grid.kx, grid.phase_kx)
    oversampling = int(cutouts.psf_oversampling[0])
    height, width = psf.shape[-2:]
    x = (torch.arange(width, device=psf.device) - width // 2) / oversampling
    y = (torch.arange(height, device=psf.device) - height // 2)[:, None] / oversampling

    def moment(weighted: Tensor) -> Tensor:
        includes = cutouts.psf_includes_pixel
        both = transfer_function(weighted, oversampling, includes, grid, len(psf), galfit)
        return torch.stack([both[:, 1], -both[:, 0]], dim=1)  # times -i

    by_kx, by_ky = moment(psf * x), moment(psf * y)
    kx, ky = grid.kx, grid.ky
    return [kx * by_kx + ky * by_ky, kx * by_kx - ky * by_ky, kx * by_ky + ky * by_kx]
