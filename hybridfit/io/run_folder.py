"""The folder of a long run: a record of its input and options, and the finished parts.

A part is the rows of a fixed number of consecutive galaxies. Its batches are the same whenever and
wherever it is computed, and a batch is saved completely or not at all; files are written
atomically. So a run that was killed at any moment continues to the same table, and several
processes may share it: each claims the parts that it computes, see `hybridfit.io.claims`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.io.claims import MEMBERS, Member
from hybridfit.io.common_columns import DRAWS
from hybridfit.io.formats import DRAWN, NEIGHBOURS, RESULTS, table_path, tables_in
from hybridfit.io.neighbour_table import COUNT
from hybridfit.io.parts import (
    DamagedPart,
    Part,
    blank_part,
    read_keys,
    read_part,
    write_keys,
    write_part,
)
from hybridfit.io.run_record import RECORD, check_same, read_record, write_record
from hybridfit.io.writing import (
    check_no_folder,
    check_unlinked,
    real_folder,
)

PARTS = "parts"
MODELS = "models"
INPUTS = "inputs.npy"  # keys of the galaxies' input files
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.part)?")  # see `hybridfit.io.writing.atomic`


@dataclass(frozen=True)
class RunFolder:
    """A run's folder; it can be pickled and sent to another process.

    Args:
        path: the folder.
        results: the final table.
        record: record of the run's input and options; ``compared`` in it must agree to continue.
        row_type: record type of the rows.
        edges: numbers of the first galaxy of each part, and the end.
        damaged: why parts were not usable, among those read.
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
        """The final table of draws; None if none are kept."""
        kept = any(name.endswith(DRAWS) for name in self.row_type.names or ())
        return self.results.with_stem(DRAWN) if kept else None

    @property
    def neighbours(self) -> Path | None:
        """The final table of neighbours; None if none were fitted."""
        kept = COUNT in (self.row_type.names or ())
        return self.results.with_stem(NEIGHBOURS) if kept else None

    def galaxies(self, part: int) -> range:
        """Return the numbers of a part's galaxies."""
        return range(self.edges[part], self.edges[part + 1])

    def is_complete(self) -> bool:
        """Return whether the table exists and belongs to this record."""
        found = read_record(self.path)
        others = (self.draws, self.neighbours)
        there = self.results.is_file() and all(one is None or one.is_file() for one in others)
        return there and bool(found.get("complete")) and "outcome" in found

    def part(self, part: int) -> Part:
        """Return the saved rows of a part; none are done if it is missing or damaged."""
        n = len(self.galaxies(part))
        try:
            return read_part(self._file(part), self.row_type, n)
        except FileNotFoundError:
            return blank_part(n, self.row_type)
        except DamagedPart as error:
            self.damaged[part] = str(error)
            return blank_part(n, self.row_type)

    def part_claim(self, part: int) -> Path:
        """Return the path that a process claims before it computes a part."""
        return self._file(part)

    @property
    def table_claim(self) -> Path:
        """The path that a process claims before it writes the table."""
        return self.path / PARTS / "table"

    def save(self, part: int, content: Part) -> None:
        """Save a complete or partial part; raise OSError if it cannot be written."""
        file = self._file(part)
        if file.is_dir() and not file.is_symlink():  # damage: the folder belongs to the run
            shutil.rmtree(file)
        write_part(file, content)

    def parts(self) -> Iterator[Part]:
        """Yield all parts in order, once they are complete.

        Raises:
            RuntimeError: if one has changed since it was written.
        """
        for part in range(len(self)):
            try:
                found = read_part(self._file(part), self.row_type, len(self.galaxies(part)))
                if not found.done.all():
                    raise DamagedPart(f"'{self._file(part).name}' is not whole")
                yield found
            except (FileNotFoundError, DamagedPart) as error:
                text = f"{error}, and was whole before: give the same command again"
                raise RuntimeError(text) from error

    def rows(self) -> Iterator[NDArray[np.void]]:
        """Yield the rows of all parts in order, once they are complete."""
        for part in self.parts():
            yield part.rows

    def keys(self) -> NDArray[np.uint64] | None:
        """Return the keys (N, 2) of all galaxies of a complete run; None if they are missing."""
        return read_keys(self.path / INPUTS, self.edges[-1])

    def keep_keys(self, keys: NDArray[np.uint64]) -> None:
        """Save the keys (N, 2) of all galaxies."""
        write_keys(self.path / INPUTS, keys)

    def reopen(self) -> None:
        """Reopen a complete run, with the parts that were saved, if any."""
        write_record(self.path, self.record)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Record that the table is complete and its outcome, and remove the parts."""
        write_record(self.path, {**self.record, "complete": True, "outcome": outcome})
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def outcome(self) -> dict[str, Any]:
        """Return the outcome passed to `finish`."""
        return read_record(self.path)["outcome"]

    def _file(self, part: int) -> Path:
        return self.path / PARTS / f"part-{part:06d}.npy"


@contextmanager
def open_run(
    path: Path,
    format: str,
    record: Mapping[str, Any],
    row_type: np.dtype,
    edges: tuple[int, ...],
    overwrite: bool = False,
    exclusive: bool = False,
    begin: Callable[[RunFolder], None] = lambda folder: None,
) -> Iterator[tuple[RunFolder, Member]]:
    """Start a run in a folder, continue one, or join other processes working on it.

    Args:
        path: the folder, created if it does not exist.
        format: format of the table.
        record: JSON-able; its entry ``compared`` (names to values) must agree with the record of
            the folder's run.
        row_type, edges: see `RunFolder`.
        overwrite: discard the files of another run in the folder.
        exclusive: refuse to join other processes.
        begin: called with the folder if no other process works in it, before any may.

    Raises:
        UsageError: if the folder holds another run or a table not made by one, if a file of the
            run is a link, or if other processes work in it that cannot be joined.
        OSError: if the folder cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"output '{path}' is a file, expected a directory")
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path, table_path(path, format), record, row_type, edges)
    check_unlinked(path / MEMBERS)
    with Member(path) as member:
        with member.waiting_claim(member.setup):
            _set_up(folder, member, overwrite, exclusive, begin)
        yield folder, member
        if not member.others():
            with suppress(OSError):  # empty if there was nothing to do
                (path / PARTS).rmdir()


