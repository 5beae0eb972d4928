"""Detection of objects in a cutout: the sky, the target's segment and its neighbours.

Detection is photutils' `detect_sources` on a smoothed image in units of the noise. This module
adds a fast background, and splits off neighbours that touch the target's segment (photutils'
deblending needs scikit-image and costs more than the fit).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from photutils.segmentation import detect_sources
from scipy import ndimage

LARGEST = np.float32(1e30)  # S/N of a pixel: higher values indicate a wrong noise map
SMOOTHING = 1.5  # pixels, sigma of the Gaussian
THRESHOLD = 4.7  # sigmas of the smoothed noise: one false detection in 60 cutouts of 128 x 128
MIN_PIXELS = 5
GROW = 2  # pixels by which neighbours are dilated
REACH = 5.0  # pixels: largest distance of the target's segment from its position
PROMINENCE = 6.0  # smallest height of a second peak above its saddle, in sigmas of smoothed noise
MIN_SHARE = 0.02  # smallest fraction of the segment's flux in a second peak
LEVELS = 16  # thresholds between the detection limit and the second peak
SUBSAMPLE = 2048  # number of pixels for a first background estimate


@dataclass(frozen=True, eq=False)
class Detection:
    """Objects detected in a cutout.

    Args:
        labels: (H, W) int32, 0 for sky.
        target: label of the target, 0 if it was not detected.
        sky: background level, flux per pixel.
        rms: scatter of the background over the entire cutout, flux per pixel.
    """

    labels: NDArray[np.int32]
    target: int
    sky: float
    rms: float


def detect_objects(
    image: NDArray[np.float32],
    sigma: NDArray[np.float32] | None,
    mask: NDArray[np.bool_],
    position: tuple[float, float],
) -> Detection:
    """Detect the objects in a cutout, and identify the target's segment.

    Args:
        image: (H, W); masked values are not used, but must be finite.
        sigma: (H, W) noise; None to use the scatter of the background.
        mask: (H, W), True for masked pixels; not all may be masked.
        position: x, y of the target.
    """
    sky, rms = clipped_background(image[~mask])
    noise = (rms if rms > 0 else 1.0) if sigma is None else sigma
    with np.errstate(over="ignore"):
        z = (image - np.float32(sky)) / noise
    z = np.where(
        mask, np.float32(0), np.clip(z, -LARGEST, LARGEST)
    )  # infinities must not be smoothed
    smooth = ndimage.gaussian_filter(z, SMOOTHING, mode="nearest", truncate=3.0)
    # measure the noise: the map may be wrong or the noise correlated
    white = 1 / (2 * math.sqrt(math.pi) * SMOOTHING)
    level = max(clipped_background(smooth[~mask])[1], 0.3 * white)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no sources were found"
        found = detect_sources(smooth, THRESHOLD * level, MIN_PIXELS)
    if found is None:
        return Detection(np.zeros(image.shape, np.int32), 0, sky, rms)
    labels = np.asarray(found.data, dtype=np.int32)
    target = label_at(labels, position, REACH)
    if target:
        labels = _split_target(labels, target, smooth, level, position)
    return Detection(labels, target, sky, rms)


def clipped_background(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return level and scatter of the background, clipped at 3 sigma around the median.

    The level is SExtractor's mode, 2.5 median - 1.5 mean of the clipped values, unless mean and
    median differ much (Bertin & Arnouts 1996, A&AS 117, 393). A subsample of a few thousand
    pixels gives the scatter to 3 %.
    """
    sample = values.ravel()[:: max(1, values.size // SUBSAMPLE)].astype(np.float64)
    median, rms = 0.0, 0.0
    for _ in range(6):
        before = sample.size
        median = middle(sample)
        deviation = np.abs(sample - median)
        rms = 1.4826 * middle(deviation)
        if rms == 0:  # more than half of the pixels are equal: padding, or low counts
            others = deviation[deviation > 0]
            rms = 1.4826 * middle(others) if others.size else 0.0
            break
        sample = sample[deviation < 3 * rms]
        if sample.size > 0.99 * before:  # only the tail of the noise is still clipped
            break
    mean = float(sample.mean())
    level = 2.5 * median - 1.5 * mean if abs(mean - median) < 0.3 * rms else median
    return level, rms


def middle(values: NDArray[np.floating]) -> float:
    """Return the upper median, several times faster than `numpy.median`."""
    half = values.size // 2
    return float(np.partition(values, half)[half])


def label_at(labels: NDArray[np.integer], position: tuple[float, float], reach: float) -> int:
    """Return the label at x, y, else the nearest label within ``reach`` pixels, else 0."""
    column, row = int(position[0] + 0.5), int(position[1] + 0.5)
    if labels[row, column]:
        return int(labels[row, column])
    r = math.ceil(reach)
    box = slice(max(row - r, 0), row + r + 1), slice(max(column - r, 0), column + r + 1)
    y, x = np.nonzero(labels[box])
    if not len(y):
        return 0
    distance = np.hypot(x + box[1].start - position[0], y + box[0].start - position[1])
    nearest = int(distance.argmin())
    return int(labels[box][y[nearest], x[nearest]]) if distance[nearest] <= reach else 0


def neighbour_mask(detection: Detection) -> NDArray[np.bool_] | None:
    """Return the neighbours (H, W), dilated but not into the target; None if there are none."""
    neighbours = (detection.labels != 0) & (detection.labels != detection.target)
    if not neighbours.any():
        return None
    return grown(neighbours, GROW) & (detection.labels != detection.target)


def grown(where: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return ``where`` dilated by a number of pixels along both axes."""
    return ndimage.maximum_filter(where.view(np.uint8), 2 * pixels + 1, mode="constant") > 0


def box_around(
    position: tuple[float, float], half: int, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Return rows and columns within ``half`` pixels of x, y, clipped to the image."""
    column, row = int(position[0] + 0.5), int(position[1] + 0.5)
    rows = slice(max(row - half, 0), min(row + half + 1, shape[0]))
    return rows, slice(max(column - half, 0), min(column + half + 1, shape[1]))


def _split_target(
    labels: NDArray[np.int32],
    target: int,
    smooth: NDArray[np.float32],
    level: float,
    position: tuple[float, float],
) -> NDArray[np.int32]:
    """Split neighbours that touch the target off its segment, with new labels.

    A second peak is a neighbour if, at one of 16 increasing thresholds, it separates from the
    target's peak while it rises 6 sigma above the saddle and contains 2 % of the flux:
    SExtractor's criterion, with a higher prominence so that spiral arms stay with the galaxy.
    """
    y, x = np.nonzero(labels == target)
    box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    inside = labels[box] == target
    image = np.where(inside, smooth[box], 0.0)
    peaks = np.argwhere(inside & (image == ndimage.maximum_filter(image, 5)))
    if len(peaks) < 2:
        return labels
    distance = np.hypot(peaks[:, 1] + x.min() - position[0], peaks[:, 0] + y.min() - position[1])
    heights = image[peaks[:, 0], peaks[:, 1]]
    near = distance <= max(REACH, float(distance.min()))
    own = int(np.flatnonzero(near)[heights[near].argmax()])
    strong = heights > (THRESHOLD + PROMINENCE) * level
    others = [int(i) for i in np.flatnonzero(strong) if i != own]
    cores = _cores(image, peaks, own, others, level) if others else None
    if cores is None:
        return labels
    # assign pixels below the saddles to the nearest core
    _, (rows, columns) = ndimage.distance_transform_edt(cores == 0, return_indices=True)
    neighbour = inside & (cores[rows, columns] == 2)
    split = labels.copy()
    split[box][neighbour] = labels.max() + 1
    return split


def _cores(
    image: NDArray[np.float32],
    peaks: NDArray[np.intp],
    own: int,
    others: list[int],
    level: float,
) -> NDArray[np.uint8] | None:
    """Mark pixels above the saddles: 1 target, 2 neighbours; None without neighbours."""
    total = float(image.sum())
    top = float(max(image[tuple(peaks[i])] for i in others))
    cores = np.zeros(image.shape, np.uint8)
    for threshold in np.geomspace(THRESHOLD * level, top, LEVELS, endpoint=False)[1:]:
        parts, _ = ndimage.label(image > threshold, structure=np.ones((3, 3)))
        mine = parts[tuple(peaks[own])]
        for part in {int(parts[tuple(peaks[i])]) for i in others} - {0, int(mine)}:
            where = parts == part
            prominent = image[where].max() - threshold > PROMINENCE * level
            if not prominent or float(image[where].sum()) < MIN_SHARE * total:
                continue
            if not cores.any():
                cores[parts == mine if mine else _disc(image.shape, peaks[own])] = 1
            cores[where] = 2
    return cores if cores.any() else None


def _disc(shape: tuple[int, ...], centre: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the pixels around a peak that is fainter than the saddle next to it."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= REACH**2
