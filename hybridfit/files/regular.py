"""Regular files and their text, read up to a limit: a device or a pipe would be read for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MEGABYTE = 1_000_000
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class FileProblem(ValueError):
    """A file is not what it should be: no regular file, too large, or with absurd claims."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; never waits for the other end of a pipe.

    Raises:
        FileNotFoundError: without such a file.
        FileProblem: if it is a directory, pipe, device, socket, or a circle of links.
        OSError: if it cannot be read.
    """
    # without O_NONBLOCK opening a pipe waits until somebody writes to it
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):  # opening a device may act on it
            raise FileProblem(_not_regular(path, mode))
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileProblem(f"'{path}' is a symbolic link that leads back to itself") from error
        raise
    file = os.fdopen(descriptor, "rb")
    mode = os.fstat(descriptor).st_mode  # of what was opened, whatever has the name now
    if not stat.S_ISREG(mode):
        file.close()
        raise FileProblem(_not_regular(path, mode))
    return file


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Return what a regular file holds.

    Args:
        path: of the file.
        limit: bytes that it may have.

    Raises:
        FileProblem: if it is larger, or as for `open_regular`.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileProblem(
            f"'{path}' is larger than {limit / MEGABYTE:g} MB, expected a file of that size at most"
        )
    return data


def read_text(path: str | Path, limit: int) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        FileProblem: if it is not UTF-8, or as for `read_bytes`.
        OSError: if it cannot be read.
    """
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileProblem(f"'{path}' is no text in UTF-8: see its line {line}") from error


def check_regular(path: str | Path) -> None:
    """Raise what `open_regular` would, for a file that somebody else will open by its name."""
    open_regular(path).close()


def check_text(path: str | Path) -> None:
    """Raise FileProblem if a file is no regular one, or begins as no text does."""
    with open_regular(path) as file:
        if b"\0" in file.read(4096):
            raise FileProblem(f"'{path}' is no text, expected a table of text")


def peek_text(path: str | Path, count: int) -> str:
    """Return the text of a regular file's first ``count`` bytes, whatever its encoding.

    Raises:
        FileProblem: if it is no regular file.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        return file.read(count).decode("utf-8", errors="replace")


def _not_regular(path: str | Path, mode: int) -> str:
    kind = KINDS.get(stat.S_IFMT(mode), "no regular file")
    return f"'{path}' is {kind}, expected a regular file"
