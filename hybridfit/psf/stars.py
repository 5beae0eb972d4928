"""Find the stars of an image.

Stars are sources that are detected by photutils, isolated, unmasked, not saturated and bright
enough, and whose size lies on the stellar locus: the narrowest concentration of sizes, which may
vary over the image as a quadratic polynomial.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from photutils.segmentation import detect_sources
from scipy import ndimage
from scipy.spatial import KDTree

from hybridfit.data.errors import BadInput
from hybridfit.detection.detect import clipped_background
from hybridfit.psf.model import polynomial, powers_up_to
from hybridfit.psf.options import StarOptions
from hybridfit.psf.star_shapes import Shapes, measure_shapes

SMOOTHING = 1.0  # pixels, sigma of the Gaussian before detection
THRESHOLD = 5.0  # in sigmas of the smoothed image
MIN_PIXELS = 5
REACH = 12  # pixels: half of the images on which sizes are measured
CLEAR = 8.0  # pixels: no other source may be this near
SHARE = 0.02  # of a star's flux: fainter sources near it do not matter
LOCUS = 0.08  # ln(size): width of the window that is moved over the sizes
ROUND = 0.2  # largest deviation of the ellipticity from that of other stars
SIZES = 5  # half-widths of the locus that count as "nearby sizes" for the contrast
FEWEST = 3
SAME = 1.5  # pixels within which sources of overlapping parts are the same


class Pixels(Protocol):
    """An image or a part of one, such as a `SurveyTile` with a noise map."""

    @property
    def image(self) -> NDArray[np.floating]:
        """(h, w) flux per pixel."""

    @property
    def sigma(self) -> NDArray[np.floating] | None:
        """(h, w) noise."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w) True for pixels to ignore."""

    @property
    def origin(self) -> tuple[int, int]:
        """x, y of the first pixel in the image."""


@dataclass(frozen=True, eq=False)
class Stars:
    """S stars of an image, or sources that may be stars.

    Args:
        x, y: (S,) centroids, pixels of the image.
        size: (S,) Gaussian width, pixels.
        e1, e2: (S,) ellipticity, see `Shapes`.
        flux, snr: (S,) flux and signal-to-noise ratio.
        tile: (S,) number of the part of the image.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]
    tile: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fwhm(self) -> float:
        """Median FWHM, pixels."""
        return 2.3548 * float(np.median(self.size))

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Stars:
        """Return some of the stars."""
        return Stars(**{name: value[which] for name, value in vars(self).items()})

    @classmethod
    def joined(cls, parts: Sequence[Stars]) -> Stars:
        """Return the stars of all parts, without those that several parts have."""
        names = [entry.name for entry in fields(cls)]
        whole = cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        pairs = KDTree(np.column_stack([whole.x, whole.y])).query_pairs(SAME, output_type="ndarray")
        return whole.take(~np.isin(np.arange(len(whole)), pairs.max(axis=1, initial=-1)))


def candidates(pixels: Pixels, options: StarOptions = StarOptions(), tile: int = 0) -> Stars:
    """Return isolated, unmasked, bright sources of an image or a part of it: stars and galaxies.

    Args:
        pixels: image, noise and mask.
        options: see `StarOptions`.
        tile: number of the part.
    """
    found = clean_pixels(pixels)
    peaks = np.zeros((0, 2), np.intp)
    if found is not None:
        peaks = _peaks(found.image, detected(found))
    images, weight = np.zeros((2, len(peaks), 2 * REACH + 1, 2 * REACH + 1))
    for plane, stamps in () if found is None else ((found.image, images), (found.weight, weight)):
        wide = np.pad(plane, REACH)
        for stamp, (x, y) in zip(stamps, peaks, strict=True):
            stamp[:] = wide[y : y + 2 * REACH + 1, x : x + 2 * REACH + 1]
    shapes = measure_shapes(images, weight)
    level = 0.0 if found is None else found.level
    good = _usable(shapes, images, weight, level, options) & _isolated(peaks, shapes)
    x, y = (peaks + np.array(pixels.origin)).T.astype(np.float64)
    number = np.full(len(peaks), tile)
    whole = Stars(
        *(x + shapes.x, y + shapes.y, shapes.size, shapes.e1, shapes.e2, shapes.flux),
        *(shapes.snr, number),
    )
    return whole.take(good)


def choose_stars(found: Stars, shape: tuple[int, ...], options: StarOptions) -> Stars:
    """Return the stars among sources that can make up the PSF, the brightest first.

    Args:
        found: from `candidates`, of all parts of an image.
        shape: H, W of the image.
        options: see `StarOptions`.

    Raises:
        BadInput: if there are fewer than three.
    """
    on = found.take(_on_locus(found, shape, options))
    on = on.take(np.argsort(-on.snr)[: options.max_stars])
    if len(on) < FEWEST:
        raise BadInput(
            f"the image has {len(on)} isolated stars of S/N above {options.min_snr:g}, expected "
            f"{FEWEST} or more to make a PSF of them: give a PSF, or lower min_snr"
        )
    return on


@dataclass(frozen=True, eq=False)
class CleanPixels:
    """An image without bad pixels.

    Args:
        image: (h, w) without background, 0 where it is bad.
        weight: (h, w) 1 / sigma^2, 0 where it is bad.
        level: the background.
    """

    image: NDArray[np.float64]
    weight: NDArray[np.float64]
    level: float


def clean_pixels(pixels: Pixels) -> CleanPixels | None:
    """Return an image without its background and bad pixels; None if all pixels are bad."""
    if pixels.sigma is None:
        raise BadInput("the image has no noise map: a PSF of its stars needs one")
    sigma = np.asarray(pixels.sigma, dtype=np.float64)
    bad = pixels.mask | ~np.isfinite(pixels.image) | ~(sigma > 0) | ~np.isfinite(sigma)
    if bad.all():
        return None
    level, _ = clipped_background(pixels.image[~bad])
    weight = np.where(bad, 0.0, 1 / np.where(bad, 1.0, sigma) ** 2)
    return CleanPixels(np.where(bad, 0.0, pixels.image - level), weight, level)


def detected(clean: CleanPixels) -> NDArray[np.int32]:
    """Return the labels (h, w) of sources in the smoothed image over its noise."""
    z = ndimage.gaussian_filter(clean.image * np.sqrt(clean.weight), SMOOTHING)
    level = max(clipped_background(z[clean.weight > 0])[1], 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no sources were found"
        found = detect_sources(z, THRESHOLD * level, MIN_PIXELS)
    return np.zeros(z.shape, np.int32) if found is None else np.asarray(found.data, np.int32)


def _peaks(image: NDArray[np.float64], segments: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return x, y of the local maxima of all segments: blended sources have several."""
    smooth = ndimage.gaussian_filter(image, SMOOTHING)
    top = (smooth == ndimage.maximum_filter(smooth, 5)) & (segments > 0)
    y, x = top.nonzero()
    return np.column_stack([x, y])


