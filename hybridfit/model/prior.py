"""The prior: what is known about a galaxy's parameters before a pixel is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hybridfit.options.checks import check_fields, checked
from hybridfit.options.yaml_options import check_keys

MAX_U = 6.0  # beyond it Phi(u) rounds to 0 or 1 in the truncated priors


@dataclass(frozen=True)
class LogNormal:
    """A normal prior in ln(value), cut at ``low`` and ``high`` so that these are never crossed.

    ``value = exp(mu + sigma Phi^-1(a + c Phi(u)))`` maps a standard normal ``u`` to it.
    """

    median: float
    sigma: float  # in ln(value)
    low: float
    high: float

    def __post_init__(self) -> None:
        check_fields(self)
        if not (0 < self.low < self.high and self.low <= self.median <= self.high):
            raise ValueError(f"expected 0 < low <= median <= high and low < high, got {self}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"expected a finite sigma > 0, got {self}")

    def _cut(self) -> tuple[float, float, float]:
        mu = math.log(self.median)
        low = _normal_cdf((math.log(self.low) - mu) / self.sigma)
        return mu, low, _normal_cdf((math.log(self.high) - mu) / self.sigma) - low

    def log_value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln(value) and d ln(value) / du, each of the shape of ``u``."""
        mu, low, span = self._cut()
        u = u.clamp(-MAX_U, MAX_U)
        z = torch.special.ndtri(low + span * torch.special.ndtr(u))
        slope = self.sigma * span * torch.exp(0.5 * (z**2 - u**2))
        return mu + self.sigma * z, slope

    def whitened(self, log_value: Tensor) -> Tensor:
        """Return u for ln(value); values outside the cut give the edge, |u| = 4."""
        mu, low, span = self._cut()
        cdf = (torch.special.ndtr((log_value - mu) / self.sigma) - low) / span
        return torch.special.ndtri(cdf.clamp(0.0, 1.0)).clamp(-4.0, 4.0)


LOG_NORMAL_KEYS = ("median", "sigma", "low", "high")


@dataclass(frozen=True)
class Prior:
    """What is known before a pixel is read; simulator, fitter and importance weights share it.

    The position is uniform in a box around the target. ``eta = u sqrt(core^2 + |u|^2 / 4)``
    makes q nearly uniform for thin and middling galaxies and its density smooth at q = 1.
    """

    r_circ: LogNormal = LogNormal(4.0, 1.2, 0.03, 1000.0)  # pix, circularised: r_eff sqrt(q)
    n: LogNormal = LogNormal(1.8, 0.9, 0.15, 12.0)
    shapes: Mapping[str, LogNormal] = field(default_factory=dict)  # of other profiles' parameters
    q_min: float = 0.02
    q_core: float = 0.5  # where the axis ratio's density turns over to be smooth at q = 1
    position: float = 0.25  # half-width of the box, in units of the stamp's shorter side

    def __post_init__(self) -> None:
        check_fields(self, "prior")
        for name, value in self.shapes.items():
            checked(f"prior.shapes.{name}", value, LogNormal)
        if not 0 < self.q_min < 1:
            raise ValueError(f"prior.q_min is {self.q_min}, expected a number between 0 and 1")
        for name in ("q_core", "position"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"prior.{name} is {getattr(self, name)}, expected more than 0")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Prior:
        """Build a prior from a YAML mapping such as ``{n: {median: 2, sigma: 1}}``."""
        default = cls()
        checked("prior", given, Mapping)
        check_keys(given, ["r_circ", "n", "shapes", "q_min", "q_core", "position"], "prior")
        values: dict[str, Any] = dict(given)
        for name, numbers in checked("prior.shapes", values.get("shapes", {}), Mapping).items():
            checked(f"prior.shapes.{name}", numbers, Mapping)
            check_keys(numbers, list(LOG_NORMAL_KEYS), f"prior shapes {name}")
            if missing := [key for key in LOG_NORMAL_KEYS if key not in numbers]:
                expected = ", ".join(LOG_NORMAL_KEYS)
                raise ValueError(f"prior shapes {name} lacks '{missing[0]}': expected {expected}")
        values["shapes"] = {k: LogNormal(**v) for k, v in values.get("shapes", {}).items()}
        for name in ("r_circ", "n"):
            if name in values and not isinstance(values[name], LogNormal):
                checked(f"prior.{name}", values[name], Mapping)
                check_keys(values[name], list(LOG_NORMAL_KEYS), f"prior {name}")
                values[name] = replace(getattr(default, name), **values[name])
        return cls(**values)

    def of(self, name: str) -> LogNormal:
        """The prior of a shape parameter; ValueError where there is none."""
        if name == "n":
            return self.n
        if name not in self.shapes:
            raise ValueError(
                f"no prior for the shape parameter '{name}': give one as "
                f"prior.shapes.{name} with median, sigma, low and high"
            )
        return self.shapes[name]


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
