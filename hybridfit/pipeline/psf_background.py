"""Pedestals under PSFs that nobody has made ready: `Cutouts` take them as they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag, joined
from hybridfit.rendering.psf_wings import find_wings


def with_pedestal_flags(cutouts: Cutouts) -> Cutouts:
    """Flag PSFs with a certain pedestal as PSF_TRUNCATED, and say so.

    The PSFs stay as they are: the error budget allows for what is under them. Wings that a cutout
    cuts off are not looked for, for simulated data may have been made with the very same cutout.

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
            last, note = psf, _pedestal(psf.astype(np.float64))
        if note:
            flags[row] |= int(Flag.PSF_TRUNCATED)
            messages[row] = joined(messages[row], note)
    return replace(cutouts, flags=flags, messages=messages)


def _pedestal(psf: np.ndarray) -> str:
    wings = find_wings(psf, (psf.shape[0] // 2, psf.shape[1] // 2))
    if wings is None or not wings.has_pedestal:
        return ""
    return (
        f"the PSF has a pedestal with {100 * wings.pedestal:.2g} % of its flux: "
        "hybridfit.prepare_psf takes it off"
    )
