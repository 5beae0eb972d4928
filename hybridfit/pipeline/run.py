"""A run over files, whatever is computed and by whichever engine: resumable, flat in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.data.flags import Flag
from hybridfit.io import write_tables as export
from hybridfit.io.claims import POLL, Member
from hybridfit.io.run_folder import MODELS, RunFolder, open_run
from hybridfit.io.sources import Source, Sources, find_sources
from hybridfit.io.unicode_columns import Reiterable
from hybridfit.pipeline.devices import threads
from hybridfit.pipeline.engine.base import Engine, Run
from hybridfit.pipeline.engine.changes import check_inputs
from hybridfit.pipeline.engine.job import Job, Summary, Work
from hybridfit.pipeline.engine.progress import Progress
from hybridfit.pipeline.engine.serial import SerialEngine
from hybridfit.pipeline.engine.worker import Worker
from hybridfit.pipeline.measure import metadata, versions
from hybridfit.pipeline.options import FileRunOptions

log = logging.getLogger(__name__)


def run_files(
    input: str | Path | Sequence[str],
    out: str | Path,
    work: Work,
    overwrite: bool = False,
    quiet: bool = True,
    sources: Sequence[Source] | None = None,
    engine: Engine = SerialEngine(),
) -> Summary:
    """Compute a table for all galaxies of ``input``, or continue with it.

    Several processes may be given the same call: they share the parts.

    Args:
        input: see `hybridfit.io.read.find_sources`; with ``sources`` only its name.
        out: directory for the table.
        work: what is computed.
        overwrite: discard another run's results in ``out``.
        quiet: without a progress bar.
        sources, engine: the galaxies, if not to be looked for in ``input``; what computes parts.

    Raises:
        UsageError: if the input as a whole, or what ``out`` holds already, is not usable.
        OSError: if ``out`` cannot be written.
    """
    out, worker, notes = Path(out), Worker(work), []
    task = _task(input, out, work, sources, worker)

    def begin(folder: RunFolder) -> None:
        with worker.clock("checking"):
            notes.extend(check_inputs(task.run(folder)))

    place = (out, work.run.format, task.record, task.job.row_type, task.edges)
    begun = open_run(*place, overwrite, engine.exclusive, begin)
    with begun as (folder, member), threads(work.run.threads):
        if not folder.is_complete():
            _complete(task.run(folder), worker, member, engine, quiet, task.settings, notes)
        counts = folder.outcome()
    found = counts["n"], counts["flags"], counts["quality"]
    return Summary(folder.results, *found, worker.n_fitted, worker.seconds, tuple(notes))


@dataclass(frozen=True)
class _Task:
    """What a run measures, and what it notes of that.

    Args:
        sources: the galaxies; their first ``job.n`` are measured.
        ids: names of these.
        job: what is computed.
        settings: options by section, and the input's name, for the table.
        record: see `open_run`.
    """

    sources: Sequence[Source]
    ids: Sequence[str]
    job: Job
    settings: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def edges(self) -> tuple[int, ...]:
        """Numbers of the galaxies at which parts begin, and the end."""
        return (*range(0, self.job.n, self.job.work.run.part_size), self.job.n)

    def run(self, folder: RunFolder) -> Run:
        """Return the run in its folder."""
        return Run(folder, self.sources, self.ids, self.job)


def _task(
    input: str | Path | Sequence[str],
    out: Path,
    work: Work,
    sources: Sequence[Source] | None,
    worker: Worker,
) -> _Task:
    """Find the galaxies, unless they are given, and describe the run."""
    start = time.perf_counter()
    if sources is None:
        sources = _sources(Path(str(input)), out, work)
    n = min(len(sources), work.run.limit or len(sources))
    ids = _ids(sources)[:n]
    job = Job.of(work, ids, out / MODELS)
    name = input if isinstance(input, list) else str(input)
    settings = _settings(work)
    record = {"input": name, "compared": {**_compared(settings, ids), **work.identity}}
    worker.spend("finding", time.perf_counter() - start)
    return _Task(sources, ids, job, {**settings, "input": name}, record)


def _complete(
    run: Run,
    worker: Worker,
    member: Member,
    engine: Engine,
    quiet: bool,
    settings: Mapping[str, Any],
    notes: list[str],
) -> None:
    """Compute what is not done yet, under a progress bar, and write the table."""
    folder = run.folder
    done = [int(folder.part(k).done.sum()) for k in range(len(folder))]
    log.info("%d galaxies, %d of them done: %s", run.job.n, sum(done), folder.path)
    damage: list[str] = []
    with Progress(run.job.n, done, quiet) as worker.progress:
        while not folder.is_complete():
            engine.compute(run, worker, member)
            damage = [f"{text}: measured again" for _, text in sorted(folder.damaged.items())]
            if not _join(run, worker, member, settings, [*notes, *damage]):
                time.sleep(POLL)  # another process writes the table
    notes += damage


def _join(
    run: Run, worker: Worker, member: Member, settings: Mapping[str, Any], notes: Sequence[str]
) -> bool:
    """Write the table from the parts unless another process does; return whether it is written."""
    folder = run.folder
    try:
        with member.claimed(folder.table_claim) as claim:
            if claim is None:
                return False
            if folder.is_complete():
                return True
            with worker.clock("writing"):
                rows, format = Reiterable(folder.rows), run.job.work.run.format
                columns, meta = run.job.columns, metadata(settings)
                export.write_tables(folder.path, format, rows, columns, meta)
                counted, keys = _counted(folder)
                folder.keep_keys(keys)
            folder.finish({"n": run.job.n, **counted, "notes": list(notes)})
            log.info("written: %s", folder.results)
            return True
    except FileNotFoundError:
        if folder.is_complete():  # by another process, which has removed the parts
            return True
        raise


def _ids(sources: Sequence[Source]) -> Sequence[str]:
    """Their names, without making each of them where that can be helped."""
    return sources.ids if isinstance(sources, Sources) else [source.id for source in sources]


def _sources(input: Path, out: Path, work: Work) -> Sources:
    """Find the galaxies; what makes the whole input unusable is wrong usage."""
    if input.is_dir() and out.exists() and input.samefile(out):
        raise UsageError(f"output '{out}' is the input: results would lie among the galaxies")
    try:
        return find_sources(input, work.read, work.value_columns)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _settings(work: Work) -> dict[str, Any]:
    """Return all options that shape the table, by section."""
    stages = {"read": asdict(work.read), **{k: asdict(v) for k, v in work.options.items()}}
    return {**stages, "run": _lasting(work.run)}


def _lasting(run: FileRunOptions) -> dict[str, Any]:
    """The run's options that shape its table."""
    return {name: value for name, value in asdict(run).items() if name != "threads"}


def _compared(settings: Mapping[str, Mapping[str, Any]], ids: Sequence[str]) -> dict[str, Any]:
    """What must be the same to continue a run: options, versions and galaxies."""
    flat = {f"{stage} {name}": v for stage, all in settings.items() for name, v in all.items()}
    digest = sha256("\n".join(ids).encode()).hexdigest()[:16]
    return {**flat, "galaxies": f"{len(ids)} with ids {digest}", "versions": versions()}


def _counted(folder: RunFolder) -> tuple[dict[str, dict[str, int]], NDArray[np.uint64]]:
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
