"""The rows of a finished table, as the records that they were written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.read_results import read_csv, read_parquet
from hybridfit.io.table import Column, blank_rows
from hybridfit.io.unicode_columns import restored

Rows = Callable[[int, int], NDArray[np.void]]


def rows_back(path: Path, columns: Sequence[Column], ids: Sequence[str]) -> Rows | None:
    """Return a function that gives the records from one row's number to another's.

    Args:
        path: of the table.
        columns: that it was written with.
        ids: of its rows, in order.

    Returns:
        The function; None if the file is not that table any more.
    """
    try:
        table = _table(path)
    except Exception:  # readers of damaged files raise nearly every type there is
        return None
    if len(table) != len(ids) or any(c.name not in table.colnames for c in columns):
        return None
    if not _same_ids(table, ids):
        return None

    def rows(first: int, last: int) -> NDArray[np.void]:
        found = blank_rows(last - first, columns)
        for column in columns:
            values = table[column.name][first:last]
            if column.name == "id":
                found["id"] = [name.encode() for name in ids[first:last]]
            elif column.is_text:
                texts = np.ma.filled(np.ma.asarray(values).astype(str), "")
                found[column.name] = [str(text).encode() for text in texts]
            elif column.format.startswith("f"):
                numbers = np.ma.filled(np.ma.asarray(values).astype(float), np.nan)
                found[column.name] = numbers
            else:
                found[column.name] = np.ma.filled(np.ma.asarray(values), 0)
        return found

    return rows


def _table(path: Path) -> Table:
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix == ".fits":
        return restored(Table.read(path, format="fits", memmap=True))
    return Table.read(path, format=f"ascii{path.suffix}")


def _same_ids(table: Table, ids: Sequence[str]) -> bool:
    """Whether the rows are in their order; spaces at the ends, which FITS loses, do not count."""
    pairs = zip(map(str, table["id"]), ids, strict=True)
    return all(found.strip() == name.strip() for found, name in pairs)
