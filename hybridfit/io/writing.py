"""Atomic writing of files that never follows a symbolic link planted by someone else.

Results often go into folders that others may write to. Following a link with a predictable name
would let them overwrite any file of the user: temporary files have random names and are always
newly created, final names are set by a rename, which replaces a link instead of following it, and
folders of a run that are links are refused.
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
    """A path created by a run is a link, or not a regular file, and may lead anywhere."""


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that is renamed to ``path`` only once complete and on disk.

    A link of that name is replaced; its target is not touched.

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
    """Yield a text file to append to.

    Raises:
        LinkedPath: if it is a link or not a regular file.
        OSError: if it cannot be written.
    """
    with open(path, "a", opener=_regular) as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_table(path: Path, table: Table) -> None:
    """Write an astropy table atomically as FITS or ECSV, by the path's suffix."""
    with atomic(path) as file:
        if path.suffix == ".fits":
            table.write(file, format="fits")
        else:
            text = io.StringIO()
            table.write(text, format="ascii.ecsv")
            file.write(text.getvalue().encode())


def write_figure(path: Path, figure: Any, dpi: int) -> None:
    """Write a matplotlib figure atomically as PNG."""
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def real_folder(path: Path) -> Path:
    """Return a folder of a run, creating it if it does not exist.

    Raises:
        LinkedPath: if the path is a link or a file.
        OSError: if it cannot be created.
    """
    check_unlinked(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_unlinked(path: Path) -> None:
    """Raise LinkedPath if ``path`` exists and is not a real folder."""
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
    """Raise LinkedPath if ``path`` is a folder, where a file is expected."""
    if path.is_dir() and not path.is_symlink():
        raise LinkedPath(
            f"'{path}' is a folder, expected a file that the run writes itself: remove it, or "
            "choose another output"
        )


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a file written by a run.

    Args:
        path: path of the file.
        limit: largest allowed size in bytes.

    Raises:
        FileNotFoundError: if there is none.
        LinkedPath: if it is a link, not a regular file, or larger.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise LinkedPath(f"'{path}' is larger than {limit} bytes: no run wrote it")
        return file.read(limit)


def create_file(path: Path, text: str) -> None:
    """Write a small file that must not exist yet.

    Raises:
        FileExistsError: if the path exists.
        OSError: if it cannot be written.
    """
    with open(path, "wb", buffering=0, opener=_created) as file:
        file.write(text.encode("ascii"))


def open_regular(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a regular file in binary mode.

    Raises:
        LinkedPath: if it is a link or not a regular file.
        OSError: if it cannot be opened.
    """
    return open(path, mode, opener=_regular)


def _created(name: str, flags: int) -> int:
    """Create a file; fail if the path exists, even as a link."""
    return os.open(name, flags | os.O_EXCL | NOFOLLOW, 0o666)


def _regular(name: str, flags: int) -> int:
    """Open a regular file without following a link; raise LinkedPath for anything else."""
    if os.path.islink(name):  # O_NOFOLLOW raises other errors on other systems, or is missing
        raise LinkedPath(f"'{name}' is a link, expected a file of its own: remove it")
    number = os.open(name, flags | NOFOLLOW | NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise LinkedPath(f"'{name}' is not a regular file, expected one: remove it")
    return number
