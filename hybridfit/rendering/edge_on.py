"""Pixels and modes of an edge-on disk.

As for radial profiles a window holds what is too narrow for the sampled points, here one of either
axis, so that the windowed piece is a product again and so is its transform. The rest is sampled.
Across the plane the window's scale is CORE_WIDTH pixels. Along it that is enough for the cusp at
the minor axis, but disks whose height the points do not resolve are within the window wherever
they are bright; these wrap around the FFT grid if they are much larger than the cutout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.profiles.edge_on import R_HALF, Z_HALF, EdgeOnDisk
from hybridfit.rendering.frame import Frame, frame_of
from hybridfit.rendering.grid import CORE_WIDTH, Grid
from hybridfit.rendering.lookup import Lookup, core_window, cosine_matrices

TOLERANCE = 3e-4  # of the peak: aliasing of the sampled points


def along_width(profile: EdgeOnDisk, frame: Frame, size: Tensor) -> Tensor:
    """Return the scale of the window along the plane, in units of u; size is (B, 1, 1), pixels.

    A sech^2 of height h that is sampled at n points a pixel has 2 x / sinh(x) of aliasing, with
    x = pi^2 n h, and a disk is as faint as exp(-R / r_s).
    """
    height, length = size / frame.stretch / Z_HALF, size * frame.stretch / R_HALF
    x = math.pi**2 * profile.subpixels * height
    bright = (torch.log(4 * x / TOLERANCE) - x).clamp(0.0, 10.0) * length
    return torch.sqrt(CORE_WIDTH**2 + bright**2) / frame.stretch


def outer_images(
    profile: EdgeOnDisk, position: Tensor, eta: Tensor, scales: tuple[Tensor, Tensor], grid: Grid
) -> list[Tensor]:
    """Return images outside of the windows: value, then by ln size, eta1, eta2; (B, rows, columns).

    Args:
        profile: an edge-on disk.
        position: (B, 2) centres, pixels.
        eta: (B, 2).
        scales: size and width of the window across the plane, each (B, 1, 1), circularised pixels.
        grid: of the pixels.
    """
    size, width = scales
    frame = frame_of(eta)
    u, v = frame.pixels(grid.x - position[:, 0, None, None], grid.y - position[:, 1, None, None])
    a, a_slope = profile.along(u.abs() / size)
    b, b_slope = profile.across(v.abs() / size)
    reach = along_width(profile, frame, size)
    along, along_slope = core_window(u.abs() / reach)
    across, across_slope = core_window(v.abs() / width)
    outside = (1 - along * across) / size**2
    by_u = a_slope * b * outside * (1 / size)
    by_v = a * b_slope * outside * (1 / size)
    by_size = -2 * a * b * outside - u.abs() * by_u - v.abs() * by_v
    # the window moves with the axes, though not with the size
    by_u = (by_u - a * b * along_slope * across / (size**2 * reach)) * torch.sign(u)
    by_v = (by_v - a * b * along * across_slope / (size**2 * width)) * torch.sign(v)
    by_eta = [by_u * du + by_v * dv for du, dv in frame.pixel_slopes(u, v)]
    return [a * b * outside, by_size, *by_eta]


def core_values(
    profile: EdgeOnDisk, eta: Tensor, scales: tuple[Tensor, Tensor], grid: Grid
) -> list[Tensor]:
    """Return the windowed piece's modes about its centre: value, by ln size, eta1, eta2.

    Args:
        profile, eta, scales, grid: as for `outer_images`.

    Returns:
        Each (B, K, L), real.
    """
    frame = frame_of(eta)
    size = scales[0][:, :, 0]
    widths = (along_width(profile, frame, scales[0])[:, :, 0], scales[1][:, :, 0])
    weight, cos, minus_sin = cosine_matrices(grid)
    window, _ = core_window(grid.nodes)
    weight = 2 * weight / grid.nodes * window  # both sides of the axis
    factors = []
    parts = (profile.along, profile.across)
    for part, width, k in zip(parts, widths, frame.modes(grid.kx, grid.ky), strict=True):
        ratio = width / size * grid.nodes
        value, slope = part(ratio)
        light, by_size = value * weight, (-value - ratio * slope) * weight
        scale = width / size
        tables = [scale * m for m in (light @ cos, light @ minus_sin, by_size @ cos)]
        lookup = Lookup(k.abs() * width[:, :, None], cos.shape[1])
        f, f_slope = lookup.cubic(*tables[:2])
        factors.append((f, f_slope * torch.sign(k) * width[:, :, None], lookup.linear(tables[2])))
    (a, a_slope, a_size), (b, b_slope, b_size) = factors
    by_eta = _by_eta(frame, grid, a_slope * b, a * b_slope)
    return [a * b, a_size * b + a * b_size, *by_eta]


def _by_eta(frame: Frame, grid: Grid, by_ku: Tensor, by_kv: Tensor) -> list[Tensor]:
    slopes = frame.mode_slopes(*frame.modes(grid.kx, grid.ky))
    return [by_ku * dku + by_kv * dkv for dku, dkv in slopes]
