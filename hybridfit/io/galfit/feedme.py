"""Read input files and restart files, which share a format, of GALFIT 2 and 3 and of GALFITM."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybridfit.io.galfit import conventions, shapes
from hybridfit.io.galfit.entries import Component, Feedme, GalfitError, Value
from hybridfit.io.galfit.text import Row, band_notes, file_names, number, read_text, rows

HEAD = re.compile(
    r"#\s*Chi\^2/nu\s*=\s*(\S+?),\s*Chi\^2\s*=\s*(\S+?),\s*Ndof\s*=\s*(-?\d+)", re.IGNORECASE
)
MENU = re.compile(r"#\s*Input menu file:\s*(.+?)\s*$", re.IGNORECASE)
FILES = {"A": "image", "B": "output", "C": "sigma", "D": "psf", "F": "mask", "G": "constraints"}
OUTSIDE = re.compile(r",(?![^\[\]]*\])")  # commas outside brackets
SILENT = ("O", "S", "U", "V", "W", "Q", "Y", "A2")  # display rows, and GALFITM's options
BRIGHTNESS = "central surface brightness"
NEEDED = {  # rows that each kind of component requires, and their meaning
    "sersic": {"3": "magnitude", "4": "R_e", "5": "Sersic index", "9": "axis ratio", "10": "PA"},
    "devauc": {"3": "magnitude", "4": "R_e", "9": "axis ratio", "10": "PA"},
    "expdisk": {"3": "magnitude", "4": "R_s", "9": "axis ratio", "10": "PA"},
    "gaussian": {"3": "magnitude", "4": "FWHM", "9": "axis ratio", "10": "PA"},
    "psf": {"3": "magnitude"},
    "moffat": {"3": "magnitude", "4": "FWHM", "5": "power law", "9": "axis ratio", "10": "PA"},
    "ferrer": {"3": BRIGHTNESS, "4": "outer radius", "9": "axis ratio", "10": "PA"},
    "king": {"3": BRIGHTNESS, "4": "R_c", "5": "R_t", "9": "axis ratio", "10": "PA"},
    "edgedisk": {"3": BRIGHTNESS, "4": "scale height", "5": "scale length", "10": "PA"},
    "nuker": {
        "3": "surface brightness at R_b",
        "4": "R_b",
        "5": "alpha",
        "6": "beta",
        "7": "gamma",
        "9": "axis ratio",
        "10": "PA",
    },
    "sky": {"1": "sky"},
}
OLD_Q = (0.0, 1.5)  # range of row 8, the axis ratio before GALFIT 3, unused since


def read_feedme(path: str | Path) -> Feedme:
    """Read an input file of GALFIT 2 or 3 or GALFITM, or a restart file ``galfit.NN``.

    Later rows override earlier ones, as in GALFIT. For GALFITM's multi-band files the bands are
    listed, and files and values are those of the first band. A missing toggle counts as 0. In
    a merge conflict the first side is read.

    Raises:
        FileNotFoundError: if the file does not exist.
        GalfitError: for invalid content; names the file, the line and what was expected.
    """
    path = Path(path)
    lines = read_text(path)
    notes: list[str] = []
    control: dict[str, Row] = {}
    blocks: list[list[Row]] = []
    for row in rows(path, lines, notes):
        if row.key == "0" or row.key == "T0":
            blocks.append([row])
        elif row.key in ("Z", "Ti", "To") or row.key.isdigit() or row.key[0] in "BCFRT":
            if row.key in FILES and row.key != "Z":
                control[row.key] = row
            elif not blocks:
                raise GalfitError(path, row.line, f"row {row.key}) comes before any '0) type'")
            else:
                blocks[-1].append(row)
        elif row.key[0] == "N" and blocks:
            blocks[-1].append(row)
        else:
            control[row.key] = row
    if not blocks:
        raise GalfitError(path, None, "has no component: expected lines like ' 0) sersic'")
    return _feedme(path, lines, control, blocks, notes)


def menu_file(path: Path) -> str:
    """Return the input file named by a restart file, "" if none."""
    return next((m[1] for line in read_text(path)[:8] if (m := MENU.search(line))), "")


def is_restart(lines: Sequence[str]) -> bool:
    """Return whether the file starts with a chi2, as restart files with results do."""
    return any(HEAD.search(line) for line in lines[:8])


def _feedme(
    path: Path,
    lines: list[str],
    control: dict[str, Row],
    blocks: list[list[Row]],
    notes: list[str],
) -> Feedme:
    bands, wavelengths = _bands(control)
    files = _files(control, notes)
    old = any(_has_old_rows(block) for block in blocks)
    weights = _weights(wavelengths, len(bands))
    for key in sorted(set(control) - set(FILES) - set("EHIJKP") - set(SILENT) - {"A1"}):
        notes.append(f"line {control[key].line}: unknown row {key}) ignored")
    notes.extend(band_notes(bands))
    scale = _numbers(path, control.get("K"), 2, "the pixel scale in x and y")
    box = _numbers(path, control.get("I"), 2, "the convolution box in x and y")
    return Feedme(
        path=path,
        psf_oversampling=_whole(path, control.get("E"), 1, "the fine sampling"),
        region=_region(path, control.get("H")),
        convolution_box=(int(box[0]), int(box[1])) if box else (0, 0),
        zeropoint=_zeropoint(path, control.get("J")),
        pixel_scale=(scale[0], scale[1]) if scale else (math.nan, math.nan),
        mode=_whole(path, control.get("P"), 0, "0, 1, 2 or 3"),
        bands=bands if len(bands) > 1 else (),
        components=tuple(_component(path, block, old, weights, notes) for block in blocks),
        version=2 if old else 3,
        notes=tuple(notes),
        **files,
        **_found(lines),
    )


def _files(control: Mapping[str, Row], notes: list[str]) -> dict[str, Any]:
    """Return all file names, and the minimum sigma after the name of the sigma image."""
    read: dict[str, Any] = {}
    for key, name in FILES.items():
        names = file_names(control[key]) if key in control else [""]
        read[name] = _first(names[0])
        if key == "D" and len(names) > 1:
            read["kernel"] = names[1]
        if key == "C" and len(names) > 1:
            least = number(names[1])
            if least is None:
                line = control[key].line
                notes.append(f"line {line}: '{names[1]}' is not a minimum sigma, ignored")
            else:
                read["min_sigma"] = least.value
    return read


def _found(lines: Sequence[str]) -> dict[str, Any]:
    """Return the chi2 of an earlier fit, with which GALFIT starts its restart files."""
    head = next((m for line in lines[:8] if (m := HEAD.search(line))), None)
    if head is None:
        return {}
    chi2nu, chi2 = (number(text) for text in head.groups()[:2])
    return {
        "chi2": chi2.value if chi2 else math.nan,
        "dof": int(head[3]),
        "chi2nu": chi2nu.value if chi2nu else math.nan,
    }


def _component(
    path: Path, block: list[Row], old: bool, weights: np.ndarray, notes: list[str]
) -> Component:
    first = block[0]
    if not first.words:
        raise GalfitError(path, first.line, "row 0) is empty, expected a type like 'sersic'")
    kind = first.words[0].lower()
    raw: dict[str, Value] = {}
    extras: list[str] = ["T0"] if first.key == "T0" else []
    skipped, rotation = False, ""
    for row in block[1:]:
        key = row.key
        if key == "Z":
            skipped = row.text[:1] not in ("", "0")
        elif key == "C0":
            boxy = _value(path, row, weights, notes)
            raw |= {key: boxy} if boxy.value != 0 or not boxy.fixed else {}
        elif not key.isdigit() and kind in ("psf", "sky"):
            notes.append(f"line {row.line}: row {key}) of a {kind} ignored, as GALFIT does")
        elif not key.isdigit() and first.key == "T0":
            extras += _extra(path, row)
        elif key == "R0":
            rotation = _rotation(row, extras)
        elif key[0] in "FBR":
            raw |= _shape_values(path, row, weights, notes)
        elif not key.isdigit():
            extras += _extra(path, row)
        elif int(key) > 10:
            raise GalfitError(path, row.line, f"unknown row {key}), expected 0) to 10)")
        elif first.key == "T0":
            continue
        elif key == "1" and kind != "sky" and not _is_list(row):
            raw["x"], raw["y"] = _position(path, row, notes)
        elif key in ("1", "2") and kind != "sky":
            raw["x" if key == "1" else "y"] = _value(path, row, weights, notes)
        else:
            raw[key] = _value(path, row, weights, notes)
    if old and kind not in ("sky", "psf"):
        boxy = raw.get("10", Value(0.0, fixed=True))
        raw = {name: v for name, v in raw.items() if name not in ("8", "9", "10")} | {
            new: raw[name] for name, new in (("8", "9"), ("9", "10")) if name in raw
        }
        if boxy.value != 0 or not boxy.fixed:
            raw["C0"] = boxy
    _check(path, first, kind, raw)
    return conventions.component(kind, raw, tuple(dict.fromkeys(extras)), skipped, rotation)


def _check(path: Path, first: Row, kind: str, raw: dict[str, Value]) -> None:
    if first.key == "T0":
        return
    rows = {} if kind == "sky" else {"x": "position"}
    for row, what in (rows | NEEDED.get(kind, {})).items():
        if row not in raw or (row == "x" and "y" not in raw):
            shown = "1" if row == "x" else row
            raise GalfitError(
                path, first.line, f"component '{kind}' has no row {shown}), expected its {what}"
            )


def _rotation(row: Row, extras: list[str]) -> str:
    """Return the kind of a rotation; one that GALFIT's manual does not define joins ``extras``."""
    word = row.words[0].lower() if row.words else "none"
    if word in shapes.WORDS:
        return shapes.WORDS[word]
    extras += [] if word == "none" else ["R"]
    return ""


