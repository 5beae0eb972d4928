"""Rotation of coordinates by an angle that depends on the radius in an inclined disk: spiral arms.

GALFIT's definition (Peng et al. 2010, appendix A; its saved images were used to settle signs and
the constant of the bar): in the plane of the disk, at radius r,

    power   theta = theta_out T(r) ((r / r_out + 1) / 2)^alpha
    log     theta = theta_out T(r) ln(r / r_scale + 1) / ln(r_out / r_scale + 1)

    T(r) = (tanh(B (r / r_out - 1) + 2) + 1) / 2,   B = (2 - artanh A) r_out / (r_out - r_in),
    A = 2 C / (|theta_out| + C) - 1.00001,   C = 0.46 radian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hybridfit.model.profiles.base import Values

BAR = 0.46  # radian
LEAST_GAP = 1e-3  # of the outer radius, between both radii
DEGREE = math.pi / 180
CLOSE = 1e-6  # pixels from the centre, within which the light does not change
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Winding:
    """The angle of rotation [radian] at radii, and its derivatives.

    Args:
        kind: "power" or "log".
        r: radius in the plane of the disk, pixels.
        values: of the parameters by name, broadcast against ``r``.
    """

    kind: str
    r: Tensor
    values: Values

    @cached_property
    def out(self) -> Tensor:
        """The angle at the outer radius, radian."""
        return torch.deg2rad(self.values["rot_angle"])

    @cached_property
    def _gap(self) -> Tensor:
        outer = self.values["rot_out"]
        gap = outer - self.values["rot_in"]
        return torch.where(gap.abs() < LEAST_GAP * outer, LEAST_GAP * outer, gap)

    @cached_property
    def _bar(self) -> Tensor:
        """What the argument of the tanh has at the radius of the bar."""
        return (2 * BAR / (self.out.abs() + BAR) - 1.00001).clamp(-0.99999, 0.99999)

    @cached_property
    def _tanh(self) -> Tensor:
        steepness = (2 - torch.atanh(self._bar)) / self._gap
        return torch.tanh(steepness * (self.r - self.values["rot_out"]) + 2)

    @cached_property
    def _growth(self) -> Tensor:
        outer = self.values["rot_out"]
        if self.kind == "power":
            return torch.exp(self.values["rot_power"] * torch.log(0.5 * (self.r / outer + 1)))
        scale = self.values["rot_scale"]
        return torch.log1p(self.r / scale) / torch.log1p(outer / scale)

    @property
    def angle(self) -> Tensor:
        """The angle."""
        return self.out * 0.5 * (self._tanh + 1) * self._growth

    def slopes(self) -> tuple[Tensor, list[Tensor]]:
        """Return derivatives by r, and by rot_in, rot_out, rot_angle and the fourth parameter."""
        outer, gap = self.values["rot_out"], self._gap
        behind = self.r - outer
        depth = 2 - torch.atanh(self._bar)
        steep = 0.5 * self.out * self._growth * (1 - self._tanh**2)
        rise = 0.5 * self.out * (self._tanh + 1)
        by_bar = 2 * BAR / (self.out.abs() + BAR) ** 2 / (1 - self._bar**2) * torch.sign(self.out)
        growth_r, growth_out, growth_own = self._growth_slopes()
        return steep * depth / gap + rise * growth_r, [
            steep * depth * behind / gap**2,
            -steep * depth * (behind / gap + 1) / gap + rise * growth_out,
            DEGREE * (0.5 * (self._tanh + 1) * self._growth + steep * by_bar * behind / gap),
            rise * growth_own,
        ]

    def _growth_slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return derivatives of the growth beyond the tanh by r, rot_out and the fourth one."""
        outer, growth = self.values["rot_out"], self._growth
        if self.kind == "power":
            power, both = self.values["rot_power"], self.r + outer
            own = torch.log(0.5 * both / outer)
            return growth * power / both, growth * power * (1 / both - 1 / outer), growth * own
        scale = self.values["rot_scale"]
        whole = torch.log1p(outer / scale)
        moves = (t / (scale * (scale + t)) for t in (self.r, outer))
        inner, end = moves
        return (
            1 / ((scale + self.r) * whole),
            -growth / ((scale + outer) * whole),
            (growth * end - inner) / whole,
        )


def rotated(
    kind: str, dx: Tensor, dy: Tensor, values: Values, slopes: bool
) -> tuple[Pair, list[Pair]]:
    """Return coordinates without spiral and inclination, and their slopes by the six parameters.

    Args:
        kind: "power" or "log".
        dx, dy: offsets from the centre, pixels.
        values: of the parameters by name, broadcast against the offsets.
        slopes: whether to compute derivatives: by value, in the unit of each.
    """
    tilt, turn = (torch.deg2rad(values[name]) for name in ("rot_incl", "rot_pa"))
    u = -torch.cos(turn) * dx - torch.sin(turn) * dy
    across = torch.sin(turn) * dx - torch.cos(turn) * dy
    w = across / torch.cos(tilt)
    r = torch.sqrt(u * u + w * w).clamp_min(CLOSE)
    winding = Winding(kind, r, values)
    cos, sin = torch.cos(winding.angle), torch.sin(winding.angle)
    x, y = -u * cos - w * sin, u * sin - w * cos  # d x = y d theta, d y = -x d theta
    if not slopes:
        return (x, y), []
    by_r, by_own = winding.slopes()
    moves = [(y * by, -x * by) for by in by_own]
    for du, dw in ((torch.zeros_like(w), w * torch.tan(tilt)), (across, -u / torch.cos(tilt))):
        turned = by_r * (u * du + w * dw) / r
        move = (-du * cos - dw * sin + y * turned, du * sin - dw * cos - x * turned)
        moves.append((DEGREE * move[0], DEGREE * move[1]))
    return (x, y), moves


def unrotated(kind: str, x: Tensor, y: Tensor, values: Values) -> Pair:
    """Return the offsets from the centre of rotated coordinates: the inverse of `rotated`."""
    tilt, turn = (torch.deg2rad(values[name]) for name in ("rot_incl", "rot_pa"))
    r = torch.sqrt(x * x + y * y).clamp_min(CLOSE)
    angle = Winding(kind, r, values).angle
    cos, sin = torch.cos(angle), torch.sin(angle)
    u = -x * cos + y * sin
    w = (-x * sin - y * cos) * torch.cos(tilt)
    return -torch.cos(turn) * u + torch.sin(turn) * w, -torch.sin(turn) * u - torch.cos(turn) * w
