"""Agreement of two catalogues: bias, scatter, pulls, coverage, outliers, by groups and bins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import norm

from hybridfit.comparison.differences import (
    LOGARITHMIC,
    OUTLIER,
    PARAMETERS,
    Pairs,
    shared_parameters,
)
from hybridfit.data.column_facts import ColumnFacts, describe_columns
from hybridfit.io.references.catalogue import COLUMN, Array

ALL = "all"
NMAD = 1.4826  # ratio of a Gaussian's standard deviation to its median absolute deviation
LEAST = 25  # smallest number of galaxies in a bin
MOST_BINS = 4
SNR_EDGES = (0.0, 10.0, 30.0, 100.0, 300.0, math.inf)
# mag, and ratio: a larger offset whose scatter is below this ratio of it is constant
CONSTANT = 0.1, 0.25
PIXEL_OFF = 0.2  # pixels: an offset this close to 1 suggests another first pixel
TURNED = 10.0  # degrees: a difference this close to 90 suggests another axis

COLUMNS = {  # of the table of `summarise`
    "group": ColumnFacts("", "all, a quality, or a bin", "meta.code"),
    "parameter": ColumnFacts(
        "", "differences are ours - theirs, in ln for r_eff and n, wrapped for pa", "meta.id"
    ),
    "n": ColumnFacts("", "number of components with values on both sides", "meta.number"),
    "median": ColumnFacts("", "median difference", "stat.fit.residual;stat.median"),
    "mean": ColumnFacts(
        "", "mean difference, without catastrophic ones", "stat.fit.residual;stat.mean"
    ),
    "mean_err": ColumnFacts("", "standard error of the mean", "stat.error;stat.mean"),
    "rms": ColumnFacts("", "root mean square difference, without catastrophic ones", "stat.rms"),
    "nmad": ColumnFacts(
        "",
        "1.4826 times the median absolute deviation of the differences",
        "stat.fit.residual;stat.stdev",
    ),
    "pull_mean": ColumnFacts(
        "",
        "mean of differences over our errors, without catastrophic ones",
        "stat.fit.residual;stat.mean",
    ),
    "pull_std": ColumnFacts(
        "",
        "standard deviation of differences over our errors",
        "stat.fit.residual;stat.stdev",
    ),
    "pull_theirs_std": ColumnFacts(
        "",
        "standard deviation of differences over their errors",
        "stat.fit.residual;stat.stdev",
    ),
    "pull_both_std": ColumnFacts(
        "",
        "standard deviation of differences over both errors; over ours against a truth",
        "stat.fit.residual;stat.stdev",
    ),
    "pull_both_nmad": ColumnFacts(
        "", "1.4826 MAD of differences over both errors", "stat.fit.residual;stat.stdev"
    ),
    "cover_68": ColumnFacts(
        "",
        "fraction of their values in our 68 % interval; galaxies without a fit count as outside",
        "stat.probability",
    ),
    "cover_95": ColumnFacts(
        "", "fraction of their values in our 95 % interval", "stat.probability"
    ),
    "outliers": ColumnFacts(
        "", "fraction beyond 5 sigma, of both errors if both are known", "stat.probability"
    ),
    "galaxies": ColumnFacts("", "number of galaxies in the group", "meta.number"),
    "catastrophic": ColumnFacts(
        "", "galaxies off by 0.5 mag or a factor 2 in size, or without a fit", "meta.number"
    ),
}


def summarise(
    pairs: Pairs,
    quality: Sequence[str] = (),
    snr: Array | None = None,
    least: int = LEAST,
) -> Table:
    """Return the statistics of each group and parameter, with the columns of `COLUMNS`.

    Args:
        pairs: the pairs of one reference.
        quality: (M,) quality of each matched galaxy; "" if unknown.
        snr: (M,) signal-to-noise ratio of each matched galaxy; if None or all NaN, bins are in
            magnitude.
        least: smallest number of galaxies in a bin.
    """
    rows = []
    for group, some in groups(pairs, quality, snr, least):
        chosen = pairs[some]
        lost = set(chosen.galaxy[~chosen.near].tolist())
        counted = {"galaxies": len(set(chosen.galaxy.tolist())), "catastrophic": len(lost)}
        for name in shared_parameters(pairs):
            rows.append({"group": group, **figures(chosen, name), **counted})
    table = Table({c: [row[c] for row in rows] for c in COLUMNS})
    return describe_columns(table, COLUMNS)


def figures(pairs: Pairs, name: str) -> dict[str, float | int | str]:
    """Return the statistics of one parameter, see `COLUMNS`."""
    k = PARAMETERS.index(name)
    off = pairs.quoted[:, k]
    good = pairs.near & np.isfinite(off)
    some = off[good]
    everyone = off[np.isfinite(off)]
    both = pairs.pull_both[:, k]
    return {
        "parameter": f"ln {name}" if name in LOGARITHMIC else name,
        "n": len(everyone),
        "median": _of(np.median, everyone),
        "mean": _of(np.mean, some),
        "mean_err": _of(_standard_error, some),
        "rms": _of(lambda v: np.sqrt(np.mean(v**2)), some),
        "nmad": nmad(everyone),
        "pull_mean": _of(np.mean, _finite(pairs.pull[good, k])),
        "pull_std": _of(np.std, _finite(pairs.pull[good, k])),
        "pull_theirs_std": _of(np.std, _finite(pairs.pull_theirs[good, k])),
        "pull_both_std": _of(np.std, _finite(both[good])),
        "pull_both_nmad": nmad(_finite(both)),
        "cover_68": _of(np.mean, _finite(pairs.inside[:, 0, k])),
        "cover_95": _of(np.mean, _finite(pairs.inside[:, 1, k])),
        "outliers": _of(
            lambda v: np.mean(np.abs(v) > OUTLIER), _finite(outlier_pulls(pairs)[:, k])
        ),
    }


def outlier_pulls(pairs: Pairs) -> Array:
    """Return the pulls (P, 8) that define outliers: over both errors, or over the known one."""
    pull = pairs.pull_both
    for other in (pairs.pull, pairs.pull_theirs):
        pull = np.where(np.isfinite(pull), pull, other)
    return pull


def groups(
    pairs: Pairs, quality: Sequence[str], snr: Array | None, least: int = LEAST
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield names and members (P,): all, each quality, and bins with enough galaxies."""
    yield ALL, np.ones(len(pairs), bool)
    graded = np.array([str(q) for q in quality])
    if len(graded):
        for grade in ("certified", "usable", "suspect"):
            some = graded[pairs.galaxy] == grade
            if some.any():
                yield grade, some
    if snr is not None and np.isfinite(snr).any():
        yield from _bins("S/N", np.asarray(snr)[pairs.galaxy], SNR_EDGES, least)
        return
    mag = np.where(np.isfinite(pairs.theirs[:, 2]), pairs.theirs[:, 2], pairs.ours[:, 2])
    known = np.isfinite(mag)
    count = min(MOST_BINS, int(known.sum()) // least)
    if count > 1:
        inner = np.quantile(mag[known], np.arange(1, count) / count).round(1)
        edges = (-math.inf, *np.unique(inner).tolist(), math.inf)
        yield from _bins("mag", mag, edges, least)


def coverage_curve(pairs: Pairs, n_levels: int = 39) -> Table:
    """Return the fraction of theirs within Gaussian intervals about ours.

    The widths follow from our errors against a truth, else from both errors.

    Returns:
        Columns level, error (binomial) and one for each parameter.
    """
    level = np.arange(1, n_levels + 1) / (n_levels + 1)
    pull = np.abs(pairs.pull_both)
    columns = {}
    for name in shared_parameters(pairs):
        k = PARAMETERS.index(name)
        some = _finite(pull[:, k])
        if len(some):
            columns[name] = (some[:, None] <= norm.ppf(0.5 + level / 2)).mean(axis=0)
    error = np.sqrt(level * (1 - level) / max(len(pairs), 1))
    return Table({"level": level, "error": error, **columns})


def convention_warnings(pairs: Pairs) -> list[str]:
    """Return warnings of wrong conventions, seen as differences common to all galaxies."""
    warnings: list[str] = []
    off = pairs.difference
    if len(pairs) < 3:
        return warnings
    for name in ("x", "y"):
        some = _finite(off[:, COLUMN[name]])
        shift = _of(np.median, some)
        if abs(abs(shift) - 1) < PIXEL_OFF and nmad(some) < PIXEL_OFF:
            warnings.append(
                f"{name} differs by {shift:+.2f} pixels in nearly all galaxies: does one of the "
                "catalogues count pixels from 1? (first-pixel)"
            )
    mag = _finite(off[:, COLUMN["mag"]])
    shift, scatter = _of(np.median, mag), nmad(mag)
    if abs(shift) > CONSTANT[0] and scatter < CONSTANT[1] * abs(shift):
        warnings.append(
            f"magnitudes differ by {shift:+.3f} in nearly all galaxies: is it the zero point? "
            f"(zeropoint-offset {shift:+.3f})"
        )
    thin = pairs.ours[:, COLUMN["q"]] < 0.8
    turn = np.abs(_finite(off[thin, COLUMN["pa"]]))
    if len(turn) > 2 and abs(_of(np.median, turn) - 90) < TURNED:
        warnings.append(
            "position angles differ by 90 degrees in most galaxies: are they measured from the "
            "other axis? (pa-from)"
        )
    size, root = pairs.quoted[:, COLUMN["r_eff"]], 0.5 * np.log(pairs.ours[:, COLUMN["q"]])
    rest = _finite(size + root)  # ln(ours / theirs) = -ln(sqrt q) for circularised radii
    size, root = (v[np.isfinite(size + root)] for v in (size, root))
    follows = len(size) > 4 and np.std(root) > 0.1 and nmad(rest) < 0.3 * nmad(size)
    if follows and abs(np.median(rest)) < 0.05:
        warnings.append("sizes differ by sqrt(q): are theirs circularised? (size)")
    return warnings


def nmad(values: Array) -> float:
    """Return 1.4826 times the median absolute deviation; NaN for no values."""
    if not len(values):
        return math.nan
    return float(NMAD * np.median(np.abs(values - np.median(values))))


def _bins(
    name: str, values: Array, edges: Sequence[float], least: int
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for low, high in pairwise(edges):
        some = (values >= low) & (values < high)
        if int(some.sum()) >= least:
            ends = [f"{edge:g}" for edge in (low, high)]
            if not math.isfinite(high):
                yield f"{name} > {ends[0]}", some
            elif not math.isfinite(low) or low == 0:
                yield f"{name} < {ends[1]}", some
            else:
                yield f"{name} {ends[0]} to {ends[1]}", some


def _standard_error(values: Array) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _of(function: Callable[[Array], Any], values: Array) -> float:
    return float(function(values)) if len(values) else math.nan
