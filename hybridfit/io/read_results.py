"""Results read back: the table of a finished run, and draws of its galaxies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import ascii as text_tables
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.files.fits import check_fits
from hybridfit.files.regular import check_regular, check_text
from hybridfit.io.delimited import decimal, read_delimited
from hybridfit.io.formats import FORMATS
from hybridfit.io.unicode_columns import restored
from hybridfit.options.checks import as_path

SAMPLES = "_samples"  # what follows a parameter's name in its column of draws


@dataclass(frozen=True)
class Results:
    """A finished run.

    Args:
        path: its folder.
        table: one row a galaxy, as written.
        settings: sections of options that it was made with; empty where the table's format has
            no room for them (csv).
    """

    path: Path
    table: Table
    settings: dict[str, Any]

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """Return the row numbers of galaxies; UsageError for the first that is not there."""
        number = {str(name): i for i, name in enumerate(self.table["id"])}
        rows = []
        for name in ids:
            # a FITS table holds ASCII, so its ids have escapes for other letters
            escaped = name.encode("ascii", "backslashreplace").decode()
            if name not in number and escaped not in number:
                some = ", ".join(list(number)[:5])
                raise UsageError(f"no galaxy '{name}' in '{self.path}', which has {some}...")
            rows.append(number.get(name, number.get(escaped, -1)))
        return rows

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters of which there are draws."""
        names = self.table.colnames
        return tuple(n.removesuffix(SAMPLES) for n in names if n.endswith(SAMPLES))

    def draws(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the draws (S, Q) of the parameters `drawn`, and weights (S,), of one galaxy.

        Only draws that count come back: S may be 0.
        """
        columns = [np.asarray(self.table[f"{name}{SAMPLES}"][row]) for name in self.drawn]
        samples = np.stack([np.ma.filled(c, np.nan).astype(float) for c in columns], axis=1)
        weights = np.ones(len(samples))
        if "weight" in self.table.colnames:
            weights = np.ma.filled(np.asarray(self.table["weight"][row]), 0.0).astype(float)
        counts = np.isfinite(samples).all(axis=1) & (weights > 0)
        return samples[counts], weights[counts]


def read_results(path: str | Path) -> Results:
    """Read the table of a finished run; columns of a FITS file stay on the disk until used.

    Args:
        path: folder of the run.

    Raises:
        UsageError: if there is no table, or it cannot be read.
    """
    path = as_path("results", path)
    found = [file for format in FORMATS if (file := path / f"results.{format}").is_file()]
    if not found:
        expected = ", ".join(f"results.{format}" for format in FORMATS)
        raise UsageError(f"no results in '{path}': expected one of {expected} of a finished run")
    try:
        table = _table_of(found[0])
        settings = json.loads(table.meta.get("OPTIONS", "{}"))
        if not isinstance(settings, dict):
            raise ValueError("its metadata OPTIONS are no mapping")
    except ImportError as error:
        raise UsageError(f"reading '{found[0]}' needs pyarrow: pip install pyarrow") from error
    except Exception as error:  # each reader has its own kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"results '{found[0]}' cannot be read: {reason}") from error
    return Results(path, table, settings)


def _table_of(file: Path) -> Table:
    (check_fits if file.suffix == ".fits" else check_regular)(file)
    if file.suffix == ".parquet":
        return read_parquet(file)
    if file.suffix == ".csv":
        return read_csv(file)
    if file.suffix == ".fits":
        return restored(Table.read(file, memmap=True))
    check_text(file)
    return Table.read(file)


def read_csv(path: Path) -> Table:
    """Read a CSV table: numbers where a column has nothing else, ids as they are written."""
    text = read_delimited(path)
    lines = io.StringIO()
    number = str if text.separator == "," else decimal
    writer = csv.writer(lines)
    writer.writerow(text.columns)
    writer.writerows(map(number, row) for row in zip(*text.columns.values(), strict=True))
    return text_tables.read(lines.getvalue(), format="csv", converters={"id": str})


def read_parquet(path: Path) -> Table:
    """Read a parquet table and its metadata; ``Table.read`` would want pandas for it."""
    from astropy.table.meta import get_header_from_yaml
    from pyarrow import parquet  # an extra of the installation

    data = parquet.read_table(path)
    lines = (data.schema.metadata or {}).get(b"table_meta_yaml", b"").decode().splitlines()
    meta = get_header_from_yaml(lines).get("meta", {}) if lines else {}
    return Table({name: data[name].to_pylist() for name in data.column_names}, meta=meta)
