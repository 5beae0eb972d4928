"""The folder of a long run: what it was started with, and the parts that are done.

A part is the rows of a fixed number of consecutive galaxies. Its batches are the same whenever it
is computed, and a batch is kept whole or not at all; files appear by a rename. So a run that was
killed at any moment goes on to the same table.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.io.common_columns import DRAWS
from hybridfit.io.formats import DRAWN, table_path, tables_in
from hybridfit.io.parts import (
    DamagedPart,
    Part,
    blank_part,
    read_keys,
    read_part,
    write_keys,
    write_part,
)
from hybridfit.io.writing import (
    LinkedPath,
    atomic,
    check_no_folder,
    check_unlinked,
    open_lock,
    read_regular,
    real_folder,
)

RECORD = "run.json"
PARTS = "parts"
MODELS = "models"
LOCK = ".lock"
INPUTS = "inputs.npy"  # keys of the files that the galaxies were measured on
LARGEST_RECORD = 1 << 26  # bytes
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.part)?")  # see `hybridfit.io.writing.atomic`


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Args:
        path: the folder.
        results: the table that it shall end with.
        record: what the run was started with; ``compared`` in it must agree to go on.
        row_type: record type of the rows.
        edges: galaxy numbers at which parts begin, and the end.
        damaged: why parts were not usable, for those that were looked at.
    """

    path: Path
    results: Path
    record: Mapping[str, Any]
    row_type: np.dtype
    edges: tuple[int, ...]
    damaged: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def draws(self) -> Path | None:
        """The table of draws that it shall end with; None where none are kept."""
        kept = any(name.endswith(DRAWS) for name in self.row_type.names or ())
        return self.results.with_stem(DRAWN) if kept else None

    def galaxies(self, part: int) -> range:
        """Return the numbers of a part's galaxies."""
        return range(self.edges[part], self.edges[part + 1])

    def is_complete(self) -> bool:
        """Whether the table is there and belongs to this record."""
        found = _read_record(self.path)
        there = self.results.is_file() and (self.draws is None or self.draws.is_file())
        return there and bool(found.get("complete")) and "outcome" in found

    def part(self, part: int) -> Part:
        """Return what is kept of a part; of one that is missing or damaged nothing is done."""
        n = len(self.galaxies(part))
        try:
            return read_part(self._file(part), self.row_type, n)
        except FileNotFoundError:
            return blank_part(n, self.row_type)
        except DamagedPart as error:
            self.damaged[part] = str(error)
            return blank_part(n, self.row_type)

    def save(self, part: int, content: Part) -> None:
        """Keep a part, whole or as far as it is; raises OSError if it cannot be written."""
        file = self._file(part)
        if file.is_dir() and not file.is_symlink():  # damage: the folder of parts is the run's own
            shutil.rmtree(file)
        write_part(file, content)

    def parts(self) -> Iterator[Part]:
        """Yield all parts in order, once they are whole.

        Raises:
            RuntimeError: if one has changed since it was written.
        """
        for part in range(len(self)):
            try:
                yield read_part(self._file(part), self.row_type, len(self.galaxies(part)))
            except (FileNotFoundError, DamagedPart) as error:
                text = f"{error}, and was whole before: give the same command again"
                raise RuntimeError(text) from error

    def rows(self) -> Iterator[NDArray[np.void]]:
        """Yield the rows of all parts in order, once they are whole."""
        for part in self.parts():
            yield part.rows

    def keys(self) -> NDArray[np.uint64] | None:
        """Return the keys (N, 2) of all galaxies of a complete run; None if they are not there."""
        return read_keys(self.path / INPUTS, self.edges[-1])

    def keep_keys(self, keys: NDArray[np.uint64]) -> None:
        """Keep the keys (N, 2) of all galaxies."""
        write_keys(self.path / INPUTS, keys)

    def reopen(self) -> None:
        """Make a complete run one that goes on: with the parts that were saved, if any."""
        _write_record(self.path, self.record)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Note that the table is in place and what came out, and let go of the parts."""
        _write_record(self.path, {**self.record, "complete": True, "outcome": outcome})
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def outcome(self) -> dict[str, Any]:
        """Return what `finish` was given."""
        return _read_record(self.path)["outcome"]

    def _file(self, part: int) -> Path:
        return self.path / PARTS / f"part-{part:06d}.npy"


@contextmanager
def open_run(
    path: Path,
    format: str,
    record: Mapping[str, Any],
    row_type: np.dtype,
    edges: tuple[int, ...],
    overwrite: bool,
) -> Iterator[Run]:
    """Begin a run in a folder, or go on with the one that was begun there.

    Args:
        path: the folder, made if it is not there.
        format: of the table.
        record: JSON-able; its entry ``compared`` (names to values) must agree with what the
            folder's run was started with.
        row_type, edges: see `Run`.
        overwrite: throw away what another run left in the folder.

    Raises:
        UsageError: if the folder holds another run or a table that no run here made, if what a
            run makes in it is a link, or if another process works in it.
        OSError: if the folder cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"output '{path}' is a file, expected a directory")
    path.mkdir(parents=True, exist_ok=True)
    results = table_path(path, format)
    check_no_folder(path / LOCK)
    with _lock(path):
        for name in (PARTS, MODELS):
            check_unlinked(path / name)
        for file in (path / RECORD, path / INPUTS, results, table_path(path, format, DRAWN)):
            check_no_folder(file)
        _sweep(path)
        if overwrite:
            _clear(path)
        found = _read_record(path)
        if found:
            _check_same(path, found.get("compared"), record["compared"])
        else:
            left = [f.name for f in _tables(path)]
            if left:
                raise UsageError(
                    f"output '{path}' already has {', '.join(left)}, not made by a run that can be "
                    "gone on with: pass --overwrite to replace it, or another -o"
                )
            _clear(path)  # parts whose record is gone cannot be trusted
            _write_record(path, record)
        run = Run(path, results, record, row_type, edges)
        if run.is_complete():
            shutil.rmtree(path / PARTS, ignore_errors=True)
        real_folder(path / PARTS)
        yield run
        with suppress(OSError):  # it is empty if there was nothing to do
            (path / PARTS).rmdir()


