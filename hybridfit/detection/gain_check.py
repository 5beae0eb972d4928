"""Check the gain in a header against the Poisson scatter of bright pixels."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hybridfit.detection.second_differences import (
    all_usable,
    expected_squares,
    second_differences,
    triples,
)

LAG = 2  # pixels: resampled pixels are barely correlated at this distance
BRIGHT = 4.0  # smallest Poisson variance of a bright pixel, in units of the sky variance
ENOUGH = 20  # number of bright pixels required for the check
LEAST = 0.1  # smallest ratio of measured to expected variance; correlated pixels have at least 0.3
MEDIAN = 0.4549  # median of the square of a standard normal variable
LEAST_NOISE = 2.0  # electrons: nearly all detectors have a higher read noise


class Doubt(Enum):
    """How doubtful it is that a gain is in electrons per pixel unit."""

    NONE = "the user's"
    SOME = "a header's"
    MUCH = "a header's, for pixels without a given unit"


def is_gain_credible(
    image: NDArray[np.floating],
    mask: NDArray[np.bool_],
    light: NDArray[np.floating],
    rms: float,
    gain: float,
    doubt: Doubt = Doubt.SOME,
) -> bool:
    """Return False if bright pixels scatter far less than counts with this gain would.

    If the unit of the pixels is not given, the blank sky must also scatter by at least a detector's
    read noise in electrons: rates, and fluxes in physical units, scatter less. The scatter of
    bright pixels is measured from second differences, to which the curvature of the galaxy
    contributes: a gain that is too small by a factor of ten or more is detected, a gain that is
    too large never is.

    Args:
        image: (H, W) flux.
        mask: (H, W) True for masked pixels.
        light: (H, W) flux of the objects alone, without the sky.
        rms: scatter of the blank sky.
        gain: electrons per unit of flux.
        doubt: how doubtful the gain is; the user's gain is always accepted.
    """
    if doubt == Doubt.NONE:
        return True
    if doubt == Doubt.MUCH and rms * gain < LEAST_NOISE:
        return False
    poisson = light.astype(np.float64) / gain
    bright = triples(poisson, LAG)[1] > BRIGHT * rms**2
    usable = all_usable(~mask, LAG) & bright
    if usable.sum() < ENOUGH:
        return True
    square = second_differences(image.astype(np.float64), LAG)[usable] ** 2
    expected = expected_squares(poisson + rms**2, LAG)[usable]
    shown = float(np.median(square / expected)) / MEDIAN
    return shown >= LEAST
