"""Pixels and modes of a radial profile with distorted isophotes.

Pixels outside of the window of the core are sampled, several points each. Within the window the
light is summed at polar nodes of the distorted coordinates, dense at the cusp: these are mapped
back to the sky, and the modes are a sum over them,

    F(k) = sum_n w_n f_n exp(-i kx x_n) exp(-i ky y_n),

a product of two matrices. All derivatives are those at fixed points of the sky.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybridfit.model.profiles.distorted import Distorted
from hybridfit.rendering.distorted_radius import (
    Placed,
    Radius,
    area_of,
    distorted_radius,
    points_of,
)
from hybridfit.rendering.frame import frame_of
from hybridfit.rendering.grid import T_MAX, Grid
from hybridfit.rendering.lookup import core_window
from hybridfit.rendering.truncation import Truncation, truncated

NARROW = 0.3  # width of the core's window over that of other profiles: outer pixels have subpixels
RADII = 32  # of the core's nodes; more where it is large
ANGLES = 32
HIGHEST = 2 * math.pi  # radian / pix, beyond which the core's modes are not followed
MOST_NODES = 2048  # that are summed at once
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Core:
    """Nodes of the core's window: where they lie on the sky, and the area of each."""

    x: Tensor  # (B, N) pixels from the centre
    y: Tensor
    area: Tensor


def outer_images(
    profile: Distorted,
    position: Tensor,
    eta: Tensor,
    scales: Pair,
    coefficients: tuple[Tensor, ...],
    grid: Grid,
    jacobian: bool,
) -> list[Tensor]:
    """Return images outside of the window: value, by ln size, the shape, eta1, eta2.

    Args:
        profile: distorted.
        position: (B, 2) centres, pixels.
        eta: (B, 2).
        scales: size and width of the window, each (B, 1, 1), circularised pixels.
        coefficients: of the profile, each (B, 1, 1).
        grid: of the pixels.
        jacobian: whether to compute derivatives, else the value alone.

    Returns:
        Each (B, rows, columns).
    """
    dx, dy = grid.x - position[:, 0, None, None], grid.y - position[:, 1, None, None]
    dx, dy = torch.broadcast_tensors(dx, dy)
    placed = _placed(profile, eta, scales, coefficients)
    return _light(profile, placed, dx, dy, coefficients, False, jacobian)


def core_modes(
    profile: Distorted,
    eta: Tensor,
    scales: Pair,
    coefficients: tuple[Tensor, ...],
    grid: Grid,
    jacobian: bool,
) -> list[Pair]:
    """Return the core's modes about its centre: value, by ln size, the shape, eta1, eta2.

    Args:
        profile, eta, scales, coefficients, grid, jacobian: as for `outer_images`.

    Returns:
        Real and imaginary part, each (B, K, L).
    """
    placed = _placed(profile, eta, scales, coefficients)
    n_x = int((grid.kx <= HIGHEST).sum())
    rows = torch.nonzero(grid.ky[0].abs() <= HIGHEST)[:, 0]
    kx, ky = grid.kx[:n_x], grid.ky[:, rows]
    core = _nodes(profile, placed, float(kx.max()))
    sums: Tensor | None = None
    for start in range(0, core.x.shape[1], MOST_NODES):
        x, y, area = (v[:, start : start + MOST_NODES] for v in (core.x, core.y, core.area))
        images = _light(profile, placed, x[:, None], y[:, None], coefficients, True, jacobian)
        light = torch.cat(images, dim=1) * area[:, None]  # (B, P, N)
        part = _transform(light, x, y, kx, ky)
        sums = part if sums is None else sums + part
    assert sums is not None
    if grid.ky.shape[1] > len(rows) or grid.kx.shape[0] > n_x:
        whole = sums.new_zeros(*sums.shape[:2], grid.kx.shape[0], grid.ky.shape[1])
        whole[:, :, :n_x, rows] = sums
        sums = whole
    return [(f.real, f.imag) for f in sums.unbind(1)]


def _transform(light: Tensor, x: Tensor, y: Tensor, kx: Tensor, ky: Tensor) -> Tensor:
    """Return modes (B, P, K, L) of light (B, P, N) at points (B, N)."""
    phase_x, phase_y = kx * x[:, None], y[:, :, None] * ky
    along_x = torch.polar(torch.ones_like(phase_x), -phase_x)  # (B, K, N)
    along_y = torch.polar(torch.ones_like(phase_y), -phase_y)  # (B, N, L)
    weighted = light[:, :, None] * along_x[:, None]  # (B, P, K, N)
    return (weighted.flatten(1, 2) @ along_y).unflatten(1, weighted.shape[1:3])


