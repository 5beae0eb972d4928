"""A run over files, part by part, whatever is computed: resumable, and flat in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hybridfit.arguments import check_fields
from hybridfit.cutouts import Cutouts
from hybridfit.io import export, runs
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
from hybridfit.io.table import Column, id_width, record_type
from hybridfit.io.unicode_columns import Again
from hybridfit.io.zeropoint_columns import told_zeropoints
from hybridfit.pipeline.common import metadata, usable_device, versions
from hybridfit.results import Flag

BATCH_PIXELS = 1 << 24  # read before a batch is computed: some 150 MB of image, sigma and mask
NO_DATA = ("no data",)
PSF_STEP = 16  # pixels that sides of PSFs are rounded up to


@dataclass(frozen=True)
class StreamOptions:
    """How a run from files goes about it, whatever it computes."""

    device: str = "cpu"  # any of torch: cpu, cuda, cuda:1
    threads: int = 1  # of the CPU; stamps are small, more of them seldom pay
    format: str = "fits"  # fits | ecsv | parquet | csv
    part: int = 256  # galaxies that are computed and kept at a time
    limit: int = 0  # only so many galaxies, in the order of their ids; 0: all

    def __post_init__(self) -> None:
        check_fields(self)
        export.check_format(self.format)
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
        quality: how many of them are certified, usable, suspect; empty where nothing was fitted.
        n_fitted: galaxies this process worked on; the others were done before.
        seconds: spent by this process on finding, reading, computing, writing.
    """

    results: Path
    n: int
    flags: Mapping[str, int]
    quality: Mapping[str, int]
    n_fitted: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """What a run computes.

    Args:
        options: name to options dataclass; all of them must be the same to go on with a run.
        columns: of its table, given the bytes of the longest id.
        rows: of a batch of galaxies of one padded shape with its job and the share that it has
            of its part.
        nothing: rows of galaxies without data.
        read: reading options.
        run: how it goes about it.
        identity: what else must be the same.
    """

    options: Mapping[str, Any]
    columns: Callable[[int], Sequence[Column]]
    rows: Callable[[Cutouts, Job, float], NDArray[np.void]]
    nothing: Callable[[Cutouts, Job], NDArray[np.void]]
    read: ReadOptions
    run: StreamOptions
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """The galaxies of a run and how one is read.

    Args:
        sources: sorted by id.
        read: one of them; raises `BadInput`.
        kind: of a galaxy, by its id: what else a batch must have in common.
    """

    sources: Sequence[Source]
    read: Callable[[Source, ReadOptions], Stamp] = read_stamp
    kind: Callable[[str], tuple[Any, ...]] = lambda id: ()


