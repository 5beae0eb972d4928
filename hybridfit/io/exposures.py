"""Several images of the same galaxies: find the pixels of one in those of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.data.exposure import LEAST_AREA, MOST_AREA, Exposure
from hybridfit.data.flags import Flag, joined
from hybridfit.options.checks import checked

STEP = 2.0  # pixels, of the finite differences that give the map of pixels at a target


@dataclass(frozen=True)
class Place:
    """An image as far as it tells where its pixels are.

    Args:
        wcs: astropy WCS of the cutout; None without one.
        origin: x, y of the cutout's first pixel in the image as given.
        size: height and width of the cutout, pixels.
        is_cropped: whether it is a part of the image as given.
    """

    wcs: Any
    origin: tuple[float, float]
    size: tuple[int, int]
    is_cropped: bool


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
        whole = not (first.is_cropped or other.is_cropped)
        if whole and first.size != other.size:
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


def with_exposures(first: Cutouts, *others: Cutouts) -> Cutouts:
    """Return galaxies with further images of them, to be fitted jointly.

    >>> cutouts = hybridfit.with_exposures(hybridfit.read("epoch1/"), hybridfit.read("epoch2/"))
    >>> table = hybridfit.fit(cutouts)

    Images are matched by the galaxies' names. The map between their pixels is that of their WCS at
    the target; images without a WCS have the same pixels. A galaxy that an exposure lacks, or whose
    exposure cannot be placed, is fitted without that one, and a note says so.

    Args:
        first: whose pixels and zero points the results refer to.
        others: further images, in the same band.

    Raises:
        ValueError: if no galaxy of an exposure is one of ``first``, or none can be placed.
    """
    checked("first", first, Cutouts)
    messages, exposures = list(first.messages), list(first.exposures)
    for other in others:
        number = len(exposures) + 2
        exposure, notes = _exposure(first, checked("others", other, Cutouts))
        known = [f"image {number} left out: {note}" if note else "" for note in notes]
        if all(notes) and len(first):
            raise ValueError(f"image {number} of galaxy '{first.id[0]}' left out: {notes[0]}")
        messages = [joined(*pair) for pair in zip(messages, known, strict=True)]
        exposures.append(exposure)
    return replace(first, messages=messages, exposures=tuple(exposures))


def _exposure(first: Cutouts, other: Cutouts) -> tuple[Exposure, list[str]]:
    """Return further images as an exposure of the galaxies of ``first``, and why some lack it."""
    numbers = {name: i for i, name in enumerate(other.id)}
    rows = [numbers.get(name, -1) for name in first.id]
    maps, notes = [], []
    for i, row in enumerate(rows):
        affine, note = np.eye(2, 3), ""
        try:
            if row < 0:
                raise BadInput(f"it has no galaxy '{first.id[i]}'")
            if bool(other.mask[row].all()):
                raise BadInput(other.messages[row] or "it has no data")
            _check_zeropoints(first, i, other, row)
            affine = affine_between(_place(first, i), _place(other, row), _target(first, i))
        except BadInput as error:
            note = str(error)
        maps.append(affine)
        notes.append(note)
    part = other[torch.tensor([max(row, 0) for row in rows])]
    missing = torch.tensor([bool(note) for note in notes], device=part.mask.device)
    unknown = (part.flags & int(Flag.NO_ZEROPOINT)) != 0
    exposure = Exposure(
        part.image,
        part.sigma,
        part.psf,
        part.mask | missing[:, None, None],
        part.psf_oversampling,
        part.psf_includes_pixel,
        torch.where(unknown | missing, torch.nan, part.zeropoint),
        np.stack(maps) if maps else None,
        torch.where(missing, 0, part.flags),
        part.size,
    )
    return exposure, notes


def _check_zeropoints(first: Cutouts, i: int, other: Cutouts, row: int) -> None:
    """Raise BadInput if only one of two images has a zero point."""
    lost = [bool(c.flags[k] & int(Flag.NO_ZEROPOINT)) for c, k in ((first, i), (other, row))]
    if lost[0] != lost[1]:
        which = "the first image" if lost[0] else "it"
        raise BadInput(f"{which} has no zero point, unlike the other: give both, or neither")


def _place(cutouts: Cutouts, row: int) -> Place:
    x, y = (float(v) for v in cutouts.origin[row])
    height, width = (int(v) for v in cutouts.size[row])
    cropped = bool(cutouts.flags[row] & int(Flag.CROPPED))
    return Place(cutouts.wcs[row], (x, y), (height, width), cropped)


def _target(cutouts: Cutouts, row: int) -> list[float]:
    """Return the expected x, y of a target: the initial position, else the centre."""
    height, width = (int(v) for v in cutouts.size[row])
    middle = ((width - 1) / 2, (height - 1) / 2)
    given = [float(v) for v in cutouts.start[row, :2]]
    return [g if math.isfinite(g) else m for g, m in zip(given, middle, strict=True)]
