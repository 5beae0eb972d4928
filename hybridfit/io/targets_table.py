"""The table of posteriors of a fine-tuned network's own parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.io.common_columns import (
    DRAWS,
    draws_columns,
    flags_column,
    id_column,
    notes_column,
    quantile_columns,
    value_columns,
)
from hybridfit.io.posterior_table import LEVELS, TRAINING_DISTANCE
from hybridfit.io.table import Column, record_type, shortened


def targets_columns(names: Sequence[str], id_width: int, n_samples: int = 0) -> tuple[Column, ...]:
    """Return the columns of the table of posteriors of ``names``.

    Args:
        names: names of the parameters.
        id_width: bytes of the longest id.
        n_samples: number of draws kept per galaxy; 0: none.
    """
    chosen = [id_column(id_width), flags_column()]
    for name in names:
        chosen += value_columns(name, "", "mean of the posterior")
        chosen += quantile_columns(name, "", LEVELS)
    chosen += [TRAINING_DISTANCE, notes_column()]
    return (*chosen, *(draws_columns(names, n_samples) if n_samples else ()))


def targets_rows(
    cutouts: Cutouts,
    names: Sequence[str],
    samples: NDArray[np.float64],
    flags: NDArray[np.int64],
    distance: NDArray[np.float64],
    columns: Sequence[Column],
) -> NDArray[np.void]:
    """Return one record per galaxy, in the order of ``cutouts``.

    Args:
        cutouts: B galaxies.
        names: T of them.
        samples: (B, S, T), NaN where there is no draw; a galaxy without draws gets NaN.
        flags, distance: (B,).
        columns: see `targets_columns`.
    """
    rows = np.zeros(len(cutouts), dtype=record_type(columns))
    wanted = {column.name for column in columns}
    some = np.isfinite(samples).any(axis=(1, 2))
    for k, name in enumerate(names):
        values = samples[some, :, k]
        for end in ("", "_err", *(f"_{end}" for end in LEVELS)):
            rows[f"{name}{end}"] = np.nan
        rows[name][some] = np.nanmean(values, axis=1)
        rows[f"{name}_err"][some] = np.nanstd(values, axis=1)
        for end, level in LEVELS.items():
            rows[f"{name}_{end}"][some] = np.nanquantile(values, level, axis=1)
        if f"{name}{DRAWS}" in wanted:
            rows[f"{name}{DRAWS}"] = samples[..., k]
    rows["id"] = [name.encode() for name in cutouts.id]
    rows["notes"] = [shortened(text) for text in cutouts.messages]
    rows["flags"], rows["training_distance"] = flags, distance
    return rows
