"""Tasks: what GALFIT input files ask for, as scenes, and what cannot be done.

de Vaucouleurs, exponential and Gaussian profiles are Sersic profiles with a fixed index. Ties and
ranges of a constraint file become those of the scene; what a scene cannot express is checked after
the fit.
"""

from __future__ import annotations

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
from hybridfit.io.galfit.native import PROFILES, profile_of
from hybridfit.model.compile import compile_scene
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.scene import Scene
from hybridfit.model.scene_values import SceneValues, scene_values
from hybridfit.pipeline.galfit.scenes import scene_of

# letters of rows that change a component's shape
TERMS = {
    "R": "a coordinate rotation that is neither power nor log",
    "T": "truncation",
    "N": "other shape terms",
}
GENERIC = re.compile(r"^(galfit|feedme|input|galfit[._-]?(feedme|input))$", re.IGNORECASE)


@dataclass(frozen=True)
class Task:
    """One GALFIT input file, read.

    Args:
        id: the row's name.
        feedme: the file.
        scene: what is fitted, in pixels of the image; None where it cannot be.
        unexpressed: constraints that no scene expresses; they are checked after the fit.
        notes: what is done in another way than the file asks for.
        refused: why the file cannot be fitted, "" if it can.
    """

    id: str
    feedme: Feedme
    scene: Scene | None = None
    unexpressed: tuple[Constraint, ...] = ()
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
        if self.scene is None or self.n_components > 1 or links is None or self.unexpressed:
            return False
        if self.scene.components[0].profile != "sersic":
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
def read_task(id: str, path: Path, named: bool = False) -> Task:
    """Read one input file; `Task.refused` says what is wrong with it.

    Args:
        id: the row's name.
        path: the file.
        named: whether components are called comp1, comp2...
    """
    try:
        feedme = read_feedme(path)
        return _task(id, feedme, named)
    except (GalfitError, BadInput, OSError) as error:
        return Task(id, Feedme(path), refused=str(error))
    except Exception as error:  # a broken file can raise anything
        text = f"{type(error).__name__} while reading '{path}': {error}"
        return Task(id, Feedme(path), refused=text)


def _task(id: str, feedme: Feedme, named: bool) -> Task:
    if refused := _refusal(feedme):
        return Task(id, feedme, refused=refused)
    compiled = scene_of(feedme, named)
    return Task(id, feedme, compiled.scene, compiled.unexpressed, compiled.notes)


def _refusal(feedme: Feedme) -> str:
    """Say why components cannot be fitted, "" if they can."""
    parts = [part for part in feedme.components if part.kind != "sky"]
    for number, part in enumerate(feedme.components, start=1):
        name = f"component {number} ({part.kind})"
        if terms := [text for key, text in TERMS.items() if _has_term(part, key)]:
            shown = ", ".join(part.extras)
            return f"{name} has {' and '.join(terms)} (rows {shown}), which are not modelled"
        if part.kind == "sky" or profile_of(part) is not None:
            continue
        if part.kind in PROFILES:
            return f"{name} has distorted isophotes (C0, F, B or R): only those of one radius can"
        known = ", ".join([*PROFILES, "sky"])
        return f"component {number} is '{part.kind}', which is not modelled: expected {known}"
    if not parts:
        return "there is no component but the sky: nothing to fit"
    if len(parts) > MOST_COMPONENTS:
        return f"there are {len(parts)} components, expected {MOST_COMPONENTS} at most"
    return ""


def _has_term(part: Component, key: str) -> bool:
    return any(extra[0] == key for extra in part.extras)
