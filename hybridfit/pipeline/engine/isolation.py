"""Isolation of faults: a batch that raises is computed in halves, down to single galaxies.

What is wrong with the call and not with a galaxy still raises: an option that is found out late, a
user's profile with a mistake, a full disk. They are told apart by a trial: where an ordinary
galaxy fails too, the exception goes on to the caller.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput, UsageError
from hybridfit.data.flags import Flag, joined
from hybridfit.io.table import Column, failed_row

# numbers of an OSError that is due to one galaxy: its name as a file's, or what has that name
OWN_ERRORS = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.EILSEQ}
TRIAL_SIDE, TRIAL_PSF = 48, 15  # pixels


class Batch(Sized, Protocol):
    """What can be cut into halves."""

    def __getitem__(self, index: slice, /) -> Any: ...


B = TypeVar("B", bound=Batch)


class Isolation:
    """Computes batches; a galaxy that raises becomes a row of its own.

    Args:
        trial: computes an ordinary galaxy in the same way, see `ordinary_galaxy`.
    """

    def __init__(self, trial: Callable[[], object]) -> None:
        self._trial = trial
        self._passed = False

    def rows(
        self,
        batch: B,
        compute: Callable[[B], NDArray[np.void]],
        failed: Callable[[B, str], NDArray[np.void]],
    ) -> NDArray[np.void]:
        """Return the rows of a batch.

        Args:
            batch: at least one galaxy.
            compute: rows of a batch; may raise anything.
            failed: the row of a batch of one, given the exception's text.

        Raises:
            UsageError, OSError, Exception: what is not due to a galaxy.
        """
        try:
            return compute(batch)
        except Exception as error:
            if is_of_the_run(error) or not len(batch):
                raise
            if not self._passed:
                self._try(error)
            text = error_text(error)
        # after the except clause, whose traceback would keep the batch in memory
        if len(batch) == 1:
            return failed(batch, text)
        half = len(batch) // 2
        parts = [self.rows(batch[cut], compute, failed) for cut in (slice(half), slice(half, None))]
        return np.concatenate(parts)

    def _try(self, error: Exception) -> None:
        """Raise ``error`` if an ordinary galaxy fails too."""
        try:
            self._trial()
        except Exception:
            raise error from None
        self._passed = True


def is_of_the_run(error: Exception) -> bool:
    """Whether an exception cannot be due to one galaxy: wrong usage, a disk that is full."""
    if isinstance(error, UsageError):
        return True
    if not isinstance(error, OSError):
        return False
    if error.errno is None:  # astropy's error for a full disk has no number
        return "space" in str(error)
    return error.errno not in OWN_ERRORS


def failed_cutout(one: Cutouts, text: str, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return the row (1,) of a galaxy in memory that could not be computed.

    Args:
        one: the galaxy.
        text: why.
        columns: of the table.
    """
    message = joined(text, one.messages[0])
    return failed_row(one.id[0], int(one.flags[0]) | int(Flag.FAILED), message, columns)


def error_text(error: Exception) -> str:
    """Return an exception as one line for the row's message."""
    text = " ".join(str(error).split())
    if isinstance(error, BadInput):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def ordinary_galaxy(psf: bool = True) -> Cutouts:
    """Return a round galaxy of high signal-to-noise in the middle of a cutout, a batch of one.

    Args:
        psf: whether it has a PSF.
    """
    noise = torch.randn(TRIAL_SIDE, TRIAL_SIDE, generator=torch.Generator().manual_seed(1))
    image = 100.0 * _round(TRIAL_SIDE, 3.0) + noise
    star = _round(TRIAL_PSF, 1.3)
    return Cutouts(
        image=image[None],
        sigma=torch.ones_like(image)[None],
        psf=(star / star.sum())[None] if psf else None,
        id=["trial"],
    )


def _round(side: int, width: float) -> torch.Tensor:
    """A Gaussian of peak 1 in the middle of a square."""
    offset = torch.arange(side) - (side - 1) / 2
    along = torch.exp(-0.5 * (offset / width) ** 2)
    return along[:, None] * along
