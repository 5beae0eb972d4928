"""GALFIT 3.0.5 and hybridfit on the same simulated galaxies: which is nearer the truth?

Part of `accuracy_galfit.py`. GALFIT's results are saved in ../shared/data/sims; ours
are those of `hybridfit.fit` with its defaults, and with errors from the covariance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from astropy.table import Table

import hybridfit as hf
from hybridfit.data.samples import Draws
from hybridfit.model.parameters import ParameterSpace
from hybridfit.rendering.render import render
from validation.common import NAMES, SIMS, is_catastrophic, load_galfit, load_sims
from validation.saved_results import (
    LEVELS,
    Array,
    FitResults,
    accuracy_summary,
    bins,
    distances,
    gaussian,
    nearer,
)

AT_ONCE = 32  # galaxies rendered in float64
POSTERIOR, COVARIANCE, GALFIT = "hybridfit", "hybridfit covariance", "GALFIT 3.0.5"
SAME = "the same, GALFIT's convolution"
# how each of ours is run
WAYS: dict[str, dict[str, Any]] = {
    POSTERIOR: {"save_samples": True},
    COVARIANCE: {"uncertainty": "covariance"},
    SAME: {"uncertainty": "covariance", "convolution": "galfit"},
}


def run(name: str) -> tuple[dict[str, Any], dict[str, FitResults], Array, Array]:
    """Return the figures of ``sims/<name>.npz``, the results behind them, truth and S/N."""
    cutouts, truth, snr = load_sims(name)
    values, errors, problem = load_galfit(name)
    true = true_images(name, cutouts, truth)
    flags: dict[str, Any] = {}
    found = {GALFIT: results_of(GALFIT, cutouts, true, values, errors, *gaussian(values, errors))}
    for way, options in WAYS.items():
        table = hf.fit(cutouts, compile="off", **options)
        value, error = (
            np.stack([np.asarray(table[k + end], float) for k in NAMES], axis=1)
            for end in ("", "_err")
        )
        ends = intervals(table) if way == POSTERIOR else gaussian(value, error)
        found[way] = results_of(way, cutouts, true, value, error, *ends)
        flags[way] = flagged(table, is_catastrophic(value[:, 2], value[:, 3], truth))
    flags[GALFIT] = flagged_by_galfit(problem, is_catastrophic(values[:, 2], values[:, 3], truth))
    figures: dict[str, Any] = {"flags": flags}
    for label, rows in bins(snr).items():
        figures[label] = {
            "fitters": {
                way: accuracy_summary(result, truth, rows) for way, result in found.items()
            },
            "against GALFIT": nearer(found[COVARIANCE], found[GALFIT], truth, rows),
            "apart from GALFIT": {
                way: distances(found[way], found[GALFIT], rows) for way in (COVARIANCE, SAME)
            },
        }
    return figures, found, truth, snr


def true_images(name: str, cutouts: hf.Cutouts, truth: Array) -> Array:
    """Return noise-free images (B, H, W): GalSim's where they are kept, else ours of the truth."""
    with np.load(SIMS / f"{name}.npz") as data:
        if "model" in data.files:
            return np.asarray(data["model"], float)
    return images(cutouts, truth)


def images(cutouts: hf.Cutouts, values: Array) -> Array:
    """Render images (B, H, W) of parameters (B, 7), without sky, in float64."""
    theta = torch.from_numpy(np.concatenate([values, np.zeros((len(values), 1))], axis=1))
    parts = [
        render(theta[rows], cutouts[rows.tolist()], dtype=torch.float64)
        for rows in torch.arange(len(theta)).split(AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def results_of(
    name: str,
    cutouts: hf.Cutouts,
    true: Array,
    values: Array,
    errors: Array,
    low: Array,
    high: Array,
) -> FitResults:
    """Return results with chi2 on the same pixels, and the models' distance from the true one."""
    model = images(cutouts, values)
    sigma, image = (v.double().numpy() for v in (cutouts.sigma, cutouts.image))
    used = ~cutouts.mask.numpy()
    distance = np.where(used, ((model - true) / sigma) ** 2, 0.0).sum(axis=(1, 2))
    chi2 = np.array([best_chi2(*planes) for planes in zip(model, image, sigma, used, strict=True)])
    return FitResults(name, values, errors, low, high, chi2, distance)


def best_chi2(model: Array, image: Array, sigma: Array, used: Array) -> float:
    """Return chi2 of one model with its flux and a constant sky solved for; NaN without a model.

    The saved magnitudes have four digits, which alone would cost a bright galaxy some chi2, and
    GALFIT's sky was not kept.
    """
    if not np.isfinite(model).all():
        return float("nan")
    design = np.stack([model[used] / sigma[used], 1 / sigma[used]], axis=1)
    data = image[used] / sigma[used]
    solution, *_ = np.linalg.lstsq(design, data, rcond=None)
    return float(((data - design @ solution) ** 2).sum())


def intervals(table: Table) -> tuple[Array, Array]:
    """Return ends (B, L, 7) of the central intervals of a table's draws."""
    samples = np.stack([np.asarray(table[f"{k}_samples"], float) for k in NAMES], axis=2)
    sky = np.zeros((*samples.shape[:2], 1))
    whole = torch.from_numpy(np.concatenate([samples, sky], axis=2))
    draws = Draws(ParameterSpace(), whole, torch.from_numpy(np.asarray(table["weight"], float)))
    levels = [(1 - v) / 2 for v in LEVELS] + [(1 + v) / 2 for v in LEVELS]
    ends = draws.quantiles(levels)[:, :, :7].numpy()
    return ends[:, : len(LEVELS)], ends[:, len(LEVELS) :]


def flagged(table: Table, bad: Array) -> dict[str, Any]:
    """Count rows that are flagged or suspect, and catastrophic ones that are not."""
    flags, grade = np.asarray(table["flags"]), np.asarray(table["quality"]).astype(str)
    counts = {flag.name: int((flags & int(flag) != 0).sum()) for flag in hf.Flag}
    return {
        "flagged": int((flags != 0).sum()),
        "suspect": int((grade == "suspect").sum()),
        "catastrophic and not suspect": int((bad & (grade != "suspect")).sum()),
        "by flag": {name: count for name, count in counts.items() if count},
    }


def flagged_by_galfit(problem: Array, bad: Array) -> dict[str, Any]:
    """Count rows with a parameter that GALFIT marked with asterisks."""
    return {
        "flagged": int(problem.sum()),
        "catastrophic and not flagged": int((bad & ~problem).sum()),
    }
