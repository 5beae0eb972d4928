"""Read GALFIT's results from the header of an image block's model, and from GALFITM's tables."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from hybridfit.data.errors import BadInput
from hybridfit.files.regular import FileProblem, open_regular, read_bytes
from hybridfit.io.galfit import conventions, shapes
from hybridfit.io.galfit.entries import Component, GalfitError, Outcome, Value
from hybridfit.io.galfit.text import LARGEST, band_notes, number
from hybridfit.io.planes import opened

# the header's parameter names -> GALFIT's numbers; includes GALFIT 2's names
KEYS = {
    "XC": "x",
    "XCENT": "x",
    "YC": "y",
    "YCENT": "y",
    "MAG": "3",
    "MU": "3",
    "RE": "4",
    "RS": "4",
    "FWHM": "4",
    "N": "5",
    "AR": "9",
    "PA": "10",
    "SKY": "1",
    "DSDX": "2",
    "DSKYDX": "2",
    "DSDY": "3",
    "DSKYDY": "3",
}
OWN_KEYS: dict[str, dict[str, str]] = {
    "nuker": {"RB": "4", "ALPHA": "5", "BETA": "6", "GAMMA": "7"},
    "king": {"RC": "4", "RT": "5", "ALPHA": "6"},
    "ferrer": {"ROUT": "4", "ALPHA": "5", "BETA": "6"},
    "moffat": {"PWL": "5", "N": "5"},
    "edgedisk": {"HS": "4", "RS": "5"},
}
ROTATION = {"RIN": "R1", "ROUT": "R2", "RANG": "R3", "ALPHA": "R4", "INCL": "R9", "SPA": "R10"}
SHAPES = re.compile(r"F\d+(PA)?|B\d+")
SKY_ROWS = {"1", "2", "3"}
CARD = re.compile(r"(\d+)_([A-Z0-9]+)")
SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")
TABLES = ("FIT_INFO", "BAND_INFO", "FINAL_BAND")
TABLE_KEY = re.compile(r"COMP(\d+)_(\w+)")


def read_block(path: str | Path) -> Outcome:
    """Read the parameters of an image block, or of a model image, or of a header as text.

    Blocks of GALFIT 2 as patched for PyMorph mislabel components and copy values from one
    component to another: visibly wrong values become NaN and suspect, with a note;
    `read_outcomes` then takes those of the restart file.

    Raises:
        FileNotFoundError: if the file does not exist.
        GalfitError: if no HDU has GALFIT parameters, or one is not a number.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            start = file.read(9)
        if start == b"XTENSION=":
            text = read_bytes(path, LARGEST).decode("ascii", errors="replace")
            return _of_header(path, fits.Header.fromstring(text, sep="\n"))
        with opened(str(path)) as hdus:
            header = next((hdu.header.copy() for hdu in hdus if "COMP_1" in hdu.header), None)
            tables = {hdu.name: Table(hdu.data) for hdu in hdus if hdu.name in TABLES}
        if header is not None:
            return _of_header(path, header)
        if "FINAL_BAND" in tables:
            return _of_tables(path, tables)
    except (BadInput, FileProblem, fits.VerifyError) as error:
        raise GalfitError(path, None, str(error)) from error
    raise GalfitError(
        path, None, "is not an image block: expected COMP_1 in a header, or a table FINAL_BAND"
    )


def is_block(path: Path) -> bool:
    """Return whether a FITS file, or a header as text, contains GALFIT's parameters."""
    try:
        with opened(str(path)) as hdus:
            return any("COMP_1" in hdu.header or hdu.name == "FINAL_BAND" for hdu in hdus)
    except BadInput:
        return False


