"""Addresses of images inside FITS files: the CFITSIO and IRAF syntaxes, and our own.

``file.fits``, ``file.fits[1]``, ``file.fits[SCI]``, ``file.fits[sci,2]`` (name and EXTVER),
``file.fits+1``, each optionally followed by a section: ``[10:50,20:60]`` (x, y from 1, both ends
included), ``[*,*,3]`` (the third plane of a cube).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from hybridfit.data.errors import BadInput

BRACKETS = re.compile(r"(.*?)((?:\[[^\[\]]*\])+)", re.DOTALL)
PLUS = re.compile(r"(.+\.(?:fits|fit|fts|imh)(?:\.gz|\.fz|\.bz2|\.xz)?)\+(\d{1,6})", re.IGNORECASE)
# qualifiers that IRAF and CFITSIO allow after the name: the kind of HDU, inheritance of headers
KINDS = re.compile(r"i|b|a|image|(no)?inherit[+-]?", re.IGNORECASE)
AXIS = re.compile(r"\*|\d{1,9}(:\d{1,9})?")
EXAMPLES = "expected like file.fits[1], [SCI], [sci,2], or a section like [10:50,20:60] or [*,*,3]"
Range = tuple[int, int] | None  # first and last pixel from 1; None for all of them


@dataclass(frozen=True)
class Address:
    """The location of an image.

    Args:
        path: path of the file.
        hdu: its name, "" if not given; a name that is all digits may be the HDU's number, from 0.
        version: its EXTVER, 0 if not given.
        section: the first and last pixel of each axis, x first, from 1; empty for all.
        tail: the text after the path, as written.
    """

    path: str
    hdu: str = ""
    version: int = 0
    section: tuple[Range, ...] = ()
    tail: str = ""

    @property
    def bracket(self) -> str:
        """The HDU in CFITSIO's syntax, "" if none is named."""
        version = f",{self.version}" if self.version else ""
        return f"[{self.hdu}{version}]" if self.hdu else ""

    @property
    def section_text(self) -> str:
        """The section as written in an address, "" if there is none."""
        axes = ("*" if axis is None else f"{axis[0]}:{axis[1]}" for axis in self.section)
        return f"[{','.join(axes)}]" if self.section else ""


def parse_address(text: str) -> Address:
    """Parse the address of an image; an existing file with that exact name takes precedence.

    Raises:
        BadInput: for brackets that cannot be parsed.
    """
    if text.endswith("]") and (match := BRACKETS.fullmatch(text)) and not os.path.lexists(text):
        path, tail = match[1], match[2]
        parts = [part.strip() for part in tail[1:-1].split("][")]
    elif (match := PLUS.fullmatch(text)) and not os.path.lexists(text):
        return Address(match[1], match[2], tail=f"[{match[2]}]")
    else:
        return Address(text)
    hdu, version = "", 0
    section: tuple[Range, ...] = ()
    if plus := PLUS.fullmatch(path):
        path, hdu, tail = plus[1], plus[2], f"[{plus[2]}]{tail}"
    for place, part in enumerate(parts):
        words = [word.strip() for word in part.split(",")]
        is_section = "*" in part or ":" in part or (place > 0 and bool(hdu))
        if is_section and not section:
            section = tuple(_range(word, text) for word in words)
        elif not is_section and place == 0 and not hdu:
            hdu, version = _hdu(words, text)
        else:
            raise BadInput(f"'{text}' has '[{part}]', {EXAMPLES}")
    return Address(path, hdu, version, section, tail)


def _hdu(words: list[str], text: str) -> tuple[str, int]:
    name, *rest = words
    name = re.sub(r"^extname\s*=\s*", "", name, flags=re.IGNORECASE).strip("'\" ")
    rest = [word for word in rest if not KINDS.fullmatch(word)]
    rest = [re.sub(r"^extver\s*=\s*", "", word, flags=re.IGNORECASE) for word in rest]
    if len(rest) > 1 or not all(re.fullmatch(r"\d{1,6}", word) for word in rest):
        raise BadInput(f"'{text}' has '[{','.join(words)}]', {EXAMPLES}")
    if not name:
        raise BadInput(f"'{text}' names no HDU in its brackets, {EXAMPLES}")
    return name, int(rest[0]) if rest else 0


def _range(word: str, text: str) -> Range:
    """Parse one axis of a section: ``*``, ``first:last``, or one pixel."""
    if not AXIS.fullmatch(word):
        raise BadInput(
            f"'{text}' has the section '{word}': expected '*', 'first:last' from 1 with both ends "
            "in, or one plane; steps and mirrored axes are not read"
        )
    if word == "*":
        return None
    first, _, last = word.partition(":")
    found = int(first), int(last or first)
    if not 1 <= found[0] <= found[1]:
        raise BadInput(f"'{text}' has the section '{word}', expected 1 <= first <= last")
    return found
