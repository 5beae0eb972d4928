"""Radial profiles: surface brightness for unit flux as a function of elliptical radius.

A new profile is one class with the names of its shape parameters and one method, ``evaluate``.
`Sersic` overrides the two others with analytic derivatives, for speed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module

import numpy as np
import torch
from scipy import special
from torch import Tensor

# smaller values of exp are rounded away next to the rest of any image; if its result underflows,
# `torch.exp` takes thirty times as long on a CPU
LEAST_EXPONENT = -80.0


class Profile:
    """A radial profile; subclasses define ``shape`` and ``evaluate``."""

    shape: tuple[str, ...] = ()

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the surface brightness at ``rho``, the elliptical radius over the size parameter.

        Args:
            rho: radius in units of the size parameter, any shape, > 0.
            shape: the shape parameters, broadcast against ``rho``.

        Returns:
            Brightness normalised so that its integral 2 pi rho d rho is 1.
        """
        raise NotImplementedError

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Turn ln of the shape parameters (B, S) into the coefficients (B, C) used per pixel."""
        return torch.exp(log_shape)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        return self.evaluate(torch.exp(0.5 * log_rho2), *coefficients)

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the brightness and its derivatives by ln(rho^2) and by ln of each shape parameter.

        The default is automatic (forward mode); override it if speed matters.
        """

        if torch.is_inference_mode_enabled() and not torch.compiler.is_compiling():
            # there torch (2.6 and 2.8 were tried) gives powers a slope of 0
            with torch.inference_mode(False), torch.no_grad():
                own = tuple(c.clone() for c in coefficients)
                return self._automatic(log_rho2.clone(), own)
        return self._automatic(log_rho2, coefficients)

    def _automatic(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return `derivatives` by forward-mode differentiation."""

        def at(log_rho2: Tensor, *log_shape: Tensor) -> Tensor:
            return self.evaluate(torch.exp(0.5 * log_rho2), *(torch.exp(v) for v in log_shape))

        primals = (log_rho2, *(torch.log(c) for c in coefficients))
        slopes = []
        for i in range(len(primals)):
            one_hot = tuple(
                torch.ones_like(p) if i == j else torch.zeros_like(p) for j, p in enumerate(primals)
            )
            f, slope = torch.func.jvp(at, primals, one_hot)[:2]
            slopes.append(slope)
        return f, slopes[0], tuple(slopes[1:])


class Sersic(Profile):
    """The Sersic (1963) profile exp(-b_n rho^(1/n)), b_n exact (Ciotti & Bertin 1999, eq. 5)."""

    shape = ("n",)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius, index ``n``."""
        (n,) = shape
        b = torch.exp(_hermite(torch.log(n), 0))
        log_norm = 2 * n * torch.log(b) - math.log(2 * math.pi) - torch.log(n)
        return torch.exp(log_norm - torch.special.gammaln(2 * n) - b * rho ** (1 / n))

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Return 1/2n, b_n, ln of the normalisation, and the latter two's d / d ln n."""
        log_n = log_shape[:, 0]
        n = torch.exp(log_n)
        log_b, slope_b = _hermite(log_n, 0), _hermite(log_n, 1)
        log_norm = 2 * n * log_b - math.log(2 * math.pi) - log_n - torch.special.gammaln(2 * n)
        slope_norm = 2 * n * (log_b + slope_b - torch.special.digamma(2 * n)) - 1
        return torch.stack([0.5 / n, torch.exp(log_b), log_norm, slope_norm, slope_b], dim=1)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        power, b, log_norm, _, _ = coefficients
        return torch.exp(log_norm - _above_underflow(b * torch.exp(power * log_rho2), log_norm))

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the analytic derivatives by ln(rho^2) and ln n."""
        power, b, log_norm, slope_norm, slope_b = coefficients
        z = power * log_rho2
        w = _above_underflow(b * torch.exp(z), log_norm)
        f = torch.exp(log_norm - w)
        return f, -f * w * power, (f * (slope_norm - w * (slope_b - z)),)


def _above_underflow(w: Tensor, log_norm: Tensor) -> Tensor:
    """Limit ``w`` so that exp(log_norm - w) is at least exp(`LEAST_EXPONENT`)."""
    return torch.minimum(w, log_norm - LEAST_EXPONENT)


class Exponential(Profile):
    """An exponential disk, Sersic with n = 1; the size is the half-light radius."""

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the unit-flux brightness at ``rho`` = radius / half-light radius."""
        b = 1.6783469900166605
        return b * b / (2 * math.pi) * torch.exp(-b * rho)


PROFILES: dict[str, Callable[[], Profile]] = {"sersic": Sersic, "exponential": Exponential}


def find_profile(name: str) -> Profile:
    """Return the profile of that name, or the class named by ``my_module:MyProfile``.

    This never imports a module, as the name may come from a table or a settings file of someone
    else: the user must import it (`import_profiles`, ``--allow-import``).

    Raises:
        ValueError: if there is no such profile; the message lists the known ones.
    """
    if name in PROFILES:
        return PROFILES[name]()
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(PROFILES)
        raise ValueError(f"unknown profile '{name}': expected {known}, or my_module:MyProfile")
    if module not in sys.modules:
        raise ValueError(
            f"profile '{name}' is of a module that was not imported, and a name in a file imports "
            f"none: import {module} first, or on the command line say --allow-import {module}"
        )
    kind = getattr(sys.modules[module], attribute, None)
    if kind is None:
        raise ValueError(f"profile '{name}' cannot be found: '{module}' has no '{attribute}'")
    if not (isinstance(kind, type) and issubclass(kind, Profile)):  # checked before it is called
        raise ValueError(f"'{name}' is not a subclass of hybridfit.model.profiles.Profile")
    try:
        return kind()
    except TypeError as error:
        raise ValueError(f"profile '{name}' cannot be created: {error}") from error


def import_profiles(names: Iterable[str]) -> None:
    """Import the modules of profiles named by the user, e.g. ``my_module:MyProfile``.

    Raises:
        ValueError: if one cannot be imported.
    """
    for name in names:
        module, colon, _ = name.partition(":")
        if name in PROFILES or not colon:
            continue
        try:
            import_module(module)
        except (ImportError, TypeError, ValueError) as error:
            raise ValueError(f"profile '{name}' cannot be imported: {error}") from error


# ln n from 0.1 to 20; cubic Hermite between nodes is good to 1e-10 in ln b
_FIRST, _LAST, _NODES = math.log(0.1), math.log(20.0), 1024


@lru_cache(maxsize=16)
def _log_b_table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return nodes of ln b_n and d ln b_n / d ln n, (2, nodes)."""
    log_n = np.linspace(_FIRST, _LAST, _NODES)
    step = 1e-4  # five-point derivative: error ~ step^4
    at = [np.log(special.gammaincinv(2 * np.exp(log_n + k * step), 0.5)) for k in range(-2, 3)]
    slope = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * step)
    return torch.tensor(np.stack([at[2], slope]), dtype=dtype, device=device)


def _hermite(log_n: Tensor, order: int) -> Tensor:
    """Return ln b_n (order 0) or its derivative by ln n (order 1)."""
    values, slopes = _log_b_table(log_n.device, log_n.dtype)
    step = (_LAST - _FIRST) / (_NODES - 1)
    position = ((log_n - _FIRST) / step).clamp(0, _NODES - 1)
    i = position.long().clamp(0, _NODES - 2)  # NaN has no index, but stays NaN in t
    t = position - i
    f0, f1, d0, d1 = values[i], values[i + 1], slopes[i] * step, slopes[i + 1] * step
    c2, c3 = 3 * (f1 - f0) - 2 * d0 - d1, 2 * (f0 - f1) + d0 + d1
    if order == 0:
        return f0 + t * (d0 + t * (c2 + t * c3))
    return (d0 + t * (2 * c2 + 3 * t * c3)) / step
