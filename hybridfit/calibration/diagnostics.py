"""Diagnostics of posteriors and their truth: rank, coverage, pull, width over the limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.calibration.sbc_samples import HALF_WIDTHS, Array, SbcSamples, weighted_quantiles

LOGARITHMIC = ("r_eff", "n")  # widths in the logarithm, closer to Gaussian


def usable(sbc: SbcSamples) -> NDArray[np.bool_]:
    """Return whether each galaxy (N,) has a valid draw and a finite truth."""
    return (sbc.weights.sum(axis=1) > 0) & np.isfinite(sbc.truth).all(axis=1)


def ranks(sbc: SbcSamples, seed: int = 0) -> Array:
    """Return ranks of the truth among the draws: uniform on (0, 1) if posteriors are calibrated.

    The rank r among S draws, 0 ... S, becomes (r + U) / (S + 1) with U uniform, which removes its
    discreteness (Talts et al. 2018, arXiv:1804.06788). For weighted draws it is the weight below
    the truth, smoothed in the same way with the effective number of draws.

    Returns:
        (N, P).
    """
    rng = np.random.default_rng(seed)
    truth, weight = sbc.truth[:, None, :], sbc.weights[:, :, None]
    below = np.sum(weight * (sbc.samples < truth), axis=1)
    tied = np.sum(weight * (sbc.samples == truth), axis=1)
    unit = rng.random((2, *below.shape))
    count = sbc.effective[:, None]
    return (count * (below + tied * unit[0]) + unit[1]) / (count + 1)


def coverage(rank: Array, level: float) -> NDArray[np.bool_]:
    """Return (N, P) whether the central interval of this probability contains the truth."""
    return np.abs(rank - 0.5) <= level / 2


def half_widths(sbc: SbcSamples) -> Array:
    """Return (N, P) half of p84 - p16, in the logarithm for sizes and indices."""
    low, high = weighted_quantiles(_scaled(sbc), HALF_WIDTHS, sbc.weights)
    return (high - low) / 2


def width_over_limit(sbc: SbcSamples, limit: Array) -> Array:
    """Return the width of the posterior over the standard deviation at the Cramer-Rao limit.

    The width is half of p84 - p16, in the logarithm for sizes and indices. The limit of an angle
    is at most that of an unconstrained angle.

    Args:
        sbc: N galaxies.
        limit: (N, P) standard deviations in the units of the parameters.

    Returns:
        (N, P).
    """
    if limit.shape != sbc.truth.shape:
        raise ValueError(f"limit has shape {limit.shape}, expected {sbc.truth.shape}")
    limit = limit.copy()
    for j, name in enumerate(sbc.names):
        if name in LOGARITHMIC:
            limit[:, j] /= sbc.truth[:, j]
        if name in sbc.periods:
            # p84 - p16 of a uniform angle is this fraction of its period
            share = (HALF_WIDTHS[1] - HALF_WIDTHS[0]) / 2
            limit[:, j] = np.minimum(limit[:, j], share * sbc.periods[name])
    return half_widths(sbc) / limit


def pulls(sbc: SbcSamples) -> Array:
    """Return (N, P) (mean - truth) / standard deviation of the draws; logarithms as above."""
    samples, weight = _scaled(sbc), sbc.weights[:, :, None]
    mean = (weight * samples).sum(axis=1)
    variance = (weight * (samples - mean[:, None]) ** 2).sum(axis=1)
    return (mean - _log(sbc.truth, sbc.names)) / np.sqrt(variance)


def _scaled(sbc: SbcSamples) -> Array:
    return _log(sbc.samples, sbc.names)


def _log(values: Array, names: Sequence[str]) -> Array:
    values = values.copy()
    for j, name in enumerate(names):
        if name in LOGARITHMIC:
            # invalid draws are 0
            values[..., j] = np.log(np.maximum(values[..., j], 1e-300))
    return values
