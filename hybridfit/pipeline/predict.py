"""The posterior of the network alone, of galaxies in memory or in files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError, usage_errors
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Draws, Posterior
from hybridfit.deprecations import renamed_arguments
from hybridfit.io.formats import check_format
from hybridfit.io.options import ReadOptions
from hybridfit.io.posterior_table import of_whole, posterior_columns, posterior_rows
from hybridfit.io.table import Column, id_width
from hybridfit.io.targets_table import targets_columns, targets_rows
from hybridfit.io.write_tables import whole_table
from hybridfit.npe.epistemic import epistemic_error
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import condition, draw, load_estimator
from hybridfit.npe.predict_targets import predict_targets
from hybridfit.options.checks import checked
from hybridfit.options.keywords import with_keywords
from hybridfit.pipeline.as_cutouts import as_cutouts
from hybridfit.pipeline.config import PredictConfig, PredictSections
from hybridfit.pipeline.devices import threads_now, usable_device
from hybridfit.pipeline.engine.isolation import ordinary_galaxy
from hybridfit.pipeline.engine.job import Job, Summary, Work
from hybridfit.pipeline.engine.measure import measure
from hybridfit.pipeline.keywords import PredictKeywords, predict_config
from hybridfit.pipeline.measure import Clock, metadata
from hybridfit.pipeline.options import FileRunOptions, PredictOptions
from hybridfit.pipeline.run import run_files
from hybridfit.pipeline.weights import checked_digest, loaded_network

# greatest half-width of the 95 % interval without `Flag.UNCERTAIN`
MAX_MAG, MAX_SIZE = 0.5, 0.5  # mag, ln(r_eff)


@renamed_arguments()
@with_keywords(PredictKeywords, PredictOptions, FileRunOptions)
def predict(
    data: Cutouts | str | Path | ArrayLike,
    config: PredictConfig | str | Path | None = None,
    *,
    estimator: Estimator | None = None,
    **keywords: Unpack[PredictKeywords],
) -> Table:
    """Predict the posterior of a batch of galaxies and return a table, one row a galaxy.

    >>> table = hybridfit.predict(cutouts, samples=1000)
    >>> table = hybridfit.predict(image, sigma=sigma, psf=psf, zeropoint=25.0)

    Nothing is fitted: one pass of a network over the pixels. A galaxy's draws depend on its id
    and the seed, not on the others of its batch.

    Args:
        data: `Cutouts`, a path, or images in flux units: see `hybridfit.fit`.
        config: options of reading and predicting, or the path of their YAML file.
        estimator: a loaded network; default that of ``weights``, or the package's own for
            ``model``.
        keywords: fields of `PredictOptions`, such as ``samples``; ``device``; whole sections
            ``read`` and ``predict``; with images or a path what `hybridfit.fit` takes with them.

    Returns:
        Table with id, flags, and for each parameter its mean [pix, mag, deg], _err (standard
        deviation), _p025, _p16, _p50, _p84, _p975; those of pa are around its circular mean and
        may leave [0, 180). With ``save_samples`` the draws as <name>_samples and log_prob; with
        ``epistemic`` the disagreement of the network's members as <name>_epistemic. Models of
        several components have these for each (bulge_mag) and for their sum (mag, r_eff, q, pa,
        bulge_to_total).
        With weights fine-tuned to other parameters the same for these, under their own names.

    Raises:
        ValueError: for options, shapes or names that are not understood; never for a galaxy.
        FileNotFoundError: if there are no weights.
    """
    settings, images = predict_config(config, keywords)
    cutouts = as_cutouts(data, settings.read, images, "predict")
    options = settings.predict
    given = load_estimator(options.weights, options.model) if estimator is None else estimator
    network = checked("estimator", given, Estimator)
    check_members(network, options)
    work = _memory_work(cutouts, settings, network)
    job = Job.of(work, cutouts.id)
    meta = metadata({name: asdict(values) for name, values in work.options.items()})
    return whole_table(measure(cutouts, job), job.columns, meta)


@renamed_arguments()
def predict_files(
    input: str | Path,
    out: str | Path,
    config: PredictConfig | str | Path | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = True,
    **sections: Unpack[PredictSections],
) -> Summary:
    """Predict the posteriors of all galaxies of a directory, manifest or file as a table.

    A run that was killed continues where it stopped, with the same call; several processes may
    share a run. A galaxy that cannot be read is a flagged row with the reason.

    Args:
        input: see `hybridfit.io.read.find_sources`.
        out: directory for ``results.fits`` (or .ecsv, .vot, .parquet, .csv).
        config: a `PredictConfig`, or the path of its YAML file.
        overwrite: discard another run's results in ``out``.
        quiet: without a progress bar.
        sections: ``read``, ``predict`` and ``run`` in place of the configuration's.

    Raises:
        UsageError: if the input as a whole, the weights, or what ``out`` holds already, is not
            usable.
        OSError: if ``out`` cannot be written.
    """
    chosen = PredictConfig.of(config, sections)
    read, options, run = chosen.read, chosen.predict, chosen.run
    try:
        check_format(run.format, "draws" if options.save_samples else "")
    except ValueError as error:
        raise UsageError(str(error)) from error
    work = PredictWork(read, run, options, checked_digest(options.weights, options.model))
    with usage_errors():
        check_members(work.network, options)
    return run_files(input, out, work, overwrite, quiet)


@dataclass(frozen=True)
class PredictWork(Work):
    """Posteriors of the network alone.

    Args:
        read, run, predict: options.
        digest: of the network's weights; another machine must have the same.
    """

    read: ReadOptions
    run: FileRunOptions
    predict: PredictOptions
    digest: str

    @property
    def options(self) -> dict[str, Any]:
        """The options by section."""
        return {"predict": self.predict}

    @property
    def identity(self) -> dict[str, str]:
        """The network."""
        return {"weights": self.digest}

    @property
    def network(self) -> Estimator:
        """The network, loaded once in a process."""
        return loaded_network(self.predict.weights, self.digest, self.predict.model)

    def columns(self, id_width: int) -> tuple[Column, ...]:
        """Return the columns of the table."""
        return _columns(self.predict, self.network, id_width)

    def rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        """Return the rows of galaxies of one shape."""
        with clock("predicting"):
            return self.blank_rows(cutouts, job)

    def blank_rows(self, cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        """Return the rows of galaxies, with data or without."""
        device = usable_device(self.run.device)
        return _rows(cutouts, self.network, self.predict, device, job.columns)

    def trial(self) -> object:
        """Predict an ordinary galaxy."""
        columns, device = self.columns(id_width(["trial"])), usable_device(self.run.device)
        return _rows(
            ordinary_galaxy(not self.read.no_psf), self.network, self.predict, device, columns
        )


@dataclass(frozen=True)
class MemoryPredictWork(PredictWork):
    """Posteriors of cutouts in memory.

    Args:
        read, run, predict, digest: see `PredictWork`.
        estimator: the network.
    """

    estimator: Estimator

    @property
    def network(self) -> Estimator:
        """The network."""
        return self.estimator


def _memory_work(
    cutouts: Cutouts, config: PredictConfig, estimator: Estimator
) -> MemoryPredictWork:
    """Return the work on cutouts in memory, on the caller's threads."""
    read = ReadOptions(no_psf=cutouts.psf is None)
    run = replace(config.run, threads=threads_now())
    return MemoryPredictWork(read, run, config.predict, "", estimator)


