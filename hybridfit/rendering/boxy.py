"""Pixels and modes of a profile over generalised ellipses |u|^c + |v|^c = r^c.

The window of the core is a function of the generalised radius r, so the core is one as well. Along
a ray of direction e and length r / g, g the generalised length of e, its transform is a cosine
transform in r, one table a galaxy. The modes are a sum over rays,

    F(k) = integral d phi / g^2  h(k . e / g),   h(s) = integral_0^inf r f(r) cos(s r) dr,

by Gauss-Legendre nodes that are dense at the axes, where g is not smooth.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hybridfit.model.profiles.boxy import Boxy
from hybridfit.rendering.frame import Frame, frame_of
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.lookup import Lookup, core_window, cosine_matrices

RAYS = 32  # of a quarter turn
GROUP = 8  # rays that are summed at once
# as plain numbers, which can be compiled
NODES, WEIGHTS = (tuple(v.tolist()) for v in np.polynomial.legendre.leggauss(RAYS))
SMALLEST = 1e-4  # pixels from an axis, within which the light does not change


def outer_images(
    profile: Boxy,
    position: Tensor,
    eta: Tensor,
    scales: tuple[Tensor, Tensor],
    coefficients: tuple[Tensor, ...],
    grid: Grid,
) -> list[Tensor]:
    """Return images outside of the window: value, by ln size, the shape, eta1, eta2.

    Args:
        profile: boxy.
        position: (B, 2) centres, pixels.
        eta: (B, 2).
        scales: size and width of the window, each (B, 1, 1), circularised pixels.
        coefficients: of the profile, each (B, 1, 1).
        grid: of the pixels.

    Returns:
        Each (B, rows, columns).
    """
    size, width = scales
    c = coefficients[-3]
    frame = frame_of(eta)
    u, v = frame.pixels(grid.x - position[:, 0, None, None], grid.y - position[:, 1, None, None])
    log_u, log_v = (torch.log(w.abs().clamp_min(SMALLEST)) for w in (u, v))
    log_r2 = 2 / c * torch.logaddexp(c * log_u, c * log_v)
    share = torch.sigmoid(c * (log_u - log_v))
    window, slope = core_window(torch.exp(0.5 * log_r2) / width)
    outside = (1 - window) / size**2
    f, f_log, f_shape = profile.derivatives(log_r2 - 2 * torch.log(size), coefficients)
    by_size = -2 * (f + f_log) * outside
    by_log = f_log * outside - f * slope * torch.exp(0.5 * log_r2) / (2 * width * size**2)
    by_shape = [s * outside for s in f_shape]
    by_shape[-1] = by_shape[-1] + by_log * (2 * (share * log_u + (1 - share) * log_v) - log_r2)
    # d ln r^2 = 2 (share du / u + (1 - share) dv / v)
    along = 2 * by_log * share * torch.exp(-log_u) * torch.sign(u)
    across = 2 * by_log * (1 - share) * torch.exp(-log_v) * torch.sign(v)
    by_eta = [along * du + across * dv for du, dv in frame.pixel_slopes(u, v)]
    return [f * outside, by_size, *by_shape, *by_eta]


def core_values(
    profile: Boxy,
    eta: Tensor,
    scales: tuple[Tensor, Tensor],
    coefficients: tuple[Tensor, ...],
    grid: Grid,
    jacobian: bool,
) -> list[Tensor]:
    """Return the core's modes about its centre: value, by ln size, the shape, eta1, eta2.

    Args:
        profile, eta, scales, coefficients, grid: as for `outer_images`.
        jacobian: whether to compute derivatives.

    Returns:
        Each (B, K, L), real; the value alone without derivatives.
    """
    width = scales[1]
    tables = _tables(profile, scales, coefficients, grid)
    frame = frame_of(eta)
    ku, kv = (k[:, None] for k in frame.modes(grid.kx, grid.ky))  # (B, 1, K, L)
    rays = _rays(coefficients[-3])
    sums: list[Tensor] = []
    for start in range(0, rays[0].shape[1], GROUP):
        cos, sin, weight, log_slope, length = (r[:, start : start + GROUP] for r in rays)
        k = (ku * cos + kv * sin) / length
        lookup = Lookup(k.abs() * width[:, None], tables[0].shape[1])
        h, h_slope = lookup.cubic(*tables[:2])
        if not jacobian:
            part = (weight * h).sum(dim=1)
            sums = [sums[0] + part if sums else part]
            continue
        s = k.abs() * width[:, None]
        steep = weight * h_slope * torch.sign(k) * width[:, None] / length
        terms = [
            weight * h,
            *(weight * lookup.linear(table) for table in tables[2:]),
            -weight * log_slope * (2 * h + s * h_slope),
            steep * cos,
            steep * sin,
        ]
        parts = [term.sum(dim=1) for term in terms]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    if not jacobian:
        return sums
    value, by_size, *by_shape, by_c, by_ku, by_kv = sums
    by_shape[-1] = by_shape[-1] + by_c
    return [value, by_size, *by_shape, *_by_eta(frame, grid, by_ku, by_kv)]


def _by_eta(frame: Frame, grid: Grid, by_ku: Tensor, by_kv: Tensor) -> list[Tensor]:
    slopes = frame.mode_slopes(*frame.modes(grid.kx, grid.ky))
    return [by_ku * dku + by_kv * dkv for dku, dkv in slopes]


def _tables(
    profile: Boxy, scales: tuple[Tensor, Tensor], coefficients: tuple[Tensor, ...], grid: Grid
) -> list[Tensor]:
    """Return cosine transforms along a ray (B, S): h, its slope, then by ln size and the shape."""
    size, width = (s[:, :, 0] for s in scales)
    weight, cos, minus_sin = cosine_matrices(grid)
    weight = weight * core_window(grid.nodes)[0] * (width / size) ** 2
    log_rho2 = 2 * torch.log(grid.nodes * width / size)
    f, f_log, f_shape = profile.derivatives(log_rho2, tuple(c[:, :, 0] for c in coefficients))
    light = f * weight
    others = [-2 * (f + f_log) * weight, *(s * weight for s in f_shape)]
    return [light @ cos, light @ minus_sin, *(other @ cos for other in others)]


def _rays(c: Tensor) -> tuple[Tensor, ...]:
    """Return directions, weights, d ln g / d ln c and g of rays over half a turn, (B, R, 1, 1).

    Args:
        c: (B, 1, 1).
    """
    c = c[:, None]
    log_cos, log_sin, cos, sin, weight = (
        v[None, :, None, None] for v in _directions(c.dtype, c.device)
    )
    log_length = torch.logaddexp(c * log_cos, c * log_sin) / c
    share = torch.sigmoid(c * (log_cos - log_sin))
    slope = share * log_cos + (1 - share) * log_sin - log_length
    # twice: of half a turn
    return cos, sin, 2 * weight * torch.exp(-2 * log_length), slope, torch.exp(log_length)


def _directions(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ln |cos|, ln |sin|, cos, sin and weight of rays over half a turn, (5, 2 RAYS)."""
    y = 0.5 + 0.5 * torch.tensor(NODES, dtype=torch.float64, device=device)
    weight = 0.5 * torch.tensor(WEIGHTS, dtype=torch.float64, device=device)
    phi = math.pi / 2 * y * y * (3 - 2 * y)
    weight = weight * (3 * math.pi * y * (1 - y))  # d phi / d y
    cos, sin = torch.cos(phi), torch.sin(phi)
    first = torch.stack([torch.log(cos), torch.log(sin), cos, sin, weight])
    second = torch.stack([torch.log(cos), torch.log(sin), -cos, sin, weight])
    return torch.cat([first, second], dim=1).to(dtype)
