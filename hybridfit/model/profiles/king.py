"""The empirical King (1962) profile with a free power, as GALFIT has it (Elson 1999)."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import NativeScale, ShapeParameter, Values
from hybridfit.model.profiles.native import LOG_TINY, NEAR_EDGE, OUTSIDE, NativeProfile

ALPHA = ShapeParameter(
    "alpha", "", "power; 2 is the King profile itself", LogNormal(2.0, 0.4, 0.3, 10.0)
)
CONCENTRATION = ShapeParameter(
    "concentration", "", "truncation radius over core radius", LogNormal(10.0, 1.0, 1.1, 1000.0)
)


class King(NativeProfile):
    """((1 + (r / r_c)^2)^(-1 / alpha) - (1 + (r_t / r_c)^2)^(-1 / alpha))^alpha within r_t."""

    shape_parameters = (ALPHA, CONCENTRATION)
    scales = (
        NativeScale("r_c", "pix", "core radius along the major axis"),
        NativeScale("r_t", "pix", "truncation radius along the major axis"),
    )
    has_edge = True
    edge_slopes = (0.0, 1.0)
    subpixels = 2

    def log_native(self, log_x: Tensor, *shape: Tensor) -> Tensor:
        """Return ln of the brightness at ln(r / r_c), but for a constant."""
        alpha, concentration = shape
        x2, edge2 = torch.exp(2 * log_x), concentration**2
        depth = torch.log1p((edge2 - x2).clamp_min(0.0) / (1 + x2))
        value = depth + alpha * torch.log(-torch.expm1(-depth / alpha)).clamp_min(LOG_TINY)
        return torch.where(x2 < edge2, value, OUTSIDE)

    def log_slopes(
        self, log_x: Tensor, *shape: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `log_native` and its analytic derivatives."""
        alpha, concentration = shape
        x2, edge2 = torch.exp(2 * log_x), concentration**2
        depth = torch.log1p((edge2 - x2).clamp_min(0.0) / (1 + x2))
        inside = -torch.expm1(-depth / alpha)
        value = depth + alpha * torch.log(inside).clamp_min(LOG_TINY)
        by_depth = 1 / inside.clamp_min(NEAR_EDGE)
        by_alpha = value - depth * by_depth
        slopes = (-2 * x2 / (1 + x2) * by_depth, by_alpha, 2 * edge2 / (1 + edge2) * by_depth)
        by_log, *by_shape = (torch.where(x2 < edge2, slope, 0.0) for slope in slopes)
        return torch.where(x2 < edge2, value, OUTSIDE), by_log, tuple(by_shape)

    def limits(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return the core radius, or half of the truncation radius, and the latter."""
        edge = torch.log(shape[1])
        return torch.minimum(edge - 0.7, torch.zeros_like(edge)), edge

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return core and truncation radius."""
        core = values["r_eff"] * torch.exp(-self.log_half_light(dict(values)))
        return {"r_c": core, "r_t": core * values["concentration"]}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and the shape of both radii and alpha."""
        shape = {"alpha": native["alpha"], "concentration": native["r_t"] / native["r_c"]}
        return {"r_eff": native["r_c"] * torch.exp(self.log_half_light(shape)), **shape}
