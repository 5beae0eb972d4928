"""Units, descriptions and UCDs of the columns of a table in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from astropy.table import Table


class ColumnFacts(NamedTuple):
    """What a table says about one of its columns.

    Args:
        unit: in astropy's spelling; "" for none.
        description: one phrase.
        ucd: unified content descriptor (UCD1+), see `hybridfit.data.ucd`.
    """

    unit: str
    description: str
    ucd: str


def describe_columns(table: Table, facts: Mapping[str, ColumnFacts]) -> Table:
    """Add units, descriptions and UCDs to the columns of a table, in place.

    Args:
        table: any table; columns that are not in ``facts`` stay as they are.
        facts: by column name.

    Returns:
        The table.
    """
    for name in table.colnames:
        if name in facts:
            unit, description, ucd = facts[name]
            table[name].unit = unit or None
            table[name].description = description
            table[name].meta["ucd"] = ucd
    return table
