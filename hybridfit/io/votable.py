"""VOTables, the standard of the Virtual Observatory: write them in parts, and read them.

Rows are TABLEDATA, which every tool reads and which can be written before the number of rows is
known. The metadata of the table are INFO elements of its resource.

References:
    Ochsenbein et al. (2019), VOTable Format Definition 1.4, IVOA Recommendation.
"""

from __future__ import annotations

import gc
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import votable
from astropy.io.votable.tree import CooSys, Info, VOTableFile
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.files.regular import FileProblem, check_text, open_regular
from hybridfit.io.table import Column, record_type, to_table

BEGIN, END = b"<TABLEDATA>", b"</TABLEDATA>"
ICRS = "icrs"  # name of the coordinate system within the file
REMOTE = re.compile(rb"<STREAM[^>]*\bhref\s*=", re.IGNORECASE)  # data in another file, or a URL
CHUNK = 1 << 24  # bytes


def write_votable(
    file: IO[bytes],
    parts: Iterable[NDArray[np.void]],
    columns: Sequence[Column],
    meta: Mapping[str, Any],
) -> None:
    """Write the parts of a run as one table.

    Args:
        file: to write to.
        parts: rows of ``columns``, in order.
        columns: columns of these rows.
        meta: metadata of the table.
    """
    head, _, tail = _pieces(np.zeros(1, record_type(columns)), columns, meta)
    file.write(head)
    for rows in parts:
        if len(rows):
            file.write(_pieces(rows, columns, {})[1])
            gc.collect()  # tables are in reference cycles: some forty parts would pile up
    file.write(tail)


def _pieces(
    rows: NDArray[np.void], columns: Sequence[Column], meta: Mapping[str, Any]
) -> tuple[bytes, bytes, bytes]:
    """Return a VOTable of these rows in three pieces: before its lines, the lines, and after."""
    made = VOTableFile.from_table(to_table(rows, columns), table_id="results")
    resource = made.resources[0]
    resource.description = "Made by hybridfit"
    resource.coordinate_systems.append(CooSys(ID=ICRS, system="ICRS"))
    resource.infos.extend(Info(name=name, value=str(value)) for name, value in meta.items())
    for column, found in zip(columns, resource.tables[0].fields, strict=True):
        if column.ucd.startswith("pos.eq."):
            found.ref = ICRS
        if column.is_text:
            found.arraysize = "*"
    buffer = io.BytesIO()
    made.to_xml(buffer)
    head, begin, rest = buffer.getvalue().partition(BEGIN)
    lines, end, tail = rest.rpartition(END)
    return head + begin, lines.rstrip(b" "), b"\n" + end + tail


def read_votable(path: Path) -> Table:
    """Read the first table of a VOTable, and the metadata of its resource.

    Raises:
        FileProblem: if it is not text, or its data are in another file.
    """
    check_text(path)
    with open_regular(path) as file:
        before = b""
        while part := file.read(CHUNK):
            if REMOTE.search(before + part):
                raise FileProblem(f"'{path}' refers to data in other files, expected them in it")
            before = part[-1000:]
    found = votable.parse(str(path))
    table: Table = found.get_first_table().to_table(use_names_over_ids=True)
    for resource in found.resources:
        table.meta.update({info.name: info.value for info in resource.infos})
    for column in table.itercols():  # long descriptions are wrapped
        column.description = " ".join((column.description or "").split())
    return table
