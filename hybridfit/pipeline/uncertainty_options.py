"""Where errors come from, and the settings of each way to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybridfit.options.checks import check_choice, check_fields
from hybridfit.pipeline.options import UNCERTAINTIES
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions


@dataclass(frozen=True)
class ErrorOptions:
    """Where errors come from, and the settings of each way to them.

    Args:
        uncertainty: "posterior" (the fit and the network's draws reconciled by the likelihood),
            "bootstrap", or "covariance" (of the likelihood's curvature at the fit).
        sampling: see `SamplingOptions`.
        bootstrap: see `BootstrapOptions`.
        budget: see `BudgetOptions`: what widens errors beyond those of the noise map.
    """

    uncertainty: str = "posterior"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("uncertainty", self.uncertainty, UNCERTAINTIES)

    def n_draws(self, n_components: int) -> int:
        """Draws that a galaxy may have, with a model of so many components; 0 if none are made."""
        counts = {
            "posterior": self.sampling.most_draws(n_components),
            "bootstrap": self.bootstrap.replicas,
        }
        return counts.get(self.uncertainty, 0)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that shape the errors, by section; those of other ways are left out."""
        own = {"posterior": ("sampling", "budget"), "bootstrap": ("bootstrap",)}
        if self.budget.covariance:
            own["covariance"] = ("budget",)
        return {name: getattr(self, name) for name in own.get(self.uncertainty, ())}
