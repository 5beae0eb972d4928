"""A check of the PSFs of `Cutouts`, which need not have gone through `prepare_psf`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    if cutouts.psf is None:
        return cutouts
    flags, messages = cutouts.flags.clone(), list(cutouts.messages)
    last, note = None, ""
    for row, psf in enumerate(cutouts.psf.cpu().numpy()):
        if int(flags[row]) & int(Flag.PSF_TRUNCATED):
            continue
        if last is None or not np.array_equal(psf, last):
            last, note = psf, _background_note(psf.astype(np.float64))
        if note:
            flags[row] |= int(Flag.PSF_TRUNCATED)
            messages[row] = joined(messages[row], note)
    return replace(cutouts, flags=flags, messages=messages)


def _background_note(psf: np.ndarray) -> str:
    wings = find_wings(psf, (psf.shape[0] // 2, psf.shape[1] // 2))
    if wings is None or not wings.has_background:
        return ""
    return (
        f"the PSF has a background with {percent(wings.background)} of its flux: "
        "hybridfit.prepare_psf subtracts it"
    )
