"""Render model images of physical parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile, Sersic
from hybridfit.rendering.convolution import CONTINUOUS, Convolution
from hybridfit.rendering.grid import Grid, grid_of
from hybridfit.rendering.kernels import component_images, geometry
from hybridfit.rendering.sky import sky_surface
from hybridfit.rendering.transfer import transfer_of


def render(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace | None = None,
    profiles: tuple[Profile, ...] | None = None,
    dtype: torch.dtype = torch.float32,
    convolution: Convolution = CONTINUOUS,
) -> Tensor:
    """Return model images of physical parameters (sky included), with the PSFs of ``cutouts``.

    Args:
        theta: (B, Q) in the order of ``space.names``, positions in cutout pixels; rows with NaN
            give NaN.
        cutouts: B galaxies: PSFs, zero points and the padded shape are used.
        space: default one Sersic and a constant sky.
        profiles: one for each component of ``space``.
        dtype: of the pixel arithmetic.
        convolution: how PSFs are convolved.

    Returns:
        (B, H, W) in flux units, as ``dtype``.
    """
    space = space or ParameterSpace()
    profiles = profiles or (Sersic(),)
    if tuple(theta.shape) != (len(cutouts), len(space.names)):
        raise ValueError(
            f"theta has shape {tuple(theta.shape)}, expected {(len(cutouts), len(space.names))}: "
            f"{', '.join(space.names)} for each cutout"
        )
    height, width = cutouts.image.shape[-2:]
    images = torch.empty(len(cutouts), height, width, dtype=dtype, device=cutouts.image.device)
    for oversampling in cutouts.psf_oversampling.unique().tolist():
        rows = (cutouts.psf_oversampling == oversampling).nonzero()[:, 0]
        part = cutouts[rows]
        grid = grid_of(part, dtype, convolution, well_sampled=0.0)
        images[rows] = _render(theta[rows].double(), part, space, profiles, grid)
    return images


def _render(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace,
    profiles: tuple[Profile, ...],
    grid: Grid,
) -> Tensor:
    """Run `render` for cutouts that share one Fourier grid."""
    transfer = transfer_of(cutouts, grid)
    coords, linear = space.from_physical(theta, cutouts.zeropoint)
    height, width = grid.height, grid.width
    middle = (cutouts.size.double()[:, :, None, None] - 1) / 2  # of the cutout before padding
    x = torch.arange(width, dtype=torch.float64, device=theta.device) - middle[:, 1]
    y = torch.arange(height, dtype=torch.float64, device=theta.device)[:, None] - middle[:, 0]
    image = sky_surface(linear[:, len(profiles) :], x, y)
    for k, (columns, profile) in enumerate(zip(space.slices(), profiles, strict=True)):
        shape = geometry(coords[:, columns], profile, grid.kx.dtype)
        unit = component_images(shape, profile, grid, transfer, jacobian=False)[:, 0]
        image = image + linear[:, k, None, None] * unit
    return image.to(grid.kx.dtype)
