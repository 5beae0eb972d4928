"""Formats of the tables that are written."""

from __future__ import annotations

from hybridfit.options.checks import check_choice

FORMATS = ("fits", "ecsv", "csv", "parquet")


def check_format(format: str, arrays: str = "") -> None:
    """Raise ValueError for a format that is not known or cannot hold what is asked for.

    Args:
        format: one of `FORMATS`.
        arrays: what the table has that is more than a number an entry; "" for nothing.
    """
    check_choice("format", format, FORMATS)
    if format == "csv" and arrays:
        raise ValueError(f"csv cannot hold {arrays}: choose fits, ecsv or parquet")
    if format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError("format parquet needs pyarrow: pip install pyarrow") from error
