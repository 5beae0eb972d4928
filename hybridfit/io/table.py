"""Common parts of all tables: columns with units, descriptions and UCDs, records, notes.

Rows are numpy records of fixed width, so that parts of a long run can be joined byte by byte;
`to_table` converts them to an astropy Table for users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.units import Unit
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import joined
from hybridfit.data.ids import ascii_id
from hybridfit.data.positions import plain_name
from hybridfit.io.sky_positions import frame_problem
from hybridfit.io.sky_positions import on_sky as on_sky
from hybridfit.model.parameters import PARAMETERS

NOTES_WIDTH = 240  # bytes; longer notes end in "..."


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: name of the column.
        format: numpy format of an entry's numbers; ``S`` and the width of a string in bytes.
        unit: in astropy's spelling; "" for numbers without a unit, and for image units.
        description: in one sentence.
        ucd: unified content descriptor (UCD1+), see `hybridfit.data.ucd`.
        shape: shape of an entry.
        table: the run's table that it is written to, if that is not the results.
    """

    name: str
    format: str
    unit: str
    description: str
    ucd: str
    shape: tuple[int, ...] = ()
    table: str = ""

    @property
    def is_text(self) -> bool:
        """Return whether the entries are strings, in UTF-8."""
        return self.format.startswith("S")


def record_type(columns: Sequence[Column]) -> np.dtype:
    """Return the packed big-endian record type of ``columns``."""
    return np.dtype([(c.name, np.dtype(c.format).newbyteorder(">"), c.shape) for c in columns])


def to_table(
    rows: NDArray[np.void], columns: Sequence[Column], meta: Mapping[str, Any] | None = None
) -> Table:
    """Return rows as an astropy Table with units, descriptions and metadata."""
    table = Table(meta=dict(meta or {}))
    for column in columns:
        values = rows[column.name]
        if column.is_text:
            # NumPy before 2 turns an empty list of strings into numbers
            values = np.char.decode(values, "utf-8") if len(values) else np.zeros(0, "U1")
        else:
            values = values.astype(values.dtype.newbyteorder("="))
        table[column.name] = values
        table[column.name].description = column.description
        table[column.name].meta["ucd"] = column.ucd
        if column.unit:
            table[column.name].unit = Unit(column.unit)
    return table


def id_width(ids: Sequence[str]) -> int:
    """Return the width of the longest id in bytes, in UTF-8 or escaped in ASCII."""
    return max((len(ascii_id(name)) for name in ids), default=1)


def parameter_of(name: str) -> tuple[str, str]:
    """Return unit and description of a parameter; "" and its name for a user-defined one."""
    parameter = PARAMETERS.get(plain_name(name)) or PARAMETERS.get(name)
    return (parameter.unit, parameter.description) if parameter else ("", name)


def shortened(text: str) -> bytes:
    """Fit text in the column's width; shorten a long path before the reason."""
    text = " ".join(text.split())
    data = text.encode()
    if len(data) > NOTES_WIDTH:
        data = re.sub(r"'[^']*/(?=[^'/]+')", "'.../", text).encode()
    if len(data) <= NOTES_WIDTH:
        return data
    return data[: NOTES_WIDTH - 3].decode(errors="ignore").encode() + b"..."


def notes_of(
    cutouts: Cutouts, lost: NDArray[np.bool_] | None = None, notes: Sequence[str] = ()
) -> list[bytes]:
    """Return the text of each galaxy for the column ``notes``.

    Args:
        cutouts: B galaxies.
        lost: (B,) True where a centre is known but has no sky position; default nowhere.
        notes: B texts to put first; default none.
    """
    frames = [frame_problem(wcs) for wcs in cutouts.wcs]
    if lost is not None:
        known = (wcs is not None for wcs in cutouts.wcs)
        off = "no ra, dec: the centre lies off the projection"
        rows = zip(frames, known, lost.tolist(), strict=True)
        frames = [text or (off if has and gone else "") for text, has, gone in rows]
    texts = zip(notes or [""] * len(frames), cutouts.messages, frames, strict=True)
    return [shortened(joined(*parts)) for parts in texts]


def blank_rows(n: int, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return rows without any known value."""
    rows = np.zeros(n, dtype=record_type(columns))
    for column in columns:
        if column.format.startswith("f"):
            rows[column.name] = np.nan
    return rows


def failed_row(id: str, flags: int, text: str, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return the row (1,) of a galaxy that could not be computed, in any table.

    Args:
        id: its name.
        flags: all flags of the galaxy.
        text: the reason.
        columns: columns of the table.
    """
    rows = blank_rows(1, columns)
    rows["id"], rows["flags"], rows["notes"] = id.encode(), flags, shortened(text)
    names = rows.dtype.names or ()
    if "quality" in names:
        rows["quality"] = b"suspect"
    if "weight" in names:
        rows["weight"] = 0.0  # no draws
    return rows


def to_numpy(tensor: Any) -> NDArray:
    """Return a tensor on any device as an array."""
    return tensor.detach().cpu().numpy()
