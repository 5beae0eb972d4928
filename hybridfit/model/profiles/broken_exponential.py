"""The broken exponential disk (Erwin et al. 2008; imfit's BrokenExponential)."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import NativeScale, ShapeParameter, Values
from hybridfit.model.profiles.native import NativeProfile, softplus

SPAN = 60.0  # e-foldings that hold all of the light


class BrokenExponential(NativeProfile):
    """exp(-r / h_1) (1 + exp(a (r - r_b)))^((1 / h_1 - 1 / h_2) / a).

    The scale lengths are h_1 within and h_2 beyond the break radius r_b.
    """

    shape_parameters = (
        ShapeParameter("scale_ratio", "", "h_2 / h_1", LogNormal(0.6, 0.5, 0.1, 5.0)),
        ShapeParameter("break_ratio", "", "r_b / h_1", LogNormal(2.5, 0.5, 0.1, 20.0)),
        ShapeParameter("sharpness", "", "of the break, a h_1", LogNormal(5.0, 1.0, 0.5, 100.0)),
    )
    scales = (
        NativeScale("h_1", "pix", "inner scale length along the major axis"),
        NativeScale("h_2", "pix", "outer scale length along the major axis"),
        NativeScale("r_b", "pix", "break radius along the major axis"),
        NativeScale("a", "1/pix", "sharpness of the break"),
    )

    def log_native(self, log_x: Tensor, *shape: Tensor) -> Tensor:
        """Return ln of the brightness at ln(r / h_1)."""
        scale_ratio, break_ratio, sharpness = shape
        x = torch.exp(log_x)
        bend = softplus(sharpness * (x - break_ratio)) / sharpness
        return (1 - 1 / scale_ratio) * bend - x

    def log_slopes(
        self, log_x: Tensor, *shape: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `log_native` and its analytic derivatives."""
        scale_ratio, break_ratio, sharpness = shape
        x, change = torch.exp(log_x), 1 - 1 / scale_ratio
        beyond = sharpness * (x - break_ratio)
        bend, share = softplus(beyond) / sharpness, torch.sigmoid(beyond)
        by_shape = (
            bend / scale_ratio,
            -change * share * break_ratio,
            change * (share * (x - break_ratio) - bend),
        )
        return change * bend - x, x * (change * share - 1), by_shape

    def limits(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return the break radius, and one that has all of the light."""
        scale_ratio, break_ratio, _ = shape
        return torch.log(break_ratio), torch.log(break_ratio + SPAN * scale_ratio.clamp_min(1.0))

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the scale lengths, the break radius and its sharpness."""
        inner = values["r_eff"] * torch.exp(-self.log_half_light(dict(values)))
        return {
            "h_1": inner,
            "h_2": inner * values["scale_ratio"],
            "r_b": inner * values["break_ratio"],
            "a": values["sharpness"] / inner,
        }

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and the shape of the scale lengths, the break radius and its sharpness."""
        inner = native["h_1"]
        shape = {
            "scale_ratio": native["h_2"] / inner,
            "break_ratio": native["r_b"] / inner,
            "sharpness": native["a"] * inner,
        }
        return {"r_eff": inner * torch.exp(self.log_half_light(shape)), **shape}
