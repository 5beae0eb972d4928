"""Columns and metadata on the zero points of a table's magnitudes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.io.flux_units import ORIGIN_WIDTH, shared_unit, with_flux_unit
from hybridfit.io.table import Column, to_numpy

KEPT = 50  # different zero points listed in the metadata
INSTRUMENTAL = "instrumental, -2.5 log10(flux): no zero point is known"


def zeropoint_columns() -> tuple[Column, Column]:
    """Return the columns of the zero point used and of its origin."""
    return (
        Column(
            "zeropoint",
            "f8",
            "mag",
            "magnitude of one unit of the image, as it was used",
            "phot.mag;arith.zp",
        ),
        Column(
            "zeropoint_from",
            f"S{ORIGIN_WIDTH}",
            "",
            "source of the zero point; empty where none is known",
            "meta.note",
        ),
    )


def fill_zeropoints(rows: NDArray[np.void], cutouts: Cutouts) -> None:
    """Fill both columns; NaN where the zero point is unknown."""
    known = np.array([bool(origin) for origin in cutouts.zeropoint_from], dtype=bool)
    rows["zeropoint"] = np.where(known, to_numpy(cutouts.zeropoint), np.nan)
    rows["zeropoint_from"] = [text.encode()[:ORIGIN_WIDTH] for text in cutouts.zeropoint_from]


def with_zeropoint_metadata(
    parts: Iterable[NDArray[np.void]], columns: Sequence[Column]
) -> tuple[tuple[Column, ...], dict[str, Any]]:
    """Return columns with the image's unit or marked as instrumental, and zero-point metadata.

    Args:
        parts: rows of a table.
        columns: their columns; without zero-point columns they are unchanged.

    Returns:
        The columns, where fluxes and sky levels have the unit of the images if all images have
        the same (see `hybridfit.io.flux_units`); and ``MAGTYPE`` ("calibrated", "instrumental", or
        "mixed") with ``ZEROPNTS``, JSON: for each origin its zero points and how many galaxies
        have them.
    """
    if "zeropoint_from" not in {column.name for column in columns}:
        return tuple(columns), {}
    counts: Counter[tuple[str, float]] = Counter()
    without = 0
    for rows in parts:
        lacking = rows["flags"] & int(Flag.NO_ZEROPOINT) != 0
        without += int(lacking.sum())
        some = rows[["zeropoint_from", "zeropoint"]][rows["zeropoint_from"] != b""]
        counts.update((a.decode(errors="replace"), round(float(b), 4)) for a, b in some.tolist())
    kind = "calibrated" if not without else "mixed" if counts else "instrumental"
    meta = {"MAGTYPE": kind, "ZEROPNTS": json.dumps(_listed(counts, without))}
    unit = "" if without else shared_unit({origin for origin, _ in counts})
    described = (_described(column, kind) for column in columns)
    return tuple(with_flux_unit(column, unit) for column in described), meta


def _listed(counts: Mapping[tuple[str, float], int], without: int) -> dict[str, Any]:
    """Map origins to zero points to numbers of galaxies, for the most frequent ones."""
    listed: dict[str, Any] = {"none": without} if without else {}
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for (origin, value), count in kept[:KEPT]:
        listed.setdefault(origin, {})[f"{value:g}"] = count
    if len(kept) > KEPT:
        listed["others"] = sum(count for _, count in kept[KEPT:])
    return listed


def _described(column: Column, kind: str) -> Column:
    """Return a magnitude's column, marked if instrumental."""
    is_value = column.unit == "mag" and column.name.split("_")[0] == "mag"
    if kind == "calibrated" or not is_value or column.name.endswith("_err"):
        return column
    text = INSTRUMENTAL if kind == "instrumental" else "instrumental where NO_ZEROPOINT is flagged"
    return replace(column, description=f"{column.description}; {text}")
