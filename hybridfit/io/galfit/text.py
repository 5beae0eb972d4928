"""Parse GALFIT's text: lines with their numbers, keys, values and comments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridfit.files.regular import FileProblem, read_bytes
from hybridfit.io.galfit.entries import GalfitError, Value

# A) ... Z), A1), 0) ... 10), C0), B1), F20), R10), T0), Ti), To), N1)
ROW = re.compile(r"\s*([A-Za-z]\d{0,2}|[Tt][ioIO]|\d{1,2})\s*\)(.*)")
RULER = re.compile(r"[\s=\-+*_~]*")
MARKS = "[]{}*"
QUOTED = re.compile(r"\s*(['\"])(.*?)\1\s*(.*)")
LARGEST = 2_000_000  # bytes; GALFIT's text files are much smaller


@dataclass(frozen=True)
class Row:
    """One line ``KEY) text  # comment`` of an input file; ``line`` counts from 1."""

    line: int
    key: str
    text: str
    comment: str

    @property
    def words(self) -> list[str]:
        return self.text.split()


def read_text(path: Path) -> list[str]:
    """Return a file's lines.

    Raises:
        FileNotFoundError: if the file does not exist.
        GalfitError: if it is not a text file.
    """
    try:
        data = read_bytes(path, LARGEST)
    except FileProblem as error:
        raise GalfitError(path, None, str(error)) from error
    if b"\0" in data[:4096]:
        raise GalfitError(path, None, "is not a text file: expected one of GALFIT's text files")
    return data.decode("utf-8", errors="replace").splitlines()


def rows(path: Path, lines: list[str], notes: list[str]) -> Iterator[Row]:
    """Yield the lines that have a key; note lines with neither a key nor a comment."""
    for number, line in _resolved(path, lines, notes):
        content, _, comment = _without_comment(line)
        match = ROW.match(content)
        if match:
            key = match[1][0].upper() + match[1][1:].lower()
            yield Row(number, key, match[2].strip(), comment.strip())
        elif not RULER.fullmatch(content):
            shown = " ".join(content.split())[:60]
            notes.append(f"line {number} is neither 'KEY) value' nor a comment, ignored: {shown}")


def file_names(row: Row) -> list[str]:
    """Return the file names in a row, without quotes; "" for ``none`` and for empty rows."""
    rest, names = row.text, []
    while rest.strip():
        quoted = QUOTED.match(rest)
        if quoted:
            name, rest = quoted[2].strip(), quoted[3]
        else:
            name, _, rest = rest.strip().partition(" ")
        names.append("" if name.lower() == "none" else name)
    return names or [""]


def number(text: str) -> Value | None:
    """Return a number as GALFIT prints it: plain, ``[fixed]``, ``{coupled}`` or ``*suspect*``.

    NaN and infinities are returned as NaN and suspect; None if it is not a number.
    """
    plain = text.strip(MARKS + " ").lower().replace("d", "e")
    try:
        value = float(plain)
    except ValueError:
        return None
    suspect = "*" in text or not math.isfinite(value)
    value = value if math.isfinite(value) else math.nan
    return Value(value, fixed="[" in text, coupled="{" in text, suspect=suspect)


def _without_comment(line: str) -> tuple[str, str, str]:
    """Split at the first ``#`` that begins a word: file names may contain one."""
    match = re.search(r"(?:^|(?<=\s))#", line)
    if match is None:
        return line, "", ""
    return line[: match.start()], "#", line[match.start() :].lstrip("# \t")


def _resolved(path: Path, lines: list[str], notes: list[str]) -> Iterator[tuple[int, str]]:
    """Number the lines; keep HEAD's side of merge conflicts, with a note."""
    start, theirs = 0, False
    for number, line in enumerate(lines, start=1):
        if line.startswith("<<<<<<<"):
            start, theirs = number, False
        elif start and line.rstrip() == "=======":
            theirs = True
        elif start and line.startswith(">>>>>>>"):
            notes.append(f"lines {start}-{number} are a merge conflict: the first side is used")
            start, theirs = 0, False
        elif not theirs:
            yield number, line
    if start:
        raise GalfitError(path, start, "a merge conflict begins here, expected its '>>>>>>>'")


def band_notes(bands: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the band whose values are read, if there are several."""
    if len(bands) < 2:
        return ()
    return (f"{len(bands)} bands ({', '.join(bands)}): values are of '{bands[0]}'",)
