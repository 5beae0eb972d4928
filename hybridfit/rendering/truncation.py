"""Truncation of a profile from inside or outside, by a hyperbolic tangent of the radius.

GALFIT's definition (Peng et al. 2010, section 5): with the break radius r_b, where 99 per cent of
the light is left, and the softening radius r_s, where 1 per cent is,

    T(r) = (1 + tanh((2 - B) r / r_b + B)) / 2,   B = 2.65 - 4.98 r_b / (r_b - r_s).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.profiles.base import Values
from hybridfit.model.profiles.distortions import Distortions, side_of


@dataclass(frozen=True)
class Truncation:
    """The share of the light that is left, and its derivatives.

    Args:
        share: of the shape of the radii.
        by_log_axis: by ln of the radius.
        by_own: by the value of each truncation parameter, in their order.
    """

    share: Tensor
    by_log_axis: Tensor
    by_own: list[Tensor]


def truncated(distortions: Distortions, values: Values, log_axis: Tensor) -> Truncation:
    """Return what all truncations of a component leave of its light.

    Args:
        distortions: of the component.
        values: of their parameters by name, broadcast against the radii.
        log_axis: ln of the elliptical radius along the major axis, pixels.
    """
    each = [_one(kind, values, torch.exp(log_axis)) for kind in distortions.truncations]
    share = torch.ones_like(log_axis)
    for one in each:
        share = share * one.share
    by_axis, by_own = torch.zeros_like(log_axis), []
    for k, one in enumerate(each):
        rest = torch.ones_like(log_axis)
        for other in each[:k] + each[k + 1 :]:
            rest = rest * other.share
        by_axis = by_axis + one.by_log_axis * rest
        by_own += [slope * rest for slope in one.by_own]
    return Truncation(share, by_axis, by_own)


def _one(kind: str, values: Values, axis: Tensor) -> Truncation:
    """Return one truncation at radii [pixels].

    With d = 1 where the light falls outwards of the break radius, and soft = |r_s - r_b|:
    B = 2.65 + d 4.98 r_b / soft. The reversed kinds are 1 - T of the other direction.
    """
    side = side_of(kind)
    edge, soft = values[f"{side}_break"], values[f"{side}_soft"]
    way = 1.0 if kind in ("outer", "inner_r") else -1.0
    sign = -1.0 if kind.endswith("_r") else 1.0
    b = 2.65 + way * 4.98 * edge / soft
    x = (2 - b) * axis / edge + b
    wave = torch.tanh(x)
    steep = 0.5 * sign * (1 - wave * wave)
    behind = 1 - axis / edge  # d x / d b
    by_edge = -(2 - b) * axis / edge**2 + behind * way * 4.98 / soft
    by_soft = -behind * way * 4.98 * edge / soft**2
    return Truncation(
        0.5 * (1 + sign * wave),
        steep * (2 - b) * axis / edge,
        [steep * by_edge, steep * by_soft],
    )