def _shape_values(path: Path, row: Row, weights: np.ndarray, notes: list[str]) -> dict[str, Value]:
    """Return what a row of a distortion says: amplitude and phase of F1), one value of others."""
    if row.key[0] != "F":
        return {row.key: _value(path, row, weights, notes)}
    pair = [number(word) for word in row.words[:2]]
    if len(pair) < 2 or pair[0] is None or pair[1] is None:
        raise GalfitError(
            path, row.line, f"row {row.key}) is '{row.text}', expected amplitude, phase and toggles"
        )
    toggles = [row.words[2:3], row.words[3:4]]
    if not (toggles[1] and number(toggles[1][0])):  # one toggle is that of both
        toggles[1] = toggles[0]
    fixed = [_is_fixed(path, row, words, notes) for words in toggles]
    keys = (row.key, f"{row.key}PA")
    return {k: Value(v.value, fixed=f) for k, v, f in zip(keys, pair, fixed, strict=True) if v}


def _extra(path: Path, row: Row) -> list[str]:
    """Return the name of a shape term if it is present and affects the model."""
    if row.key[0] in "NT":
        return [row.key]
    if not row.words or number(row.words[0]) is None:
        raise GalfitError(path, row.line, f"row {row.key}) is '{row.text}', expected a number")
    return [row.key]


