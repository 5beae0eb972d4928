"""The table of posteriors: its columns, and its rows computed from draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.positions import parent_shift, plain_name
from hybridfit.data.samples import Draws, Named, Posterior
from hybridfit.data.ucd import ucd_of
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
from hybridfit.model.combined import CombinedParameters, combined, combined_names
from hybridfit.model.parameters import ParameterSpace

LEVELS = {"p025": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p975": 0.975}
EPISTEMIC = "_epistemic"  # suffix of the column of the network's own part in an error
N_REJECTED = Column("n_rejected", "i8", "", "implausible draws that were redrawn", "meta.number")
TRAINING_DISTANCE = Column(
    "training_distance",
    "f8",
    "",
    "distance of the galaxy from the training set, in the network's features",
    "stat.fit.goodness",
)


def posterior_columns(
    space: ParameterSpace, id_width: int, n_samples: int = 0, epistemic: bool = False
) -> tuple[Column, ...]:
    """Return the columns of a table of posteriors.

    Args:
        space: the posterior's parameters.
        id_width: length of the longest id in bytes.
        n_samples: number of draws per galaxy in the table; 0 for none.
        epistemic: whether there are columns of the network's own part in the errors.
    """
    chosen, labels = [id_column(id_width), flags_column()], labels_of(space)
    for name in (*space.names, *combined_names(space)):
        unit = parameter_of(name)[0]
        mean = "circular mean" if plain_name(name) == "pa" else "mean"
        chosen += value_columns(name, unit, f"{mean} of the posterior")
        chosen += quantile_columns(name, unit, LEVELS)
        chosen += [_epistemic_column(name, unit)] if epistemic else []
    sizes = [label("r_eff_arcsec") for label in labels]
    sizes += ["r_eff_arcsec"] if combined_names(space) else []
    for name in sizes:
        chosen += value_columns(name, "arcsec", "mean of the posterior")
    for k, label in enumerate(labels):
        chosen += sky_columns(label, is_main=k == 0)
    chosen += [
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


def _epistemic_column(name: str, unit: str) -> Column:
    text = f"part of {name}_err that comes from the network's training"
    return Column(f"{name}{EPISTEMIC}", "f8", unit, text, ucd_of(plain_name(name), EPISTEMIC))


def posterior_rows(
    cutouts: Cutouts,
    posterior: Posterior,
    columns: Sequence[Column],
    epistemic: tuple[Tensor, Tensor] | None = None,
    whole: Draws | None = None,
) -> NDArray[np.void]:
    """Return one record per galaxy, in the order of ``cutouts``; positions are in the parent image.

    Args:
        cutouts: B galaxies.
        posterior: posteriors of the same galaxies, in cutout pixels.
        columns: see `posterior_columns`.
        epistemic: (B, Q) and (B, D) parts of the errors of the parameters and of what the
            components are together, see `hybridfit.npe.epistemic`.
        whole: `of_whole` of ``posterior``, where that is known.

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
    space = posterior.space
    mean = to_numpy(posterior.mean)
    _fill_parameters(rows, cutouts, posterior, mean, f"{space.names[0]}{DRAWS}" in wanted)
    _fill_whole(rows, cutouts, of_whole(posterior) if whole is None else whole)
    for label in labels_of(space):
        at = [space.names.index(label(name)) for name in ("x", "y", "q", "pa")]
        fill_sky(rows, cutouts, mean[:, at], label)
    if epistemic is not None:
        names = (*space.names, *sums_of(space))
        for name, value in zip(names, to_numpy(torch.cat(epistemic, dim=1)).T, strict=True):
            rows[f"{name}{EPISTEMIC}"] = value
    rows["id"] = [name.encode() for name in cutouts.id]
    label = labels_of(space)[0]
    lost = np.isnan(rows[label("ra")]) & np.isfinite(rows[label("x")])
    rows["notes"] = notes_of(cutouts, lost)
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
        for label in labels_of(posterior.space):
            size = rows[f"{label('r_eff')}{end}"]
            rows[f"{label('r_eff_arcsec')}{end}"] = size * to_numpy(cutouts.pixel_scale)


def _fill_whole(rows: NDArray[np.void], cutouts: Cutouts, whole: Draws) -> None:
    """Fill in means, deviations and quantiles of what components are together, if several."""
    if not isinstance(whole.space, CombinedParameters):
        return
    values = {"": to_numpy(whole.mean), "_err": to_numpy(whole.std)}
    quantiles = to_numpy(whole.quantiles(list(LEVELS.values())))
    values |= {f"_{end}": quantiles[:, j] for j, end in enumerate(LEVELS)}
    for end, value in values.items():
        for k, name in enumerate(whole.space.names):
            rows[f"{name}{end}"] = value[:, k]
    for end in ("", "_err"):
        rows[f"r_eff_arcsec{end}"] = rows[f"r_eff{end}"] * to_numpy(cutouts.pixel_scale)


def of_whole(posterior: Posterior) -> Draws:
    """Return draws of what the components are together; of one component those themselves."""
    space, samples = posterior.space, posterior.samples
    names = sums_of(space)
    if not isinstance(space, ParameterSpace) or not names:
        return posterior
    each = combined(samples.flatten(0, 1), space).view(*samples.shape[:2], -1)
    return Draws(CombinedParameters(names), each, posterior.weights)


def sums_of(space: Named) -> tuple[str, ...]:
    """Return the names of what the components are together; none of a single one."""
    return combined_names(space) if isinstance(space, ParameterSpace) else ()


def labels_of(space: Named) -> list[Callable[[str], str]]:
    """Return, for each component, what turns a plain name into that of its column."""
    if not isinstance(space, ParameterSpace):
        return [str]
    return [partial(space.label, k) for k in range(space.n_components)]
