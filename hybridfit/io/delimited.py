"""Delimited text tables of spreadsheets and editors: any encoding, separator, decimal comma.

Also escapes strings that a spreadsheet would run as formulas when it opens our CSV.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hybridfit.files.regular import FileProblem, open_regular

SEPARATORS = ",;\t|"
LONGEST = 1_000_000  # characters in a line
CHUNK = 1 << 20
MARKS = (  # longest first: the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
GUARD = "'"
COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Delimited:
    """A table of strings.

    Args:
        columns: by name, in the file's order.
        separator: between fields; if it is not a comma, numbers may have decimal commas.
    """

    columns: dict[str, list[str]]
    separator: str


def read_delimited(path: Path, known: Collection[str] = ()) -> Delimited:
    """Read a table whose first line names its columns.

    Args:
        path: text in UTF-8, UTF-16 or UTF-32, otherwise read as Windows' Latin-1, with commas,
            semicolons, tabs or bars between fields; empty rows, lines that begin with ``#``, a
            first line ``sep=;`` and empty trailing columns are skipped.
        known: names of columns; the separator that finds most of them is used.

    Raises:
        ValueError: if it is not such a table.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        encoding = _encoding(file, path)
        file.seek(0)
        lines = _lines(io.TextIOWrapper(file, encoding, newline=""))
        first = next(lines, "")
        named = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)
        if named:
            first = next(lines, "")
        separator = named[1] if named else _separator(first, known)
        names = _cells(first, separator)
        while names and not names[-1]:
            names.pop()
        if len(set(names)) != len(names):
            raise ValueError("a column name occurs twice in its first line")
        columns: dict[str, list[str]] = {name: [] for name in names}
        for number, row in enumerate(csv.reader(lines, delimiter=separator), start=1):
            cells = [cell.strip(" \u00a0\t\r\n") for cell in row]
            if not any(cells):
                continue
            if any(cells[len(names) :]) or len(cells) < len(names):
                raise ValueError(f"row {number} has {len(cells)} fields, expected {len(names)}")
            for name, cell in zip(names, cells, strict=False):
                columns[name].append(unguarded(cell))
    return Delimited(columns, separator)


def decimal(text: str) -> str:
    """Convert a decimal comma to a point: ``1.234,5`` is 1234.5."""
    return text.replace(".", "").replace(",", ".") if COMMA.fullmatch(text) else text


def guarded(text: str) -> str:
    """Escape a string for spreadsheets: put an apostrophe before the start of a formula."""
    return GUARD + text if text.startswith((*FORMULA, GUARD)) else text


def unguarded(text: str) -> str:
    """Undo `guarded`."""
    return text[1:] if text[:1] == GUARD and text[1:].startswith((*FORMULA, GUARD)) else text


def _encoding(file: BinaryIO, path: Path) -> str:
    head = file.read(4096)
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:  # UTF-16 without a byte-order mark: every other byte of ASCII is 0
        halves = [half.count(0) / max(len(half), 1) for half in (head[::2], head[1::2])]
        if max(halves) < 0.4 or min(halves) > 0.1:
            raise FileProblem(f"'{path}' is not text, expected a table of text")
        return "utf-16-be" if halves[0] > halves[1] else "utf-16-le"
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := file.read(CHUNK):
            decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1" if any(byte in head for byte in b"\x81\x8d\x8f\x90\x9d") else "cp1252"
    return "utf-8"


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield the non-empty lines; their length is limited, as a file may have no line ends."""
    while line := text.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise ValueError(f"a line has more than {LONGEST} letters, expected a table of text")
        if line.strip() and not line.startswith("#"):
            yield line


def _separator(line: str, known: Collection[str]) -> str:
    def score(separator: str) -> tuple[int, int]:
        cells = _cells(line, separator)
        return len(set(cells) & set(known)), len(cells)

    return max(SEPARATORS, key=score)  # the first of ties: a comma


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
