"""Convert any table to a `Catalogue`, by its column names and conventions."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.references.catalogue import (
    COLUMN,
    NAMES,
    Array,
    Catalogue,
    canonical,
    grouped,
    semi_major,
)
from hybridfit.io.references.options import ReferenceOptions

OTHERS = ("id", "component", "ellipticity", "flux", "sky", "ra", "dec", "snr", "chi2", "dof")
KNOWN = (*NAMES, *OTHERS)
QUANTITIES = (*KNOWN, *(f"{name}_err" for name in (*NAMES, "ellipticity", "flux", "sky")))
LOST_MAG = 90.0  # SExtractor writes 99 where there is no magnitude, others 99.99 or -99
FLUX_TO_MAG = 2.5 / math.log(10)


@dataclass(frozen=True)
class Convention:
    """Default conventions of a kind of table."""

    first_pixel: int = 0
    pa_from: str = "+y"
    pa_unit: str = "deg"
    size: str = "semi-major"

    def with_options(self, options: ReferenceOptions) -> Convention:
        """Return the conventions, updated with those in the options."""
        first = self.first_pixel if options.first_pixel is None else options.first_pixel
        return Convention(
            first,
            options.pa_from or self.pa_from,
            options.pa_unit or self.pa_unit,
            options.size or self.size,
        )

    @property
    def text(self) -> str:
        """Return a sentence on the conventions for the report."""
        return (
            f"read as: first pixel {self.first_pixel}, angles in {self.pa_unit} "
            f"counter-clockwise from {self.pa_from}, radii {self.size}"
        )


def chosen_rows(table: Table, options: ReferenceOptions, path: Path | str) -> Table:
    """Return the rows that satisfy the conditions in the options.

    Raises:
        ValueError: if a column is missing, or no row satisfies the conditions.
    """
    keep = np.ones(len(table), bool)
    for name, pattern in options.conditions().items():
        if name not in table.colnames:
            raise ValueError(f"'{path}' has no column '{name}' (where): {_hint(name, table)}")
        keep &= np.array([fnmatchcase(text, pattern) for text in texts(table[name])], bool)
    if not keep.any():
        raise ValueError(f"'{path}' has no row with {options.where or 'any content'}")
    return table[keep]


def catalogue_of(
    table: Table,
    mapping: Mapping[str, str],
    convention: Convention,
    options: ReferenceOptions,
    path: Path | str,
    kind: str,
    flagged: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Catalogue:
    """Convert a table to a catalogue; rows with the same id are components of one galaxy.

    Args:
        table: one row per galaxy or component.
        mapping: our names, from `QUANTITIES`, to columns; ``NAME[k]``: entry k of a vector, from 0.
        convention: conventions of the values.
        options: the user's names, conditions and zero point.
        path, kind: path (for messages) and kind of the reference.
        flagged: the program's warnings about each row.
        notes: notes for the report.

    Raises:
        ValueError: for an unknown name, a missing column, or a galaxy that occurs twice.
    """
    _check_names(mapping)
    found = {name: _numbers(table, c, path) for name, c in mapping.items() if name != "id"}
    values, errors = _values(found, convention, options, len(table))
    ids = _ids(table, mapping.get("id"), options)
    rows = _by_galaxy(ids, found.get("component"), path)
    warnings = [""] * len(table) if flagged is None else flagged
    return Catalogue(
        name=options.name or Path(path).name,
        kind=kind,
        id=[ids[numbers[0]] for numbers in rows],
        values=grouped([values[numbers] for numbers in rows]),
        errors=grouped([errors[numbers] for numbers in rows]),
        **_of_galaxies(found, [numbers[0] for numbers in rows]),
        flagged=["; ".join(sorted({warnings[i] for i in numbers} - {""})) for numbers in rows],
        counts=_in_counts(found, options),
        notes=(convention.text, *notes),
    )


def _ids(table: Table, column: str | None, options: ReferenceOptions) -> list[str]:
    """Return the ids of the rows in our form; row numbers if no column has ids."""
    ids = [str(i) for i in range(len(table))] if column is None else texts(table[column])
    return [options.as_ours(name) for name in ids]


def _of_galaxies(found: Mapping[str, Array], rows: Sequence[int]) -> dict[str, Any]:
    """Return the quantities that belong to whole galaxies, from each galaxy's first row."""
    return {
        "sky": np.pad(_in_rows(found, rows, "sky", "sky_err"), ((0, 0), (0, 2))),
        "world": _in_rows(found, rows, "ra", "dec"),
        "snr": _in_rows(found, rows, "snr")[:, 0],
        "chi2_dof": _in_rows(found, rows, "chi2", "dof"),
    }


def _in_rows(found: Mapping[str, Array], rows: Sequence[int], *names: str) -> Array:
    """Return columns (N, C) for the given rows, NaN for missing columns."""
    nothing = np.full(len(rows), np.nan)
    columns = [found[name][list(rows)] if name in found else nothing for name in names]
    return np.stack(columns, axis=1)


