"""Convert tables of `hybridfit fit` and `predict` to a `Catalogue`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table

from hybridfit.data.flags import flag_names
from hybridfit.data.positions import plain_name
from hybridfit.io.read_results import Results, read_results
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array, Catalogue
from hybridfit.io.references.columns import texts
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.model.declaration import declared_scene

ESTIMATES = ("best", "median", "mean")
LEVELS = {0.025: "p025", 0.16: "p16", 0.5: "p50", 0.84: "p84", 0.975: "p975"}

INDICES = {"exponential": 1.0, "devaucouleurs": 4.0, "gaussian": 0.5}  # Sersic indices of profiles


def read_own(path: Path, options: ReferenceOptions = ReferenceOptions()) -> Catalogue:
    """Read the table of a finished run.

    Raises:
        UsageError: if there is no table.
        ValueError: if it lacks a column.
    """
    return own_catalogue(read_results(path), options.name or path.name, "best", options)


def own_catalogue(
    results: Results,
    name: str = "hybridfit",
    estimate: str = "best",
    options: ReferenceOptions = ReferenceOptions(),
) -> Catalogue:
    """Convert a table of results to a catalogue.

    Args:
        results: returned by `read_results`.
        name: the catalogue's name in the report.
        estimate: "best" is the best fit (for `predict` the mean), "median" the posterior
            median, "mean" the mean of the draws written with ``--save-samples``.
        options: the format of ids, if the table is a reference.

    Raises:
        ValueError: if the table lacks the estimate, or has no Sersic parameters.
    """
    table = results.table
    labels = _labels(results)
    quantiles = _quantiles(table, labels)
    values, errors = _estimated(results, labels, quantiles, estimate)
    flags = _filled(table, "flags").astype(np.int64)
    return Catalogue(
        name=name,
        kind="hybridfit",
        id=[options.as_ours(id) for id in texts(table["id"])],
        aliases=_feedmes(table),
        values=values,
        errors=errors,
        sky=_sky(table),
        world=_columns(table, [labels[0].format(column) for column in ("ra", "dec")]),
        chi2_dof=_columns(table, ("chi2", "dof")),
        flagged=[flag_names(value, " ") for value in flags.tolist()],
        quantiles=quantiles,
        quality=texts(table["quality"]) if "quality" in table.colnames else "",
        notes=() if estimate == "best" else (f"values are the {estimate} of the posterior",),
    )


def _estimated(
    results: Results, labels: Sequence[str], quantiles: dict[float, Array], estimate: str
) -> tuple[Array, Array]:
    """Return values and errors (N, K, 7) of the requested estimate."""
    values, errors = (_parameters(results.table, labels, end) for end in ("", "_err"))
    _fill_indices(values, results)
    if estimate == "median":
        values = _median(quantiles, results.path)
    elif estimate == "mean":
        values, errors = _means(results, labels)
    elif estimate != "best":
        raise ValueError(f"estimate is '{estimate}', expected one of {', '.join(ESTIMATES)}")
    values[..., COLUMN["pa"]] %= 180.0
    return values, errors


def _columns(table: Table, names: Sequence[str]) -> Array:
    """Return columns of a table as (N, len(names)), NaN for missing columns."""
    nothing = np.full(len(table), np.nan)
    found = [_filled(table, name) if name in table.colnames else nothing for name in names]
    return np.stack(found, axis=1)


def _labels(results: Results) -> list[str]:
    """Return the names of each component's columns, see `component_labels`.

    Raises:
        ValueError: if there are none.
    """
    labels = component_labels(results.table.colnames)
    if not labels:
        raise ValueError(
            f"the table of '{results.path}' has no columns {', '.join(NAMES)}: expected a table of "
            "hybridfit fit or predict"
        )
    return labels


def _fill_indices(values: Array, results: Results) -> None:
    """Fill the Sersic index of profiles that have a fixed one."""
    model = results.settings.get("fit", {}).get("model")
    try:
        components = declared_scene(model).components if model else ()
    except (ValueError, OSError):  # a table of somebody else's version
        return
    for k, component in enumerate(components[: values.shape[1]]):
        if component.profile in INDICES:
            known = np.isfinite(values[:, k, COLUMN["mag"]])
            values[known, k, COLUMN["n"]] = INDICES[component.profile]


def _quantiles(table: Table, labels: Sequence[str]) -> dict[float, Array]:
    """Return the table's quantiles (N, K, 7), by level."""
    return {
        level: _parameters(table, labels, f"_{end}")
        for level, end in LEVELS.items()
        if f"{labels[0].format('x')}_{end}" in table.colnames
    }


