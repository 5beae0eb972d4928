"""Whether a header's gain is that of the pixels: counts scatter by their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LAG = 2  # pixels: beyond most of the correlation of resampled pixels
BRIGHT = 4.0  # of the sky's variance, that a pixel's Poisson variance must have by the gain
ENOUGH = 20  # such pixels
LEAST = 0.1  # of the variance by the gain; correlated pixels show 0.3 and more of theirs
MEDIAN = 0.4549  # of the square of a standard normal number


def is_gain_credible(
    image: NDArray[np.floating],
    mask: NDArray[np.bool_],
    sky: float,
    rms: float,
    gain: float,
) -> bool:
    """Return False where bright pixels scatter far less than counts with this gain would.

    The scatter is that of second differences, to which the galaxy's own curvature adds: a gain
    that is too small by a factor ten or more is found, one that is too large never is.

    Args:
        image: (H, W) flux.
        mask: (H, W) True where pixels are left out.
        sky: level, and ``rms`` scatter, of the blank sky.
        gain: electrons per unit of flux.
    """
    poisson = np.maximum(image.astype(np.float64) - sky, 0.0) / gain
    left, middle, right = slice(None, -2 * LAG), slice(LAG, -LAG), slice(2 * LAG, None)
    differ = image[:, left].astype(np.float64) - 2.0 * image[:, middle] + image[:, right]
    expected = poisson[:, left] + 4 * poisson[:, middle] + poisson[:, right] + 6 * rms**2
    usable = ~(mask[:, left] | mask[:, middle] | mask[:, right])
    usable &= poisson[:, middle] > BRIGHT * rms**2
    if usable.sum() < ENOUGH:
        return True
    shown = float(np.median(differ[usable] ** 2 / expected[usable])) / MEDIAN
    return shown >= LEAST
