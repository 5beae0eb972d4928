"""Pixels that a model does not explain weigh less: neighbours, artefacts, arms.

A residual counts alone and averaged over boxes, so that also the faint outskirts of a neighbour
are seen, over its noise and over what the model itself may be wrong by. A pixel's weight falls as
its residual's square beyond `OUTLYING` deviations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOXES = (3, 7, 15)  # pixels, sides of the boxes that residuals are averaged over
OUTLYING = 3.0  # deviations


def weights_of(residual: Tensor, variance: Tensor, used: Tensor, doubted: Tensor) -> Tensor:
    """Share (B, H, W) that pixels keep of their weight, 0 where they are not used.

    Args:
        residual: (B, H, W) image less model, flux units.
        variance: (B, H, W) of the noise.
        used: (B, H, W) 1 where a pixel is used, 0 elsewhere.
        doubted: (B, H, W) what the model may be wrong by, flux units.
    """
    deviation = residual * (variance + doubted.square()).rsqrt() * used
    worst = deviation.abs()
    sums, counts = _integral(deviation), _integral(used)
    for side in BOXES:
        # of a mean of n deviations with unit variance
        mean = _box(sums, side) * _box(counts, side).clamp_min(1.0).rsqrt()
        worst = torch.maximum(worst, mean.abs())
    return used / (worst / OUTLYING).clamp_min(1.0).square()


def _integral(image: Tensor) -> Tensor:
    """(B, H + 2 p, W + 2 p): sums over all pixels before a corner, p that of the largest box."""
    reach = max(BOXES) // 2
    padded = F.pad(image, (reach + 1, reach, reach + 1, reach))
    return padded.cumsum(dim=1).cumsum(dim=2)


def _box(integral: Tensor, side: int) -> Tensor:
    """Sums (B, H, W) over boxes around each pixel; there is nothing beyond the edges."""
    reach, half = max(BOXES) // 2, side // 2
    height, width = (n - 2 * reach - 1 for n in integral.shape[-2:])
    low, high = reach - half, reach + half + 1
    rows = integral[:, high : high + height] - integral[:, low : low + height]
    return rows[:, :, high : high + width] - rows[:, :, low : low + width]
