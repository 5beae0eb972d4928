"""The Moffat (1969) profile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import NativeScale, Profile, ShapeParameter, Values

LN2 = math.log(2)
BETA = ShapeParameter("beta", "", "power of the wings, above 1", LogNormal(3.0, 0.5, 1.05, 30.0))


class Moffat(Profile):
    """(1 + c rho^2)^-beta, where c makes the size the half-light radius; beta > 1."""

    shape_parameters = (BETA,)
    scales = (NativeScale("fwhm", "pix", "full width at half maximum along the major axis"),)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius."""
        (beta,) = shape
        c = torch.expm1(LN2 / (beta - 1))
        return (beta - 1) * c / math.pi * torch.exp(-beta * torch.log1p(c * rho**2))

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return beta, ln c, ln of the normalisation, and the latter two's d / d ln beta."""
        beta = torch.exp(log_shape[:, 0])
        power = LN2 / (beta - 1)
        log_c = torch.log(torch.expm1(power))
        # c = e^power - 1, so d ln c = e^power / c d power, and d power = -power beta / (beta - 1)
        slope_c = -power * beta / (beta - 1) / -torch.expm1(-power)
        log_norm = torch.log(beta - 1) + log_c - math.log(math.pi)
        return torch.stack([beta, log_c, log_norm, slope_c, beta / (beta - 1) + slope_c], dim=1)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        beta, log_c, log_norm, _, _ = coefficients
        return torch.exp(log_norm - beta * torch.log1p(torch.exp(log_rho2 + log_c)))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the analytic derivatives by ln(rho^2) and ln beta."""
        beta, log_c, log_norm, slope_c, slope_norm = coefficients
        y = torch.exp(log_rho2 + log_c)
        exponent = beta * torch.log1p(y)
        f = torch.exp(log_norm - exponent)
        steep = beta * (y / (1 + y))
        return f, -f * steep, (f * (slope_norm - exponent - steep * slope_c),)

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the full width at half maximum."""
        return {"fwhm": values["r_eff"] / self._half_light(values["beta"])}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and beta of the full width at half maximum and beta."""
        beta = native["beta"]
        return {"r_eff": native["fwhm"] * self._half_light(beta), "beta": beta}

    def _half_light(self, beta: Tensor) -> Tensor:
        """Return the half-light radius over the full width at half maximum."""
        return 0.5 * torch.sqrt(torch.expm1(LN2 / (beta - 1)) / torch.expm1(LN2 / beta))
