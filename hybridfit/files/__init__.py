"""Files that users name, opened with bounds: regular ones only, and no more than they may hold."""

from hybridfit.files.fits import check_fits, looks_like_fits, open_fits
from hybridfit.files.regular import (
    FileProblem,
    check_regular,
    check_text,
    open_regular,
    peek_text,
    read_bytes,
    read_text,
)

__all__ = [
    "FileProblem",
    "check_fits",
    "check_regular",
    "check_text",
    "looks_like_fits",
    "open_fits",
    "open_regular",
    "peek_text",
    "read_bytes",
    "read_text",
]
