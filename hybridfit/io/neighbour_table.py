"""Neighbours that were fitted with targets: columns of the results, and a table of their own.

While a run is under way the neighbours of a target are arrays in its row; the finished run has a
second table beside the results with one row a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.names import START_NAMES
from hybridfit.data.neighbours import MOST, Neighbours
from hybridfit.data.ucd import ucd_of
from hybridfit.io.formats import NEIGHBOURS
from hybridfit.io.sky_positions import on_sky
from hybridfit.io.table import Column, parameter_of, record_type, to_numpy

PREFIX = "neighbour_"
COUNT = "n_neighbours"
OWN = (
    Column(COUNT, "i8", "", "other sources that were fitted with the target", "meta.number"),
    Column(
        "blendedness",
        "f8",
        "",
        "share of the neighbours in the light of the target's pixels, weighted by its own light",
        "phot.flux;arith.ratio",
    ),
    Column(
        "mag_err_neighbours",
        "f8",
        "mag",
        "part of mag_err that is due to the neighbours' uncertainty, in quadrature",
        ucd_of("mag", "_err"),
    ),
)
SKY = ("ra", "dec")


def neighbour_columns() -> list[Column]:
    """Return the columns of a target's row that describe its neighbours."""
    chosen = list(OWN)
    for name in START_NAMES:
        unit, text = parameter_of(name)
        plain = Column(PREFIX + name, "f8", unit, f"{text}; of the neighbours", ucd_of(name))
        error = f"standard deviation of {PREFIX}{name}"
        chosen += [
            _of_neighbours(plain),
            _of_neighbours(Column(f"{PREFIX}{name}_err", "f8", unit, error, ucd_of(name, "_err"))),
        ]
    for name, text in zip(SKY, ("right ascension", "declination"), strict=True):
        about = f"{text} of the neighbours, ICRS"
        chosen.append(_of_neighbours(Column(PREFIX + name, "f8", "deg", about, f"pos.eq.{name}")))
    return chosen


def _of_neighbours(column: Column) -> Column:
    return replace(column, shape=(MOST,), table=NEIGHBOURS)


def fill_neighbours(rows: NDArray[np.void], cutouts: Cutouts, neighbours: Neighbours) -> None:
    """Fill the columns of `neighbour_columns`; positions in the parent image.

    Args:
        rows: (B,) records.
        cutouts: B galaxies.
        neighbours: of their targets, in pixels of the cutouts.
    """
    values, errors = to_numpy(neighbours.values), to_numpy(neighbours.errors)
    origin = to_numpy(cutouts.origin)
    for k, name in enumerate(START_NAMES):
        shift = origin[:, k, None] if k < 2 else 0.0
        rows[PREFIX + name] = values[:, :, k] + shift
        rows[f"{PREFIX}{name}_err"] = errors[:, :, k]
    rows[COUNT] = to_numpy(neighbours.count)
    rows["blendedness"] = to_numpy(neighbours.blendedness)
    rows["mag_err_neighbours"] = to_numpy(neighbours.mag_err)
    for i, wcs in enumerate(cutouts.wcs):
        for m in range(int(rows[COUNT][i]) if wcs is not None else 0):
            x, y = values[i, m, :2]
            found = on_sky(wcs, x, y, 1.0, 0.0)
            for name, value in zip(SKY, found[:2], strict=True):
                rows[PREFIX + name][i, m] = value


def plain_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of the table of neighbours.

    Args:
        columns: those of the results' rows: the id and what belongs to the neighbours.
    """
    number = Column("neighbour", "i8", "", "number of the neighbour, from 1", "meta.number")
    own = [
        replace(c, name=c.name.removeprefix(PREFIX), shape=(), table="")
        for c in columns
        if c.table == NEIGHBOURS
    ]
    return (replace(columns[0], ucd="meta.id.parent"), number, *own)


def neighbour_rows(rows: NDArray[np.void], columns: Sequence[Column]) -> NDArray[np.void]:
    """Return one record a neighbour from records of targets, in their order.

    Args:
        rows: (B,) with columns of `neighbour_columns`.
        columns: of `plain_columns`.
    """
    target = np.repeat(np.arange(len(rows)), rows[COUNT])
    first = np.repeat(np.cumsum(rows[COUNT]) - rows[COUNT], rows[COUNT])
    number = np.arange(len(target)) - first
    made = np.zeros(len(target), record_type(columns))
    made["id"], made["neighbour"] = rows["id"][target], number + 1
    for column in columns[2:]:
        made[column.name] = rows[PREFIX + column.name][target, number]
    return made
