"""Rows of a run of GALFIT input files, which have different numbers of components."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.result import Result
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.table import Column, blank_rows, failed_row
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.galfit.tasks import SKY, Task, space_of

FIXED_WIDTH = 120  # bytes of the column that names fixed parameters


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
    cutouts: Cutouts, batch: Sequence[Task], result: Result, schema: Sequence[Column]
) -> NDArray[np.void]:
    """Return rows with the columns of the whole run, of a batch with one number of components."""
    space = replace(result.fit.space, links=None)
    wanted = {column.name: column for column in schema}
    n_samples = wanted["weight"].shape[0] if "weight" in wanted else 0
    own = result_columns(space, 1, False, any(n.endswith("_p50") for n in wanted), n_samples)
    own = tuple(wanted["id"] if column.name == "id" else column for column in own)
    few = result_rows(cutouts, result, own)
    rows = blank_rows(len(cutouts), schema)
    renamed = _numbered(few.dtype.names or (), space, wanted)
    for name, target in renamed.items():
        rows[target] = few[name]
    for name in set(SKY) - set(space.names):  # a sky without slopes
        rows[name] = rows[f"{name}_err"] = 0.0
    if "covariance" in wanted:
        total = space_of(max(sum(f"mag_{k}" in wanted for k in range(1, 100)), 1))
        at = [total.names.index(renamed[name]) for name in space.names]
        rows["covariance"][np.ix_(range(len(rows)), at, at)] = result.fit.covariance.numpy()
    rows["feedme"] = [str(task.feedme.path).encode() for task in batch]
    rows["fixed"] = [",".join(task.fixed_names).encode()[:FIXED_WIDTH] for task in batch]
    return rows


def failed_task(
    path: Path, id: str, flags: int, text: str, schema: Sequence[Column]
) -> NDArray[np.void]:
    """Return the row (1,) of a file that could not be computed, see `failed_row`."""
    rows = failed_row(id, flags, text, schema)
    rows["feedme"] = str(path).encode()
    return rows


def _numbered(
    names: Sequence[str], space: ParameterSpace, wanted: Container[str]
) -> dict[str, str]:
    """Map each column of a batch to its name in the run's table: x_err may be x_1_err there."""
    stems = [*(n for n in space.names if n not in SKY), "r_eff_arcsec", "ra", "dec", "pa_sky"]
    found = {}
    for name in names:
        found[name] = name
        for stem in sorted(stems, key=len, reverse=True):
            if name not in wanted and (name == stem or name.startswith(f"{stem}_")):
                found[name] = f"{stem}_1{name[len(stem) :]}"
                break
    return found
