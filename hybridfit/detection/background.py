"""First estimates from a cutout: sky level, noise, and expected position of the target."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts


def sky_level(cutouts: Cutouts) -> Tensor:
    """Return the median (B,) of unmasked pixels in the outer frame, of width side / 10."""
    height, width = cutouts.image.shape[-2:]
    size = cutouts.size.to(cutouts.image.device)
    y = torch.arange(height, device=size.device)[None, :, None]
    x = torch.arange(width, device=size.device)[None, None, :]
    rows, columns = size[:, :1, None], size[:, 1:, None]
    frame = (torch.minimum(rows, columns) // 10).clamp_min(2)
    inner = (y >= frame) & (y < rows - frame) & (x >= frame) & (x < columns - frame)
    # cutouts of one size share a frame: few pixels to sort
    somewhere = (~inner).any(dim=0)
    blank = torch.where(cutouts.mask | inner, torch.nan, cutouts.image)[:, somewhere]
    level = blank.nanmedian(dim=1).values
    empty = ~torch.isfinite(level)
    if empty.any():
        rest = torch.where(cutouts.mask[empty], torch.nan, cutouts.image[empty])
        level[empty] = rest.flatten(1).nanmedian(dim=1).values
    return torch.nan_to_num(level, nan=0.0).double()


def nominal_centre(cutouts: Cutouts) -> Tensor:
    """Return the expected x, y (B, 2) of the target: the initial position, else the centre."""
    middle = (cutouts.size.flip(1).double() - 1) / 2
    given = cutouts.start[:, :2]
    return torch.where(torch.isfinite(given), given, middle)


def typical_sigma(cutouts: Cutouts) -> Tensor:
    """Return the harmonic mean of sigma (B,) over unmasked pixels; 1 if there are none."""
    used = ~cutouts.mask
    total = torch.where(used, 1 / cutouts.sigma, 0.0).flatten(1).sum(dim=1, dtype=torch.float64)
    count = used.flatten(1).sum(dim=1)
    return torch.where(total > 0, count / total, 1.0)
