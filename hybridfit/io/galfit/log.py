"""Read fit.log, to which GALFIT appends its results with two decimals (GALFIT 2: four)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridfit.io.galfit import conventions
from hybridfit.io.galfit.block import SECTION
from hybridfit.io.galfit.entries import Component, GalfitError, Outcome, Value
from hybridfit.io.galfit.text import RULER, band_notes, number, read_text

# the order of a component's columns after its position, as GALFIT's numbers
COLUMNS: dict[str, tuple[str, ...]] = {
    "sersic": ("3", "4", "5", "9", "10"),
    "devauc": ("3", "4", "9", "10"),
    "expdisk": ("3", "4", "9", "10"),
    "gaussian": ("3", "4", "9", "10"),
    "moffat": ("3", "4", "5", "9", "10"),
    "nuker": ("3", "4", "5", "6", "7", "9", "10"),
    "king": ("3", "4", "5", "6", "9", "10"),
    "ferrer": ("3", "4", "5", "6", "9", "10"),
    "edgedisk": ("3", "4", "5", "10"),
    "psf": ("3",),
    "sky": ("1", "2", "3"),
}
HEADS = {
    "input image": "image",
    "input images": "image",
    "init. par. file": "feedme",
    "restart file": "restart",
    "output image": "output",
}
LABEL = re.compile(r"\s*([A-Za-z][\w./ ]*?)\s*:\s*(.*?)\s*$")
BANDED = re.compile(r"\s*(\w+)\s*:\s*([a-z]\w*)\s*:\s*(.*)$")
CHI2 = re.compile(r"Chi\^2\s*=\s*(\S+?),?\s+ndof\s*=\s*(-?\d+)", re.IGNORECASE)
CHI2NU = re.compile(r"Chi\^2/nu\s*=\s*(\S+)", re.IGNORECASE)
SEPARATORS = re.compile(r"[(),\s]+")
# numbers may follow each other without a space: each ends after two (or four) decimals
GLUED = {
    digits: re.compile(
        rf"[\[{{*]*[-+]?(?:\d+\.\d{{{digits}}}(?:e[-+]\d+)?|nan|inf)[\]}}*]*", re.IGNORECASE
    )
    for digits in (2, 4)
}
TERMS = {"fourier": "F", "bending": "B", "diskiness": "C0", "boxiness": "C0"}


def read_log(path: str | Path) -> tuple[Outcome, ...]:
    """Read every entry of a fit.log, the oldest first.

    Values have two decimals, and errors below 0.005 are printed as 0; from GALFITM's multi-band
    entries the first band is read.

    Raises:
        FileNotFoundError: if the file does not exist.
        GalfitError: for invalid content; names the file, the line and what was expected.
    """
    path = Path(path)
    lines = list(enumerate(read_text(path), start=1))
    starts = [i for i, (_, line) in enumerate(lines) if _head(line)[0] == "image"]
    if not starts:
        raise GalfitError(path, None, "is not a fit.log: expected lines 'Input image : ...'")
    ends = [*starts[1:], len(lines)]
    return tuple(_entry(path, lines[a:b]) for a, b in zip(starts, ends, strict=True))


def is_log(text: str) -> bool:
    """Return whether a text is a fit.log."""
    heads = {_head(line)[0] for line in text.splitlines()[:200]}
    return {"image", "restart"} <= heads


def _head(line: str) -> tuple[str, str]:
    match = LABEL.match(line)
    return (HEADS.get(match[1].lower(), ""), match[2]) if match else ("", "")


def _entry(path: Path, lines: list[tuple[int, str]]) -> Outcome:
    read: dict[str, Any] = {}
    parts: list[tuple[str, dict[str, Value], list[str]]] = []
    bands: list[str] = []
    awaiting, old = False, False  # the line of errors; GALFIT 2
    for line, text in lines:
        name, value = _head(text)
        if name == "image":
            read |= _image(value)
        elif name:
            read[name] = value
        elif found := _statistics(text):
            read |= found
        elif RULER.fullmatch(text):
            continue
        elif text.lstrip()[:1] in "([" or (awaiting and ":" not in text):
            if awaiting:
                parts[-1] = _with_errors(path, line, text, parts[-1])
            awaiting = False
        else:
            band, kind, numbers = _labelled(path, line, text)
            if band and band not in bands:
                bands.append(band)
            awaiting = False
            if band and band != bands[0]:
                continue
            if kind not in COLUMNS:
                _add_term(path, line, kind, numbers, parts)
                continue
            raw, has_c0 = _values(path, line, kind, numbers)
            parts.append((kind, raw, []))
            awaiting, old = True, old or has_c0
    return Outcome(
        path=path,
        components=tuple(_component(kind, raw, old, extras) for kind, raw, extras in parts),
        version="2" if old else "3",
        bands=tuple(bands) if len(bands) > 1 else (),
        notes=band_notes(bands),
        **read,
    )


def _statistics(text: str) -> dict[str, Any]:
    """Return chi2 and degrees of freedom from a line; empty for other lines."""
    if found := CHI2.search(text):
        chi2 = number(found[1])
        return {"chi2": chi2.value if chi2 else math.nan, "dof": int(found[2])}
    if found := CHI2NU.search(text):
        nu = number(found[1])
        return {"chi2nu": nu.value if nu else math.nan}
    return {}


def _component(kind: str, raw: Mapping[str, Value], old: bool, extras: Iterable[str]) -> Component:
    """Return a component; GALFIT 2 marks fixed values with an error of 0 instead of brackets."""
    if old:
        raw = {
            name: replace(value, error=math.nan, fixed=True)
            if value.error == 0 and name not in ("x", "y")
            else value
            for name, value in raw.items()
        }
    return conventions.component(kind, raw, tuple(dict.fromkeys(extras)))


def _image(value: str) -> dict[str, Any]:
    match = SECTION.search(value)
    if match is None:
        return {"image": value.split(",")[0].strip()}
    x0, x1, y0, y1 = (int(text) for text in match.groups())
    name = value[: match.start()].split(",")[0].strip()
    return {"image": name, "region": conventions.region_of((x0, x1, y0, y1))}


def _labelled(path: Path, line: int, text: str) -> tuple[str, str, str]:
    """Return band (or ""), type and numbers from a line such as ``sersic : ( 1.0, 2.0) 3.0``."""
    if banded := BANDED.match(text):
        return banded[1], banded[2].lower(), banded[3]
    kind, colon, numbers = text.partition(":")
    if not colon:
        shown = " ".join(text.split())[:60]
        raise GalfitError(path, line, f"'{shown}' is not understood, expected 'type : numbers'")
    return "", kind.strip().lower(), numbers


def _numbers(path: Path, line: int, text: str) -> list[Value]:
    """Return all numbers of a line, without the brackets of a sky's position."""
    text = re.sub(r"^\s*\[\s*([^\[\],]+),\s*([^\[\],]+)\]", r" [\1] [\2] ", text)
    found: list[Value] = []
    for word in filter(None, SEPARATORS.split(text)):
        value = number(word)
        if value is not None:
            found.append(value)
            continue
        for pattern in GLUED.values():
            if "".join(pattern.findall(word)) == word:
                found += [v for part in pattern.findall(word) if (v := number(part)) is not None]
                break
        else:
            raise GalfitError(path, line, f"'{word}' is not a number, expected GALFIT's values")
    return found


