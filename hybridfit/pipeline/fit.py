"""Fitting and rendering of galaxies in memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.ids import ascii_id
from hybridfit.data.positions import in_cutout
from hybridfit.deprecations import renamed_arguments
from hybridfit.fitting.options import FitOptions
from hybridfit.io.options import ReadOptions
from hybridfit.io.write_tables import whole_table
from hybridfit.model.declaration import profile_names
from hybridfit.model.profiles import import_profiles
from hybridfit.model.value_columns import value_columns
from hybridfit.npe.network import Estimator
from hybridfit.options.checks import checked
from hybridfit.options.keywords import with_keywords
from hybridfit.pipeline.as_cutouts import as_cutouts
from hybridfit.pipeline.config import Config
from hybridfit.pipeline.devices import threads_now
from hybridfit.pipeline.engine.job import Job
from hybridfit.pipeline.engine.measure import measure
from hybridfit.pipeline.engine.worker import Worker
from hybridfit.pipeline.fit_files import FitWork, unmasked
from hybridfit.pipeline.keywords import DEFAULTS, FitKeywords, fit_config
from hybridfit.pipeline.measure import Clock, metadata, model_images, starting_network
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.psf_background import flag_psf_background

AT_ONCE = 1024  # galaxies


@renamed_arguments("fit", "run")
@with_keywords(FitKeywords, FitOptions, RunOptions, **DEFAULTS)
def fit(
    data: Cutouts | Config | str | Path | ArrayLike,
    config: Config | str | Path | None = None,
    **keywords: Unpack[FitKeywords],
) -> Table:
    """Fit galaxies and return a table, one row a galaxy.

    >>> table = hybridfit.fit("cutouts/", zeropoint=22.5)
    >>> table = hybridfit.fit(cutouts, sky="plane")
    >>> table = hybridfit.fit(image, sigma=sigma, psf=psf, zeropoint=25.0)
    >>> table = hybridfit.fit(cutouts, "fit.yaml", weights="tuned/")

    Everything is kept in memory; `hybridfit.fit_files` fits catalogues of any size, and goes on
    where it was stopped.

    Args:
        data: `Cutouts`; the path of a directory, manifest or file as `hybridfit.read` takes it; a
            `Config` that names such an ``input``; or images (B, H, W) or (H, W) in flux units,
            `NDData`, or a list of such.
        config: a `Config`, or the path of its YAML file; default `Config()`, with covariances.
            Of its section ``run`` only what is a keyword here counts.
        keywords: fields of `FitOptions`, such as ``sky`` or ``objective``; of `RunOptions`
            ``device``, ``uncertainty``, ``initial_values``, ``weights``, ``covariance`` and
            ``save_samples``; whole sections ``read``, ``fit``, ``sampling``, ``bootstrap``,
            ``budget``, ``run``. They go before ``config``. With images what `hybridfit.prepare`
            takes (but ``start``): ``psf`` (None to fit without one), ``sigma`` and the like; with
            ``prepare=False`` the fields of `Cutouts`, and nothing is masked or made. With a path
            fields of `ReadOptions`, such as ``psf`` (a file) or ``zeropoint``.

    Returns:
        Table with id, flags and flag_names (`describe_flags` explains them), quality (certified,
        usable, suspect), each parameter [pix, mag, deg] at the best fit with its _err and, unless
        errors come from "covariance", _p16, _p50, _p84; positions on the sky where a WCS is known;
        the zeropoint that was used; chi2, dof, n_iter; ess, pareto_k, log_evidence, missed_mass,
        fit_network_distance, NaN where they do not apply; notes; with ``covariance`` the matrices
        (B, P, P) in the order of the parameters' columns; with ``save_samples`` the draws as
        <name>_samples (B, S), to be weighted with ``weight`` (B, S). Galaxies that could not be
        fitted are rows too, flagged.

    Raises:
        ValueError: for options, shapes or names that are not understood; never for a galaxy.
        FileNotFoundError: if there is no such path, or no such weights.
    """
    if isinstance(data, Config):
        data, config = _input_of(data, config), data
    import_profiles(profile_names(keywords.get("model", keywords.get("components", ""))))
    chosen, images = fit_config(config, keywords)
    columns = value_columns(chosen.fit.scene)
    read = unmasked(chosen.read, chosen.fit)
    if not isinstance(data, Cutouts | str | Path) and images.get("prepare", True):
        images = {"mask_neighbours": read.mask_neighbours, **images}
    return fit_table(as_cutouts(data, read, images, "fit", columns), chosen)


def _input_of(data: Config, config: object) -> str:
    """The input that a configuration names."""
    if config is not None:
        raise ValueError("data and config are both a configuration, expected one of them")
    if data.input is None:
        raise ValueError("the config names no input, expected the path of galaxies in Config.input")
    return data.input


def fit_table(cutouts: Cutouts, config: Config) -> Table:
    """Fit a batch of galaxies that are in memory, and return their table; see `fit`."""
    work = _memory_work(cutouts, config)
    job, worker = Job.of(work, cutouts.id), Worker(work)
    rows = np.zeros(len(cutouts), job.row_type)
    for first in range(0, len(cutouts), AT_ONCE):  # draws take more memory than their galaxy
        part = slice(first, first + AT_ONCE)
        rows[part] = measure(cutouts[part], job, worker)
    settings = {name: asdict(values) for name, values in work.options.items()}
    run = {"uncertainty": work.run.uncertainty, "initial_values": work.run.initial_values}
    return whole_table(rows, job.columns, metadata({**settings, "run": run}))


@dataclass(frozen=True)
class MemoryFitWork(FitWork):
    """Fits of cutouts in memory, whose PSFs need not have gone through `prepare_psf`.

    Args:
        read, run, fit, errors, digest: see `FitWork`.
        estimator: network that fits start from; None for moments.
    """

    estimator: Estimator | None = None

    @property
    def network(self) -> Estimator | None:
        """The network that fits start from, if there is one."""
        return self.estimator

    def rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        """Return the rows of galaxies of one shape."""
        return super().rows(flag_psf_background(cutouts), job, n_alike, clock)


def _memory_work(cutouts: Cutouts, config: Config) -> MemoryFitWork:
    """Return the work on cutouts in memory: on the caller's threads, without image blocks."""
    network = starting_network(config.run.initial_values, config.run.weights, config.fit.model)
    read = ReadOptions(no_psf=cutouts.psf is None)
    run = replace(config.run, threads=threads_now(), save_models=False, save_components=False)
    return MemoryFitWork(read, run, config.fit, config.errors, "", network)


