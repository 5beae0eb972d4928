"""Constraints of GALFIT's as bounds and ties of a scene's parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hybridfit.io.galfit import Constraint, Feedme, GalfitError
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.io.galfit.native import DEPENDS
from hybridfit.io.galfit.shapes import is_distortion, is_linear
from hybridfit.model.scene import UNBOUNDED, Parameter, Tie

SUMS = ("x", "y", "mag", "pa")  # whose ties are differences; those of others are ratios
Values = list[dict[str, Parameter]]  # of each component of the file; none of a sky


@dataclass(frozen=True)
class Labels:
    """The names that a scene gives to the components of a file.

    Args:
        feedme: the file.
        named: whether they are called comp1, comp2..., not 1, 2...
    """

    feedme: Feedme
    named: bool

    def of_tie(self, k: int) -> str:
        """Return the name in ties of the file's component ``k``, counted from 0."""
        number = sum(part.kind != "sky" for part in self.feedme.components[: k + 1])
        return f"comp{number}" if self.named else str(number)

    def own(self, k: int) -> str:
        """Return the name of the component; "" if it has none."""
        return self.of_tie(k) if self.named else ""


@dataclass(frozen=True)
class Carrier:
    """The parameter of a scene that one of GALFIT's numbers is a multiple of, or differs from.

    Args:
        name: of the parameter.
        factor: GALFIT's number over the parameter, of sizes, shapes and axis ratios.
        shift: GALFIT's number minus the parameter, of others.
    """

    name: str
    factor: float = 1.0
    shift: float = 0.0

    @property
    def is_sum(self) -> bool:
        """Whether ties of it are differences."""
        return self.name in SUMS or is_linear(self.name)


def carrier_of(values: Values, feedme: Feedme, k: int, name: str) -> Carrier | None:
    """Return what carries a number of a component; None if no single parameter does.

    The sizes of exponential disks and Gaussians are multiples of half-light radii. Other scales are
    multiples of one parameter where all others that they depend on are fixed.
    """
    part, own = feedme.components[k], values[k]
    depends = DEPENDS.get(part.kind, {})
    if name not in depends:
        return Carrier(name) if name in own else None
    free = [one for one in depends[name] if not own[one].fixed]
    if len(free) != 1:
        return None
    start, number = own[free[0]].start, part.values[name].value
    if start is None or not math.isfinite(number) or free[0] not in ("r_eff", "q", "mag"):
        return None
    if free[0] == "mag":
        return Carrier("mag", shift=number - start)
    return Carrier(free[0], number / start)


def within(values: Values, labels: Labels, k: int, name: str, limits: tuple[float, float]) -> bool:
    """Give a parameter the bounds of the constraint file; its start moves to them.

    Args:
        values: of all components; changed.
        labels: names of the components.
        k, name: of the component and the number that is constrained.
        limits: of the number.

    Returns:
        Whether a scene can express the bounds.

    Raises:
        GalfitError: if the component does not have that number.
    """
    feedme = labels.feedme
    part = feedme.components[k]
    if name not in part.values and not is_distortion(name):
        text = f"a constraint is of '{name}' of component {k + 1}, which is not fitted"
        raise GalfitError(feedme.path.parent / feedme.constraints, None, text)
    if name not in part.values or part.values[name].fixed:
        return True
    if part.kind == "sky":
        return False
    carrier = carrier_of(values, feedme, k, name)
    if carrier is None:
        return False
    low, high = ((v - carrier.shift) / carrier.factor for v in limits)
    if (value := values[k][carrier.name]).fixed:
        return True
    if not low < high:
        start = low if value.start is None else clipped(value.start, low, high)
        values[k][carrier.name] = Parameter(start, fixed=True)
        return True
    low, high = max(low, value.bounds[0]), min(high, value.bounds[1])
    if not low < high:
        return False
    moved = None if value.start is None else clipped(value.start, low, high)
    values[k][carrier.name] = replace(value, start=moved, bounds=(low, high))
    return True


