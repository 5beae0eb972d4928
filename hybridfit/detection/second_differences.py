"""Second differences along rows: a(x - lag) - 2 a(x) + a(x + lag), mostly noise and little light.

Gradients drop out, and of smooth light only the curvature is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def triples(plane: NDArray, lag: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return views (H, W - 2 lag) of the pixels on the left, in the middle, and on the right."""
    return plane[:, : -2 * lag], plane[:, lag:-lag], plane[:, 2 * lag :]


def second_differences(image: NDArray[np.floating], lag: int) -> NDArray[np.floating]:
    """Return the second differences (H, W - 2 lag) of an image (H, W)."""
    left, middle, right = triples(image, lag)
    return left - 2 * middle + right


def expected_squares(variance: NDArray[np.floating], lag: int) -> NDArray[np.floating]:
    """Return the mean squares (H, W - 2 lag) that independent pixels of a variance (H, W) have."""
    left, middle, right = triples(variance, lag)
    return left + 4 * middle + right


def all_usable(usable: NDArray[np.bool_], lag: int) -> NDArray[np.bool_]:
    """(H, W - 2 lag) True where all three pixels are usable."""
    left, middle, right = triples(usable, lag)
    return left & middle & right
