"""The Sersic profile, and those of a fixed index: exponential and de Vaucouleurs."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from hybridfit.model.prior import Prior
from hybridfit.model.profiles.base import (
    LEAST_EXPONENT,
    LOG_2PI,
    NativeScale,
    Profile,
    ShapeParameter,
    Values,
    at_least,
)
from hybridfit.model.profiles.bn import log_bn


class Sersic(Profile):
    """The Sersic (1963) profile exp(-b_n rho^(1/n)), b_n exact (Ciotti & Bertin 1999, eq. 5)."""

    shape_parameters = (ShapeParameter("n", "", "Sersic index", Prior().n),)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius, index ``n``."""
        (n,) = shape
        b = torch.exp(log_bn(torch.log(n), 0))
        log_norm = 2 * n * torch.log(b) - math.log(2 * math.pi) - torch.log(n)
        return torch.exp(log_norm - torch.special.gammaln(2 * n) - b * rho ** (1 / n))

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return 1/2n, b_n, ln of the normalisation, and the latter two's d / d ln n."""
        log_n = log_shape[:, 0]
        n = torch.exp(log_n)
        log_b, slope_b = log_bn(log_n, 0), log_bn(log_n, 1)
        log_norm = 2 * n * log_b - math.log(2 * math.pi) - log_n - torch.special.gammaln(2 * n)
        slope_norm = 2 * n * (log_b + slope_b - torch.special.digamma(2 * n)) - 1
        return torch.stack([0.5 / n, torch.exp(log_b), log_norm, slope_norm, slope_b], dim=1)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        power, b, log_norm, _, _ = coefficients
        return torch.exp(log_norm - _above_underflow(b * torch.exp(power * log_rho2), log_norm))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the analytic derivatives by ln(rho^2) and ln n."""
        power, b, log_norm, slope_norm, slope_b = coefficients
        z = power * log_rho2
        w = _above_underflow(b * torch.exp(z), log_norm)
        f = torch.exp(log_norm - w)
        return f, -f * w * power, (f * (slope_norm - w * (slope_b - z)),)


def _above_underflow(w: Tensor, log_norm: Tensor) -> Tensor:
    """Limit ``w`` so that exp(log_norm - w) is at least exp(`LEAST_EXPONENT`)."""
    return torch.minimum(w, log_norm - LEAST_EXPONENT)


class _FixedIndex(Profile):
    """A Sersic profile of a fixed index."""

    index: ClassVar[float]
    b: ClassVar[float]

    @property
    def _log_norm(self) -> float:
        n = self.index
        return 2 * n * math.log(self.b) - LOG_2PI - math.log(n) - math.lgamma(2 * n)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius."""
        return torch.exp(self._log_norm - self.b * rho ** (1 / self.index))

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        w = self.b * torch.exp((0.5 / self.index) * log_rho2)
        return torch.exp(at_least(self._log_norm - w))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the analytic derivative by ln(rho^2)."""
        w = self.b * torch.exp((0.5 / self.index) * log_rho2)
        f = torch.exp(at_least(self._log_norm - w))
        # far out f is 1e-35: w must not outgrow what that makes negligible
        return f, -f * w.clamp_max(self._log_norm - LEAST_EXPONENT) * (0.5 / self.index), ()


class Exponential(_FixedIndex):
    """An exponential disk, Sersic with n = 1; the size is the half-light radius."""

    index, b = 1.0, 1.6783469900166605
    scales = (NativeScale("r_s", "pix", "scale length along the major axis"),)

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the scale length."""
        return {"r_s": values["r_eff"] / self.b}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff of the scale length."""
        return {"r_eff": native["r_s"] * self.b}


class DeVaucouleurs(_FixedIndex):
    """The de Vaucouleurs (1948) profile, Sersic with n = 4."""

    index, b = 4.0, 7.669249442500805
