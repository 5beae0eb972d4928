"""Find the stars of an image.

Stars are sources that are detected by photutils, isolated, unmasked, not saturated and bright
enough, and whose size lies on the stellar locus: the narrowest concentration of sizes, which may
vary over the image as a quadratic polynomial.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from photutils.segmentation import detect_sources
from scipy import ndimage

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


@dataclass(frozen=True, eq=False)
class Stars:
    """S stars of an image.

    Args:
        x, y: (S,) centroids, pixels of the image.
        flux, snr: (S,) flux and signal-to-noise ratio.
        size: (S,) Gaussian width, pixels.
        segments: (H, W) labels of all sources, 0 for sky.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]
    size: NDArray[np.float64]
    segments: NDArray[np.int32]

    @property
    def fwhm(self) -> float:
        """Median FWHM, pixels."""
        return 2.3548 * float(np.median(self.size))


def find_stars(
    image: NDArray[np.floating],
    sigma: NDArray[np.floating],
    mask: NDArray[np.bool_],
    options: StarOptions = StarOptions(),
) -> Stars:
    """Return the stars of an image that can make up its PSF, the brightest first.

    Args:
        image: (H, W) flux per pixel.
        sigma: (H, W) noise.
        mask: (H, W) True for pixels to ignore.
        options: see `StarOptions`.

    Raises:
        BadInput: if there are fewer than three.
    """
    clean, bad = _clean(image, sigma, mask)
    segments = _detected(clean, sigma, bad)
    peaks = _peaks(clean, segments)
    cut = np.pad(clean, REACH), np.pad(np.where(bad, 0.0, 1.0) / _filled(sigma, bad) ** 2, REACH)
    boxes = [(slice(y, y + 2 * REACH + 1), slice(x, x + 2 * REACH + 1)) for x, y in peaks]
    if len(boxes) < FEWEST:
        raise _too_few(len(boxes), "sources")
    images, weight = (np.stack([plane[box] for box in boxes]) for plane in cut)
    shapes = measure_shapes(images, weight)
    usable = _usable(shapes, images, weight, peaks, options) & _isolated(peaks, shapes)
    on = _on_locus(shapes, peaks, image.shape, usable, options)
    order = np.flatnonzero(on)[np.argsort(-shapes.snr[on])][: options.max_stars]
    if len(order) < FEWEST:
        raise _too_few(len(order), f"stars of S/N above {options.min_snr:g}")
    return Stars(
        peaks[order, 0] + shapes.x[order],
        peaks[order, 1] + shapes.y[order],
        shapes.flux[order],
        shapes.snr[order],
        shapes.size[order],
        segments,
    )


def _too_few(number: int, what: str) -> BadInput:
    return BadInput(
        f"the image has {number} isolated {what}, expected {FEWEST} or more to make a PSF of them: "
        "give a PSF, or lower min_snr"
    )


def _clean(
    image: NDArray[np.floating], sigma: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the image without background, 0 where it is bad, and the bad pixels."""
    bad = mask | ~np.isfinite(image) | ~(sigma > 0) | ~np.isfinite(sigma)
    if bad.all():
        raise BadInput("every pixel of the image is masked: no PSF can be made from its stars")
    level, _ = clipped_background(image[~bad])
    return np.where(bad, 0.0, image - level), bad


def _filled(sigma: NDArray[np.floating], bad: NDArray[np.bool_]) -> NDArray[np.floating]:
    return np.where(bad, 1.0, sigma)


def _detected(
    image: NDArray[np.float64], sigma: NDArray[np.floating], bad: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Return the labels of sources in the smoothed image over its noise."""
    z = ndimage.gaussian_filter(image / _filled(sigma, bad), SMOOTHING)
    level = max(clipped_background(z[~bad])[1], 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no sources were found"
        found = detect_sources(z, THRESHOLD * level, MIN_PIXELS)
    if found is None:
        raise _too_few(0, "sources")
    return np.asarray(found.data, dtype=np.int32)


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
    peaks: NDArray[np.intp],
    options: StarOptions,
) -> NDArray[np.bool_]:
    """Return sources that are bright enough, not saturated, and without masked pixels."""
    core = slice(REACH - 4, REACH + 5)
    whole = (weight[:, core, core] > 0).all(axis=(1, 2)) & ((weight > 0).mean(axis=(1, 2)) > 0.9)
    good = whole & np.isfinite(shapes.size) & (shapes.snr > options.min_snr)
    if options.saturation is not None:
        good &= images[:, core, core].max(axis=(1, 2)) < options.saturation
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


def _on_locus(
    shapes: Shapes,
    peaks: NDArray[np.intp],
    shape: tuple[int, ...],
    usable: NDArray[np.bool_],
    options: StarOptions,
) -> NDArray[np.bool_]:
    """Return usable sources whose sizes and ellipticities are those of stars."""
    if usable.sum() < FEWEST:
        return usable
    size = np.log(np.where(usable, shapes.size, 1.0))
    mode = _stellar_size(size[usable], shapes.snr[usable])
    on = usable & (np.abs(size - mode) < 1.5 * options.max_size_scatter)
    x, y = peaks.astype(np.float64).T
    for _ in range(4):
        if on.sum() < FEWEST:
            return on
        powers = powers_up_to(0 if on.sum() < 8 else 1 if on.sum() < 16 else 2)
        middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
        design = polynomial(x, y, powers, middle, middle)
        away = np.zeros(len(size))
        for values, limit in (
            (size, options.max_size_scatter),
            (shapes.e1, ROUND),
            (shapes.e2, ROUND),
        ):
            coefficients = np.linalg.lstsq(design[on], values[on], rcond=None)[0]
            off = np.abs(values - design @ coefficients)
            spread = 3 * 1.4826 * float(np.median(off[on]))
            away = np.maximum(away, off / min(max(spread, 0.25 * limit), limit))
        on = usable & (away < 1)
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
