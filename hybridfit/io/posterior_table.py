"""The table of posteriors: its columns, and its rows computed from draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.positions import parent_shift, plain_name
from hybridfit.data.samples import Posterior
from hybridfit.io.common_columns import (
    DRAWS,
    draws_columns,
    fill_sky,
    flags_column,
    id_column,
    notes_column,
    quantile_columns,
    sky_columns,
    value_columns,
)
from hybridfit.io.formats import DRAWN
from hybridfit.io.table import Column, notes_of, parameter_of, record_type, to_numpy
from hybridfit.io.zeropoint_columns import fill_zeropoints, zeropoint_columns
from hybridfit.model.parameters import ParameterSpace

LEVELS = {"p025": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p975": 0.975}
N_REJECTED = Column("n_rejected", "i8", "", "implausible draws that were redrawn", "meta.number")
TRAINING_DISTANCE = Column(
    "training_distance",
    "f8",
    "",
    "distance of the galaxy from the training set, in the network's features",
    "stat.fit.goodness",
)


def posterior_columns(
    space: ParameterSpace, id_width: int, n_samples: int = 0
) -> tuple[Column, ...]:
    """Return the columns of a table of posteriors of one Sersic profile and a sky.

    Args:
        space: the posterior's parameters.
        id_width: length of the longest id in bytes.
        n_samples: number of draws per galaxy in the table; 0 for none.
    """
    chosen = [id_column(id_width), flags_column()]
    for name in space.names:
        unit = parameter_of(name)[0]
        mean = "circular mean" if plain_name(name) == "pa" else "mean"
        chosen += value_columns(name, unit, f"{mean} of the posterior")
        chosen += quantile_columns(name, unit, LEVELS)
    chosen += [
        *value_columns("r_eff_arcsec", "arcsec", "mean of the posterior"),
        *sky_columns(),
        *zeropoint_columns(),
        N_REJECTED,
        TRAINING_DISTANCE,
        notes_column(),
    ]
    if n_samples:
        text, size = "log density of the draws in whitened coordinates, ln(flux) and sky", n_samples
        density = Column("log_prob", "f8", "", text, "stat.likelihood", (size,), DRAWN)
        chosen += [*draws_columns(space.names, n_samples), density]
    return tuple(chosen)


def posterior_rows(
    cutouts: Cutouts, posterior: Posterior, columns: Sequence[Column]
) -> NDArray[np.void]:
    """Return one record per galaxy, in the order of ``cutouts``; positions are in the parent image.

    Args:
        cutouts: B galaxies.
        posterior: posteriors of the same galaxies, in cutout pixels.
        columns: see `posterior_columns`.

    Returns:
        (B,) structured array, big-endian and packed.

    Raises:
        ValueError: if the number of posteriors differs from the number of galaxies.
    """
    if len(posterior) != len(cutouts):
        raise ValueError(
            f"got {len(posterior)} posteriors for {len(cutouts)} galaxies, expected one each"
        )
    rows = np.zeros(len(cutouts), dtype=record_type(columns))
    wanted = {column.name for column in columns}
    names = posterior.space.names
    mean = to_numpy(posterior.mean)
    _fill_parameters(rows, cutouts, posterior, mean, f"{names[0]}{DRAWS}" in wanted)
    fill_sky(rows, cutouts, mean[:, [names.index(name) for name in ("x", "y", "q", "pa")]])
    rows["id"] = [name.encode() for name in cutouts.id]
    rows["notes"] = notes_of(cutouts, np.isnan(rows["ra"]) & np.isfinite(rows["x"]))
    fill_zeropoints(rows, cutouts)
    rows["flags"] = to_numpy(posterior.flags)
    rows["training_distance"] = to_numpy(posterior.distance)
    rows["n_rejected"] = to_numpy(posterior.rejected)
    if "log_prob" in wanted:
        rows["log_prob"] = to_numpy(posterior.log_prob)
    return rows


def _fill_parameters(
    rows: NDArray[np.void],
    cutouts: Cutouts,
    posterior: Posterior,
    mean: NDArray[np.float64],
    draws: bool,
) -> None:
    """Fill in means (B, P), deviations, quantiles and, if requested, draws, in the parent image."""
    shift = to_numpy(parent_shift(posterior.space.names, cutouts.origin))
    values = {"": mean + shift, "_err": to_numpy(posterior.std)}
    quantiles = to_numpy(posterior.quantiles(list(LEVELS.values()))) + shift[:, None]
    values |= {f"_{end}": quantiles[:, j] for j, end in enumerate(LEVELS)}
    for k, name in enumerate(posterior.space.names):
        for end, value in values.items():
            rows[f"{name}{end}"] = value[:, k]
        if draws:
            rows[f"{name}{DRAWS}"] = to_numpy(posterior.samples[..., k]) + shift[:, k, None]
    for end in ("", "_err"):
        rows[f"r_eff_arcsec{end}"] = rows[f"r_eff{end}"] * to_numpy(cutouts.pixel_scale)
