"""Tasks: what GALFIT input files ask for, in this package's terms, and what cannot be done.

A task holds the components of one file as Sersic profiles with their initial values, says which
values are fixed, and has the ranges of a constraint file. de Vaucouleurs, exponential and Gaussian
profiles are Sersic profiles with a fixed index.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from hybridfit.data.errors import BadInput
from hybridfit.data.positions import in_cutout
from hybridfit.fitting.fixed import InitialValues
from hybridfit.fitting.options import MOST_COMPONENTS
from hybridfit.io.galfit import (
    Component,
    Constraint,
    Feedme,
    GalfitError,
    find_feedmes,
    read_constraints,
    read_feedme,
    start_ranges,
)
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.io.galfit.read_cutout import locate
from hybridfit.model.parameters import SKY_NAMES, ParameterSpace

NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")
SKY = SKY_NAMES["plane"]
GENERIC = re.compile(r"^(galfit|feedme|input|galfit[._-]?(feedme|input))$", re.IGNORECASE)


@dataclass(frozen=True)
class Task:
    """One GALFIT input file, read.

    Args:
        id: the row's name.
        feedme: the file.
        values: initial values of each component, in the order of `NAMES`, then of the sky; x and
            y in the image.
        fixed: of each value whether it is fixed.
        low, high: of each value its limits from the constraint file.
        tied_to: of each value the index of the one that it moves with; its own by default.
        ties: of the constraint file, which are not imposed but checked after the fit.
        notes: what was asked for but does not change the answer, or is done in another way.
        refused: why the file cannot be fitted, "" if it can.
    """

    id: str
    feedme: Feedme
    values: tuple[float, ...] = ()
    fixed: tuple[bool, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    tied_to: tuple[int, ...] = ()
    ties: tuple[Constraint, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def n_components(self) -> int:
        """Number of profiles; 0 where it cannot be fitted."""
        return len(self.values) // len(NAMES)

    @property
    def is_plain(self) -> bool:
        """Whether it is one free Sersic profile on a constant sky: what every galaxy gets."""
        whitened = len(NAMES) + 1
        bounded = any(map(math.isfinite, self.low + self.high)) or bool(self.ties)
        level = self.fixed[whitened:] == (True, True) and self.values[whitened:] == (0.0, 0.0)
        return self.n_components == 1 and level and not any(self.fixed[:whitened]) and not bounded

    @property
    def fixed_names(self) -> tuple[str, ...]:
        """Names of the fixed values, as in the table's columns."""
        return tuple(name for name, fixed in zip(self.names, self.fixed, strict=True) if fixed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values, as in the table's columns."""
        return space_of(max(self.n_components, 1)).names if self.values else ()


def space_of(n_components: int) -> ParameterSpace:
    """Return the parameters of so many Sersic profiles on a sloping sky."""
    return ParameterSpace((("n",),) * n_components, "plane")


def find_tasks(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Return the GALFIT input files among ``paths`` by the names that their rows get, sorted.

    A name is the file's without its ending; one that says nothing, such as ``galfit.feedme``,
    gives way to its folder's. Folders are added before all of them until they differ.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is none.
    """
    files = find_feedmes(paths)
    if not files:
        shown = ", ".join(f"'{path}'" for path in list(paths)[:3])
        raise ValueError(
            f"no GALFIT input file in {shown}: expected files with rows 'A) image' and '0) sersic'"
        )
    absolute = [path.absolute() for path in files]
    deepest = max(len(path.parts) for path in absolute)
    for depth in range(1, deepest + 1):  # the same for all, so that names have one form
        names = [_name(path, depth) for path in absolute]
        if len(set(names)) == len(names):
            return dict(sorted(zip(names, files, strict=True)))
    twice = sorted(name for name in names if names.count(name) > 1)
    raise ValueError(f"'{twice[0]}' is the name of several files: rename one of them")


def _name(path: Path, depth: int) -> str:
    """The last ``depth`` telling parts of a path."""
    stem = re.sub(r"\.(feedme|input|in|gal|galfit|txt)$", "", path.name, flags=re.IGNORECASE)
    parts = [part for part in path.parent.parts if part not in ("/", "\\")]
    if not GENERIC.match(stem):
        parts.append(stem)
    chosen = "_".join(parts[-depth:]) or stem
    return re.sub(r"[^A-Za-z0-9._+-]", "_", chosen).lstrip(".") or "galfit"


@lru_cache(maxsize=4096)
def read_task(id: str, path: Path) -> Task:
    """Read one input file; `Task.refused` says what is wrong with it."""
    try:
        feedme = read_feedme(path)
        return _task(id, feedme)
    except (GalfitError, BadInput, OSError) as error:
        return Task(id, Feedme(path), refused=str(error))
    except Exception as error:  # a broken file can raise anything
        text = f"{type(error).__name__} while reading '{path}': {error}"
        return Task(id, Feedme(path), refused=text)


def _task(id: str, feedme: Feedme) -> Task:
    parts = [c for c in feedme.components if c.kind != "sky"]
    skies = [c for c in feedme.components if c.kind == "sky"]
    if refused := _refusal(feedme, parts, skies):
        return Task(id, feedme, refused=refused, notes=feedme.notes)
    values, fixed = [], []
    for part in parts:
        values += [part.values[name].value for name in NAMES]
        fixed += [part.values[name].fixed for name in NAMES]
    for name in SKY:  # without a sky component GALFIT's sky is 0
        own = skies[0].values[name] if skies else None
        values.append(own.value if own else 0.0)
        fixed.append(own.fixed if own else True)
    task = Task(id, feedme, tuple(values), tuple(fixed), notes=feedme.notes)
    empty = [n for n, v, h in zip(task.names, values, fixed, strict=True) if h and math.isnan(v)]
    if empty:
        return Task(id, feedme, refused=f"{empty[0]} is fixed, but has no readable value")
    return _constrained(task)


def _refusal(feedme: Feedme, parts: list[Component], skies: list[Component]) -> str:
    """Say why components cannot be fitted, "" if they can."""
    for number, part in enumerate(feedme.components, start=1):
        if part.extras:
            terms = ", ".join(part.extras)
            return f"component {number} ({part.kind}) has terms {terms}: only ellipses are fitted"
        if part.kind != "sky" and not part.is_sersic:
            return (
                f"component {number} is '{part.kind}': this version fits sersic, devauc, expdisk, "
                "gaussian and sky"
            )
    if not parts:
        return "there is no component but the sky: nothing to fit"
    if len(parts) > MOST_COMPONENTS:
        return f"there are {len(parts)} components, expected {MOST_COMPONENTS} at most"
    if len(skies) > 1:
        return f"there are {len(skies)} skies: expected one at most"
    return ""


def _constrained(task: Task) -> Task:
    """Return the task with its constraint file's ranges, and with tied positions."""
    low, high = [-math.inf] * len(task.values), [math.inf] * len(task.values)
    tied_to, ties = list(range(len(task.values))), []
    if task.feedme.constraints:
        file = locate(task.feedme, "G", task.feedme.constraints)
        constraints = read_constraints(file)
        for number, ranges in enumerate(start_ranges(task.feedme, constraints)):
            for name, limits in ranges.items():
                place = place_of(task, number, name)
                if place is None:
                    what = f"'{name}' of component {number + 1}"
                    return replace(task, refused=f"a constraint is of {what}, which is not fitted")
                low[place], high[place] = limits
        for tie in (c for c in constraints if c.is_tie):
            places = places_of(task, tie)
            if tie.kind == "offset" and tie.parameter in ("x", "y") and places:
                for place in places:
                    tied_to[place] = tied_to[places[0]]
            else:
                ties.append(tie)
    fixed = tuple(task.fixed[lead] or own for lead, own in zip(tied_to, task.fixed, strict=True))
    return replace(
        task,
        fixed=fixed,
        low=tuple(low),
        high=tuple(high),
        tied_to=tuple(tied_to),
        ties=tuple(ties),
    )


def place_of(task: Task, number: int, name: str) -> int | None:
    """Return where a component's value stands in `Task.values`; None if it is not fitted.

    Args:
        task: the task.
        number: of the component in the file, counted from 0.
        name: of the parameter.
    """
    parts = task.feedme.components
    if not 0 <= number < len(parts):
        return None
    before = sum(part.kind != "sky" for part in parts[:number])
    if parts[number].kind == "sky":
        start = len(NAMES) * sum(part.kind != "sky" for part in parts)
        return start + SKY.index(name) if name in SKY else None
    return len(NAMES) * before + NAMES.index(name) if name in NAMES else None


def places_of(task: Task, tie: Constraint) -> list[int]:
    """Return where the values of a tie stand in `Task.values`; [] if any is not fitted."""
    found = [place_of(task, number, tie.parameter) for number in tie.components]
    places = [place for place in found if place is not None]
    return places if len(places) == len(found) else []


def broken_ties(task: Task, theta: Sequence[float]) -> list[str]:
    """Return the ties that a solution does not keep, in GALFIT's words."""
    broken = []
    for tie in task.ties:
        places = places_of(task, tie)
        which = {"difference": "-", "quotient": "/"}.get(tie.kind, "_")
        text = f"{which.join(str(k + 1) for k in tie.components)} {tie.parameter}"
        if tie.kind in ("difference", "quotient") and places:
            first, second = (
                theta[place] / (_size_unit(task, number) if tie.parameter == "r_eff" else 1.0)
                for place, number in zip(places, tie.components, strict=True)
            )
            value = second - first if tie.kind == "difference" else first / second
            if tie.low <= value <= tie.high:
                continue
            broken.append(f"{text} {tie.low:g} {tie.high:g} (is {value:.3g})")
        else:
            broken.append(f"{text} {tie.kind}")
    return broken


def _size_unit(task: Task, number: int) -> float:
    """Return the half-light radius of a component in units of the size that GALFIT gives."""
    return FAMILY[task.feedme.components[number].kind][0]


def given_of(tasks: Sequence[Task], origin: Tensor) -> InitialValues:
    """Return initial values and fixed ones, of tasks with the same number of components.

    Args:
        tasks: B of them.
        origin: (B, 2) x and y of the cutouts' first pixels in the images.

    Returns:
        Values in cutout pixels.
    """
    theta = torch.tensor([task.values for task in tasks], dtype=torch.float64)
    fixed = torch.tensor([task.fixed for task in tasks])
    tied_to = torch.tensor([task.tied_to for task in tasks])
    names = space_of(tasks[0].n_components).names
    return InitialValues(in_cutout(theta, names, origin), fixed, tied_to)
