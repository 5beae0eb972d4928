"""The errors of the package: misuse of it, and one galaxy that cannot be used."""

from __future__ import annotations

from hybridfit.data.flags import Flag


class UsageError(ValueError):
    """The command, its options or its whole input are wrong; nothing was computed."""


class BadInput(ValueError):
    """One galaxy cannot be fitted: its row gets this text and ``flags``, the run goes on.

    Args:
        message: what was expected, what came, what to do.
        flags: the bits of `hybridfit.Flag` for the row; UNREADABLE unless something more
            precise is known (NO_DATA: nothing but masked pixels, NO_SIGNAL: a constant image).
    """

    def __init__(self, message: str, flags: int = int(Flag.UNREADABLE)) -> None:
        super().__init__(message)
        self.flags = int(flags)

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, int]]:
        return type(self), (str(self), self.flags)  # so that it comes back from a process pool
