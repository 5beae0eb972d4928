"""Cropping: the part of an image that a galaxy needs; recognition of frames of many galaxies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.detection.detect import Detection, box_around, clipped_background

MIN_HALF = 80  # pixels: smallest half-width of a cropped cutout
HALF_LIGHT = 10.0  # smallest half-width in half-light radii of the segment
EXTENTS = 3.0  # smallest half-width in extents of the segment
MARGIN = 8
# Sides up to this are never cropped: the outer sky reduces the errors of magnitude and size by a
# few per cent, more for high Sersic indices, at an acceptable cost.
MIN_CROP = 320
FAINT_SCALES = (32, 16, 8)  # pixels, sigma of the Gaussians used to search for faint sources
FAINT_SNR = 4.5  # smallest S/N of a faint source
FAINT_REACH = 4.7  # sigmas (4 half-light radii): the light beyond is below the noise
BINNING = 4  # pixels
MANY = 25  # sources outside the galaxy's part of the image that indicate a frame of many galaxies
FEWEST = 5  # smallest number of detected sources if only a part of the image is searched
MIN_FRAME = 400  # pixels: smallest side


def crop_box(
    detection: Detection,
    image: NDArray[np.float32],
    sigma: NDArray[np.float32] | None,
    position: tuple[float, float],
) -> tuple[slice, slice] | None:
    """Return the rows and columns with the galaxy and its surrounding sky; None for all.

    The half-width is 10 half-light radii of the target's segment, or 3 times its extent, at
    least 80 pixels; for a source without a segment, 4 half-light radii of the widest Gaussian
    filter that detects it. An image that is not much larger is not cropped.

    Args:
        detection: the detected objects.
        image: (H, W), finite.
        sigma: (H, W); if None, the scatter of the background is used.
        position: x, y of the target.
    """
    if max(image.shape) <= MIN_CROP:
        return None
    if detection.target:
        reach = _segment_reach(detection, image, position)
    else:
        noise = (detection.rms if detection.rms > 0 else 1.0) if sigma is None else sigma
        reach = FAINT_REACH * _faint_scale(detection, (image - detection.sky) / noise, position)
    half = math.ceil(max(MIN_HALF, reach)) + MARGIN
    if max(image.shape) <= 1.5 * 2 * half:
        return None
    return box_around(position, half, image.shape)


def sources_in_frame(
    detection: Detection, box: tuple[slice, slice] | None, shape: tuple[int, int]
) -> int:
    """Estimate how many sources a frame holds; 0 for an image of one galaxy.

    For a galaxy that fills its image, detections are its own arms and do not count.

    Args:
        detection: the objects detected in the image, or in the part that was searched.
        box: the target's part of it, None for all.
        shape: H, W of the full image.
    """
    if box is None or max(shape) < MIN_FRAME:
        return 0
    found = set(np.unique(detection.labels).tolist()) - {0}
    beside = found - set(np.unique(detection.labels[box]).tolist())
    larger = shape[0] * shape[1] / detection.labels.size
    if len(beside) < FEWEST or len(beside) * larger < MANY:
        return 0
    total = int(len(found) * larger)
    return total if total < 100 else 10 * round(total / 10)


def _segment_reach(
    detection: Detection, image: NDArray[np.float32], position: tuple[float, float]
) -> float:
    """Return the half-width in pixels required by the target's segment."""
    y, x = np.nonzero(detection.labels == detection.target)
    flux = np.maximum(image[y, x] - detection.sky, 0.0).astype(np.float64)
    radius = np.hypot(x - position[0], y - position[1])
    order = np.argsort(radius)
    light = flux[order].cumsum()
    r_half = float(radius[order][np.searchsorted(light, 0.5 * light[-1])]) if light[-1] > 0 else 0.0
    extent = float(max(np.abs(x - position[0]).max(), np.abs(y - position[1]).max()))
    return max(HALF_LIGHT * r_half, EXTENTS * extent)


def _faint_scale(
    detection: Detection, z: NDArray[np.floating], position: tuple[float, float]
) -> float:
    """Return the sigma in pixels of the widest Gaussian that detects the source; 0 if none does."""
    height, width = (side // BINNING * BINNING for side in z.shape)
    quiet = np.where(detection.labels == 0, z, 0)[:height, :width]
    binned = quiet.reshape(height // BINNING, BINNING, width // BINNING, BINNING).sum(axis=(1, 3))
    column, row = (
        min(int(p / BINNING), n - 1) for p, n in zip(position, binned.shape[::-1], strict=True)
    )
    for scale in FAINT_SCALES:
        smooth = ndimage.gaussian_filter(binned, scale / BINNING, mode="constant", truncate=3.0)
        level, scatter = clipped_background(smooth)
        if scatter > 0 and smooth[row, column] - level > FAINT_SNR * scatter:
            return float(scale)
    return 0.0
