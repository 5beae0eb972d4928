"""Manifest tables: one row per galaxy, with its files and known properties."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.names import START_NAMES
from hybridfit.files.fits import open_fits
from hybridfit.files.regular import FileProblem, check_regular, check_text
from hybridfit.io.delimited import decimal, read_delimited
from hybridfit.io.options import COLUMNS, OF_EXPOSURE, ROLES, VALUES, ReadOptions
from hybridfit.io.unicode_columns import restored
from hybridfit.model.value_columns import NONE, ValueColumns

TEXT_ENDINGS = (".csv", ".tsv")
TABLE_ENDINGS = (*TEXT_ENDINGS, ".ecsv", ".parquet", ".pq")
TRUE = {"1", "true", "t", "yes", "y"}
FALSE = {"0", "false", "f", "no", "n"}
MOST_PADDING = 1_000_000  # bytes
EMPTY = {"", "nan", "none", "null", "--", "n/a", "na"}


@dataclass(frozen=True)
class Manifest:
    """The known columns of a manifest: file names as bytes, all others as numbers.

    Names have a fixed width, or are objects where that would take far more memory.

    Those of further images have the names ``image_2``, ``psf_2``, ``zeropoint_2`` and so on.
    ``parameters`` has the columns of initial and fixed values of the model's parameters, and
    ``problems`` maps row numbers to descriptions of invalid entries.
    """

    ids: list[str]
    files: dict[str, NDArray[Any]]
    values: dict[str, NDArray[np.float64]]
    parameters: dict[str, NDArray[np.float64]]
    problems: dict[int, str]


def is_fits_table(path: Path) -> bool:
    """Return whether a FITS file's first HDU with data is a table (and so a manifest)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_fits(path) as hdus:
                for hdu in hdus:
                    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                        return True
                    if hdu.is_image and len(hdu.shape) > 0:
                        return False
    except Exception:  # not a FITS file: reading it as an image will report that
        return False
    return False


def read_manifest(path: Path, options: ReadOptions, columns: ValueColumns = NONE) -> Manifest:
    """Read a CSV, ECSV, FITS or Parquet manifest.

    Unknown columns are ignored, as users' tables hold many; but one that differs from a known
    name only in case or punctuation (``PixelScale``) counts as a misspelling, unless it begins
    with an underscore.

    Args:
        path: of the table.
        options: see `ReadOptions`.
        columns: names of initial and fixed values that the model understands.

    Raises:
        ValueError: if the table cannot be read, has no rows, no ``id`` or ``image`` column, a
            column that looks misspelt or like a parameter that the model does not have, lacks one
            that ``options.columns`` names, or has only text in a column of numbers.
    """
    table, commas = _read_columns(path, {*COLUMNS, *options.renamed().values(), *columns.names})
    chosen = _chosen(list(table), options.renamed(), path)
    ids = _texts(table[chosen["id"]])
    if not ids:
        raise ValueError(f"manifest '{path}' has no rows")
    further = _of_exposures(chosen, path)
    files = {
        role: _packed([_file(text) for text in _texts(table[chosen[role]])])
        for role in (*ROLES, *further)
        if role in chosen and _plain_role(role) in ROLES
    }
    own = _parameter_columns(list(table), chosen, columns, path)
    numbers: dict[str, NDArray[np.float64]] = {}
    problems: dict[int, str] = {}
    values = [name for name in further if _plain_role(name) in VALUES]
    for name in (*VALUES, *values, *START_NAMES, *own):
        column = chosen.get(name, name if name in own else None)
        if column is not None:
            numbers[name], wrong = _numbers(table[column], name, commas)
            if len(wrong) == len(ids):
                what = f"no other row of column '{column}' has a number either"
                raise ValueError(f"manifest '{path}': {wrong[0]}, and {what}")
            problems |= {i: f"{text} (row {i + 1} of '{path.name}')" for i, text in wrong.items()}
    parameters = {name: numbers.pop(name) for name in own}
    return Manifest(ids, files, numbers, parameters, problems)


def _of_exposures(chosen: Mapping[str, str], path: Path) -> list[str]:
    """Return the names of columns of further images; raise ValueError for one without an image."""
    found = {name: match for name in chosen if (match := OF_EXPOSURE.fullmatch(name))}
    for name, match in found.items():
        if f"image_{match[2]}" not in chosen:
            raise ValueError(
                f"manifest '{path}' has a column '{chosen[name]}' but no 'image_{match[2]}', "
                "expected the further images that it is for"
            )
    return list(found)


