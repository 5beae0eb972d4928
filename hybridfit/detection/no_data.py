"""Pixels that hold a value but no data: fill values, padding, saturated plateaus.

Noise makes neighbouring pixels differ, so an area of one and the same value was not measured.
Images of few distinct values (photon counts, coarse quantisation, replicated pixels) have such
areas by chance: there the area must be larger than chance allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.detection.detect import grown, middle

CANDIDATES = 4  # values that are examined, those with most equal neighbours first
LEAST = 8  # least number of pixels of a fill value, in continuous data
LEAST_SATURATED = 4  # the same if it is the largest value
RARE = 0.003  # greatest share of a rare value among other pixels
COARSE = 0.05  # share of equal neighbours above which data are not continuous
TOGETHER = 0.02  # in integers: greatest ratio of isolated to clustered pixels of a fill value
SOLID = 0.05  # greatest share of other values within an area of a fill value
FREQUENT = 0.5  # share above which a value is data: true zeros of counts
CHANCE = 1e-6  # greatest probability that an area of one value arose by chance
SQUARES = tuple((side, side) for side in (3, 5, 7, 9, 13, 17, 25))  # pixels
ROWS = tuple((1, side) for side in (7, 11, 15, 25, 47))
COLUMNS = tuple((side, 1) for _, side in ROWS)
GAP = 6.0  # scatters between a fill value and the next value
LEFT = 0.1  # least share of the image that must remain
PLATEAU = 0.02  # share of the image beyond which its largest value may be clipped noise
FAR = 8  # pixels
RIM = 4  # pixels
CORRELATION = 4  # pixels: side of an independent cell where noise is correlated
NOISY = 0.05  # least share of local extremes along rows; white noise has 2/3, a smooth model none
REPLICATED = 8  # ratio to the usual number of equal neighbours if pixels were replicated


def without_data(
    image: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Return the pixels that hold a fill value, and those values.

    Args:
        image: (H, W), as it was given.
        mask: (H, W) True on pixels that are left out already, among them all that are not finite.

    Returns:
        (H, W) True = no data, False under the mask; the values, most frequent first.
    """
    padded = padding(image) & ~mask
    values = tuple(float(v) for v in np.unique(image[padded])) if padded.any() else ()
    usable = ~(mask | padded)
    pairs = _Pairs.of(image, usable)
    if pairs.equal < LEAST_SATURATED or not _noisy(image, usable):
        return padded, values
    found, counts = np.unique(pairs.values, return_counts=True)
    order = counts.argsort()[::-1]
    least, top = float(image[usable].min()), float(image[usable].max())
    tried = list(found[order[:CANDIDATES]])
    tried += [v for v in (least, 0.0, top) if v in found and v not in tried]
    typical = float(np.median(counts[order[CANDIDATES:]])) if len(order) > CANDIDATES else 0.0
    empty = padded.copy()
    for value in tried:
        area = _area(image, usable & ~empty, value, value == top, typical)
        if area is not None and (usable & ~empty & ~area).sum() > LEFT * image.size:
            empty |= area
            values += (float(value) + 0.0,)  # never -0
    return empty, values


