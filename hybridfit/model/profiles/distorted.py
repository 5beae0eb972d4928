"""A radial profile whose isophotes are distorted: Fourier modes, bending, boxiness, spiral arms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridfit.model.profiles.base import Profile, Values
from hybridfit.model.profiles.distortions import Distortions

ANGLES = 720  # of the integral of the area
LEAST_FACTOR = 0.02  # of the radius: amplitudes that sum to 1 would give it none
SUBPIXELS = 4


class Distorted(Profile):
    """A radial profile of a distorted radius (Peng et al. 2010, section 4).

    With (u, v) along the major and minor axes, rotated by the spiral's angle first where there is
    one, and v the bent one, the radius is

        r = (|u|^c + |v / q|^c)^(1 / c) |1 + sum_m a_m cos(m (theta - phi_m))|,   c = c0 + 2,

    where theta is the angle of (u, v / q) plus the position angle, anticlockwise from -y. So phases
    are GALFIT's plus the position angle: they stay where they are if the ends of the axis change
    places. The flux is the total one: the brightness is divided by the area that the distortions
    give to an ellipse. r_eff is that of the profile without distortions. Flux and r_eff are those
    of the profile without truncation.

    Args:
        profile: whose brightness depends on an elliptical radius.
        distortions: at least one.
    """

    compiles = False

    def __init__(self, profile: Profile, distortions: Distortions) -> None:
        if not profile.is_radial or not distortions.parameters or "c0" in profile.shape:
            kind = type(profile).__name__
            raise ValueError(f"isophotes of {kind} cannot be distorted: expected a radial profile")
        self.profile, self.distortions = profile, distortions
        self.shape_parameters = (*profile.shape_parameters, *distortions.parameters)
        self.shape = tuple(p.name for p in self.shape_parameters)
        self.scales, self.has_total_light = profile.scales, profile.has_total_light
        self.subpixels = max(profile.subpixels, SUBPIXELS)

    @property
    def key(self) -> object:
        """Hashable; equal for profiles that are one and the same, a key of compiled kernels."""
        return (Distorted, self.profile.key, self.distortions)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the brightness at ``rho``, the distorted radius over r_eff."""
        n = len(self.profile.shape)
        return self.profile.evaluate(rho, *shape[:n]) * torch.exp(-self.log_area(shape[n:]))

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return the profile's coefficients, then the values of the distortions' parameters."""
        n = len(self.profile.shape)
        pairs = zip(self.distortions.parameters, log_shape[:, n:].unbind(1), strict=True)
        own = torch.stack([p.value(z) for p, z in pairs], dim=1)
        return torch.cat([self.profile.prepare(log_shape[:, :n]), own], dim=1)

    def log_area(self, own: Sequence[Tensor]) -> Tensor:
        """Return ln of the area of an isophote over that of an ellipse of the same radius.

        That of boxy isophotes with modes is for a position angle of 0.

        Args:
            own: values of the distortions' parameters, each of any one shape.
        """
        values = dict(zip(self.distortions.names, own, strict=True))
        theta = torch.arange(ANGLES, dtype=own[0].dtype, device=own[0].device) + 0.5
        theta = (theta * (2 * math.pi / ANGLES)).expand(*own[0].shape, ANGLES)
        factor = fourier_factor(
            theta, self.distortions, {k: v[..., None] for k, v in values.items()}
        )
        log_length = torch.log(factor)
        if self.distortions.boxy:
            c = (values["c0"] + 2)[..., None]
            both = (torch.log(torch.abs(f(theta))) for f in (torch.cos, torch.sin))
            log_length = log_length + torch.logaddexp(*(c * v for v in both)) / c
        area = torch.log(torch.exp(-2 * log_length).mean(dim=-1))
        if self.distortions.rotation:
            area = area + torch.log(torch.cos(torch.deg2rad(values["rot_incl"])))
        return area

    def central_brightness(self, values: Values) -> Tensor:
        """Return that of the profile without distortions over the area that these give it."""
        area = self.log_area([values[name] for name in self.distortions.names])
        return self.profile.central_brightness(values) * torch.exp(-area)

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the scales of the profile without distortions."""
        return self.profile.native_scales(values)

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return the profile's parameters, and those of the distortions."""
        own = {name: native[name] for name in self.distortions.names}
        return {**self.profile.from_native(native), **own}


def fourier_factor(theta: Tensor, distortions: Distortions, values: Values) -> Tensor:
    """Return the factor of the radius by Fourier modes, at least `LEAST_FACTOR`.

    Args:
        theta: angles as those of the phases, radian.
        distortions: of the component.
        values: of its parameters by name, broadcast against ``theta``.
    """
    factor = torch.ones_like(theta)
    for m in distortions.fourier:
        phase = torch.deg2rad(values[f"f{m}_phase"])
        factor = factor + values[f"f{m}_amp"] * torch.cos(m * (theta - phase))
    return factor.abs().clamp_min(LEAST_FACTOR)
