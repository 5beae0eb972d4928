"""The map from the pixels of one image to those of another, by their WCS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.exposure import LEAST_AREA, MOST_AREA

STEP = 2.0  # pixels, of the finite differences that give the map at a target


@dataclass(frozen=True)
class Place:
    """An image as far as it tells where its pixels are.

    Args:
        wcs: astropy WCS of the cutout; None without one.
        origin: x, y of the cutout's first pixel in the image as given.
        size: height and width of the image as given, pixels; None where unknown.
    """

    wcs: Any
    origin: tuple[float, float]
    size: tuple[int, int] | None


def affine_between(first: Place, other: Place, target: Sequence[float]) -> NDArray[np.float64]:
    """Return the affine map (2, 3) from pixels of one cutout to those of another, at a target.

    It comes from the WCS of both. Images without one have the same pixels.

    Args:
        first, other: the images.
        target: x, y in the first.

    Raises:
        BadInput: if only one has a WCS, if neither has and their shapes differ, or if the target is
            not on the other's sky.
    """
    if first.wcs is None and other.wcs is None:
        if first.size is not None and other.size is not None and first.size != other.size:
            raise BadInput(
                f"it has {other.size[0]} x {other.size[1]} pixels, the first image "
                f"{first.size[0]} x {first.size[1]}, and there is no WCS to match them: give both "
                "a WCS, or hybridfit.Exposure(to_pixels=...)"
            )
        shift = [a - b for a, b in zip(first.origin, other.origin, strict=True)]
        return np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
    if first.wcs is None or other.wcs is None:
        lacking = "the first image" if first.wcs is None else "it"
        raise BadInput(f"{lacking} has no WCS, unlike the other: expected one in both or in none")
    x, y = target
    at = np.array([(x, y), (x + STEP, y), (x - STEP, y), (x, y + STEP), (x, y - STEP)])
    try:
        sky = _celestial(first.wcs).pixel_to_world(at[:, 0], at[:, 1])
        there = np.stack(_celestial(other.wcs).world_to_pixel(sky), axis=1)
    except Exception as error:  # wcslib raises many types
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"its WCS does not lead to the target: {reason}") from error
    matrix = np.stack([there[1] - there[2], there[3] - there[4]], axis=1) / (2 * STEP)
    area = abs(float(np.linalg.det(matrix))) if np.isfinite(there).all() else math.nan
    if not LEAST_AREA <= area <= MOST_AREA:
        raise BadInput("the target is not on the sky of its WCS")
    shift = there[0] - matrix @ at[0]
    return np.concatenate([matrix, shift[:, None]], axis=1)


def _celestial(wcs: Any) -> Any:
    """Return the celestial axes of a WCS."""
    return wcs.celestial if getattr(wcs, "naxis", 2) > 2 else wcs


def target_of(start: Sequence[float], size: Sequence[int]) -> list[float]:
    """Return the expected x, y of a target: the initial position, else the centre.

    Args:
        start: initial x, y, ..., NaN where not given.
        size: height and width of the cutout, pixels.
    """
    middle = ((size[1] - 1) / 2, (size[0] - 1) / 2)
    return [float(s) if math.isfinite(s) else m for s, m in zip(start[:2], middle, strict=True)]
