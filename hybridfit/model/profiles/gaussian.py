"""The Gaussian profile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.profiles.base import NativeScale, Profile, Values, at_least

LN2 = math.log(2)


class Gaussian(Profile):
    """exp(-ln 2 rho^2), whose half-light radius is half of its FWHM."""

    scales = (NativeScale("fwhm", "pix", "full width at half maximum along the major axis"),)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius."""
        return LN2 / math.pi * torch.exp(-LN2 * rho**2)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        return LN2 / math.pi * torch.exp(at_least(-LN2 * torch.exp(log_rho2)))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the analytic derivative by ln(rho^2)."""
        exponent = at_least(-LN2 * torch.exp(log_rho2))
        f = LN2 / math.pi * torch.exp(exponent)
        return f, f * exponent, ()

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the full width at half maximum."""
        return {"fwhm": 2 * values["r_eff"]}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff of the full width at half maximum."""
        return {"r_eff": native["fwhm"] / 2}
