"""Every source of a cutout, for joint fits: positions, and values to start from.

Close pairs show no two maxima in an image that is smoothed for detection, yet they do in its
Laplacian: each source is a maximum of ``-LoG * image`` (Laplacian of Gaussian), whose noise is
known, at the scale of its own width. Pixels are then shared out among the sources by a watershed,
whose regions give fluxes and sizes; the fit, which works on the pixels, does the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from hybridfit.detection.detect import LARGEST, clipped_background
from hybridfit.detection.limits import THRESHOLD

SCALES = (1.0, 1.6, 2.6, 4.2)  # pixels, sigma of the Gaussians
PROMINENCE = 4.0  # of the filtered noise: least height above the saddle to a higher peak
SAME = 1.6  # in units of the scale: a peak as near as that to one of a smaller scale is the same
LEAST_SAME = 2.0  # pixels
CONTRAST = 0.02  # of the filtered height of the source whose light covers the place
SKY_SIGMA = 1.5  # of the smoothed noise: what is fainter belongs to no source
SMOOTHING = 1.5  # pixels, sigma of the Gaussian under the watershed
BORDER = 1.6  # how much the filtered noise scatters more at the edges of the image
TRUNCATE = 4.0  # sigmas at which filters end


@dataclass(frozen=True, eq=False)
class FoundSources:
    """The n sources of a cutout, brightest filtered peak first.

    Args:
        x, y: (n,) pixels.
        significance: (n,) height of the filtered peak over its noise.
        flux: (n,) in the source's own region, flux units.
        radius: (n,) that holds half of this flux, pixels, the PSF's width included.
        regions: (H, W) int32 numbers of the sources from 1, 0 for sky.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    significance: NDArray[np.float64]
    flux: NDArray[np.float64]
    radius: NDArray[np.float64]
    regions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.x)


def find_sources(
    image: NDArray[np.float32],
    sigma: NDArray[np.float32],
    mask: NDArray[np.bool_],
    threshold: float = THRESHOLD,
) -> FoundSources:
    """Return all sources of a cutout.

    Args:
        image: (H, W) flux.
        sigma: (H, W) noise.
        mask: (H, W) True for pixels that are not used.
        threshold: least height of a filtered peak over its noise.
    """
    if mask.all():
        nothing = np.zeros(0)
        return FoundSources(*(nothing,) * 5, np.zeros(image.shape, np.int32))
    sky, _ = clipped_background(image[~mask])
    light = np.where(mask, 0.0, image - sky).astype(np.float64)
    z = _filled(np.clip(light / sigma, -LARGEST, LARGEST), mask)
    peaks, heights = _peaks(z, mask, threshold)
    regions = _regions(z, peaks)
    keep = _contrasted(peaks, heights, regions)
    if not keep.all():
        peaks, heights = peaks[keep], heights[keep]
        regions = _regions(z, peaks)
    flux, radius = _photometry(light, peaks, regions)
    x, y = peaks[:, 1].astype(float), peaks[:, 0].astype(float)
    return FoundSources(x, y, heights, flux, radius, regions)


