"""The core-Sersic profile (Graham et al. 2003; Trujillo et al. 2004, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal, Prior
from hybridfit.model.profiles.base import NativeScale, ShapeParameter, Values
from hybridfit.model.profiles.bn import log_bn
from hybridfit.model.profiles.native import NativeProfile, softplus

LARGEST = 50.0  # exponent beyond which the light is 0 whatever it is: no overflow


class CoreSersic(NativeProfile):
    """(r_s / r)^gamma exp(-b_n (r_s / r_e)^(1 / n)) with r_s = (r^alpha + r_b^alpha)^(1 / alpha).

    r_e is the half-light radius that the Sersic profile outside of the core would have; r_eff, the
    half-light radius of the whole, is a little larger.
    """

    shape_parameters = (
        ShapeParameter("n", "", "Sersic index outside of the core", Prior().n),
        ShapeParameter("gamma", "", "slope within the core", LogNormal(0.1, 1.0, 1e-3, 1.2)),
        ShapeParameter("alpha", "", "sharpness of the break", LogNormal(5.0, 0.7, 0.5, 100.0)),
        ShapeParameter("core_ratio", "", "break radius over r_e", LogNormal(0.03, 1.5, 1e-4, 2.0)),
    )
    scales = (
        NativeScale("r_b", "pix", "break radius along the major axis"),
        NativeScale("r_e", "pix", "half-light radius of the Sersic profile outside, major axis"),
    )
    n_constants = 2

    def constants(self, *shape: Tensor) -> tuple[Tensor, ...]:
        """Return ln b_n and its derivative by ln n."""
        log_n = torch.log(shape[0])
        return log_bn(log_n, 0), log_bn(log_n, 1)

    def log_native(self, log_x: Tensor, *shape: Tensor) -> Tensor:
        """Return ln of the brightness at ln(r / r_e)."""
        n, gamma, alpha, core, log_b, _ = shape
        rise = softplus(alpha * (torch.log(core) - log_x)) / alpha  # ln(r_s / r)
        exponent = torch.exp(((log_x + rise) / n + log_b).clamp_max(LARGEST))
        return gamma * rise - exponent

    def log_slopes(
        self, log_x: Tensor, *shape: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `log_native` and its analytic derivatives."""
        n, gamma, alpha, core, log_b, b_slope = shape
        below = torch.log(core) - log_x
        rise, share = softplus(alpha * below) / alpha, torch.sigmoid(alpha * below)
        exponent = torch.exp(((log_x + rise) / n + log_b).clamp_max(LARGEST))
        by_rise = gamma - exponent / n
        by_shape = (
            exponent * ((log_x + rise) / n - b_slope),
            gamma * rise,
            by_rise * (share * below - rise),
            by_rise * share,
        )
        return gamma * rise - exponent, -exponent / n - by_rise * share, by_shape

    def limits(self, *shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return the break radius, and one beyond which the Sersic profile has no light."""
        n, _, _, core = shape
        last = n * (torch.log(60 + 6 * n) - log_bn(torch.log(n), 0))
        return torch.log(core), torch.maximum(last, torch.log(core) + 1.0)

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return break radius and outer half-light radius."""
        outer = values["r_eff"] * torch.exp(-self.log_half_light(dict(values)))
        return {"r_b": outer * values["core_ratio"], "r_e": outer}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and the shape of both radii, n, gamma and alpha."""
        shape = {name: native[name] for name in ("n", "gamma", "alpha")}
        shape["core_ratio"] = native["r_b"] / native["r_e"]
        return {"r_eff": native["r_e"] * torch.exp(self.log_half_light(shape)), **shape}
