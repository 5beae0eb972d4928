"""The tables of a comparison: one row per component, statistics, and unmatched galaxies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from hybridfit.comparison.differences import PARAMETERS, shared_parameters
from hybridfit.comparison.result import Comparison
from hybridfit.comparison.row_table import TEXTS, comparison_columns, comparison_rows
from hybridfit.comparison.statistics import COLUMNS
from hybridfit.data.column_facts import ColumnFacts, describe_columns
from hybridfit.io.table import Column, parameter_of

REFERENCE = ColumnFacts("", *TEXTS["reference"])
UNIT = ColumnFacts(
    "",
    "unit of median, mean, mean_err, rms and nmad; empty for none, or that of the image",
    "meta.unit",
)
UNMATCHED = {
    "reference": REFERENCE,
    "side": ColumnFacts("", "catalogue with the galaxy: ours or theirs", "meta.code"),
    "id": ColumnFacts("", "id of the galaxy in that catalogue", "meta.id;meta.main"),
}


def table_rows(comparisons: Sequence[Comparison]) -> tuple[NDArray[np.void], tuple[Column, ...]]:
    """Return the table of all comparisons, one row per reference and component."""
    known = {name for c in comparisons for name in shared_parameters(c.pairs)}
    names = [name for name in PARAMETERS if name in known]
    parts = [_entries(c, names) for c in comparisons]
    texts = {key: [v for part in parts for v in part[1][key]] for key in parts[0][1]}
    numbers = {key: np.concatenate([part[2][key] for part in parts]) for key in parts[0][2]}
    ids = [v for part in parts for v in part[0]]
    columns = comparison_columns(names, texts, ids)
    return comparison_rows(columns, ids, texts, numbers), columns


def _entries(
    c: Comparison, names: Sequence[str]
) -> tuple[list[str], dict[str, list[str]], dict[str, NDArray[np.float64]]]:
    """Return ids, texts and numbers of the rows of one comparison, by column."""
    ids = [c.ours.id[m] for m in c.pairs.galaxy]
    return ids, _texts(c), _galaxy_numbers(c) | _parameter_numbers(c, names)


def _texts(c: Comparison) -> dict[str, list[str]]:
    galaxy = c.pairs.galaxy
    columns = {
        "their_id": c.theirs.id,
        "quality": c.ours.quality,
        "verdict": c.verdicts.verdict,
        "flagged_by": c.verdicts.flagged_by,
        "flags": c.ours.flagged,
        "their_flags": c.theirs.flagged,
    }
    entries = {name: [values[m] for m in galaxy] for name, values in columns.items()}
    return {"reference": [c.theirs.name] * len(galaxy), **entries}


def _galaxy_numbers(c: Comparison) -> dict[str, NDArray[np.float64]]:
    """Return the numeric columns of galaxies, and component numbers."""
    galaxy = c.pairs.galaxy
    number = c.pairs.component.astype(np.float64) + 1
    return {
        "component": number[:, 0],
        "their_component": number[:, 1],
        "max_pull": c.verdicts.distance[galaxy],
        "catastrophic": c.verdicts.catastrophic[galaxy].astype(float),
        "chi2": c.chi2.ours[galaxy],
        "their_chi2": c.chi2.theirs[galaxy],
        "chi2_solved": c.chi2.ours_solved[galaxy],
        "their_chi2_solved": c.chi2.theirs_solved[galaxy],
        "delta_chi2": c.chi2.excess[galaxy],
        "dof": c.chi2.dof[galaxy],
        "snr": c.theirs.snr[galaxy],
    }


def _parameter_numbers(c: Comparison, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return values of both sides, their errors, differences and pulls."""
    pairs, numbers = c.pairs, dict[str, NDArray[np.float64]]()
    difference, pull = pairs.difference, pairs.pull_both
    for name in names:
        k = PARAMETERS.index(name)
        numbers |= {
            name: pairs.ours[:, k],
            f"{name}_err": pairs.ours_err[:, k],
            f"their_{name}": pairs.theirs[:, k],
            f"their_{name}_err": pairs.theirs_err[:, k],
            f"d_{name}": difference[:, k],
            f"pull_{name}": pull[:, k],
        }
    return numbers


def summary_table(comparisons: Sequence[Comparison]) -> Table:
    """Return the statistics for each reference, group and parameter."""
    parts = []
    for c in comparisons:
        part = c.summary.copy()
        part.add_column([c.theirs.name] * len(part), index=0, name="reference")
        part.add_column([_unit_of(str(name)) for name in part["parameter"]], 3, name="unit")
        parts.append(part)
    whole = vstack(parts) if len(parts) > 1 else parts[0]
    return describe_columns(whole, {"reference": REFERENCE, "unit": UNIT, **COLUMNS})


def _unit_of(parameter: str) -> str:
    """Return the unit of a parameter's differences; "" for logarithms and image units."""
    return "" if parameter.startswith("ln ") else parameter_of(parameter)[0]


def unmatched_table(comparisons: Sequence[Comparison]) -> Table:
    """Return the galaxies found in only one catalogue: reference, side, id."""
    rows = [
        (c.theirs.name, side, name)
        for c in comparisons
        for side, ids in (("ours", c.matches.only_ours), ("theirs", c.matches.only_theirs))
        for name in ids
    ]
    names = tuple(UNMATCHED)
    table = Table(rows=rows, names=names) if rows else Table(names=names, dtype=(str,) * 3)
    return describe_columns(table, UNMATCHED)
