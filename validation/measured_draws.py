"""Measure galaxies by any way to errors, and return weighted draws and a table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.options import DRAWN
from hybridfit.uncertainty.error_budget import NONE

Array = NDArray[np.float64]

N_DRAWS = 512  # of the Gaussian that represents value and covariance
LEAST = 0.02  # least size or index over its value, as a Gaussian's draws may be negative


@dataclass(frozen=True)
class Measured:
    """B galaxies with their draws and table rows.

    Args:
        names: of the P parameters.
        samples: (B, S, P), NaN where a galaxy has none.
        weights: (B, S).
        table: of `hybridfit.fit`.
        seconds: of CPU, for all of them.
    """

    names: tuple[str, ...]
    samples: Array
    weights: Array
    table: Table
    seconds: float


def measured(
    cutouts: hf.Cutouts, uncertainty: str, options: FitOptions = FitOptions(), **more: Any
) -> Measured:
    """Measure galaxies as a user would, and return draws from their posterior.

    Args:
        cutouts: B galaxies.
        uncertainty: of `hybridfit.fit`. "covariance" has no draws, which are taken from a Gaussian
            with the quoted values and covariance. "budget-free" is the posterior without the
            error budget, with the noise map's noise alone.
        options: of the fit.
        more: for `hybridfit.fit`.
    """
    if uncertainty == "budget-free":
        uncertainty, more = "posterior", {"budget": NONE} | more
    drawn = uncertainty in DRAWN
    before = time.process_time()
    table = hf.fit(cutouts, fit=options, uncertainty=uncertainty, save_samples=drawn, **more)
    seconds = time.process_time() - before
    names = tuple(n for n in options.space.names if options.sky != "fixed" or n != "sky")
    if drawn:
        samples = np.stack([np.asarray(table[f"{name}_samples"]) for name in names], axis=2)
        weights = np.asarray(table["weight"])
        table.remove_columns([f"{name}_samples" for name in options.space.names] + ["weight"])
    else:
        samples = _gaussian(table, names, options.space.names)
        weights = np.ones(samples.shape[:2])
    return Measured(names, samples, weights, table, seconds)


def joined(parts: list[Measured]) -> Measured:
    """Join several batches; fewer draws are padded with draws of no weight."""
    most = max(part.samples.shape[1] for part in parts)
    samples, weights = [], []
    for part in parts:
        missing = most - part.samples.shape[1]
        samples.append(np.pad(part.samples, ((0, 0), (0, missing), (0, 0))))
        weights.append(np.pad(part.weights, ((0, 0), (0, missing))))
    columns = [c for c in parts[0].table.colnames if c != "covariance"]
    table = Table({c: np.concatenate([np.asarray(p.table[c]) for p in parts]) for c in columns})
    return Measured(
        parts[0].names,
        np.concatenate(samples),
        np.concatenate(weights),
        table,
        sum(part.seconds for part in parts),
    )


def _gaussian(table: Table, names: tuple[str, ...], columns: tuple[str, ...]) -> Array:
    """Return draws (B, N_DRAWS, P) about the values with the covariance."""
    use = [columns.index(name) for name in names]
    covariance = np.asarray(table["covariance"], float)[:, use][:, :, use]
    values = np.stack([np.asarray(table[name], float) for name in names], axis=1)
    rng = np.random.default_rng(0)
    white = rng.standard_normal((len(values), N_DRAWS, len(names)))
    samples = np.full(white.shape, np.nan)
    for i, matrix in enumerate(covariance):
        scale = np.sqrt(np.diag(matrix))
        if not (np.isfinite(matrix).all() and (scale > 0).all()):
            continue
        value, axes = np.linalg.eigh(matrix / scale / scale[:, None])
        step = (white[i] * np.sqrt(np.maximum(value, 0))) @ axes.T * scale
        samples[i] = values[i] + step
    for name in ("r_eff", "n"):
        j = names.index(name)
        samples[:, :, j] = np.maximum(samples[:, :, j], LEAST * values[:, None, j])
    return samples
