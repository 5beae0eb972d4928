"""One-dimensional priors as maps from a standard normal u, for many slots at once.

Each slot of the whitened vector has a family and five numbers. With Phi the normal distribution
function and Q its inverse the value is

    UNIFORM       a + b (2 Phi(u) - 1)
    NORMAL        a + b Q(c + d Phi(u))              truncated where c > 0 or c + d < 1
    LOG_UNIFORM   c ln(a + b (2 Phi(u) - 1))         uniform in exp of the coordinate, c = 1 or -1
    AXIS          -ln q of the ellipticity's prior whatever the angle; a, b = share of it used,
                  c, d, e = least axis ratio, core and scale

so that no bound is ever crossed and the prior of u is N(0, 1) throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from hybridfit.model.ellipticity import flattening_of, whitened_length
from hybridfit.model.prior import MAX_U

COLUMNS = 5  # numbers of each slot
INSIDE = 0.999  # of a uniform prior's half-width: the farthest that an initial value lies out
FARTHEST_U = 4.0  # of an initial value outside of a truncated prior


class Family(Enum):
    """How a slot of the whitened vector becomes a coordinate."""

    UNIFORM = "uniform"
    NORMAL = "normal"
    LOG_UNIFORM = "log-uniform"
    AXIS = "axis"


def values_of(family: Family, u: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return coordinates (B, P) and their derivatives by u (B, P).

    Args:
        family: of all P slots.
        u: (B, P) float64.
        numbers: (B, P, 5), see the module.
    """
    a, b, c, d, e = numbers.unbind(2)
    u = u.clamp(-MAX_U, MAX_U)
    if family is Family.NORMAL:
        z = torch.special.ndtri(c + d * torch.special.ndtr(u))
        return a + b * z, b * d * torch.exp(0.5 * (z**2 - u**2))
    if family is Family.AXIS:
        return _axis(u, a, b, (c, d, e))
    value = a + b * torch.erf(u / math.sqrt(2))
    slope = b * (math.sqrt(2 / math.pi) * torch.exp(-(u**2) / 2))
    if family is Family.UNIFORM:
        return value, slope
    return c * torch.log(value), c * slope / value


def whitened_of(family: Family, value: Tensor, numbers: Tensor) -> Tensor:
    """Return u (B, P) of coordinates (B, P); values outside the prior move to its edge."""
    a, b, c, d, e = numbers.unbind(2)
    if family is Family.NORMAL:
        share = (torch.special.ndtr((value - a) / b) - c) / d
        return torch.special.ndtri(share.clamp(0.0, 1.0)).clamp(-FARTHEST_U, FARTHEST_U)
    if family is Family.AXIS:
        return _whitened_axis(value, a, b, (c, d, e))
    if family is Family.LOG_UNIFORM:
        value = torch.exp(c * value)
    return math.sqrt(2) * torch.erfinv(((value - a) / b).clamp(-INSIDE, INSIDE))


def _axis(u: Tensor, a: Tensor, b: Tensor, law: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return -ln q and its slope: the length of a normal pair is Rayleigh's, 1 - exp(-s^2 / 2)."""
    share = a + b * torch.special.ndtr(u)
    length = torch.sqrt(-2 * torch.log1p(-share))
    density = torch.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    slope = b * density / ((1 - share) * length.clamp_min(1e-12))
    columns = []
    for k in range(u.shape[1]):
        columns.append(flattening_of(length[:, k], *(float(v[0, k]) for v in law)))
    value = torch.stack([v for v, _ in columns], dim=1)
    return value, slope * torch.stack([s for _, s in columns], dim=1)


def _whitened_axis(value: Tensor, a: Tensor, b: Tensor, law: Sequence[Tensor]) -> Tensor:
    columns = [
        whitened_length(value[:, k], *(float(v[0, k]) for v in law)) for k in range(value.shape[1])
    ]
    length = torch.stack(columns, dim=1)
    share = (-torch.expm1(-0.5 * length**2) - a) / b
    return torch.special.ndtri(share.clamp(0.0, 1.0)).clamp(-FARTHEST_U, FARTHEST_U)


def share_below(flattening: Tensor, law: Sequence[float]) -> Tensor:
    """Return the prior's probability of -ln q up to (B,), by least axis ratio, core and scale."""
    return -torch.expm1(-0.5 * whitened_length(flattening, *law) ** 2)
