"""A run over files, part by part, whatever is computed: resumable, and flat in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.data.flags import Flag
from hybridfit.io import run_folder as runs
from hybridfit.io import write_tables as export
from hybridfit.io.options import ReadOptions
from hybridfit.io.sources import Source, Sources, find_sources
from hybridfit.io.table import id_width, record_type
from hybridfit.io.unicode_columns import Reiterable
from hybridfit.pipeline.engine.batching import compute_parts
from hybridfit.pipeline.engine.changes import check_inputs
from hybridfit.pipeline.engine.job import Input, Job, Stage, Summary
from hybridfit.pipeline.engine.progress import Progress
from hybridfit.pipeline.measure import metadata, versions
from hybridfit.pipeline.options import FileRunOptions


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
        input: see `hybridfit.io.read.find_sources`; with ``found`` only its name.
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
    edges = (*range(0, n, run.part_size), n)
    with (
        runs.open_run(out, run.format, record, record_type(schema), edges, overwrite) as folder,
        _threads(run.threads),
    ):
        job = Job(found, stage, schema, out / runs.MODELS, ids)
        job.spend("finding", time.perf_counter() - start)
        with job.clock("checking"):
            notes = check_inputs(folder, job)
        if not folder.is_complete():
            _compute(folder, job, quiet)
            notes += [f"{text}: measured again" for _, text in sorted(folder.damaged.items())]
            meta = metadata({**settings, "input": name})
            with job.clock("writing"):
                export.write_tables(out, run.format, Reiterable(folder.rows), schema, meta)
                counted, keys = _counted(folder)
                folder.keep_keys(keys)
            folder.finish({"n": n, **counted, "notes": notes})
        counts = folder.outcome()
    told = counts["n"], counts["flags"], counts["quality"]
    return Summary(folder.results, *told, job.n_fitted, job.seconds, tuple(notes))


def _compute(folder: runs.Run, job: Job, quiet: bool) -> None:
    """Compute what is not done yet, under a progress bar."""
    done = sum(int(folder.part(k).done.sum()) for k in range(len(folder)))
    with Progress(job.n, done, quiet) as job.progress:
        compute_parts(folder, job)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ids(sources: Sequence[Source]) -> Sequence[str]:
    """Their names, without making each of them where that can be helped."""
    return sources.ids if isinstance(sources, Sources) else [source.id for source in sources]


def _sources(input: Path, out: Path, options: ReadOptions) -> Sources:
    """Find the galaxies; what makes the whole input unusable is wrong usage."""
    if input.is_dir() and out.exists() and input.samefile(out):
        raise UsageError(f"output '{out}' is the input: results would lie among the galaxies")
    try:
        return find_sources(input, options)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _lasting(run: FileRunOptions) -> dict[str, Any]:
    """The run's options that shape its table."""
    return {name: value for name, value in asdict(run).items() if name != "threads"}


def _compared(settings: Mapping[str, Mapping[str, Any]], ids: Sequence[str]) -> dict[str, Any]:
    """What must be the same to go on with a run: options, versions and galaxies."""
    flat = {f"{stage} {name}": v for stage, all in settings.items() for name, v in all.items()}
    digest = sha256("\n".join(ids).encode()).hexdigest()[:16]
    return {**flat, "galaxies": f"{len(ids)} with ids {digest}", "versions": versions()}


def _counted(folder: runs.Run) -> tuple[dict[str, dict[str, int]], NDArray[np.uint64]]:
    """How many galaxies have each flag and quality; the keys of their files."""
    flags = {"any": 0, **{str(flag.name): 0 for flag in Flag}}
    quality: dict[str, int] = {}
    keys = [np.zeros((0, 2), np.uint64)]
    for part in folder.parts():
        bits = part.rows["flags"]
        flags["any"] += int((bits != 0).sum())
        for flag in Flag:
            flags[str(flag.name)] += int((bits & flag.value != 0).sum())
        for text in part.rows["quality"] if "quality" in (part.rows.dtype.names or ()) else ():
            quality[text.decode()] = quality.get(text.decode(), 0) + 1
        keys.append(part.keys)
    found = {name: count for name, count in flags.items() if count}
    return {"flags": found, "quality": quality}, np.concatenate(keys)