def _of_header(path: Path, header: fits.Header) -> Outcome:
    kinds, parts = _cards(header)
    old = any("XCENT" in part for part in parts.values())
    notes: list[str] = []
    components = []
    for k in sorted(kinds):
        kind = _real_kind(k, kinds[k], parts.get(k, {}), notes)
        components.append(_component(path, k, kind, parts.get(k, {}), old))
        if kind != kinds[k]:
            components[-1] = _doubted(components[-1], ("x", "y"))
    if old:
        components = _twins_doubted(components, notes)
    section = SECTION.search(str(header.get("FITSECT", "")))
    chi2, dof = _float(header, "CHISQ"), _float(header, "NDOF")
    free = _float(header, "NFREE")
    return Outcome(
        path=path,
        feedme=_name(header, "INITFILE"),
        image=_name(header, "DATAIN"),
        restart=_name(header, "LOGFILE"),
        output=path.name,
        sigma=_name(header, "SIGMA"),
        psf=_name(header, "PSF").split(" ")[0],
        mask=_name(header, "MASK"),
        region=_section(section),
        zeropoint=_float(header, "MAGZPT"),
        components=tuple(components),
        chi2=chi2,
        dof=-1 if math.isnan(dof) else int(dof),
        chi2nu=_float(header, "CHI2NU"),
        n_free=-1 if math.isnan(free) else int(free),
        flags=tuple(str(header.get("FLAGS") or "").split()),
        version="2" if old else "3",
        notes=tuple(notes),
    )


def _cards(header: fits.Header) -> tuple[dict[int, str], dict[int, dict[str, str]]]:
    """Return the type of each component, and its parameters as text from the header."""
    parts: dict[int, dict[str, str]] = {}
    kinds: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for card in header.cards:
            if card.keyword == "CHISQ":
                break  # PyMorph's version repeats some of the sky's cards after its end
            if re.fullmatch(r"COMP_\d+", card.keyword):
                kinds[int(card.keyword[5:])] = str(card.value).strip().lower()
            elif match := CARD.fullmatch(card.keyword):
                parts.setdefault(int(match[1]), {})[match[2]] = str(card.value)
    return kinds, parts


def _component(path: Path, k: int, kind: str, cards: Mapping[str, str], old: bool) -> Component:
    names = KEYS | OWN_KEYS.get(kind, {})
    raw: dict[str, Value] = {}
    extras, rotation = [], shapes.WORDS.get(cards.get("ROTF", "").strip().lower(), "")
    names = ({} if not rotation else ROTATION) | names
    for key, text in cards.items():
        if key in names and (kind == "sky" or key not in ("SKY", "DSKYDX", "DSKYDY")):
            raw[names[key]] = _pair(path, f"{k}_{key}", text, old)
        elif key in ("C", "C0"):
            boxy = _pair(path, f"{k}_{key}", text, old)
            raw |= {"C0": boxy} if boxy.value != 0 or not boxy.fixed else {}
        elif SHAPES.fullmatch(key):
            raw[key] = _pair(path, f"{k}_{key}", text, old)
        elif key == "ROTF":
            extras += [] if rotation else ["R"]
        elif key not in ROTATION and not key.startswith("DSK") and key != "SKY":
            extras.append(key)
    return conventions.component(kind, raw, tuple(dict.fromkeys(extras)), rotation=rotation)


def _pair(path: Path, key: str, text: str, old: bool) -> Value:
    """Read ``v +/- e``, ``[v]``, stars and braces; GALFIT 2 gives fixed values an error of 0."""
    words = text.split("+/-")
    value = number(words[0].strip())
    error = number(words[1].strip()) if len(words) > 1 else Value(math.nan)
    if value is None or error is None:
        raise GalfitError(path, None, f"{key} is '{text}', expected 'value +/- error'")
    fixed = value.fixed or (old and not error.value > 0)
    return replace(
        value,
        error=math.nan if fixed else error.value,
        fixed=fixed,
        suspect=value.suspect or "*" in text,
    )


def _real_kind(k: int, kind: str, cards: Mapping[str, str], notes: list[str]) -> str:
    """Return the type that matches the parameters if the header contradicts itself."""
    if kind != "sky" or "MAG" not in cards:
        return kind
    real = "sersic" if "N" in cards else "devauc" if "RE" in cards else "expdisk"
    notes.append(f"COMP_{k} is 'sky' with the parameters of '{real}': its x, y are invalid")
    return real


def _doubted(part: Component, names: tuple[str, ...]) -> Component:
    doubted = {name: Value(math.nan, suspect=True) for name in names}
    return replace(part, values={**part.values, **doubted})


