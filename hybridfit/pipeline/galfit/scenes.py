"""GALFIT input files and their constraint files as scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybridfit.io.galfit import Component as Part
from hybridfit.io.galfit import Constraint, Feedme, GalfitError, read_constraints, start_ranges
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.io.galfit.read_cutout import locate
from hybridfit.model.parameters import SKY_NAMES
from hybridfit.model.scene import Component, Parameter, Scene, Sky, Source, Tie

SUMS = ("x", "y", "mag", "pa")  # whose ties are differences; those of others are ratios


def scene_of(feedme: Feedme) -> tuple[Scene, tuple[Constraint, ...]]:
    """Return what a file asks for, in pixels of its image, and the ties that no scene expresses.

    Raises:
        GalfitError: if a fixed value is not readable, or a constraint names what is not fitted.
    """
    values, constraints = _free_values(feedme), _constraints(feedme)
    values = _within_ranges(feedme, values, constraints)
    left = []
    for tie in (c for c in constraints if c.is_tie):
        tied = _tied(feedme, values, tie)
        if tied is None:
            left.append(tie)
        else:
            values = tied
    parts = [k for k, part in enumerate(feedme.components) if part.kind != "sky"]
    components = tuple(Component("", "sersic", values[k]) for k in parts)
    skies = [k for k, part in enumerate(feedme.components) if part.kind == "sky"]
    none = Parameter(0.0, fixed=True)  # without a sky component GALFIT's sky is 0
    sky = values[skies[0]] if skies else dict.fromkeys(SKY_NAMES["plane"], none)
    return Scene((Source(components),), Sky("plane", sky)), tuple(left)


Values = list[dict[str, Parameter]]  # of each component of the file


def _free_values(feedme: Feedme) -> Values:
    """Return each component's parameters as they stand in the input file."""
    found: Values = []
    for part in feedme.components:
        own = {}
        for name, value in part.values.items():
            known = math.isfinite(value.value)
            usable = known and not (name in ("r_eff", "n", "q") and value.value <= 0)
            if value.fixed and not usable:
                raise GalfitError(feedme.path, None, f"{name} is fixed, but has no readable value")
            own[name] = Parameter(value.value if usable else None, fixed=value.fixed)
        found.append(own)
    return found


def _constraints(feedme: Feedme) -> tuple[Constraint, ...]:
    if not feedme.constraints:
        return ()
    return read_constraints(locate(feedme, "G", feedme.constraints))


def _within_ranges(feedme: Feedme, values: Values, constraints: Sequence[Constraint]) -> Values:
    """Give parameters the bounds of the constraint file; starts move to them."""
    bounded = [dict(own) for own in values]
    for number, ranges in enumerate(start_ranges(feedme, constraints)):
        for name, (low, high) in ranges.items():
            if name not in bounded[number]:
                what = f"'{name}' of component {number + 1}"
                raise GalfitError(
                    feedme.path.parent / feedme.constraints,
                    None,
                    f"a constraint is of {what}, which is not fitted",
                )
            value = bounded[number][name]
            if value.fixed or feedme.components[number].kind == "sky":
                continue
            if not low < high:
                start = low if value.start is None else _clipped(value.start, low, high)
                bounded[number][name] = Parameter(start, fixed=True)
                continue
            moved = None if value.start is None else _clipped(value.start, low, high)
            bounded[number][name] = replace(value, start=moved, bounds=(low, high))
    return bounded


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _tied(feedme: Feedme, values: Values, tie: Constraint) -> Values | None:
    """Return the values with a tie imposed; None if a scene cannot express it."""
    name, first = tie.parameter, tie.components[0]
    parts = [feedme.components[k] for k in tie.components if k < len(feedme.components)]
    if len(parts) < len(tie.components) or any(name not in values[k] for k in tie.components):
        return None
    if any(part.kind == "sky" for part in parts):
        return None
    new = [dict(own) for own in values]
    for number in tie.components[1:]:
        if tie.kind in ("offset", "ratio"):
            done = _kept(new, name, first, number, tie.kind)
        else:
            done = _ranged(new, name, (first, number), tie, parts)
        if not done:
            return None
    return new


def _kept(values: Values, name: str, first: int, number: int, kind: str) -> bool:
    """Tie a parameter to that of component ``first`` at its initial distance or ratio."""
    leader, own = values[first][name], values[number][name]
    if (kind == "offset") != (name in SUMS) or own.tied is not None or leader.tied is not None:
        return False
    if leader.start is None or own.start is None:
        return False
    if leader.fixed or own.fixed:  # what moves together is fixed together
        values[first][name] = replace(leader, fixed=True, bounds=Parameter().bounds)
        values[number][name] = replace(own, fixed=True, bounds=Parameter().bounds)
        return True
    begin, end = leader.start, own.start
    other = f"{_number(values, first)}.{name}"
    if kind == "offset":
        tie = Tie({other: 1.0}, offset=end - begin)
        bounds = [bound - (end - begin) for bound in own.bounds]
    else:
        tie = Tie({other: 1.0}, ratio=end / begin)
        bounds = [bound / (end / begin) for bound in own.bounds]
    low, high = max(leader.bounds[0], bounds[0]), min(leader.bounds[1], bounds[1])
    if not low < high:
        return False
    values[first][name] = replace(leader, start=_clipped(begin, low, high), bounds=(low, high))
    values[number][name] = Parameter(own.start, tied=tie)
    return True


def _ranged(
    values: Values, name: str, pair: tuple[int, int], tie: Constraint, parts: Sequence[Part]
) -> bool:
    """Let the difference or ratio of two parameters lie within a range."""
    first, second = pair
    one, other = values[first][name], values[second][name]
    if (tie.kind == "difference") != (name in SUMS) or one.fixed or other.fixed:
        return False
    if one.tied is not None or other.tied is not None or other.is_bounded:
        return False
    low, high = tie.low, tie.high
    if tie.kind == "quotient":  # first / second, of GALFIT's sizes
        unit = FAMILY[parts[1].kind][0] / FAMILY[parts[0].kind][0] if name == "r_eff" else 1.0
        if not 0 < low < high:
            return False
        low, high = unit / high, unit / low
    if not low < high:
        return False
    leader = f"{_number(values, first)}.{name}"
    values[second][name] = replace(other, tied=Tie({leader: 1.0}, bounds=(low, high)))
    return True


def _number(values: Sequence[Mapping[str, Parameter]], index: int) -> str:
    """Return the number of a component among those that are no sky, from 1."""
    return str(sum("sky" not in own for own in values[:index]) + 1)
