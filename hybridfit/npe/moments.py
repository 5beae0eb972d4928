"""Moments of images in Gaussian windows, as complex numbers that a turn only gives a phase.

With z = (x + i y) / s about a centre and the weight w = exp(-|z|^2 / 2), the moments are
sum(image w z^m |z|^(2 k)). In a frame that is turned by an angle they carry exp(-i m angle), so
what an axis-aligned galaxy looks like has to be learned once and not for every angle.
"""

from __future__ import annotations

import torch
from torch import Tensor

# (m, k) of z^m |z|^2k: all polynomials up to the fourth order
ORDERS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (4, 0))


def powers(offset: Tensor, scales: Tensor, order: int) -> Tensor:
    """Window times powers of z's real (or imaginary) part along one axis.

    Args:
        offset: (B, N) pixels from the centre.
        scales: (S,) or (B, S) pixels.
        order: highest power.

    Returns:
        (B, S * (order + 1), N), the powers within each scale.
    """
    t = offset[:, None, :] / scales.reshape(-1, scales.shape[-1], 1)  # (B, S, N)
    gauss = torch.exp(-0.5 * t * t)
    rows = [gauss]
    for _ in range(order):
        rows.append(rows[-1] * t)
    return torch.stack(rows, dim=2).flatten(1, 2)


def windowed(image: Tensor, x: Tensor, y: Tensor, scales: Tensor, order: int) -> Tensor:
    """Plain windowed moments sum(image w x^i y^j), all i, j <= order.

    Args:
        image: (B, H, W).
        x, y: (B, W), (B, H) offsets from the centre, pixels.
        scales: (S,) or (B, S) pixels.
        order: highest power of each axis.

    Returns:
        (B, S, i, j).
    """
    px, py = powers(x, scales, order), powers(y, scales, order)  # (B, S * P, W), (B, S * P, H)
    along = torch.bmm(px, image.transpose(1, 2))  # (B, S * P, H)
    batch, n = len(image), order + 1
    along = along.view(batch, -1, n, along.shape[-1]).flatten(0, 1)
    py = py.view(batch, -1, n, py.shape[-1]).flatten(0, 1)
    return torch.bmm(along, py.transpose(1, 2)).view(batch, -1, n, n)


def turned(
    plain: Tensor, angle: Tensor, orders: tuple[tuple[int, int], ...]
) -> dict[tuple[int, int], Tensor]:
    """Complex moments z^m |z|^2k of plain ones (B, S, i, j), in a frame turned by ``angle``."""
    p = plain
    full = {
        (0, 0): (p[..., 0, 0], None),
        (0, 1): (p[..., 2, 0] + p[..., 0, 2], None),
        (1, 0): (p[..., 1, 0], p[..., 0, 1]),
        (2, 0): (p[..., 2, 0] - p[..., 0, 2], 2 * p[..., 1, 1]),
    }
    if p.shape[-1] > 4:
        full |= {
            (0, 2): (p[..., 4, 0] + 2 * p[..., 2, 2] + p[..., 0, 4], None),
            (1, 1): (p[..., 3, 0] + p[..., 1, 2], p[..., 2, 1] + p[..., 0, 3]),
            (2, 1): (p[..., 4, 0] - p[..., 0, 4], 2 * (p[..., 3, 1] + p[..., 1, 3])),
            (3, 0): (p[..., 3, 0] - 3 * p[..., 1, 2], 3 * p[..., 2, 1] - p[..., 0, 3]),
            (4, 0): (
                p[..., 4, 0] - 6 * p[..., 2, 2] + p[..., 0, 4],
                4 * (p[..., 3, 1] - p[..., 1, 3]),
            ),
        }
    result = {}
    for m, k in orders:
        real, imag = full[m, k]
        value = torch.complex(real, torch.zeros_like(real) if imag is None else imag)
        result[m, k] = value * torch.polar(torch.ones_like(angle), -m * angle)[:, None]
    return result
