"""Model images of a batch from physical parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.model.grid import WELL_SAMPLED, make_grid, nyquist_power, reach_of, transfer_function
from hybridfit.model.profiles import Profile
from hybridfit.model.render import component_images, geometry
from hybridfit.parameters import ParameterSpace

AT_ONCE = 16  # galaxies: bounds memory
NO_PSF_RADIUS = 8  # pixels


def render(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace,
    profiles: Sequence[Profile],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return model images, sky included.

    Args:
        theta: (B, Q) physical parameters in stamp pixels, in the order of ``space.names``.
        cutouts: for their PSFs, shape and zero points.
        space: of ``theta``.
        profiles: one for each component of ``space``.
        dtype: to compute in.

    Returns:
        (B, H, W) flux units.
    """
    images = torch.empty(cutouts.image.shape, dtype=dtype, device=cutouts.image.device)
    for rows in _groups(cutouts):
        for some in rows.split(AT_ONCE):
            part = cutouts[some.tolist()]
            images[some] = _render(theta[some].to(images.device), part, space, profiles, dtype)
    return images


def _groups(cutouts: Cutouts) -> list[Tensor]:
    """Rows that share a Fourier grid."""
    key = cutouts.psf_oversampling * 2
    if cutouts.psf is not None:
        key = key + (nyquist_power(cutouts.psf) >= WELL_SAMPLED).to(key)
    return [(key == k).nonzero()[:, 0] for k in key.unique()]


def _render(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace,
    profiles: Sequence[Profile],
    dtype: torch.dtype,
) -> Tensor:
    height, width = cutouts.image.shape[-2:]
    oversampling = int(cutouts.psf_oversampling[0])
    psf = cutouts.psf
    radius = NO_PSF_RADIUS if psf is None else max(psf.shape[-2:]) // 2 // oversampling
    reach = reach_of(psf, oversampling)
    grid = make_grid(height, width, radius, reach, dtype, cutouts.image.device)
    transfer = transfer_function(psf, oversampling, cutouts.psf_includes_pixel, grid, len(theta))
    raw, linear = space.from_physical(theta.double(), cutouts.zeropoint)
    total = _sky(linear[:, len(profiles) :].to(dtype), height, width)
    for k, (profile, columns) in enumerate(zip(profiles, space.slices(), strict=True)):
        shape = geometry(raw[:, columns], profile, dtype)
        unit = component_images(shape, profile, grid, transfer, jacobian=False)[:, 0]
        total = total + linear[:, k, None, None].to(dtype) * unit
    return total


def _sky(linear: Tensor, height: int, width: int) -> Tensor:
    """Level, and where there are three columns slopes about the centre, (B, H, W)."""
    level = linear[:, :1, None].expand(-1, height, width)
    if linear.shape[1] == 1:
        return level
    x = torch.arange(width, dtype=linear.dtype, device=linear.device) - (width - 1) / 2
    y = torch.arange(height, dtype=linear.dtype, device=linear.device) - (height - 1) / 2
    return level + linear[:, 1, None, None] * x + linear[:, 2, None, None] * y[:, None]
