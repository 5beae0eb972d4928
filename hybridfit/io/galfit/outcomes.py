"""Read GALFIT's results in a directory from blocks, logs and restart files, each run once."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hybridfit.io.galfit.block import is_block, read_block
from hybridfit.io.galfit.entries import Component, GalfitError, Outcome, Value
from hybridfit.io.galfit.feedme import is_restart, menu_file, read_feedme
from hybridfit.io.galfit.find import files_in, is_menu, peek
from hybridfit.io.galfit.log import is_log, read_log

FITS = (".fits", ".fits.gz", ".fit", ".fit.gz", ".fits.fz", ".fts")
CLOSE = 1e-3  # chi2 of a restart file has three decimals of a float, that of a log five
CLOSE_RELATIVE = 1e-6  # single precision
RESTART = re.compile(r"galfit\.(\d+)\b[^/]*$")
ROUNDED = 6e-5  # values of blocks and restart files have four decimals


def read_outcomes(paths: str | Path | Iterable[str | Path]) -> list[Outcome]:
    """Return GALFIT's results, one outcome per run, sorted by path.

    Blocks are taken first: they hold values, errors and flags to four decimals. Runs without a
    block are taken from their restart file, with errors from their entry in fit.log, or from
    either alone. Runs whose output was overwritten by a later one of the same feedme, image and
    region are left out. Blocks whose header gives one component the values of another take them
    from the restart file or log of the same chi2 beside them.

    Args:
        paths: a directory (recursively), a file, a glob such as ``"runs/*/fit.log"``, or several.

    Returns:
        The outcomes. A file in a directory that looks like GALFIT's but cannot be read is an
        outcome without components, whose note says why.

    Raises:
        FileNotFoundError: if there is no such file.
        GalfitError: if a file that was named is no output of GALFIT's, or cannot be read.
    """
    found: list[Outcome] = []
    for path, named in _expanded(paths):
        try:
            found += _read(path, named)
        except GalfitError as error:
            if named:
                raise
            found.append(Outcome(path, notes=(str(error),)))
    unreadable = [o for o in found if not o.components]
    blocks = [o for o in found if o.components and _kind(o) == "block"]
    restarts = [o for o in found if o.components and _kind(o) == "restart"]
    entries = [o for o in found if o.components and _kind(o) == "log"]
    runs = [_repaired(block, [*restarts, *entries]) for block in blocks]
    for restart in restarts:
        if not any(_same_run(restart, run) for run in runs):
            entry = next((e for e in entries if _same_run(e, restart)), None)
            runs.append(restart if entry is None else _with_errors(restart, entry))
    runs += [e for e in _latest(entries) if not any(_same_run(e, run) for run in runs)]
    return sorted([*unreadable, *_latest(runs)], key=lambda o: (str(o.path), o.restart))


def read_restart(path: str | Path) -> Outcome:
    """Read a restart file ``galfit.NN`` as a result: values to four decimals, no errors.

    Raises:
        FileNotFoundError: without such a file.
        GalfitError: with file, line and what was expected.
    """
    feedme = read_feedme(path)
    return Outcome(
        path=feedme.path,
        feedme=menu_file(feedme.path),
        image=feedme.image,
        restart=feedme.path.name,
        output=feedme.output,
        sigma=feedme.sigma,
        psf=feedme.psf,
        mask=feedme.mask,
        region=feedme.region,
        zeropoint=feedme.zeropoint,
        components=feedme.components,
        chi2=feedme.chi2,
        dof=feedme.dof,
        chi2nu=feedme.chi2nu,
        version=str(feedme.version),
        bands=feedme.bands,
        notes=feedme.notes,
    )


def _expanded(paths: str | Path | Iterable[str | Path]) -> list[tuple[Path, bool]]:
    """Return files, each once, and whether they were named."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: dict[Path, bool] = {}
    for item in given:
        path = Path(item)
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(item)))]
        if not matches:
            raise FileNotFoundError(f"'{item}' does not exist, expected GALFIT's outputs")
        for match in matches:
            inside = files_in(match) if match.is_dir() else [match]
            files |= {file: files.get(file, False) or not match.is_dir() for file in inside}
    return list(files.items())