def _value(path: Path, row: Row, weights: np.ndarray, notes: list[str]) -> Value:
    words = row.words
    numbers = [number(word) for word in words[0].split(",") if word] if words else []
    if not numbers or any(value is None for value in numbers):
        raise GalfitError(
            path, row.line, f"row {row.key}) is '{row.text}', expected a value and a toggle"
        )
    values = [value for value in numbers if value is not None]
    value = values[0].value
    if "cheb" in words and len(values) > 1:
        count = min(len(values), len(weights))
        value = float(weights[:count] @ [v.value for v in values[:count]])
    return Value(value, fixed=_is_fixed(path, row, words[1:2], notes), suspect=values[0].suspect)


def _position(path: Path, row: Row, notes: list[str]) -> tuple[Value, Value]:
    pair = [number(word) for word in row.words[:2]]
    if len(pair) < 2 or pair[0] is None or pair[1] is None:
        raise GalfitError(
            path, row.line, f"row 1) is '{row.text}', expected x, y and their two toggles"
        )
    x, y = (
        Value(value.value, fixed=_is_fixed(path, row, row.words[i : i + 1], notes))
        for i, value in ((2, pair[0]), (3, pair[1]))
    )
    return x, y


def _is_fixed(path: Path, row: Row, words: list[str], notes: list[str]) -> bool:
    """Return whether a toggle is 0; for GALFITM's lists, whether it is 0 in all bands."""
    if not words:
        notes.append(f"line {row.line}: row {row.key}) has no toggle, taken as 0 (fixed)")
        return True
    toggles = [number(word) for word in words[0].split(",") if word]
    if not toggles or any(toggle is None for toggle in toggles):
        notes.append(f"line {row.line}: toggle '{words[0]}' is not a number, taken as 0 (fixed)")
        return True
    return all(toggle is not None and toggle.value == 0 for toggle in toggles)