def _check_names(mapping: Mapping[str, str]) -> None:
    """Raise ValueError for a key that is not in `QUANTITIES`."""
    for name, column in mapping.items():
        if name not in QUANTITIES:
            close = difflib.get_close_matches(name, QUANTITIES, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(KNOWN)}"
            raise ValueError(f"columns has '{name}={column}', '{name}' is unknown: {hint}")


def texts(column: Sequence) -> list[str]:
    """Return the entries of a column as stripped text; "" where masked."""
    masked = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    found = []
    for i, value in enumerate(column):
        plain = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        found.append("" if masked is not None and masked[i] else plain.strip())
    return found


def _values(
    found: Mapping[str, Array], convention: Convention, options: ReferenceOptions, n: int
) -> tuple[Array, Array]:
    """Return values and errors (n, 7) in our conventions."""
    values, errors = np.full((n, len(NAMES)), np.nan), np.full((n, len(NAMES)), np.nan)
    for k, name in enumerate(NAMES):
        values[:, k] = found.get(name, values[:, k])
        errors[:, k] = found.get(f"{name}_err", errors[:, k])
    if "ellipticity" in found and "q" not in found:
        values[:, COLUMN["q"]] = 1 - found["ellipticity"]
        errors[:, COLUMN["q"]] = found.get("ellipticity_err", np.nan)
    if "flux" in found and "mag" not in found:
        with np.errstate(invalid="ignore", divide="ignore"):
            mag = -2.5 * np.log10(found["flux"]) + (options.zeropoint or 0.0)
            error = FLUX_TO_MAG * found.get("flux_err", np.full(n, np.nan)) / found["flux"]
        values[:, COLUMN["mag"]] = np.where(np.isfinite(mag), mag, np.nan)
        errors[:, COLUMN["mag"]] = error
    lost = np.abs(values[:, COLUMN["mag"]]) >= LOST_MAG
    values[lost, COLUMN["mag"]] = np.nan
    values[:, COLUMN["mag"]] += options.zeropoint_offset
    values[:, :2] -= convention.first_pixel
    if convention.pa_unit == "rad":
        values[:, COLUMN["pa"]] = np.degrees(values[:, COLUMN["pa"]])
        errors[:, COLUMN["pa"]] = np.degrees(errors[:, COLUMN["pa"]])
    if convention.pa_from == "+x":
        values[:, COLUMN["pa"]] -= 90.0
    if convention.size == "circularised":
        values, errors = semi_major(values, errors)
    return canonical(values, errors)


def _in_counts(found: Mapping[str, Array], options: ReferenceOptions) -> bool:
    return "flux" in found and "mag" not in found and options.zeropoint is None


def _by_galaxy(ids: Sequence[str], component: Array | None, path: Path | str) -> list[list[int]]:
    """Return the row numbers of each galaxy, in the order of its components."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(ids):
        rows.setdefault(name, []).append(i)
    for name, members in rows.items():
        numbers = [] if component is None else component[members].tolist()
        if len(members) > 1 and len(set(numbers)) < len(members):
            raise ValueError(
                f"'{path}' has the galaxy '{name}' {len(members)} times: choose its rows with "
                "where (as --where mode=single), or name the column of component numbers in columns"
            )
        if numbers:
            number_of = dict(zip(members, numbers, strict=True))
            members.sort(key=number_of.__getitem__)
    return list(rows.values())


def _numbers(table: Table, column: str, path: Path | str) -> Array:
    """Return a column as (N,) float64, NaN where masked."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", column)
    name, entry = (match[1], int(match[2])) if match else (column, None)
    if name not in table.colnames:
        raise ValueError(f"'{path}' has no column '{name}': {_hint(name, table)}")
    raw = table[name]
    if raw.dtype.kind in "OSU":  # text columns with missing entries
        data: NDArray = np.array([_number(text, name, path) for text in texts(raw)])
    else:
        data = np.ma.filled(np.ma.asarray(raw).astype(np.float64), np.nan)
    if data.ndim == 1:
        if entry is not None:
            raise ValueError(f"'{path}': column '{name}' has scalar entries, expected no [{entry}]")
        return data
    data = data.reshape(len(data), -1)
    if entry is None and data.shape[1] > 1:
        raise ValueError(
            f"'{path}': entries of column '{name}' are {data.shape[1]} numbers: choose one, "
            f"as {name}[0]"
        )
    if (entry or 0) >= data.shape[1]:
        raise ValueError(f"'{path}': column '{name}' has entries [0] to [{data.shape[1] - 1}]")
    return data[:, entry or 0]


def _number(text: str, name: str, path: Path | str) -> float:
    if text.lower() in ("", "nan", "none", "null", "--", "n/a", "na"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{path}': column '{name}' has '{text}', expected a number") from None


def _hint(name: str, table: Table) -> str:
    close = difflib.get_close_matches(name, table.colnames, n=1)
    return f"did you mean '{close[0]}'?" if close else f"it has {', '.join(table.colnames)}"
