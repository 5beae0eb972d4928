"""The layers of a corner plot: draws and Gaussians, in the parameters shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.plots.density import quantiles

Array = NDArray[np.float64]

PERIOD = 180.0  # degrees, of a position angle
ANGLE = re.compile(r"pa(_\d+)?")  # names of position angles


@dataclass(frozen=True)
class DrawsLayer:
    """Draws of one posterior.

    Args:
        label: text in the legend.
        samples: (S, P); non-finite draws are ignored.
        weights: (S,), not negative; default: 1.
        colour: default: by the position of the layer.
    """

    label: str
    samples: ArrayLike
    weights: ArrayLike | None = None
    colour: str | None = None


@dataclass(frozen=True)
class GaussianLayer:
    """A Gaussian, such as a fit and its covariance, drawn as curves and ellipses.

    Args:
        label: text in the legend.
        mean: (P,).
        covariance: (P, P).
        colour: default: ink.
    """

    label: str
    mean: ArrayLike
    covariance: ArrayLike
    colour: str | None = None


Layer = DrawsLayer | GaussianLayer


@dataclass(frozen=True)
class Mark:
    """A layer in the P drawn parameters: draws, or a mean and a covariance."""

    label: str
    colour: str | None
    mean: Array  # (P,)
    covariance: Array  # (P, P)
    samples: Array | None = None  # (S, P)
    weights: Array | None = None  # (S,) sum 1

    @property
    def exists(self) -> bool:
        """Return whether there is anything to draw."""
        if self.samples is not None:
            return len(self.samples) > 1
        finite = np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()
        return bool(finite and (np.diagonal(self.covariance) >= 0).all())

    def interval(self, *levels: float) -> Array:
        """Return quantiles (L, P)."""
        if self.samples is not None and self.weights is not None:
            return quantiles(self.samples, self.weights, levels)
        score = [NormalDist().inv_cdf(level) for level in levels]
        return self.mean + np.multiply.outer(score, np.sqrt(np.diagonal(self.covariance)))

    def take(self, columns: Sequence[int]) -> Mark:
        """Return the same in some of the parameters."""
        return replace(
            self,
            mean=self.mean[list(columns)],
            covariance=self.covariance[np.ix_(columns, columns)],
            samples=None if self.samples is None else self.samples[:, list(columns)],
        )


def marks_of(
    names: Sequence[str], layers: Sequence[Layer], columns: Sequence[int]
) -> tuple[list[Mark], int]:
    """Return the drawable layers in these columns, and the index of the main one.

    Position angles are shifted to within 90 degrees of the main layer's mean direction.

    Raises:
        ValueError: if a layer does not match the names, or none has anything to draw.
    """
    marks = [mark for layer in layers if (mark := _mark(layer, names, columns)).exists]
    if not marks:
        raise ValueError("no layer has a finite draw or covariance: there is nothing to draw")
    main = max(range(len(marks)), key=lambda k: (marks[k].samples is not None, k))
    centre = _centre(marks[main], angular := _angular([names[k] for k in columns]))
    return [_turned(mark, centre, angular) for mark in marks], main


def true_values(truth: Mapping[str, float], names: Sequence[str], mark: Mark) -> Array:
    """Return truths (P,), NaN if unknown; angles are shifted to the drawn range."""
    true = np.array([float(truth.get(name, math.nan)) for name in names])
    true = np.where(np.isfinite(true), true, math.nan)
    return _near(true, mark.interval(0.5)[0], _angular(names))


def _mark(layer: Layer, names: Sequence[str], columns: Sequence[int]) -> Mark:
    size = len(names)
    if isinstance(layer, GaussianLayer):
        mean, covariance = (np.asarray(v, dtype=float) for v in (layer.mean, layer.covariance))
        _expect(layer.label, "mean", mean.shape, (size,), names)
        _expect(layer.label, "covariance", covariance.shape, (size, size), names)
        return Mark(layer.label, layer.colour, mean, covariance).take(columns)
    samples = np.asarray(layer.samples, dtype=float)
    _expect(layer.label, "samples", samples.shape, (len(samples), size), names)
    given = np.ones(len(samples)) if layer.weights is None else layer.weights
    weights = np.asarray(given, dtype=float)
    _expect(layer.label, "weights", weights.shape, (len(samples),), ("one a draw",))
    samples = samples[:, list(columns)]
    counts = np.isfinite(samples).all(axis=1) & (weights > 0)
    samples, weights = samples[counts], weights[counts]
    weights = weights / max(weights.sum(), 1e-300)
    offset = samples - weights @ samples
    covariance = (weights[:, None] * offset).T @ offset
    return Mark(layer.label, layer.colour, weights @ samples, covariance, samples, weights)


def _expect(
    label: str, what: str, came: tuple[int, ...], expected: tuple[int, ...], names: Sequence[str]
) -> None:
    if came != expected:
        raise ValueError(
            f"{what} of layer '{label}' have shape {came}, expected {expected}: {', '.join(names)}"
        )


def _angular(names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([ANGLE.fullmatch(name) is not None for name in names])


def _centre(mark: Mark, angular: NDArray[np.bool_]) -> Array:
    """Return means (P,), circular ones for angles."""
    centre = mark.mean.copy()
    if mark.samples is not None and mark.weights is not None:
        turn = np.exp(2j * np.deg2rad(mark.samples[:, angular]))
        centre[angular] = np.rad2deg(np.angle(mark.weights @ turn)) / 2 % PERIOD
    return centre


def _turned(mark: Mark, centre: Array, angular: NDArray[np.bool_]) -> Mark:
    samples = None if mark.samples is None else _near(mark.samples, centre, angular)
    return replace(mark, mean=_near(mark.mean, centre, angular), samples=samples)


def _near(values: Array, centre: Array, angular: NDArray[np.bool_]) -> Array:
    """Shift angles to the period nearest to the centre."""
    with np.errstate(invalid="ignore"):  # values other than angles may be infinite
        turned = centre + (values - centre + PERIOD / 2) % PERIOD - PERIOD / 2
    return np.where(angular, turned, values)
