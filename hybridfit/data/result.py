"""The measurements of a batch: fit, draws, and their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.data.fit import Fit
from hybridfit.data.samples import Draws
from hybridfit.deprecations import rows, warn

QUALITY_COLUMNS = (
    "ess",
    "pareto_k",
    "log_evidence",
    "missed_mass",
    "fit_network_distance",
    "flow_distance",
    "catastrophic_probability",
)
FLUXES = ("flux", "flux_err", "flux_limit")


class Quality(IntEnum):
    """Quality of a galaxy's numbers; in lower case in the column ``quality``."""

    SUSPECT = 0
    USABLE = 1
    CERTIFIED = 2


def unknown() -> Any:
    """Declare a number that is NaN for every galaxy by default."""
    return field(default_factory=lambda: torch.tensor(torch.nan, dtype=torch.float64))


@dataclass(frozen=True)
class Result(Batch):
    """The measurements of a batch: best fit, errors, and their quality.

    Args:
        fit: the best fit, with the quoted covariance and all flags.
        quality: (B,) int64, values of `Quality`.
        draws: weighted draws of the posterior or the bootstrap; None for errors from a
            covariance only.
        ess: (B,) effective number of draws; NaN where it does not apply, as for all that follow.
        pareto_k: (B,) shape of the weights' tail; weights are reliable below 0.7.
        log_evidence: (B,) ln of the evidence, the likelihood averaged over the prior, which
            compares models of one cutout with any components and sky; NaN if draws or sky are
            insufficient. The prior of total flux and sky has density 1 per typical pixel's noise,
            that of the components' shares is uniform, see `hybridfit.uncertainty.evidence`.
        missed_mass: (B,) fraction of the posterior's mass where the network puts almost none.
        fit_network_distance: (B,) distance between the fit and the network's posterior in units
            of their joint errors.
        flow_distance: (B,) root-mean-square distance of the fit from the centre of the network's
            posterior, in the coordinates in which that is a standard normal; usually 0.3 to 1.
        catastrophic_probability: (B,) probability that the magnitude is off by more than 0.5 mag,
            or the size by more than a factor of 2.
        notes: B sentences on the most likely problem, "" if there is none.
        flux, flux_err: (B,) of all components together, flux units; for a galaxy without signal
            forced photometry at the target's position, which may be negative.
        flux_limit: (B,) its upper limit of 95 %; NaN for a galaxy with signal.
    """

    fit: Fit
    quality: Tensor
    draws: Draws | None = None
    ess: Tensor = unknown()
    pareto_k: Tensor = unknown()
    log_evidence: Tensor = unknown()
    missed_mass: Tensor = unknown()
    fit_network_distance: Tensor = unknown()
    flow_distance: Tensor = unknown()
    catastrophic_probability: Tensor = unknown()
    notes: tuple[str, ...] = ()
    flux: Tensor = unknown()
    flux_err: Tensor = unknown()
    flux_limit: Tensor = unknown()

    def __post_init__(self) -> None:
        batch = len(self.fit)
        if len(self.notes) not in (0, batch):
            raise ValueError(f"{len(self.notes)} notes came for {batch} galaxies")
        object.__setattr__(self, "notes", self.notes or ("",) * batch)
        for name in ("quality", *QUALITY_COLUMNS, *FLUXES):
            value = getattr(self, name)
            if value.ndim == 0:
                value = value.expand(batch)
            if tuple(value.shape) != (batch,):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected {(batch,)} as the fit"
                )
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        new = rows("attribute", "Result").get(name)
        if new is None:
            raise AttributeError(f"'Result' object has no attribute '{name}'")
        warn(f"Result.{name}", f"Result.{new}")
        return getattr(self, new)
