"""Parameters and their prior: names, units and the way between physical and free space.

The fitter moves in *free* coordinates ``u`` in which the prior is N(0, I): no bound is ever
crossed, no angle wraps and the prior's gradient is ``u`` itself. Position angle and axis ratio
become the pair ``eta = -ln q (cos 2 pa, sin 2 pa)``, smooth where a galaxy is round, and size is
the circularised radius ``r_eff sqrt(q)``, which unlike ``r_eff`` has no kink there. Flux and sky
are linear in the model, carry a flat prior, and are solved for exactly, so they have no free
coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hybridfit.options.checks import check_choice, check_fields, checked
from hybridfit.options.yaml_options import check_keys

MAX_U = 6.0  # beyond it Phi(u) rounds to 0 or 1 in the truncated priors


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
        Parameter("sky", "", "sky level at the centre of the stamp, flux per pixel"),
        Parameter("sky_dx", "", "sky gradient along the first axis, flux per pixel per pixel"),
        Parameter("sky_dy", "", "sky gradient along the second axis, flux per pixel per pixel"),
    )
}


@dataclass(frozen=True)
class LogNormal:
    """A normal prior in ln(value), cut at ``low`` and ``high`` so that these are never crossed.

    ``value = exp(mu + sigma Phi^-1(a + c Phi(u)))`` maps a standard normal ``u`` to it.
    """

    median: float
    sigma: float  # in ln(value)
    low: float
    high: float

    def __post_init__(self) -> None:
        check_fields(self)
        if not (0 < self.low < self.high and self.low <= self.median <= self.high):
            raise ValueError(f"expected 0 < low <= median <= high and low < high, got {self}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"expected a finite sigma > 0, got {self}")

    def _cut(self) -> tuple[float, float, float]:
        mu = math.log(self.median)
        low = _normal_cdf((math.log(self.low) - mu) / self.sigma)
        return mu, low, _normal_cdf((math.log(self.high) - mu) / self.sigma) - low

    def log_value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln(value) and d ln(value) / du, each of the shape of ``u``."""
        mu, low, span = self._cut()
        u = u.clamp(-MAX_U, MAX_U)
        z = torch.special.ndtri(low + span * torch.special.ndtr(u))
        slope = self.sigma * span * torch.exp(0.5 * (z**2 - u**2))
        return mu + self.sigma * z, slope

    def free(self, log_value: Tensor) -> Tensor:
        """Return u for ln(value); values outside the cut give the edge, |u| = 4."""
        mu, low, span = self._cut()
        cdf = (torch.special.ndtr((log_value - mu) / self.sigma) - low) / span
        return torch.special.ndtri(cdf.clamp(0.0, 1.0)).clamp(-4.0, 4.0)


LOG_NORMAL_KEYS = ("median", "sigma", "low", "high")


@dataclass(frozen=True)
class Prior:
    """What is known before a pixel is read; simulator, fitter and importance weights share it.

    The position is uniform in a box around the target. ``eta = u sqrt(core^2 + |u|^2 / 4)``
    makes q nearly uniform for thin and middling galaxies and its density smooth at q = 1.
    """

    r_circ: LogNormal = LogNormal(4.0, 1.2, 0.03, 1000.0)  # pix, circularised: r_eff sqrt(q)
    n: LogNormal = LogNormal(1.8, 0.9, 0.15, 12.0)
    shapes: Mapping[str, LogNormal] = field(default_factory=dict)  # of other profiles' parameters
    q_min: float = 0.02
    q_core: float = 0.5  # where the axis ratio's density turns over to be smooth at q = 1
    position: float = 0.25  # half-width of the box, in units of the stamp's shorter side

    def __post_init__(self) -> None:
        check_fields(self, "prior")
        for name, value in self.shapes.items():
            checked(f"prior.shapes.{name}", value, LogNormal)
        if not 0 < self.q_min < 1:
            raise ValueError(f"prior.q_min is {self.q_min}, expected a number between 0 and 1")
        for name in ("q_core", "position"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"prior.{name} is {getattr(self, name)}, expected more than 0")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Prior:
        """Build a prior from a YAML mapping such as ``{n: {median: 2, sigma: 1}}``."""
        default = cls()
        checked("prior", given, Mapping)
        check_keys(given, ["r_circ", "n", "shapes", "q_min", "q_core", "position"], "prior")
        values: dict[str, Any] = dict(given)
        for name, numbers in checked("prior.shapes", values.get("shapes", {}), Mapping).items():
            checked(f"prior.shapes.{name}", numbers, Mapping)
            check_keys(numbers, list(LOG_NORMAL_KEYS), f"prior shapes {name}")
            if missing := [key for key in LOG_NORMAL_KEYS if key not in numbers]:
                expected = ", ".join(LOG_NORMAL_KEYS)
                raise ValueError(f"prior shapes {name} lacks '{missing[0]}': expected {expected}")
        values["shapes"] = {k: LogNormal(**v) for k, v in values.get("shapes", {}).items()}
        for name in ("r_circ", "n"):
            if name in values and not isinstance(values[name], LogNormal):
                checked(f"prior.{name}", values[name], Mapping)
                check_keys(values[name], list(LOG_NORMAL_KEYS), f"prior {name}")
                values[name] = replace(getattr(default, name), **values[name])
        return cls(**values)

    def of(self, name: str) -> LogNormal:
        """The prior of a shape parameter; ValueError where there is none."""
        if name == "n":
            return self.n
        if name not in self.shapes:
            raise ValueError(
                f"no prior for the shape parameter '{name}': give one as "
                f"prior.shapes.{name} with median, sigma, low and high"
            )
        return self.shapes[name]