def _placed(
    profile: Distorted, eta: Tensor, scales: Pair, coefficients: tuple[Tensor, ...]
) -> Placed:
    """Return where the component lies, and the values of its distortions."""
    names = profile.distortions.names
    values = dict(zip(names, coefficients[-len(names) :], strict=True))
    size, width = scales
    if profile.distortions.rotation:
        width = width / torch.cos(torch.deg2rad(values["rot_incl"]))
    return Placed(frame_of(eta), size, NARROW * width, values)


def _light(
    profile: Distorted,
    placed: Placed,
    dx: Tensor,
    dy: Tensor,
    coefficients: tuple[Tensor, ...],
    inside: bool,
    jacobian: bool,
) -> list[Tensor]:
    """Return the brightness within or outside of the window at offsets (B, ..., ...)."""
    base = coefficients[: -len(profile.distortions.names)]
    radius = distorted_radius(profile.distortions, placed, dx, dy, jacobian)
    area = area_of(profile.distortions, placed)
    rho = torch.exp(0.5 * radius.log_r2)
    window, slope = core_window(rho / placed.width)
    share = window if inside else 1 - window
    scale = torch.exp(-area.log_area) / placed.size**2
    log_rho2 = radius.log_r2 - 2 * torch.log(placed.size)
    cut = truncated(profile.distortions, placed.values, radius.axis.log)
    if not jacobian:
        return [profile.profile.value(log_rho2, base) * share * scale * cut.share]
    f, f_log, f_shape = profile.profile.derivatives(log_rho2, base)
    steepness = (0.5 if inside else -0.5) * slope * rho / placed.width
    whole = f * share * scale
    value = whole * cut.share
    by_log = (f_log * share + f * steepness) * scale * cut.share
    by_size = -2 * (f + f_log) * share * scale * cut.share + by_log * radius.by_size
    by_own = []
    for parameter, rate, of_area, of_cut in zip(
        profile.distortions.parameters,
        radius.by_own,
        area.by_own,
        _cut_slopes(profile, radius, cut),
        strict=True,
    ):
        number = placed.values[parameter.name]
        unit = 1.0 if parameter.is_linear else number - parameter.shift
        by_own.append((by_log * rate - value * of_area + whole * of_cut) * unit)
    by_eta = [
        by_log * rate - value * of_area
        for rate, of_area in zip(radius.by_eta, area.by_eta, strict=True)
    ]
    if profile.distortions.truncations:
        moves = [whole * cut.by_log_axis * rate for rate in radius.axis.by_eta]
        by_eta = [a + b for a, b in zip(by_eta, moves, strict=True)]
    by_shape = [s * share * scale * cut.share for s in f_shape]
    return [value, by_size, *by_shape, *by_own, *by_eta]


def _cut_slopes(profile: Distorted, radius: Radius, cut: Truncation) -> list[Tensor]:
    """Return derivatives of the truncation's share by each of the distortions' parameters."""
    own = profile.distortions
    zero = torch.zeros_like(cut.share)
    rotation = [cut.by_log_axis * rate for rate in radius.axis.by_rotation]
    if own.rotation and not own.truncations:
        rotation = [zero] * 6
    before = len(own.parameters) - len(rotation) - len(cut.by_own)
    return [*[zero] * before, *rotation, *cut.by_own]


def _nodes(profile: Distorted, placed: Placed, highest: float) -> _Core:
    """Return the nodes of the core, as many as its phases at the highest frequency need."""
    reach = T_MAX * placed.width * placed.frame.stretch  # along the major axis, pixels
    turns = min(float((reach.max() * highest).nan_to_num(0.0)), 400.0)
    mode = max((*profile.distortions.fourier, *profile.distortions.bending, 2))
    n_angles = 2 * math.ceil((ANGLES + 4 * mode + 1.3 * turns) / 2)
    n_radii = math.ceil(RADII + 0.5 * turns)
    y, weight = (
        torch.tensor(v, dtype=placed.size.dtype, device=placed.size.device)
        for v in np.polynomial.legendre.leggauss(n_radii)
    )
    y, weight = (y + 1) / 2, weight / 2
    rho = (T_MAX * y**3 * placed.width).mT  # (B, R, 1)
    ring = (T_MAX * 3 * y**2 * weight * placed.width).mT * rho * (2 * math.pi / n_angles)
    theta = torch.arange(n_angles, dtype=y.dtype, device=y.device) * (2 * math.pi / n_angles)
    dx, dy, factor = points_of(profile.distortions, placed, rho, theta)
    area = ring / factor**2
    if profile.distortions.rotation:
        area = area * torch.cos(torch.deg2rad(placed.values["rot_incl"]))
    return _Core(dx.flatten(1), dy.flatten(1), area.expand_as(dx).flatten(1))
