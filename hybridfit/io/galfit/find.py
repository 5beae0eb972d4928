"""Find the GALFIT input files of a directory by their content, not by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hybridfit.files.regular import FileProblem, read_bytes
from hybridfit.io.galfit.feedme import is_restart

OTHERS = re.compile(
    r"\.(fits?|fts|fz|gz|png|jpe?g|pdf|csv|ecsv|json|parquet|ya?ml|py|html|npz|reg)$", re.IGNORECASE
)
IMAGE_ROW = re.compile(r"^\s*[Aa]\s*\)", re.MULTILINE)
TYPE_ROW = re.compile(r"^\s*0\s*\)\s*[A-Za-z]", re.MULTILINE)
LARGEST = 2_000_000  # bytes


def find_feedmes(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the GALFIT input files among files and, recursively, in directories.

    A file given by name is always used, even a restart file, as GALFIT can start from those. In
    a directory, input files are recognised by rows ``A)`` and ``0)``; restart files, which start
    with a chi2, are skipped.

    Args:
        paths: one or more files or directories.

    Returns:
        Sorted paths, each once.

    Raises:
        FileNotFoundError: if a path does not exist.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            found |= dict.fromkeys(file for file in files_in(path) if is_feedme(file))
        elif path.exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"'{path}' does not exist, expected a feedme or a directory")
    return sorted(found)


def files_in(directory: Path) -> Iterator[Path]:
    """Yield a directory's files, recursively, except hidden ones."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from files_in(path)
        elif path.is_file():
            yield path


def is_feedme(path: Path) -> bool:
    """Return whether a file is a GALFIT input file, not a restart file."""
    text = peek(path)
    return is_menu(text) and not is_restart(text.splitlines()[:8])


def is_menu(text: str) -> bool:
    """Return whether a text has the rows of an input or restart file."""
    return bool(IMAGE_ROW.search(text) and TYPE_ROW.search(text))


def peek(path: Path) -> str:
    """Return a file's text; "" if it is not text, or too large for a GALFIT file."""
    if OTHERS.search(path.name):
        return ""
    try:
        data = read_bytes(path, LARGEST)
    except FileProblem:
        return ""
    return "" if b"\0" in data[:4096] else data.decode("utf-8", errors="replace")