def _filled(z: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fill masked pixels with the mean of those around, so that a mask's edge is no source."""
    if not mask.any():
        return z
    weight = ndimage.gaussian_filter((~mask).astype(float), 2.0, mode="nearest")
    around = ndimage.gaussian_filter(np.where(mask, 0.0, z), 2.0, mode="nearest")
    return np.where(mask, around / np.maximum(weight, 1e-3), z)


def _peaks(
    z: NDArray[np.float64], mask: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return rows and columns (n, 2) of the sources and their significance (n,), highest first."""
    places, heights = np.zeros((0, 2), np.intp), np.zeros(0)
    for scale in SCALES:
        filtered = -ndimage.gaussian_laplace(z, scale, mode="nearest", truncate=TRUNCATE)
        filtered = _quiet_border(filtered, scale)
        # correlated noise, or a noise map that is wrong, scatters more than white noise would
        scatter = max(clipped_background(filtered[~mask])[1], white_scatter(scale))
        found = peak_local_max(
            filtered, min_distance=1, threshold_abs=threshold * scatter, exclude_border=False
        )
        found = found[
            ~mask[tuple(found.T)]
            & _prominent(filtered, found, min(PROMINENCE, threshold) * scatter)
        ]
        apart = np.hypot(*(found[:, None] - places[None]).transpose(2, 0, 1).astype(float))
        new = (apart > max(LEAST_SAME, SAME * scale)).all(axis=1)
        places = np.concatenate([places, found[new]])
        heights = np.concatenate([heights, filtered[tuple(found[new].T)] / scatter])
    order = np.argsort(-heights, kind="stable")
    return places[order], heights[order]


def _quiet_border(filtered: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Lower what is filtered with repeated edge pixels, whose noise repeats too."""
    inner = np.zeros(filtered.shape, bool)
    border = math.ceil(scale)
    inner[border:-border, border:-border] = True
    return np.where(inner, filtered, filtered / BORDER)


def _prominent(
    filtered: NDArray[np.float64], peaks: NDArray[np.intp], height: float
) -> NDArray[np.bool_]:
    """Return which peaks (n, 2) rise by ``height`` over the saddle to any that is higher."""
    if len(peaks) < 2:
        return np.ones(len(peaks), bool)
    box = tuple(slice(max(p.min() - 1, 0), p.max() + 2) for p in peaks.T)
    own = filtered[box]
    filled = reconstruction(own - height, own)  # a lesser peak is filled from its higher neighbour
    at = tuple((peaks - [b.start for b in box]).T)
    return np.asarray(filled[at] <= own[at] - (1 - 1e-9) * height)


def white_scatter(scale: float) -> float:
    """Return the scatter of white noise of unit variance after a Laplacian of a Gaussian.

    The filter's power is ``k^4 exp(-k^2 s^2)``; over all modes it is ``1 / (2 pi s^6)``.
    """
    return float(1 / np.sqrt(2 * np.pi * scale**6))


def _regions(z: NDArray[np.float64], peaks: NDArray[np.intp]) -> NDArray[np.int32]:
    """Return the number (H, W) of the source that each pixel belongs to, 0 for sky."""
    smooth = ndimage.gaussian_filter(z, SMOOTHING, mode="nearest", truncate=3.0)
    level = 1 / (2 * np.sqrt(np.pi) * SMOOTHING)
    markers = np.zeros(z.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    lit = (smooth > SKY_SIGMA * level) | (markers > 0)
    return np.asarray(watershed(-smooth, markers, mask=lit), dtype=np.int32)


def _contrasted(
    peaks: NDArray[np.intp], heights: NDArray[np.float64], regions: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Return which sources (n,) are no mere structure of a much brighter one that they touch."""
    grown = ndimage.maximum_filter(regions, 3)
    keep = np.ones(len(peaks), bool)
    touching = (grown != regions) & (regions > 0) & (grown > 0)
    pairs = np.unique(np.stack([regions[touching], grown[touching]]), axis=1) - 1
    for one, other in pairs.T:
        faint, bright = max(one, other), min(one, other)  # the heights fall
        keep[faint] &= heights[faint] >= CONTRAST * heights[bright]
    return keep


def _photometry(
    light: NDArray[np.float64], peaks: NDArray[np.intp], regions: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return flux and half-light radius (n,) in the regions; a region without light has neither."""
    flux, radius = np.zeros(len(peaks)), np.ones(len(peaks))
    for i, (row, column) in enumerate(peaks):
        y, x = np.nonzero(regions == i + 1)
        own = np.maximum(light[y, x], 0.0)
        flux[i] = light[y, x].sum()
        if own.sum() <= 0:
            continue
        distance = np.hypot(y - row, x - column)
        order = np.argsort(distance)
        within = own[order].cumsum()
        radius[i] = max(distance[order][np.searchsorted(within, 0.5 * within[-1])], 0.5)
    return flux, radius
