"""Pixels that have a value but no data: fill values, padding, saturated plateaus.

Noise makes neighbouring pixels differ, so an area of a single value was not measured. Images with
few distinct values (photon counts, coarse quantisation, replicated pixels) have such areas by
chance: there the area must be larger than expected by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.detection.detect import grown, middle

CANDIDATES = 4  # number of values to examine, starting with those with most equal neighbours
LEAST = 8  # smallest number of pixels with a fill value, in continuous data
LEAST_SATURATED = 4  # the same if it is the largest value
RARE = 0.003  # largest fraction of a rare value among other pixels
COARSE = 0.05  # fraction of equal neighbours above which data are not continuous
TOGETHER = 0.02  # integers: largest ratio of isolated to clustered pixels with a fill value
SOLID = 0.05  # largest fraction of other values within an area of a fill value
FREQUENT = 0.5  # fraction above which a value is data: true zeros of counts
CHANCE = 1e-6  # largest probability that an area of one value arose by chance
SQUARES = tuple((side, side) for side in (3, 5, 7, 9, 13, 17, 25))  # pixels
ROWS = tuple((1, side) for side in (7, 11, 15, 25, 47))
COLUMNS = tuple((side, 1) for _, side in ROWS)
GAP = 6.0  # smallest distance of a fill value from the next value, in units of the scatter
LEFT = 0.1  # smallest fraction of the image that must remain
PLATEAU = 0.02  # fraction of the image above which its largest value may be clipped noise
FAR = 8  # pixels
RIM = 4  # pixels
CORRELATION = 4  # pixels: side of an independent cell where noise is correlated
NOISY = 0.05  # smallest fraction of local extremes along rows; 2/3 in white noise, 0 in a model
REPLICATED = 8  # ratio to the usual number of equal neighbours that indicates replicated pixels


def without_data(
    image: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Return the pixels with fill values, and these values.

    Args:
        image: (H, W), as given.
        mask: (H, W) True for pixels already excluded, including all non-finite ones.

    Returns:
        (H, W) True for no data, False for masked pixels; the values, most frequent first.
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
    """Return (H, W) True on rows and columns at the edges with a single value.

    Cutouts that extend beyond their frame have such edges. They are taken for sky if more than
    1 % of the other pixels have the same value (very low counts, an image without noise), or if
    less than a tenth of the image would remain.
    """
    empty = np.zeros(image.shape, bool)
    sides = (image[0], image[-1], image[:, 0], image[:, -1])
    for value in (image[0, 0], image[-1, -1]):
        if not any((side == value).all() for side in sides):
            continue  # the usual case
        other = image != value
        rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            continue  # a constant image is handled elsewhere
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        if other[inside].mean() > 0.99 and other[inside].size > LEFT * image.size:
            edge = np.ones(image.shape, bool)
            edge[inside] = False
            empty |= edge
    return empty


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Return the number of pairs of usable neighbours, and the values of equal pairs."""

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
    """Return whether pixels scatter; in noise-free models, areas of one value are data."""
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
    """Return (H, W) True where ``value`` means no data; None if all may be data."""
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
    plateau = largest and n_cluster < PLATEAU * image.size  # of a saturated star, or of the galaxy
    if extreme and not plateau and _clipped(image, usable, same, value):
        return None
    if n_single < RARE * outside and coincidence < COARSE:
        return same if n_cluster > n_single else None
    together = n_single < TOGETHER * n_cluster < TOGETHER * FREQUENT * usable.sum()
    holes = usable & ~same & (around > 5)  # a sky with few counts is mostly, but not entirely, 0
    solid = int(holes.sum()) < SOLID * n_cluster and coincidence < 6 * COARSE
    if together and solid and not correlated:
        return same  # noise pixels with this value would mostly be isolated
    if extreme and _isolated(image[usable & ~same], value):
        return same
    return _beyond_chance(same, usable, coincidence, correlated)


def _clipped(
    image: NDArray[np.floating], usable: NDArray[np.bool_], same: NDArray[np.bool_], value: float
) -> bool:
    """Return whether noise was clipped at ``value``: then other values are arbitrarily close."""
    beside = np.abs(image[grown(same, 1) & usable & ~same] - value)
    return bool(beside.size and (beside < 0.25 * np.median(beside)).mean() > 0.04)


def _correlated(image: NDArray[np.floating], usable: NDArray[np.bool_], coincidence: float) -> bool:
    """Return whether neighbours are equal more often than distant pixels."""
    both = usable[:, FAR:] & usable[:, :-FAR]
    far = (image[:, FAR:] == image[:, :-FAR])[both]
    return bool(far.size and coincidence > 2 * far.mean() + RARE)


def _isolated(others: NDArray[np.floating], value: float) -> bool:
    """Return whether a value lies far from all others, in units of their scatter."""
    if not others.size:
        return False
    scatter = 1.4826 * middle(np.abs(others - middle(others)))
    return bool(np.abs(others - value).min() > GAP * scatter > 0)


def _beyond_chance(
    same: NDArray[np.bool_], usable: NDArray[np.bool_], coincidence: float, correlated: bool
) -> NDArray[np.bool_] | None:
    """Find squares and runs of a value that are too large to arise by chance."""
    empty = np.zeros(same.shape, bool)
    cell = CORRELATION if correlated else 1
    for shapes in (SQUARES, ROWS, COLUMNS):
        for height, width in shapes:
            whole = ndimage.minimum_filter(same.view(np.uint8), (height, width), mode="constant")
            if not whole.any():
                break
            area = ndimage.maximum_filter(whole, (height, width), mode="constant") > 0
            # slanted edges extend beyond squares by less than half of their side
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
                # pixels beyond the squares may be there by chance, unless the value is rare
                thick = min(height, width) // 2
                area = _continued(area, same)
                empty |= same if share < RARE else grown(area, thick) & usable
                break
    return empty if empty.any() else None


def _continued(area: NDArray[np.bool_], same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Extend an area by adjacent squares of 3 pixels, which are rarely filled by chance."""
    fine = ndimage.binary_opening(same, np.ones((3, 3))) | area
    labels, _ = ndimage.label(fine)
    return np.isin(labels, np.unique(labels[area]))