def _check_same(path: Path, old: Any, new: Mapping[str, Any]) -> None:
    """Raise if a run was started with something else, naming what differs."""
    if not isinstance(old, dict):
        raise UsageError(
            f"'{path / RECORD}' does not say how its run was started: --overwrite begins anew"
        )
    # what one of them does not have follows from something else
    names = sorted({*old, *new}, key=lambda name: (name not in old or name not in new, name))
    differing = [
        f"{name} was {_brief(old.get(name))} and is now {_brief(new.get(name))}"
        for name in names
        if json.dumps(old.get(name)) != json.dumps(new.get(name))
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise UsageError(
            f"output '{path}' holds a run that was started otherwise: {'; '.join(differing[:3])}"
            f"{more}. Give the same command to go on with it, --overwrite to begin anew, or "
            "another -o"
        )


def _brief(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path / RECORD, LARGEST_RECORD))
    except FileNotFoundError:
        return {}
    except LinkedPath:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"'{path / RECORD}' cannot be read ({error}): --overwrite begins anew"
        ) from error
    if not isinstance(found, dict):
        return {}
    if "outcome" in found and not _is_outcome(found["outcome"]):
        raise UsageError(f"'{path / RECORD}' is damaged (its outcome): --overwrite begins anew")
    return found


def _is_outcome(found: Any) -> bool:
    """Whether it is what `Run.finish` was given: galaxies, and how many of each flag, quality."""
    if not isinstance(found, dict) or not isinstance(found.get("n"), int):
        return False
    counts = [found.get(name) for name in ("flags", "quality")]
    return all(
        isinstance(each, dict) and all(isinstance(value, int) for value in each.values())
        for each in counts
    )


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    with atomic(path / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def _tables(path: Path) -> list[Path]:
    return [*tables_in(path), *tables_in(path, DRAWN)]


def _clear(path: Path) -> None:
    """Remove what a run makes and nothing else; its record first, so that a kill does no harm."""
    blocks = (path / MODELS).glob("*_block.fits")
    for file in (path / RECORD, path / INPUTS, *_tables(path), *blocks):
        if file.is_symlink() or not file.is_dir():
            file.unlink(missing_ok=True)
    shutil.rmtree(path / PARTS, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove the temporary files of a run that was killed."""
    for folder in (path, path / PARTS, path / MODELS):
        for file in folder.glob(".*.tmp*"):
            if TEMPORARY.fullmatch(file.name) and (file.is_symlink() or not file.is_dir()):
                file.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with open_lock(path / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing to output '{path}'") from error
        except OSError:  # a file system without locks
            yield
            return
        yield
        with suppress(OSError):
            (path / LOCK).unlink()
