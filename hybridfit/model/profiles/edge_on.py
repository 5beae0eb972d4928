"""The edge-on disk (van der Kruit & Searle 1981), as GALFIT and imfit have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.profiles.base import NativeScale, Profile, Values

# half of the light of an edge-on disk lies within R_HALF scale lengths of its minor axis, and
# within Z_HALF scale heights of its plane
R_HALF, Z_HALF = 0.9412618307635364, math.atanh(0.5)


class EdgeOnDisk(Profile):
    """(R / r_s) K_1(R / r_s) sech^2(z / h_s), for a disk seen from its side.

    Its size r_eff is the distance along the plane within which half of the light lies,
    |R| < r_eff, and q r_eff the height within which half of it lies, |z| < q r_eff. So it is one
    function stretched along its axes: r_eff = .9413 r_s and q = .5836 h_s / r_s.
    """

    is_radial = False
    subpixels = 2
    scales = (
        NativeScale("r_s", "pix", "scale length along the plane"),
        NativeScale("h_s", "pix", "scale height, of sech^2"),
    )

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Raise TypeError: the brightness is none of one radius."""
        raise TypeError("an edge-on disk has no elliptical isophotes: use along and across")

    def along(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the brightness along the plane and its derivative.

        Args:
            u: distance from the minor axis over r_eff, >= 0.

        Returns:
            Normalised so that the integral over all u, negative ones too, is 1.
        """
        x = (R_HALF * u).clamp_min(1e-6)
        norm = R_HALF / math.pi
        slope = -norm * R_HALF * x * torch.special.modified_bessel_k0(x)
        return norm * x * torch.special.modified_bessel_k1(x), slope

    def across(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the brightness across the plane and its derivative.

        Args:
            v: height above the plane over q r_eff, >= 0.

        Returns:
            Normalised so that the integral over all v, negative ones too, is 1.
        """
        decay = torch.exp((-2 * Z_HALF * v).clamp_min(-80.0))
        value = 2 * Z_HALF * decay / (1 + decay) ** 2
        return value, -2 * Z_HALF * (1 - decay) / (1 + decay) * value

    def central_brightness(self, values: Values) -> Tensor:
        """Return the brightness at the centre per unit of total flux, 1 / pix^2."""
        return R_HALF * Z_HALF / (2 * math.pi * values["r_eff"] ** 2 * values["q"])

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return scale length and height."""
        return {
            "r_s": values["r_eff"] / R_HALF,
            "h_s": values["q"] * values["r_eff"] / Z_HALF,
        }

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff and q of scale length and height."""
        r_eff = R_HALF * native["r_s"]
        return {"r_eff": r_eff, "q": Z_HALF * native["h_s"] / r_eff}
