"""GALFIT's constraint files: ranges of parameters, and ties between components."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybridfit.io.galfit.conventions import FAMILY, constrained_name, signed
from hybridfit.io.galfit.entries import Feedme, GalfitError
from hybridfit.io.galfit.shapes import is_distortion
from hybridfit.io.galfit.text import number, read_text

# GALFIT's parameter names and numbers -> ours; other parameters keep GALFIT's name
NAMES = {
    "1": "x",
    "2": "y",
    "3": "mag",
    "4": "r_eff",
    "re": "r_eff",
    "rs": "r_eff",
    "fwhm": "r_eff",
    "r": "r_eff",
    "5": "n",
    "9": "q",
    "10": "pa",
}
WHICH = re.compile(r"(\d+)((?:_\d+)+|-\d+|/\d+)?")
KINDS = {"_": "", "-": "difference", "/": "quotient"}
EXPECTED = (
    "expected one of '1 n 0.7 to 5', '1 x -1 0.5', '1 re factor 3', '1-2 mag -0.5 3', "
    "'1/2 re 1 3', '1_2 x offset', '1_2 re ratio'"
)


@dataclass(frozen=True)
class Constraint:
    """One line of a constraint file.

    Args:
        components: indices into `Feedme.components`, from 0.
        parameter: x, y, mag, r_eff, n, q, pa, sky; else GALFIT's name, in lower case.
        kind: "between": low <= value <= high (x, y from 0; sizes in GALFIT's terms, such as
            the scale length of an expdisk); "around": low <= value - start <= high; "factor":
            start / high <= value <= start high; "difference": low <= second - first <= high;
            "quotient": low <= first / second <= high; "offset", "ratio": the components keep
            their initial differences or ratios.
        low, high: NaN for "offset" and "ratio".
        line: line number, from 1.
        word: the parameter as the file names it, in lower case.
    """

    components: tuple[int, ...]
    parameter: str
    kind: str
    low: float = math.nan
    high: float = math.nan
    line: int = 0
    word: str = field(default="", compare=False)

    def name(self, kind: str) -> str:
        """Return the name of the parameter among the values of a component of that kind."""
        return constrained_name(kind, self.word or self.parameter)

    @property
    def is_tie(self) -> bool:
        """Return whether the constraint ties parameters of several components to each other."""
        return self.kind in ("difference", "quotient", "offset", "ratio")


def read_constraints(path: str | Path) -> tuple[Constraint, ...]:
    """Read a constraint file.

    Raises:
        FileNotFoundError: if the file does not exist.
        GalfitError: for an invalid line; names the file, the line and what was expected.
    """
    path = Path(path)
    found = []
    for line, text in enumerate(read_text(path), start=1):
        words = text.split("#")[0].split()
        if words:
            found.append(_constraint(path, line, words))
    return tuple(found)


def start_ranges(
    feedme: Feedme, constraints: Sequence[Constraint]
) -> list[dict[str, tuple[float, float]]]:
    """Return, for each component, the allowed ranges of its constrained values, by their names.

    Relative ranges are added to the initial value; several ranges of one parameter are
    intersected; sizes are converted to half-light radii; a range of pa is shifted by multiples
    of 180 degrees until it contains the initial value, or dropped if it spans 180 degrees. Ties
    are not ranges: see `Constraint.is_tie`.

    Raises:
        GalfitError: if a constraint names a component that does not exist.
    """
    ranges: list[dict[str, tuple[float, float]]] = [{} for _ in feedme.components]
    for constraint in constraints:
        if max(constraint.components) >= len(ranges):
            raise GalfitError(
                feedme.path.parent / feedme.constraints,
                constraint.line,
                f"names a component that does not exist: expected 1 to {len(ranges)}",
            )
        if constraint.is_tie:
            continue
        for k in constraint.components:
            low, high = _range(feedme, constraint, k)
            name = constraint.name(feedme.components[k].kind)
            if name == "pa" and high - low >= 180:
                continue
            before = ranges[k].get(name, (-math.inf, math.inf))
            ranges[k][name] = max(low, before[0]), min(high, before[1])
    return ranges


def _range(feedme: Feedme, constraint: Constraint, k: int) -> tuple[float, float]:
    part = feedme.components[k]
    name = constraint.name(part.kind)
    entry = part.values.get(name)
    start = entry.value if entry is not None else math.nan
    low, high = constraint.low, constraint.high
    scale = FAMILY[part.kind][0] if part.kind in FAMILY else 1.0
    if constraint.kind == "factor":
        return start / high, start * high
    if name == "r_eff":
        low, high = low * scale, high * scale
    if name[0] == "b" and is_distortion(name):
        low, high = (v * scale ** int(name[1:]) for v in (low, high))
    if constraint.kind == "around":
        return start + low, start + high
    if name.endswith("_phase"):  # GALFIT's are relative to the position angle
        low, high = (v + signed(part.values["pa"].value) for v in (low, high))
        turn = 360 / int(name[1 : -len("_phase")])
        shift = turn * math.ceil((start - high) / turn) if math.isfinite(start) else 0.0
        return low + shift, high + shift
    if name == "pa" and math.isfinite(start):
        turns = 180 * math.ceil((start - high) / 180)
        low, high = low + turns, high + turns
    return low, high


def _constraint(path: Path, line: int, words: list[str]) -> Constraint:
    which = WHICH.fullmatch(words[0])
    shown = " ".join(words)
    if which is None or len(words) < 3:
        raise GalfitError(path, line, f"'{shown}' is no constraint: {EXPECTED}")
    components = tuple(int(text) - 1 for text in re.findall(r"\d+", words[0]))
    if min(components) < 0:
        raise GalfitError(path, line, "names component 0: GALFIT counts them from 1")
    word = words[1].lower()
    name = NAMES.get(word, word)
    tie = KINDS.get(which[2][0] if which[2] else "", "around")
    if words[2].lower() in ("offset", "ratio"):
        return Constraint(components, name, words[2].lower(), line=line, word=word)
    if words[2].lower() == "factor":
        factor = number(words[3]) if len(words) > 3 else None
        if factor is None or not factor.value > 0:
            raise GalfitError(path, line, f"'{shown}' has no factor above 0: {EXPECTED}")
        high = max(factor.value, 1 / factor.value)
        return Constraint(components, name, "factor", 1 / high, high, line, word)
    limits = [number(word) for word in words[2:5] if word.lower() != "to"][:2]
    if len(limits) < 2 or limits[0] is None or limits[1] is None or not tie:
        raise GalfitError(path, line, f"'{shown}' is no constraint: {EXPECTED}")
    low, high = sorted((limits[0].value, limits[1].value))
    if words[3].lower() == "to" and not which[2]:
        shift = 1.0 if name in ("x", "y") else 0.0
        return Constraint(components, name, "between", low - shift, high - shift, line, word)
    return Constraint(components, name, tie, low, high, line, word)
