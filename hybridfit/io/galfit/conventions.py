"""Convert GALFIT's numbers to ours and back: pixels from 0, half-light radii, pa mod 180.

In GALFIT's own terms ("raw") the keys of a component's values are "x", "y", "C0" and the row
numbers of its input file: 3 magnitude, 4 size, 5 index, 9 axis ratio, 10 position angle; those of a
sky are 1, 2, 3. GALFIT 2 has the axis ratio in row 8, the angle in 9 and the boxiness in 10.

Profiles beyond the Sersic family keep the scales of their literature (`NATIVE`), as their
half-light radii depend on several of GALFIT's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hybridfit.io.galfit import shapes
from hybridfit.io.galfit.entries import Component, Value

EXPONENTIAL = 1.6783469900166605  # half-light radius of exp(-r / h), in h
# kind -> r_eff over GALFIT's size, and the index if not in row 5
FAMILY: dict[str, tuple[float, float | None]] = {
    "sersic": (1.0, None),
    "devauc": (1.0, 4.0),
    "expdisk": (EXPONENTIAL, 1.0),
    "gaussian": (0.5, 0.5),
}
# kinds with scales of their own: their names and GALFIT's rows; "mu" is a surface brightness
NATIVE: dict[str, dict[str, str]] = {
    "psf": {"mag": "3"},
    "moffat": {"mag": "3", "fwhm": "4", "beta": "5", "q": "9", "pa": "10"},
    "ferrer": {"mu": "3", "r_out": "4", "alpha": "5", "beta": "6", "q": "9", "pa": "10"},
    "king": {"mu": "3", "r_c": "4", "r_t": "5", "alpha": "6", "q": "9", "pa": "10"},
    "nuker": {
        "mu": "3",
        "r_b": "4",
        "alpha": "5",
        "beta": "6",
        "gamma": "7",
        "q": "9",
        "pa": "10",
    },
    "edgedisk": {"mu": "3", "h_s": "4", "r_s": "5", "pa": "10"},
}
SIZES = ("r_eff", "fwhm", "r_out", "r_c", "r_t", "h_s", "r_s", "r_b")
C0 = "c0"  # boxiness, GALFIT's C0
SKY_ROWS = {"sky": "1", "sky_dx": "2", "sky_dy": "3"}
SERSIC_ROWS = {"mag": "3", "r_eff": "4", "n": "5", "q": "9", "pa": "10"}
# rows of the names that a constraint file may use
ROW_OF = {"mag": "3", "mu": "3", "re": "4", "rs": "4", "fwhm": "4", "r": "4", "rc": "4", "rb": "4"}
ROW_OF |= {"rout": "4", "hs": "4", "rt": "5", "n": "5", "q": "9", "pa": "10"}
GARBAGE = 1e12  # fitted values are smaller; uninitialised floats may be larger
EXACT = 10  # decimals kept when 1 is added or subtracted, so that numbers are read as written
NOTHING = Value(math.nan)


def component(
    kind: str,
    raw: Mapping[str, Value],
    extras: tuple[str, ...] = (),
    skipped: bool = False,
    rotation: str = "",
) -> Component:
    """Return a component in our conventions.

    Args:
        kind: GALFIT's name.
        raw: its values in GALFIT's terms; missing values become NaN.
        extras, skipped: as in `Component`.
        rotation: "power" or "log" where there are spiral arms.
    """
    raw = {name: _clean(value) for name, value in raw.items()}
    if kind == "sky":
        values = {name: raw.get(row, Value(0.0, fixed=True)) for name, row in SKY_ROWS.items()}
        return Component(kind, values, extras, skipped)
    values = {axis: _shifted(raw.get(axis, NOTHING), -1.0) for axis in ("x", "y")}
    rows = SERSIC_ROWS if kind in FAMILY else NATIVE.get(kind)
    if rows is None:  # not known: under GALFIT's own numbers
        others = {name: value for name, value in raw.items() if name not in ("x", "y", "3")}
        own = {"mag": raw["3"]} if "3" in raw else {}
        return Component(kind, values | own | others, extras, skipped)
    values |= {name: raw.get(row, NOTHING) for name, row in rows.items()}
    scale, index = FAMILY.get(kind, (1.0, None))
    if kind != "psf":
        values |= {C0: raw["C0"]} if "C0" in raw else {}
        values |= shapes.to_ours(raw, rotation, scale)
    if kind in FAMILY:
        values["r_eff"] = _scaled(values["r_eff"], scale)
        if index is not None:
            values["n"] = Value(index, fixed=True)
    return Component(kind, _upright(values), extras, skipped)


def raw_values(part: Component) -> dict[str, Value]:
    """Return a component's values in GALFIT's terms, the inverse of `component`."""
    if part.kind == "sky":
        return {row: part.values[name] for name, row in SKY_ROWS.items()}
    raw = {axis: _shifted(part.values[axis], 1.0) for axis in ("x", "y")}
    rows = SERSIC_ROWS if part.kind in FAMILY else NATIVE.get(part.kind)
    if rows is None:
        others = {name: v for name, v in part.values.items() if name not in ("x", "y", "mag")}
        return raw | ({"3": part.values["mag"]} if "mag" in part.values else {}) | others
    scale, index = FAMILY.get(part.kind, (1.0, None))
    for name, row in rows.items():
        if name != "n" or index is None:
            raw[row] = part.values[name]
    if part.kind in FAMILY:
        raw["4"] = _scaled(raw["4"], 1 / scale)
    if "10" in raw:
        raw["10"] = replace(raw["10"], value=signed(raw["10"].value))
    boxy = {"C0": part.values[C0]} if C0 in part.values else {}
    return raw | boxy | shapes.to_galfit(part.values, scale)


def constrained_name(kind: str, parameter: str) -> str:
    """Return the name among a component's values of a parameter of a constraint file.

    Args:
        kind: of the component.
        parameter: in lower case: GALFIT's name, or the number of its row.
    """
    rows = SERSIC_ROWS if kind in FAMILY else NATIVE.get(kind, {})
    of_row = {row: name for name, row in rows.items()} | {"1": "x", "2": "y"}
    if kind == "sky":
        of_row = {row: name for name, row in SKY_ROWS.items()}
    row = ROW_OF.get(parameter, parameter)
    if kind == "edgedisk" and parameter == "rs":
        row = "5"
    if parameter.replace("_", "") in ("c", "c0"):
        return C0
    if (shape := shapes.constrained(parameter)) is not None:
        return shape
    own = {name.replace("_", ""): name for name in rows}
    return own.get(parameter.replace("_", "")) or of_row.get(row, parameter)


def signed(angle: float) -> float:
    """Convert an angle in [0, 180) to GALFIT's range (-90, 90]."""
    return angle - 180 if angle > 90 else angle


