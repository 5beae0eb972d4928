"""A check of the PSFs of `Cutouts`, which need not have gone through `prepare_psf`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag, joined
from hybridfit.rendering.psf_wings import find_wings, percent


def flag_psf_background(cutouts: Cutouts) -> Cutouts:
    """Flag PSFs with a significant constant background as PSF_TRUNCATED, with a note.

    The PSFs are not changed: the error budget allows for their background. Wings beyond the PSF's
    image are not searched, as simulated data may have been made with the same image.

    Args:
        cutouts: B galaxies.
    """
    flags, notes = _found(cutouts)
    exposures = []
    for image, exposure in zip(cutouts.single_images()[1:], cutouts.exposures, strict=True):
        own, more = _found(image)
        exposures.append(replace(exposure, flags=own))
        notes = [note or other for note, other in zip(notes, more, strict=True)]
    if not any(notes):
        return cutouts
    messages = [joined(*pair) for pair in zip(cutouts.messages, notes, strict=True)]
    return replace(cutouts, flags=flags, messages=messages, exposures=tuple(exposures))


def _found(cutouts: Cutouts) -> tuple[Tensor, list[str]]:
    """Return the flags (B,) of one image of each galaxy, and notes."""
    flags, notes = cutouts.flags.clone(), [""] * len(cutouts)
    if cutouts.psf is None:
        return flags, notes
    last, note = None, ""
    for row, psf in enumerate(cutouts.psf.cpu().numpy()):
        if int(flags[row]) & int(Flag.PSF_TRUNCATED):
            continue
        if last is None or not np.array_equal(psf, last):
            last, note = psf, _background_note(psf.astype(np.float64))
        if note:
            flags[row] |= int(Flag.PSF_TRUNCATED)
            notes[row] = note
    return flags, notes


def _background_note(psf: np.ndarray) -> str:
    wings = find_wings(psf, (psf.shape[0] // 2, psf.shape[1] // 2))
    if wings is None or not wings.has_background:
        return ""
    return (
        f"the PSF has a background with {percent(wings.background)} of its flux: "
        "hybridfit.prepare_psf subtracts it"
    )
