"""Give tables of the last version the present column names."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from hybridfit.data.flags import flag_names
from hybridfit.deprecations import rows
from hybridfit.io.flag_names import NAMES

RENAMED = rows("column")
OF_LAST = "message"  # a column of every table of the last version, and of none of this one


def with_current_names(table: Table) -> Table:
    """Rename columns of the last version and add derived ones, in place."""
    if OF_LAST not in table.colnames:
        return table
    for old, new in RENAMED.items():
        if old in table.colnames and new not in table.colnames:
            table.rename_column(old, new)
    if "flags" in table.colnames and NAMES not in table.colnames:
        bits = np.ma.filled(np.ma.asarray(table["flags"]), 0)
        names = [flag_names(int(value)) for value in bits]
        table.add_column(names, table.index_column("flags") + 1, NAMES)
    return table
