"""Where errors come from, and the settings of each way to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybridfit.options.checks import check_choice, check_fields
from hybridfit.sampling.importance_sampling import ReconcileOptions
from hybridfit.uncertainty.bootstrap import BootstrapOptions
from hybridfit.uncertainty.error_budget import BudgetOptions

DRAWN = ("posterior", "bootstrap")  # ways to errors that give draws
UNCERTAINTIES = ("posterior", "bootstrap", "covariance")


@dataclass(frozen=True)
class ErrorOptions:
    """Where errors come from, and the settings of each way to them.

    Args:
        uncertainty: "posterior" (the fit and the network's draws reconciled by the likelihood),
            "bootstrap", or "covariance" (of the likelihood's curvature at the fit).
        posterior: see `ReconcileOptions`.
        bootstrap: see `BootstrapOptions`.
        budget: see `BudgetOptions`: what widens errors beyond those of the noise map.
    """

    uncertainty: str = "posterior"
    posterior: ReconcileOptions = field(default_factory=ReconcileOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)

    def __post_init__(self) -> None:
        check_fields(self)
        check_uncertainty(self.uncertainty)

    def n_draws(self, n_components: int) -> int:
        """Draws that a galaxy may have, with a model of so many components; 0 if none are made."""
        counts = {
            "posterior": self.posterior.most_draws(n_components),
            "bootstrap": self.bootstrap.replicas,
        }
        return counts.get(self.uncertainty, 0)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that shape the errors, by section; those of other ways are left out."""
        own = {"posterior": ("posterior", "budget"), "bootstrap": ("bootstrap",)}
        if self.budget.covariance:
            own["covariance"] = ("budget",)
        return {name: getattr(self, name) for name in own.get(self.uncertainty, ())}


def check_uncertainty(name: str) -> None:
    """Raise ValueError for a way to errors that is not there."""
    check_choice("uncertainty", name, UNCERTAINTIES)


def check_samples(save_samples: bool, uncertainty: str) -> None:
    """Raise ValueError where draws are wanted of a way to errors that makes none."""
    if save_samples and uncertainty not in DRAWN:
        raise ValueError(
            f"save_samples needs draws, and uncertainty '{uncertainty}' makes none: expected one "
            f"of {', '.join(DRAWN)}"
        )
