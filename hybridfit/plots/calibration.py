"""Figures of a calibration: coverage, ranks, TARP, and width over the Cramer-Rao limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.plots.style import CLEAN, FAINT, INK, MUTED, SERIES, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND = 2.0  # half-width of the shaded bands, in binomial errors
BINNED = {"snr": "signal to noise", "r_eff": "r_eff [pix]", "n": "Sersic index n"}


def plot_coverage(curve: Table, table: Table) -> Figure:
    """Draw coverage minus its nominal value for every parameter, and coverage by bins.

    Args:
        curve: columns level, error, and one for each parameter.
        table: rows for each bin and parameter with cover_68, cover_95 and their errors.

    Returns:
        The figure. Shaded bands are two binomial errors: a calibrated posterior stays inside.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.5, 6.4), layout="constrained")
    names = [name for name in curve.colnames if name not in ("level", "error")]
    binned = [name for name in BINNED if name in set(table["bin"])]
    grid = figure.add_gridspec(2, len(binned) + 2)
    axis = figure.add_subplot(grid[:, :2])
    level, error = np.asarray(curve["level"]), np.asarray(curve["error"])
    axis.fill_between(level, -BAND * error, BAND * error, color=FAINT, lw=0, zorder=1)
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    for name, colour in zip(names, _colours(len(names)), strict=True):
        axis.plot(level, np.asarray(curve[name]) - level, color=colour, lw=1.4, label=name)
    axis.set_xlabel("nominal probability of the central interval", fontsize=9, color=INK)
    axis.set_ylabel("fraction of truths inside - nominal", fontsize=9, color=INK)
    axis.set_xlim(0, 1)
    axis.legend(frameon=False, fontsize=8, ncols=2)
    plain(axis)
    for column, quantity in enumerate(binned):
        for row, percent in enumerate((68, 95)):
            axis = figure.add_subplot(grid[row, column + 2])
            _coverage_by_bins(axis, table, quantity, percent, names)
            if column == 0:
                axis.set_ylabel(
                    f"fraction of truths in {percent} % intervals", fontsize=9, color=INK
                )
    return figure


