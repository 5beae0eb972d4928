"""Formats and file names of the output tables."""

from __future__ import annotations

from pathlib import Path

from hybridfit.options.checks import check_choice

# endings of the files of each format
ENDINGS = {"fits": "fits", "ecsv": "ecsv", "csv": "csv", "parquet": "parquet", "votable": "vot"}
FORMATS = tuple(ENDINGS)
RESULTS, DRAWN, NEIGHBOURS = "results", "draws", "neighbours"  # names of a run's tables


def check_format(format: str, arrays: str = "") -> None:
    """Raise ValueError for a format that is unknown or cannot hold the requested content.

    Args:
        format: one of `FORMATS`.
        arrays: name of the table's content with several numbers per entry; "" for none.
    """
    check_choice("format", format, FORMATS)
    if format == "csv" and arrays:
        raise ValueError(f"csv cannot hold {arrays}: choose fits, ecsv, votable or parquet")
    if format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError("format parquet needs pyarrow: pip install pyarrow") from error


def table_path(folder: Path, format: str, name: str = RESULTS) -> Path:
    """Return the path of a table in a folder."""
    return folder / f"{name}.{ENDINGS[format]}"


def tables_in(folder: Path, name: str = RESULTS) -> list[Path]:
    """Return the existing files of a table in a folder, in any format."""
    return [path for format in FORMATS if (path := table_path(folder, format, name)).exists()]
