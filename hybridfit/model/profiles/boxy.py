"""Boxy and disky isophotes: a radial profile over GALFIT's generalised ellipses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal
from hybridfit.model.profiles.base import Profile, ShapeParameter, Values
from hybridfit.model.profiles.sersic import Exponential, Sersic

C0 = ShapeParameter(
    "c0",
    "",
    "boxiness: above 0 boxy, below 0 disky isophotes; prior of c0 + 2",
    LogNormal(2.0, 0.25, 1.0, 4.0),
    shift=-2.0,
)


class Boxy(Profile):
    """A radial profile on generalised ellipses |u|^c + |v / q|^c = r^c with c = c0 + 2.

    The last shape parameter is c0 (Athanassoula et al. 1990; Peng et al. 2010, eq. 3). r_eff is
    the generalised radius with half of the light, that along the axes; the flux is the total one.

    Args:
        profile: whose brightness depends on an elliptical radius.
    """

    def __init__(self, profile: Profile) -> None:
        if not profile.is_radial or isinstance(profile, Boxy):
            kind = type(profile).__name__
            raise ValueError(f"isophotes of {kind} cannot be boxy: expected a radial profile")
        self.profile = profile
        self.shape_parameters = (*profile.shape_parameters, C0)
        self.shape = (*profile.shape, C0.name)
        self.scales = profile.scales
        self.subpixels = profile.subpixels

    @property
    def key(self) -> object:
        """Hashable; equal for profiles that are one and the same, a key of compiled kernels."""
        return (Boxy, self.profile.key)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the brightness at ``rho``, the generalised radius over r_eff.

        Its integral is 1 over the generalised ellipses, whose area is pi rho^2 / R(c0).
        """
        *rest, c0 = shape
        return self.profile.evaluate(rho, *rest) * torch.exp(log_area_ratio(c0 + 2)[0])

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return the profile's coefficients, c, ln of GALFIT's R(c0), and its d / d ln c."""
        c = torch.exp(log_shape[:, -1])
        own = torch.stack([c, *log_area_ratio(c)], dim=1)
        return torch.cat([self.profile.prepare(log_shape[:, :-1]), own], dim=1)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), rho being the generalised radius."""
        return self.profile.value(log_rho2, coefficients[:-3]) * torch.exp(coefficients[-2])

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the derivatives by ln(rho^2) and each shape coordinate, at one radius."""
        _, log_ratio, ratio_slope = coefficients[-3:]
        ratio = torch.exp(log_ratio)
        f, by_log, by_shape = self.profile.derivatives(log_rho2, coefficients[:-3])
        f = f * ratio
        return f, by_log * ratio, (*(s * ratio for s in by_shape), f * ratio_slope)

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the scales of the profile without boxiness."""
        return self.profile.native_scales(values)

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return the profile's parameters, and c0."""
        return {**self.profile.from_native(native), "c0": native["c0"]}


def log_area_ratio(c: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln of the area of an ellipse over that of a generalised one, and its d / d ln c.

    It is GALFIT's R(c0) = pi c / (4 B(1 / c, 1 + 1 / c)).
    """
    one, two = 1 + 1 / c, 1 + 2 / c
    value = math.log(math.pi / 4) - 2 * torch.lgamma(one) + torch.lgamma(two)
    return value, 2 / c * (torch.digamma(one) - torch.digamma(two))


class BoxySersic(Boxy):
    """The Sersic profile with boxy or disky isophotes."""

    def __init__(self) -> None:
        super().__init__(Sersic())


class BoxyExponential(Boxy):
    """An exponential disk with boxy or disky isophotes."""

    def __init__(self) -> None:
        super().__init__(Exponential())
