"""The ellipticity's prior: from a whitened pair to eta = -ln q (cos 2 pa, sin 2 pa) and back.

eta = scale u sqrt(core^2 + |u|^2 / 4), cut off smoothly at the least axis ratio, makes q nearly
uniform for thin and intermediate galaxies and its density smooth at q = 1. That is for scale 1;
with less most are rounder, with a density near q^(1 / scale - 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LENGTH = 4.0  # of the whitened pair of an axis ratio at or beyond the least one


def eta_of(u: Tensor, q_min: float, q_core: float, q_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Map the whitened pair (B, 2) to eta and its derivative (B, 2, 2)."""
    factor, _, slope = stretch(u, q_min, q_core, q_scale)
    outer = u[:, :, None] * u[:, None, :]
    eye = torch.eye(2, dtype=u.dtype, device=u.device)
    return u * factor[:, None], factor[:, None, None] * eye + slope[:, None, None] * outer


def stretch(
    u: Tensor, q_min: float, q_core: float, q_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return |eta| / |u|, d |eta| / d |u|, and (d (|eta| / |u|) / d |u|) / |u|, each (B,)."""
    s2 = (u**2).sum(dim=1)
    h = q_scale * torch.sqrt(q_core**2 + s2 / 4)
    g = torch.sqrt(s2) * h  # -ln q before the floor q_min
    # the floor: q = q_min + (1 - q_min) exp(-g), a factor on eta that is smooth at 0
    small = g < 1e-4
    safe = torch.where(small, 1.0, g)
    q = q_min + (1 - q_min) * torch.exp(-safe)
    floor = torch.where(small, 1 - q_min, -torch.log(q) / safe)
    slope = (1 - q_min) * torch.exp(-safe) / q  # d(-ln q) / dg
    floor_slope = torch.where(small, 0.0, (slope - floor) / safe)
    factor = h * floor
    # d factor / du = (dh/ds2 floor + h floor_slope dg/ds2) 2 u, with h dg/ds2 regular at 0
    dh = q_scale**2 / (8 * h)
    dg = torch.where(small, 0.0, h / (2 * torch.sqrt(s2).clamp_min(1e-12)))
    dg = dg + torch.sqrt(s2) * dh
    along = (1 - q_min) / (1 + q_min * torch.expm1(g)) * (h + q_scale**2 * s2 / (4 * h))
    return factor, along, 2 * (dh * floor + h * floor_slope * dg)


def whitened_pair(eta: Tensor, q_min: float, q_core: float, q_scale: float = 1.0) -> Tensor:
    """Return the whitened pair (B, 2) of eta (B, 2); too thin shapes go to the edge."""
    length = whitened_length(eta.norm(dim=1), q_min, q_core, q_scale)
    return eta / eta.norm(dim=1).clamp_min(1e-12)[:, None] * length[:, None]


def whitened_length(
    flattening: Tensor, q_min: float, q_core: float, q_scale: float = 1.0
) -> Tensor:
    """Return the length (B,) of the whitened pair for -ln q (B,), see `flattening_of`."""
    q = torch.exp(-flattening).clamp(q_min * 1.001, 1.0)
    g = -torch.log((q - q_min) / (1 - q_min)).clamp_max(0.0) / q_scale
    # g = s sqrt(core^2 + s^2 / 4)  =>  s^2 = 2 (sqrt(core^4 + g^2) - core^2)
    s2 = 2 * (torch.sqrt(q_core**4 + g**2) - q_core**2)
    return torch.sqrt(s2).clamp_max(MAX_LENGTH)


def flattening_of(
    length: Tensor, q_min: float, q_core: float, q_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return -ln q (B,) for the length of the whitened pair (B,), and its derivative (B,)."""
    pair = torch.stack([length, torch.zeros_like(length)], dim=1)
    factor, along, _ = stretch(pair, q_min, q_core, q_scale)
    return length * factor, along