def _usable(
    shapes: Shapes,
    images: NDArray[np.floating],
    weight: NDArray[np.floating],
    level: float,
    options: StarOptions,
) -> NDArray[np.bool_]:
    """Return sources that are bright enough, not saturated, and without masked pixels."""
    core = slice(REACH - 4, REACH + 5)
    whole = (weight[:, core, core] > 0).all(axis=(1, 2)) & ((weight > 0).mean(axis=(1, 2)) > 0.9)
    good = whole & np.isfinite(shapes.size) & (shapes.snr > options.min_snr)
    if options.saturation is not None:
        good &= images[:, core, core].max(axis=(1, 2)) < options.saturation - level
    return good


def _isolated(peaks: NDArray[np.intp], shapes: Shapes) -> NDArray[np.bool_]:
    """Return sources without others nearby that have more than a small share of their flux."""
    flux = np.nan_to_num(shapes.flux)
    alone = np.ones(len(peaks), bool)
    order = np.argsort(peaks[:, 1])
    rows = peaks[order, 1]
    for place, k in enumerate(order):
        first, last = np.searchsorted(rows, (rows[place] - CLEAR, rows[place] + CLEAR + 1e-9))
        near = order[first:last]
        near = near[(near != k) & (np.abs(peaks[near, 0] - peaks[k, 0]) <= CLEAR)]
        alone[k] = not (flux[near] > SHARE * flux[k]).any()
    return alone


def _on_locus(found: Stars, shape: tuple[int, ...], options: StarOptions) -> NDArray[np.bool_]:
    """Return sources whose sizes and ellipticities are those of stars."""
    if len(found) < FEWEST:
        return np.ones(len(found), bool)
    size = np.log(found.size)
    mode = _stellar_size(size, found.snr)
    on = np.abs(size - mode) < 1.5 * options.max_size_scatter
    middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    limits = (size, options.max_size_scatter), (found.e1, ROUND), (found.e2, ROUND)
    for _ in range(4):
        if on.sum() < FEWEST:
            return on
        powers = powers_up_to(0 if on.sum() < 8 else 1 if on.sum() < 16 else 2)
        design = polynomial(found.x, found.y, powers, middle, middle)
        away = np.zeros(len(size))
        for values, limit in limits:
            coefficients = np.linalg.lstsq(design[on], values[on], rcond=None)[0]
            off = np.abs(values - design @ coefficients)
            spread = 3 * 1.4826 * float(np.median(off[on]))
            away = np.maximum(away, off / min(max(spread, 0.25 * limit), limit))
        on = away < 1
    return on


def _stellar_size(size: NDArray[np.float64], snr: NDArray[np.float64]) -> float:
    """Return the ln(size) of stars: the most crowded narrow window of small sizes.

    Galaxies have all sizes, so that a window of stars has far more sources than its
    neighbourhood. Brighter sources count more, because their sizes are better known.
    """
    weight = np.minimum(snr / 50, 2.0)
    order = np.argsort(size)
    size, weight = size[order], weight[order]
    total = np.concatenate([[0.0], np.cumsum(weight)])

    def inside(half: float) -> NDArray[np.float64]:
        first, last = (np.searchsorted(size, size + step) for step in (-half, half))
        return total[last] - total[first]

    contrast = inside(LOCUS) / np.sqrt(1 + inside(SIZES * LOCUS))
    # of two concentrations alike stars are the smaller one
    best = contrast > 0.8 * contrast.max()
    first = int(np.argmax(best))
    window = np.abs(size - size[first]) < LOCUS
    place = np.flatnonzero(window)[np.argmax(contrast[window])]
    near = np.abs(size - size[place]) < LOCUS
    return float(np.average(size[near], weights=weight[near]) if near.any() else math.nan)
