"""Samples for simulation-based calibration: draws of posteriors, and the truth.

Angles have no smallest value: before ranking, the draws and the truth of a periodic parameter are
replaced by differences from a circular median, cut half a period away from it. The median is of
draws and truth together: the position angle of a round galaxy is uniform, and draws appear to
cluster around their own median, so that the truth would lie outside too often (for 4 % of the
galaxies with 200 draws). The joint median treats draws and truth alike, and the rank is uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.batch import SHARED, Batch, shared

Array = NDArray[np.float64]

PERIODS: Mapping[str, float] = {"pa": 180.0}  # degrees
HALF_WIDTHS = (0.15865525393145707, 0.8413447460685429)  # median -+ 1 sigma of a normal


@dataclass(frozen=True)
class SbcSamples(Batch):
    """Draws of N posteriors, with the truth.

    Args:
        names: names of the P parameters; those in ``periods`` are angles.
        samples: (N, S, P), units of the parameters; non-finite draws are ignored.
        truth: (N, P).
        weights: (N, S) weights of the draws, not negative; default: 1. Only ratios matter.
        periods: periods of the angular parameters.

    Raises:
        ValueError: if shapes disagree, or weights are negative.
    """

    names: Sequence[str] = field(metadata={SHARED: True})
    samples: Any
    truth: Any
    weights: Any = None
    periods: Mapping[str, float] = shared(default_factory=lambda: PERIODS)

    def __post_init__(self) -> None:
        samples, truth = (np.asarray(v, dtype=np.float64) for v in (self.samples, self.truth))
        names = tuple(self.names)
        if samples.ndim != 3 or samples.shape[2] != len(names):
            raise ValueError(
                f"samples have shape {samples.shape}, expected (N, S, {len(names)}): one column "
                f"for each of {', '.join(names)}"
            )
        if truth.shape != (len(samples), len(names)):
            raise ValueError(
                f"truth has shape {truth.shape}, expected {(len(samples), len(names))} as samples"
            )
        given = 1.0 if self.weights is None else self.weights
        weights = np.asarray(given, dtype=np.float64)
        if weights.ndim == 0:
            weights = np.full(samples.shape[:2], float(weights))
        if weights.shape != samples.shape[:2] or (weights < 0).any():
            raise ValueError(
                f"weights have shape {weights.shape}, expected {samples.shape[:2]}, none negative"
            )
        finite: NDArray[np.bool_] = np.all(np.isfinite(samples), axis=2)
        weights = np.where(finite, weights, 0.0)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total > 0, total, 1.0)
        samples = np.where(finite[:, :, None], samples, 0.0)
        for j, name in enumerate(names):
            if name in self.periods:
                samples[:, :, j], truth = _unwrap(
                    samples[:, :, j], truth, j, weights, self.periods[name]
                )
        for name, value in (
            ("names", names),
            ("samples", samples),
            ("truth", truth),
            ("weights", weights),
        ):
            object.__setattr__(self, name, value)

    @property
    def effective(self) -> Array:
        """Return the effective number of draws (N,), (sum w)^2 / sum w^2."""
        square = (self.weights**2).sum(axis=1)
        return np.where(square > 0, 1 / np.where(square > 0, square, 1.0), 0.0)


def circular_median(angles: ArrayLike, period: float, weights: ArrayLike | None = None) -> Array:
    """Return the median of angles on a circle, in [0, period).

    The circle is cut opposite to the mean direction, and the median is taken on the line.

    Args:
        angles: (N, S).
        period: in the same unit.
        weights: (N, S), default 1.

    Returns:
        (N,).
    """
    angles = np.asarray(angles, dtype=np.float64)
    weights = np.ones(angles.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    phase = 2 * np.pi / period * angles
    mean = np.arctan2((weights * np.sin(phase)).sum(1), (weights * np.cos(phase)).sum(1))
    centre = mean * period / (2 * np.pi)
    line = wrapped(angles - centre[:, None], period)
    return (centre + weighted_quantiles(line[:, :, None], (0.5,), weights)[0, :, 0]) % period


def wrapped(difference: Array, period: float) -> Array:
    """Return differences of angles, wrapped to [-period / 2, period / 2)."""
    return (difference + period / 2) % period - period / 2


def weighted_quantiles(
    samples: ArrayLike, levels: Sequence[float], weights: ArrayLike | None = None
) -> Array:
    """Return quantiles of weighted draws, interpolated linearly between mid-ranks.

    Args:
        samples: (N, S, P).
        levels: L numbers in (0, 1).
        weights: (N, S), default 1; draws of weight 0 do not count.

    Returns:
        (L, N, P), NaN without valid draws.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if weights is None or np.ptp(weights) == 0:
        return np.quantile(samples, levels, axis=1, method="hazen")
    weights = np.asarray(weights, dtype=np.float64)
    out = np.full((len(levels), samples.shape[0], samples.shape[2]), np.nan)
    for i, (values, weight) in enumerate(zip(samples, weights, strict=True)):
        used = weight > 0
        if not used.any():
            continue
        order = np.argsort(values[used], axis=0)
        ordered = np.take_along_axis(values[used], order, axis=0)
        share = weight[used][order] / weight[used].sum()  # (S, P)
        middle = np.cumsum(share, axis=0) - share / 2
        for j in range(samples.shape[2]):
            out[:, i, j] = np.interp(levels, middle[:, j], ordered[:, j])
    return out


def _unwrap(
    angles: Array, truth: Array, column: int, weights: Array, period: float
) -> tuple[Array, Array]:
    """Return an angle's draws (N, S) and the truth (N, P), relative to its circular median."""
    truth = truth.copy()
    together = np.concatenate([angles, truth[:, column, None]], axis=1)
    # the truth has the weight of a draw
    centre = circular_median(together, period, np.column_stack([weights, (weights**2).sum(axis=1)]))
    truth[:, column] = wrapped(truth[:, column] - centre, period)
    return wrapped(angles - centre[:, None], period), truth
