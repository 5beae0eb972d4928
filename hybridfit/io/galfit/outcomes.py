"""Read GALFIT's results from the blocks, logs and restart files of a directory, each run once."""

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

    Blocks have priority: they contain values, errors and flags with four decimals. Runs without
    a block are read from their restart file, with errors from their entry in fit.log, or from
    either alone. Runs whose output was overwritten by a later run of the same feedme, image and
    region are skipped. If a block's header gives one component the values of another, its values
    are read from the neighbouring restart file or log with the same chi2.

    Args:
        paths: a directory (recursively), a file, a glob such as ``"runs/*/fit.log"``, or several.

    Returns:
        The outcomes. A file in a directory that looks like GALFIT's but cannot be read is an
        outcome without components, with the reason in its notes.

    Raises:
        FileNotFoundError: if a path does not exist.
        GalfitError: if a file given by name is not GALFIT output, or cannot be read.
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
        FileNotFoundError: if the file does not exist.
        GalfitError: for invalid content; names the file, the line and what was expected.
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
    """Return the files, each once, and whether each was given by name."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: dict[Path, bool] = {}
    for item in given:
        path = Path(item)
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(item)))]
        if not matches:
            raise FileNotFoundError(f"'{item}' does not exist, expected GALFIT output")
        for match in matches:
            inside = files_in(match) if match.is_dir() else [match]
            files |= {file: files.get(file, False) or not match.is_dir() for file in inside}
    return list(files.items())


def _read(path: Path, named: bool) -> Sequence[Outcome]:
    """Return the outcomes in one file; none if it is not GALFIT's and was not given by name."""
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
            path, None, "is not GALFIT output: expected an image block, a fit.log or galfit.NN"
        )
    return []


def _kind(outcome: Outcome) -> str:
    if outcome.path.name == outcome.output:
        return "block"
    return "restart" if outcome.path.name == outcome.restart else "log"


def _same_run(one: Outcome, other: Outcome) -> bool:
    """Return whether two neighbouring outcomes are of one run: same chi2, dof and region."""
    near = one.path.parent == other.path.parent or _writes(one, other) or _writes(other, one)
    if not near or one.dof != other.dof or one.region != other.region:
        return False
    if math.isnan(one.chi2) or math.isnan(other.chi2):
        return one.restart == other.restart
    return abs(one.chi2 - other.chi2) <= max(CLOSE, CLOSE_RELATIVE * abs(one.chi2))


def _writes(entry: Outcome, block: Outcome) -> bool:
    """Return whether a log entry names an output file in another directory."""
    names = (entry.output, entry.restart)
    places = {(entry.path.parent / name).absolute() for name in names if name}
    return block.path.absolute() in places


def _latest(runs: Sequence[Outcome]) -> list[Outcome]:
    """Return the last of the runs of a feedme and its restarts with the same region and output."""
    came_from = {(run.path.parent, run.restart): run.feedme for run in runs if run.restart}
    last: dict[tuple[object, ...], Outcome] = {}
    for run in runs:
        folder, feedme = run.path.parent, run.feedme
        for _ in runs:  # numbers of restart files increase along a chain of restarts
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
    """Return the sort key of a run: restart files by number, then blocks."""
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
    """Repair a block with a suspect component from other files of its run."""
    if not block.notes or block.version != "2":
        return block
    source = next((o for o in others if _same_run(o, block)), None)
    if source is None or len(source.components) != len(block.components):
        return block
    parts = tuple(
        _trusted(doubted, other)
        for doubted, other in zip(block.components, source.components, strict=True)
    )
    note = f"values of the suspect components are from '{source.path.name}'"
    return replace(block, components=parts, notes=(*block.notes, note))


def _trusted(doubted: Component, other: Component) -> Component:
    """Return the block's values where both files agree, else those of the other file."""
    values = {}
    for name, value in other.values.items():
        in_block = doubted.values.get(name) if doubted.kind == other.kind else None
        if in_block is not None and abs(in_block.value - value.value) <= ROUNDED:
            values[name] = in_block
        else:
            values[name] = value
    return replace(other, values=values)