def render(table: Table, cutouts: Cutouts) -> NDArray[np.float32]:
    """Return the model images of a table of fits.

    Args:
        table: from `fit`, or read from a run's results; rows are found by their id.
        cutouts: the B galaxies that were fitted, for their PSFs, shapes and zero points.

    Returns:
        (B, H, W) flux units, sky included; NaN where a galaxy has no fit.

    Raises:
        ValueError: if a galaxy has no row, or a parameter no column.
    """
    checked("table", table, Table)
    checked("cutouts", cutouts, Cutouts)
    names = [str(name) for name in table["id"]] if "id" in table.colnames else []
    number = {name: i for i, name in enumerate(names)}
    wanted = [name if name in number else ascii_id(name) for name in cutouts.id]
    missing = [name for name in wanted if name not in number]
    if missing:
        raise ValueError(f"table has no row for galaxy '{missing[0]}': expected one for each id")
    options = _options_of(table)
    rows = table[[number[name] for name in wanted]]
    theta = np.stack([np.ma.filled(rows[name], np.nan) for name in options.space.names], axis=1)
    values = torch.from_numpy(theta.astype(np.float64)).to(cutouts.image.device)
    values = in_cutout(values, options.space.names, cutouts.origin)
    return model_images(values, cutouts, options.space, options.convolution)


def _options_of(table: Table) -> FitOptions:
    """The options that a table was made with, as far as they shape its columns and models."""
    names = [str(name) for name in table.colnames]
    written = json.loads(table.meta.get("OPTIONS", "{}")).get("fit", {})
    options = FitOptions(
        written.get("model") or written.get("components", "sersic"),
        sky="plane" if "sky_dx" in names else "constant",
        convolution=written.get("convolution", "continuous"),
    )
    missing = [name for name in options.space.names if name not in names]
    if missing:
        expected = ", ".join(options.space.names)
        raise ValueError(f"table has no column '{missing[0]}': expected {expected}")
    return options
