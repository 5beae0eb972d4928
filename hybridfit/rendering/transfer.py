"""The transfer function of PSF and pixel on the modes of a Fourier grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.rendering.grid import Grid


def transfer_of(cutouts: Cutouts, grid: Grid) -> Tensor:
    """Return the transfer functions (B, 2, K, L) of cutouts that share one PSF oversampling."""
    oversampling = int(cutouts.psf_oversampling[0])
    return transfer_function(
        cutouts.psf, oversampling, cutouts.psf_includes_pixel, grid, len(cutouts)
    )


def transfer_function(
    psf: Tensor | None,
    oversampling: int,
    includes_pixel: Tensor,
    grid: Grid,
    batch: int,
) -> Tensor:
    """Return the Fourier transform of PSF and pixel on the core's modes.

    Args:
        psf: (B, h, w) odd sides, sum 1, or None.
        oversampling: PSF pixels per image pixel.
        includes_pixel: (B,) True where the PSF already includes the pixel response.
        grid: of the cutouts.
        batch: B, required without a PSF.

    Returns:
        (B, 2, K, L): real and imaginary parts.
    """
    kx, ky = grid.kx, grid.ky
    pixel = torch.sinc(kx / (2 * math.pi)) * torch.sinc(ky / (2 * math.pi))
    if psf is None:
        transfer = pixel.to(torch.promote_types(kx.dtype, torch.complex64)).expand(batch, -1, -1)
        return torch.view_as_real(transfer).permute(0, 3, 1, 2).contiguous()
    transfer = _psf_modes(psf.to(kx.dtype), oversampling, grid)
    transfer = grid.convolution.between_samples(transfer, kx, ky, oversampling)
    transfer = torch.where(includes_pixel[:, None, None], transfer, transfer * pixel)
    return torch.view_as_real(transfer).permute(0, 3, 1, 2).contiguous()


def _psf_modes(psf: Tensor, oversampling: int, grid: Grid) -> Tensor:
    """Return the transform of the PSF's samples on the core's modes, middle pixel at the origin."""
    rows, columns = oversampling * grid.rows, oversampling * grid.columns
    height, width = psf.shape[-2:]
    iy = (torch.arange(height, device=psf.device) - height // 2) % rows
    ix = (torch.arange(width, device=psf.device) - width // 2) % columns
    # index_add: a PSF larger than the grid wraps around, as the periodic transform requires
    image = psf.new_zeros(len(psf), rows, columns)
    wide = psf.new_zeros(len(psf), height, columns).index_add_(2, ix, psf)
    modes = torch.fft.rfft2(image.index_add_(1, iy, wide))
    # the samples' transform is periodic and Hermitian: read the modes beyond from those within
    row = torch.round(grid.ky[0] * (grid.rows / (2 * math.pi))).long()
    column = torch.arange(grid.kx.shape[0], device=psf.device) % columns
    mirrored = (column > columns // 2)[:, None]
    column = torch.where(mirrored[:, 0], columns - column, column)
    modes = modes.transpose(1, 2)[:, column]
    return torch.where(mirrored, modes[:, :, -row % rows].conj(), modes[:, :, row % rows])