def _twins_doubted(parts: list[Component], notes: list[str]) -> list[Component]:
    """Mark the first of two components with equal values as suspect: it was overwritten."""
    out = list(parts)
    for i, one in enumerate(parts):
        for j in range(i + 1, len(parts)):
            if one.kind == parts[j].kind != "sky" and _same(one, parts[j]):
                out[i] = _doubted(one, tuple(one.values))
                text = f"components {i + 1} and {j + 1} have the same values"
                notes.append(f"{text}: those of {i + 1} were overwritten")
    return out


def _same(one: Component, other: Component) -> bool:
    return all(one.values[n].value == v.value for n, v in other.values.items())


def _of_tables(path: Path, tables: Mapping[str, Table]) -> Outcome:
    """Read GALFITM's tables (since 1.4) FIT_INFO, BAND_INFO, FINAL_BAND; only the first band."""
    final, info = tables["FINAL_BAND"], _row(tables, "FIT_INFO")
    band = _row(tables, "BAND_INFO")
    if not len(final) or "BAND" not in final.colnames:
        raise GalfitError(path, None, "FINAL_BAND has no rows, expected one per band")
    bands = tuple(str(name).strip() for name in final["BAND"])
    return Outcome(
        path=path,
        feedme=_plain(info.get("INITFILE")),
        image=_plain(band.get("DATAIN")),
        restart=_plain(info.get("LOGFILE")),
        output=path.name,
        sigma=_plain(band.get("SIGMA")),
        psf=_plain(band.get("PSF")),
        mask=_plain(band.get("MASK")),
        region=_section(SECTION.search(_plain(info.get("FITSECT")))),
        zeropoint=float(band.get("MAGZPT", math.nan)),
        components=_table_components(path, final),
        chi2=float(info.get("CHISQ", math.nan)),
        dof=int(info.get("NDOF", -1)),
        chi2nu=float(info.get("CHI2NU", math.nan)),
        n_free=int(info.get("NFREE", -1)),
        flags=tuple(_plain(info.get("FLAGS")).split()),
        version=_plain(info.get("VERSION")),
        bands=bands if len(bands) > 1 else (),
        notes=band_notes(bands),
    )


def _table_components(path: Path, final: Table) -> tuple[Component, ...]:
    """Return the components of the table FINAL_BAND, with the values in the first band."""
    parts: dict[int, dict[str, Value]] = {}
    skies = set()
    for name in final.colnames:
        match = TABLE_KEY.fullmatch(name)
        key = KEYS.get(match[2].upper()) if match else None
        if match is None or key is None:
            continue
        if match[2].upper() == "SKY":
            skies.add(int(match[1]))
        if not {f"{name}_FIT", f"{name}_ERR"} <= set(final.colnames):
            raise GalfitError(path, None, f"FINAL_BAND has {name}, but not {name}_FIT and _ERR")
        fixed = int(final[f"{name}_FIT"][0]) == 0
        error = math.nan if fixed else float(final[f"{name}_ERR"][0])
        parts.setdefault(int(match[1]), {})[key] = Value(float(final[name][0]), error, fixed)
    return tuple(
        conventions.component("sky" if k in skies else _table_kind(parts[k]), parts[k])
        for k in sorted(parts)
    )


def _table_kind(raw: Mapping[str, Value]) -> str:
    """Return the type implied by the columns: GALFITM's tables do not name types."""
    return "sersic" if "5" in raw else "devauc" if "4" in raw else "psf"


def _row(tables: Mapping[str, Table], name: str) -> dict[str, Any]:
    table = tables.get(name)
    return (
        {} if table is None or not len(table) else dict(zip(table.colnames, table[0], strict=True))
    )


def _plain(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "none" else text


def _name(header: fits.Header, key: str) -> str:
    return _plain(header.get(key))


def _float(header: fits.Header, key: str) -> float:
    value = header.get(key)
    if isinstance(value, str):
        found = number(value)
        return found.value if found else math.nan
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def _section(match: re.Match[str] | None) -> tuple[int, int, int, int] | None:
    if match is None:
        return None
    x0, x1, y0, y1 = (int(text) for text in match.groups())
    return conventions.region_of((x0, x1, y0, y1))