def region_of(bounds: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Convert xmin xmax ymin ymax, from 1, inclusive, to x0, x1, y0, y1, from 0, half-open."""
    return bounds[0] - 1, bounds[1], bounds[2] - 1, bounds[3]


def bounds_of(region: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Convert x0, x1, y0, y1 back to xmin xmax ymin ymax; the inverse of `region_of`."""
    return region[0] + 1, region[1], region[2] + 1, region[3]


def _clean(value: Value) -> Value:
    if abs(value.value) < GARBAGE:
        return value
    return replace(value, value=math.nan, suspect=True)


def _shifted(value: Value, by: float) -> Value:
    return replace(value, value=round(value.value + by, EXACT))


def _scaled(value: Value, by: float) -> Value:
    if by == 1:
        return value
    error = value.error * by if value.error == value.error else math.nan  # equal to itself
    return replace(value, value=round(value.value * by, EXACT), error=error)


def _upright(values: dict[str, Value]) -> dict[str, Value]:
    """Bring q into (0, 1] and pa into [0, 180).

    GALFIT may reach q > 1, where its size is along the minor axis, and negative q and sizes, of
    which only the absolute value matters.
    """
    values = dict(values)
    for name in SIZES:
        if name in values:
            values[name] = replace(values[name], value=abs(values[name].value))
    if "q" in values:
        q = values["q"]
        values["q"] = q = replace(q, value=abs(q.value))
        if q.value > 1:
            values |= {name: _scaled(values[name], q.value) for name in SIZES if name in values}
            values["q"] = replace(q, value=1 / q.value, error=q.error / q.value**2)
            values["pa"] = _shifted(values["pa"], 90.0)
    if "pa" in values:
        # rounded before the modulo: a tiny negative angle would become 180 itself
        pa = round(round(values["pa"].value, EXACT) % 180, EXACT)
        values["pa"] = replace(values["pa"], value=pa)
    return values
