"""How well posteriors were sampled, and how well the network knows the galaxies."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from hybridfit.batch import Batch


def unknown(value: float = torch.nan, dtype: torch.dtype = torch.float64) -> Any:
    """Declare a number that by default is the same for every galaxy: NaN, or ``value``."""
    return field(default_factory=lambda: torch.tensor(value, dtype=dtype))


def expanded(name: str, value: Tensor, batch: int) -> Tensor:
    """Return a number of every galaxy (B,); a single one is that of all.

    Raises:
        ValueError: if ``value`` has another shape.
    """
    if value.ndim == 0:
        value = value.expand(batch)
    if tuple(value.shape) != (batch,):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {(batch,)} as the fit")
    return value


@dataclass(frozen=True)
class SamplingDiagnostics(Batch):
    """How well the posteriors of B galaxies were sampled; NaN where a number does not apply.

    Args:
        ess: (B,) effective number of draws.
        pareto_k: (B,) shape of the weights' tail; weights are reliable below 0.7. NaN where the
            draws are a chain's.
        log_evidence: (B,) ln of the integral of likelihood, exp(-chi2 / 2), times prior. As it
            leaves the sampler, flux and sky are in units of the noise; `with_evidence` of
            `hybridfit.uncertainty.evidence` makes it comparable between models.
        missed_mass: (B,) share of the posterior's mass where the network's density is below that
            of all its own draws.
        n_draws: (B,) int64, points at which the likelihood was evaluated.
    """

    ess: Tensor = unknown()
    pareto_k: Tensor = unknown()
    log_evidence: Tensor = unknown()
    missed_mass: Tensor = unknown()
    n_draws: Tensor = unknown(0, torch.int64)

    def expanded(self, batch: int) -> SamplingDiagnostics:
        """Return those of ``batch`` galaxies; a single number is that of all of them.

        Raises:
            ValueError: if one has another shape.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return self._with({name: expanded(name, v, batch) for name, v in values.items()})


@dataclass(frozen=True)
class NetworkDiagnostics(Batch):
    """How well the network knows B galaxies.

    Args:
        rejected: (B,) int64, implausible draws; `predict_cutouts` draws others in their place.
        distance: (B,) float64, distance of the network's context from those in training.
        flags: (B,) int64, bits of `Flag`.
    """

    rejected: Tensor
    distance: Tensor
    flags: Tensor
