"""Convert GALFIT's numbers to ours and back: pixels from 0, half-light radii, pa mod 180.

In GALFIT's own terms ("raw") the keys of a component's values are "x", "y" and the row numbers
of its input file: 3 magnitude, 4 size, 5 index, 9 axis ratio, 10 position angle; those of a sky
are 1, 2, 3. GALFIT 2 has the axis ratio in row 8, the angle in 9 and the boxiness in 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hybridfit.io.galfit.entries import Component, Value

EXPONENTIAL = 1.6783469900166605  # half-light radius of exp(-r / h), in h
# kind -> r_eff over GALFIT's size, and the index if not in row 5
FAMILY: dict[str, tuple[float, float | None]] = {
    "sersic": (1.0, None),
    "devauc": (1.0, 4.0),
    "expdisk": (EXPONENTIAL, 1.0),
    "gaussian": (0.5, 0.5),
}
SKY_ROWS = {"sky": "1", "sky_dx": "2", "sky_dy": "3"}
SERSIC_ROWS = {"mag": "3", "r_eff": "4", "n": "5", "q": "9", "pa": "10"}
GARBAGE = 1e12  # fitted values are smaller; uninitialised floats may be larger
EXACT = 10  # decimals kept when 1 is added or subtracted, so that numbers are read as written
NOTHING = Value(math.nan)


def component(
    kind: str, raw: Mapping[str, Value], extras: tuple[str, ...] = (), skipped: bool = False
) -> Component:
    """Return a component in our conventions.

    Args:
        kind: GALFIT's name.
        raw: its values in GALFIT's terms; missing values become NaN.
        extras, skipped: as in `Component`.
    """
    raw = {name: _clean(value) for name, value in raw.items()}
    if kind == "sky":
        values = {name: raw.get(row, Value(0.0, fixed=True)) for name, row in SKY_ROWS.items()}
        return Component(kind, values, extras, skipped)
    values = {axis: _shifted(raw.get(axis, NOTHING), -1.0) for axis in ("x", "y")}
    if kind == "psf":
        values["mag"] = raw.get("3", NOTHING)
        return Component(kind, values, extras, skipped)
    if kind not in FAMILY:
        if "3" in raw:
            values["mag"] = raw["3"]
        others = {name: value for name, value in raw.items() if name not in ("x", "y", "3")}
        return Component(kind, values | others, extras, skipped)
    scale, index = FAMILY[kind]
    values |= {name: raw.get(row, NOTHING) for name, row in SERSIC_ROWS.items()}
    values["r_eff"] = _scaled(values["r_eff"], scale)
    if index is not None:
        values["n"] = Value(index, fixed=True)
    return Component(kind, _upright(values), extras, skipped)


def raw_values(part: Component) -> dict[str, Value]:
    """Return a component's values in GALFIT's terms, the inverse of `component`."""
    if part.kind == "sky":
        return {row: part.values[name] for name, row in SKY_ROWS.items()}
    raw = {axis: _shifted(part.values[axis], 1.0) for axis in ("x", "y")}
    if part.kind not in FAMILY:
        others = {name: v for name, v in part.values.items() if name not in ("x", "y", "mag")}
        return raw | ({"3": part.values["mag"]} if "mag" in part.values else {}) | others
    scale, index = FAMILY[part.kind]
    for name, row in SERSIC_ROWS.items():
        if name != "n" or index is None:
            raw[row] = part.values[name]
    raw["4"] = _scaled(raw["4"], 1 / scale)
    raw["10"] = replace(raw["10"], value=signed(raw["10"].value))
    return raw


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
    q, size, pa = values["q"], values["r_eff"], values["pa"]
    q, size = replace(q, value=abs(q.value)), replace(size, value=abs(size.value))
    if q.value > 1:
        size = _scaled(size, q.value)
        q = replace(q, value=1 / q.value, error=q.error / q.value**2)
        pa = _shifted(pa, 90.0)
    # rounded before the modulo: a tiny negative angle would become 180 itself
    pa = replace(pa, value=round(round(pa.value, EXACT) % 180, EXACT))
    return values | {"q": q, "r_eff": size, "pa": pa}
