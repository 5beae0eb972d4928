"""Runs of existing GALFIT input files: thousands in batches, each as its user set it up.

A file that asks for one free Sersic profile on a constant sky is measured as any galaxy is, from
the file's initial values. Other files are fitted as scenes, from theirs: with any profiles, fixed
values, and the ranges and ties of a constraint file. A file that cannot be fitted is a flagged row
that says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput, UsageError, usage_errors
from hybridfit.data.flags import Flag, joined
from hybridfit.data.names import START_NAMES
from hybridfit.data.positions import parent_shift
from hybridfit.data.result import Quality, Result
from hybridfit.deprecations import renamed_arguments
from hybridfit.fitting.options import FitOptions
from hybridfit.io import blocks
from hybridfit.io.galfit import Feedme, read_block, read_feedme_cutout, with_results, write_feedme
from hybridfit.io.galfit.read_cutout import locate, named_files
from hybridfit.io.read_cutout import Cutout
from hybridfit.io.result_table import result_columns
from hybridfit.io.sources import Source
from hybridfit.io.table import Column
from hybridfit.io.writing import real_folder
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.config import Config, SectionKeywords, galfit_config
from hybridfit.pipeline.engine.isolation import ordinary_galaxy
from hybridfit.pipeline.engine.job import Job, Summary
from hybridfit.pipeline.fit_files import FitWork, no_result
from hybridfit.pipeline.galfit.checks import broken_constraints
from hybridfit.pipeline.galfit.rows import (
    NO_FILE,
    failed_task,
    model_text,
    table_space,
    task_columns,
    task_rows,
)
from hybridfit.pipeline.galfit.tasks import Task, find_tasks, read_task, values_of
from hybridfit.pipeline.measure import Clock, compiles, measure, model_images
from hybridfit.pipeline.run import run_files
from hybridfit.pipeline.weights import checked_digest


@renamed_arguments()
def fit_feedmes(
    inputs: Sequence[str | Path],
    out: str | Path,
    config: Config | str | Path | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = True,
    **sections: Unpack[SectionKeywords],
) -> Summary:
    """Run GALFIT input files and write their table, one row a file.

    Each file gives its image, sigma, PSF, mask, region, zero point, EXPTIME, initial values and
    fixed parameters. The table has the columns of `hybridfit.fit`; if any file has several
    components the names begin with ``comp1_``, ``comp2_``... in the file's order, with NaN where a
    file has fewer components, or its profile does not have the parameter. The columns ``feedme``
    and ``fixed`` say what was asked. A run that was killed continues where it stopped.
    ``save_models`` writes image blocks and restart files, as GALFIT does, to ``out/models``.

    Args:
        inputs: feedme files, and directories that hold such.
        out, overwrite, quiet: see `fit_files`.
        config: a `Config`, or the path of its YAML file; default `galfit_config`: GALFIT's own
            convolution, and errors by the covariance. Components and sky are those of the files;
            of ``read`` only ``psf_includes_pixel``, ``psf_center`` and ``gain`` matter. Posteriors
            with GALFIT's convolution take seconds a galaxy: choose the continuous one for them.
        sections: see `fit_files`.

    Raises:
        UsageError: if there is no such file, or ``out`` holds another run.
        OSError: if ``out`` cannot be written.
    """
    config = Config.of(config, sections, galfit_config())
    if (config.fit.model, config.fit.sky) != (FitOptions.model, FitOptions.sky):
        raise UsageError("model and sky are those of the feedme files: leave them out")
    with usage_errors():
        found = find_tasks(inputs)
    read_task.cache_clear()  # files may have changed since the last run
    work = _work(config, found)
    sources = [Source(name, str(path)) for name, path in found.items()]
    return run_files([str(path) for path in inputs], out, work, overwrite, quiet, sources)


def _work(config: Config, found: dict[str, Path]) -> FeedmeWork:
    """Return the work on these files; their table has room for the components of all."""
    run = config.run
    digest = "" if run.initial_values == "moments" else checked_digest(run.weights)
    named = any(read_task(id, path).n_components > 1 for id, path in found.items())
    space = table_space([read_task(id, path, named) for id, path in found.items()])
    return FeedmeWork(config.read, run, config.fit, config.errors, digest, found, space)


@dataclass(frozen=True)
class FeedmeWork(FitWork):
    """Fits as GALFIT input files ask for them.

    Args:
        read, run, fit, errors, digest: see `FitWork`.
        found: the files by their ids.
        space: the parameters of the table.
    """

    found: Mapping[str, Path]
    space: ParameterSpace

    @property
    def options(self) -> dict[str, Any]:
        """The options by section."""
        fit = replace(self.fit, model=model_text(self.space), sky="plane")
        return {"fit": fit, **self.errors.settings}

    def task(self, id: str) -> Task:
        """Return what the file of that id asks for."""
        return read_task(id, self.found[id], bool(self.space.components[0].name))

    def tasks(self, cutouts: Cutouts) -> list[Task]:
        """Return what is asked of each of a batch."""
        return [self.task(id) for id in cutouts.id]

    def kind(self, id: str) -> tuple[str, bool]:
        """Return what the files of a batch have in common."""
        return repr(self.task(id).space), self.task(id).is_plain

    def columns(self, id_width: int) -> tuple[Column, ...]:
        """Return the columns of the table."""
        most, run = self.space.n_components, self.run
        drawn, n_samples = self.errors.n_draws(most) > 0, self.n_samples(most)
        own = result_columns(self.space, id_width, run.covariance, drawn, n_samples)
        return (*own, *task_columns(list(self.found.values())))

    def read_cutout(self, source: Source) -> Cutout:
        """Read the pixels that a file asks for; BadInput if it cannot be fitted."""
        task = self.task(source.id)
        if task.refused:
            flag = Flag.NOT_MODELLED if task.feedme.components else Flag.UNREADABLE
            raise BadInput(task.refused, int(flag))
        return read_feedme_cutout(task.feedme, self.read, task.id)

    def files(self, source: Source) -> list[str]:
        """Return the input file and those that it names, which make the row what it is."""
        return [source.image, *named_files(self.task(source.id).feedme)]

    def trial(self) -> Result:
        """Fit an ordinary galaxy."""
        galaxy = ordinary_galaxy()
        return measure(galaxy, self.fit, self.device, None, self.errors, self.network)

    def failed(self, id: str, flags: int, text: str, job: Job) -> NDArray[np.void]:
        """Return the row (1,) of a file that could not be computed."""
        return failed_task(self.found[id], id, flags, text, job.columns)

    def rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        """Return the rows of files of one kind."""
        batch = self.tasks(cutouts)
        result = self._result(cutouts, batch, n_alike, clock)
        result, cutouts = _checked(cutouts, batch, result)
        if self.run.save_models:
            with clock("models"):
                self._write_models(cutouts, result, job.models)
        return task_rows(cutouts, batch, result, job.columns, self.space)

    def blank_rows(self, cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        """Return the rows of files that cannot be fitted."""
        result = no_result(cutouts, NO_FILE)
        return task_rows(cutouts, self.tasks(cutouts), result, job.columns, self.space)

    def _result(
        self, cutouts: Cutouts, batch: Sequence[Task], n_alike: int, clock: Clock
    ) -> Result:
        """The result of files of one kind, in cutout pixels."""
        compile = compiles(self.fit, n_alike, self.device, self.errors)
        scene = values_of(batch, cutouts.origin, self.fit.prior)
        rest = (self.device, compile, self.errors, self.network, clock)
        if not batch[0].is_plain:
            return measure(cutouts, self.fit, *rest, scene)
        start = [scene.space.column(0, name) for name in START_NAMES]
        return measure(replace(cutouts, start=scene.start[:, start]), self.fit, *rest)

    def _write_models(self, cutouts: Cutouts, result: Result, folder: Path) -> None:
        space = result.fit.space
        images = model_images(result.fit.theta, cutouts, space, self.fit.convolution)
        asked = [task.feedme for task in self.tasks(cutouts)]
        files = blocks.write_blocks(real_folder(folder), cutouts, result.fit, images, asked)
        write_restarts(asked, files)


def write_restarts(feedmes: Sequence[Feedme], files: Sequence[Path]) -> None:
    """Write ``<id>.galfit.01`` beside image blocks: input files with the fitted values.

    Files are named by their full paths, so that GALFIT can be run from anywhere. A galaxy without
    a fit gets none.
    """
    for feedme, file in zip(feedmes, files, strict=True):
        found = read_block(file)
        values = [v.value for part in found.components for v in part.values.values()]
        if not all(map(math.isfinite, values)):
            continue
        names = {"A": "image", "C": "sigma", "D": "psf", "F": "mask", "G": "constraints"}
        where: dict[str, Any] = {
            name: locate(feedme, row, getattr(feedme, name))
            for row, name in names.items()
            if getattr(feedme, name)
        }
        restart = replace(with_results(feedme, found), output=file.name, **where)
        write_feedme(restart, file.with_name(file.name.removesuffix("_block.fits") + ".galfit.01"))


def _checked(cutouts: Cutouts, batch: Sequence[Task], result: Result) -> tuple[Result, Cutouts]:
    """Flag constraints that are not kept, and note in the cutouts what was not done as asked."""
    texts, flags = [], result.fit.flags.clone()
    theta = result.fit.theta + parent_shift(result.fit.space.names, cutouts.origin)
    for i, (task, message) in enumerate(zip(batch, cutouts.messages, strict=True)):
        own = [message, *task.notes]
        if broken := broken_constraints(task, theta[i]):
            flags[i] |= int(Flag.NOT_MODELLED)
            own.append(f"constraints that were not kept: {', '.join(broken)}")
        texts.append(joined(*own))
    new = flags != result.fit.flags
    grade = torch.where(new, int(Quality.SUSPECT), result.quality)
    result = replace(result, fit=replace(result.fit, flags=flags), quality=grade)
    return result, replace(cutouts, messages=texts)
