"""Fitting from files to a table, part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.result import Quality, Result
from hybridfit.deprecations import renamed_arguments
from hybridfit.fitting.galaxy_scenes import fixed_groups
from hybridfit.fitting.options import FitOptions
from hybridfit.io import blocks
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import Cutout, read_cutout
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.sources import Source
from hybridfit.io.table import Column
from hybridfit.io.writing import real_folder
from hybridfit.model.declaration import profile_names
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import import_profiles
from hybridfit.model.value_columns import ValueColumns, value_columns
from hybridfit.npe.network import Estimator
from hybridfit.pipeline.component_images import images_of_components
from hybridfit.pipeline.config import Config, SectionKeywords
from hybridfit.pipeline.engine.isolation import ordinary_galaxy
from hybridfit.pipeline.engine.job import Job, Summary, Work
from hybridfit.pipeline.measure import (
    Clock,
    compiles,
    measure,
    model_images,
)
from hybridfit.pipeline.neighbours import measure_jointly
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.run import run_files
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.pipeline.weights import checked_digest, loaded_network, starting_model


@renamed_arguments()
def fit_files(
    input: str | Path,
    out: str | Path,
    config: Config | str | Path | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = True,
    **sections: Unpack[SectionKeywords],
) -> Summary:
    """Fit all galaxies of a directory, manifest or file and write their table.

    A run that was killed continues where it stopped, with the same call, and ends with the same
    table; several processes may share a run. A galaxy that cannot be read is a flagged row with
    the reason.

    Args:
        input: see `hybridfit.io.read.find_sources`.
        out: directory for ``results.fits`` (or .ecsv, .vot, .parquet, .csv) and ``models/``.
        config: a `Config`, or the path of its YAML file.
        overwrite: discard another run's results in ``out``.
        quiet: without a progress bar.
        sections: ``read``, ``fit``, ``sampling``, ``bootstrap``, ``budget`` and ``run`` in place
            of the configuration's.

    Raises:
        UsageError: if the input as a whole, or what ``out`` holds already, is not usable.
        OSError: if ``out`` cannot be written.
    """
    config = Config.of(config, sections)
    run = config.run
    known = starting_model(run.weights, config.fit.model)
    digest = "" if run.initial_values == "moments" else checked_digest(run.weights, known)
    work = FitWork(config.read, run, config.fit, config.errors, digest)
    return run_files(input, out, work, overwrite, quiet)


@dataclass(frozen=True)
class FitWork(Work):
    """Fits with their errors.

    Args:
        read, run, fit, errors: options.
        digest: of the network's weights, "" without one; another machine must have the same.
    """

    read: ReadOptions
    run: RunOptions
    fit: FitOptions
    errors: ErrorOptions
    digest: str

    @property
    def options(self) -> dict[str, Any]:
        """The options by section."""
        return {"fit": self.fit, **self.errors.settings}

    @property
    def identity(self) -> dict[str, str]:
        """The network, if there is one."""
        return {"weights": self.digest} if self.digest else {}

    @property
    def network(self) -> Estimator | None:
        """The network that fits begin with, loaded once in a process."""
        if not self.digest:
            return None
        known = starting_model(self.run.weights, self.fit.model)
        return loaded_network(self.run.weights, self.digest, known)

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return torch.device(self.run.device)

    def n_samples(self, n_components: int) -> int:
        """Return the number of draws of each galaxy that are written."""
        return self.errors.n_draws(n_components) if self.run.save_samples else 0

    def columns(self, id_width: int) -> tuple[Column, ...]:
        """Return the columns of the table."""
        drawn = self.errors.n_draws(self.fit.space.n_components) > 0
        n_samples, together = self.n_samples(self.fit.space.n_components), self.fits_neighbours
        return result_columns(
            self.fit.space, id_width, self.run.covariance, drawn, n_samples, together
        )

    @property
    def fits_neighbours(self) -> bool:
        """Whether other sources are fitted with the targets."""
        return self.fit.neighbours == "fit"

    def read_cutout(self, source: Source) -> Cutout:
        """Read one galaxy; raises `BadInput`."""
        return read_cutout(source, unmasked(self.read, self.fit))

    @property
    def value_columns(self) -> ValueColumns:
        """The columns of a manifest that hold values of the model's parameters."""
        return value_columns(self.fit.scene)

    def rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        """Return the rows of galaxies of one shape, those that fix the same parameters together."""
        rows = np.zeros(len(cutouts), job.row_type)
        for group in fixed_groups(cutouts):
            rows[group.numpy()] = self._rows(cutouts[group], job, n_alike, clock)
        return rows

    def _rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        compile = compiles(self.fit, n_alike, self.device, self.errors)
        import_profiles(profile_names(self.fit.model))  # the caller has; a fresh process has not
        common = (self.fit, self.device, compile, self.errors, self.network, clock)
        if self.fits_neighbours:
            result, others = measure_jointly(cutouts, *common)
        else:
            result, others = measure(cutouts, *common), None
        if self.run.save_models:
            with clock("models"):
                images = model_images(
                    result.fit.theta, cutouts, self.fit.space, self.fit.convolution
                )
                images += 0 if others is None else others.numpy()
                parts = self._component_images(result.fit.theta, cutouts)
                folder = real_folder(job.models)
                blocks.write_blocks(folder, cutouts, result.fit, images, components=parts)
        with clock("writing"):
            return result_rows(cutouts, result, job.columns)

    def _component_images(self, theta: Tensor, cutouts: Cutouts) -> NDArray[np.float32] | None:
        """Return the images (B, M, H, W) of components for the blocks, if they are wanted."""
        if not self.run.save_components:
            return None
        return images_of_components(theta, cutouts, self.fit.space, self.fit.convolution)

    def blank_rows(self, cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        """Return the rows of galaxies without data."""
        return result_rows(cutouts, no_result(cutouts, self.fit.space), job.columns)

    def trial(self) -> Result:
        """Fit an ordinary galaxy."""
        galaxy = ordinary_galaxy(not self.read.no_psf)
        return measure(galaxy, self.fit, self.device, None, self.errors, self.network)


def unmasked(read: ReadOptions, fit: FitOptions) -> ReadOptions:
    """Return the options of reading, without masks of neighbours that are fitted or ignored."""
    masks = read.mask_neighbours and fit.neighbours == "mask"
    return replace(read, mask_neighbours=masks)


def no_result(cutouts: Cutouts, space: ParameterSpace) -> Result:
    """Return the result of galaxies without data: flags, and no values."""
    batch, q = len(cutouts), len(space.names)
    nothing = torch.full((batch, q), torch.nan, dtype=torch.float64)
    zero = torch.zeros(batch, dtype=torch.int64)
    covariance = nothing[:, :, None].expand(batch, q, q)
    fit = Fit(space, nothing, covariance, nothing[:, 0], zero, zero, cutouts.flags)
    return Result(fit, torch.full((batch,), int(Quality.SUSPECT)))
