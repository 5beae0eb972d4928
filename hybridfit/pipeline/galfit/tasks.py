"""Tasks: what GALFIT input files ask for, as scenes, and what cannot be done.

de Vaucouleurs, exponential and Gaussian profiles are Sersic profiles with a fixed index. Ties and
ranges of a constraint file become those of the scene.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from hybridfit.data.errors import BadInput
from hybridfit.data.positions import parent_shift
from hybridfit.fitting.options import MOST_COMPONENTS
from hybridfit.io.galfit import (
    Component,
    Constraint,
    Feedme,
    GalfitError,
    find_feedmes,
    read_feedme,
)
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.model.compile import compile_scene
from hybridfit.model.parameters import SKY_NAMES, ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.scene import Scene
from hybridfit.model.scene_values import SceneValues, scene_values
from hybridfit.pipeline.galfit.scenes import scene_of

GENERIC = re.compile(r"^(galfit|feedme|input|galfit[._-]?(feedme|input))$", re.IGNORECASE)


@dataclass(frozen=True)
class Task:
    """One GALFIT input file, read.

    Args:
        id: the row's name.
        feedme: the file.
        scene: what is fitted, in pixels of the image; None where it cannot be.
        ties: constraints that no scene expresses; they are checked after the fit.
        notes: what was asked for but does not change the answer, or is done in another way.
        refused: why the file cannot be fitted, "" if it can.
    """

    id: str
    feedme: Feedme
    scene: Scene | None = None
    ties: tuple[Constraint, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def n_components(self) -> int:
        """Number of profiles; 0 where it cannot be fitted."""
        return 0 if self.scene is None else len(self.scene.components)

    @cached_property
    def space(self) -> ParameterSpace:
        """Its parameters; those of one profile where it cannot be fitted."""
        return ParameterSpace(sky="plane") if self.scene is None else compile_scene(self.scene)

    @cached_property
    def is_plain(self) -> bool:
        """Whether it is one free Sersic profile on a constant sky: what every galaxy gets."""
        links = self.space.links
        if self.scene is None or self.n_components > 1 or links is None or self.ties:
            return False
        slopes = {self.space.names.index(name) for name in ("sky_dx", "sky_dy")}
        level = all(self.scene.sky.parameters[n].start == 0.0 for n in ("sky_dx", "sky_dy"))
        free = compile_scene(Scene(self.scene.sources)).links is None
        return free and level and set(links.fixed_columns) == slopes

    @property
    def fixed_names(self) -> tuple[str, ...]:
        """Names of the fixed values, as in the table's columns."""
        space = self.space
        fixed = () if space.links is None else space.links.fixed_columns
        return tuple(space.names[column] for column in fixed)


NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")
SKY = SKY_NAMES["plane"]


def space_of(n_components: int) -> ParameterSpace:
    """Return the parameters of a table with room for so many profiles on a sloping sky."""
    return ParameterSpace.of_shapes((("n",),) * n_components, "plane")


def table_model(n_components: int) -> str:
    """Return the model that a table's names stand for, for its readers."""
    names = {str(k): "sersic" for k in range(1, n_components + 1)}
    return "sersic" if n_components == 1 else json.dumps({"components": names})


def values_of(tasks: Sequence[Task], origin: Tensor, prior: Prior | None = None) -> SceneValues:
    """Return the scenes of files with one topology, in cutout pixels.

    Args:
        tasks: B of them.
        origin: (B, 2) x and y of the cutouts' first pixels in the images.
        prior: of what has no prior of its own.
    """
    values = scene_values([task.scene for task in tasks if task.scene is not None], prior)
    shift = parent_shift(values.space.names, origin)
    moved = (values.start - shift, values.low - shift, values.high - shift)
    return replace(values, start=moved[0], low=moved[1], high=moved[2])


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
    scene, ties = scene_of(feedme)
    return Task(id, feedme, scene, ties, feedme.notes)


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


def broken_ties(task: Task, theta: Sequence[float]) -> list[str]:
    """Return the ties that a solution does not keep, in GALFIT's words.

    Args:
        task: the file.
        theta: (Q,) physical values in the order of ``task.space.names``.
    """
    broken = []
    for tie in task.ties:
        columns = columns_of(task, tie)
        which = {"difference": "-", "quotient": "/"}.get(tie.kind, "_")
        text = f"{which.join(str(k + 1) for k in tie.components)} {tie.parameter}"
        if tie.kind in ("difference", "quotient") and columns:
            first, second = (
                theta[column] / (_size_unit(task, number) if tie.parameter == "r_eff" else 1.0)
                for column, number in zip(columns, tie.components, strict=True)
            )
            value = second - first if tie.kind == "difference" else first / second
            if tie.low <= value <= tie.high:
                continue
            broken.append(f"{text} {tie.low:g} {tie.high:g} (is {value:.3g})")
        else:
            broken.append(f"{text} {tie.kind}")
    return broken


def columns_of(task: Task, tie: Constraint) -> list[int]:
    """Return the columns of a tie's values in theta; [] if any is not fitted."""
    space, parts = task.space, task.feedme.components
    columns = []
    for number in tie.components:
        if not 0 <= number < len(parts) or parts[number].kind == "sky":
            return []
        k = sum(part.kind != "sky" for part in parts[:number])
        if tie.parameter not in space.components[k].parameters:
            return []
        columns.append(space.column(k, tie.parameter))
    return columns


def _size_unit(task: Task, number: int) -> float:
    """Return the half-light radius of a component in units of the size that GALFIT gives."""
    return FAMILY[task.feedme.components[number].kind][0]