@dataclass(frozen=True)
class ParameterSpace:
    """The way between free, raw and physical parameters of a list of components.

    For each component *free* and *raw* have the columns x, y, size, shape..., e1, e2: free is
    whitened by the prior, raw is what the renderer takes (x, y, ln r_circ, ln shape..., eta1,
    eta2). *Physical* is what the user sees: x, y, mag, r_eff, shape..., q, pa for each
    component (with ``_1``, ``_2`` behind the name where there are several), then the sky.

    Args:
        shapes: for each component the names of its shape parameters, e.g. ``(("n",),)``.
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
    def n_free(self) -> int:
        """Number of non-linear parameters."""
        return sum(5 + len(shape) for shape in self.shapes)

    @property
    def n_linear(self) -> int:
        """Number of linear parameters: a flux for each component, and the sky."""
        return len(self.shapes) + len(SKY_NAMES[self.sky])

    def slices(self) -> list[slice]:
        """The columns of each component in free and raw parameters."""
        edges = [0]
        for shape in self.shapes:
            edges.append(edges[-1] + 5 + len(shape))
        return [slice(a, b) for a, b in pairwise(edges)]

    def _components(self, box: Tensor) -> list[tuple[slice, tuple[str, ...], Tensor]]:
        """Columns, names of shape parameters and position's box (B, 4) of each component."""
        boxes = box.unbind(1) if box.ndim == 3 else (box,) * len(self.shapes)
        return list(zip(self.slices(), self.shapes, boxes, strict=True))

    def _size_and_shapes(self, shape: tuple[str, ...]) -> list[LogNormal]:
        return [self.prior.r_circ, *(self.prior.of(name) for name in shape)]

    def to_raw(self, free: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Return raw parameters and their derivatives by the free ones.

        Args:
            free: (B, P) float64.
            box: (B, 4) float64: centre x, y and half-widths of the position's prior, pixels;
                or (B, K, 4), one for each component.

        Returns:
            raw (B, P) and d raw / d free (B, P, P).
        """
        raw = torch.empty_like(free)
        jacobian = torch.zeros(*free.shape, free.shape[-1], dtype=free.dtype, device=free.device)
        for columns, shape, own in self._components(box):
            i = columns.start
            for axis in (0, 1):
                u = free[:, i + axis].clamp(-MAX_U, MAX_U)
                raw[:, i + axis] = own[:, axis] + own[:, 2 + axis] * torch.erf(u / math.sqrt(2))
                slope = math.sqrt(2 / math.pi) * torch.exp(-(u**2) / 2)
                jacobian[:, i + axis, i + axis] = own[:, 2 + axis] * slope
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                raw[:, j], jacobian[:, j, j] = prior.log_value(free[:, j])
            e = slice(columns.stop - 2, columns.stop)
            raw[:, e], jacobian[:, e, e] = _eta(free[:, e], self.prior)
        return raw, jacobian

    def log_volume(self, free: Tensor, box: Tensor | None = None) -> Tensor:
        """Return ln |det d raw / d free| (B,), without the matrices of `to_raw`.

        Args:
            free: (B, P) float64.
            box: as of `to_raw`; without it the positions do not count.
        """
        boxes = torch.ones_like(free[:, :4]) if box is None else box
        value = torch.zeros_like(free[:, 0])
        for columns, shape, own in self._components(boxes):
            i = columns.start
            if box is not None:
                u = free[:, i : i + 2].clamp(-MAX_U, MAX_U)
                value += math.log(2 / math.pi) - 0.5 * u.square().sum(dim=1)
                value += torch.log(own[:, 2] * own[:, 3])
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                value += torch.log(prior.log_value(free[:, j])[1])
            pair = free[:, columns.stop - 2 : columns.stop]
            across, along, _ = _stretch(pair, self.prior)
            value += torch.log(across * along)
        return value

    def to_free(self, raw: Tensor, box: Tensor) -> Tensor:
        """Return free parameters for raw ones; what lies outside the prior goes to its edge."""
        free = torch.empty_like(raw)
        for columns, shape, own in self._components(box):
            i = columns.start
            for axis in (0, 1):
                fraction = (raw[:, i + axis] - own[:, axis]) / own[:, 2 + axis]
                free[:, i + axis] = math.sqrt(2) * torch.erfinv(fraction.clamp(-0.999, 0.999))
            for j, prior in enumerate(self._size_and_shapes(shape), start=i + 2):
                free[:, j] = prior.free(raw[:, j])
            e = slice(columns.stop - 2, columns.stop)
            free[:, e] = _eta_inverse(raw[:, e], self.prior)
        return free

    def to_physical(self, raw: Tensor, linear: Tensor, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
        """Return physical parameters and their derivatives by raw and linear ones.

        Args:
            raw: (B, P).
            linear: (B, L) flux of each component, then the sky terms (one, held, if fixed).
            zeropoint: (B,) magnitudes.

        Returns:
            theta (B, Q) with Q = P + L, and d theta / d (raw, linear) (B, Q, Q).
        """
        n_free = raw.shape[1]
        total = n_free + linear.shape[1]
        theta = torch.empty(len(raw), total, dtype=raw.dtype, device=raw.device)
        jacobian = torch.zeros(len(raw), total, total, dtype=raw.dtype, device=raw.device)
        row = 0
        for k, columns in enumerate(self.slices()):
            i, stop = columns.start, columns.stop
            eta = raw[:, stop - 2 : stop]
            g = eta.norm(dim=1)
            direction = eta / g.clamp_min(1e-12)[:, None]
            flux = linear[:, k]
            theta[:, row : row + 2] = raw[:, i : i + 2]
            jacobian[:, row, i] = jacobian[:, row + 1, i + 1] = 1.0
            theta[:, row + 2] = zeropoint - 2.5 * torch.log10(flux)
            jacobian[:, row + 2, n_free + k] = -2.5 / math.log(10) / flux
            theta[:, row + 3] = torch.exp(raw[:, i + 2] + g / 2)
            jacobian[:, row + 3, i + 2] = theta[:, row + 3]
            jacobian[:, row + 3, stop - 2 : stop] = theta[:, row + 3, None] * direction / 2
            row += 4
            for j in range(i + 3, stop - 2):
                theta[:, row] = jacobian[:, row, j] = torch.exp(raw[:, j])
                row += 1
            q = torch.exp(-g)
            theta[:, row] = q
            jacobian[:, row, stop - 2 : stop] = -q[:, None] * direction
            half = 90.0 / math.pi  # of an angle in radians, in degrees
            # twice: a hair below 0 rounds to 180 itself
            theta[:, row + 1] = (half * torch.atan2(eta[:, 1], eta[:, 0])) % 180.0 % 180.0
            across = torch.stack([-eta[:, 1], eta[:, 0]], dim=1)
            jacobian[:, row + 1, stop - 2 : stop] = half * across / (g**2).clamp_min(1e-24)[:, None]
            row += 2
        n_sky = total - row
        theta[:, row:] = linear[:, len(self.shapes) :]
        for j in range(n_sky):
            jacobian[:, row + j, n_free + len(self.shapes) + j] = 1.0
        return theta, jacobian

    def from_physical(self, theta: Tensor, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
        """Return raw (B, P) and linear (B, L) parameters of physical ones (B, Q)."""
        raw, flux, row = [], [], 0
        for shape in self.shapes:
            x, y, mag, r_eff = theta[:, row : row + 4].unbind(1)
            values = theta[:, row + 4 : row + 4 + len(shape)]
            q, pa = theta[:, row + 4 + len(shape)], theta[:, row + 5 + len(shape)]
            g, angle = -torch.log(q), torch.deg2rad(2 * pa)
            raw += [x, y, torch.log(r_eff) - g / 2, *torch.log(values).unbind(1)]
            raw += [g * torch.cos(angle), g * torch.sin(angle)]
            flux.append(10 ** (0.4 * (zeropoint - mag)))
            row += 6 + len(shape)
        sky = theta[:, row:].unbind(1)
        return torch.stack(raw, dim=1), torch.stack([*flux, *sky], dim=1)


SKY_NAMES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "constant": ("sky",),
    "plane": ("sky", "sky_dx", "sky_dy"),
}


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _eta(u: Tensor, prior: Prior) -> tuple[Tensor, Tensor]:
    """Map the whitened pair (B, 2) to eta and its derivative (B, 2, 2)."""
    factor, _, slope = _stretch(u, prior)
    outer = u[:, :, None] * u[:, None, :]
    eye = torch.eye(2, dtype=u.dtype, device=u.device)
    return u * factor[:, None], factor[:, None, None] * eye + slope[:, None, None] * outer


def _stretch(u: Tensor, prior: Prior) -> tuple[Tensor, Tensor, Tensor]:
    """|eta| / |u|, d |eta| / d |u|, and the derivative of the first by |u| over |u|, each (B,)."""
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
