"""Non-ASCII strings in FITS tables, which hold ASCII only: escaped, with UTF-8 in a second column.

A column ``id`` has Python's backslash escapes for non-ASCII characters; if there are any, a column
``id_utf8`` has the UTF-8 bytes (an array of unsigned bytes, padded with zeros):

>>> [bytes(name).rstrip(b"\\0").decode() for name in table["id_utf8"]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from hybridfit.data.ids import ascii_id
from hybridfit.io.table import Column, record_type

Rows = NDArray[np.void]
BESIDE = "_utf8"
LOOSE = ("notes",)  # prose: question marks are good enough


class Reiterable:
    """An iterable that can be traversed several times, recomputed each time."""

    def __init__(self, make: Callable[[], Iterable[Rows]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Rows]:
        return iter(self._make())


def with_utf8(parts: Iterable[Rows], columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of a FITS table, with a UTF-8 column after each that ASCII cannot hold.

    Args:
        parts: rows, all of them.
        columns: columns of these rows.
    """
    names = [c.name for c in columns if c.is_text and c.name not in LOOSE]
    width = dict.fromkeys(names, 0)
    for rows in parts:
        for name in names:
            beyond = [text for text in rows[name].tolist() if not text.isascii()]
            width[name] = max([width[name], *map(len, beyond)])
    chosen = []
    for column in columns:
        chosen.append(column)
        if width.get(column.name):
            text = f"{column.name} in UTF-8, padded with zeros"
            name, size = f"{column.name}{BESIDE}", np.dtype(column.format).itemsize
            chosen.append(Column(name, "u1", "", text, "meta.id", (size,)))
    return tuple(chosen)


def in_ascii(rows: Rows, columns: Sequence[Column]) -> Rows:
    """Return rows with the columns of `with_utf8`, their strings in ASCII."""
    wanted = record_type(columns)
    texts = [c.name for c in columns if c.is_text]
    beyond = [n for n in texts if not all(text.isascii() for text in rows[n].tolist())]
    if wanted == rows.dtype and not beyond:
        return rows
    made = np.zeros(len(rows), wanted)
    for name in rows.dtype.names or ():
        made[name] = rows[name]
        if f"{name}{BESIDE}" in (wanted.names or ()):
            width = rows.dtype[name].itemsize
            plain = np.ascontiguousarray(rows[name]).view(np.uint8)
            made[f"{name}{BESIDE}"] = plain.reshape(len(rows), width)
    for name in beyond:
        texts = [text.decode() for text in rows[name].tolist()]
        if name in LOOSE:
            made[name] = [text.encode("ascii", "replace") for text in texts]
        else:
            made[name] = [ascii_id(text).encode() for text in texts]
    return made


def restored(table: Table) -> Table:
    """Replace escaped strings by those of ``*_utf8``, in place."""
    for name in list(table.colnames):
        beside = f"{name}{BESIDE}"
        if beside not in table.colnames or np.asarray(table[beside]).dtype != np.uint8:
            continue
        texts = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in table[beside]]
        old = table[name]
        kind = MaskedColumn if isinstance(old, MaskedColumn) else type(old)
        table[name] = kind(texts, name=name, description=old.description, meta=old.meta)
        table.remove_column(beside)
    return table
