"""Second differences along rows, a(x - lag) - 2 a(x) + a(x + lag): mostly noise, little light.

Gradients cancel, and smooth light contributes only its curvature.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def triples(plane: NDArray, lag: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return views (H, W - 2 lag) of the left, middle and right pixels."""
    return plane[:, : -2 * lag], plane[:, lag:-lag], plane[:, 2 * lag :]


def second_differences(image: NDArray[np.floating], lag: int) -> NDArray[np.floating]:
    """Return the second differences (H, W - 2 lag) of an image (H, W)."""
    left, middle, right = triples(image, lag)
    return left - 2 * middle + right


def expected_squares(variance: NDArray[np.floating], lag: int) -> NDArray[np.floating]:
    """Return the expected squares (H, W - 2 lag) for independent pixels of a variance (H, W)."""
    left, middle, right = triples(variance, lag)
    return left + 4 * middle + right


def all_usable(usable: NDArray[np.bool_], lag: int) -> NDArray[np.bool_]:
    """Return (H, W - 2 lag) True where all three pixels are usable."""
    left, middle, right = triples(usable, lag)
    return left & middle & right
