"""From files to a table, part by part: resumable, and of the same size in memory throughout."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.compiling import wants_compile
from hybridfit.fitting.fit import FitOptions
from hybridfit.io import blocks, export, runs
from hybridfit.io import table as tables
from hybridfit.io.fits import (
    BadInput,
    ReadOptions,
    Source,
    Sources,
    Stamp,
    bad_stamp,
    find_sources,
    padded_shape,
    read_stamp,
    stack,
)
from hybridfit.io.runs import UsageError
from hybridfit.parameters import ParameterSpace
from hybridfit.pipeline.common import (
    check_choices,
    measure,
    metadata,
    model_images,
    usable_device,
    versions,
)
from hybridfit.results import Fit, Flag

BATCH_PIXELS = 1 << 24  # read before a fit begins: some 150 MB of image, sigma and mask
PSF_STEP = 16  # pixels that sides of PSFs are rounded up to


@dataclass(frozen=True)
class RunOptions:
    """How a run from files goes about it and what it writes."""

    uncertainty: str = "covariance"  # where errors come from
    start: str = "moments"  # where the fit starts; values given with a galaxy go first
    device: str = "cpu"  # any of torch: cpu, cuda, cuda:1
    threads: int = 1  # of the CPU; stamps are small, more of them seldom pay
    format: str = "fits"  # fits | ecsv | parquet | csv
    covariance: bool = False  # write the covariance matrices
    save_models: bool = False  # write models/<id>_block.fits: image, model, residual
    part: int = 256  # galaxies that are computed and kept at a time
    limit: int = 0  # only so many galaxies, in the order of their ids; 0: all

    def __post_init__(self) -> None:
        check_choices(self.uncertainty, self.start)
        export.check_format(self.format, self.covariance)
        for name, least in (("threads", 1), ("part", 1), ("limit", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        usable_device(self.device)


@dataclass(frozen=True)
class Summary:
    """What a run from files came to.

    Args:
        results: the table's file.
        n: galaxies in it.
        flags: how many of them have each flag, and ``any``.
        n_fitted: galaxies this process worked on; the others were done before.
        seconds: spent by this process on finding, reading, fitting, writing.
    """

    results: Path
    n: int
    flags: Mapping[str, int]
    n_fitted: int
    seconds: Mapping[str, float]


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
    out, start = Path(out), time.perf_counter()
    sources = _sources(Path(input), out, read)
    n = min(len(sources), run.limit or len(sources))
    schema = tables.columns(options.space, tables.id_width(sources.ids[:n]), run.covariance)
    settings = {"read": asdict(read), "fit": asdict(options), "run": _lasting(run)}
    record = {"input": str(input), "compared": _compared(settings, sources.ids[:n])}
    row_type, edges = tables.record_type(schema), (*range(0, n, run.part), n)
    with (
        runs.open_run(out, run.format, record, row_type, edges, overwrite) as folder,
        _threads(run.threads),
    ):
        job = _Job(sources, read, options, run, schema, out / runs.MODELS, n)
        job.spend("finding", time.perf_counter() - start)
        if not folder.is_complete():
            _fit_parts(folder, job, quiet)
            meta = metadata({**settings, "input": str(input)})
            with job.clock("writing"):
                export.write_results(folder.results, folder.rows(), schema, meta)
            folder.finish({"n": n, "flags": _count_flags(folder)})
        counts = folder.outcome()
    return Summary(folder.results, counts["n"], counts["flags"], job.n_fitted, job.seconds)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


@dataclass
class _Job:
    """What the parts of a run have in common, and the time they took."""

    sources: Sources
    read: ReadOptions
    options: FitOptions
    run: RunOptions
    schema: Sequence[tables.Column]
    models: Path
    n: int
    n_fitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, what: str, seconds: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spend(what, time.perf_counter() - start)


def _fit_parts(folder: runs.Run, job: _Job, quiet: bool) -> None:
    """Compute the parts that are not there yet."""
    todo = [part for part in range(len(folder)) if not folder.is_done(part)]
    done = job.n - sum(len(folder.galaxies(part)) for part in todo)
    if job.run.save_models:
        job.models.mkdir(exist_ok=True)
    with tqdm(total=job.n, initial=done, unit=" galaxies", disable=True if quiet else None) as bar:
        for part in todo:
            sources = [job.sources[i] for i in folder.galaxies(part)]
            rows = np.zeros(len(sources), folder.row_type)
            for index, batch in _batches(sources, job):
                rows[index] = _fit_batch(batch, job, len(batch) / len(sources))
                job.n_fitted += len(index)
                bar.update(len(index))
            with job.clock("writing"):
                folder.save(part, rows)


def _batches(sources: Sequence[Source], job: _Job) -> Iterator[tuple[list[int], list[Stamp]]]:
    """Yield the galaxies of a part as batches of one padded shape, with their row numbers."""
    groups: dict[tuple[Any, ...], tuple[list[int], list[Stamp]]] = {}
    pixels = 0
    for i, source in enumerate(sources):
        with job.clock("reading"):
            stamp = _read(source, job.read)
        group = groups.setdefault(_kind(stamp), ([], []))
        group[0].append(i)
        group[1].append(stamp)
        pixels += stamp.image.size
        if pixels > BATCH_PIXELS:
            yield from groups.values()
            groups, pixels = {}, 0
    yield from groups.values()


def _read(source: Source, options: ReadOptions) -> Stamp:
    """Read a galaxy; whatever is wrong with it becomes a stamp without data."""
    try:
        return read_stamp(source, options)
    except BadInput as error:
        return bad_stamp(source.id, error)
    except Exception as error:  # what readers of broken files raise has no end
        text = f"{type(error).__name__} while reading '{source.image}': {error}"
        return bad_stamp(source.id, BadInput(text))


def _kind(stamp: Stamp) -> tuple[Any, ...]:
    """What the galaxies of a batch share: no data, or a padded shape and the kind of PSF."""
    if stamp.mask.all():
        return ("no data",)
    if stamp.psf is None:
        return (*padded_shape(*stamp.image.shape), None)
    return (*padded_shape(*stamp.image.shape), stamp.psf_oversampling, *_psf_sides(stamp.psf))


def _psf_sides(psf: NDArray) -> tuple[int, ...]:
    """Odd sides that PSFs are padded to: few of them, so that few kernels are compiled."""
    return tuple(PSF_STEP * math.ceil((side - 1) / PSF_STEP) + 1 for side in psf.shape)


def _fit_batch(stamps: list[Stamp], job: _Job, share: float) -> NDArray[np.void]:
    """Rows of a batch that makes up ``share`` of its part, so about that of the whole run."""
    kind = _kind(stamps[0])
    if kind == ("no data",):
        cutouts = stack(stamps)
        return tables.make_rows(cutouts, _no_fit(cutouts, job.options.space), job.schema)
    with job.clock("reading"):
        cutouts = stack(stamps, kind[:2], kind[3:] or None)
    device = torch.device(job.run.device)
    # the same for a run that was resumed: it depends on the part and the whole run alone
    compile = wants_compile(job.options.compile, round(share * job.n), device)
    with job.clock("fitting"):
        result = measure(cutouts, job.options, device, compile, job.run.uncertainty)
    if job.run.save_models:
        with job.clock("models"):
            images = model_images(result.theta, cutouts, job.options)
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


def _sources(input: Path, out: Path, options: ReadOptions) -> Sources:
    """Find the galaxies; what makes the whole input unusable is wrong usage."""
    if input.is_dir() and out.exists() and input.samefile(out):
        raise UsageError(f"output '{out}' is the input: results would lie among the galaxies")
    try:
        return find_sources(input, options)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def _lasting(run: RunOptions) -> dict[str, Any]:
    """The run's options that shape its table."""
    return {name: value for name, value in asdict(run).items() if name != "threads"}


def _compared(settings: Mapping[str, Mapping[str, Any]], ids: Sequence[str]) -> dict[str, Any]:
    """What must be the same to go on with a run: options, versions and galaxies."""
    flat = {f"{stage} {name}": v for stage, all in settings.items() for name, v in all.items()}
    digest = sha256("\n".join(ids).encode()).hexdigest()[:16]
    return {**flat, "galaxies": f"{len(ids)} with ids {digest}", "versions": versions()}


def _count_flags(folder: runs.Run) -> dict[str, int]:
    counts = {"any": 0, **{str(flag.name): 0 for flag in Flag}}
    for rows in folder.rows():
        counts["any"] += int((rows["flags"] != 0).sum())
        for flag in Flag:
            counts[str(flag.name)] += int((rows["flags"] & flag.value != 0).sum())
    return {name: count for name, count in counts.items() if count}
