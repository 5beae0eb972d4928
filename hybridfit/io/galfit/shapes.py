"""What distorts isophotes, in GALFIT's terms and in ours.

GALFIT's rows are F1) with amplitude and phase, B1), and R0) to R10); in a component's raw values
these are "F1", "F1PA", "B1", "R1"... Its phases are relative to the position angle, ours are from
+y; and ours of bending modes are shifts at r_eff, not at GALFIT's scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hybridfit.io.galfit.entries import Value
from hybridfit.model.profiles.distortions import Distortions

EXACT = 10  # decimals kept where angles are added
LEAST_AMPLITUDE = 0.01  # what GALFIT makes of a free amplitude of 0
MODE = re.compile(r"([FB])([1-9]\d*)(PA)?")
OURS = re.compile(r"f(\d+)_(amp|phase)|b(\d+)")
ROTATION = {"R1": "rot_in", "R2": "rot_out", "R3": "rot_angle", "R9": "rot_incl", "R10": "rot_pa"}
FOURTH = {"power": "rot_power", "log": "rot_scale"}
WORDS = {"power": "power", "powerlaw": "power", "log": "log"}  # of row R0)
ORDINARY = {"R1": 0.0, "R2": 20.0, "R3": 0.0, "R4": 0.5, "R9": 0.0, "R10": 0.0}  # of missing rows


def is_distortion(name: str) -> bool:
    """Return whether a parameter of ours belongs to a distortion."""
    own = (*ROTATION.values(), *FOURTH.values())
    return name == "c0" or name in own or OURS.fullmatch(name) is not None


def is_linear(name: str) -> bool:
    """Return whether ties of a distortion's parameter are differences, not ratios."""
    return is_distortion(name) and name not in ("c0", "rot_out", "rot_scale")


def distortions_in(names: Iterable[str]) -> Distortions:
    """Return the distortions that have parameters among ``names``."""
    names = set(names)
    found = [m for m in map(OURS.fullmatch, names) if m]
    rotation = next((kind for kind, name in FOURTH.items() if name in names), "")
    return Distortions(
        "c0" in names,
        tuple(sorted({int(m[1]) for m in found if m[1]})),
        tuple(sorted(int(m[3]) for m in found if m[3])),
        rotation,
    )


def to_ours(raw: Mapping[str, Value], rotation: str, scale: float) -> dict[str, Value]:
    """Return the values of distortions in our terms.

    Args:
        raw: all values of a component in GALFIT's terms.
        rotation: "power", "log", or "" for none.
        scale: r_eff over GALFIT's size.
    """
    angle = raw["10"].value if "10" in raw and math.isfinite(raw["10"].value) else 0.0
    turns = math.ceil((angle - 90) / 180)  # of half a turn, to (-90, 90]
    own: dict[str, Value] = {}
    for key, value in raw.items():
        match = MODE.fullmatch(key)
        if match is None:
            continue
        m = int(match[2])
        if match[1] == "B":
            sign = -1.0 if turns % 2 and m % 2 == 0 else 1.0
            own[f"b{m}"] = _times(value, sign * scale**m)
        elif match[3]:
            own[f"f{m}_phase"] = replace(value, value=_wrapped(value.value + angle, m))
        else:
            empty = value.value == 0 and not value.fixed
            own[f"f{m}_amp"] = replace(value, value=LEAST_AMPLITUDE) if empty else value
    if rotation:
        names = {**ROTATION, "R4": FOURTH[rotation]}
        for key in sorted(ORDINARY, key=lambda key: int(key[1:])):
            own[names[key]] = raw.get(key, Value(ORDINARY[key], fixed=True))
    return own


def to_galfit(values: Mapping[str, Value], scale: float) -> dict[str, Value]:
    """Return the values of distortions in GALFIT's terms, the inverse of `to_ours`.

    Args:
        values: of a component, in our terms.
        scale: r_eff over GALFIT's size.
    """
    angle = values["pa"].value if "pa" in values else 0.0
    angle = angle - 180 if angle > 90 else angle
    raw: dict[str, Value] = {}
    rows = {name: row for row, name in ROTATION.items()} | dict.fromkeys(FOURTH.values(), "R4")
    for name, value in values.items():
        match = OURS.fullmatch(name)
        if match and match[3]:
            raw[f"B{match[3]}"] = _times(value, scale ** -int(match[3]))
        elif match and match[2] == "amp":
            raw[f"F{match[1]}"] = value
        elif match:
            turned = _wrapped(value.value - angle, int(match[1]))
            raw[f"F{match[1]}PA"] = replace(value, value=turned)
        elif name in rows:
            raw[rows[name]] = value
    return raw


def rotation_of(values: Mapping[str, Value]) -> str:
    """Return GALFIT's word for the rotation of a component; "" if there is none."""
    return next((kind for kind, name in FOURTH.items() if name in values), "")


def constrained(parameter: str) -> str | None:
    """Return our name of a distortion's parameter as constraint files name it; None for others.

    Args:
        parameter: in lower case, such as ``f1a``, ``f1p``, ``b2`` or ``r3``.
    """
    if match := re.fullmatch(r"f(\d+)(a|p)?", parameter):
        return f"f{match[1]}_{'phase' if match[2] == 'p' else 'amp'}"
    if re.fullmatch(r"b[1-9]\d*", parameter):
        return parameter
    return ROTATION.get(parameter.upper())


def _times(value: Value, by: float) -> Value:
    return value if by == 1 else replace(value, value=value.value * by, error=value.error * abs(by))


def _wrapped(angle: float, m: int) -> float:
    """Return a phase of mode m in (-180 / m, 180 / m]."""
    if not math.isfinite(angle):
        return angle
    turn = 360 / m
    wrapped = round(angle - turn * math.ceil(angle / turn - 0.5), EXACT)
    return wrapped + turn if wrapped <= -turn / 2 else wrapped
