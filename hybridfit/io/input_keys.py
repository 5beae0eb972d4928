"""Keys of the input files of a galaxy, by which a run notices that they have changed.

The quick key hashes sizes, times and inodes, at a microsecond per file. If it differs, the content
key, a hash of the files' bytes, decides whether the data differ: files that were copied, touched
or linked still count as the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from hybridfit.data.errors import BadInput
from hybridfit.files.regular import FileProblem, open_regular
from hybridfit.io.address import parse_address
from hybridfit.io.options import ROLES, VALUES, ReadOptions
from hybridfit.io.sources import Source

CONTENT_LIMIT = 64 << 20  # bytes: larger files (mosaics) are compared by size and time alone
State = tuple[int, int, int, int]  # size, modification time, status-change time, inode

Key = tuple[int, int]


def source_files(source: Source, options: ReadOptions) -> list[str]:
    """Return the files of a galaxy for each role, with their HDUs; "" for a missing role."""
    files = [str(getattr(source, role)) for role in ROLES]
    shared = options.psf if not (source.psf or options.no_psf) else None
    further = [file for other in source.exposures for file in source_files(other, options)]
    return [*files, shared or "", *further]


def source_values(source: Source) -> str:
    """Return the values of a galaxy's manifest row, other than files, as text."""
    values = tuple(getattr(source, name) for name in VALUES)
    own = (source.parameters,) if source.parameters else ()
    further = tuple(source_values(other) for other in source.exposures)
    return repr((values, source.start, source.problem, *own, *further))


def quick_key(values: str, files: Sequence[str]) -> int:
    """Return a key of ``values`` and the files' sizes, times and inodes, without opening a file."""
    return _key(values, [(os.path.basename(text), _state(text)) for text in files])


def content_key(values: str, files: Sequence[str]) -> int:
    """Return a key of ``values`` and the files' bytes."""
    return _key(values, [(os.path.basename(text), _content(text)) for text in files])


def input_key(values: str, files: Sequence[str]) -> Key:
    """Return the quick key and the content key."""
    return quick_key(values, files), content_key(values, files)


def any_gone(files: Sequence[str]) -> bool:
    """Return whether any named file is missing."""
    return any(text and _state(text) is None for text in files)


def _key(values: str, parts: list[tuple[str, object]]) -> int:
    text = repr((values, parts)).encode("utf-8", "surrogateescape")
    return int(np.frombuffer(blake2b(text, digest_size=8).digest(), np.uint64)[0])


def _state(text: str) -> State | None:
    """Return the state of the file in ``file.fits[HDU]``; None if it does not exist."""
    if not text:
        return None
    try:
        found = os.stat(_path(text))
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _content(text: str) -> object:
    state = _state(text)
    if state is None or state[0] > CONTENT_LIMIT:
        return None if state is None else state[:2]
    return _digest(_path(text), state)


def _path(text: str) -> str:
    """Return the path of the file, without a trailing HDU or section."""
    try:
        return parse_address(text).path
    except BadInput:  # reported in the galaxy's row
        return text


@lru_cache(maxsize=64)
def _digest(path: str, state: State) -> bytes | None:
    """Return a digest of a file's bytes, cached because many galaxies may share a file."""
    try:
        with open_regular(path) as file:
            return blake2b(file.read(CONTENT_LIMIT), digest_size=16).digest()
    except (OSError, FileProblem):
        return None
