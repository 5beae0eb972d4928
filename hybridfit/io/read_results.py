"""Read the table of a finished run, and the draws of its galaxies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import ascii as text_tables
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.errors import UsageError
from hybridfit.data.ids import ascii_id
from hybridfit.files.fits import check_fits
from hybridfit.files.regular import check_regular, check_text
from hybridfit.io.common_columns import DRAWS
from hybridfit.io.delimited import decimal, read_delimited
from hybridfit.io.formats import DRAWN, FORMATS, table_path, tables_in
from hybridfit.io.old_columns import (
    component_names,
    current_settings,
    named_components,
    with_current_names,
)
from hybridfit.io.unicode_columns import restored
from hybridfit.io.votable import read_votable
from hybridfit.options.checks import as_path

OF_DRAWS = ("weight", "log_prob")  # columns of draws that are not parameters


@dataclass(frozen=True)
class Results:
    """A finished run.

    Args:
        path: its folder.
        table: one row per galaxy, as written.
        settings: sections of options of the run; empty if the table's format cannot hold them
            (csv).
        in_memory: whether the table is not from a file; then ``path`` is only a name.
    """

    path: Path
    table: Table
    settings: dict[str, Any]
    in_memory: bool = False

    @classmethod
    def of_table(cls, table: Table) -> Results:
        """Return the results of a table in memory, as returned by `hybridfit.fit`.

        Raises:
            UsageError: if its metadata are damaged.
        """
        settings = _settings(table, "the table")
        current = with_current_names(table.copy(copy_data=False), settings)
        return cls(Path("table"), current, current_settings(current, settings), in_memory=True)

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """Return the row numbers of galaxies; raise UsageError for the first missing one."""
        number = {str(name): i for i, name in enumerate(self.table["id"])}
        rows = []
        for name in ids:
            escaped = ascii_id(name)
            if name not in number and escaped not in number:
                some = ", ".join(list(number)[:5])
                raise UsageError(f"no galaxy '{name}' in '{self.path}', which has {some}...")
            rows.append(number.get(name, number.get(escaped, -1)))
        return rows

    @cached_property
    def draws_table(self) -> Table | None:
        """One row per galaxy, in the order of ``table``, with S draws in each column; or None.

        Raises:
            UsageError: if it cannot be read, or its galaxies differ from those of the results.
        """
        found = [] if self.in_memory else tables_in(self.path, DRAWN)
        if not found:
            return _inner_draws(self.table)
        table = _read(found[0])
        if len(table) != len(self.table) or (table["id"] != self.table["id"]).any():
            raise UsageError(
                f"'{found[0]}' has other galaxies than the results beside it: run it again with "
                "--overwrite"
            )
        named_components(
            table, component_names(table, self.settings, "feedme" in self.table.colnames)
        )
        return table

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters with draws."""
        names = [] if self.draws_table is None else self.draws_table.colnames
        return tuple(name for name in names if name not in ("id", *OF_DRAWS))

    def draws(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the draws (S, Q) of the parameters `drawn`, and weights (S,), of one galaxy.

        Draws of weight 0 are omitted: S may be 0.
        """
        table = self.draws_table
        if table is None:
            return np.zeros((0, 0)), np.zeros(0)
        columns = [np.asarray(table[name][row]) for name in self.drawn]
        samples = np.stack([np.ma.filled(c, np.nan).astype(float) for c in columns], axis=1)
        weights = np.ones(len(samples))
        if "weight" in table.colnames:
            weights = np.ma.filled(np.asarray(table["weight"][row]), 0.0).astype(float)
        counts = np.isfinite(samples).all(axis=1) & (weights > 0)
        return samples[counts], weights[counts]


def read_results(path: str | Path) -> Results:
    """Read the table of a finished run; columns of a FITS file stay on disk until used.

    Args:
        path: folder of the run.

    Raises:
        UsageError: if there is no table, or it cannot be read.
    """
    path = as_path("results", path)
    found = tables_in(path)
    if not found:
        expected = ", ".join(table_path(Path(), format).name for format in FORMATS)
        raise UsageError(f"no results in '{path}': expected one of {expected} of a finished run")
    table = _read(found[0])
    settings = _settings(table, f"results '{found[0]}'")
    current = with_current_names(table, settings)
    return Results(path, current, current_settings(current, settings))


def read_draws(path: str | Path, id: str | None = None) -> Table:
    """Read the draws of a run with ``save_samples``.

    >>> table = hybridfit.read_draws("out")  # table["mag"] is (N, S), table["weight"] too
    >>> draws = hybridfit.read_draws("out", "galaxy7")  # one row per draw

    Args:
        path: folder of the run.
        id: id of one galaxy; None for all.

    Returns:
        For all galaxies one row each, in the order of the results, with S draws in every column:
        the parameters under their names, positions in the parent image, and ``weight`` (from
        `predict` ``log_prob``). For one galaxy one row per draw of nonzero weight.

    Raises:
        UsageError: if the run saved no draws, or has no galaxy of that name.
    """
    results = read_results(path)
    table = results.draws_table
    if table is None:
        raise UsageError(f"the run in '{results.path}' left no draws: give it --save-samples")
    if id is None:
        return table
    samples, weights = results.draws(results.rows_of([id])[0])
    chosen = Table(samples, names=list(results.drawn), meta={"id": id})
    for name in results.drawn:
        chosen[name].unit, chosen[name].description = table[name].unit, table[name].description
    if "weight" in table.colnames:
        chosen["weight"] = weights
    return chosen


def _settings(table: Table, name: str) -> dict[str, Any]:
    """Return the sections of options in a table's metadata."""
    try:
        settings = json.loads(table.meta.get("OPTIONS", "{}"))
        if not isinstance(settings, dict):
            raise ValueError("its metadata OPTIONS are no mapping")
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error
    return settings


def _inner_draws(table: Table) -> Table | None:
    """Return the draws among the columns of results, where the last version kept them."""
    names = [name for name in table.colnames if name.endswith(DRAWS)]
    if not names:
        return None
    chosen = Table({name.removesuffix(DRAWS): table[name] for name in names}, copy=False)
    for name in OF_DRAWS:
        if name in table.colnames:
            chosen[name] = table[name]
    chosen.add_column(table["id"], 0, "id")
    return chosen


def _read(file: Path) -> Table:
    """Return the table of a file.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return _table_of(file)
    except ImportError as error:
        raise UsageError(f"reading '{file}' needs pyarrow: pip install pyarrow") from error
    except Exception as error:  # each reader raises its own types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"results '{file}' cannot be read: {reason}") from error


def _table_of(file: Path) -> Table:
    (check_fits if file.suffix == ".fits" else check_regular)(file)
    if file.suffix == ".parquet":
        return read_parquet(file)
    if file.suffix == ".csv":
        return read_csv(file)
    if file.suffix == ".vot":
        return read_votable(file)
    if file.suffix == ".fits":
        return restored(Table.read(file, memmap=True))
    check_text(file)
    return Table.read(file)


def read_csv(path: Path) -> Table:
    """Read a CSV table: columns of numbers only as numbers, ids as strings."""
    text = read_delimited(path)
    lines = io.StringIO()
    number = str if text.separator == "," else decimal
    writer = csv.writer(lines)
    writer.writerow(text.columns)
    writer.writerows(map(number, row) for row in zip(*text.columns.values(), strict=True))
    return text_tables.read(lines.getvalue(), format="csv", converters={"id": str})


def read_parquet(path: Path) -> Table:
    """Read a parquet table with its metadata; ``Table.read`` would need pandas."""
    from astropy.table.meta import get_header_from_yaml
    from pyarrow import parquet  # an optional dependency

    data = parquet.read_table(path)
    lines = (data.schema.metadata or {}).get(b"table_meta_yaml", b"").decode().splitlines()
    header = get_header_from_yaml(lines) if lines else {}
    table = Table({n: data[n].to_pylist() for n in data.column_names}, meta=header.get("meta", {}))
    for column in header.get("datatype", ()):
        found = table[column["name"]]
        found.unit, found.description = column.get("unit"), column.get("description")
        found.meta.update(column.get("meta", {}))
    return table
