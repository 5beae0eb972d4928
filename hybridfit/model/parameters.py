"""Parameters: names, units, and conversion between physical, render and whitened coordinates.

The fitter moves in *whitened* coordinates ``u`` in which the prior is N(0, I): no bound is ever
crossed, no angle wraps and the prior's gradient is ``u`` itself. Position angle and axis ratio
become the pair ``eta = -ln q (cos 2 pa, sin 2 pa)``, smooth where a galaxy is round, and size is
the circularised radius ``r_eff sqrt(q)``, which unlike ``r_eff`` has no kink there. Flux and sky
are linear in the model, carry a flat prior, and are solved for exactly, so they have no whitened
coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from hybridfit.model.prior import MAX_U, LogNormal, Prior
from hybridfit.options.checks import check_choice, check_fields


@dataclass(frozen=True)
class Parameter:
    """Name, unit and meaning of one physical parameter."""

    name: str
    unit: str
    description: str


PARAMETERS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("x", "pix", "centre along the first axis; the first pixel's centre is 0"),
        Parameter("y", "pix", "centre along the second axis; the first pixel's centre is 0"),
        Parameter("mag", "mag", "total magnitude of the profile, integrated to infinity"),
        Parameter("r_eff", "pix", "half-light radius along the major axis"),
        Parameter("n", "", "Sersic index"),
        Parameter("q", "", "axis ratio b/a"),
        Parameter("pa", "deg", "position angle from +y towards -x, in [0, 180)"),
        Parameter("sky", "", "sky level at the centre of the cutout, flux per pixel"),
        Parameter("sky_dx", "", "sky gradient along the first axis, flux per pixel per pixel"),
        Parameter("sky_dy", "", "sky gradient along the second axis, flux per pixel per pixel"),
    )
}


@dataclass(frozen=True)
class ParameterSpace:
    """Conversion between whitened, render and physical coordinates of a list of components.

    Whitened and render coordinates have, for each component, a column for x, y, the size, each
    shape parameter and the two ellipticities. The prior of whitened coordinates is N(0, I).
    Render coordinates (``coords``) are the renderer's input: x, y, ln r_circ, ln shape...,
    eta1, eta2. Physical parameters (``theta``) are what the user sees: x, y, mag, r_eff,
    shape..., q, pa for each component (with the suffix ``_1``, ``_2`` if there are several),
    then the sky.

    Args:
        shapes: names of each component's shape parameters, e.g. ``(("n",),)``.
        sky: "fixed", "constant" or "plane".
        prior: see `Prior`.
    """

    shapes: tuple[tuple[str, ...], ...] = (("n",),)
    sky: str = "constant"
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("sky", self.sky, tuple(SKY_NAMES))
        for name in {name for shape in self.shapes for name in shape}:
            self.prior.of(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Physical names, in the order of ``Fit.theta``; a fixed sky is reported too."""
        several = len(self.shapes) > 1
        names = [
            f"{name}_{k}" if several else name
            for k, shape in enumerate(self.shapes, start=1)
            for name in ("x", "y", "mag", "r_eff", *shape, "q", "pa")
        ]
        return (*names, *(SKY_NAMES[self.sky] or ("sky",)))

    @property
    def roles(self) -> tuple[str, ...]:
        """The kind of each of `names`; shape parameters of any name are "shape"."""
        own = [("x", "y", "mag", "r_eff", *("shape",) * len(s), "q", "pa") for s in self.shapes]
        roles = [role for component in own for role in component]
        return (*roles, *("sky",) * (len(self.names) - len(roles)))

    @property
    def n_sky(self) -> int:
        """Number of sky terms that are fitted: 0 if it is fixed, 1, or 3 with its slopes."""
        return len(SKY_NAMES[self.sky])

    @property
    def n_nonlinear(self) -> int:
        """Number of non-linear parameters."""
        return sum(5 + len(shape) for shape in self.shapes)

    @property
    def n_linear(self) -> int:
        """Number of linear parameters: a flux for each component, and the sky."""
        return len(self.shapes) + self.n_sky

    def slices(self) -> list[slice]:
        """Columns of each component in whitened and render coordinates."""
        edges = [0]
        for shape in self.shapes:
            edges.append(edges[-1] + 5 + len(shape))
        return [slice(a, b) for a, b in pairwise(edges)]

    def _components(self, position_bounds: Tensor) -> list[tuple[slice, tuple[str, ...], Tensor]]:
        """Return columns, shape parameter names and position bounds (B, 4) of each component."""
        bounds = (
            position_bounds.unbind(1)
            if position_bounds.ndim == 3
            else (position_bounds,) * len(self.shapes)
        )
        return list(zip(self.slices(), self.shapes, bounds, strict=True))

    def _size_and_shapes(self, shape: tuple[str, ...]) -> list[LogNormal]:
        return [self.prior.r_circ, *(self.prior.of(name) for name in shape)]

    def from_whitened(self, whitened: Tensor, position_bounds: Tensor) -> tuple[Tensor, Tensor]:
        """Return render coordinates and their derivatives by the whitened ones.

        Args:
            whitened: (B, P) float64.
            position_bounds: (B, 4) float64: centre x, y and half-widths of the position's prior,
                pixels; or (B, K, 4), one for each component.

        Returns:
            coords (B, P) and d coords / d whitened (B, P, P).
        """
        coords = torch.empty_like(whitened)
        jacobian = torch.zeros(
            *whitened.shape, whitened.shape[-1], dtype=whitened.dtype, device=whitened.device
        )
        for columns, shape, own in self._components(position_bounds):
            i = columns.start
            for axis in (0, 1):
                u = whitened[:, i + axis].clamp(-MAX_U, MAX_U)
                coords[:, i + axis] = own[:, axis] + own[:, 2 + axis] * torch.erf(u / math.sqrt(2))
                slope = math.sqrt(2 / math.pi) * torch.exp(-(u**2) / 2)
                jacobian[:, i + axis, i + axis] = own[:, 2 + axis] * slope
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                coords[:, j], jacobian[:, j, j] = prior.log_value(whitened[:, j])
            e = slice(columns.stop - 2, columns.stop)
            coords[:, e], jacobian[:, e, e] = _eta(whitened[:, e], self.prior)
        return coords, jacobian

    def log_volume(self, whitened: Tensor, position_bounds: Tensor | None = None) -> Tensor:
        """Return ln |det d coords / d whitened| (B,), without the matrices of `from_whitened`.

        Args:
            whitened: (B, P) float64.
            position_bounds: as for `from_whitened`; without it positions are ignored.
        """
        bounds = torch.ones_like(whitened[:, :4]) if position_bounds is None else position_bounds
        value = torch.zeros_like(whitened[:, 0])
        for columns, shape, own in self._components(bounds):
            i = columns.start
            if position_bounds is not None:
                u = whitened[:, i : i + 2].clamp(-MAX_U, MAX_U)
                value += math.log(2 / math.pi) - 0.5 * u.square().sum(dim=1)
                value += torch.log(own[:, 2] * own[:, 3])
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                value += torch.log(prior.log_value(whitened[:, j])[1])
            pair = whitened[:, columns.stop - 2 : columns.stop]
            across, along, _ = _stretch(pair, self.prior)
            value += torch.log(across * along)
        return value

    def to_whitened(self, coords: Tensor, position_bounds: Tensor) -> Tensor:
        """Return whitened from render coordinates; values outside the prior move to its edge."""
        whitened = torch.empty_like(coords)
        for columns, shape, own in self._components(position_bounds):
            i = columns.start
            for axis in (0, 1):
                fraction = (coords[:, i + axis] - own[:, axis]) / own[:, 2 + axis]
                whitened[:, i + axis] = math.sqrt(2) * torch.erfinv(fraction.clamp(-0.999, 0.999))
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                whitened[:, j] = prior.whitened(coords[:, j])
            e = slice(columns.stop - 2, columns.stop)
            whitened[:, e] = _eta_inverse(coords[:, e], self.prior)
        return whitened

    def to_physical(
        self, coords: Tensor, linear: Tensor, zeropoint: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return physical parameters and their derivatives by render and linear coordinates.

        Args:
            coords: (B, P).
            linear: (B, L) flux of each component, then the sky terms (one constant if fixed).
            zeropoint: (B,) magnitudes.

        Returns:
            theta (B, Q) with Q = P + L, and d theta / d (coords, linear) (B, Q, Q).
        """
        n_nonlinear = coords.shape[1]
        total = n_nonlinear + linear.shape[1]
        theta = torch.empty(len(coords), total, dtype=coords.dtype, device=coords.device)
        jacobian = torch.zeros(len(coords), total, total, dtype=coords.dtype, device=coords.device)
        row = 0
        for k, columns in enumerate(self.slices()):
            flux, last = linear[:, k], row + columns.stop - columns.start
            theta[:, row + 2] = zeropoint - 2.5 * torch.log10(flux)
            jacobian[:, row + 2, n_nonlinear + k] = -2.5 / math.log(10) / flux
            own = slice(row, last + 1)  # with the magnitude, which is linear's
            _fill_physical(theta[:, own], jacobian[:, own, columns], coords[:, columns])
            row = last + 1
        n_sky = total - row
        theta[:, row:] = linear[:, len(self.shapes) :]
        for j in range(n_sky):
            jacobian[:, row + j, n_nonlinear + len(self.shapes) + j] = 1.0
        return theta, jacobian

    def from_physical(self, theta: Tensor, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
        """Return coords (B, P) and linear parameters (B, L) from physical ones (B, Q)."""
        coords, flux, row = [], [], 0
        for shape in self.shapes:
            x, y, mag, r_eff = theta[:, row : row + 4].unbind(1)
            values = theta[:, row + 4 : row + 4 + len(shape)]
            q, pa = theta[:, row + 4 + len(shape)], theta[:, row + 5 + len(shape)]
            g, angle = -torch.log(q), torch.deg2rad(2 * pa)
            coords += [x, y, torch.log(r_eff) - g / 2, *torch.log(values).unbind(1)]
            coords += [g * torch.cos(angle), g * torch.sin(angle)]
            flux.append(10 ** (0.4 * (zeropoint - mag)))
            row += 6 + len(shape)
        sky = theta[:, row:].unbind(1)
        return torch.stack(coords, dim=1), torch.stack([*flux, *sky], dim=1)


SKY_NAMES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "constant": ("sky",),
    "plane": ("sky", "sky_dx", "sky_dy"),
}


def _eta(u: Tensor, prior: Prior) -> tuple[Tensor, Tensor]:
    """Map the whitened pair (B, 2) to eta and its derivative (B, 2, 2)."""
    factor, _, slope = _stretch(u, prior)
    outer = u[:, :, None] * u[:, None, :]
    eye = torch.eye(2, dtype=u.dtype, device=u.device)
    return u * factor[:, None], factor[:, None, None] * eye + slope[:, None, None] * outer


def _stretch(u: Tensor, prior: Prior) -> tuple[Tensor, Tensor, Tensor]:
    """Return |eta| / |u|, d |eta| / d |u|, and (d (|eta| / |u|) / d |u|) / |u|, each (B,)."""
    s2 = (u**2).sum(dim=1)
    h = torch.sqrt(prior.q_core**2 + s2 / 4)
    g = torch.sqrt(s2) * h  # -ln q before the floor q_min
    # the floor: q = q_min + (1 - q_min) exp(-g), a factor on eta that is smooth at 0
    small = g < 1e-4
    safe = torch.where(small, 1.0, g)
    q = prior.q_min + (1 - prior.q_min) * torch.exp(-safe)
    floor = torch.where(small, 1 - prior.q_min, -torch.log(q) / safe)
    slope = (1 - prior.q_min) * torch.exp(-safe) / q  # d(-ln q) / dg
    floor_slope = torch.where(small, 0.0, (slope - floor) / safe)
    factor = h * floor
    # d factor / du = (dh/ds2 floor + h floor_slope dg/ds2) 2 u, with h dg/ds2 regular at 0
    dh = 1 / (8 * h)
    dg = torch.where(small, 0.0, h / (2 * torch.sqrt(s2).clamp_min(1e-12)))
    dg = dg + torch.sqrt(s2) * dh
    along = (1 - prior.q_min) / (1 + prior.q_min * torch.expm1(g)) * (h + s2 / (4 * h))
    return factor, along, 2 * (dh * floor + h * floor_slope * dg)


def _eta_inverse(eta: Tensor, prior: Prior) -> Tensor:
    q = torch.exp(-eta.norm(dim=1)).clamp(prior.q_min * 1.001, 1.0)
    g = -torch.log((q - prior.q_min) / (1 - prior.q_min)).clamp_max(0.0)
    # g = s sqrt(core^2 + s^2 / 4)  =>  s^2 = 2 (sqrt(core^4 + g^2) - core^2)
    s = torch.sqrt(2 * (torch.sqrt(prior.q_core**4 + g**2) - prior.q_core**2)).clamp_max(4.0)
    return eta / eta.norm(dim=1).clamp_min(1e-12)[:, None] * s[:, None]


def _fill_physical(theta: Tensor, jacobian: Tensor, coords: Tensor) -> None:
    """Write a component's physical parameters and their derivatives, but for its magnitude.

    Args:
        theta: (B, 6 + S) x, y, mag, r_eff, shape, q, pa; written to.
        jacobian: (B, 6 + S, 5 + S) by ``coords``, zeros; written to.
        coords: (B, 5 + S) x, y, ln r_circ, ln shape, eta1, eta2.
    """
    eta = coords[:, -2:]
    g = eta.norm(dim=1)
    direction = eta / g.clamp_min(1e-12)[:, None]
    theta[:, :2] = coords[:, :2]
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1.0
    theta[:, 3] = torch.exp(coords[:, 2] + g / 2)
    jacobian[:, 3, 2] = theta[:, 3]
    jacobian[:, 3, -2:] = theta[:, 3, None] * direction / 2
    for j in range(3, coords.shape[1] - 2):
        theta[:, j + 1] = jacobian[:, j + 1, j] = torch.exp(coords[:, j])
    q = torch.exp(-g)
    theta[:, -2] = q
    jacobian[:, -2, -2:] = -q[:, None] * direction
    half = 90.0 / math.pi  # half of an angle in radians, in degrees
    # twice: values just below 0 round to 180
    theta[:, -1] = (half * torch.atan2(eta[:, 1], eta[:, 0])) % 180.0 % 180.0
    across = torch.stack([-eta[:, 1], eta[:, 0]], dim=1)
    jacobian[:, -1, -2:] = half * across / (g**2).clamp_min(1e-24)[:, None]