@dataclass
class Job:
    """What the parts of a run have in common, and the time they took."""

    input: Input
    stage: Stage
    schema: Sequence[Column]
    models: Path
    n: int
    n_fitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, what: str, seconds: float) -> None:
        """Add to the time that went into ``what``."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        """Count the time in here as spent on ``what``."""
        start = time.perf_counter()
        yield
        self.spend(what, time.perf_counter() - start)


def run_stream(
    input: str | Path | Sequence[str],
    out: str | Path,
    stage: Stage,
    overwrite: bool,
    quiet: bool,
    found: Input | None = None,
) -> Summary:
    """Compute a stage's table for all galaxies of ``input``, or go on with it.

    Args:
        input: see `hybridfit.io.fits.find_sources`; with ``found`` only its name.
        out: directory for the table.
        stage: what is computed.
        overwrite: throw away another run's results in ``out``.
        quiet: without a progress bar.
        found: the galaxies, where they are not to be looked for in ``input``.

    Raises:
        UsageError: if the input as a whole, or what ``out`` holds already, is not usable.
        OSError: if ``out`` cannot be written.
    """
    out, start, run = Path(out), time.perf_counter(), stage.run
    if found is None:
        found = Input(_sources(Path(str(input)), out, stage.read))
    n = min(len(found.sources), run.limit or len(found.sources))
    ids = _ids(found.sources)[:n]
    schema = stage.columns(id_width(ids))
    stages = {"read": asdict(stage.read), **{k: asdict(v) for k, v in stage.options.items()}}
    settings = {**stages, "run": _lasting(run)}
    compared = {**_compared(settings, ids), **stage.identity}
    name = input if isinstance(input, list) else str(input)
    record = {"input": name, "compared": compared}
    edges = (*range(0, n, run.part), n)
    with (
        runs.open_run(out, run.format, record, record_type(schema), edges, overwrite) as folder,
        _threads(run.threads),
    ):
        job = Job(found, stage, schema, out / runs.MODELS, n)
        job.spend("finding", time.perf_counter() - start)
        if not folder.is_complete():
            _compute_parts(folder, job, quiet)
            meta = metadata({**settings, "input": name})
            with job.clock("writing"):
                named, zeropoints = told_zeropoints(folder.rows(), schema)
                meta = {**meta, **zeropoints}
                export.write_results(folder.results, Again(folder.rows), named, meta)
            counted = {"flags": _count_flags(folder), "quality": _count_quality(folder)}
            folder.finish({"n": n, **counted})
        counts = folder.outcome()
    told = counts["n"], counts["flags"], counts["quality"]
    return Summary(folder.results, *told, job.n_fitted, job.seconds)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def _compute_parts(folder: runs.Run, job: Job, quiet: bool) -> None:
    """Compute the parts that are not there yet."""
    todo = [part for part in range(len(folder)) if not folder.is_done(part)]
    done = job.n - sum(len(folder.galaxies(part)) for part in todo)
    with tqdm(total=job.n, initial=done, unit=" galaxies", disable=True if quiet else None) as bar:
        for part in todo:
            sources = [job.input.sources[i] for i in folder.galaxies(part)]
            rows = np.zeros(len(sources), folder.row_type)
            for index, batch in _batches(sources, job):
                rows[index] = _compute_batch(batch, job, len(batch) / len(sources))
                job.n_fitted += len(index)
                bar.update(len(index))
            with job.clock("writing"):
                folder.save(part, rows)


def _compute_batch(stamps: list[Stamp], job: Job, share: float) -> NDArray[np.void]:
    """Rows of a batch that makes up ``share`` of its part, so about that of the whole run."""
    kind = _kind(stamps[0])
    if kind == NO_DATA:
        return job.stage.nothing(stack(stamps), job)
    with job.clock("reading"):
        cutouts = stack(stamps, kind[:2], kind[3:] or None)
    return job.stage.rows(cutouts, job, share)


def _batches(sources: Sequence[Source], job: Job) -> Iterator[tuple[list[int], list[Stamp]]]:
    """Yield the galaxies of a part as batches of one padded shape, with their row numbers."""
    groups: dict[tuple[Any, ...], tuple[list[int], list[Stamp]]] = {}
    pixels = 0
    for i, source in enumerate(sources):
        with job.clock("reading"):
            stamp = _read(source, job)
        kind = _kind(stamp)
        own = () if kind == NO_DATA else job.input.kind(source.id)
        group = groups.setdefault((*kind, own), ([], []))
        group[0].append(i)
        group[1].append(stamp)
        pixels += stamp.image.size
        if pixels > BATCH_PIXELS:
            yield from groups.values()
            groups, pixels = {}, 0
    yield from groups.values()


def _ids(sources: Sequence[Source]) -> Sequence[str]:
    """Their names, without making each of them where that can be helped."""
    return sources.ids if isinstance(sources, Sources) else [source.id for source in sources]


def _read(source: Source, job: Job) -> Stamp:
    """Read a galaxy; whatever is wrong with it becomes a stamp without data."""
    try:
        return job.input.read(source, job.stage.read)
    except BadInput as error:
        return bad_stamp(source.id, error)
    except Exception as error:  # what readers of broken files raise has no end
        text = f"{type(error).__name__} while reading '{source.image}': {error}"
        return bad_stamp(source.id, BadInput(text))


def _kind(stamp: Stamp) -> tuple[Any, ...]:
    """What the galaxies of a batch share: no data, or a padded shape and the kind of PSF."""
    if stamp.mask.all():
        return NO_DATA
    if stamp.psf is None:
        return (*padded_shape(*stamp.image.shape), None)
    return (*padded_shape(*stamp.image.shape), stamp.psf_oversampling, *_psf_sides(stamp.psf))


def _psf_sides(psf: NDArray) -> tuple[int, ...]:
    """Odd sides that PSFs are padded to: few of them, so that few kernels are compiled."""
    return tuple(PSF_STEP * math.ceil((side - 1) / PSF_STEP) + 1 for side in psf.shape)


def _sources(input: Path, out: Path, options: ReadOptions) -> Sources:
    """Find the galaxies; what makes the whole input unusable is wrong usage."""
    if input.is_dir() and out.exists() and input.samefile(out):
        raise UsageError(f"output '{out}' is the input: results would lie among the galaxies")
    try:
        return find_sources(input, options)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _lasting(run: StreamOptions) -> dict[str, Any]:
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


def _count_quality(folder: runs.Run) -> dict[str, int]:
    counts: dict[str, int] = {}
    for rows in folder.rows():
        for text in rows["quality"] if "quality" in (rows.dtype.names or ()) else ():
            counts[text.decode()] = counts.get(text.decode(), 0) + 1
    return counts
