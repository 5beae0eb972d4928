"""Draw the pictures of `accuracy_galfit.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from hybridfit.plots.style import FAINT, INK, MUTED, SERIES, plain
from validation.common import NAMES, is_catastrophic
from validation.saved_results import Array, FitResults, covered


def draw_sims(results: Mapping[str, FitResults], truth: Array, snr: Array, path: Path) -> None:
    """Draw coverage by parameter, and each galaxy's distance from the truth, ours and GALFIT's."""
    shown = [name for name in results if "convolution" not in name]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for axis, level, share in zip(axes, (0, 1), (0.68, 0.95), strict=False):
        # two binomial standard deviations
        two = 2 * np.sqrt(share * (1 - share) / len(truth))
        axis.axhspan(share - two, share + two, color=FAINT, zorder=1)
        axis.axhline(share, color=INK, lw=1, zorder=2)
        for k, name in enumerate(shown):
            cover = covered(results[name], truth)[:, level].mean(axis=0)
            places = np.arange(len(NAMES)) + 0.18 * (k - (len(shown) - 1) / 2)
            axis.plot(places, cover, "o", color=SERIES[k], label=name, zorder=3)
        axis.set_xticks(range(len(NAMES)), NAMES)
        axis.set_title(f"truths in intervals of {100 * share:.0f} %", loc="left", fontsize=9)
        plain(axis)
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    theirs, ours = results["GALFIT 3.0.5"], results["hybridfit covariance"]
    bad = is_catastrophic(theirs.values[:, 2], theirs.values[:, 3], truth) | is_catastrophic(
        ours.values[:, 2], ours.values[:, 3], truth
    )
    axis = axes[2]
    for rows, colour, label in ((~bad, SERIES[0], None), (bad, SERIES[4], "either catastrophic")):
        axis.scatter(
            ours.pixels[rows], theirs.pixels[rows], s=14, color=colour, label=label, zorder=2
        )
    both = np.concatenate([ours.pixels, theirs.pixels])
    ends = [0.8 * np.nanmin(both), 1.2 * np.nanmax(both)]
    axis.plot(ends, ends, color=INK, lw=1)
    axis.set(xscale="log", yscale="log")
    axis.set_title(
        "$\\sum$ ((model - true image) / sigma)$^2$ of each galaxy", loc="left", fontsize=9
    )
    axis.set(xlabel="hybridfit", ylabel="GALFIT 3.0.5", xlim=ends, ylim=ends)
    if bad.any():
        axis.legend(frameon=False, fontsize=8)
    plain(axis)
    _save(figure, path)


def draw_bd(points: Mapping[str, tuple[Array, Array]], path: Path) -> None:
    """Draw fitted against true values of two components."""
    figure, axes = plt.subplots(
        len(points), 4, figsize=(13, 3.3 * len(points)), layout="constrained"
    )
    titles = (
        "bulge-to-total",
        "r_eff of the bulge [pix]",
        "r_eff of the disk [pix]",
        "n of the bulge",
    )
    for row, (model, (true, found)) in zip(axes, points.items(), strict=True):
        for axis, title, column in zip(row, titles, (1, 2, 3, 4), strict=True):
            a, b = true[:, column], found[:, column]
            if column > 1:
                a, b = np.exp(a), np.exp(b)
                axis.set(xscale="log", yscale="log")
                for side in (axis.xaxis, axis.yaxis):
                    side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    side.set_major_formatter("{x:g}")
                    side.set_minor_formatter(NullFormatter())
            axis.scatter(a, b, s=14, color=SERIES[0], zorder=2)
            ends = [np.nanmin(a), np.nanmax(a)]
            axis.plot(ends, ends, color=INK, lw=1)
            axis.set(xlabel=f"{title}, true", ylabel="fitted")
            plain(axis)
        row[0].set_title(model, loc="left", fontsize=9, color=MUTED)
    _save(figure, path)


def draw_real(rows: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw how far our and GALFIT's fits of real galaxies differ, and which chi2 is lower."""
    marks = {"good": "o", "poor": "s", "failed": "X"}
    figure, axes = plt.subplots(1, len(rows), figsize=(6.5 * len(rows), 4.6), layout="constrained")
    for axis, (title, part) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        for k, (verdict, mark) in enumerate(marks.items()):
            of = [r for r in part if r["verdict"] == verdict and np.isfinite(r["apart"])]
            gain = [100 * (r["chi2"] / r["chi2_galfit"] - 1) for r in of]
            apart = [max(r["apart"], 1e-2) for r in of]
            axis.scatter(apart, gain, s=26, marker=mark, color=SERIES[(0, 1, 4)[k]],
                         label=f"GALFIT's fit {verdict}", zorder=2)  # fmt: skip
        axis.axhline(0.1, color=MUTED, lw=1, ls="--")
        axis.axhline(0, color=INK, lw=1)
        axis.axvline(1, color=MUTED, lw=1, ls=":")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_xscale("log")
        axis.set_xlabel("largest difference in mag, r_eff, n, q, pa [GALFIT's errors]")
        axis.set_ylabel("chi2 above GALFIT's [%]")
        axis.set_title(title, loc="left", fontsize=9, color=MUTED)
        plain(axis)
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8, loc="lower left")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"written: {path}")
