"""The mask from the user's mask and segmentation map, and checks of both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.detection.detect import box_around, label_at

SMALL = 64  # pixels: a smaller masked area at the target is taken for its core
FEW = 24  # a mask with more distinct values has labels
CENTRE = 1.5  # pixels: radius around the target's position that should have data

Notes = list[tuple[str, Flag]]


def given_mask(
    planes: Mapping[str, NDArray], position: tuple[float, float]
) -> tuple[NDArray[np.bool_], Notes]:
    """Return the pixels excluded by mask and segmentation map, and notes on them.

    Args:
        planes: (H, W) each; "image", and "mask", "bad" (bool) and "segmap" if given.
        position: x, y of the target.

    Returns:
        (H, W) True for excluded pixels; texts with their flags.

    Raises:
        BadInput: if every pixel is excluded.
    """
    mask = np.zeros(planes["image"].shape, dtype=bool)
    notes: Notes = []
    if "mask" in planes:
        given = planes["mask"]
        mask |= given != 0  # NaN is not 0: excluded
        notes += _doubts(given, position)
    if "segmap" in planes:
        segments = np.nan_to_num(planes["segmap"]).astype(np.int64)
        target = label_at(segments, position, CENTRE)
        if not target:
            x, y = position
            text = f"the segmentation map has no segment at x, y = {x:.1f}, {y:.1f}"
            notes.append((text, Flag(0)))
        mask |= (segments != 0) & (segments != target)
    if "bad" in planes:
        mask |= planes["bad"]
        if _hidden(planes["bad"], position):
            notes.append(("the target's pixels are marked as bad", Flag.SUSPECT_MASK))
    if mask.all():
        raise BadInput("every pixel is masked: nothing is left to fit", int(Flag.NO_DATA))
    return mask, notes


def _doubts(given: NDArray, position: tuple[float, float]) -> Notes:
    """Return notes if a mask covers the target or looks like a segmentation map."""
    hidden = _hidden(given, position)
    if not hidden and not (given[box_around(position, 1, given.shape)] != 0).any():
        return []
    values = np.unique(given[np.isfinite(given) & (given > 0)])
    patch, _ = ndimage.label(given != 0)
    label = label_at(patch, position, CENTRE)
    size = int((patch == label).sum()) if label else 0
    if size < SMALL:  # a saturated core, a cosmic ray
        hint = f"{size} pixels at its centre"
        return [(f"the mask hides the target: {hint}", Flag.SUSPECT_MASK)] if hidden else []
    if len(values) < 2:
        hint = "does it mark objects, or is it inverted?" if hidden else ""
    elif _of_segments(given, values):
        hint = "if it is a segmentation map, give it as segmap"
    else:
        hint = "if it has bit planes, choose the harmful bits with mask_bits"
    return [(f"the mask hides the target: {hint}", Flag.SUSPECT_MASK)] if hint else []


def _of_segments(given: NDArray, values: NDArray) -> bool:
    """Return whether each value covers one connected area, as labels of segments do."""
    if len(values) > FEW:
        return all(float(value).is_integer() for value in values)
    pieces = [ndimage.label(given == value, np.ones((3, 3)))[1] for value in values]
    return float(np.median(pieces)) <= 2


def _hidden(given: NDArray, position: tuple[float, float]) -> bool:
    """Return whether more than half of the pixels around the target's position are masked."""
    parts = (given[box_around(position, half, given.shape)] for half in (1, 2))
    return any((part != 0).mean() > 0.5 for part in parts)


def masked_centre(mask: NDArray[np.bool_], position: tuple[float, float]) -> bool:
    """Return whether any pixels at the target's position are masked."""
    x, y = position
    box = box_around(position, 2, mask.shape)
    rows, columns = np.ogrid[box]
    near = (columns - x) ** 2 + (rows - y) ** 2 <= CENTRE**2
    return bool((mask[box] & near).any())
