"""Coordinates along a component's axes, for profiles that are not functions of one radius.

``u`` runs along the major and ``v`` along the minor axis, stretched by sqrt(q) and 1 / sqrt(q), so
that areas are kept and sqrt(u^2 + v^2) is the circularised radius. Frequencies ``ku``, ``kv`` are
those of these coordinates: ku u + kv v = kx x + ky y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
# 2 |-ln q|, below which the derivative by eta across does not grow any more: the axes of a round
# component have no direction
ROUND = 1e-2


@dataclass(frozen=True)
class Frame:
    """The axes of B components and their derivatives by eta, each (B, 1, 1) or two of these.

    Args:
        cos, sin: of the position angle.
        angle: the position angle, radian in (-pi / 2, pi / 2].
        stretch: 1 / sqrt(q).
        log_slopes: d (-ln q) / d eta1, d eta2.
        angle_slopes: d pa / d eta1, d eta2, radian.
    """

    cos: Tensor
    sin: Tensor
    angle: Tensor
    stretch: Tensor
    log_slopes: Pair
    angle_slopes: Pair

    def pixels(self, dx: Tensor, dy: Tensor) -> Pair:
        """Return u, v of offsets from the centre, pixels."""
        u = (self.cos * dy - self.sin * dx) / self.stretch
        return u, (self.cos * dx + self.sin * dy) * self.stretch

    def pixel_slopes(self, u: Tensor, v: Tensor) -> list[Pair]:
        """Return d u, d v by eta1 and by eta2."""
        q = self.stretch**-2
        slopes = zip(self.log_slopes, self.angle_slopes, strict=True)
        return [(-0.5 * a * u - b * q * v, 0.5 * a * v + b / q * u) for a, b in slopes]

    def modes(self, kx: Tensor, ky: Tensor) -> Pair:
        """Return ku, kv of frequencies, radian / pix."""
        ku = (self.cos * ky - self.sin * kx) * self.stretch
        return ku, (self.cos * kx + self.sin * ky) / self.stretch

    def mode_slopes(self, ku: Tensor, kv: Tensor) -> list[Pair]:
        """Return d ku, d kv by eta1 and by eta2."""
        q = self.stretch**-2
        slopes = zip(self.log_slopes, self.angle_slopes, strict=True)
        return [(0.5 * a * ku - b / q * kv, -0.5 * a * kv + b * q * ku) for a, b in slopes]


def frame_of(eta: Tensor) -> Frame:
    """Return the axes of eta (B, 2)."""
    e1, e2 = eta[:, 0, None, None], eta[:, 1, None, None]
    g, double = torch.sqrt(e1**2 + e2**2), torch.atan2(e2, e1)
    across = 0.5 / g.clamp_min(ROUND)
    cos2, sin2 = torch.cos(double), torch.sin(double)
    return Frame(
        torch.cos(double / 2),
        torch.sin(double / 2),
        double / 2,
        torch.exp(g / 2),
        (cos2, sin2),
        (-sin2 * across, cos2 * across),
    )
