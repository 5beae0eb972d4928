"""Whether a profile's class does what the renderer expects, at one shape."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from hybridfit.model.profiles.base import Profile

FLUX_ERROR = 0.01  # of the total flux, beyond which magnitudes are wrong
NODES = 4001  # of ln rho, from FIRST to LAST
FIRST, LAST = -25.0, 9.0


def check_profile(name: str, profile: Profile, shape: Mapping[str, float] | None = None) -> None:
    """Evaluate a profile once, with a clear error if the result cannot be a brightness.

    Args:
        name: for messages.
        profile: radial; others are taken as they are.
        shape: values of the shape parameters; default the medians of their own priors, and no
            check if some have none.

    Raises:
        ValueError: if the brightness is not a tensor of the radii's shape, not finite or negative.

    Warns:
        UserWarning: if its flux is not 1, so that magnitudes would be wrong.
    """
    values = _medians(profile) if shape is None else dict(shape)
    if not profile.is_radial or values is None or "c0" in profile.shape:
        return
    log_rho = torch.linspace(FIRST, LAST, NODES, dtype=torch.float64)
    numbers = (torch.tensor(values[n], dtype=torch.float64) for n in profile.shape)
    light = profile.evaluate(torch.exp(log_rho), *numbers)
    at = ", ".join(f"{n} = {values[n]:g}" for n in profile.shape)
    where = f"profile '{name}'" + (f" at {at}" if at else "")
    if not (isinstance(light, Tensor) and light.shape == log_rho.shape):
        got = tuple(light.shape) if isinstance(light, Tensor) else type(light).__name__
        raise ValueError(f"{where}: evaluate returned {got} for radii of {tuple(log_rho.shape)}")
    bad = ~torch.isfinite(light) | (light < 0)
    if bool(bad.any()):
        rho = math.exp(float(log_rho[bad][0]))
        raise ValueError(
            f"{where}: evaluate returned {float(light[bad][0]):g} at rho = {rho:.3g}, expected a "
            f"finite brightness of at least 0 at every radius"
        )
    if not profile.has_total_light:
        return
    flux = float(torch.trapezoid(2 * math.pi * torch.exp(2 * log_rho) * light, log_rho))
    if abs(flux - 1) > FLUX_ERROR:
        warnings.warn(
            f"{where}: the integral of 2 pi rho f is {flux:.4g} to rho = {math.exp(LAST):.0f}, "
            f"expected 1: magnitudes will be off by {-2.5 * math.log10(max(flux, 1e-99)):.2f}",
            stacklevel=3,
        )


def _medians(profile: Profile) -> dict[str, float] | None:
    medians = {}
    for parameter in profile.shape_parameters:
        if parameter.prior is None:
            return None
        medians[parameter.name] = parameter.of_prior(parameter.prior.median)
    return medians
