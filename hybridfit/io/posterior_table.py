"""The posterior's table: its columns, and its rows from draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.samples import Posterior
from hybridfit.io.sky_positions import on_sky
from hybridfit.io.table import (
    MESSAGE_WIDTH,
    Column,
    messages_of,
    parameter_of,
    plain_name,
    record_type,
    to_numpy,
)
from hybridfit.io.zeropoint_columns import fill_zeropoints, zeropoint_columns
from hybridfit.model.parameters import ParameterSpace

LEVELS = {"p025": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p975": 0.975}


def posterior_columns(
    space: ParameterSpace, id_width: int, n_samples: int = 0
) -> tuple[Column, ...]:
    """Return the columns of the table of posteriors in ``space``, one Sersic profile and a sky.

    Args:
        space: of the posterior.
        id_width: bytes of the longest id.
        n_samples: draws of each galaxy that are columns too; 0: none.
    """
    chosen = [
        Column("id", f"S{max(id_width, 1)}", "", "name of the galaxy"),
        Column("flags", "i8", "", "bits, see hybridfit.describe_flags; 0: clean"),
    ]
    for name in space.names:
        unit, text = parameter_of(name)
        angle = plain_name(name) == "pa"
        mean = "circular mean" if angle else "mean"
        near = ", within 90 deg of the mean" if angle else ""
        chosen.append(Column(name, "f8", unit, f"{text}; {mean} of the posterior"))
        chosen.append(Column(f"{name}_err", "f8", unit, f"standard deviation of {name}"))
        chosen += [
            Column(f"{name}_{end}", "f8", unit, f"{100 * level:g} % quantile of {name}{near}")
            for end, level in LEVELS.items()
        ]
    chosen += [
        Column("r_eff_arcsec", "f8", "arcsec", "half-light radius along the major axis"),
        Column("r_eff_arcsec_err", "f8", "arcsec", "standard deviation of r_eff_arcsec"),
        Column("ra", "f8", "deg", "right ascension of x, y, ICRS"),
        Column("dec", "f8", "deg", "declination of x, y, ICRS"),
        Column("pa_sky", "f8", "deg", "position angle East of North, in [0, 180)"),
        *zeropoint_columns(),
        Column("n_rejected", "i8", "", "draws that were implausible and drawn again"),
        Column("distance", "f8", "", "of the network's context from those it was trained on"),
        Column("message", f"S{MESSAGE_WIDTH}", "", "what else is to be known of this galaxy"),
    ]
    if n_samples:
        chosen += [
            Column(f"{name}_samples", "f8", parameter_of(name)[0], f"draws of {name}", (n_samples,))
            for name in space.names
        ]
        text = "log density of the draws in whitened free parameters, ln(flux) and sky"
        chosen.append(Column("log_prob", "f8", "", text, (n_samples,)))
    return tuple(chosen)


def posterior_rows(
    cutouts: Cutouts, posterior: Posterior, columns: Sequence[Column]
) -> NDArray[np.void]:
    """Return one record a galaxy, in the order of ``cutouts``; positions in the parent image.

    Args:
        cutouts: B galaxies.
        posterior: of the same galaxies, in stamp pixels.
        columns: see `posterior_columns`.

    Returns:
        (B,) structured array, big-endian and packed.

    Raises:
        ValueError: if there are not as many posteriors as galaxies.
    """
    if len(posterior) != len(cutouts):
        raise ValueError(
            f"{len(posterior)} posteriors came for {len(cutouts)} galaxies, expected one each"
        )
    rows = np.zeros(len(cutouts), dtype=record_type(columns))
    wanted = {column.name for column in columns}
    mean, error = to_numpy(posterior.mean), to_numpy(posterior.std)
    quantiles = to_numpy(posterior.quantiles(list(LEVELS.values())))
    origin, scale = to_numpy(cutouts.origin), to_numpy(cutouts.pixel_scale)
    for k, name in enumerate(posterior.space.names):
        axis = {"x": 0, "y": 1}.get(plain_name(name))
        shift = origin[:, axis] if axis is not None else np.zeros(len(cutouts))
        rows[name] = mean[:, k] + shift
        rows[f"{name}_err"] = error[:, k]
        for j, end in enumerate(LEVELS):
            rows[f"{name}_{end}"] = quantiles[:, j, k] + shift
        if f"{name}_samples" in wanted:
            rows[f"{name}_samples"] = to_numpy(posterior.samples[..., k]) + shift[:, None]
    for end in ("", "_err"):
        rows[f"r_eff_arcsec{end}"] = rows[f"r_eff{end}"] * scale
    at = [posterior.space.names.index(name) for name in ("x", "y", "q", "pa")]
    sky = [on_sky(w, *t) for w, t in zip(cutouts.wcs, mean[:, at], strict=True)]
    for k, name in enumerate(("ra", "dec", "pa_sky")):
        rows[name] = [values[k] for values in sky]
    rows["id"] = [name.encode() for name in cutouts.id]
    rows["message"] = messages_of(cutouts, np.isnan(rows["ra"]) & np.isfinite(rows["x"]))
    fill_zeropoints(rows, cutouts)
    rows["flags"], rows["distance"] = to_numpy(posterior.flags), to_numpy(posterior.distance)
    rows["n_rejected"] = to_numpy(posterior.rejected)
    if "log_prob" in wanted:
        rows["log_prob"] = to_numpy(posterior.log_prob)
    return rows
