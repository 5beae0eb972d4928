"""The one map of distorted isophotes: from offsets on the sky to the radius of a profile, and back.

    sky --spiral, inclination--> plane --axes--> (u, v) --bending--> (u, v') --modes--> radius

``u`` and ``v`` are circularised, see `hybridfit.rendering.frame`. Every step but the last has an
inverse in closed form, and keeps areas, up to the inclination.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.profiles.base import Values
from hybridfit.model.profiles.distorted import LEAST_FACTOR, fourier_factor
from hybridfit.model.profiles.distortions import Distortions
from hybridfit.rendering.frame import Frame
from hybridfit.rendering.spiral import rotated, unrotated

N_AREA = 360  # angles of the integral of the area
SMALLEST = 1e-4  # pixels from an axis, within which the light does not change
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Placed:
    """Where a component lies.

    Args:
        frame: of its axes.
        size, width: of the component and its core's window, (B, 1, 1), circularised pixels.
        values: of the distortions' parameters by name, (B, 1, 1) each.
    """

    frame: Frame
    size: Tensor
    width: Tensor
    values: Values


@dataclass(frozen=True)
class Radius:
    """ln of the squared radius in circularised pixels, and its derivatives at fixed offsets.

    Args:
        log_r2: of the shape of the offsets.
        by_size: by ln size.
        by_own: by the value of each of the distortions' parameters.
        by_eta: by eta1 and eta2.
        axis: of the radius of truncations.
    """

    log_r2: Tensor
    by_size: Tensor
    by_own: list[Tensor]
    by_eta: list[Tensor]
    axis: Axis


@dataclass(frozen=True)
class Axis:
    """ln of the elliptical radius along the major axis, pixels, without bending and modes.

    Args:
        log: of the shape of the offsets.
        by_rotation: by the value of each of the rotation's parameters.
        by_eta: by eta1 and eta2.
    """

    log: Tensor
    by_rotation: list[Tensor]
    by_eta: list[Tensor]


def distorted_radius(
    distortions: Distortions, placed: Placed, dx: Tensor, dy: Tensor, jacobian: bool
) -> Radius:
    """Return the radius at offsets from the centre [pixels]; its derivatives only if asked for."""
    moves: list[Pair] = []
    if distortions.rotation:
        (dx, dy), moves = rotated(distortions.rotation, dx, dy, placed.values, jacobian)
    frame = placed.frame
    u, v = frame.pixels(dx, dy)
    power = _powers(distortions, placed, u)
    bent = v - sum((placed.values[f"b{m}"] * p for m, p in power.items()), torch.zeros_like(v))
    modes = _Modes(distortions, placed, u, bent)
    axis = _axis_of(frame, u, v, moves) if distortions.truncations else Axis(u, [], [])
    if not jacobian:
        return Radius(modes.log_r2, modes.log_r2, [], [], axis)
    by_u, by_bent, turning, by_modes = modes.slopes()
    by_size = torch.zeros_like(u)
    by_v, by_stretch, along = by_bent, torch.zeros_like(u), by_u
    by_bends = []
    for m, p in power.items():
        amount = placed.values[f"b{m}"] * p
        by_bends.append(-by_bent * p)
        by_size = by_size + by_bent * m * amount
        by_stretch = by_stretch - by_bent * amount
        steep = frame.stretch * m * (-u / placed.size) ** (m - 1) / placed.size
        along = along + by_bent * placed.values[f"b{m}"] * steep
    by_rotation = []
    for move_x, move_y in moves:
        du, dv = frame.pixels(move_x, move_y)
        by_rotation.append(along * du + by_v * dv)
    by_eta = [
        along * du + by_v * dv + 0.5 * rate * by_stretch + turn * turning
        for (du, dv), rate, turn in zip(
            frame.pixel_slopes(u, v), frame.log_slopes, frame.angle_slopes, strict=True
        )
    ]
    none = [torch.zeros_like(u)] * (2 * len(distortions.truncations))
    by_own = [*by_modes, *by_bends, *by_rotation, *none]
    return Radius(modes.log_r2, by_size, by_own, by_eta, axis)


def _axis_of(frame: Frame, u: Tensor, v: Tensor, moves: list[Pair]) -> Axis:
    """Return the radius of truncations at (u, v), and its derivatives."""
    r2 = (u * u + v * v).clamp_min(SMALLEST**2)
    steps = [frame.pixels(*move) for move in moves]
    by_eta = [
        (u * du + v * dv) / r2 + 0.5 * rate
        for (du, dv), rate in zip(frame.pixel_slopes(u, v), frame.log_slopes, strict=True)
    ]
    by_rotation = [(u * du + v * dv) / r2 for du, dv in steps]
    return Axis(0.5 * torch.log(r2) + torch.log(frame.stretch), by_rotation, by_eta)


@dataclass(frozen=True)
class Area:
    """ln of the area of an isophote over that of an ellipse of its radius, and its derivatives.

    Args:
        log_area: (B, 1, 1).
        by_own: by the value of each of the distortions' parameters.
        by_eta: by eta1 and eta2.
    """

    log_area: Tensor
    by_own: list[Tensor]
    by_eta: list[Tensor]


def area_of(distortions: Distortions, placed: Placed) -> Area:
    """Return the area of a component's isophotes; bending and rotation do not change it."""
    theta = torch.arange(N_AREA, dtype=placed.size.dtype, device=placed.size.device) + 0.5
    theta = (theta * (2 * math.pi / N_AREA)).expand(len(placed.size), 1, -1)
    modes = _Modes(distortions, placed, -torch.cos(theta), torch.sin(theta))
    share = torch.exp(-modes.log_r2)
    total = share.mean(dim=2, keepdim=True)
    _, _, turning, by_modes = modes.slopes()
    by_own = [-(share * by).mean(dim=2, keepdim=True) / total for by in by_modes]
    by_own += [torch.zeros_like(total)] * len(distortions.bending)
    by_angle = -(share * turning).mean(dim=2, keepdim=True) / total
    log_area = torch.log(total)
    if distortions.rotation:
        tilt = torch.deg2rad(placed.values["rot_incl"])
        log_area = log_area + torch.log(torch.cos(tilt))
        by_own += [torch.zeros_like(total)] * 4
        by_own += [-torch.tan(tilt) * (math.pi / 180), torch.zeros_like(total)]
    by_own += [torch.zeros_like(total)] * (2 * len(distortions.truncations))
    return Area(log_area, by_own, [by_angle * turn for turn in placed.frame.angle_slopes])


