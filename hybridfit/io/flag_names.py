"""The column ``flag_names``: names of the flags, derived from their bits on writing a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.flags import SEPARATOR, flag_names
from hybridfit.io.table import Column, record_type

NAMES = "flag_names"


def with_flag_names(
    parts: Iterable[NDArray[np.void]], columns: Sequence[Column]
) -> tuple[Column, ...]:
    """Return the columns with another after ``flags``, as wide as the longest entry.

    Args:
        parts: all rows.
        columns: columns of these rows; without ``flags`` they are unchanged.
    """
    if "flags" not in {column.name for column in columns}:
        return tuple(columns)
    values = {value for rows in parts for value in np.unique(rows["flags"]).tolist()}
    width = max((len(flag_names(value)) for value in values), default=0)
    text = f"names of the flags that are raised, with {SEPARATOR} between them"
    column = Column(NAMES, f"S{max(width, 1)}", "", text, "meta.code")
    place = [c.name for c in columns].index("flags") + 1
    return (*columns[:place], column, *columns[place:])


def chosen_columns(rows: NDArray[np.void], columns: Sequence[Column]) -> NDArray[np.void]:
    """Return rows with ``columns`` only; `NAMES` is derived from the flags."""
    made = np.zeros(len(rows), record_type(columns))
    for column in columns:
        if column.name == NAMES:
            made[NAMES] = [flag_names(value).encode() for value in rows["flags"].tolist()]
        else:
            made[column.name] = rows[column.name]
    return made
