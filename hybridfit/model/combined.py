"""What a source of several components is as a whole: magnitude, size, shape, share of the bulge.

The axis ratio and the angle of the sum are those of the flux-weighted quadrupoles

    Q = sum_k F_k r_k^2 R(pa_k) diag(1, q_k^2) R(pa_k)^T,

and its r_eff is the major axis of the ellipse of that shape about the flux-weighted centre that
holds half of the light. What an ellipse holds of component k is, with u the position in the units
in which the component is round,

    1 / 2 pi  integral  L_k(|u|) dtheta_u

along the ellipse, where L_k(rho) is the share of its light within rho.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile, find_profile

N_ANGLES = 24  # of the integral along an ellipse
N_RADII, FIRST, LAST = 160, math.log(1e-4), math.log(1e3)  # table of the light within a radius
N_HALVINGS, N_SECANTS = 8, 5  # of the range of ln r_eff
SECANT = 1e-4  # step of ln r_eff
STEP = 1e-2  # of the finite differences, in units of each parameter's error
POINTS_AT_ONCE = 1024  # of the finite differences: bounds memory
LN10 = math.log(10)


def combined_names(space: ParameterSpace) -> tuple[str, ...]:
    """Return the names of `combined`; none for a single component, or for components without names.

    The components of several sources are no sum, nor is there one with light that has no end.
    """
    if not all(find_profile(c.profile).has_total_light for c in space.components):
        return ()
    one_source = len({component.source for component in space.components}) == 1
    if space.n_components == 1 or not all(_component_names(space)) or not one_source:
        return ()
    shares = ("bulge_to_total",) if "bulge" in _component_names(space) else ()
    return ("mag", "r_eff", "q", "pa", *shares)


@dataclass(frozen=True)
class CombinedParameters:
    """Names and kinds of what `combined` returns."""

    names: tuple[str, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The kind of each."""
        return self.names


def _component_names(space: ParameterSpace) -> list[str]:
    return [component.name for component in space.components]


def combined(theta: Tensor, space: ParameterSpace, near: Tensor | None = None) -> Tensor:
    """Return magnitude, r_eff, q, pa and share of the bulge of sums of components.

    Args:
        theta: (N, Q) float64 physical parameters in the order of ``space.names``; NaN gives NaN.
        space: of several components.
        near: (N,) r_eff of sums close by, from which one step of the secant method leads to r_eff.

    Returns:
        (N, D) in the order of `combined_names`; mag, pixels, none, degrees in [0, 180), none.
    """
    known = torch.isfinite(theta).all(dim=1)
    theta = torch.where(known[:, None], theta, 1.0)
    flux, x, y, size, q, angle = (_of_components(theta, space, name) for name in NUMBERS)
    total = flux.sum(dim=1, keepdim=True)
    share = flux / total
    mag = -2.5 * torch.log10(total[:, 0])
    shape_q, shape_angle = _quadrupole(share, size, q, angle)
    centre = torch.stack([(share * x).sum(dim=1), (share * y).sum(dim=1)], dim=1)
    each = [_light_table(theta, space, k) for k in range(space.n_components)]
    tables = torch.stack([torch.stack(pair, dim=1) for pair in each], dim=1)  # (N, K, 2, R)
    offset = torch.stack([centre[:, :1] - x, centre[:, 1:] - y], dim=2)  # (N, K, 2)
    excess = _excess_of(tables, share, offset, (size, q, angle), (shape_q, shape_angle))
    if near is None:
        radius = _half_light(excess, size)
    else:
        radius = _next_half_light(excess, torch.where(known, near, 1.0))
    columns = [mag, radius, shape_q, torch.rad2deg(shape_angle) % 180.0 % 180.0]
    names = _component_names(space)
    if "bulge" in names:
        columns.append(share[:, names.index("bulge")])
    return torch.where(known[:, None], torch.stack(columns, dim=1), torch.nan)


NUMBERS = ("mag", "x", "y", "r_eff", "q", "pa")


def _of_components(theta: Tensor, space: ParameterSpace, name: str) -> Tensor:
    """Return (N, K) fluxes at zero point 0, positions, sizes, axis ratios or angles [radian]."""
    columns = []
    for k, component in enumerate(space.components):
        if name in component.parameters:
            value = theta[:, space.column(k, name)]
        else:  # a point is round and has no size
            value = torch.full_like(theta[:, 0], {"r_eff": 0.0, "q": 1.0}.get(name, 0.0))
        columns.append(value)
    values = torch.stack(columns, dim=1)
    if name == "mag":
        return torch.exp(-0.4 * LN10 * values)
    return torch.deg2rad(values) if name == "pa" else values