def _is_list(row: Row) -> bool:
    """Return whether row 1) has only x, as in GALFITM: x for each band, then one toggle."""
    words = row.words
    return bool(words) and ("," in words[0] or "band" in words or "cheb" in words)


def _has_old_rows(block: list[Row]) -> bool:
    """Return whether a component has its axis ratio in row 8, as before GALFIT 3."""
    row = next((row for row in block if row.key == "8"), None)
    value = number(row.words[0].split(",")[0]) if row and row.words else None
    return value is not None and OLD_Q[0] < value.value <= OLD_Q[1]


def _bands(control: dict[str, Row]) -> tuple[tuple[str, ...], list[float]]:
    count = len(_listed(control.get("A")))
    labels = _listed(control.get("A1"))
    if len(labels) < count:
        labels = [str(i) for i in range(count)] if count > 1 else labels
    waves = [number(text) for text in _listed(control.get("A2"))]
    return tuple(labels), [value.value for value in waves if value is not None]


def _weights(wavelengths: list[float], count: int) -> np.ndarray:
    """Evaluate Chebyshev polynomials at the first band's wavelength, scaled to [-1, 1]."""
    if len(wavelengths) < 2:
        return np.ones(1)
    low, high = min(wavelengths), max(wavelengths)
    place = -1 + 2 * (wavelengths[0] - low) / (high - low) if high > low else 0.0
    return np.polynomial.chebyshev.chebvander([place], max(count, 1) - 1)[0]


def _listed(row: Row | None) -> list[str]:
    return _parts(row.words[0]) if row and row.words else []


def _parts(text: str) -> list[str]:
    """Split at commas outside brackets, which name an HDU: ``im.fits[sci,1]``."""
    return [part for part in OUTSIDE.split(text) if part]


def _first(name: str) -> str:
    name = OUTSIDE.split(name)[0].strip()
    return "" if name.lower() == "none" else name


def _numbers(path: Path, row: Row | None, count: int, expected: str) -> list[float]:
    if row is None or not row.words:
        return []
    # GALFIT's scanf takes text that touches the number as a comment, as in "1#"
    values = [number(word.split("#")[0].rstrip(",")) for word in row.words[:count]]
    if count == 2 and len(values) == 1:
        values *= 2
    if len(values) < count or any(v is None or math.isnan(v.value) for v in values):
        raise GalfitError(path, row.line, f"row {row.key}) is '{row.text}', expected {expected}")
    return [value.value for value in values if value is not None]


def _whole(path: Path, row: Row | None, default: int, expected: str) -> int:
    found = _numbers(path, row, 1, expected)
    return int(found[0]) if found else default


def _zeropoint(path: Path, row: Row | None) -> float:
    if row is None or not row.words:
        return math.nan
    value = number(row.words[0].split(",")[0])
    if value is None:
        raise GalfitError(path, row.line, f"row J) is '{row.text}', expected a zero point")
    return value.value


def _region(path: Path, row: Row | None) -> tuple[int, int, int, int] | None:
    values = _numbers(path, row, 4, "xmin xmax ymin ymax")
    if not values or row is None:
        return None
    x0, x1, y0, y1 = (int(value) for value in values)
    if x1 < x0 or y1 < y0:
        raise GalfitError(
            path, row.line, f"row H) is '{row.text}', expected xmin <= xmax and ymin <= ymax"
        )
    return conventions.region_of((x0, x1, y0, y1))
