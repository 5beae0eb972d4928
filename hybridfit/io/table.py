"""What all tables share: columns with units and descriptions, records, messages.

Rows are made as numpy records with fixed widths, so that parts of a long run can be put together
byte by byte; `to_table` turns them into what users hold in their hands.
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
from hybridfit.io.sky_positions import frame_problem
from hybridfit.io.sky_positions import on_sky as on_sky
from hybridfit.model.parameters import PARAMETERS

MESSAGE_WIDTH = 240  # characters; longer messages end in "..."


@dataclass(frozen=True)
class Column:
    """One column: name, numpy format of an entry, unit, description and shape of an entry."""

    name: str
    format: str
    unit: str
    description: str
    shape: tuple[int, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether its entries are texts, in UTF-8."""
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
            # NumPy before 2 makes numbers of no texts
            values = np.char.decode(values, "utf-8") if len(values) else np.zeros(0, "U1")
        else:
            values = values.astype(values.dtype.newbyteorder("="))
        table[column.name] = values
        table[column.name].description = column.description
        if column.unit:
            table[column.name].unit = Unit(column.unit)
    return table


def id_width(ids: Sequence[str]) -> int:
    """Return the bytes that the longest id takes, in UTF-8 or with escapes in ASCII."""
    return max((len(name.encode("ascii", "backslashreplace")) for name in ids), default=1)


def parameter_of(name: str) -> tuple[str, str]:
    """Return unit and description of a parameter; a user's own has no unit, and its name."""
    parameter = PARAMETERS.get(plain_name(name)) or PARAMETERS.get(name)
    return (parameter.unit, parameter.description) if parameter else ("", name)


def plain_name(name: str) -> str:
    """Return a parameter's name without its component."""
    head, _, tail = name.rpartition("_")
    return head if tail.isdigit() else name


def shortened(text: str) -> bytes:
    """Return text in the column's width; a long path loses its folders before the reason."""
    text = " ".join(text.split())
    data = text.encode()
    if len(data) > MESSAGE_WIDTH:
        data = re.sub(r"'[^']*/(?=[^'/]+')", "'.../", text).encode()
    if len(data) <= MESSAGE_WIDTH:
        return data
    return data[: MESSAGE_WIDTH - 3].decode(errors="ignore").encode() + b"..."


def messages_of(
    cutouts: Cutouts, lost: NDArray[np.bool_] | None = None, notes: Sequence[str] = ()
) -> list[bytes]:
    """Return the text of each galaxy for the column ``message``.

    Args:
        cutouts: B galaxies.
        lost: (B,) True where a centre is known and has no place on the sky; default nowhere.
        notes: B texts that go first; default none.
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
    """Rows in which nothing is known."""
    rows = np.zeros(n, dtype=record_type(columns))
    for column in columns:
        if column.format.startswith("f"):
            rows[column.name] = np.nan
    return rows


def failed_row(id: str, flags: int, text: str, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return the row (1,) of a galaxy that could not be computed, in any table.

    Args:
        id: its name.
        flags: all that is known.
        text: why.
        columns: of the table.
    """
    rows = blank_rows(1, columns)
    rows["id"], rows["flags"], rows["message"] = id.encode(), flags, shortened(text)
    names = rows.dtype.names or ()
    if "quality" in names:
        rows["quality"] = b"suspect"
    if "weight" in names:
        rows["weight"] = 0.0  # there are no draws
    return rows


def to_numpy(tensor: Any) -> NDArray:
    """Return a tensor on any device as an array."""
    return tensor.detach().cpu().numpy()
