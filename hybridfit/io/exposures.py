"""Several images of the same galaxies, read one by one, put together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.data.exposure import Exposure
from hybridfit.data.flags import Flag, joined
from hybridfit.io.affine import Place, affine_between, target_of
from hybridfit.options.checks import checked


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
            affine = affine_between(
                _place(first, i),
                _place(other, row),
                target_of(first.start[i].tolist(), first.size[i].tolist()),
            )
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
    return Place(cutouts.wcs[row], (x, y), None if cropped else (height, width))