def _quadrupole(share: Tensor, size: Tensor, q: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return axis ratio (N,) and angle (N,) [radian] of flux-weighted quadrupoles (N, K)."""
    square = share * size**2
    trace = (square * (1 + q**2)).sum(dim=1)
    spread = square * (1 - q**2)
    plus = (spread * torch.cos(2 * angle)).sum(dim=1)
    cross = (spread * torch.sin(2 * angle)).sum(dim=1)
    length = torch.hypot(plus, cross)
    ratio = (trace - length) / (trace + length).clamp_min(1e-300)
    shape = torch.where(trace > 0, ratio.clamp(0.0, 1.0).sqrt(), 1.0)
    return shape, 0.5 * torch.atan2(cross, plus)


def _light_table(theta: Tensor, space: ParameterSpace, k: int) -> tuple[Tensor, Tensor]:
    """Return the share (N, R) of a component's light within radii, and its slope by ln radius.

    Radii are in units of the component's size.
    """
    log_rho = torch.linspace(FIRST, LAST, N_RADII, dtype=theta.dtype, device=theta.device)
    component = space.components[k]
    if not component.is_ellipse:
        whole = torch.ones(len(theta), N_RADII, dtype=theta.dtype, device=theta.device)
        return whole, torch.zeros_like(whole)
    columns = [space.column(k, name) for name in component.shape]
    return light_within(find_profile(component.profile), log_rho, theta[:, columns])


def light_within(profile: Profile, log_rho: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share (N, R) of a profile's light within radii, and its slope by ln radius.

    By the trapezoidal rule with the correction for the slope at the end.

    Args:
        profile: of unit flux.
        log_rho: (R,) equally spaced, from far within the half-light radius to far beyond it.
        shape: (N, S) shape parameters.
    """
    rho = torch.exp(log_rho)
    value = profile.evaluate(rho.expand(len(shape), -1), *(v[:, None] for v in shape.unbind(1)))
    ring = 2 * math.pi * rho**2 * value  # by ln rho
    step = log_rho[1] - log_rho[0]
    inner = ring[:, :1] / 2  # where the brightness is constant
    steps = torch.cat([inner, (ring[:, 1:] + ring[:, :-1]) / 2 * step], dim=1)
    (curve,) = torch.gradient(ring, dim=1)  # by the step; Euler and Maclaurin's end correction
    return steps.cumsum(dim=1) - step / 12 * curve, ring


def _excess_of(
    tables: Tensor,
    share: Tensor,
    offset: Tensor,
    ellipses: tuple[Tensor, Tensor, Tensor],
    shape: tuple[Tensor, Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return what gives the share of the light within ellipses of ln major axis (N,), minus half.

    Args:
        tables: (N, K, 2, R) of `_light_table`.
        share: (N, K) of the flux.
        offset: (N, K, 2) of the ellipses' centre from each component's, pixels.
        ellipses: (N, K) size, axis ratio and angle of each component.
        shape: (N,) axis ratio and angle of the ellipses.
    """
    size, q, angle = ellipses
    phi = 2 * math.pi * torch.arange(N_ANGLES, dtype=size.dtype, device=size.device) / N_ANGLES
    along, across = torch.cos(phi), shape[0][:, None] * torch.sin(phi)  # (J,), (N, J)
    by_along, by_across = -torch.sin(phi), shape[0][:, None] * torch.cos(phi)
    unit = _turned(along.expand_as(across), across, shape[1])  # (N, J, 2) of a unit ellipse
    moving = _turned(by_along.expand_as(across), by_across, shape[1])
    r_circ = (size * q.sqrt()).clamp_min(1e-9)
    to_round = [_rounded(v, q, angle, r_circ) for v in (unit, moving)]  # (N, K, J, 2) each
    fixed = _rounded(offset[:, :, None], q, angle, r_circ)  # (N, K, 1, 2)
    return lambda log_axis: _held(log_axis, tables, share, fixed, to_round) - 0.5


def _half_light(excess: Callable[[Tensor], Tensor], size: Tensor) -> Tensor:
    """Return the major axis (N,) of ellipses that hold half of the light.

    Args:
        excess: of `_excess_of`.
        size: (N, K) of each component.
    """
    low = torch.log(size.amax(dim=1).clamp_min(1e-3)) - 6.0
    high = low + 8.0
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        above = excess(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    below, beyond = excess(low), excess(high)
    for _ in range(N_SECANTS):  # the result shall be smooth, for its derivatives
        rise = (beyond - below).clamp_min(1e-15)
        middle = low - below * (high - low) / rise
        value = excess(middle)
        above = value > 0
        low, below = torch.where(above, low, middle), torch.where(above, below, value)
        high, beyond = torch.where(above, middle, high), torch.where(above, value, beyond)
    return torch.exp(middle)


def _next_half_light(excess: Callable[[Tensor], Tensor], near: Tensor) -> Tensor:
    """Return the major axes (N,) after a step of the secant method from ``near`` (N,)."""
    start = torch.log(near)
    here, beside = excess(start), excess(start + SECANT)
    return torch.exp(start - SECANT * here / (beside - here).clamp_min(1e-15))


def _turned(along: Tensor, across: Tensor, angle: Tensor) -> Tensor:
    """Return x, y (N, J, 2) of distances along and across a major axis at ``angle`` (N,)."""
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    # position angles count from +y towards -x
    return torch.stack([-sin * along + cos * across, cos * along + sin * across], dim=2)


def _rounded(vectors: Tensor, q: Tensor, angle: Tensor, r_circ: Tensor) -> Tensor:
    """Return vectors (N, J, 2) or (N, K, J, 2) in units in which components (N, K) are round."""
    if vectors.ndim == 3:
        vectors = vectors[:, None]
    cos, sin = torch.cos(angle)[:, :, None], torch.sin(angle)[:, :, None]
    along = -sin * vectors[..., 0] + cos * vectors[..., 1]
    across = cos * vectors[..., 0] + sin * vectors[..., 1]
    root, unit = q.sqrt()[:, :, None], r_circ[:, :, None]
    return torch.stack([along * root / unit, across / root / unit], dim=-1)


def _held(
    log_axis: Tensor, tables: Tensor, share: Tensor, fixed: Tensor, to_round: Sequence[Tensor]
) -> Tensor:
    """Return the share (N,) of the light within ellipses of major axis exp(log_axis) (N,)."""
    axis = torch.exp(log_axis)[:, None, None, None]
    u, slope = fixed + axis * to_round[0], axis * to_round[1]
    square = (u**2).sum(dim=-1).clamp_min(1e-300)  # (N, K, J)
    turn = (u[..., 0] * slope[..., 1] - u[..., 1] * slope[..., 0]) / square
    position = (0.5 * torch.log(square) - FIRST) * ((N_RADII - 1) / (LAST - FIRST))
    position = position.nan_to_num(0.0).clamp(0, N_RADII - 1.001)  # absurd fluxes have no share
    index = position.long()
    light = _between(tables, index, position - index)
    # the components' frame is turned the other way round: its angle falls where ours rises
    held = (light * turn).mean(dim=2).abs()
    return (share * held).sum(dim=1)


def _between(tables: Tensor, index: Tensor, t: Tensor) -> Tensor:
    """Return cubic Hermite interpolations (N, K, J) of tables (N, K, 2, R) and their slopes."""
    step = (LAST - FIRST) / (N_RADII - 1)
    value, slope = tables.unbind(2)
    f0, f1 = value.gather(2, index), value.gather(2, index + 1)
    d0, d1 = step * slope.gather(2, index), step * slope.gather(2, index + 1)
    square, cube = 3 * (f1 - f0) - 2 * d0 - d1, d0 + d1 - 2 * (f1 - f0)
    return f0 + t * (d0 + t * (square + t * cube))


def combined_errors(theta: Tensor, covariance: Tensor, space: ParameterSpace) -> Tensor:
    """Return the standard deviations (B, D) of `combined`, by the curvature.

    Args:
        theta: (B, Q) best values.
        covariance: (B, Q, Q) of them.
        space: of several components.
    """
    sigma = torch.diagonal(covariance, dim1=1, dim2=2).clamp_min(0).sqrt().nan_to_num(0.0)
    batch, count = theta.shape
    radius = combined(theta, space)[:, list(combined_names(space)).index("r_eff")]
    jacobian = theta.new_zeros(batch, len(combined_names(space)), count)
    varied = (sigma > 0).any(dim=0).nonzero()[:, 0]
    for columns in varied.split(max(1, POINTS_AT_ONCE // max(batch, 1))):
        jacobian[:, :, columns] = _slopes(theta, sigma, radius, columns, space)
    variance = torch.einsum("bdi,bij,bdj->bd", jacobian, covariance, jacobian)
    return torch.where(variance >= 0, variance, torch.nan).sqrt()


def _slopes(
    theta: Tensor, sigma: Tensor, radius: Tensor, columns: Tensor, space: ParameterSpace
) -> Tensor:
    """Return derivatives (B, D, J) of `combined` by J of the parameters, by central differences.

    Args:
        theta, sigma: (B, Q) values and standard deviations.
        radius: (B,) r_eff of the sums.
        columns: (J,) of the parameters.
        space: of several components.
    """
    size = (STEP * sigma[:, columns]).clamp_min(1e-9)  # (B, J)
    step = torch.zeros(*size.shape, theta.shape[1]).to(theta)
    step[:, torch.arange(len(columns), device=columns.device), columns] = size
    points = torch.stack([theta[:, None] + step, theta[:, None] - step])  # (2, B, J, Q)
    near = radius[:, None].expand(points.shape[:3]).flatten()
    ahead, behind = combined(points.flatten(0, 2), space, near).view(*points.shape[:3], -1)
    change = ahead - behind
    pa = list(combined_names(space)).index("pa")
    change[..., pa] = (change[..., pa] + 90.0) % 180.0 - 90.0
    return (change / (2 * size[:, :, None])).mT
