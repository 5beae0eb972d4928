"""Calibration and sharpness of posteriors: coverage, ranks, pulls, width over the limit.

Ranks and coverage test whether stated probabilities are true; they cannot distinguish a sharp
posterior from one that ignores the data, but the width over the Cramer-Rao limit can. All
diagnostics use `SbcSamples`: N galaxies drawn from the prior, with posterior draws and truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybridfit.calibration.diagnostics import coverage, pulls, ranks, usable, width_over_limit
from hybridfit.calibration.sbc_samples import Array, SbcSamples, weighted_quantiles
from hybridfit.calibration.table_columns import RANKS, SUMMARY, describe_curve
from hybridfit.data.column_facts import describe_columns
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option

INTERVALS = (0.68, 0.95)
ALL = "all"


@dataclass(frozen=True)
class CalibrationOptions:
    """Bins of the tables, and targets of the calibration.

    The last edge of a bin may be infinite. Targets are absolute: the tables list the binomial
    error of each coverage beside it for comparison.
    """

    snr_edges: tuple[float, ...] = option(
        (3.0, 10.0, 30.0, 100.0, 300.0, math.inf), help="bin edges in signal-to-noise ratio"
    )
    r_eff_edges: tuple[float, ...] = option(
        (0.0, 1.0, 2.0, 4.0, 8.0, math.inf),
        help="bin edges in half-light radius",
        unit="pix",
    )
    n_edges: tuple[float, ...] = option(
        (0.0, 1.0, 2.0, 4.0, math.inf), help="bin edges in Sersic index"
    )
    rank_bins: int = option(20, help="number of bins in histograms of ranks", low=2)
    min_count: int = option(100, help="smallest number of galaxies in a bin for a verdict", low=1)
    tolerance_68: float = option(
        0.03, help="allowed error of the coverage of 68 % intervals, for all galaxies"
    )
    tolerance_95: float = option(
        0.02, help="allowed error of the coverage of 95 % intervals, for all galaxies"
    )
    tolerance_bin: float = option(0.06, help="allowed error of both coverages in a bin")
    width: tuple[float, ...] = option(
        (1.15, 1.15, 1.15, 1.35, 2.1),
        help="allowed width of posteriors over the Cramer-Rao limit, for each bin of snr_edges",
    )
    p_value: float = option(
        1e-3, help="smallest allowed p-value of uniform ranks, for each parameter"
    )

    def __post_init__(self) -> None:
        check_fields(self, "calibrate")
        for name in ("snr_edges", "r_eff_edges", "n_edges", "width"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        for name in ("snr_edges", "r_eff_edges", "n_edges"):
            edges = getattr(self, name)
            if len(edges) < 2 or not all(a < b for a, b in pairwise(edges)):
                raise ValueError(f"{name} is {edges}, expected at least two increasing numbers")
        if len(self.width) != len(self.snr_edges) - 1:
            raise ValueError(
                f"width has {len(self.width)} numbers, expected {len(self.snr_edges) - 1}, one "
                "for each bin of snr_edges"
            )


@dataclass(frozen=True)
class Calibration:
    """The tables of one calibration.

    Args:
        table: one row per bin and parameter, see `summarise`.
        curve: coverage at many levels, see `coverage_curve`.
        uniform: tests and histograms of the ranks, see `uniformity`.
        ranks: (N, P), see `ranks`.
        width: (N, P) widths of the posteriors over the limit; NaN without a limit.
    """

    table: Table
    curve: Table
    uniform: Table
    ranks: Array
    width: Array


def calibrate(
    sbc: SbcSamples,
    snr: ArrayLike,
    limit: ArrayLike | None = None,
    options: CalibrationOptions = CalibrationOptions(),
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Calibration:
    """Run all diagnostics but TARP (see `hybridfit.calibration.tarp`).

    Galaxies are binned by the posterior median of size and index. For galaxies of a given true
    index even an exact posterior does not have nominal coverage, because the prior pulls it
    towards the middle: coverage is defined only for selections that depend on the data alone.
    The same applies to the signal-to-noise ratio, but the data determine it so well that the
    true value may be used.

    Args:
        sbc: N galaxies; those without draws or with a non-finite truth are left out.
        snr: (N,) signal-to-noise ratios.
        limit: (N, P) standard deviations at the Cramer-Rao limit; None omits the widths.
        options: bins and targets.
        groups: (N,) masks of galaxies that get their own rows, by name.

    Raises:
        ValueError: if shapes disagree, or no galaxy is left.
    """
    snr = np.asarray(snr, dtype=np.float64)
    used = _checked_usable(sbc, snr)
    kept = sbc[used]
    bins = {"snr": snr[used], **_medians(kept)}
    rank = ranks(kept)
    ratio = np.full(rank.shape, np.nan)
    if limit is not None:
        ratio = width_over_limit(kept, np.asarray(limit, dtype=np.float64)[used])
    groups = {name: np.asarray(members)[used] for name, members in (groups or {}).items()}
    table = summarise(kept, rank, ratio, bins, options, groups)
    table.meta["galaxies"], table.meta["left_out"] = int(used.sum()), int((~used).sum())
    curve, uniform = coverage_curve(rank, kept.names), uniformity(rank, kept.names, options)
    return Calibration(table, curve, uniform, _in_all_rows(rank, used), _in_all_rows(ratio, used))


def coverage_curve(rank: Array, names: Sequence[str], n_levels: int = 39) -> Table:
    """Return the fraction of truths inside the central interval, for levels from 0 to 1.

    Returns:
        Columns ``level``, ``error`` (binomial, for a calibrated posterior) and one for each
        parameter.
    """
    level = np.arange(1, n_levels + 1) / (n_levels + 1)
    curve = Table({"level": level, "error": np.sqrt(level * (1 - level) / max(len(rank), 1))})
    inside = np.stack([coverage(rank, v).mean(axis=0) for v in level])
    for j, name in enumerate(names):
        curve[name] = inside[:, j]
    return describe_curve(curve)


def uniformity(
    rank: Array, names: Sequence[str], options: CalibrationOptions = CalibrationOptions()
) -> Table:
    """Test whether the ranks of each parameter are uniform.

    Returns:
        One row per parameter: chi2 over equal bins and its p-value, the Kolmogorov-Smirnov
        distance and its p-value, the histogram (rank_bins,), and the verdict, "pass" if both
        p-values are at least ``options.p_value``.
    """
    rows = []
    for j, name in enumerate(names):
        count, _ = np.histogram(rank[:, j], options.rank_bins, (0.0, 1.0))
        chi2, chi2_p = stats.chisquare(count)
        distance, ks_p = stats.kstest(rank[:, j], "uniform")
        verdict = _verdict(min(chi2_p, ks_p) >= options.p_value, len(rank), options)
        rows.append((name, len(rank), chi2, chi2_p, distance, ks_p, count, verdict))
    return describe_columns(Table(rows=rows, names=list(RANKS)), RANKS)


def summarise(
    sbc: SbcSamples,
    rank: Array,
    ratio: Array,
    bins: dict[str, NDArray],
    options: CalibrationOptions = CalibrationOptions(),
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Table:
    """Return one row per bin and parameter, and one per bin for all parameters together.

    Args:
        sbc: N galaxies.
        rank: (N, P) from `ranks`.
        ratio: (N, P) from `width_over_limit`.
        bins: (N,) the binned quantities: snr, and r_eff and n if they are parameters.
        options: edges and targets.
        groups: (N,) masks of further selections, by name.

    Returns:
        Columns: ``bin`` ("all", the quantity, or the group) and its edges ``low`` and ``high``,
        ``parameter``, ``n`` galaxies; ``cover_68``, ``cover_95`` and their binomial errors;
        ``pull_mean`` and ``pull_std``; ``width``, the median over the limit. The parameter
        "all" has the mean coverage and the median of the widths. ``verdict_cover`` and
        ``verdict_width`` are "pass", "fail", "few" (galaxies), or empty without a target.
    """
    pull = pulls(sbc)
    rows = []
    for quantity, number, low, high, members in _selections(bins, options, groups or {}):
        found = _figures(rank[members], pull[members], ratio[members])
        count = int(members.sum())
        errors = [math.sqrt(p * (1 - p) / max(count, 1)) for p in INTERVALS]
        for name, figures in zip((*sbc.names, ALL), found, strict=True):
            covered = (figures[0], errors[0], figures[1], errors[1])
            verdicts = _verdicts(quantity, number, name, figures, count, options)
            rows.append((quantity, low, high, name, count, *covered, *figures[2:], *verdicts))
    return describe_columns(Table(rows=rows, names=list(SUMMARY)), SUMMARY)


def _verdicts(
    quantity: str,
    number: int,
    name: str,
    figures: Sequence[float],
    count: int,
    options: CalibrationOptions,
) -> tuple[str, str]:
    """Return the verdicts on coverage and width for a row of `summarise`; "" without a target."""
    tolerance = (options.tolerance_bin,) * 2
    if quantity == ALL:
        tolerance = (options.tolerance_68, options.tolerance_95)
    if name != ALL:
        good = all(
            abs(covered - level) <= allowed
            for covered, level, allowed in zip(figures[:2], INTERVALS, tolerance, strict=True)
        )
        return _verdict(good, count, options), ""
    if quantity == "snr" and np.isfinite(figures[4]):
        return "", _verdict(figures[4] <= options.width[number], count, options)
    return "", ""


def _checked_usable(sbc: SbcSamples, snr: Array) -> NDArray[np.bool_]:
    """Return which galaxies (N,) are usable; raise ValueError if none is, or for a wrong snr."""
    if snr.shape != (len(sbc),):
        raise ValueError(f"snr has shape {snr.shape}, expected {(len(sbc),)}")
    used = usable(sbc)
    if not used.any():
        raise ValueError("no galaxy has finite draws and a finite truth: nothing to calibrate")
    return used


def _medians(sbc: SbcSamples) -> dict[str, Array]:
    """Return the posterior medians (N,) of size and index, if they are parameters."""
    columns = {name: sbc.names.index(name) for name in ("r_eff", "n") if name in sbc.names}
    middle = weighted_quantiles(sbc.samples, (0.5,), sbc.weights)[0]
    return {name: middle[:, j] for name, j in columns.items()}


def _selections(
    bins: dict[str, NDArray],
    options: CalibrationOptions,
    groups: Mapping[str, NDArray[np.bool_]],
) -> Iterator[tuple[str, int, float, float, NDArray[np.bool_]]]:
    """Yield quantity, bin number, edges and members (N,): first all galaxies, then each bin."""
    yield ALL, 0, -math.inf, math.inf, np.ones(len(bins["snr"]), bool)
    for quantity, value in bins.items():
        edges = getattr(options, f"{quantity}_edges")
        for number, (low, high) in enumerate(pairwise(edges)):
            yield quantity, number, low, high, (value >= low) & (value < high)
    for name, members in groups.items():
        yield name, 0, -math.inf, math.inf, members


def _figures(rank: Array, pull: Array, ratio: Array) -> list[tuple[float, ...]]:
    """Return coverages, mean and std of the pulls, and width for each parameter, then for all."""
    count = rank.shape[1]
    if len(rank) == 0:
        return [(math.nan,) * 5] * (count + 1)
    covered = [coverage(rank, level).mean(axis=0) for level in INTERVALS]
    # a single infinite width or pull must not dominate
    finite = np.where(np.isfinite(pull), pull, np.nan)
    known = np.isfinite(finite).any(axis=0)
    mean, std, width = (np.full(count, np.nan) for _ in range(3))
    mean[known], std[known] = np.nanmean(finite[:, known], 0), np.nanstd(finite[:, known], 0)
    known = ~np.isnan(ratio).all(axis=0)
    width[known] = np.nanmedian(ratio[:, known], axis=0)
    each = [tuple(float(v[j]) for v in (*covered, mean, std, width)) for j in range(count)]
    middle = float(np.nanmedian(width)) if known.any() else math.nan
    return [*each, (float(covered[0].mean()), float(covered[1].mean()), math.nan, math.nan, middle)]


def _verdict(good: bool, count: int, options: CalibrationOptions) -> str:
    if count < options.min_count:
        return "few"
    return "pass" if good else "fail"


def _in_all_rows(values: Array, used: NDArray[np.bool_]) -> Array:
    """Return rows for all galaxies, NaN for those left out."""
    out = np.full((len(used), values.shape[1]), np.nan)
    out[used] = values
    return out
