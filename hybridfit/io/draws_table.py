"""The table of other parameters than the Sersic ones: the same quantiles under their own names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.io.posterior_table import LEVELS
from hybridfit.io.table import MESSAGE_WIDTH, Column, record_type, shortened


def draws_columns(names: Sequence[str], id_width: int, n_samples: int = 0) -> tuple[Column, ...]:
    """Return the columns of the table of posteriors of ``names``.

    Args:
        names: of the parameters.
        id_width: bytes of the longest id.
        n_samples: draws of each galaxy that are columns too; 0: none.
    """
    chosen = [
        Column("id", f"S{max(id_width, 1)}", "", "name of the galaxy"),
        Column("flags", "i8", "", "bits, see hybridfit.describe_flags; 0: clean"),
    ]
    for name in names:
        chosen.append(Column(name, "f8", "", f"{name}; mean of the posterior"))
        chosen.append(Column(f"{name}_err", "f8", "", f"standard deviation of {name}"))
        chosen += [
            Column(f"{name}_{end}", "f8", "", f"{100 * level:g} % quantile of {name}")
            for end, level in LEVELS.items()
        ]
    chosen += [
        Column("distance", "f8", "", "of the network's context from those it was trained on"),
        Column("message", f"S{MESSAGE_WIDTH}", "", "what else is to be known of this galaxy"),
    ]
    if n_samples:
        chosen += [
            Column(f"{name}_samples", "f8", "", f"draws of {name}", (n_samples,)) for name in names
        ]
    return tuple(chosen)


def draws_rows(
    cutouts: Cutouts,
    names: Sequence[str],
    samples: NDArray[np.float64],
    flags: NDArray[np.int64],
    distance: NDArray[np.float64],
    columns: Sequence[Column],
) -> NDArray[np.void]:
    """Return one record a galaxy, in the order of ``cutouts``.

    Args:
        cutouts: B galaxies.
        names: T of them.
        samples: (B, S, T), NaN where there is no draw; a galaxy without any has NaN.
        flags, distance: (B,).
        columns: see `draws_columns`.
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
        if f"{name}_samples" in wanted:
            rows[f"{name}_samples"] = samples[..., k]
    rows["id"] = [name.encode() for name in cutouts.id]
    rows["message"] = [shortened(text) for text in cutouts.messages]
    rows["flags"], rows["distance"] = flags, distance
    return rows
