"""One configuration for a run of fits, and one for predictions: in Python, in YAML, by flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from hybridfit.fitting.options import FitOptions
from hybridfit.io.options import ReadOptions
from hybridfit.model.prior import Prior
from hybridfit.options.metadata import option
from hybridfit.options.sections import Sections, section_lines
from hybridfit.pipeline.options import FileRunOptions, PredictOptions, RunOptions
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions

GALFIT_INDEX = 20.0  # largest Sersic index that GALFIT allows


class SectionKeywords(TypedDict, total=False):
    """The sections of a `Config`, as keywords of a function."""

    read: ReadOptions
    fit: FitOptions
    sampling: SamplingOptions
    bootstrap: BootstrapOptions
    budget: BudgetOptions
    run: RunOptions


@dataclass(frozen=True)
class Config(Sections):
    """Everything that a run of fits depends on, but for its galaxies."""

    read: ReadOptions = option(default_factory=ReadOptions, help="how galaxies are read")
    fit: FitOptions = option(default_factory=FitOptions, help="the model, and how it is fitted")
    sampling: SamplingOptions = option(
        default_factory=SamplingOptions, help="how posteriors are sampled (uncertainty: posterior)"
    )
    bootstrap: BootstrapOptions = option(
        default_factory=BootstrapOptions, help="how replicas are made (uncertainty: bootstrap)"
    )
    budget: BudgetOptions = option(
        default_factory=BudgetOptions, help="errors beyond those of the noise map"
    )
    run: RunOptions = option(default_factory=RunOptions, help="where to compute, and what to write")
    input: str | None = option(None, help="directory, manifest or file of the galaxies")

    @classmethod
    def from_mapping(
        cls, given: Mapping[str, Any], where: str = "the options", defaults: Config | None = None
    ) -> Config:
        """Return the configuration of YAML sections; `prior` may be a section of its own."""
        sections = dict(given)
        prior = sections.pop("prior", None)
        config = super().from_mapping(sections, where, defaults)
        if prior is None:
            return config
        return replace(config, fit=replace(config.fit, prior=Prior.from_mapping(prior)))

    def to_mapping(self) -> dict[str, Any]:
        """Return all options by section, the prior as a section of its own."""
        sections = super().to_mapping()
        prior = sections["fit"].pop("prior")
        return {**sections, "prior": prior}

    def to_yaml(self) -> str:
        """Return all options as YAML, each with its help: what `from_yaml` takes back."""
        prior = section_lines("prior", Prior, self.to_mapping()["prior"])
        return "\n".join([super().to_yaml(), *prior])

    @property
    def errors(self) -> ErrorOptions:
        """Where errors come from, and the options of each way to them."""
        return ErrorOptions(self.run.uncertainty, self.sampling, self.bootstrap, self.budget)


def galfit_config() -> Config:
    """Return the defaults for GALFIT input files: GALFIT's convolution, errors and indices."""
    prior = Prior()
    prior = replace(prior, n=replace(prior.n, high=GALFIT_INDEX))
    fit = FitOptions(convolution="galfit", prior=prior)
    return Config(fit=fit, run=RunOptions(uncertainty="covariance"))


class PredictSections(TypedDict, total=False):
    """The sections of a `PredictConfig`, as keywords of a function."""

    read: ReadOptions
    predict: PredictOptions
    run: FileRunOptions


@dataclass(frozen=True)
class PredictConfig(Sections):
    """Everything that a run of predictions depends on, but for its galaxies."""

    read: ReadOptions = option(default_factory=ReadOptions, help="how galaxies are read")
    predict: PredictOptions = option(
        default_factory=PredictOptions, help="how posteriors are predicted"
    )
    run: FileRunOptions = option(
        default_factory=FileRunOptions, help="where to compute, and what to write"
    )
    input: str | None = option(None, help="directory, manifest or file of the galaxies")
