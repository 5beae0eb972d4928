"""Rows of a run of GALFIT input files, which have different components."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.result import Result
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.table import Column, blank_rows, failed_row
from hybridfit.model.layout import ComponentLayout, Geometry
from hybridfit.model.parameters import SKY_NAMES, ParameterSpace
from hybridfit.pipeline.galfit.tasks import Task

FIXED_WIDTH = 240  # bytes of the column that names fixed parameters
NO_FILE = ParameterSpace(sky="plane")  # of a table without any file that can be fitted


def table_space(tasks: Sequence[Task]) -> ParameterSpace:
    """Return the parameters of a table that has room for all files.

    Component k has all parameters that the profiles of the files' components k have.
    """
    layouts = [task.space.components for task in tasks if task.scene is not None]
    if not layouts:
        return NO_FILE
    most = max(len(components) for components in layouts)
    united = [_united([c[k] for c in layouts if len(c) > k], k) for k in range(most)]
    return ParameterSpace(tuple(united), "plane")


def _united(layouts: Sequence[ComponentLayout], k: int) -> ComponentLayout:
    """Return one component with all parameters of ``layouts``, those of the k-th component."""
    shapes = {shape.name: shape for layout in layouts for shape in layout.shapes}
    is_ellipse = any(layout.is_ellipse for layout in layouts)
    return ComponentLayout(
        layouts[0].name,
        Counter(layout.profile for layout in layouts).most_common(1)[0][0],
        tuple(shapes.values()),
        Geometry.ELLIPSE if is_ellipse else Geometry.POINT,
        source=k,
    )


def model_text(space: ParameterSpace) -> str:
    """Return the model that has the components of a space, for readers of a table."""
    if space.n_components == 1 and not space.components[0].name:
        return space.components[0].profile
    named = {
        c.name or str(k): {"profile": c.profile, "source": c.source + 1}
        for k, c in enumerate(space.components, start=1)
    }
    return json.dumps({"components": named})


def task_columns(paths: Sequence[Path]) -> tuple[Column, ...]:
    """Return the columns that say what was asked."""
    width = max(len(str(path).encode()) for path in paths)
    return (
        Column("feedme", f"S{width}", "", "the GALFIT input file", "meta.ref"),
        Column(
            "fixed",
            f"S{FIXED_WIDTH}",
            "",
            "names of the fixed parameters, a comma list",
            "meta.note",
        ),
    )


def task_rows(
    cutouts: Cutouts,
    batch: Sequence[Task],
    result: Result,
    schema: Sequence[Column],
    space: ParameterSpace,
) -> NDArray[np.void]:
    """Return rows with the columns of the whole run.

    Args:
        cutouts: B galaxies.
        batch: their files, which have the same components.
        result: of the galaxies.
        schema: the columns of the run.
        space: the parameters of the run's table.
    """
    result = _renamed(result, batch[0].space)
    own_space = replace(result.fit.space, links=None)
    wanted = {column.name: column for column in schema}
    n_samples = wanted["weight"].shape[0] if "weight" in wanted else 0
    own = result_columns(own_space, 1, False, any(n.endswith("_p50") for n in wanted), n_samples)
    own = tuple(wanted["id"] if column.name == "id" else column for column in own)
    few = result_rows(cutouts, result, own)
    rows = blank_rows(len(cutouts), schema)
    for name in set(few.dtype.names or ()) & set(wanted):
        rows[name] = few[name]
    for name in set(SKY_NAMES["plane"]) - set(own_space.names):  # a sky without slopes
        rows[name] = rows[f"{name}_err"] = 0.0
    if "covariance" in wanted and set(own_space.names) <= set(space.names):
        at = [space.names.index(name) for name in own_space.names]
        rows["covariance"][np.ix_(range(len(rows)), at, at)] = result.fit.covariance.numpy()
    rows["feedme"] = [str(task.feedme.path).encode() for task in batch]
    rows["fixed"] = [",".join(task.fixed_names).encode()[:FIXED_WIDTH] for task in batch]
    return rows


def _renamed(result: Result, asked: ParameterSpace) -> Result:
    """Return a result whose components have the names of those that a file asks for."""
    space = result.fit.space
    parts = tuple(
        replace(own, name=other.name, source=other.source)
        for own, other in zip(space.components, asked.components, strict=False)
    )
    space = replace(space, components=parts)
    draws = None if result.draws is None else replace(result.draws, space=space)
    return replace(result, fit=replace(result.fit, space=space), draws=draws)


def failed_task(
    path: Path, id: str, flags: int, text: str, schema: Sequence[Column]
) -> NDArray[np.void]:
    """Return the row (1,) of a file that could not be computed, see `failed_row`."""
    rows = failed_row(id, flags, text, schema)
    rows["feedme"] = str(path).encode()
    return rows
