"""Densities and quantiles of weighted draws for figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = 56  # grid points per side


def quantiles(samples: Array, weights: Array, levels: Sequence[float]) -> Array:
    """Return quantiles (L, P) of weighted draws (S, P), interpolated linearly between mid-ranks.

    Args:
        samples: (S, P), finite.
        weights: (S,), sum 1.
        levels: L numbers in (0, 1).
    """
    order = np.argsort(samples, axis=0)
    ordered = np.take_along_axis(samples, order, axis=0)
    share = weights[order]
    middle = np.cumsum(share, axis=0) - share / 2
    columns = [np.interp(levels, middle[:, k], ordered[:, k]) for k in range(samples.shape[1])]
    return np.stack(columns, axis=1)


def density(samples: Array, weights: Array, x: Array, y: Array) -> Array:
    """Return the kernel density (len(y), len(x)) of weighted draws of a pair, on a grid.

    The kernel has the draws' covariance times h^2, where h = n^(-1/6) with their effective number
    n (Scott 1992). Its centres are the draws shrunk towards the mean, so that the density is not
    wider than the draws (West 1993).

    Args:
        samples: (S, 2), finite.
        weights: (S,), sum 1.
        x, y: coordinates of the grid.
    """
    effective = 1 / (weights**2).sum()
    bandwidth = min(effective ** (-1 / 6), 0.7)
    mean = weights @ samples
    offset = samples - mean
    covariance = (weights[:, None] * offset).T @ offset
    if not np.linalg.det(covariance) > 1e-12 * np.prod(np.diagonal(covariance)):
        return np.zeros((len(y), len(x)))
    whiten = np.linalg.inv(np.linalg.cholesky(bandwidth**2 * covariance))
    centres = (mean + np.sqrt(1 - bandwidth**2) * offset) @ whiten.T
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2) @ whiten.T
    square = (grid**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * grid @ centres.T
    height = np.exp(-0.5 * np.maximum(square, 0)) @ weights
    height *= np.linalg.det(whiten) / (2 * np.pi)
    return height.reshape(len(y), len(x))


def enclosing_levels(
    height: Array, samples: Array, weights: Array, x: Array, y: Array, shares: Sequence[float]
) -> list[float]:
    """Return the heights above which these fractions of the weight lie, in increasing order.

    Fractions are of all draws, on and off the grid: the density outside the grid is taken to be
    lower than all densities inside.
    """
    column = np.clip(np.searchsorted(x, samples[:, 0]) - 1, 0, len(x) - 2)
    row = np.clip(np.searchsorted(y, samples[:, 1]) - 1, 0, len(y) - 2)
    inside = (samples >= [x[0], y[0]]).all(axis=1) & (samples <= [x[-1], y[-1]]).all(axis=1)
    s = (samples[:, 0] - x[column]) / (x[1] - x[0])
    t = (samples[:, 1] - y[row]) / (y[1] - y[0])
    at = (
        height[row, column] * (1 - s) * (1 - t)
        + height[row, column + 1] * s * (1 - t)
        + height[row + 1, column] * (1 - s) * t
        + height[row + 1, column + 1] * s * t
    )
    at = np.where(inside, at, 0.0)
    found = quantiles(at[:, None], weights, [1 - share for share in sorted(shares, reverse=True)])
    return [float(v) for v in found[:, 0]]
