"""The table of results: its columns, and the rows of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.neighbours import Neighbours
from hybridfit.data.positions import parent_shift
from hybridfit.data.result import FLUXES, QUALITY_COLUMNS, Quality, Result
from hybridfit.data.samples import Draws
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
from hybridfit.io.neighbour_table import COUNT, fill_neighbours, neighbour_columns
from hybridfit.io.table import Column, blank_rows, notes_of, parameter_of, to_numpy
from hybridfit.io.zeropoint_columns import fill_zeropoints, zeropoint_columns
from hybridfit.model.combined import (
    CombinedParameters,
    combined,
    combined_errors,
    combined_names,
)
from hybridfit.model.parameters import ParameterSpace

LEVELS = {"p16": 0.16, "p50": 0.5, "p84": 0.84}
QUALITY_WIDTH = max(len(quality.name) for quality in Quality)
QUALITY = Column(
    "quality",
    f"S{QUALITY_WIDTH}",
    "",
    "how far the numbers can be trusted: certified, usable or suspect",
    "meta.code.qual",
)
FLUX = (
    Column("flux", "f8", "", "total flux; without signal that forced at the target", "phot.flux"),
    Column("flux_err", "f8", "", "standard deviation of flux", ucd_of("flux", "_err")),
    Column(
        "flux_limit",
        "f8",
        "",
        "95 % upper limit of the flux where there is no signal",
        "phot.flux;stat.max",
    ),
    Column("mag_limit", "f8", "mag", "magnitude of flux_limit", "phot.mag;stat.min"),
)
QUALITY_OF_FIT = (
    Column(
        "chi2",
        "f8",
        "",
        "sum of (residual / sigma)^2 over the unmasked pixels",
        "stat.fit.chi2",
    ),
    Column("dof", "i8", "", "unmasked pixels minus free parameters", "stat.fit.dof"),
    Column("n_iter", "i8", "", "steps of the optimiser, accepted or not", "meta.number"),
    Column("ess", "f8", "", "effective number of draws", "meta.number"),
    Column(
        "pareto_k", "f8", "", "Pareto k of the draws' weights, reliable below 0.7", "stat.param"
    ),
    Column(
        "log_evidence",
        "f8",
        "",
        "ln of the evidence; compares models of the same cutout",
        "stat.likelihood",
    ),
    Column(
        "missed_mass",
        "f8",
        "",
        "share of the posterior that the network alone misses",
        "stat.probability",
    ),
    Column(
        "fit_network_distance",
        "f8",
        "",
        "distance between the fit and the network's posterior, in their joint errors",
        "stat.fit.goodness",
    ),
    Column(
        "flow_distance",
        "f8",
        "",
        "distance of the fit from the centre of the network's posterior; usually a few tenths",
        "stat.fit.goodness",
    ),
    Column(
        "catastrophic_probability",
        "f8",
        "",
        "probability that mag is off by 0.5 or r_eff by a factor of 2",
        "stat.probability",
    ),
)

COMBINED = "all components together, at the best fit"


def result_columns(
    space: ParameterSpace,
    id_width: int,
    covariance: bool = False,
    quantiles: bool = False,
    n_samples: int = 0,
    neighbours: bool = False,
) -> tuple[Column, ...]:
    """Return the columns of the table of results in ``space``.

    They do not depend on the galaxies: unknown values are NaN.

    Args:
        space: parameter space of the fit.
        id_width: bytes of the longest id.
        covariance: whether to include the covariance matrices.
        quantiles: whether there are draws to compute quantiles from.
        n_samples: number of draws kept per galaxy, with their weights; 0: none.
        neighbours: whether neighbours were fitted with the targets.
    """
    labels = _labels(space)
    sizes = [k for k, component in enumerate(space.components) if component.is_ellipse]
    names = [(name, parameter_of(name)[0]) for name in space.names]
    chosen = [id_column(id_width), flags_column(), QUALITY]
    for name, unit in [*names, *((labels[k]("r_eff_arcsec"), "arcsec") for k in sizes)]:
        chosen += value_columns(name, unit, "best fit")
        chosen += quantile_columns(name, unit, LEVELS) if quantiles else []
    for name in with_arcsec(combined_names(space)):
        chosen += value_columns(name, parameter_of(name)[0], COMBINED)
        chosen += quantile_columns(name, parameter_of(name)[0], LEVELS) if quantiles else []
    for k, label in enumerate(labels):
        ra, dec, pa = sky_columns(label, is_main=k == 0)
        chosen += [ra, dec, pa] if space.components[k].is_ellipse else [ra, dec]
    chosen += [*FLUX, *zeropoint_columns(), *QUALITY_OF_FIT, notes_column()]
    chosen += neighbour_columns() if neighbours else []
    if covariance:
        text, shape = f"covariance of {', '.join(space.names)}", (len(space.names),) * 2
        chosen.append(Column("covariance", "f8", "", text, "stat.covariance", shape))
    if n_samples:
        text = "weights of the draws, sum 1; all 0 where there are none"
        weight = Column("weight", "f8", "", text, "stat.weight", (n_samples,), DRAWN)
        chosen += [*draws_columns(space.names, n_samples), weight]
    return tuple(chosen)


def result_rows(cutouts: Cutouts, result: Result, columns: Sequence[Column]) -> NDArray[np.void]:
    """Return one record per galaxy, in the order of ``cutouts``; positions in the parent image.

    Args:
        cutouts: B galaxies.
        result: of the same galaxies, in pixels of the cutouts.
        columns: see `result_columns`.

    Returns:
        (B,) structured array, big-endian and packed: the bytes of a FITS table.

    Raises:
        ValueError: if numbers of results and galaxies differ, or there are more draws than columns.
    """
    if len(result) != len(cutouts):
        raise ValueError(f"{len(result)} fits came for {len(cutouts)} galaxies, expected one each")
    rows, wanted = blank_rows(len(cutouts), columns), {column.name: column for column in columns}
    fit, space = result.fit, result.fit.space
    shift = to_numpy(parent_shift(space.names, cutouts.origin))
    _fill_parameters(rows, cutouts, result, shift, f"{space.names[0]}_p50" in wanted)
    _fill_combined(rows, cutouts, result, f"{space.names[0]}_p50" in wanted)
    _fill_positions(rows, cutouts, to_numpy(fit.theta), space)
    rows["id"] = [name.encode() for name in cutouts.id]
    label = _labels(space)[0]
    lost = np.isnan(rows[label("ra")]) & np.isfinite(rows[label("x")])
    rows["notes"] = notes_of(cutouts, lost, result.notes)
    fill_zeropoints(rows, cutouts)
    rows["quality"] = [Quality(value).name.lower().encode() for value in result.quality.tolist()]
    for name in ("flags", "chi2", "dof", "n_iter"):
        rows[name] = to_numpy(getattr(fit, name))
    for name in (*QUALITY_COLUMNS, *FLUXES):
        rows[name] = to_numpy(getattr(result, name))
    rows["mag_limit"] = _mag_limit(rows["flux_limit"], to_numpy(cutouts.zeropoint))
    if COUNT in wanted:
        fill_neighbours(rows, cutouts, result.neighbours or Neighbours.none(len(cutouts)))
    if "covariance" in wanted:
        rows["covariance"] = to_numpy(fit.covariance)
    if "weight" in wanted:
        rows["weight"] = 0.0
        if result.draws is not None:
            _put_draws(rows, result.draws, shift, wanted["weight"].shape[0])
    return rows


def _mag_limit(
    flux_limit: NDArray[np.float64], zeropoint: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return limits (B,) in magnitudes, NaN where a flux's is not above 0."""
    return zeropoint - 2.5 * np.log10(np.where(flux_limit > 0, flux_limit, np.nan))


