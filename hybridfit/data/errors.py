"""The errors of the package: wrong usage, and a galaxy that cannot be fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hybridfit.data.flags import Flag


class UsageError(ValueError):
    """The command, its options or its whole input are wrong; nothing was computed."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Take errors raised in here for wrong usage: raise `UsageError` with their text."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(str(error)) from error


class BadInput(ValueError):
    """One galaxy cannot be fitted: its row gets this text and ``flags``, and the run continues.

    Args:
        message: what was expected, what was found, what to do.
        flags: the bits of `hybridfit.Flag` for the row; UNREADABLE unless something more
            precise is known (NO_DATA: only masked pixels, NO_SIGNAL: a constant image).
    """

    def __init__(self, message: str, flags: int = int(Flag.UNREADABLE)) -> None:
        super().__init__(message)
        self.flags = int(flags)

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, int]]:
        return type(self), (str(self), self.flags)  # so that it can be pickled by a process pool
