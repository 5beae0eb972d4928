"""Truth against fit, and the offsets in units of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.options.checks import checked
from hybridfit.plots.style import CLEAN, FLAGGED, INK, LABELS, MUTED, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 1e30  # largest drawn value: axes overflow beyond it


def plot_truth(table: Table, truth: Table) -> Figure:
    """Draw fit against truth for each parameter, and the offsets in units of their errors.

    Args:
        table: from `hybridfit.fit`.
        truth: table with the columns ``id`` and the parameters; rows are matched by id.

    Returns:
        The figure: fits against truth with their errors and the line of equality, and a
        histogram of (fit - truth) / error with the normal distribution that it should follow.
    """
    from matplotlib.figure import Figure

    _check_columns("table", table, ["id", "flags", *LABELS, *(f"{name}_err" for name in LABELS)])
    _check_columns("truth", truth, ["id", *LABELS])
    table, truth = matched(table, truth)
    flagged = np.asarray(table["flags"]) != 0
    figure = Figure(figsize=(12.5, 6.4), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for axis, name in zip(axes, LABELS, strict=False):
        fit, error = (_numbers(table, c) for c in (name, f"{name}_err"))
        true = fit - offsets(table, truth, name)  # shift a true angle to the period of the fit
        for subset, colour in ((~flagged, CLEAN), (flagged, FLAGGED)):
            subset = subset & (np.abs(true) < LARGEST) & (np.abs(fit) < LARGEST)
            if subset.any():
                _against(axis, true[subset], fit[subset], error[subset], colour)
        _equality(axis, _numbers(truth, name), name in ("r_eff", "n"))
        axis.set_xlabel(f"true {LABELS[name]}", fontsize=9, color=INK)
        axis.set_ylabel(f"fitted {LABELS[name]}", fontsize=9, color=INK)
    _pull_panel(axes[-1], table, truth)
    for axis in axes:
        plain(axis)
    handles = [
        axes[0].plot([], [], "o", ms=5, color=colour, label=f"{label} ({int(subset.sum())})")[0]
        for subset, colour, label in ((~flagged, CLEAN, "no flags"), (flagged, FLAGGED, "flagged"))
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def _check_columns(what: str, given: Table, columns: Sequence[str]) -> None:
    """Raise ValueError if a table lacks one of the columns."""
    names = checked(what, given, Table).colnames
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{what} lacks the column '{missing[0]}', expected {columns}")


def matched(table: Table, truth: Table) -> tuple[Table, Table]:
    """Return the rows of both tables whose ids are in both, in the same order."""
    number = {str(id): i for i, id in enumerate(truth["id"])}
    rows = [i for i, id in enumerate(table["id"]) if str(id) in number]
    return table[rows], truth[[number[str(table["id"][i])] for i in rows]]


def offsets(table: Table, truth: Table, name: str) -> NDArray[np.float64]:
    """Return fit - truth (N,) of matched tables; angles are wrapped."""
    with np.errstate(invalid="ignore"):  # a truth may be infinite
        off = _numbers(table, name) - _numbers(truth, name)
        return (off + 90) % 180 - 90 if name == "pa" else off


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where masked."""
    return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)


def _against(axis: Axes, true: NDArray, fit: NDArray, error: NDArray, colour: str) -> None:
    axis.errorbar(
        true,
        fit,
        yerr=np.where(np.isfinite(error), error, 0),
        fmt="o",
        ms=3.5,
        mew=0,
        lw=0.8,
        color=colour,
        alpha=0.75,
        zorder=2,
    )


def _equality(axis: Axes, true: NDArray, logarithmic: bool) -> None:
    true = true[(np.abs(true) < LARGEST) & ((true > 1 / LARGEST) | (not logarithmic))]
    if not len(true):
        return
    if logarithmic:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axis.set_xscale("log")
        axis.set_yscale("log")
        for line in (axis.xaxis, axis.yaxis):
            line.set_major_locator(LogLocator(subs=(1, 2, 5)))
            line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            line.set_minor_formatter(NullFormatter())
        low, high = true.min() / 1.3, true.max() * 1.3
    else:
        margin = 0.06 * float(np.ptp(true)) + 1e-9
        low, high = true.min() - margin, true.max() + margin
    axis.plot([low, high], [low, high], color=MUTED, lw=1, zorder=1)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)


def _pull_panel(axis: Axes, table: Table, truth: Table) -> None:
    """Draw a histogram of all offsets over their errors, with the normal distribution."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pulls = [offsets(table, truth, name) / _numbers(table, f"{name}_err") for name in LABELS]
    values = np.concatenate(pulls)
    values = values[np.isfinite(values)]
    bins = np.linspace(-5, 5, 41).tolist()
    if len(values):  # the density of no values is NaN
        axis.hist(np.clip(values, -5, 5), bins, density=True, color=CLEAN, alpha=0.55, lw=0)
    grid = np.linspace(-5, 5, 201)
    axis.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=1.2)
    axis.set_xlabel("(fit - truth) / error, all parameters", fontsize=9, color=INK)
    axis.set_ylabel("probability density", fontsize=9, color=INK)
    axis.set_xlim(-5, 5)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values)))) if values.size else 0.0
    axis.text(
        0.97,
        0.95,
        f"width {spread:.2f}\n(expected: 1)",
        transform=axis.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=MUTED,
    )
