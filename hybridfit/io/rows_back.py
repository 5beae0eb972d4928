"""Convert the rows of a finished table back to the records they were written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.common_columns import DRAWS
from hybridfit.io.formats import DRAWN
from hybridfit.io.read_results import OF_DRAWS, read_results
from hybridfit.io.table import Column, blank_rows

Rows = Callable[[int, int], NDArray[np.void]]


def rows_back(path: Path, columns: Sequence[Column], ids: Sequence[str]) -> Rows | None:
    """Return a function of two row numbers that returns the records between them.

    Args:
        path: the table's file.
        columns: the columns it was written with.
        ids: the ids of its rows, in order.

    Returns:
        The function; None if the file no longer contains that table, or the rows had neighbours,
        which are in a table of their own.
    """
    try:
        results = read_results(path.parent)
        drawn = results.draws_table if any(c.table == DRAWN for c in columns) else None
    except Exception:  # a damaged file can raise almost any exception
        return None
    table = results.table
    names = {name: table[name] for name in table.colnames}
    if drawn is not None:
        names |= {n if n in OF_DRAWS else f"{n}{DRAWS}": drawn[n] for n in drawn.colnames}
    if len(table) != len(ids) or any(c.name not in names for c in columns):
        return None
    if not _same_ids(table, ids):
        return None

    def rows(first: int, last: int) -> NDArray[np.void]:
        found = blank_rows(last - first, columns)
        for column in columns:
            if column.name != "id":
                _fill(found, column, names[column.name][first:last])
        found["id"] = [name.encode() for name in ids[first:last]]
        return found

    return rows


def _fill(rows: NDArray[np.void], column: Column, values: Any) -> None:
    """Copy a column of the table into the records."""
    name, masked = column.name, np.ma.asarray(values)
    if column.is_text:
        texts = np.ma.filled(masked.astype(str), "")
        rows[name] = [str(text).encode() for text in texts]
    elif column.format.startswith("f"):
        numbers = np.ma.filled(masked.astype(float), np.nan)
        rows[name] = numbers.reshape(rows[name].shape)  # Parquet stores matrices as flat lists
    else:
        rows[name] = np.ma.filled(masked, 0)


def _same_ids(table: Table, ids: Sequence[str]) -> bool:
    """Return whether the table has these ids in this order; FITS loses spaces at the ends."""
    pairs = zip(map(str, table["id"]), ids, strict=True)
    return all(found.strip() == name.strip() for found, name in pairs)