def points_of(
    distortions: Distortions, placed: Placed, rho: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets on the sky of polar coordinates, and the factor of the radius.

    Args:
        distortions, placed: of the component.
        rho: (B, R, 1) distorted radii, circularised pixels.
        theta: (J,) angles, radian, from the end of the major axis opposite to its angle.

    Returns:
        dx, dy and factor, (B, R, J) each or (B, 1, J).
    """
    factor = fourier_factor(theta + placed.frame.angle, distortions, placed.values)
    cos, sin = torch.cos(theta), torch.sin(theta)
    if distortions.boxy:
        c = placed.values["c0"] + 2
        both = (torch.log(t.abs().clamp_min(1e-7)) for t in (cos, sin))
        factor = factor * torch.exp(torch.logaddexp(*(c * t for t in both)) / c)
    u, bent = -rho / factor * cos, rho / factor * sin
    power = _powers(distortions, placed, u)
    v = bent + sum((placed.values[f"b{m}"] * p for m, p in power.items()), torch.zeros_like(u))
    frame = placed.frame
    along, across = u * frame.stretch, v / frame.stretch
    x, y = frame.cos * across - frame.sin * along, frame.sin * across + frame.cos * along
    if distortions.rotation:
        x, y = unrotated(distortions.rotation, x, y, placed.values)
    return x, y, factor


def _powers(distortions: Distortions, placed: Placed, u: Tensor) -> dict[int, Tensor]:
    """Return what v moves by per unit amplitude of each bending mode."""
    ratio = -u / placed.size
    return {m: placed.frame.stretch * ratio**m for m in distortions.bending}


def _apart(u: Tensor) -> Tensor:
    """Keep a coordinate away from 0."""
    return torch.where(u.abs() < SMALLEST, SMALLEST, u)


class _Modes:
    """The radius of (u, v) with boxiness and Fourier modes.

    Args:
        distortions, placed: of the component.
        u, v: circularised pixels, along and across.
    """

    def __init__(self, distortions: Distortions, placed: Placed, u: Tensor, v: Tensor) -> None:
        self.distortions, self.values = distortions, placed.values
        self.u, self.v = _apart(u), _apart(v)
        self.theta = torch.atan2(self.v, -self.u) + placed.frame.angle
        self.factor = fourier_factor(self.theta, distortions, self.values)
        if distortions.boxy:
            self.c = self.values["c0"] + 2
            self.logs = torch.log(self.u.abs()), torch.log(self.v.abs())
            self.plain = 2 / self.c * torch.logaddexp(*(self.c * t for t in self.logs))
        else:
            self.plain = torch.log(self.u**2 + self.v**2)
        self.log_r2 = self.plain + 2 * torch.log(self.factor)

    def slopes(self) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return derivatives of ln r^2 by u, v, the angle, and the parameters of both."""
        u, v = self.u, self.v
        r2 = u**2 + v**2
        by_own = []
        if self.distortions.boxy:
            share = torch.sigmoid(self.c * (self.logs[0] - self.logs[1]))
            by_u, by_v = 2 * share / u, 2 * (1 - share) / v
            mean = share * self.logs[0] + (1 - share) * self.logs[1]
            by_own.append((2 * mean - self.plain) / self.c)
        else:
            by_u, by_v = 2 * u / r2, 2 * v / r2
        turning, by_modes = self._fourier_slopes()
        by_u, by_v = by_u + turning * v / r2, by_v - turning * u / r2
        return by_u, by_v, turning, [*by_own, *by_modes]

    def _fourier_slopes(self) -> tuple[Tensor, list[Tensor]]:
        """Return derivatives of ln r^2 by the angle, and by each amplitude and phase."""
        turning, by_modes = torch.zeros_like(self.u), []
        signed = torch.ones_like(self.u)
        for m in self.distortions.fourier:
            amplitude, phase = self._mode(m)
            signed = signed + amplitude * torch.cos(m * (self.theta - phase))
        # 2 d ln |factor|; 0 where the factor is at its least
        rate = torch.where(signed.abs() > LEAST_FACTOR, 2 * torch.sign(signed) / self.factor, 0.0)
        for m in self.distortions.fourier:
            amplitude, phase = self._mode(m)
            angle = m * (self.theta - phase)
            steep = amplitude * m * torch.sin(angle) * rate
            turning = turning - steep
            by_modes += [torch.cos(angle) * rate, steep * (math.pi / 180)]
        return turning, by_modes

    def _mode(self, m: int) -> Pair:
        return self.values[f"f{m}_amp"], torch.deg2rad(self.values[f"f{m}_phase"])
