"""Results of a fitter on simulated galaxies, compared with the truth and with other fitters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.common import NAMES, is_catastrophic

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]
LEVELS = (0.68, 0.95)
GAUSS = (0.994458, 1.959964)  # half-widths of Gaussian intervals of these levels, in sigma
SNR = (0, 15, 50, 150, 1e9)  # edges of the bins in signal-to-noise


@dataclass(frozen=True)
class FitResults:
    """The results of a fitter for B galaxies.

    Args:
        name: of the fitter.
        values, errors: (B, 7) in the project's conventions; NaN where a fit failed.
        low, high: (B, L, 7) ends of its intervals of `LEVELS`.
        chi2: (B,) of its model in our renderer, flux and sky solved for; NaN where it failed.
        pixels: (B,) distance of its noise-free model from the true one, in sigma, squared.
    """

    name: str
    values: Array
    errors: Array
    low: Array
    high: Array
    chi2: Array
    pixels: Array


def gaussian(values: Array, errors: Array) -> tuple[Array, Array]:
    """Return ends (B, L, 7) of the Gaussian intervals of these values and errors."""
    half = np.array(GAUSS)[None, :, None] * errors[:, None]
    return values[:, None] - half, values[:, None] + half


def offsets(values: Array, truth: Array) -> Array:
    """Return values - truth (..., 7), position angles within 90 deg, sizes and indices in ln."""
    off = values - truth
    off[..., 6] = (off[..., 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in (3, 4):
            off[..., k] = np.log(values[..., k] / truth[..., k])
    return off


def covered(answers: FitResults, truth: Array) -> NDArray[np.bool_]:
    """Return (B, L, 7) whether the truth lies in the interval; False without an interval."""
    middle = (answers.low + answers.high) / 2
    off = truth[:, None] - middle
    off[..., 6] = (off[..., 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(off) <= (answers.high - answers.low) / 2)


def accuracy_summary(answers: FitResults, truth: Array, rows: Rows) -> dict[str, Any]:
    """Return bias, scatter, pulls and coverage of the galaxies of ``rows``, by parameter.

    Bias is the median offset and scatter 1.4826 times the median distance from it, over all
    galaxies. Pulls are mean and deviation of (value - truth) / error without the catastrophic
    galaxies. In coverage the interval of a catastrophic galaxy counts as any other.
    """
    values, errors = answers.values[rows], answers.errors[rows]
    off, bad = (
        offsets(values, truth[rows]),
        is_catastrophic(values[:, 2], values[:, 3], truth[rows]),
    )
    straight = values - truth[rows]
    straight[:, 6] = off[:, 6]
    pull = (straight / errors)[~bad]
    cover = covered(answers, truth)[rows].mean(axis=0)
    bias = np.nanmedian(off, axis=0)
    scatter = 1.4826 * np.nanmedian(np.abs(off - bias), axis=0)
    columns = {
        "bias": bias,
        "scatter": scatter,
        "pull_mean": pull.mean(axis=0),
        "pull_std": pull.std(axis=0),
        "cover_68": cover[0],
        "cover_95": cover[1],
    }
    report: dict[str, Any] = {"galaxies": int(rows.sum()), "catastrophic": int(bad.sum())}
    for key, numbers in columns.items():
        report[key] = {n: round(float(v), 4) for n, v in zip(NAMES, numbers, strict=True)}
    report["pixels"] = round(float(np.nanmedian(answers.pixels[rows])), 2)
    report["chi2"] = round(float(np.nanmedian(answers.chi2[rows])), 1)
    return report


def nearer(ours: FitResults, theirs: FitResults, truth: Array, rows: Rows) -> dict[str, Any]:
    """Compare two results: which is nearer the truth, and which has the lower chi2.

    ``nearer`` is the fraction of the galaxies of ``rows`` where ours is nearer, by parameter and
    over all pixels (the model's distance from the true one). Where one result is missing, neither
    counts as nearer.
    """
    a, b = (np.abs(offsets(v.values[rows], truth[rows])) for v in (ours, theirs))
    gain = theirs.chi2[rows] - ours.chi2[rows]
    closer = ours.pixels[rows] < theirs.pixels[rows]
    known = np.isfinite(gain)
    return {
        "galaxies": int(known.sum()),
        "nearer": dict(zip(NAMES, (a < b)[known].mean(axis=0).round(3).tolist(), strict=True)),
        "nearer in pixels": round(float(closer[known].mean()), 3),
        "chi2 gain, median": round(float(np.median(gain[known])), 3),
        "chi2 gain, 16 and 84 %": np.quantile(gain[known], [0.16, 0.84]).round(2).tolist(),
        "ours more than .1 above": int((gain[known] < -0.1).sum()),
        "ours more than 10 below": int((gain[known] > 10).sum()),
    }


def distances(ours: FitResults, theirs: FitResults, rows: Rows) -> dict[str, Any]:
    """Return the distance of two results in errors of the second, in mag, r_eff, n, q and pa.

    Given are, for the galaxies of ``rows``, the median and the 90th percentile of the largest of
    the five, and the fraction where all five are within one and within three errors.
    """
    off = ours.values[rows] - theirs.values[rows]
    off[:, 6] = (off[:, 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(off / theirs.errors[rows])[:, 2:].max(axis=1)
    return {
        "median": round(float(np.nanmedian(apart)), 3),
        "90 %": round(float(np.nanquantile(apart, 0.9)), 2),
        "within 1": round(float((apart <= 1).mean()), 3),
        "within 3": round(float((apart <= 3).mean()), 3),
    }


def bins(snr: Array) -> dict[str, Rows]:
    """Return the rows of all galaxies, and of each bin in S/N with at least ten."""
    found = {"all": np.ones(len(snr), bool)}
    for low, high in pairwise(SNR):
        rows = (snr >= low) & (snr < high)
        if rows.sum() >= 10:
            found[f"S/N {low:g}-{high:g}" if high < 1e6 else f"S/N > {low:g}"] = rows
    return found


def table(report: Mapping[str, Mapping[str, Any]], key: str, names: Sequence[str] = NAMES) -> str:
    """Format one figure, a line for each fitter."""
    head = " " * 32 + "".join(f"{name:>9}" for name in names)
    lines = [
        f"{fitter:32}" + "".join(f"{figures[key][name]:9.3f}" for name in names)
        for fitter, figures in report.items()
    ]
    return "\n".join([f"{key:32}{head[32:]}", *lines])
