"""Answers of a fitter on simulated galaxies, and how they stand to the truth and to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.common import NAMES

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]
LEVELS = (0.68, 0.95)
GAUSS = (0.994458, 1.959964)  # half-widths of Gaussian intervals of these levels, in sigma
SNR = (0, 15, 50, 150, 1e9)  # edges of the bins in signal-to-noise


@dataclass(frozen=True)
class Answers:
    """What a fitter says of B galaxies.

    Args:
        name: of the fitter.
        values, errors: (B, 7) in the project's conventions; NaN where a galaxy is lost.
        low, high: (B, L, 7) ends of its intervals of `LEVELS`.
        chi2: (B,) of its model in our renderer, flux and sky solved for; NaN where lost.
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
    """Ends (B, L, 7) of the intervals that value and error stand for."""
    half = np.array(GAUSS)[None, :, None] * errors[:, None]
    return values[:, None] - half, values[:, None] + half


def offsets(values: Array, truth: Array) -> Array:
    """values - truth (..., 7), position angles the short way round, sizes and indices in ln."""
    off = values - truth
    off[..., 6] = (off[..., 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in (3, 4):
            off[..., k] = np.log(values[..., k] / truth[..., k])
    return off


def lost(values: Array, truth: Array) -> Rows:
    """(B,) catastrophic: magnitude off by more than .5 or size by a factor 2, or no answer."""
    off = offsets(values, truth)
    with np.errstate(invalid="ignore"):
        return np.asarray(~((np.abs(off[:, 2]) <= 0.5) & (np.abs(off[:, 3]) < np.log(2))))


def held(answers: Answers, truth: Array) -> NDArray[np.bool_]:
    """(B, L, 7) whether the truth lies in the interval; never of a galaxy without one."""
    middle = (answers.low + answers.high) / 2
    off = truth[:, None] - middle
    off[..., 6] = (off[..., 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(off) <= (answers.high - answers.low) / 2)


def judge(answers: Answers, truth: Array, rows: Rows) -> dict[str, Any]:
    """Bias, scatter, pulls and coverage of the galaxies of ``rows``, by parameter.

    Bias is the median offset and scatter 1.4826 times the median distance from it, over all
    galaxies; pulls are mean and deviation of (value - truth) / error without the catastrophic;
    a catastrophic galaxy is outside of no interval by definition: its interval counts as it is.
    """
    values, errors = answers.values[rows], answers.errors[rows]
    off, bad = offsets(values, truth[rows]), lost(values, truth[rows])
    straight = values - truth[rows]
    straight[:, 6] = off[:, 6]
    pull = (straight / errors)[~bad]
    cover = held(answers, truth)[rows].mean(axis=0)
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
    told: dict[str, Any] = {"galaxies": int(rows.sum()), "catastrophic": int(bad.sum())}
    for key, numbers in columns.items():
        told[key] = {n: round(float(v), 4) for n, v in zip(NAMES, numbers, strict=True)}
    told["pixels"] = round(float(np.nanmedian(answers.pixels[rows])), 2)
    told["chi2"] = round(float(np.nanmedian(answers.chi2[rows])), 1)
    return told


def nearer(ours: Answers, theirs: Answers, truth: Array, rows: Rows) -> dict[str, Any]:
    """Of the galaxies of ``rows``: whose answer is nearer the truth, and whose chi2 is lower.

    ``nearer`` is the share of galaxies where ours is: by parameter, and over all pixels (the
    model's distance from the true one). Neither answer counts as nearer where one is missing.
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


def agreement(ours: Answers, theirs: Answers, rows: Rows) -> dict[str, Any]:
    """How far two answers are apart in errors of the second, in mag, r_eff, n, q and pa.

    Of the galaxies of ``rows``: the median and the 90th percentile of the largest of the five,
    and the share of galaxies where all five are within one and within three errors.
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
    """All galaxies, and those of each bin in S/N that has ten of them."""
    found = {"all": np.ones(len(snr), bool)}
    for low, high in pairwise(SNR):
        rows = (snr >= low) & (snr < high)
        if rows.sum() >= 10:
            found[f"S/N {low:g}-{high:g}" if high < 1e6 else f"S/N > {low:g}"] = rows
    return found


def table(told: Mapping[str, Mapping[str, Any]], key: str, names: Sequence[str] = NAMES) -> str:
    """Lines of one figure, a fitter a line."""
    head = " " * 32 + "".join(f"{name:>9}" for name in names)
    lines = [
        f"{who:32}" + "".join(f"{figures[key][name]:9.3f}" for name in names)
        for who, figures in told.items()
    ]
    return "\n".join([f"{key:32}{head[32:]}", *lines])
