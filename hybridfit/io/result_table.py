"""The results table: its columns with units and descriptions, and its rows from a result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.result import FLUXES, QUALITY_COLUMNS, Quality, Result
from hybridfit.data.samples import Draws
from hybridfit.io.sky_positions import on_sky
from hybridfit.io.table import (
    MESSAGE_WIDTH,
    Column,
    blank_rows,
    messages_of,
    parameter_of,
    plain_name,
    to_numpy,
)
from hybridfit.io.zeropoint_columns import fill_zeropoints, zeropoint_columns
from hybridfit.model.parameters import ParameterSpace

LEVELS = {"p16": 0.16, "p50": 0.5, "p84": 0.84}
QUALITY_WIDTH = max(len(quality.name) for quality in Quality)


def result_columns(
    space: ParameterSpace,
    id_width: int,
    covariance: bool = False,
    quantiles: bool = False,
    n_samples: int = 0,
) -> tuple[Column, ...]:
    """Return the columns of the table of results in ``space``.

    They do not depend on what is known of a galaxy: values that are not known are NaN.

    Args:
        space: of the fit.
        id_width: bytes of the longest id.
        covariance: whether the covariance matrices are wanted.
        quantiles: whether there are draws to take quantiles of.
        n_samples: draws of each galaxy that are columns too, with their weights; 0: none.
    """
    chosen = [
        Column("id", f"S{max(id_width, 1)}", "", "name of the galaxy"),
        Column("flags", "i8", "", "bits, see hybridfit.describe_flags; 0: clean"),
        Column(
            "quality",
            f"S{QUALITY_WIDTH}",
            "",
            "certified, usable or suspect: how far the numbers can be trusted",
        ),
    ]
    sizes = [(f"r_eff_arcsec{tail}", "arcsec") for tail in _components(space)]
    for name, unit in [*((name, parameter_of(name)[0]) for name in space.names), *sizes]:
        chosen += _parameter_columns(name, unit, quantiles)
    for tail in _components(space):
        chosen += [
            Column(f"ra{tail}", "f8", "deg", "right ascension of x, y, ICRS"),
            Column(f"dec{tail}", "f8", "deg", "declination of x, y, ICRS"),
            Column(f"pa_sky{tail}", "f8", "deg", "position angle East of North, in [0, 180)"),
        ]
    chosen += [
        Column("flux", "f8", "", "total flux; without signal that forced at the target"),
        Column("flux_err", "f8", "", "standard deviation of flux"),
        Column("flux_limit", "f8", "", "95 % upper limit of flux where there is no signal"),
        Column("mag_limit", "f8", "mag", "magnitude of flux_limit"),
        *zeropoint_columns(),
        Column("chi2", "f8", "", "sum of (residual / sigma)^2 over the unmasked pixels"),
        Column("dof", "i8", "", "unmasked pixels minus free parameters"),
        Column("n_iter", "i8", "", "steps of the optimiser, accepted or not"),
        Column("ess", "f8", "", "effective number of draws"),
        Column("khat", "f8", "", "Pareto k of the draws' weights, below 0.7 where they are fine"),
        Column("log_evidence", "f8", "", "ln of the evidence, comparable within a cutout"),
        Column("missed", "f8", "", "share of the posterior that the network alone had missed"),
        Column("disagreement", "f8", "", "distance of fit and network's posterior, in sigma"),
        Column(
            "flow_distance",
            "f8",
            "",
            "of the fit in the network's posterior; some tenths are usual",
        ),
        Column("risk", "f8", "", "chance that mag is off by 0.5 or r_eff by a factor 2"),
        Column("message", f"S{MESSAGE_WIDTH}", "", "what else is to be known of this galaxy"),
    ]
    if covariance:
        text = f"covariance of {', '.join(space.names)}"
        chosen.append(Column("covariance", "f8", "", text, (len(space.names),) * 2))
    if n_samples:
        for name in space.names:
            text = f"draws of {name}, to be weighted"
            chosen.append(
                Column(f"{name}_samples", "f8", parameter_of(name)[0], text, (n_samples,))
            )
        text = "weights of the draws, sum 1; all 0 where there are none"
        chosen.append(Column("weight", "f8", "", text, (n_samples,)))
    return tuple(chosen)


def _parameter_columns(name: str, unit: str, quantiles: bool) -> list[Column]:
    plain = plain_name(name)
    text = parameter_of("r_eff")[1] if plain == "r_eff_arcsec" else parameter_of(name)[1]
    chosen = [
        Column(name, "f8", unit, f"{text}; best fit"),
        Column(f"{name}_err", "f8", unit, f"standard deviation of {name}"),
    ]
    near = ", within 90 deg of the mean" if plain == "pa" else ""
    if quantiles:
        chosen += [
            Column(f"{name}_{end}", "f8", unit, f"{100 * level:g} % quantile of {name}{near}")
            for end, level in LEVELS.items()
        ]
    return chosen


def result_rows(cutouts: Cutouts, result: Result, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return one record a galaxy, in the order of ``cutouts``; positions in the parent image.

    Args:
        cutouts: B galaxies.
        result: of the same galaxies, in stamp pixels.
        columns: see `result_columns`.

    Returns:
        (B,) structured array, big-endian and packed: the bytes of a FITS table.

    Raises:
        ValueError: if there are not as many results as galaxies, or more draws than columns.
    """
    if len(result) != len(cutouts):
        raise ValueError(f"{len(result)} fits came for {len(cutouts)} galaxies, expected one each")
    fit, space = result.fit, result.fit.space
    rows = blank_rows(len(cutouts), columns)
    wanted = {column.name: column for column in columns}
    origin, scale = to_numpy(cutouts.origin), to_numpy(cutouts.pixel_scale)
    values = {"": to_numpy(fit.theta), "_err": to_numpy(fit.error)}
    if result.draws is not None and f"{space.names[0]}_p50" in wanted:
        quantiles = to_numpy(result.draws.quantiles(list(LEVELS.values())))
        values |= {f"_{end}": quantiles[:, j] for j, end in enumerate(LEVELS)}
    shift = _shift(space, origin)
    for end, value in values.items():
        moved = value if end == "_err" else value + shift
        for k, name in enumerate(space.names):
            rows[f"{name}{end}"] = moved[:, k]
        for tail in _components(space):
            rows[f"r_eff_arcsec{tail}{end}"] = rows[f"r_eff{tail}{end}"] * scale
    for tail in _components(space):
        at = [space.names.index(f"{name}{tail}") for name in ("x", "y", "q", "pa")]
        sky = [on_sky(w, *t) for w, t in zip(cutouts.wcs, values[""][:, at], strict=True)]
        for k, name in enumerate(("ra", "dec", "pa_sky")):
            rows[f"{name}{tail}"] = [position[k] for position in sky]
    rows["id"] = [name.encode() for name in cutouts.id]
    tail = _components(space)[0]
    lost = np.isnan(rows[f"ra{tail}"]) & np.isfinite(rows[f"x{tail}"])
    rows["message"] = messages_of(cutouts, lost, result.notes)
    fill_zeropoints(rows, cutouts)
    rows["quality"] = [Quality(value).name.lower().encode() for value in result.quality.tolist()]
    for name in ("flags", "chi2", "dof", "n_iter"):
        rows[name] = to_numpy(getattr(fit, name))
    for name in (*QUALITY_COLUMNS, *FLUXES):
        rows[name] = to_numpy(getattr(result, name))
    limit = np.where(rows["flux_limit"] > 0, rows["flux_limit"], np.nan)
    rows["mag_limit"] = to_numpy(cutouts.zeropoint) - 2.5 * np.log10(limit)
    if "covariance" in wanted:
        rows["covariance"] = to_numpy(fit.covariance)
    if "weight" in wanted:
        rows["weight"] = 0.0
        if result.draws is not None:
            _put_draws(rows, result.draws, shift, wanted["weight"].shape[0])
    return rows


def _shift(space: ParameterSpace, origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, Q) what leads from the stamp's pixels to those of the parent image."""
    shift = np.zeros((len(origin), len(space.names)))
    for k, name in enumerate(space.names):
        if plain_name(name) in ("x", "y"):
            shift[:, k] = origin[:, "xy".index(plain_name(name))]
    return shift


def _put_draws(rows: NDArray[np.void], draws: Draws, shift: NDArray[np.float64], room: int) -> None:
    """Fill the columns of the draws; fewer than there is room for leave weights of 0."""
    count = draws.samples.shape[1]
    if count > room:
        raise ValueError(f"{count} draws a galaxy came, expected {room} at most")
    samples = to_numpy(draws.samples) + shift[:, None]
    for k, name in enumerate(draws.space.names):
        rows[f"{name}_samples"][:, :count] = samples[..., k]
    rows["weight"][:, :count] = to_numpy(draws.weights)


def _components(space: ParameterSpace) -> list[str]:
    """What stands behind the names of each component: "" if there is one, else _1, _2..."""
    several = len(space.shapes) > 1
    return [f"_{k}" if several else "" for k in range(1, len(space.shapes) + 1)]
