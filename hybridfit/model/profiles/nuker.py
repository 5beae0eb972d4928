"""The Nuker profile of galaxies' centres (Lauer et al. 1995), as GALFIT has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import NativeScale, Profile, ShapeParameter, Values, at_least

LOG_2, LOG_PI = math.log(2), math.log(math.pi)


class Nuker(Profile):
    """2^((beta - gamma) / alpha) (r / r_b)^-gamma (1 + (r / r_b)^alpha)^((gamma - beta) / alpha).

    Its light has no end where beta is 2 or less. So, whatever beta is, its size is the break radius
    r_b, and its flux is what the ellipse of that radius would have if it had the brightness at r_b
    everywhere.
    """

    shape_parameters = (
        ShapeParameter("alpha", "", "sharpness of the break", LogNormal(2.0, 0.8, 0.1, 50.0)),
        ShapeParameter("beta", "", "slope outside of the break", LogNormal(1.5, 0.5, 0.05, 10.0)),
        ShapeParameter("gamma", "", "slope within the break", LogNormal(0.3, 1.0, 1e-3, 1.9)),
    )
    scales = (NativeScale("r_b", "pix", "break radius along the major axis"),)
    has_total_light = False

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the brightness at ``rho``, the elliptical radius over the break radius."""
        return self.value(2 * torch.log(rho), shape)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        alpha, beta, gamma = coefficients
        t = 0.5 * log_rho2
        bend = (torch.nn.functional.softplus(alpha * t) - LOG_2) / alpha
        return torch.exp(at_least((gamma - beta) * bend - gamma * t - LOG_PI))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the derivatives by ln(rho^2) and each shape coordinate."""
        alpha, beta, gamma = coefficients
        t = 0.5 * log_rho2
        share = torch.sigmoid(alpha * t)
        bend = (torch.nn.functional.softplus(alpha * t) - LOG_2) / alpha
        f = self.value(log_rho2, coefficients)
        slopes = (
            f * (gamma - beta) * (t * share - bend),
            -f * beta * bend,
            f * gamma * (bend - t),
        )
        return f, 0.5 * f * ((gamma - beta) * share - gamma), slopes

    def central_brightness(self, values: Values) -> Tensor:
        """Return the brightness at the break radius per unit of flux, 1 / pix^2."""
        return 1 / (math.pi * values["r_eff"] ** 2 * values["q"])

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the break radius."""
        return {"r_b": values["r_eff"]}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return the break radius as r_eff, and the shape."""
        return {"r_eff": native["r_b"], **{name: native[name] for name in self.shape}}