def padding(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (H, W) True on rows and columns at the edges that hold a single value.

    A cutout has them that reaches beyond its frame. Where the value is found in more than 1 % of
    the other pixels too (counts next to none, an image without noise), or where there would be
    left less than a tenth of the image, they are taken for sky.
    """
    empty = np.zeros(image.shape, bool)
    sides = (image[0], image[-1], image[:, 0], image[:, -1])
    for value in (image[0, 0], image[-1, -1]):
        if not any((side == value).all() for side in sides):
            continue  # the usual case
        other = image != value
        rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            continue  # a constant image is judged elsewhere
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        if other[inside].mean() > 0.99 and other[inside].size > LEFT * image.size:
            edge = np.ones(image.shape, bool)
            edge[inside] = False
            empty |= edge
    return empty


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Return the number of usable neighbours along rows and columns, and values of equal ones."""

    total: int
    values: NDArray[np.floating]

    @property
    def equal(self) -> int:
        return len(self.values)

    @staticmethod
    def of(image: NDArray[np.floating], usable: NDArray[np.bool_]) -> _Pairs:
        across = (image[:, 1:] == image[:, :-1]) & usable[:, 1:] & usable[:, :-1]
        down = (image[1:] == image[:-1]) & usable[1:] & usable[:-1]
        values = np.concatenate([image[:, 1:][across], image[1:][down]])
        return _Pairs(2 * int(usable.sum()), values)


def _noisy(image: NDArray[np.floating], usable: NDArray[np.bool_]) -> bool:
    """Whether pixels scatter. A noise-free model has areas of one value that are data."""
    with np.errstate(invalid="ignore"):  # infinite pixels are under the mask
        step = np.diff(image, axis=1)
    whole = usable[:, 2:] & usable[:, 1:-1] & usable[:, :-2]
    moving = whole & (step[:, 1:] != 0) & (step[:, :-1] != 0)
    if not moving.any():
        return False
    return bool(((step[:, 1:] > 0) != (step[:, :-1] > 0))[moving].mean() > NOISY)


def _area(
    image: NDArray[np.floating],
    usable: NDArray[np.bool_],
    value: float,
    largest: bool,
    typical: float,
) -> NDArray[np.bool_] | None:
    """Return (H, W) True where ``value`` means no data; None if it may be data everywhere."""
    same = usable & (image == value)
    around = ndimage.convolve(same.view(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
    cluster = same & (around > 2)  # the pixel and two equal neighbours
    n_cluster, n_single = int(cluster.sum()), int((same & ~cluster).sum())
    outside = max(int(usable.sum()) - n_cluster, 1)
    others = _Pairs.of(image, usable & ~same)
    coincidence = others.equal / max(others.total, 1)
    least = LEAST_SATURATED if largest and coincidence < 0.2 * COARSE else LEAST
    correlated = _correlated(image, usable & ~same, coincidence)
    if n_cluster < max(least, REPLICATED * typical if correlated else 0.0):
        return None
    extreme = largest or value == image[usable].min()
    plateau = largest and n_cluster < PLATEAU * image.size  # a saturated star's, or the galaxy's
    if extreme and not plateau and _clipped(image, usable, same, value):
        return None
    if n_single < RARE * outside and coincidence < COARSE:
        return same if n_cluster > n_single else None
    together = n_single < TOGETHER * n_cluster < TOGETHER * FREQUENT * usable.sum()
    holes = usable & ~same & (around > 5)  # a sky of few counts is mostly 0, but not everywhere
    solid = int(holes.sum()) < SOLID * n_cluster and coincidence < 6 * COARSE
    if together and solid and not correlated:
        return same  # pixels of noise with this value would be mostly isolated
    if extreme and _isolated(image[usable & ~same], value):
        return same
    return _beyond_chance(same, usable, coincidence, correlated)


def _clipped(
    image: NDArray[np.floating], usable: NDArray[np.bool_], same: NDArray[np.bool_], value: float
) -> bool:
    """Whether noise was clipped at ``value``: then other values come arbitrarily close to it."""
    beside = np.abs(image[grown(same, 1) & usable & ~same] - value)
    return bool(beside.size and (beside < 0.25 * np.median(beside)).mean() > 0.04)


def _correlated(image: NDArray[np.floating], usable: NDArray[np.bool_], coincidence: float) -> bool:
    """Whether neighbours are equal more often than pixels that lie far apart."""
    both = usable[:, FAR:] & usable[:, :-FAR]
    far = (image[:, FAR:] == image[:, :-FAR])[both]
    return bool(far.size and coincidence > 2 * far.mean() + RARE)


def _isolated(others: NDArray[np.floating], value: float) -> bool:
    """Whether a value lies far from all others, in units of their scatter."""
    if not others.size:
        return False
    scatter = 1.4826 * middle(np.abs(others - middle(others)))
    return bool(np.abs(others - value).min() > GAP * scatter > 0)


def _beyond_chance(
    same: NDArray[np.bool_], usable: NDArray[np.bool_], coincidence: float, correlated: bool
) -> NDArray[np.bool_] | None:
    """Find squares and runs of a value that are too large for chance."""
    empty = np.zeros(same.shape, bool)
    cell = CORRELATION if correlated else 1
    for shapes in (SQUARES, ROWS, COLUMNS):
        for height, width in shapes:
            whole = ndimage.minimum_filter(same.view(np.uint8), (height, width), mode="constant")
            if not whole.any():
                break
            area = ndimage.maximum_filter(whole, (height, width), mode="constant") > 0
            # slanted edges extend beyond squares by less than half of a side
            rim = grown(area, max(RIM, height // 2, width // 2) + 1)
            beside = same[rim & ~grown(area, max(1, min(height, width) // 2)) & usable]
            if beside.size < LEAST**2:
                continue
            share = float(beside.mean())
            share += 2 * math.sqrt(share * (1 - share) / beside.size)  # an upper limit
            share = max(share, coincidence, 1 / same.size)
            cells = max(height / cell, 1) * max(width / cell, 1)
            chance = cells * math.log(share) + math.log(same.size)
            if share < FREQUENT and chance < math.log(CHANCE):
                # pixels beyond the squares may be chance, unless the value is rare
                thick = min(height, width) // 2
                area = _continued(area, same)
                empty |= same if share < RARE else grown(area, thick) & usable
                break
    return empty if empty.any() else None


def _continued(area: NDArray[np.bool_], same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Extend an area by adjoining squares of 3 pixels, which chance rarely fills."""
    fine = ndimage.binary_opening(same, np.ones((3, 3))) | area
    labels, _ = ndimage.label(fine)
    return np.isin(labels, np.unique(labels[area]))