def _values(path: Path, line: int, kind: str, text: str) -> tuple[dict[str, Value], bool]:
    """Return values by GALFIT's numbers, and whether boxiness has a column."""
    names = ("x", "y", *COLUMNS[kind])
    found = _numbers(path, line, text)
    surplus = len(found) - len(names)
    if surplus not in (0, 1) or (surplus and kind in ("psf", "sky")):
        raise GalfitError(
            path, line, f"'{kind}' has {len(found)} numbers, expected {len(names)}: x y and others"
        )
    raw = dict(zip(names, found, strict=False))
    if kind == "sky":
        raw = {name: value for name, value in raw.items() if name not in ("x", "y")}
    if surplus and found[-1].value != 0:
        raw["C0"] = found[-1]
    return raw, bool(surplus)


def _with_errors(
    path: Path, line: int, text: str, part: tuple[str, dict[str, Value], list[str]]
) -> tuple[str, dict[str, Value], list[str]]:
    kind, raw, extras = part
    errors = _numbers(path, line, text)
    if len(errors) not in (len(raw), len(raw) + 1):
        raise GalfitError(
            path, line, f"{len(errors)} errors of '{kind}', expected {len(raw)} as its values"
        )
    merged = {
        name: replace(
            value,
            error=math.nan if value.fixed or error.fixed else error.value,
            fixed=value.fixed or error.fixed,
            coupled=value.coupled or error.coupled,
            suspect=value.suspect or error.suspect,
        )
        for (name, value), error in zip(raw.items(), errors, strict=False)
    }
    return kind, merged, extras


def _add_term(
    path: Path,
    line: int,
    kind: str,
    text: str,
    parts: list[tuple[str, dict[str, Value], list[str]]],
) -> None:
    """Add the line of a shape term to the component above it."""
    if not parts:
        raise GalfitError(path, line, f"'{kind}' comes before any component")
    term = TERMS.get(kind, kind)
    if term == "C0":
        parts[-1][1][term] = _numbers(path, line, text)[0]
        return
    modes = re.findall(r"\(\s*(\d+)\s*:", text)
    parts[-1][2].extend([f"{term}{mode}" for mode in modes] or [term])
