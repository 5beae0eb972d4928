"""The measurements of a batch: fit, draws, and their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.diagnostics import SamplingDiagnostics, expanded, unknown
from hybridfit.data.fit import Fit
from hybridfit.data.neighbours import Neighbours
from hybridfit.data.samples import Draws
from hybridfit.deprecations import rows, warn

OWN_COLUMNS = ("fit_network_distance", "flow_distance", "catastrophic_probability")
QUALITY_COLUMNS = ("ess", "pareto_k", "log_evidence", "missed_mass", *OWN_COLUMNS)
FLUXES = ("flux", "flux_err", "flux_limit")


class Quality(IntEnum):
    """Quality of a galaxy's numbers; in lower case in the column ``quality``."""

    SUSPECT = 0
    USABLE = 1
    CERTIFIED = 2


@dataclass(frozen=True)
class Result(Batch):
    """The measurements of a batch: best fit, errors, and their quality.

    Args:
        fit: the best fit, with the quoted covariance and all flags.
        quality: (B,) int64, values of `Quality`.
        draws: weighted draws of the posterior or the bootstrap; None for errors from a
            covariance only.
        diagnostics: of the draws, `ess` to `missed_mass`; NaN where they do not apply.
        fit_network_distance: (B,) distance between the fit and the network's posterior in units
            of their joint errors; NaN where it does not apply, as for all that follow.
        flow_distance: (B,) root-mean-square distance of the fit from the centre of the network's
            posterior, in the coordinates in which that is a standard normal; usually 0.3 to 1.
        catastrophic_probability: (B,) probability that the magnitude is off by more than 0.5 mag,
            or the size by more than a factor of 2.
        notes: B sentences on the most likely problem, "" if there is none.
        flux, flux_err: (B,) of all components together, flux units; for a galaxy without signal
            forced photometry at the target's position, which may be negative.
        flux_limit: (B,) its upper limit of 95 %; NaN for a galaxy with signal.
        neighbours: that were fitted with the targets; None where none were looked for.
    """

    fit: Fit
    quality: Tensor
    draws: Draws | None = None
    diagnostics: SamplingDiagnostics = field(default_factory=SamplingDiagnostics)
    fit_network_distance: Tensor = unknown()
    flow_distance: Tensor = unknown()
    catastrophic_probability: Tensor = unknown()
    notes: tuple[str, ...] = ()
    flux: Tensor = unknown()
    flux_err: Tensor = unknown()
    flux_limit: Tensor = unknown()
    neighbours: Neighbours | None = None

    def __post_init__(self) -> None:
        batch = len(self.fit)
        if len(self.notes) not in (0, batch):
            raise ValueError(f"{len(self.notes)} notes came for {batch} galaxies")
        object.__setattr__(self, "notes", self.notes or ("",) * batch)
        object.__setattr__(self, "diagnostics", self.diagnostics.expanded(batch))
        for name in ("quality", *OWN_COLUMNS, *FLUXES):
            object.__setattr__(self, name, expanded(name, getattr(self, name), batch))

    @property
    def ess(self) -> Tensor:
        """(B,) effective number of draws."""
        return self.diagnostics.ess

    @property
    def pareto_k(self) -> Tensor:
        """(B,) shape of the weights' tail; weights are reliable below 0.7."""
        return self.diagnostics.pareto_k

    @property
    def log_evidence(self) -> Tensor:
        """(B,) ln of the evidence, the likelihood averaged over the prior.

        It compares models of one cutout with any components and sky; NaN if draws or sky are
        insufficient. The prior of total flux and sky has density 1 per typical pixel's noise, that
        of the components' shares is uniform, see `hybridfit.uncertainty.evidence`.
        """
        return self.diagnostics.log_evidence

    @property
    def missed_mass(self) -> Tensor:
        """(B,) fraction of the posterior's mass where the network puts almost none."""
        return self.diagnostics.missed_mass

    def __getattr__(self, name: str) -> Any:
        new = rows("attribute", "Result").get(name)
        if new is None:
            raise AttributeError(f"'Result' object has no attribute '{name}'")
        warn(f"Result.{name}", f"Result.{new}")
        return getattr(self, new)
