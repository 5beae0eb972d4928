"""Parts of a run's table on disk: rows, which of them are done, and keys of their input files.

A part contains a digest of its bytes, which is checked before anything else: a file is either
unchanged since it was written, or damaged.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridfit.io.writing import LinkedPath, atomic, read_regular

DIGEST = 32  # bytes
LARGEST = 1 << 33  # bytes: no run writes larger parts


class DamagedPart(ValueError):
    """A file has changed since it was written."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of consecutive galaxies.

    Args:
        rows: (N,) records; those not done are meaningless.
        done: (N,) bool.
        keys: (N, 2) uint64 of each galaxy's input files, see `hybridfit.io.input_keys`.
    """

    rows: NDArray[np.void]
    done: NDArray[np.bool_]
    keys: NDArray[np.uint64]


def blank_part(n: int, row_type: np.dtype) -> Part:
    """Return a part with no finished rows."""
    return Part(np.zeros(n, row_type), np.zeros(n, bool), np.zeros((n, 2), np.uint64))


def write_part(path: Path, part: Part) -> None:
    """Write a part atomically; raise OSError if it cannot be written."""
    with atomic(path) as file:
        file.write(_packed([part.rows, part.done, part.keys]))


def read_part(path: Path, row_type: np.dtype, n: int) -> Part:
    """Read a part of ``n`` galaxies.

    Raises:
        FileNotFoundError: if there is none.
        DamagedPart: if it has changed since it was written, or belongs to another run.
    """
    rows, done, keys = _unpacked(path, 3)
    expected = ((n,), (n,), (n, 2))
    shapes = (rows.shape, done.shape, keys.shape)
    if rows.dtype != row_type or shapes != expected or done.dtype != bool:
        raise DamagedPart(f"'{path.name}' holds other columns or galaxies")
    return Part(rows, done, keys.astype(np.uint64))


def write_keys(path: Path, keys: NDArray[np.uint64]) -> None:
    """Write the keys of all galaxies of a run. They are valid once the run's record says so."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(_packed([keys]))
        file.flush()
        os.fsync(file.fileno())


def read_keys(path: Path, n: int) -> NDArray[np.uint64] | None:
    """Read the keys of ``n`` galaxies; None if there are none or the file is damaged."""
    try:
        keys = _unpacked(path, 1)[0]
    except (OSError, DamagedPart):
        return None
    return keys.astype(np.uint64) if keys.shape == (n, 2) else None


def _packed(arrays: Sequence[NDArray]) -> bytes:
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    return data + blake2b(data, digest_size=DIGEST).digest()


def _unpacked(path: Path, count: int) -> list[NDArray]:
    try:
        data = read_regular(path, LARGEST)
    except FileNotFoundError:
        raise
    except (OSError, LinkedPath) as error:
        raise DamagedPart(f"'{path.name}' cannot be read: {error}") from error
    body, digest = data[:-DIGEST], data[-DIGEST:]
    if blake2b(body, digest_size=DIGEST).digest() != digest:
        raise DamagedPart(f"'{path.name}' is damaged (its checksum is wrong)")
    buffer = io.BytesIO(body)
    try:
        return [np.load(buffer, allow_pickle=False) for _ in range(count)]
    except (ValueError, EOFError, OSError) as error:  # from another version, with a correct digest
        raise DamagedPart(f"'{path.name}' is of another kind") from error
