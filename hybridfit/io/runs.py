"""The folder of a long run: what it was started with, and the parts that are done.

A part is the rows of a fixed number of consecutive galaxies. It is computed whole, from the same
galaxies, or not at all, and its file appears by a rename; so a run that was killed at any moment
goes on to the same table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.io.export import FORMATS, atomic

RECORD = "run.json"
PARTS = "parts"
MODELS = "models"


class UsageError(ValueError):
    """The command, its options or its whole input are wrong; nothing was computed."""


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Args:
        path: the folder.
        results: the table that it shall end with.
        record: what the run was started with; ``compared`` in it must agree to go on.
        row_type: record type of the rows.
        edges: galaxy numbers at which parts begin, and the end.
    """

    path: Path
    results: Path
    record: Mapping[str, Any]
    row_type: np.dtype
    edges: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.edges) - 1

    def galaxies(self, part: int) -> range:
        """Return the numbers of a part's galaxies."""
        return range(self.edges[part], self.edges[part + 1])

    def is_complete(self) -> bool:
        """Whether the table is there and belongs to this record."""
        return self.results.exists() and bool(_read_record(self.path).get("complete"))

    def is_done(self, part: int) -> bool:
        """Whether a part's rows are there, all of them."""
        try:
            rows = np.load(self._file(part), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return rows.dtype == self.row_type and len(rows) == len(self.galaxies(part))

    def save(self, part: int, rows: NDArray[np.void]) -> None:
        """Keep the rows of a part; raises OSError if they cannot be written."""
        with atomic(self._file(part)) as file:
            np.save(file, rows, allow_pickle=False)

    def rows(self) -> Iterator[NDArray[np.void]]:
        """Yield the rows of all parts in order."""
        for part in range(len(self)):
            yield np.load(self._file(part), allow_pickle=False)

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
        UsageError: if the folder holds another run or a table that no run here made, or if
            another process works in it.
        OSError: if the folder cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"output '{path}' is a file, expected a directory")
    path.mkdir(parents=True, exist_ok=True)
    results = path / f"results.{format}"
    with _lock(path):
        if overwrite:
            _clear(path)
        found = _read_record(path)
        if found:
            _check_same(path, found.get("compared", {}), record["compared"])
        else:
            left = [f.name for f in _tables(path)]
            if left:
                raise UsageError(
                    f"output '{path}' already has {', '.join(left)}, not made by a run that can be "
                    "gone on with: pass --overwrite to replace it, or another -o"
                )
            _clear(path)  # parts whose record is gone cannot be trusted
            _write_record(path, record)
        (path / PARTS).mkdir(exist_ok=True)
        run = Run(path, results, record, row_type, edges)
        if run.is_complete():
            shutil.rmtree(path / PARTS, ignore_errors=True)
        yield run


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise if a run was started with something else, naming what differs."""
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
        found = json.loads((path / RECORD).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path / RECORD}' cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    with atomic(path / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def _tables(path: Path) -> list[Path]:
    return [file for format in FORMATS if (file := path / f"results.{format}").exists()]


def _clear(path: Path) -> None:
    """Remove what a run makes and nothing else; its record first, so that a kill does no harm."""
    for file in (path / RECORD, *_tables(path), *(path / MODELS).glob("*_block.fits")):
        file.unlink(missing_ok=True)
    shutil.rmtree(path / PARTS, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing to output '{path}'") from error
        except OSError:  # a file system without locks
            yield
            return
        yield
        with suppress(OSError):
            (path / ".lock").unlink()