def _plain_role(name: str) -> str:
    """Return a role or value without the number of its image."""
    match = OF_EXPOSURE.fullmatch(name)
    return match[1] if match else name


def _parameter_columns(
    names: Sequence[str], chosen: Mapping[str, str], columns: ValueColumns, path: Path
) -> list[str]:
    """Return the columns of initial and fixed values of the model's parameters."""
    try:
        return columns.of_table(names, [*COLUMNS, *chosen.values()])
    except ValueError as error:
        raise ValueError(f"manifest '{path}': {error}") from error


def _read_columns(path: Path, known: Collection[str]) -> tuple[Mapping[str, Any], bool]:
    """Return the columns by name, and whether numbers may have decimal commas."""
    try:
        check_regular(path)
        if path.name.lower().endswith(TEXT_ENDINGS):
            text = read_delimited(path, known)
            return text.columns, text.separator != ","
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.name.lower().endswith(".ecsv"):
                check_text(path)
                table = Table.read(path, format="ascii.ecsv")
            elif path.name.lower().endswith((".parquet", ".pq")):
                table = _read_parquet(path)
            else:
                with open_fits(path) as hdus:
                    table = restored(Table.read(hdus))
    except FileProblem as error:
        raise ValueError(f"manifest {error}") from error
    except ImportError as error:
        raise ValueError(f"reading '{path}' needs pyarrow: pip install pyarrow") from error
    except Exception as error:  # each reader raises its own types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"manifest '{path}' cannot be read: {reason}") from error
    if isinstance(table, Table):
        table = {name: table[name] for name in table.colnames}
    return table, False


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet  # an extra of the installation

    table = pyarrow.parquet.read_table(path)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _chosen(names: Sequence[str], renamed: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return the table's column for each known name present."""
    for name, column in renamed.items():
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(names)}"
            raise ValueError(f"manifest '{path}' has no column '{column}' (for {name}): {hint}")
    known = [name for name in names if name in COLUMNS or OF_EXPOSURE.fullmatch(name)]
    chosen = {name: name for name in known} | dict(renamed)
    plain = {_plain(name): name for name in COLUMNS}
    for column in names:
        meant = plain.get(_plain(column))
        if meant and column != meant and column not in chosen.values() and meant not in chosen:
            raise ValueError(
                f"manifest '{path}' has an unknown column '{column}': did you mean '{meant}'? "
                f"Rename it (_{column} is passed over), or pass --columns {meant}={column}"
            )
    for name in ("id", "image"):
        if name not in chosen:
            raise ValueError(
                f"manifest '{path}' has no column '{name}': it has {', '.join(names) or 'none'}"
            )
    return chosen


def _plain(name: str) -> str:
    plain = "".join(c for c in name.lower() if c.isalnum())
    # X or N of another table are not misspellings, and a leading _ hides a column
    return plain if len(plain) > 1 and not name.startswith("_") else name


def _texts(column: Any) -> list[str]:
    mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    texts = []
    for i, value in enumerate(column):
        if value is None or (mask is not None and mask[i]):
            texts.append("")
        else:
            text = value.decode() if isinstance(value, bytes) else str(value)
            texts.append(text.strip())
    return texts


def _file(text: str) -> bytes:
    return b"" if text.lower() in EMPTY else os.fsencode(text)


def _packed(names: Sequence[bytes]) -> NDArray:
    """Return names as an array of the longest's width, or of objects if that saves much memory."""
    longest = max(map(len, names), default=0)
    if longest * len(names) > MOST_PADDING + 4 * sum(map(len, names)):
        array = np.empty(len(names), dtype=object)
        array[:] = names
        return array
    return np.array(names)


def _numbers(column: Any, name: str, commas: bool) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Return a column as float64 (NaN where missing, booleans as 0 and 1), and its problems."""
    numbers = np.full(len(column), np.nan)
    wrong: dict[int, str] = {}
    for i, text in enumerate(_texts(column)):
        lower = text.lower()
        if _plain_role(name) == "psf_includes_pixel" and lower in TRUE | FALSE:
            numbers[i] = float(lower in TRUE)
        elif lower not in EMPTY:
            try:
                numbers[i] = float(decimal(text) if commas else text)
            except ValueError:
                numbers[i] = np.inf
            if np.isinf(numbers[i]):
                numbers[i] = np.nan
                wrong[i] = f"{name} is '{text}', expected a number"
    return numbers, wrong
