"""Files that appear whole or not at all, and never behind a link that somebody planted.

Results often go into folders that others may write to. A name that can be guessed, followed as a
link, lets them overwrite any file of whoever runs the program: temporary files have random names
and are created anew, final names are put in place by a rename, which replaces a link instead of
following it, and folders of a run that are links are refused.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from astropy.table import Table

from hybridfit.data.errors import UsageError

# missing on some systems
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO without a writer must not hang


class LinkedPath(UsageError):
    """A path that a run makes itself is a link, or no regular file, and may lead anywhere."""


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file that takes the name ``path`` only once it is whole and on the disk.

    A link of that name is replaced, its target left alone.

    Raises:
        OSError: if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb", opener=_created) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """Give a text file to append to.

    Raises:
        LinkedPath: if it is a link or no regular file.
        OSError: if it cannot be written.
    """
    with open(path, "a", opener=_regular) as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_table(path: Path, table: Table) -> None:
    """Write an astropy table as FITS or ECSV, by the path's ending, whole or not at all."""
    with atomic(path) as file:
        if path.suffix == ".fits":
            table.write(file, format="fits")
        else:
            text = io.StringIO()
            table.write(text, format="ascii.ecsv")
            file.write(text.getvalue().encode())


def write_figure(path: Path, figure: Any, dpi: int) -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def real_folder(path: Path) -> Path:
    """Return a folder that a run makes for itself, made if it is not there.

    Raises:
        LinkedPath: if there is a link or a file in its place.
        OSError: if it cannot be made.
    """
    check_unlinked(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_unlinked(path: Path) -> None:
    """Raise LinkedPath if there is anything but a real folder at ``path``; nothing is fine."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        what = "a link" if stat.S_ISLNK(mode) else "a file"
        raise LinkedPath(
            f"'{path}' is {what}, expected a folder that the run makes itself: remove it, or "
            "choose another output"
        )


def check_no_folder(path: Path) -> None:
    """Raise LinkedPath if there is a folder at ``path``, where a file shall be."""
    if path.is_dir() and not path.is_symlink():
        raise LinkedPath(
            f"'{path}' is a folder, expected a file that the run writes itself: remove it, or "
            "choose another output"
        )


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a file that a run wrote.

    Args:
        path: of the file.
        limit: bytes that it may have.

    Raises:
        FileNotFoundError: if there is none.
        LinkedPath: if it is a link, no regular file, or larger.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise LinkedPath(f"'{path}' is larger than {limit} bytes: no run wrote it")
        return file.read(limit)


def create_file(path: Path, text: str) -> None:
    """Write a small file that must not be there yet.

    Raises:
        FileExistsError: if anything has that name.
        OSError: if it cannot be written.
    """
    with open(path, "wb", buffering=0, opener=_created) as file:
        file.write(text.encode("ascii"))


def open_regular(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a regular file of bytes.

    Raises:
        LinkedPath: if it is a link or no regular file.
        OSError: if it cannot be opened.
    """
    return open(path, mode, opener=_regular)


def _created(name: str, flags: int) -> int:
    """Create a file; an error if there is anything of that name, a link too."""
    return os.open(name, flags | os.O_EXCL | NOFOLLOW, 0o666)


def _regular(name: str, flags: int) -> int:
    """Open a regular file without following a link; raise LinkedPath for anything else."""
    if os.path.islink(name):  # O_NOFOLLOW has another error on each system, or is not there
        raise LinkedPath(f"'{name}' is a link, expected a file of its own: remove it")
    number = os.open(name, flags | NOFOLLOW | NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise LinkedPath(f"'{name}' is no regular file, expected one: remove it")
    return number
