"""Pixels whose sigma is absurd compared with their neighbourhood.

A single pixel with a millionth of its neighbours' noise outweighs all other pixels of a fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.detection.detect import middle
from hybridfit.detection.second_differences import (
    all_usable,
    expected_squares,
    second_differences,
    triples,
)

WIDTH = 5  # pixels: steps of coverage and chip gaps are wider
LOW = 0.25  # fraction of the neighbourhood's sigma: no real structure is so small and so deep
HIGH = 30.0  # times the neighbourhood's sigma, unless light explains it
DARK = 3.0  # largest S/N above the sky of a pixel with high sigma: bright cores exceed it
FAR_LOW, FAR_HIGH = 0.01, 1000.0  # relative to the median sigma of the image, in areas of any size
WRONG = 5.0  # ratio of scatter to sigma in an area with wrong noise
WORSE = 3.0  # the same ratio relative to that of the rest, for areas of low sigma
AREA = 9  # smallest number of pixels in such an area
MEDIAN = 0.6745  # median absolute value of a standard normal variable


def noise_outliers(
    image: NDArray[np.floating], sigma: NDArray[np.floating], usable: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the pixels whose sigma cannot be right.

    Sigma is too low if it is below a quarter of its surroundings within a few pixels, and too high
    if it exceeds thirty times its surroundings without light that explains it as Poisson noise.
    Areas of any size are too low if sigma is below 1 % of its median and the pixels scatter much
    more, or if sigma is below a quarter of the median and the pixels scatter more, relative to
    sigma, than others; they are too high if sigma is a thousand times the median and the pixels
    are dark.

    Args:
        image: (H, W) flux.
        sigma: (H, W) positive where usable.
        usable: (H, W) True on pixels that are not masked.

    Returns:
        (H, W) True for absurd noise.
    """
    known = sigma[usable]
    outliers = np.zeros(sigma.shape, bool)
    if known.min() >= LOW * known.max():
        return outliers
    typical = middle(known)
    deep = usable & (sigma < FAR_LOW * typical)
    if deep.any() and not _scatters(image, sigma, deep):
        typical = middle(sigma[deep])  # the others have wrong noise
    elif deep.any():
        outliers |= deep
    outliers |= _understated(image, sigma, usable & ~outliers, LOW * typical)
    dark = usable & (image - middle(image[usable]) < DARK * sigma)
    outliers |= dark & (sigma > FAR_HIGH * typical)
    if _pits(np.where(usable, sigma, 0), LOW):
        outliers |= _low(sigma, usable, LOW)
    if (sigma[dark] > HIGH * typical).any():
        outliers |= dark & _low(1 / sigma, usable, 1 / HIGH)
    return outliers


def _pits(plane: NDArray[np.floating], depth: float) -> bool:
    """Return whether any pixel is far below others a few pixels away on both sides (quick test)."""
    reach = WIDTH - 1
    height, width = plane.shape
    padded = np.pad(plane, reach, mode="reflect")
    rows, columns = slice(reach, reach + height), slice(reach, reach + width)
    level = depth * np.minimum(padded[:height, columns], padded[2 * reach :, columns])
    other = depth * np.minimum(padded[rows, :width], padded[rows, 2 * reach :])
    return bool((plane < np.maximum(level, other)).any())


def _low(plane: NDArray[np.floating], usable: NDArray[np.bool_], depth: float) -> NDArray[np.bool_]:
    """Return (H, W) True on small areas far below all of their surroundings."""
    closed = ndimage.grey_closing(np.where(usable, plane, 0), WIDTH, mode="mirror")
    low = usable & (plane < depth * closed)
    # corners of slanted steps are in no square, but are as low as their areas
    beside = ndimage.minimum_filter(np.where(usable & ~low, plane, np.inf), WIDTH, mode="mirror")
    return low & (plane < depth * beside)


def _scatters(
    image: NDArray[np.floating], sigma: NDArray[np.floating], area: NDArray[np.bool_]
) -> bool:
    """Return whether the pixels of an area differ from their neighbours by far more than sigma."""
    across = np.abs(np.diff(image, axis=1)) / np.hypot(sigma[:, 1:], sigma[:, :-1])
    pairs = area[:, 1:] & area[:, :-1]
    return bool(not pairs.any() or middle(across[pairs]) > WRONG * MEDIAN)


def _understated(
    image: NDArray[np.floating],
    sigma: NDArray[np.floating],
    usable: NDArray[np.bool_],
    level: float,
) -> NDArray[np.bool_]:
    """Return (H, W) True on connected areas of low sigma that scatter more than sigma.

    Deep exposures scatter by their sigma. Light with structure from pixel to pixel has it in the
    rest of the image as well.
    """
    low = usable & (sigma < level)
    labels, count = ndimage.label(low)
    found = np.zeros(low.shape, bool)
    if low.sum() < AREA:
        return found
    expected = np.sqrt(expected_squares(sigma.astype(np.float64) ** 2, 1))
    second = np.abs(second_differences(image, 1)) / expected
    left, inner, right = triples(low, 1)
    same = all_usable(usable, 1) & (left == inner) & (right == inner)
    rest = second[same & ~inner]
    limit = WORSE * max(middle(rest) if rest.size else 0.0, MEDIAN)
    sizes = np.bincount(triples(labels, 1)[1][same], minlength=count + 1)
    for label in np.flatnonzero(sizes[1:] >= AREA) + 1:
        area = labels == label
        if middle(second[same & triples(area, 1)[1]]) > limit:
            found |= area
    return found