def _sky(table: Table) -> Array:
    """Return the sky's level, its error and its slopes (N, 4)."""
    sky = _columns(table, ("sky", "sky_err", "sky_dx", "sky_dy"))
    sky[:, 2:] = np.nan_to_num(sky[:, 2:])  # a constant sky has no slope columns
    return sky


def _parameters(table: Table, labels: Sequence[str], end: str) -> Array:
    """Return parameter columns with this suffix as (N, K, 7), NaN for missing columns."""
    names = [f"{label.format(name)}{end}" for label in labels for name in NAMES]
    return _columns(table, names).reshape(len(table), len(labels), len(NAMES))


def component_labels(names: Sequence[str]) -> list[str]:
    """Return what makes a column's name of a parameter's, for each component of a table.

    That is "{}" for ``mag``, "{}_1" for ``mag_1``, and "bulge_{}" for ``bulge_mag``.
    """
    if "x" in names and "mag" in names:
        return ["{}"]
    numbers = [int(m[1]) for name in names if (m := re.fullmatch(r"mag_(\d+)", name))]
    if numbered := [f"{{}}_{k}" for k in sorted(numbers) if f"x_{k}" in names]:
        return numbered
    known = [name.removesuffix("_mag") for name in names if name.endswith("_mag")]
    return [f"{name}_{{}}" for name in known if {f"{name}_x", f"{name}_y"} <= set(names)]


def _feedmes(table: Table) -> list[tuple[str, ...]]:
    """Return the GALFIT input files of a run, which identify GALFIT's output."""
    if "feedme" not in table.colnames:
        return [()] * len(table)
    return [(str(Path(path).resolve()),) if path else () for path in texts(table["feedme"])]


def _median(quantiles: dict[float, Array], path: Path) -> Array:
    if 0.5 not in quantiles:
        raise ValueError(
            f"the table of '{path}' has no medians (_p50): they need the posterior or a "
            "bootstrap; use estimate best"
        )
    return quantiles[0.5].copy()


def _means(results: Results, labels: Sequence[str]) -> tuple[Array, Array]:
    """Return means and standard deviations of the draws, circular ones for angles."""
    own = [label.format(name) for label in labels for name in NAMES]
    names = [name for name in own if name in results.drawn]
    if not names or not set(own) & set(results.table.colnames) <= set(names):
        raise ValueError(
            f"the table of '{results.path}' has no draws: estimate mean needs a run with "
            "--save-samples; use best or median"
        )
    chosen = [results.drawn.index(name) for name in names]
    where = [own.index(name) for name in names]
    mean = np.full((len(results.table), len(own)), np.nan)
    deviation = mean.copy()
    angular = [plain_name(name) == "pa" for name in names]
    for i in range(len(results.table)):
        samples, weights = results.draws(i)
        if not len(samples):
            continue
        samples, share = samples[:, chosen], weights / weights.sum()
        centre = np.degrees(np.angle(share @ np.exp(2j * np.radians(samples)))) / 2
        turned = centre + (samples - centre + 90.0) % 180.0 - 90.0
        samples = np.where(angular, turned, samples)
        mean[i, where] = share @ samples
        deviation[i, where] = np.sqrt(share @ (samples - mean[i, where]) ** 2)
    shape = (len(mean), len(labels), len(NAMES))
    return mean.reshape(shape), deviation.reshape(shape)


def _filled(table: Table, name: str) -> Array:
    return np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)
