"""Write a run's tables part by part, so that memory does not grow with the run's length.

A run writes one table of results, a row per galaxy; if draws are kept a second one, with the same
galaxies in the same order: `hybridfit.io.read_results` reads both; and if neighbours were fitted
with the targets one of these.
"""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.common_columns import DRAWS
from hybridfit.io.delimited import guarded
from hybridfit.io.flag_names import chosen_columns, with_flag_names
from hybridfit.io.formats import DRAWN, NEIGHBOURS, table_path
from hybridfit.io.neighbour_table import neighbour_rows, plain_columns
from hybridfit.io.table import Column, record_type, to_table
from hybridfit.io.unicode_columns import Reiterable, in_ascii, with_utf8
from hybridfit.io.votable import write_votable
from hybridfit.io.writing import atomic
from hybridfit.io.zeropoint_columns import with_zeropoint_metadata

Rows = NDArray[np.void]
FITS_BLOCK = 2880


def finished(
    parts: Iterable[Rows], columns: Sequence[Column]
) -> tuple[tuple[Column, ...], dict[str, Any]]:
    """Return the columns of a complete table, and metadata of its zero points.

    Args:
        parts: all rows; traversed twice.
        columns: columns of these rows.
    """
    named, meta = with_zeropoint_metadata(parts, columns)
    return with_flag_names(parts, named), meta


def whole_table(
    rows: Rows, columns: Sequence[Column], meta: Mapping[str, Any] | None = None
) -> Table:
    """Return all rows as a table in memory for users, with draws among its columns."""
    whole, more = finished([rows], columns)
    return to_table(chosen_columns(rows, whole), whole, {**(meta or {}), **more})


def write_tables(
    folder: Path,
    format: str,
    parts: Iterable[Rows],
    columns: Sequence[Column],
    meta: Mapping[str, Any],
) -> None:
    """Write the table of results of a run and, where its rows have them, of draws and neighbours.

    The others are written first: once there are results, the run is complete.

    Args:
        folder: of the run.
        format: one of `FORMATS`.
        parts: rows in order; traversed several times (`hybridfit.io.unicode_columns`).
        columns: columns of these rows.
        meta: for the tables' metadata; FITS keywords have at most 8 letters.

    Raises:
        OSError: if a file cannot be written.
    """
    whole, more = finished(parts, columns)
    main = tuple(column for column in whole if not column.table)
    drawn = [column for column in whole if column.table == DRAWN]
    if drawn:
        kept = (columns[0], *drawn)  # with the id
        names = [column.name.removesuffix(DRAWS) for column in kept]
        plain = tuple(replace(c, name=name) for c, name in zip(kept, names, strict=True))

        def of_draws() -> Iterator[Rows]:
            for rows in parts:
                yield chosen_columns(rows, kept).view(record_type(plain))

        write_results(table_path(folder, format, DRAWN), Reiterable(of_draws), plain, meta)
    if any(column.table == NEIGHBOURS for column in whole):
        own = plain_columns(whole)
        others = Reiterable(lambda: (neighbour_rows(rows, own) for rows in parts))
        write_results(table_path(folder, format, NEIGHBOURS), others, own, meta)
    chosen = Reiterable(lambda: (chosen_columns(rows, main) for rows in parts))
    write_results(table_path(folder, format), chosen, main, {**meta, **more})


def write_results(
    path: Path, parts: Iterable[Rows], columns: Sequence[Column], meta: Mapping[str, Any]
) -> None:
    """Write the parts of a run atomically as one table.

    Args:
        path: ends in one of `ENDINGS`.
        parts: rows of ``columns`` in order; traversed twice for FITS.
        columns: columns of these rows.
        meta: for the table's metadata; FITS keywords have at most 8 letters.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic(path) as file:
        if path.suffix == ".fits":
            again = list(parts) if isinstance(parts, Iterator) else parts
            _write_fits(file, again, columns, meta)
        elif path.suffix == ".parquet":
            _write_parquet(file, parts, columns, meta)
        elif path.suffix == ".vot":
            write_votable(file, parts, columns, meta)
        else:
            _write_text(file, parts, columns, meta, "ascii" + path.suffix)


def fits_header(columns: Sequence[Column], meta: Mapping[str, Any]) -> tuple[bytes, fits.Header]:
    """Return the primary HDU's bytes and the table's header, still for no rows.

    Descriptions and UCDs are written twice: as TCOMM and TUCD keywords, which TOPCAT shows, and in
    astropy's form, so that ``Table.read`` restores them.
    """
    buffer = io.BytesIO()
    empty = to_table(np.zeros(0, record_type(columns)), columns, meta)
    for column in columns:
        if column.is_text:  # a text column without rows loses its width
            old = empty[column.name]
            empty[column.name] = np.zeros(0, column.format)
            empty[column.name].description, empty[column.name].meta = old.description, old.meta
    empty.write(buffer, format="fits")
    buffer.seek(0)
    with fits.open(buffer) as hdus:
        header = hdus[1].header
        for k, column in enumerate(columns, start=1):
            header.set(f"TCOMM{k}", column.description, after=f"TFORM{k}")
            header.set(f"TUCD{k}", column.ucd, after=f"TCOMM{k}")
        header["EXTNAME"] = "HYBRIDFIT"
        return hdus[0].header.tostring().encode("ascii"), header.copy()


def _write_fits(
    file: IO[bytes], parts: Iterable[Rows], columns: Sequence[Column], meta: Mapping[str, Any]
) -> None:
    columns = with_utf8(parts, columns)
    primary, header = fits_header(columns, meta)
    size = record_type(columns).itemsize
    if header["NAXIS1"] != size:
        raise RuntimeError(f"a row of the FITS table takes {header['NAXIS1']} bytes, not {size}")
    start = file.write(primary)
    file.write(header.tostring().encode("ascii"))
    count = 0
    for rows in parts:
        file.write(in_ascii(rows, columns).tobytes())
        count += len(rows)
    file.write(b"\0" * (-count * size % FITS_BLOCK))
    header["NAXIS2"] = count  # known only now; the header keeps its length
    file.seek(start)
    file.write(header.tostring().encode("ascii"))


def _write_text(
    file: IO[bytes],
    parts: Iterable[Rows],
    columns: Sequence[Column],
    meta: Mapping[str, Any],
    format: str,
) -> None:
    """Yield ECSV or CSV: the header of the first part, then the lines of all parts."""
    head = _text(to_table(np.zeros(0, record_type(columns)), columns, meta), format)
    file.write(head)
    for rows in parts:
        table = to_table(rows, columns, meta)
        if format == "ascii.csv":  # spreadsheets interpret = and the like as formulas
            for column in (c for c in columns if c.is_text):
                table[column.name] = [guarded(text) for text in table[column.name]]
        lines = _text(table, format)
        file.write(b"".join(lines.splitlines(keepends=True)[head.count(b"\n") :]))
        gc.collect()  # tables are in reference cycles: some forty parts would pile up


def _text(table: Table, format: str) -> bytes:
    buffer = io.StringIO()
    table.write(buffer, format=format)
    return buffer.getvalue().encode()


def _write_parquet(
    file: IO[bytes], parts: Iterable[Rows], columns: Sequence[Column], meta: Mapping[str, Any]
) -> None:
    from pyarrow import parquet  # an optional dependency

    scratch = Path(f"{file.name}.part")
    writer = None
    try:
        for rows in parts:  # with astropy's writer, so that Table.read restores all metadata
            to_table(rows, columns, meta).write(scratch, format="parquet", overwrite=True)
            table = parquet.read_table(scratch)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
        with suppress(FileNotFoundError):
            os.unlink(scratch)
