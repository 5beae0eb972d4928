"""The modified Ferrers profile of bars, as GALFIT has it (Peng et al. 2010, eq. 18)."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import NativeScale, ShapeParameter, Values
from hybridfit.model.profiles.native import LOG_TINY, NEAR_EDGE, OUTSIDE, NativeProfile

ALPHA = ShapeParameter(
    "alpha", "", "sharpness of the outer edge; 0 is a step", LogNormal(1.0, 0.7, 0.1, 10.0)
)
BETA = ShapeParameter(
    "beta",
    "",
    "central slope, below 2; prior of 2 - beta",
    LogNormal(1.7, 0.5, 0.1, 8.0),
    shift=2.0,
    sign=-1.0,
)


class Ferrers(NativeProfile):
    """(1 - (r / r_out)^(2 - beta))^alpha within r_out, dark beyond."""

    shape_parameters = (ALPHA, BETA)
    scales = (NativeScale("r_out", "pix", "outer radius along the major axis"),)
    has_edge = True
    subpixels = 4

    def log_native(self, log_x: Tensor, *shape: Tensor) -> Tensor:
        """Return ln of the brightness at ln(r / r_out)."""
        alpha, beta = shape
        inside = -torch.expm1((2 - beta) * log_x.clamp_max(0.0))
        value = alpha * torch.log(inside).clamp_min(LOG_TINY)
        return torch.where(log_x < 0, value, OUTSIDE)

    def log_slopes(
        self, log_x: Tensor, *shape: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `log_native` and its analytic derivatives."""
        alpha, beta = shape
        value = self.log_native(log_x, *shape)
        log_x = log_x.clamp_max(0.0)
        depth = -torch.expm1((2 - beta) * log_x)
        by_log = -alpha * (2 - beta) * (1 - depth) / depth.clamp_min(NEAR_EDGE)
        by_log = torch.where(log_x < 0, by_log, 0.0)
        return value, by_log, (torch.where(log_x < 0, value, 0.0), by_log * log_x)

    def limits(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return a radius within the bar, and its edge."""
        edge = torch.zeros_like(shape[0])
        return edge - 2.0, edge

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the outer radius."""
        return {"r_out": values["r_eff"] * torch.exp(-self.log_half_light(dict(values)))}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and the shape of the outer radius, alpha and beta."""
        shape = {name: native[name] for name in self.shape}
        return {"r_eff": native["r_out"] * torch.exp(self.log_half_light(shape)), **shape}
