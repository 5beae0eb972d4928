"""Profiles whose flux and half-light radius have no closed form: both by quadrature, once a galaxy.

With t = ln x, x the radius in the profile's own unit, the flux is the integral of
2 pi exp(2 t) u(t). Panels of Gauss-Legendre nodes narrow towards the radius where the profile
bends, or towards its edge if it has one. Newton's method finds the half-light radius in its panel,
whose derivatives are those of an implicit function.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hybridfit.model.profiles.base import LOG_2PI, Profile, at_least, forward_slopes

PANELS = 12  # on either side of the middle
NODES = 24  # of each panel
DEPTH = 25.0  # ln of the middle over the innermost radius
NEWTON = 6
LOG_TINY = math.log(1e-30)
NEAR_EDGE = 1e-6  # slopes of a profile's edge are followed so far: they may diverge at it
OUTSIDE = -200.0  # ln of the brightness beyond the edge of a profile


class NativeProfile(Profile):
    """A profile that says its unnormalised brightness in a unit of its own; the rest follows."""

    has_edge = False  # whether there is a radius beyond which it is dark
    # derivatives of ln of that radius by the shape coordinates
    edge_slopes: tuple[float, ...] = ()
    n_constants = 0  # number of what `constants` returns

    @abstractmethod
    def log_native(self, log_x: Tensor, *shape: Tensor) -> Tensor:
        """Return ln of the unnormalised brightness.

        Args:
            log_x: ln of the radius in the profile's own unit.
            shape: the shape parameters, then `constants`, broadcast against ``log_x``.
        """

    def constants(self, *shape: Tensor) -> tuple[Tensor, ...]:
        """Return functions of the shape alone that are not to be computed for each pixel."""
        return ()

    @abstractmethod
    def limits(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln of the radius of its bend, and of one that has all of the light."""

    def half_light(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln of half-light radius and of the flux in the profile's own unit.

        Args:
            shape: the shape parameters, each (B,), float64.
        """
        t, rate, total, enclosed = self._solve(shape, with_slopes=False)
        # differentiable: the root itself is not, this last step of Newton's is
        return t + (0.5 * total[0] - enclosed[0]) / rate, torch.log(total[0])

    def _solve(
        self, shape: Sequence[Tensor], with_slopes: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ln of the half-light radius, d flux / d ln r there, and two fluxes.

        These are the total one and that within the radius, (1 or 1 + S, B), followed by their
        derivatives by each shape coordinate. Those of the total are taken along nodes that move
        with the profile's edge, where those at fixed radii may diverge.
        """
        edges = self._edges(*shape)  # (B, E)
        columns = [s[:, None, None] for s in (*shape, *self.constants(*shape))]
        sums = self._integrals(edges[:, :-1], edges[:, 1:], columns, with_slopes)
        total, inside = sums.sum(dim=2), torch.cumsum(sums, dim=2)
        half = 0.5 * total[0].detach()
        panel = (inside[0] < half[:, None]).sum(dim=1).clamp_max(sums.shape[2] - 1)
        rows = torch.arange(len(panel), device=panel.device)
        edge = edges[rows, panel]  # as differentiable as the sums up to it are
        low, high = edge.detach(), edges[rows, panel + 1].detach()
        before, within = (inside - sums)[:, rows, panel], sums[0, rows, panel].detach()
        t = low + (high - low) * (half - before[0].detach()) / within
        for _ in range(NEWTON):
            t = torch.minimum(torch.maximum(t, low), high)
            enclosed = before[0] + self._integrals(low[:, None], t[:, None], columns)[0, :, 0]
            rate = self._integrand(t[:, None, None], columns)[:, 0, 0]
            t = t + ((half - enclosed) / rate).detach()
        enclosed = (
            before + self._integrals(edge[:, None], t[:, None], columns, with_slopes)[:, :, 0]
        )
        rate = self._integrand(t[:, None, None], columns)[:, 0, 0]
        if with_slopes:
            moves = total.new_tensor([0.0, *(self.edge_slopes or (0.0,) * len(shape))])
            total, enclosed = total[:-1] + moves[:, None] * total[-1], enclosed[:-1]
        return t, rate, total, enclosed

    def _edges(self, *shape: Tensor) -> Tensor:
        middle, last = self.limits(*shape)
        middle, last = middle[:, None], last[:, None]
        step = torch.linspace(0.0, 1.0, PANELS + 1, dtype=middle.dtype, device=middle.device)
        inner = middle - DEPTH * (1 - step[:-1]) ** 3
        if self.has_edge:
            return torch.cat([inner, last - (last - middle) * (1 - step) ** 3], dim=1)
        return torch.cat([inner, middle + (last - middle) * step**3], dim=1)

    def _integrals(
        self, low: Tensor, high: Tensor, columns: list[Tensor], with_slopes: bool = False
    ) -> Tensor:
        """Return fluxes between ln radii (B, E), (1, B, E), or (2 + S, B, E) with their slopes.

        The slopes are those by each shape coordinate, and by ln of a stretch of all nodes.
        """
        node, weight = _gauss(low.device)
        half = 0.5 * (high - low)[:, :, None]
        t = low[:, :, None] + half * (1 + node)
        if not with_slopes:
            return (self._integrand(t, columns) * (half * weight)).sum(dim=2)[None]
        log_native, by_log, slopes = self.log_slopes(t, *columns)
        light = torch.exp(LOG_2PI + 2 * t + log_native) * (half * weight)
        rows = [light, *(light * slope for slope in slopes), light * (2 + by_log)]
        return torch.stack(rows).sum(dim=3)

    def _integrand(self, t: Tensor, columns: list[Tensor]) -> Tensor:
        return torch.exp(LOG_2PI + 2 * t + self.log_native(t, *columns))

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return coefficients (B, 2 + 3 S and `constants`) from the shape coordinates (B, S).

        They are the shape, `constants`, ln of half-light radius and of the normalisation in the
        profile's own unit, and the latter two's derivatives by each shape coordinate.
        """
        shape = self.shape_values(log_shape.double()).unbind(1)
        t, rate, total, enclosed = self._solve(shape, with_slopes=True)
        half_slopes = (0.5 * total[1:] - enclosed[1:]) / rate  # of the implicit function
        norm_slopes = 2 * half_slopes - total[1:] / total[0]
        scales = torch.stack([t, 2 * t - torch.log(total[0])], dim=1)
        given = torch.stack([*shape, *self.constants(*shape)], dim=1)
        columns = [given, scales, half_slopes.T, norm_slopes.T]
        return torch.cat(columns, dim=1).to(log_shape.dtype)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius."""
        values = torch.broadcast_tensors(*shape)
        log_half, log_flux = self.half_light(*(v.double().flatten() for v in values))
        log_half, log_flux = (v.view_as(values[0]).to(rho.dtype) for v in (log_half, log_flux))
        given = (*shape, *self.constants(*shape))
        log_native = self.log_native(torch.log(rho) + log_half, *given)
        return torch.exp(at_least(2 * log_half - log_flux + log_native))

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        n = len(self.shape) + self.n_constants
        log_half, log_norm = coefficients[n : n + 2]
        log_native = self.log_native(0.5 * log_rho2 + log_half, *coefficients[:n])
        return torch.exp(at_least(log_norm + log_native))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the derivatives by ln(rho^2) and each shape coordinate."""
        n = len(self.shape) + self.n_constants
        log_half, log_norm = coefficients[n : n + 2]
        last = n + 2 + len(self.shape)
        half_slopes, norm_slopes = coefficients[n + 2 : last], coefficients[last:]
        log_native, by_log, by_shape = self.log_slopes(0.5 * log_rho2 + log_half, *coefficients[:n])
        f = torch.exp(at_least(log_norm + log_native))
        slopes = zip(half_slopes, norm_slopes, by_shape, strict=True)
        return f, 0.5 * f * by_log, tuple(f * (a + by_log * h + s) for h, a, s in slopes)

    def log_slopes(
        self, log_x: Tensor, *shape: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `log_native` and its derivatives by ``log_x`` and each shape coordinate.

        The default is automatic (forward mode); override it if speed matters.
        """

        def at(log_x: Tensor, *log_shape: Tensor) -> Tensor:
            values = (p.value(z) for p, z in zip(self.shape_parameters, log_shape, strict=True))
            given = tuple(values)
            return self.log_native(log_x, *given, *self.constants(*given))

        columns = zip(self.shape_parameters, shape[: len(self.shape)], strict=True)
        value, slopes = forward_slopes(at, log_x, *(p.coordinate(s) for p, s in columns))
        return value, slopes[0], slopes[1:]

    def log_half_light(self, shape: dict[str, Tensor]) -> Tensor:
        """Return ln of the half-light radius in the profile's own unit, of any batch shape."""
        values = [shape[name].double() for name in self.shape]
        return self.half_light(*(v.flatten() for v in values))[0].view_as(values[0])


def softplus(x: Tensor) -> Tensor:
    """Return ln(1 + e^x)."""
    return torch.nn.functional.softplus(x, threshold=40.0)


@lru_cache(maxsize=4)
def _gauss(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights on (-1, 1), float64."""
    node, weight = np.polynomial.legendre.leggauss(NODES)
    return torch.tensor(node, device=device), torch.tensor(weight, device=device)
