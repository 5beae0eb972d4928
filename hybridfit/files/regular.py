"""Read regular files and their text up to a limit: a device or a pipe might never end."""

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
    """A file is unusable: not a regular file, too large, or with absurd sizes in its headers."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; never waits for the other end of a pipe.

    Raises:
        FileNotFoundError: without such a file.
        FileProblem: if it is a directory, pipe, device, socket, or a loop of links.
        OSError: if it cannot be read.
    """
    # without O_NONBLOCK opening a pipe waits until something writes to it
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
    mode = os.fstat(descriptor).st_mode  # of the opened file, even if the path was replaced
    if not stat.S_ISREG(mode):
        file.close()
        raise FileProblem(_not_regular(path, mode))
    return file


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: of the file.
        limit: largest allowed size in bytes.

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
        raise FileProblem(f"'{path}' is not text in UTF-8: see its line {line}") from error


def check_regular(path: str | Path) -> None:
    """Check, as `open_regular` does, a file that another library will open by name."""
    open_regular(path).close()


def check_text(path: str | Path) -> None:
    """Raise FileProblem if a file is not a regular one, or does not begin like text."""
    with open_regular(path) as file:
        if b"\0" in file.read(4096):
            raise FileProblem(f"'{path}' is not text, expected a table of text")


def peek_text(path: str | Path, count: int) -> str:
    """Return the text of a regular file's first ``count`` bytes, whatever its encoding.

    Raises:
        FileProblem: if it is not a regular file.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        return file.read(count).decode("utf-8", errors="replace")


def _not_regular(path: str | Path, mode: int) -> str:
    kind = KINDS.get(stat.S_IFMT(mode), "not a regular file")
    return f"'{path}' is {kind}, expected a regular file"
