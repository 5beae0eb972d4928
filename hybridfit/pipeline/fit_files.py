"""Fitting from files to a table, part by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.fit import Fit
from hybridfit.data.result import Quality, Result
from hybridfit.deprecations import renamed_arguments
from hybridfit.fitting.options import FitOptions
from hybridfit.io import blocks
from hybridfit.io.options import ReadOptions
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.table import Column
from hybridfit.io.writing import real_folder
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import weights_digest
from hybridfit.pipeline.engine.isolation import ordinary_galaxy
from hybridfit.pipeline.engine.job import Job, Stage, Summary
from hybridfit.pipeline.engine.serial import run_stream
from hybridfit.pipeline.measure import (
    compiles,
    measure,
    model_images,
    starting_network,
)
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions


@renamed_arguments()
def fit_files(
    input: str | Path,
    out: str | Path,
    read: ReadOptions = ReadOptions(),
    options: FitOptions = FitOptions(),
    run: RunOptions = RunOptions(),
    overwrite: bool = False,
    quiet: bool = True,
    sampling: SamplingOptions = SamplingOptions(),
    bootstrap: BootstrapOptions = BootstrapOptions(),
    budget: BudgetOptions = BudgetOptions(),
) -> Summary:
    """Fit all galaxies of a directory, manifest or file and write their table.

    The run may be killed at any moment: the same call goes on where it stopped and ends with
    the same table. A galaxy that cannot be read is a flagged row with the reason.

    Args:
        input: see `hybridfit.io.read.find_sources`.
        out: directory for ``results.fits`` (or .ecsv, .parquet, .csv) and ``models/``.
        read, options, run: of reading, fitting, and the run itself.
        overwrite: throw away another run's results in ``out``.
        quiet: without a progress bar.
        sampling, bootstrap: settings of these ways to errors; ``run.uncertainty`` chooses.
        budget: of the errors beyond the noise map's, which widen the posterior.

    Raises:
        UsageError: if the input as a whole, or what ``out`` holds already, is not usable.
        OSError: if ``out`` cannot be written.
    """
    errors = ErrorOptions(run.uncertainty, sampling, bootstrap, budget)
    try:
        estimator = starting_network(run.initial_values, run.weights)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    drawn = errors.n_draws(len(options.components))
    n_samples = drawn if run.save_samples else 0

    def columns(width: int) -> tuple[Column, ...]:
        return result_columns(options.space, width, run.covariance, drawn > 0, n_samples)

    def nothing(cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        return result_rows(cutouts, no_result(cutouts, options.space), job.schema)

    def trial() -> Result:
        galaxy, device = ordinary_galaxy(not read.no_psf), torch.device(run.device)
        return measure(galaxy, options, device, None, errors, estimator)

    stage = Stage(
        {"fit": options, **errors.settings},
        columns,
        lambda cutouts, job, share: _fit_batch(
            cutouts, job, options, run, errors, share, estimator
        ),
        nothing,
        trial,
        read,
        run,
        {} if estimator is None else {"weights": weights_digest(run.weights)},
    )
    return run_stream(input, out, stage, overwrite, quiet)


def _fit_batch(
    cutouts: Cutouts,
    job: Job,
    options: FitOptions,
    run: RunOptions,
    errors: ErrorOptions,
    share: float,
    estimator: Estimator | None,
) -> NDArray[np.void]:
    device = torch.device(run.device)
    # the same for a run that was resumed: it depends on the part and the whole run alone
    compile = compiles(options, round(share * job.n), device, errors)
    result = measure(cutouts, options, device, compile, errors, estimator, job.clock)
    if run.save_models:
        with job.clock("models"):
            images = model_images(result.fit.theta, cutouts, options)
            blocks.write_blocks(real_folder(job.models), cutouts, result.fit, images)
    with job.clock("writing"):
        return result_rows(cutouts, result, job.schema)


def no_result(cutouts: Cutouts, space: ParameterSpace) -> Result:
    """The result of galaxies without data: their flags, and no values."""
    batch, q = len(cutouts), len(space.names)
    nothing = torch.full((batch, q), torch.nan, dtype=torch.float64)
    zero = torch.zeros(batch, dtype=torch.int64)
    covariance = nothing[:, :, None].expand(batch, q, q)
    fit = Fit(space, nothing, covariance, nothing[:, 0], zero, zero, cutouts.flags)
    return Result(fit, torch.full((batch,), int(Quality.SUSPECT)))
