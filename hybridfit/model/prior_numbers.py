"""The numbers of free slots' priors where the user gives a prior or bounds.

The slots' terms are pixels for positions, 2 pa in radians, ln flux for magnitudes, and the
logarithm of sizes and shapes; of an axis ratio it is -ln q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.distributions import Family, share_below
from hybridfit.model.prior import Distribution, LogNormal, Normal, Uniform
from hybridfit.model.profiles import ShapeParameter

LN10 = math.log(10)
LEAST_SHARE = 1e-9  # of a prior between its bounds


def user_numbers(
    prior: Distribution | None,
    kind: str,
    default: Tensor,
    zeropoint: Tensor,
    shape: ShapeParameter | None = None,
) -> Tensor:
    """Return the numbers (B, 5) of a prior that the user gives.

    Args:
        prior: the user's.
        kind: of the parameter: "x", "q", "n"...
        default: (B, 5) the numbers without it.
        zeropoint: (B,) mag.
        shape: of a shape parameter; None for others.
    """
    if prior is None:
        return default
    if shape is not None and shape.is_linear:
        kind = "x"  # which is its own coordinate, too
    if isinstance(prior, Uniform):
        if kind in ("x", "y", "pa", "mag"):
            ends = in_slot_terms(torch.tensor([prior.low, prior.high]).to(default), kind, zeropoint)
            return interval(ends.amin(dim=1), ends.amax(dim=1))
        sign = -1.0 if kind == "q" else 1.0
        middle, half = (prior.low + prior.high) / 2, (prior.high - prior.low) / 2
        return default.new_tensor([middle, half, sign, 0.0, 0.0]).expand_as(default)
    if isinstance(prior, LogNormal):
        mu, sigma, low, span = prior.numbers
        if kind == "q":  # of -ln q
            mu, low = -mu, 1 - low - span
        return default.new_tensor([mu, sigma, low, span, 0.0]).expand_as(default)
    return _normal_numbers(prior, kind, default, zeropoint)


def _normal_numbers(prior: Normal, kind: str, default: Tensor, zeropoint: Tensor) -> Tensor:
    """Return the numbers of a normal prior of a position, angle or magnitude."""
    unit = {"pa": math.pi / 90, "mag": 0.4 * LN10}.get(kind, 1.0)
    mean = in_slot_terms(torch.tensor([prior.mean]).to(default), kind, zeropoint)[:, 0]
    low, high = ((v - prior.mean) / prior.sigma for v in (prior.low, prior.high))
    if kind == "mag":
        low, high = -high, -low
    cut = torch.special.ndtr(default.new_tensor([low, high]))
    numbers = torch.stack([mean, *(torch.zeros_like(mean) for _ in range(4))], dim=1)
    numbers[:, 1] = unit * prior.sigma
    numbers[:, 2], numbers[:, 3] = cut[0], cut[1] - cut[0]
    return numbers


def in_slot_terms(
    values: Tensor, kind: str, zeropoint: Tensor, shape: ShapeParameter | None = None
) -> Tensor:
    """Return values (n,) or (B, n) of a parameter in its slot's terms, (B, n).

    Args:
        values: physical ones.
        kind: of the parameter.
        zeropoint: (B,) mag.
        shape: of a shape parameter; None for others.
    """
    if kind == "mag":
        return 0.4 * LN10 * (zeropoint[:, None] - values)
    values = values.expand(len(zeropoint), -1)
    if kind in ("x", "y"):
        return values
    if kind == "pa":
        return torch.deg2rad(2 * values)
    if shape is not None and shape.is_linear:
        return values
    if shape is not None:
        infinite = torch.where(values * shape.sign > 0, torch.inf, -torch.inf).to(values)
        return torch.where(torch.isinf(values), infinite, shape.coordinate(values))
    return -torch.log(values) if kind == "q" else torch.log(values.clamp_min(0))


def bounded_numbers(
    family: Family | None,
    kind: str,
    numbers: Tensor,
    limits: tuple[Tensor, Tensor],
    zeropoint: Tensor,
    shape: ShapeParameter | None = None,
) -> Tensor:
    """Return the numbers (B, 5) of a prior that ends at bounds.

    Args:
        family: of the slot.
        kind: of the parameter.
        numbers: (B, 5) of the prior without bounds.
        limits: (B,) bounds of the physical parameter; infinite where there are none.
        zeropoint: (B,) mag.
        shape: of a shape parameter; None for others.
    """
    low, high = limits
    if not (torch.isfinite(low) | torch.isfinite(high)).any():
        return numbers
    ends = in_slot_terms(torch.stack([low, high], dim=1), kind, zeropoint, shape)
    first, last = ends.amin(dim=1), ends.amax(dim=1)
    if family is Family.UNIFORM:
        return interval(
            *_overlap(numbers[:, 0] - numbers[:, 1], numbers[:, 0] + numbers[:, 1], first, last)
        )
    if family is Family.NORMAL:
        return _cut_normal(numbers, first, last)
    if family is Family.AXIS:
        return _cut_axis(numbers, first, last)
    sign = numbers[:, 2]
    inner = torch.exp(sign[:, None] * torch.stack([first, last], dim=1))
    own = (numbers[:, 0] - numbers[:, 1], numbers[:, 0] + numbers[:, 1])
    result = interval(*_overlap(*own, inner.amin(dim=1), inner.amax(dim=1)))
    result[:, 2] = sign
    return result


def _overlap(a: Tensor, b: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return where [a, b] and [low, high] overlap; [low, high] where they do not."""
    first, last = torch.maximum(a, low), torch.minimum(b, high)
    apart = ~(first < last)
    return torch.where(apart, low, first), torch.where(apart, high, last)


def interval(low: Tensor, high: Tensor) -> Tensor:
    """Return the numbers (B, 5) of a uniform prior between ends (B,)."""
    zero = torch.zeros_like(low)
    return torch.stack([(low + high) / 2, (high - low) / 2, zero, zero, zero], dim=1)


def _cut_normal(numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Cut a normal prior; one whose middle lies outside is moved to the nearer bound."""
    mean, sigma, first, span, _ = numbers.unbind(1)
    mean = torch.minimum(torch.maximum(mean, low), high)
    begin = torch.maximum(torch.special.ndtr((low - mean) / sigma), first)
    end = torch.minimum(torch.special.ndtr((high - mean) / sigma), first + span)
    span = (end - begin).clamp_min(LEAST_SHARE)
    return torch.stack([mean, sigma, begin, span, torch.zeros_like(mean)], dim=1)


def _cut_axis(numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
    law = numbers[0, 2:].tolist()
    begin = share_below(low.clamp_min(0), law)
    end = share_below(torch.nan_to_num(high, posinf=1e3), law)
    end = torch.where(torch.isfinite(high), end, 1.0)
    cut = numbers.clone()
    cut[:, 0], cut[:, 1] = begin, (end - begin).clamp_min(LEAST_SHARE)
    return cut
