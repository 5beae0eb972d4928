"""Running existing GALFIT input files: thousands in batches, each as its user set it up.

A file that asks for one free Sersic profile on a constant sky is measured as any galaxy is, from
its own start. Several components, or values that are held, are fitted from their starts and carry
the errors of the curvature; ranges of a constraint file are kept by holding at its limit what
would leave it. What cannot be fitted is a flagged row that says why.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.fit import FitOptions, fit_cutouts
from hybridfit.fitting.held import Given
from hybridfit.io import blocks
from hybridfit.io.fits import BadInput, ReadOptions, Source, Stamp
from hybridfit.io.galfit import Feedme, feedme_stamp, read_block, with_results, write_feedme
from hybridfit.io.galfit.stamp import locate
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.runs import UsageError
from hybridfit.io.table import Column, record_type
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import weights_digest
from hybridfit.parameters import ParameterSpace
from hybridfit.pipeline.common import compiles, measure, model_images, starting_network
from hybridfit.pipeline.errors import ErrorOptions
from hybridfit.pipeline.files import RunOptions, no_result
from hybridfit.pipeline.galfit_tasks import (
    NAMES,
    SKY,
    Task,
    broken_ties,
    find_tasks,
    given_of,
    read_task,
    shifted,
    space_of,
)
from hybridfit.pipeline.stream import Input, Job, Stage, Summary, run_stream
from hybridfit.results import Fit, Flag, Quality, Result
from hybridfit.uncertainty.bootstrap import BootstrapOptions
from hybridfit.uncertainty.budget import BudgetOptions
from hybridfit.uncertainty.certificate import quality
from hybridfit.uncertainty.covariance import quote_covariance
from hybridfit.uncertainty.reconcile import ReconcileOptions

ROUNDS = 5  # fits in which values that leave their range are held at its limit
HELD_WIDTH = 120  # characters of the column that names what was held


@dataclass(frozen=True)
class FeedmeFitOptions(FitOptions):
    """Settings of the fit whose defaults ask GALFIT's own question: its convolution."""

    convolution: str = "galfit"


@dataclass(frozen=True)
class FeedmeRunOptions(RunOptions):
    """Options of a run whose errors are by default those that GALFIT has: the curvature's."""

    uncertainty: str = "covariance"


