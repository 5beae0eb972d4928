"""The sky as linear terms: a level, two slopes, three quadratic terms.

Fits have them about the middle of the padded cutout and over its sides, so that each is of order
one; users about the middle of the cutout itself, per pixel: 1, x, y, x^2, x y, y^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

# powers of x and y of each term; a fit has the first 0, 1, 3 or 6
POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


def sky_terms(
    n_sky: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the first ``n_sky`` images (T, H, W): 1, slopes and quadratic terms over the sides."""
    one = torch.ones(height, width, dtype=dtype, device=device)
    if n_sky <= 1:  # spares the slopes
        return one[None][:n_sky]
    x = torch.arange(width, dtype=dtype, device=device) - (width - 1) / 2
    y = torch.arange(height, dtype=dtype, device=device)[:, None] - (height - 1) / 2
    x, y = one * x / width, one * y / height
    return torch.stack([one, x, y, x * x, x * y, y * y][:n_sky])


def sky_surface(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the sky (B, H, W) of the user's coefficients.

    Args:
        coefficients: (B, T), flux per pixel, per pixel of offset to the term's power.
        x: (B, 1, W) or (1, W) offsets from the middle of the cutout, pixels.
        y: (B, H, 1) or (H, 1).
    """
    terms = coefficients[:, :, None, None].unbind(1)
    image = terms[0].expand(-1, y.shape[-2], x.shape[-1])
    for term, (i, j) in zip(terms[1:], POWERS[1:], strict=False):
        image = image + term * x**i * y**j
    return image


def sky_units(n_sky: int, size: Tensor, height: int, width: int) -> Tensor:
    """Return (B, T, T) that turns a fit's coefficients into the user's.

    Args:
        n_sky: T.
        size: (B, 2) height and width of the cutouts, pixels.
        height, width: of the padded cutout.
    """
    padded = torch.tensor([height, width], device=size.device)
    y, x = ((size - padded).double() / 2).unbind(1)  # the cutout's middle about the padded one's
    units = torch.zeros(len(size), n_sky, n_sky, dtype=torch.float64, device=size.device)
    for column, (i, j) in enumerate(POWERS[:n_sky]):
        scale = width**-i * height**-j
        for row, (k, m) in enumerate(POWERS[:n_sky]):
            if k <= i and m <= j:  # (x' + x)^i (y' + y)^j
                ways = (i if (i, k) == (2, 1) else 1) * (j if (j, m) == (2, 1) else 1)
                units[:, row, column] = scale * ways * x ** (i - k) * y ** (j - m)
    return units
