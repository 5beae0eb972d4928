"""Fitting from files to a table, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.compiling import wants_compile
from hybridfit.fitting.fit import FitOptions
from hybridfit.io import blocks, export
from hybridfit.io import table as tables
from hybridfit.io.fits import ReadOptions
from hybridfit.io.runs import UsageError
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import weights_digest
from hybridfit.parameters import ParameterSpace
from hybridfit.pipeline.common import check_choices, measure, model_images, starting_network
from hybridfit.pipeline.stream import Job, Stage, StreamOptions, Summary, run_stream
from hybridfit.results import Fit


@dataclass(frozen=True)
class RunOptions(StreamOptions):
    """How a run of fits from files goes about it and what it writes."""

    uncertainty: str = "covariance"  # where errors come from
    start: str = "posterior"  # or "moments"; values given with a galaxy go first
    weights: str | None = None  # folder of another network's weights
    covariance: bool = False  # write the covariance matrices
    save_models: bool = False  # write models/<id>_block.fits: image, model, residual

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self.uncertainty, self.start)
        export.check_format(self.format, "covariance matrices" if self.covariance else "")


def fit_files(
    input: str | Path,
    out: str | Path,
    read: ReadOptions = ReadOptions(),
    options: FitOptions = FitOptions(),
    run: RunOptions = RunOptions(),
    overwrite: bool = False,
    quiet: bool = True,
) -> Summary:
    """Fit all galaxies of a directory, manifest or file and write their table.

    The run may be killed at any moment: the same call goes on where it stopped and ends with
    the same table. A galaxy that cannot be read is a flagged row with the reason.

    Args:
        input: see `hybridfit.io.fits.find_sources`.
        out: directory for ``results.fits`` (or .ecsv, .parquet, .csv) and ``models/``.
        read, options, run: of reading, fitting, and the run itself.
        overwrite: throw away another run's results in ``out``.
        quiet: without a progress bar.

    Raises:
        UsageError: if the input as a whole, or what ``out`` holds already, is not usable.
        OSError: if ``out`` cannot be written.
    """
    try:
        estimator = starting_network(run.start, run.weights)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    stage = Stage(
        {"fit": options},
        lambda width: tables.columns(options.space, width, run.covariance),
        lambda cutouts, job, share: _fit_batch(cutouts, job, options, run, share, estimator),
        lambda cutouts, job: tables.make_rows(cutouts, _no_fit(cutouts, options.space), job.schema),
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
    share: float,
    estimator: Estimator | None,
) -> NDArray[np.void]:
    device = torch.device(run.device)
    # the same for a run that was resumed: it depends on the part and the whole run alone
    compile = wants_compile(options.compile, round(share * job.n), device)
    result = measure(cutouts, options, device, compile, run.uncertainty, estimator, job.clock)
    if run.save_models:
        with job.clock("models"):
            job.models.mkdir(exist_ok=True)
            images = model_images(result.theta, cutouts, options)
            blocks.write_blocks(job.models, cutouts, result, images)
    with job.clock("writing"):
        return tables.make_rows(cutouts, result, job.schema)


def _no_fit(cutouts: Cutouts, space: ParameterSpace) -> Fit:
    """The fit of galaxies without data: their flags, and no values."""
    batch, q = len(cutouts), len(space.names)
    nothing = torch.full((batch, q), torch.nan, dtype=torch.float64)
    zero = torch.zeros(batch, dtype=torch.int64)
    covariance = nothing[:, :, None].expand(batch, q, q)
    return Fit(space, nothing, covariance, nothing[:, 0], zero, zero, cutouts.flags)