def _fill_parameters(
    rows: NDArray[np.void],
    cutouts: Cutouts,
    result: Result,
    shift: NDArray[np.float64],
    quantiles: bool,
) -> None:
    """Fill values, errors and optionally quantiles, in the parent image."""
    fit, space = result.fit, result.fit.space
    values = {"": to_numpy(fit.theta) + shift, "_err": to_numpy(fit.error)}
    if result.draws is not None and quantiles:
        found = to_numpy(result.draws.quantiles(list(LEVELS.values())))
        values |= {f"_{end}": found[:, j] + shift for j, end in enumerate(LEVELS)}
    scale = to_numpy(cutouts.pixel_scale)
    for end, value in values.items():
        for k, name in enumerate(space.names):
            rows[f"{name}{end}"] = value[:, k]
        for label, component in zip(_labels(space), space.components, strict=True):
            if component.is_ellipse:
                rows[f"{label('r_eff_arcsec')}{end}"] = rows[f"{label('r_eff')}{end}"] * scale


def with_arcsec(names: Sequence[str]) -> list[str]:
    """Return names of parameters with r_eff_arcsec behind r_eff."""
    return [one for name in names for one in (name, *(["r_eff_arcsec"] * (name == "r_eff")))]


def _fill_combined(
    rows: NDArray[np.void], cutouts: Cutouts, result: Result, quantiles: bool
) -> None:
    """Fill what several components are together; nothing for a single one."""
    fit, names = result.fit, combined_names(result.fit.space)
    if not names:
        return
    values = {"": to_numpy(combined(fit.theta, fit.space))}
    if result.draws is not None:
        samples = result.draws.samples
        each = combined(samples.flatten(0, 1), fit.space).view(*samples.shape[:2], -1)
        draws = Draws(CombinedParameters(names), each, result.draws.weights)
        values["_err"] = to_numpy(draws.std)
        if quantiles:
            found = to_numpy(draws.quantiles(list(LEVELS.values())))
            values |= {f"_{end}": found[:, j] for j, end in enumerate(LEVELS)}
    else:
        values["_err"] = to_numpy(combined_errors(fit.theta, fit.covariance, fit.space))
    scale = to_numpy(cutouts.pixel_scale)
    for end, value in values.items():
        for k, name in enumerate(names):
            rows[f"{name}{end}"] = value[:, k]
        rows[f"r_eff_arcsec{end}"] = rows[f"r_eff{end}"] * scale


def _fill_positions(
    rows: NDArray[np.void], cutouts: Cutouts, theta: NDArray[np.float64], space: ParameterSpace
) -> None:
    """Fill each component's place on the sky, from parameters (B, Q) in the cutouts."""
    for k, label in enumerate(_labels(space)):
        shape = ("q", "pa") if space.components[k].is_ellipse else ()
        at = [space.column(k, name) for name in ("x", "y", *shape)]
        fill_sky(rows, cutouts, theta[:, at], label)


def _put_draws(rows: NDArray[np.void], draws: Draws, shift: NDArray[np.float64], room: int) -> None:
    """Fill the columns of the draws; unused places have weight 0."""
    count = draws.samples.shape[1]
    if count > room:
        raise ValueError(f"{count} draws a galaxy came, expected {room} at most")
    samples = to_numpy(draws.samples) + shift[:, None]
    for k, name in enumerate(draws.space.names):
        rows[f"{name}{DRAWS}"][:, :count] = samples[..., k]
    rows["weight"][:, :count] = to_numpy(draws.weights)


def _labels(space: ParameterSpace) -> list[Callable[[str], str]]:
    """Return, for each component, what turns a plain name into that of its column."""
    return [partial(space.label, k) for k in range(space.n_components)]
