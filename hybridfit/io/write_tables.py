"""The results file, written part by part so that no run's length shows in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.delimited import guarded
from hybridfit.io.table import Column, record_type, to_table
from hybridfit.io.unicode_columns import in_ascii, with_utf8
from hybridfit.io.writing import atomic

Rows = NDArray[np.void]
FITS_BLOCK = 2880


def write_results(
    path: Path, parts: Iterable[Rows], columns: Sequence[Column], meta: Mapping[str, Any]
) -> None:
    """Write the parts of a run as one table; the file appears whole or not at all.

    Args:
        path: ends in one of `hybridfit.io.formats.FORMATS`.
        parts: rows of the parts in order, from `hybridfit.io.result_table.result_rows`; gone
            through twice for FITS (`hybridfit.io.unicode_columns.Reiterable`).
        columns: of these rows.
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
        else:
            _write_text(file, parts, columns, meta, "ascii" + path.suffix)


def fits_header(columns: Sequence[Column], meta: Mapping[str, Any]) -> tuple[bytes, fits.Header]:
    """Return the primary HDU's bytes and the table's header, for no rows as yet.

    Descriptions stand there twice: as TCOMM keywords, which TOPCAT shows, and as astropy puts
    them, so that ``Table.read`` gives them back.
    """
    buffer = io.BytesIO()
    empty = to_table(np.zeros(0, record_type(columns)), columns, meta)
    for column in columns:
        if column.is_text:  # a text column without rows has lost its width
            attributes = empty[column.name].description
            empty[column.name] = np.zeros(0, column.format)
            empty[column.name].description = attributes
    empty.write(buffer, format="fits")
    buffer.seek(0)
    with fits.open(buffer) as hdus:
        header = hdus[1].header
        for k, column in enumerate(columns, start=1):
            header.set(f"TCOMM{k}", column.description, after=f"TFORM{k}")
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
    """ECSV or CSV: the header of the first part, then the lines of all of them."""
    head = _text(to_table(np.zeros(0, record_type(columns)), columns, meta), format)
    file.write(head)
    for rows in parts:
        table = to_table(rows, columns, meta)
        if format == "ascii.csv":  # spreadsheets take = and the like for formulas
            for column in (c for c in columns if c.is_text):
                table[column.name] = [guarded(text) for text in table[column.name]]
        lines = _text(table, format)
        file.write(b"".join(lines.splitlines(keepends=True)[head.count(b"\n") :]))


def _text(table: Table, format: str) -> bytes:
    buffer = io.StringIO()
    table.write(buffer, format=format)
    return buffer.getvalue().encode()


def _write_parquet(
    file: IO[bytes], parts: Iterable[Rows], columns: Sequence[Column], meta: Mapping[str, Any]
) -> None:
    from pyarrow import parquet  # an extra of the installation

    scratch = Path(f"{file.name}.part")
    writer = None
    try:
        for rows in parts:  # by way of astropy's own writer, so that Table.read knows it all
            to_table(rows, columns, meta).write(scratch, format="parquet", overwrite=True)
            table = parquet.read_table(scratch)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
        with suppress(FileNotFoundError):
            os.unlink(scratch)