def _read(path: Path, named: bool) -> Sequence[Outcome]:
    """Return the outcomes of one file; none if it is not GALFIT's and was not named."""
    if path.name.lower().endswith(FITS):
        return [read_block(path)] if named or is_block(path) else []
    text = peek(path)
    if is_log(text):
        return read_log(path)
    if is_menu(text) and is_restart(text.splitlines()[:8]):
        return [read_restart(path)]
    if "COMP_1  =" in text:
        return [read_block(path)]
    if named:
        raise GalfitError(
            path, None, "is no output of GALFIT: expected an image block, a fit.log or galfit.NN"
        )
    return []


def _kind(outcome: Outcome) -> str:
    if outcome.path.name == outcome.output:
        return "block"
    return "restart" if outcome.path.name == outcome.restart else "log"


def _same_run(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes near each other are of one run: the same chi2, dof and region."""
    near = one.path.parent == other.path.parent or _writes(one, other) or _writes(other, one)
    if not near or one.dof != other.dof or one.region != other.region:
        return False
    if math.isnan(one.chi2) or math.isnan(other.chi2):
        return one.restart == other.restart
    return abs(one.chi2 - other.chi2) <= max(CLOSE, CLOSE_RELATIVE * abs(one.chi2))


def _writes(entry: Outcome, block: Outcome) -> bool:
    """Whether an entry of a log names a file elsewhere as its output."""
    names = (entry.output, entry.restart)
    places = {(entry.path.parent / name).absolute() for name in names if name}
    return block.path.absolute() in places


def _latest(runs: Sequence[Outcome]) -> list[Outcome]:
    """Return the last run of one feedme and its restarts, on one region with one output."""
    came_from = {(run.path.parent, run.restart): run.feedme for run in runs if run.restart}
    last: dict[tuple[object, ...], Outcome] = {}
    for run in runs:
        folder, feedme = run.path.parent, run.feedme
        for _ in runs:  # restart files count upwards, and so does their chain
            if not RESTART.search(feedme) or (folder, feedme) not in came_from:
                break
            feedme = came_from[folder, feedme]
        output = Path(run.output).name.removesuffix(".gz")
        key = (folder, output, Path(run.image).name, run.region, feedme)
        before = last.get(key)
        if before is None or _rank(run) >= _rank(before):
            last[key] = run
    return list(last.values())


def _rank(run: Outcome) -> tuple[bool, int]:
    """Return the order of a run: blocks come last, before them restart files by number."""
    number = RESTART.search(run.restart)
    return _kind(run) == "block", int(number[1]) if number else 0


def _with_errors(values: Outcome, errors: Outcome) -> Outcome:
    """Return a restart file's values with the errors of its log entry."""
    if [c.kind for c in values.components] != [c.kind for c in errors.components]:
        return values
    parts = tuple(
        replace(
            part, values={name: _joined(v, log.values[name]) for name, v in part.values.items()}
        )
        if set(part.values) == set(log.values)
        else part
        for part, log in zip(values.components, errors.components, strict=True)
    )
    return replace(values, components=parts)


def _joined(value: Value, log: Value) -> Value:
    return replace(
        value,
        error=math.nan if value.fixed else log.error,
        coupled=value.coupled or log.coupled,
        suspect=value.suspect or log.suspect,
    )


def _repaired(block: Outcome, others: Sequence[Outcome]) -> Outcome:
    """Repair a block with a doubted component from other files of its run."""
    if not block.notes or block.version != "2":
        return block
    source = next((o for o in others if _same_run(o, block)), None)
    if source is None or len(source.components) != len(block.components):
        return block
    parts = tuple(
        _trusted(mine, theirs)
        for mine, theirs in zip(block.components, source.components, strict=True)
    )
    note = f"values of such components are from '{source.path.name}'"
    return replace(block, components=parts, notes=(*block.notes, note))


def _trusted(mine: Component, theirs: Component) -> Component:
    """Return values that both agree on, with the block's errors, else those of the other file."""
    values = {}
    for name, other in theirs.values.items():
        own = mine.values.get(name)
        agree = mine.kind == theirs.kind and own is not None
        if agree and own is not None and abs(own.value - other.value) <= ROUNDED:
            values[name] = own
        else:
            values[name] = other
    return replace(theirs, values=values)