def _set_up(
    folder: RunFolder,
    member: Member,
    overwrite: bool,
    exclusive: bool,
    begin: Callable[[RunFolder], None],
) -> None:
    """Prepare the folder if nobody else works in it, and join its run, see `open_run`."""
    path, others = folder.path, member.others()
    if others and (overwrite or exclusive):
        raise UsageError(
            f"another process is writing to output '{path}' ({len(others)} in all): wait "
            "until it has ended, or choose another -o"
        )
    _check_places(folder)
    if not others:
        _prepare(folder, overwrite)
        member.sweep()
    check_same(path, read_record(path).get("compared"), folder.record["compared"])
    if not others:
        begin(folder)
    member.begin_work()


def _check_places(folder: RunFolder) -> None:
    """Raise LinkedPath if a path of the run is a link or of the wrong kind."""
    for name in (PARTS, MODELS):
        check_unlinked(folder.path / name)
    tables = [folder.results.with_stem(name) for name in (RESULTS, DRAWN, NEIGHBOURS)]
    for file in (folder.path / RECORD, folder.path / INPUTS, *tables):
        check_no_folder(file)


def _prepare(folder: RunFolder, overwrite: bool) -> None:
    """Start a run, or prepare the continuation of a killed one."""
    path = folder.path
    _sweep(path)
    if overwrite:
        _clear(path)
    if not read_record(path):
        left = [file.name for file in _tables(path)]
        if left:
            raise UsageError(
                f"output '{path}' already has {', '.join(left)}, not made by a run that can be "
                "continued: pass --overwrite to replace it, or another -o"
            )
        _clear(path)  # parts without a record cannot be trusted
        write_record(path, folder.record)
    if folder.is_complete():
        shutil.rmtree(path / PARTS, ignore_errors=True)
    real_folder(path / PARTS)


def _tables(path: Path) -> list[Path]:
    return [one for name in (RESULTS, DRAWN, NEIGHBOURS) for one in tables_in(path, name)]


def _clear(path: Path) -> None:
    """Remove the files of a run only; its record first, so that being killed does no harm."""
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