def _columns(options: PredictOptions, estimator: Estimator, width: int) -> tuple[Any, ...]:
    kept = options.samples if options.save_samples else 0
    if estimator.target_columns:
        return targets_columns([column.name for column in estimator.target_columns], width, kept)
    return posterior_columns(estimator.coordinates.space, width, kept, options.epistemic)


def _rows(
    cutouts: Cutouts,
    estimator: Estimator,
    options: PredictOptions,
    device: torch.device,
    columns: Any,
) -> NDArray[np.void]:
    if estimator.target_columns:
        samples, about = predict_targets(cutouts, estimator, options.samples, options.seed, device)
        names = [column.name for column in estimator.target_columns]
        flags, distance = about.flags.numpy(), about.distance.numpy()
        return targets_rows(cutouts, names, samples.numpy(), flags, distance, columns)
    density = condition(cutouts, estimator, device)
    posterior = draw(density, cutouts, options.samples, options.seed).posterior
    unknown = epistemic_error(density, cutouts.zeropoint) if options.epistemic else None
    whole = of_whole(posterior)
    return posterior_rows(cutouts, judged(posterior, cutouts, whole), columns, unknown, whole)


def check_members(estimator: Estimator, options: PredictOptions) -> None:
    """Raise ValueError where epistemic errors are wanted of a network that has none."""
    if not options.epistemic:
        return
    if estimator.target_columns:
        raise ValueError("epistemic is for parameters of galaxies, not for fine-tuned targets")
    if estimator.options.members < 2:
        raise ValueError(
            "epistemic needs a network of several members, and these weights hold one: leave it "
            "out, or give --weights that were trained with network.members of 2 or more"
        )


def judged(posterior: Posterior, cutouts: Cutouts, whole: Draws | None = None) -> Posterior:
    """Return the posterior with the flags that follow from its widths and its medians.

    Args:
        posterior: of B galaxies.
        cutouts: the same.
        whole: draws of what components are together; default the posterior itself.
    """
    whole = posterior if whole is None else whole
    names = whole.space.names
    low, median, high = whole.quantiles([0.025, 0.5, 0.975]).unbind(1)
    mag, size = names.index("mag"), names.index("r_eff")
    uncertain = (high[:, mag] - low[:, mag] > 2 * MAX_MAG) | (
        torch.log(high[:, size] / low[:, size]) > 2 * MAX_SIZE
    )
    large = median[:, size] > cutouts.size.amax(dim=1).cpu() / 2
    flags = posterior.flags | uncertain * int(Flag.UNCERTAIN) | large * int(Flag.LARGER_THAN_CUTOUT)
    return replace(posterior, diagnostics=replace(posterior.diagnostics, flags=flags))