def plot_methods(curves: Mapping[str, Table], title: str = "", inside: str = "truths") -> Figure:
    """Draw the coverage of several methods together, one panel per parameter.

    Args:
        curves: curve of each method, as in `plot_coverage`; the first one sets the parameters,
            and methods without a parameter have no line in its panel.
        title: a line above the legend.
        inside: name of the values that should lie inside the intervals.

    Returns:
        The figure: fraction of truths inside the central interval against its probability. Above
        the diagonal errors are too large, below too small; the band is two binomial errors wide.

    Raises:
        ValueError: if there is no curve.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("curves has no entry, expected one curve for each method")
    first = next(iter(curves.values()))
    names = [name for name in first.colnames if name not in ("level", "error")]
    columns = min(4, max(len(names), 1))
    rows = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(2.7 * columns, 2.6 * rows + 0.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for k, (axis, name) in enumerate(zip(axes, names, strict=False)):
        _method_panel(axis, first, curves, name)
        axis.tick_params(labelbottom=k + columns >= len(names))  # no panel below
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("nominal probability of the central interval", fontsize=9, color=INK)
    figure.supylabel(f"fraction of {inside} inside", fontsize=9, color=INK)
    _method_legend(figure, axes[0], title)
    return figure


def _method_legend(figure: Figure, axis: Axes, title: str) -> None:
    """Draw the legend of the methods above the panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title=title or None,
        loc="outside upper right",
        ncols=max(1, min(4, len(labels))),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _method_panel(axis: Axes, first: Table, curves: Mapping[str, Table], name: str) -> None:
    """Draw the coverage of one parameter for all methods that have it."""
    level, error = np.asarray(first["level"]), np.asarray(first["error"])
    axis.fill_between(
        level, level - BAND * error, level + BAND * error, color=FAINT, lw=0, zorder=1
    )
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, zorder=1)
    for (method, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        if name in curve.colnames:
            axis.plot(curve["level"], curve[name], color=colour, lw=1.5, label=method)
    axis.set_title(name, loc="left", fontsize=9, color=INK)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_aspect("equal")
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"])
    plain(axis)


def plot_ranks(uniform: Table) -> Figure:
    """Draw the histogram of the truth's ranks for each parameter.

    Args:
        uniform: rows with parameter, n, histogram, chi2_p and ks_p.

    Returns:
        The figure. Flat histograms mean calibrated posteriors; a hill means that posteriors are
        too wide, a valley that they are too narrow, a slope a bias.
    """
    from matplotlib.figure import Figure

    columns = min(4, max(len(uniform), 1))
    rows = math.ceil(len(uniform) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.4 * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis, row in zip(axes, uniform, strict=False):
        count = np.asarray(row["histogram"], dtype=float)
        mean = count.sum() / len(count)
        spread = BAND * math.sqrt(mean * (1 - 1 / len(count)))
        axis.axhspan(mean - spread, mean + spread, color=FAINT, lw=0, zorder=1)
        axis.axhline(mean, color=MUTED, lw=1, zorder=1)
        edges = np.linspace(0, 1, len(count) + 1)
        axis.stairs(count, edges, color=CLEAN, fill=True, alpha=0.55, zorder=2)
        axis.set_ylim(0, max(1.4 * mean, 1.1 * count.max(initial=0)))
        axis.set_xlim(0, 1)
        axis.set_title(str(row["parameter"]), loc="left", fontsize=9, color=INK)
        text = f"p = {_p_value(row['chi2_p'])} chi2, {_p_value(row['ks_p'])} KS"
        axis.set_title(text, loc="right", fontsize=7, color=MUTED)
        axis.set_xlabel("rank of the truth / number of draws", fontsize=8, color=INK)
        axis.set_ylabel("galaxies per bin", fontsize=8, color=INK)
        plain(axis)
    for axis in axes[len(uniform) :]:
        axis.set_visible(False)
    return figure


def plot_tarp(curve: Table) -> Figure:
    """Draw expected coverage against credibility.

    Args:
        curve: columns level and coverage, with ``n`` and ``p_value`` in its meta.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axis = figure.subplots()
    level = np.asarray(curve["level"])
    error = BAND * np.sqrt(level * (1 - level) / max(int(curve.meta["n"]), 1))
    axis.fill_between(level, level - error, level + error, color=FAINT, lw=0, zorder=1)
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, zorder=1)
    axis.plot(level, np.asarray(curve["coverage"]), color=CLEAN, lw=1.6, zorder=2)
    axis.set_title(
        f"TARP: p = {_p_value(curve.meta['p_value'])}", loc="right", fontsize=8, color=MUTED
    )
    axis.set_xlabel("credibility level", fontsize=9, color=INK)
    axis.set_ylabel("expected coverage", fontsize=9, color=INK)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_aspect("equal")
    plain(axis)
    return figure


def plot_widths(
    snr: NDArray[np.float64], widths: Mapping[str, NDArray[np.float64]], table: Table
) -> Figure:
    """Draw the posterior's width over the Cramer-Rao limit against signal to noise.

    Args:
        snr: (N,) signal-to-noise ratios.
        widths: (N,) widths for each parameter.
        table: table of the calibration; its medians in bins of S/N are drawn as steps.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    columns = min(4, max(len(widths), 1))
    rows = math.ceil(len(widths) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.4 * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis, (name, width) in zip(axes, widths.items(), strict=False):
        axis.axhline(1, color=MUTED, lw=1, zorder=1)
        shown = np.clip(width, 0.3, 10)
        axis.plot(snr, shown, ".", ms=2, mew=0, color=CLEAN, alpha=0.3, zorder=2, rasterized=True)
        binned = table[(table["bin"] == "snr") & (table["parameter"] == name)]
        top = float(np.nanmax(snr, initial=10.0))
        for row in binned:
            ends = [row["low"], min(row["high"], top)]
            axis.plot(ends, [row["width"]] * 2, color=INK, lw=1.6, zorder=3)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(0.3, 10)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        axis.set_xlabel("signal to noise", fontsize=8, color=INK)
        axis.set_ylabel("width / Cramer-Rao limit", fontsize=8, color=INK)
        plain(axis)
    for axis in axes[len(widths) :]:
        axis.set_visible(False)
    return figure


def _coverage_by_bins(
    axis: Axes, table: Table, quantity: str, percent: int, names: list[str]
) -> None:
    level = percent / 100
    for k, (name, colour) in enumerate(zip(names, _colours(len(names)), strict=True)):
        rows = table[(table["bin"] == quantity) & (table["parameter"] == name)]
        place = np.arange(len(rows))
        error = np.asarray(rows[f"cover_{percent}_err"], dtype=float)
        if k == 0:
            for x, half in zip(place, BAND * error, strict=True):
                axis.fill_between([x - 0.5, x + 0.5], level - half, level + half, color=FAINT, lw=0)
            axis.axhline(level, color=MUTED, lw=1, zorder=1)
            axis.set_xticks(place, [_edges(r["low"], r["high"]) for r in rows])
        shift = 0.5 * (k / max(len(names) - 1, 1) - 0.5)
        axis.plot(place + shift, rows[f"cover_{percent}"], "o", ms=3.5, mew=0, color=colour)
    axis.set_xlabel(BINNED[quantity], fontsize=9, color=INK)
    plain(axis)
    axis.tick_params(axis="x", labelsize=7)  # so that five bins fit side by side


def _edges(low: float, high: float) -> str:
    return f"{low:g}-{high:g}" if math.isfinite(high) else f"> {low:g}"


def _p_value(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "< 1e-4"


def _colours(count: int) -> list[str]:
    return [SERIES[k % len(SERIES)] for k in range(count)]
