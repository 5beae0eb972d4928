"""Prepare sets of PSF images alike: the same sampling, centre and shape for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.flags import Flag
from hybridfit.rendering.psf_images import (
    PreparedPsf,
    at_whole_sampling,
    examine_psf,
    lies_between,
    middle_of,
)

NOTED = 3  # notes on single PSFs of a set that are kept


@dataclass(frozen=True, eq=False)
class PreparedStack:
    """Images in the renderer's form.

    Args:
        images: (G, h, w) float32, odd sides, centred on the middle pixel.
        oversampling: PSF pixels per image pixel.
        flags: bits of `hybridfit.Flag`.
        notes: what the user should know.
    """

    images: NDArray[np.float32]
    oversampling: int
    flags: int
    notes: tuple[str, ...]


def prepare_stack(
    images: NDArray[np.floating], sampling: float = 1.0, center: str = "array"
) -> PreparedStack:
    """Return PSFs (G, h, w) prepared one by one, see `hybridfit.rendering.examine_psf`.

    Whether the centre of even sides is between pixels is decided once, by the mean.

    Raises:
        ValueError: if one of them cannot be used.
    """
    between = lies_between(np.nan_to_num(np.mean(images, axis=0, dtype=np.float64)), sampling)
    found = []
    for k, image in enumerate(images):
        try:
            found.append(examine_psf(image, center, sampling, between))
        except ValueError as error:
            raise ValueError(f"PSF {k} of {len(images)}: {error}") from error
    return joined_stack(found)


def joined_stack(found: list[PreparedPsf]) -> PreparedStack:
    """Return prepared PSFs of one sampling as a stack, padded to one shape.

    The flag for a sum other than 1 is not raised: sets of PSFs have various normalisations.
    """
    h, w = (max(one.psf.shape[axis] for one in found) for axis in (0, 1))
    flags = Flag(0)
    for one in found:
        flags |= Flag(one.flags)
    notes = tuple(dict.fromkeys(note for one in found for note in one.notes))
    if len(notes) > NOTED:
        notes = (*notes[:NOTED], f"and {len(notes) - NOTED} more notes on PSFs of this set")
    images = np.stack([_padded(one.psf, h, w) for one in found])
    return PreparedStack(images, found[0].oversampling, int(flags & ~Flag.PSF_NORMALISED), notes)


def prepare_terms(
    terms: NDArray[np.floating], sampling: float = 1.0, center: str = "array"
) -> PreparedStack:
    """Return the terms of a linear combination, the first of which is a PSF by itself.

    The others get the same sampling, centre and shape, but no other correction.

    Args:
        terms: (K, h, w).
        sampling: PSF pixels per image pixel.
        center: see `hybridfit.rendering.examine_psf`; "centroid" is not possible for terms.

    Raises:
        ValueError: if the first term is not a PSF.
    """
    mean = examine_psf(terms[0], center, sampling, between=False)
    h, w = mean.psf.shape
    middle = middle_of(terms.shape[1:], between=False)
    filled = np.nan_to_num(terms.astype(np.float64))
    whole = [at_whole_sampling(term, middle, sampling)[0] for term in filled]
    total = whole[0].sum()
    others = [_padded(term / total, h, w) for term in whole[1:]]
    images = np.stack([mean.psf, *others]).astype(np.float32)
    return PreparedStack(
        images, mean.oversampling, int(mean.flags & ~Flag.PSF_NORMALISED), mean.notes
    )


def _padded(image: NDArray[np.floating], h: int, w: int) -> NDArray[np.floating]:
    """Return an image with odd sides padded by zeros, or cut, to (h, w) around its middle."""
    for axis, side in enumerate((h, w)):
        extra = (side - image.shape[axis]) // 2
        if extra < 0:
            image = image.take(range(-extra, image.shape[axis] + extra), axis=axis)
        elif extra:
            pads = [(0, 0), (0, 0)]
            pads[axis] = (extra, extra)
            image = np.pad(image, pads)
    return image
