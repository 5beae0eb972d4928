"""Whether a solution keeps the constraints that no scene expresses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from hybridfit.io.galfit import Constraint, start_ranges
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.io.galfit.native import native_numbers
from hybridfit.model.parameters import SKY_NAMES
from hybridfit.pipeline.galfit.tasks import Task

SIGNS = {"difference": "-", "quotient": "/"}
CLOSE = 1e-4  # relative, and absolute, to which a bound or a tie counts as kept


def broken_constraints(task: Task, theta: Tensor) -> list[str]:
    """Return the constraints that a solution does not keep, in GALFIT's words.

    Args:
        task: the file.
        theta: (Q,) physical values in the order of ``task.space.names``, pixels of the image.
    """
    if not task.unexpressed:
        return []
    found = _numbers(task, theta)
    texts = [
        _broken_tie(task, one, found) if one.is_tie else _broken_range(task, one, found)
        for one in task.unexpressed
    ]
    return [text for text in texts if text]


def _numbers(task: Task, theta: Tensor) -> list[Mapping[str, float]]:
    """Return the fitted numbers of each component of the file under GALFIT's names."""
    space, area = task.space, task.feedme.pixel_area
    first = sum(len(component.parameters) for component in space.components)
    found: list[Mapping[str, float]] = []
    row, components = 0, iter(space.components)
    for part in task.feedme.components:
        if part.kind == "sky":
            found.append(dict(zip(SKY_NAMES["plane"], theta[first:].tolist(), strict=True)))
            continue
        names = next(components).parameters
        own = dict(zip(names, theta[row : row + len(names), None].double(), strict=True))
        numbers = native_numbers(part.kind, own, area)
        found.append({name: float(value) for name, value in numbers.items()})
        row += len(names)
    return found


def _broken_range(task: Task, one: Constraint, found: Sequence[Mapping[str, float]]) -> str:
    """Return a range that is not kept in GALFIT's words, "" if it is."""
    for k in one.components:
        name = one.name(task.feedme.components[k].kind)
        low, high = start_ranges(task.feedme, [one])[k].get(name, (-math.inf, math.inf))
        value = found[k].get(name, math.nan)
        if name == "pa":
            value = low + (value - low) % 180
        if not low - _slack(low) <= value <= high + _slack(high):
            return f"{k + 1} {name} {low:g} to {high:g} (is {value:.4g})"
    return ""


def _broken_tie(task: Task, tie: Constraint, found: Sequence[Mapping[str, float]]) -> str:
    """Return a tie that is not kept in GALFIT's words, "" if it is."""
    parts = task.feedme.components
    sign = SIGNS.get(tie.kind, "_")
    text = f"{sign.join(str(k + 1) for k in tie.components)} {tie.parameter}"
    if max(tie.components) >= len(parts):
        return f"{text} {tie.kind}"
    names = [tie.name(parts[k].kind) for k in tie.components]
    pairs = list(zip(tie.components, names, strict=True))
    values = [found[k].get(name, math.nan) / _unit(parts[k].kind, name) for k, name in pairs]
    if tie.kind in SIGNS:
        value = values[1] - values[0] if tie.kind == "difference" else values[0] / values[1]
        if tie.low - _slack(tie.low) <= value <= tie.high + _slack(tie.high):
            return ""
        return f"{text} {tie.low:g} {tie.high:g} (is {value:.3g})"
    starts = [
        parts[k].values[name].value / _unit(parts[k].kind, name)
        if name in parts[k].values
        else math.nan
        for k, name in pairs
    ]
    kept = [
        _near(value - values[0], start - starts[0])
        if tie.kind == "offset"
        else _near(value * starts[0], start * values[0])
        for value, start in zip(values[1:], starts[1:], strict=True)
    ]
    return "" if all(kept) else f"{text} {tie.kind}"


def _unit(kind: str, name: str) -> float:
    """Return our number over GALFIT's: a half-light radius over a scale length."""
    return FAMILY[kind][0] if name == "r_eff" and kind in FAMILY else 1.0


def _near(value: float, other: float) -> bool:
    return abs(value - other) <= _slack(other)


def _slack(value: float) -> float:
    return CLOSE * (1 + abs(value)) if math.isfinite(value) else 0.0
