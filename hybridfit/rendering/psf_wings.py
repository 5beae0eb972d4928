"""Background of a PSF, and the wings that its image cuts off.

Beyond its core a PSF falls off like a Moffat function, so the azimuthal mean of its outer part is

    I(r) = A (r^2 + alpha^2)^(-gamma / 2) + c,    alpha^2 = (FWHM / 2)^2 / (2^(2 / gamma) - 1),

with a free slope gamma (Airy: 3, Kolmogorov: 11/3, Gaussians: large). The level c that remains
after fitting the wings is a background that was not subtracted, or subtracted twice. The flux of
A (...) outside the image is missing from the PSF, whose sum is 1 without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BACKGROUND = 0.003  # of the flux: a smaller one shifts a galaxy by a third of its errors at most
LOST = 0.01  # of the flux; a fit is off by its errors if two or three times as much is lost
CERTAIN = 4.0  # standard errors of the background
FLAT = 0.5  # of the outermost light that a background must explain: else it may be the wings
LEAST_SIDE = 9  # pixels: fewer have no outer part
SHAPE = 0.1  # of the wings: accuracy with which any PSF's wings follow the function
SLOPES = np.concatenate([np.arange(2.8, 6.0, 0.2), np.arange(6.0, 12.1, 0.5)])
RINGS = 12  # at most, if they are 1.5 pixels wide
LEAST_RINGS = 5  # to separate a level from the wings' slope
# of the flux, the outermost light times the pixels: below it neither can matter, as no wings lose
# more than 2 / (gamma - 2) times as much
FAINT_EDGE = 1e-3


@dataclass(frozen=True)
class Wings:
    """The background and wings of a PSF of sum 1.

    Args:
        background: flux of the constant over the pixels that hold the PSF, and
        error: its standard error, inf where unknown.
        edge: mean of the outermost pixels times the number of pixels.
        lost: flux beyond these pixels.
        slope, core2: gamma and alpha^2 [pix^2] of the wings.
        support: (h, w) bool, the pixels of the PSF, without those that a cut has set to 0.
    """

    background: float
    error: float
    edge: float
    lost: float
    slope: float
    core2: float
    support: NDArray[np.bool_]

    @property
    def has_background(self) -> bool:
        """Whether the background is certain, and large enough to matter."""
        flat = self.background * self.edge > 0 and abs(self.background) > FLAT * abs(self.edge)
        return flat and abs(self.background) > max(BACKGROUND, CERTAIN * self.error)

    @property
    def is_cut(self) -> bool:
        """Whether the image cuts off so much of the wings that it matters."""
        return self.lost > LOST


def percent(share: float) -> str:
    """Return a share as text with two digits, or whole per cents: ``4.3 %``, ``430 %``."""
    return f"{100 * share:.2g} %" if abs(share) < 0.995 else f"{100 * share:.0f} %"


def find_wings(psf: Array, centre: tuple[float, float]) -> Wings | None:
    """Measure a PSF's background and the flux beyond its image.

    Args:
        psf: (h, w), sum 1.
        centre: y, x of its core.

    Returns:
        None where the image has no outer part.
    """
    # surrounding rows and columns of zeros are padding, and have no effect
    box = tuple(_held(np.asarray(psf.any(axis=1 - axis))) for axis in (0, 1))
    found = _within(psf[box], (centre[0] - box[0].start, centre[1] - box[1].start))
    if found is None:
        return None
    support = np.zeros(psf.shape, dtype=bool)
    support[box] = found.support
    return replace(found, support=support)


def _held(used: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(used)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def _within(psf: Array, centre: tuple[float, float]) -> Wings | None:
    """Apply `find_wings` to a PSF without padding."""
    if min(psf.shape) < LEAST_SIDE:
        return None
    y, x = np.ogrid[: psf.shape[0], : psf.shape[1]]
    radius = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2)
    half = math.sqrt(float((psf > 0.5 * psf.max()).sum()) / math.pi)
    edge = _edge(psf, radius)
    rings = _rings(psf, radius, max(1.2 * half, 0.4 * edge), edge)
    if rings is None:
        return None
    support = radius <= edge
    area = float(support.sum())
    outermost = area * float(np.average(rings.mean[-2:], weights=rings.count[-2:]))
    if abs(outermost) < FAINT_EDGE:  # as in most PSFs
        return Wings(0.0, FAINT_EDGE, outermost, 0.0, math.inf, half**2, support)
    level, error = _level(rings, half)
    found = Wings(level * area, error * area, outermost, 0.0, math.inf, half**2, support)
    fits = _fits(rings, half, False, level if found.has_background else 0.0)
    best = int(fits.likelihood.argmax())
    slope, core2 = float(SLOPES[best]), float(fits.core2[best])
    amplitude = max(float(fits.amplitude[best]), 0.0)
    lost = 2 * math.pi * amplitude * (area / math.pi + core2) ** (1 - slope / 2) / (slope - 2)
    return replace(found, lost=lost, slope=slope, core2=core2)


@dataclass(frozen=True)
class _Rings:
    """Means of a PSF in rings: radius, mean, its error, and the number of pixels, each (K,)."""

    radius: Array
    mean: Array
    error: Array
    count: Array


@dataclass(frozen=True)
class _Fits:
    """Fits of the wings for each slope, each (S,)."""

    likelihood: Array
    amplitude: Array
    level: Array
    error: Array
    core2: Array


def _edge(psf: Array, radius: Array) -> float:
    """Return the radius where the PSF ends: its corners, or where a cut has set it to 0."""
    ring = np.rint(radius).astype(int).ravel()
    filled = np.bincount(ring, (psf != 0).ravel()) > 0.5 * np.bincount(ring)
    return min(float(np.flatnonzero(filled).max(initial=0)) + 0.5, float(radius.max()))


def _rings(psf: Array, radius: Array, first: float, last: float) -> _Rings | None:
    if last - first < 1:
        return None
    number = int(min(RINGS, max(3, (last - first) / 1.5)))
    # numpy.geomspace and numpy.digitize are slow for so few numbers
    borders = first * ((last + 1e-6) / first) ** (np.arange(number + 1) / number)
    ring = borders.searchsorted(radius.ravel(), side="right")
    count = np.bincount(ring, minlength=number + 2)[1:-1]
    sums = [np.bincount(ring, value.ravel(), number + 2)[1:-1] for value in (radius, psf, psf**2)]
    used = count >= 8
    if used.sum() < 2:
        return None
    r, mean, square = (total[used] / count[used] for total in sums)
    scatter = np.sqrt(np.maximum(square - mean**2, 0.0))
    return _Rings(r, mean, scatter / np.sqrt(count[used]), count[used].astype(np.float64))


def _fits(rings: _Rings, half: float, with_level: bool, level: float = 0.0) -> _Fits:
    """Fit the wings' amplitude for every slope, with a free or given level."""
    power = -SLOPES[:, None] / 2
    core2 = half**2 / (2 ** (2 / SLOPES) - 1)
    first = rings.radius[0] ** 2 + core2
    shape = ((rings.radius**2 + core2[:, None]) / first[:, None]) ** power  # (S, K)
    data = rings.mean - level
    amplitude = np.full((len(SLOPES), 1), max(float(data[0]), 0.0))
    fitted, error = np.zeros_like(amplitude), np.zeros_like(amplitude)
    tiny = 1e-9 * abs(float(rings.mean[0])) + 1e-30  # float32 rounding
    for _ in range(4):
        sigma = np.hypot(rings.error, SHAPE * np.abs(amplitude) * shape) + tiny
        w = sigma**-2
        aa, ac, cc = ((w * f).sum(axis=1, keepdims=True) for f in (shape**2, shape, 1.0))
        ya, yc = ((w * f * data).sum(axis=1, keepdims=True) for f in (shape, 1.0))
        if with_level:
            determinant = np.maximum(aa * cc - ac**2, 1e-12 * aa * cc)
            amplitude = (ya * cc - yc * ac) / determinant
            fitted = (aa * yc - ac * ya) / determinant
            error = np.sqrt(aa / determinant)
        else:
            amplitude = ya / aa
    residual = (data - amplitude * shape - fitted) / sigma
    chi2 = (residual**2).sum(axis=1)
    scale = max(float(chi2.min()) / max(len(data) - 3, 1), 1.0)  # rings and spikes
    likelihood = -0.5 * chi2 / scale - np.log(sigma).sum(axis=1)
    whole = amplitude[:, 0] * first ** (SLOPES / 2)
    return _Fits(likelihood, whole, fitted[:, 0], math.sqrt(scale) * error[:, 0], core2)


def _level(rings: _Rings, half: float) -> tuple[float, float]:
    """Return the level and its error, over all slopes that describe the rings."""
    if len(rings.radius) < LEAST_RINGS:
        return 0.0, math.inf
    fits = _fits(rings, half, True)
    weight = np.exp(fits.likelihood - fits.likelihood.max())
    weight /= weight.sum()
    level = float(weight @ fits.level)
    return level, math.sqrt(float(weight @ (fits.error**2 + (fits.level - level) ** 2)))