def tied(values: Values, labels: Labels, tie: Constraint) -> bool:
    """Impose a tie; return whether a scene can express it, otherwise nothing changes.

    Args:
        values: of all components; changed.
        labels: names of the components.
        tie: the constraint.
    """
    parts = labels.feedme.components
    if max(tie.components) >= len(parts):
        return False
    carriers = [
        carrier_of(values, labels.feedme, k, tie.name(parts[k].kind)) for k in tie.components
    ]
    first = carriers[0]
    new = [dict(own) for own in values]
    for number, carrier in zip(tie.components[1:], carriers[1:], strict=True):
        if first is None or carrier is None or first.is_sum != carrier.is_sum:
            return False
        if (first.name == "q") != (carrier.name == "q"):
            return False
        pair = _Pair(new, labels, tie.components[0], number, first, carrier)
        if not (pair.kept(tie.kind) if tie.kind in ("offset", "ratio") else pair.ranged(tie)):
            return False
    values[:] = new
    return True


@dataclass(frozen=True)
class _Pair:
    """Two parameters that a constraint ties to each other.

    Args:
        values: of all components; changed.
        labels: names of the components.
        first, second: their numbers.
        one, other: what carries the constrained numbers.
    """

    values: Values
    labels: Labels
    first: int
    second: int
    one: Carrier
    other: Carrier

    @property
    def leader(self) -> Parameter:
        return self.values[self.first][self.one.name]

    @property
    def own(self) -> Parameter:
        return self.values[self.second][self.other.name]

    @property
    def swapped(self) -> _Pair:
        """The same pair in the other order."""
        return replace(self, first=self.second, second=self.first, one=self.other, other=self.one)

    def kept(self, kind: str) -> bool:
        """Tie the second to the first at their initial distance or ratio."""
        leader, own = self.leader, self.own
        begin, end = leader.start, own.start
        if (kind == "offset") != self.one.is_sum or begin is None or end is None:
            return False
        if leader.fixed and own.fixed:
            return True
        if leader.tied is not None and own.tied is not None:
            return False
        if leader.fixed or own.fixed:  # what moves together is fixed together
            if leader.tied is not None or own.tied is not None:
                return False
            self._put(replace(leader, fixed=True, bounds=UNBOUNDED), Parameter(end, fixed=True))
            return True
        if own.tied is not None:
            return self.swapped.kept(kind)
        if leader.tied is not None and own.is_bounded:
            return False
        other = f"{self.labels.of_tie(self.first)}.{self.one.name}"
        if kind == "offset":
            tie = Tie({other: 1.0}, offset=end - begin)
            bounds = [bound - (end - begin) for bound in own.bounds]
        else:
            tie = Tie({other: 1.0}, ratio=end / begin)
            bounds = [bound / (end / begin) for bound in own.bounds]
        low, high = max(leader.bounds[0], bounds[0]), min(leader.bounds[1], bounds[1])
        if not low < high:
            return False
        if leader.tied is None:
            leader = replace(leader, start=clipped(begin, low, high), bounds=(low, high))
        self._put(leader, Parameter(end, tied=tie))
        return True

    def ranged(self, tie: Constraint) -> bool:
        """Let the difference or ratio of two numbers lie within a range."""
        leader, own = self.leader, self.own
        if (tie.kind == "difference") != self.one.is_sum or leader.fixed or own.fixed:
            return False
        if leader.tied is not None or own.tied is not None or own.is_bounded:
            return False
        if tie.kind == "difference":  # second - first
            shift = self.other.shift - self.one.shift
            low, high = tie.low - shift, tie.high - shift
        else:  # first / second, of GALFIT's numbers
            if not 0 < tie.low < tie.high:
                return False
            unit = self._unit(self.first, self.one) / self._unit(self.second, self.other)
            low, high = unit / tie.high, unit / tie.low
        if not low < high:
            return False
        name = f"{self.labels.of_tie(self.first)}.{self.one.name}"
        self._put(leader, replace(own, tied=Tie({name: 1.0}, bounds=(low, high))))
        return True

    def _unit(self, k: int, carrier: Carrier) -> float:
        """Return GALFIT's number over the parameter."""
        kind = self.labels.feedme.components[k].kind
        scale = FAMILY[kind][0] if carrier.name == "r_eff" and kind in FAMILY else 1.0
        return carrier.factor / scale

    def _put(self, leader: Parameter, own: Parameter) -> None:
        self.values[self.first][self.one.name] = leader
        self.values[self.second][self.other.name] = own


def clipped(value: float, low: float, high: float) -> float:
    """Return the value, moved into the range."""
    return min(max(value, low), high)
