"""The prior on a galaxy's parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from hybridfit.options.checks import check_fields, checked
from hybridfit.options.metadata import option
from hybridfit.options.yaml_options import check_keys

if TYPE_CHECKING:
    from torch import Tensor

MAX_U = 6.0  # beyond it Phi(u) rounds to 0 or 1 in the truncated priors


@dataclass(frozen=True)
class LogNormal:
    """A normal prior in ln(value), truncated at ``low`` and ``high``.

    ``value = exp(mu + sigma Phi^-1(a + c Phi(u)))`` maps a standard normal ``u`` to it.
    """

    median: float = option(help="median of the distribution before truncation", above=0)
    sigma: float = option(help="standard deviation of ln(value)", above=0, below=math.inf)
    low: float = option(help="lower bound", above=0)
    high: float = option(help="upper bound", above=0)

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.low < self.high and self.low <= self.median <= self.high):
            raise ValueError(f"expected low <= median <= high and low < high, got {self}")

    def _cut(self) -> tuple[float, float, float]:
        mu = math.log(self.median)
        low = _normal_cdf((math.log(self.low) - mu) / self.sigma)
        return mu, low, _normal_cdf((math.log(self.high) - mu) / self.sigma) - low

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Of the family NORMAL in `hybridfit.model.distributions`."""
        mu, low, span = self._cut()
        return mu, self.sigma, low, span

    def log_value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln(value) and d ln(value) / du, each of the shape of ``u``."""
        import torch  # here, so that options and their help load without it

        mu, low, span = self._cut()
        u = u.clamp(-MAX_U, MAX_U)
        z = torch.special.ndtri(low + span * torch.special.ndtr(u))
        slope = self.sigma * span * torch.exp(0.5 * (z**2 - u**2))
        return mu + self.sigma * z, slope

    def whitened(self, log_value: Tensor) -> Tensor:
        """Return u for ln(value); values outside the limits map to the edge, |u| = 4."""
        import torch

        mu, low, span = self._cut()
        cdf = (torch.special.ndtr((log_value - mu) / self.sigma) - low) / span
        return torch.special.ndtri(cdf.clamp(0.0, 1.0)).clamp(-4.0, 4.0)


@dataclass(frozen=True)
class Normal:
    """A normal prior, truncated at ``low`` and ``high``."""

    mean: float = option(help="mean of the distribution before truncation", above=-math.inf)
    sigma: float = option(help="standard deviation", above=0, below=math.inf)
    low: float = option(-math.inf, help="lower bound")
    high: float = option(math.inf, help="upper bound")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self}")

    @property
    def median(self) -> float:
        """Median before truncation."""
        return self.mean

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Of the family NORMAL in `hybridfit.model.distributions`."""
        low, high = (_normal_cdf((v - self.mean) / self.sigma) for v in (self.low, self.high))
        return self.mean, self.sigma, low, high - low


@dataclass(frozen=True)
class Uniform:
    """A uniform prior between ``low`` and ``high``."""

    low: float = option(help="lower bound", above=-math.inf, below=math.inf)
    high: float = option(help="upper bound", above=-math.inf, below=math.inf)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self}")


Distribution = LogNormal | Normal | Uniform
LOG_NORMAL_KEYS = ("median", "sigma", "low", "high")


@dataclass(frozen=True)
class Prior:
    """The prior shared by simulator, fitter and importance weights.

    The position is uniform in a box around the target. ``eta = scale u sqrt(core^2 + |u|^2 / 4)``
    with scale 1 makes q nearly uniform for thin and intermediate galaxies and its density smooth at
    q = 1.
    """

    r_circ: LogNormal = option(
        LogNormal(4.0, 1.2, 0.03, 1000.0),
        help="log-normal prior of the circularised radius r_eff sqrt(q)",
        unit="pix",
    )
    n: LogNormal = option(
        LogNormal(1.8, 0.9, 0.15, 12.0), help="log-normal prior of the Sersic index"
    )
    shapes: Mapping[str, LogNormal] = option(
        default_factory=dict, help="log-normal priors of the shape parameters of other profiles"
    )
    q_min: float = option(0.02, help="smallest axis ratio", above=0, below=1)
    q_core: float = option(
        0.5,
        help="axis ratio scale at which the density turns over, so that it is smooth at q = 1",
        above=0,
        below=math.inf,
    )
    q_scale: float = option(
        1.0,
        help="factor on -ln q: 1 makes q nearly uniform, 0.5 its density nearly proportional to q",
        above=0,
        below=math.inf,
    )
    position: float = option(
        0.25,
        help="half-width of the box around the target in which the centre lies",
        unit="shorter cutout sides",
        above=0,
        below=math.inf,
    )

    def __post_init__(self) -> None:
        check_fields(self, "prior")
        for name, value in self.shapes.items():
            checked(f"prior.shapes.{name}", value, LogNormal)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Prior:
        """Build a prior from a YAML mapping such as ``{n: {median: 2, sigma: 1}}``."""
        return cls().updated(given)

    def updated(self, given: Mapping[str, Any]) -> Prior:
        """Return this prior with what a YAML mapping says differently, see `from_mapping`."""
        checked("prior", given, Mapping)
        check_keys(given, [field.name for field in fields(self)], "prior")
        values: dict[str, Any] = dict(given)
        for name, numbers in checked("prior.shapes", values.get("shapes", {}), Mapping).items():
            checked(f"prior.shapes.{name}", numbers, Mapping)
            check_keys(numbers, list(LOG_NORMAL_KEYS), f"prior shapes {name}")
            if missing := [key for key in LOG_NORMAL_KEYS if key not in numbers]:
                expected = ", ".join(LOG_NORMAL_KEYS)
                raise ValueError(f"prior shapes {name} lacks '{missing[0]}': expected {expected}")
        own = {k: LogNormal(**v) for k, v in values.get("shapes", {}).items()}
        values["shapes"] = {**self.shapes, **own}
        for name in ("r_circ", "n"):
            if name in values and not isinstance(values[name], LogNormal):
                checked(f"prior.{name}", values[name], Mapping)
                check_keys(values[name], list(LOG_NORMAL_KEYS), f"prior {name}")
                values[name] = replace(getattr(self, name), **values[name])
        return replace(self, **values)

    @property
    def ellipticity(self) -> tuple[float, float, float]:
        """The numbers of `hybridfit.model.ellipticity`."""
        return self.q_min, self.q_core, self.q_scale

    def of(self, name: str) -> LogNormal:
        """Return the prior of a shape parameter; raise ValueError if there is none."""
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
