"""One configuration for the catalogue of an image."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.fitting.options import FitOptions
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.survey.options import SurveyOptions
from hybridfit.mosaic.options import CatalogOptions
from hybridfit.options.metadata import option
from hybridfit.options.sections import Sections
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions


@dataclass(frozen=True)
class CatalogConfig(Sections):
    """Everything that the catalogue of an image depends on, but for the image."""

    survey: SurveyOptions = option(
        default_factory=SurveyOptions, help="how the image and its noise are read"
    )
    psf: PSFOptions = option(default_factory=PSFOptions, help="how the PSF is read")
    catalog: CatalogOptions = option(
        default_factory=CatalogOptions, help="how sources are found and cut out"
    )
    fit: FitOptions = option(
        default_factory=lambda: FitOptions(neighbours="fit"),
        help="the model, and how it is fitted",
    )
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
    psf_file: str | None = option(
        None, help="file of the PSF, a grid by position (PSFEx, stpsf...), or a directory of PSFs"
    )

    @property
    def errors(self) -> ErrorOptions:
        """Where errors come from, and the options of each way to them."""
        return ErrorOptions(self.run.uncertainty, self.sampling, self.bootstrap, self.budget)
