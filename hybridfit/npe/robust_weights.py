"""Robust weights: pixels that a model does not explain (neighbours, artefacts, arms) count less.

Residuals are taken alone and averaged over boxes, so that the faint outskirts of a neighbour are
seen too, in units of their noise and of the error of the model itself. Beyond `CUTOFF` deviations
a pixel's weight falls as the inverse square of its residual.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOXES = (3, 7, 15)  # pixels, sides of the boxes that residuals are averaged over
CUTOFF = 3.0  # deviations


def robust_weights(residual: Tensor, variance: Tensor, used: Tensor, model_sigma: Tensor) -> Tensor:
    """Return the share (B, H, W) that pixels keep of their weight, 0 where they are not used.

    Args:
        residual: (B, H, W) image less model, flux units.
        variance: (B, H, W) of the noise.
        used: (B, H, W) 1 where a pixel is used, 0 elsewhere.
        model_sigma: (B, H, W) error of the model, flux units.
    """
    deviation = residual * (variance + model_sigma.square()).rsqrt() * used
    worst = deviation.abs()
    sums, counts = integral_image(deviation), integral_image(used)
    for side in BOXES:
        # of a mean of n deviations with unit variance
        mean = box_sums(sums, side) * box_sums(counts, side).clamp_min(1.0).rsqrt()
        worst = torch.maximum(worst, mean.abs())
    return used / (worst / CUTOFF).clamp_min(1.0).square()


def integral_image(image: Tensor) -> Tensor:
    """(B, H + 2 p, W + 2 p): sums over all pixels before a corner, p the largest box's margin."""
    margin = max(BOXES) // 2
    padded = F.pad(image, (margin + 1, margin, margin + 1, margin))
    return padded.cumsum(dim=1).cumsum(dim=2)


def box_sums(integral: Tensor, side: int) -> Tensor:
    """Sums (B, H, W) over boxes around each pixel; there is nothing beyond the edges."""
    margin, half = max(BOXES) // 2, side // 2
    height, width = (n - 2 * margin - 1 for n in integral.shape[-2:])
    low, high = margin - half, margin + half + 1
    rows = integral[:, high : high + height] - integral[:, low : low + height]
    return rows[:, :, high : high + width] - rows[:, :, low : low + width]
