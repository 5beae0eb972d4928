"""What is asked of one posterior and its truth: rank, coverage, pull, width over the limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.calibration.sbc_samples import HALF_WIDTHS, Array, Trials, weighted_quantiles

LOGARITHMIC = ("r_eff", "n")  # whose widths are compared in the logarithm: nearer to Gaussian


def usable(trials: Trials) -> NDArray[np.bool_]:
    """(N,) whether a galaxy has a draw that counts and a finite truth."""
    return (trials.weights.sum(axis=1) > 0) & np.isfinite(trials.truth).all(axis=1)


def ranks(trials: Trials, seed: int = 0) -> Array:
    """Where the truth stands among the draws: uniform on (0, 1) where the posterior is right.

    The rank r of S draws, 0 ... S, becomes (r + U) / (S + 1) with U uniform, so that nothing is
    left of its steps (Talts et al. 2018, arXiv:1804.06788). Of weighted draws it is the weight
    below the truth, smoothed in the same way by the effective number of draws.

    Returns:
        (N, P).
    """
    rng = np.random.default_rng(seed)
    truth, weight = trials.truth[:, None, :], trials.weights[:, :, None]
    below = np.sum(weight * (trials.samples < truth), axis=1)
    tied = np.sum(weight * (trials.samples == truth), axis=1)
    unit = rng.random((2, *below.shape))
    count = trials.effective[:, None]
    return (count * (below + tied * unit[0]) + unit[1]) / (count + 1)


def coverage(rank: Array, level: float) -> NDArray[np.bool_]:
    """(N, P) whether the central interval of this probability holds the truth."""
    return np.abs(rank - 0.5) <= level / 2


def half_widths(trials: Trials) -> Array:
    """(N, P) half of p84 - p16, of the logarithm for sizes and indices."""
    low, high = weighted_quantiles(_scaled(trials), HALF_WIDTHS, trials.weights)
    return (high - low) / 2


def width_over_limit(trials: Trials, limit: Array) -> Array:
    """Width of the posterior over the standard deviation at the Cramer-Rao limit.

    The width is half of p84 - p16, of the logarithm for sizes and indices. An angle's limit is
    at most that of an angle of which nothing is known.

    Args:
        trials: N galaxies.
        limit: (N, P) standard deviations in the parameters' own units.

    Returns:
        (N, P).
    """
    if limit.shape != trials.truth.shape:
        raise ValueError(f"limit has shape {limit.shape}, expected {trials.truth.shape}")
    limit = limit.copy()
    for j, name in enumerate(trials.names):
        if name in LOGARITHMIC:
            limit[:, j] /= trials.truth[:, j]
        if name in trials.periods:
            # a uniform angle: its p84 - p16 is that share of the period
            share = (HALF_WIDTHS[1] - HALF_WIDTHS[0]) / 2
            limit[:, j] = np.minimum(limit[:, j], share * trials.periods[name])
    return half_widths(trials) / limit


def pulls(trials: Trials) -> Array:
    """(N, P) mean minus truth over the standard deviation of the draws; logarithms as above."""
    samples, weight = _scaled(trials), trials.weights[:, :, None]
    mean = (weight * samples).sum(axis=1)
    variance = (weight * (samples - mean[:, None]) ** 2).sum(axis=1)
    return (mean - _log(trials.truth, trials.names)) / np.sqrt(variance)


def _scaled(trials: Trials) -> Array:
    return _log(trials.samples, trials.names)


def _log(values: Array, names: Sequence[str]) -> Array:
    values = values.copy()
    for j, name in enumerate(names):
        if name in LOGARITHMIC:
            # draws that do not count are 0
            values[..., j] = np.log(np.maximum(values[..., j], 1e-300))
    return values