def fit_feedmes(
    inputs: Sequence[str | Path],
    out: str | Path,
    read: ReadOptions = ReadOptions(),
    options: FitOptions = FeedmeFitOptions(),
    run: RunOptions = FeedmeRunOptions(),
    overwrite: bool = False,
    quiet: bool = True,
    posterior: ReconcileOptions = ReconcileOptions(),
    bootstrap: BootstrapOptions = BootstrapOptions(),
    budget: BudgetOptions = BudgetOptions(),
) -> Summary:
    """Run GALFIT input files and write their table, one row a file.

    Image, sigma, PSF, mask, region, zero point, EXPTIME, start values and what is held are the
    file's. The table has the columns of `hybridfit.fit`; where any file has several components
    their names end in _1, _2... in the file's order, NaN where a file has fewer. ``feedme`` and
    ``held`` say what was asked. The run may be killed and goes on where it stopped. With
    ``save_models`` there are image blocks and restart files in ``out/models``, as of GALFIT.

    Args:
        inputs: feedme files, and directories that hold such.
        out, overwrite, quiet, posterior, bootstrap, budget: see `fit_files`.
        read: only ``psf_includes_pixel``, ``psf_center`` and ``gain`` matter here.
        options: of the fit; components and sky are those of the files.
        run: see `RunOptions`. Posteriors with GALFIT's convolution take seconds a galaxy: for
            them choose the continuous one.

    Raises:
        UsageError: if there is no such file, or ``out`` holds another run.
        OSError: if ``out`` cannot be written.
    """
    if (options.components, options.sky) != (FitOptions.components, FitOptions.sky):
        raise UsageError("components and sky are those of the feedme files: leave them out")
    try:
        found = find_tasks(inputs)
        estimator = starting_network(run.start, run.weights)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    read_task.cache_clear()  # files may have changed since the last run
    tasks = [read_task(name, path) for name, path in found.items()]
    most = max((task.n_components for task in tasks), default=1) or 1
    errors = ErrorOptions(run.uncertainty, posterior, bootstrap, budget)
    n_samples = errors.n_draws if run.save_samples else 0
    path_width = max(len(str(path).encode()) for path in found.values())
    two = (
        Column("feedme", f"S{path_width}", "", "the GALFIT input file"),
        Column("held", f"S{HELD_WIDTH}", "", "what was held, a comma list"),
    )

    def columns(width: int) -> tuple[Column, ...]:
        space = space_of(most)
        own = result_columns(space, width, run.covariance, errors.n_draws > 0, n_samples)
        return (*own, *two)

    def task_of(id: str) -> Task:
        return read_task(id, found[id])

    def fitted(cutouts: Cutouts, job: Job, share: float) -> NDArray[np.void]:
        batch = [task_of(id) for id in cutouts.id]
        compile = compiles(options, round(share * job.n), torch.device(run.device), errors)
        result = _measure(cutouts, batch, options, run, errors, estimator, compile, job)
        result, cutouts = _told(cutouts, batch, result, errors)
        if run.save_models:
            with job.clock("models"):
                job.models.mkdir(exist_ok=True)
                own = replace(options, components=_profiles(batch), sky=result.fit.space.sky)
                images = model_images(result.fit.theta, cutouts, own)
                asked = [task.feedme for task in batch]
                files = blocks.write_blocks(job.models, cutouts, result.fit, images, asked)
                write_restarts(asked, files)
        return _rows(cutouts, batch, result, job.schema)

    def nothing(cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        batch = [task_of(id) for id in cutouts.id]
        return _rows(cutouts, batch, no_result(cutouts, space_of(1)), job.schema)

    def stamp(source: Source, read: ReadOptions) -> Stamp:
        task = task_of(source.id)
        if task.refused:
            flag = Flag.NOT_MODELLED if task.feedme.components else Flag.UNREADABLE
            raise BadInput(task.refused, int(flag))
        return feedme_stamp(task.feedme, read, task.id)

    chosen = replace(options, components=("sersic",) * most, sky="plane")
    stage = Stage(
        {"fit": chosen, **errors.settings},
        columns,
        fitted,
        nothing,
        read,
        run,
        {} if estimator is None else {"weights": weights_digest(run.weights)},
    )
    source = Input(
        [Source(name, str(path)) for name, path in found.items()],
        stamp,
        lambda id: (task_of(id).n_components, task_of(id).is_plain),
    )
    return run_stream([str(path) for path in inputs], out, stage, overwrite, quiet, source)


def write_restarts(feedmes: Sequence[Feedme], files: Sequence[Path]) -> None:
    """Write ``<id>.galfit.01`` beside image blocks: input files that start where the fits ended.

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


def _profiles(batch: Sequence[Task]) -> tuple[str, ...]:
    return ("sersic",) * batch[0].n_components


def _measure(
    cutouts: Cutouts,
    batch: Sequence[Task],
    options: FitOptions,
    run: RunOptions,
    errors: ErrorOptions,
    estimator: Estimator | None,
    compile: bool,
    job: Job,
) -> Result:
    """The result of a batch of one kind, in stamp pixels."""
    device, given = torch.device(run.device), given_of(batch, cutouts.origin)
    if batch[0].is_plain:
        start = given.theta[:, : len(NAMES)].clone()
        start[~(start[:, 3] > 0), 3] = torch.nan
        return measure(
            replace(cutouts, start=start), options, device, compile, errors, estimator, job.clock
        )
    own = replace(options, components=_profiles(batch), sky="plane")
    limits = given_limits(batch, cutouts.origin)
    with job.clock("fitting"):
        fit = quote_covariance(fit_within(cutouts, own, given, limits, device, compile))
    return Result(fit, quality(fit.flags, sampled=False))


def given_limits(batch: Sequence[Task], origin: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper limits (B, Q) of the tasks' values, in stamp pixels."""
    pair = [[getattr(task, name) for task in batch] for name in ("low", "high")]
    low, high = (torch.tensor(values, dtype=torch.float64) for values in pair)
    space = space_of(batch[0].n_components)
    return shifted(low, space, -origin), shifted(high, space, -origin)


def fit_within(
    cutouts: Cutouts,
    options: FitOptions,
    given: Given,
    limits: tuple[Tensor, Tensor],
    device: torch.device,
    compile: bool,
) -> Fit:
    """Fit with values kept within limits: what would leave them is held there, and told so.

    The active-set method, one value a round, the farthest out first; it is never let go again.
    """
    fit = fit_cutouts(cutouts, options, device, compile, given=given)
    low, high = limits
    for _ in range(ROUNDS):
        out = torch.maximum(low - fit.theta, fit.theta - high) / fit.error.clamp_min(1e-12)
        out = torch.where(given.held | ~torch.isfinite(out), -torch.inf, out)
        worst, column = out.max(dim=1)
        rows = (worst > 0).nonzero()[:, 0]
        if len(rows) == 0:
            break
        at, theta, held = column[rows], given.theta.clone(), given.held.clone()
        theta[rows] = torch.where(torch.isfinite(fit.theta[rows]), fit.theta[rows], theta[rows])
        theta[rows, at] = theta[rows, at].clamp(low[rows, at], high[rows, at])
        held[rows, at] = True
        given = replace(given, theta=theta, held=held)
        again = fit_cutouts(cutouts[rows.tolist()], options, device, compile, given=given[rows])
        fit = put(fit, rows, replace(again, flags=again.flags | int(Flag.AT_LIMIT)))
    return fit


def put(fit: Fit, rows: Tensor, other: Fit) -> Fit:
    """The fit with ``other`` in its ``rows``."""
    names = ("theta", "covariance", "chi2", "dof", "n_iter", "flags")
    return replace(
        fit, **{n: getattr(fit, n).index_copy(0, rows, getattr(other, n)) for n in names}
    )


def _told(
    cutouts: Cutouts, batch: Sequence[Task], result: Result, errors: ErrorOptions
) -> tuple[Result, Cutouts]:
    """The result, flagged where ties are not kept, and cutouts that say what was done otherwise."""
    texts, flags = [], result.fit.flags.clone()
    for i, (task, message) in enumerate(zip(batch, cutouts.messages, strict=True)):
        own = [message]
        if int(flags[i]) & Flag.NOT_MODELLED:
            own.append("a held value lies outside of what the prior allows")
        elif broken := broken_ties(task, result.fit.theta[i].tolist()):
            flags[i] |= int(Flag.NOT_MODELLED)
            own.append(f"constraints that were not kept: {', '.join(broken)}")
        if not task.is_plain and errors.uncertainty != "covariance":
            own.append("errors are the curvature's, as values are held or there are several")
        texts.append("; ".join(filter(None, own)))
    new = flags != result.fit.flags
    grade = torch.where(new, int(Quality.SUSPECT), result.quality)
    result = replace(result, fit=replace(result.fit, flags=flags), quality=grade)
    return result, replace(cutouts, messages=texts)


def _rows(
    cutouts: Cutouts, batch: Sequence[Task], result: Result, schema: Sequence[Column]
) -> NDArray[np.void]:
    """Rows of the whole run's columns, from those that a batch has by itself."""
    space = result.fit.space
    wanted = {column.name: column for column in schema}
    n_samples = wanted["weight"].shape[0] if "weight" in wanted else 0
    own = result_columns(space, 1, False, any(n.endswith("_p50") for n in wanted), n_samples)
    own = tuple(wanted["id"] if column.name == "id" else column for column in own)
    few = result_rows(cutouts, result, own)
    rows = np.zeros(len(cutouts), record_type(schema))
    for column in schema:
        if column.format.startswith("f"):
            rows[column.name] = np.nan
    renamed = numbered(few.dtype.names or (), space, wanted)
    for name, target in renamed.items():
        rows[target] = few[name]
    if space.sky == "constant":
        for name in ("sky_dx", "sky_dy"):
            rows[name] = rows[f"{name}_err"] = 0.0
    if "covariance" in wanted:
        total = space_of(max(sum(f"mag_{k}" in wanted for k in range(1, 100)), 1))
        at = [total.names.index(renamed[name]) for name in space.names]
        rows["covariance"][np.ix_(range(len(rows)), at, at)] = result.fit.covariance.numpy()
    rows["feedme"] = [str(task.feedme.path).encode() for task in batch]
    rows["held"] = [",".join(task.held_names).encode()[:HELD_WIDTH] for task in batch]
    return rows


def numbered(names: Sequence[str], space: ParameterSpace, wanted: Container[str]) -> dict[str, str]:
    """For each column of a batch its name in the run's table, where components have numbers.

    >>> numbered(["x_err"], space_of(1), ["x_1_err", "x_2_err"])
    {'x_err': 'x_1_err'}
    """
    stems = [*(n for n in space.names if n not in SKY), "r_eff_arcsec", "ra", "dec", "pa_sky"]
    found = {}
    for name in names:
        found[name] = name
        for stem in sorted(stems, key=len, reverse=True):
            if name not in wanted and (name == stem or name.startswith(f"{stem}_")):
                found[name] = f"{stem}_1{name[len(stem) :]}"
                break
    return found
