"""Sizes and shapes of many small images at once: adaptive Gaussian-weighted moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 40
SMALLEST, LARGEST = 0.4, 0.35  # width of the weight in pixels, and in sides of the image


@dataclass(frozen=True, eq=False)
class Shapes:
    """Moments of S images.

    Args:
        x, y: (S,) centroids from the middle pixel, pixels.
        size: (S,) width of the Gaussian with these moments, pixels; NaN where there are none.
        e1, e2: (S,) (xx - yy) / (xx + yy) and 2 xy / (xx + yy).
        flux: (S,) flux of the Gaussian that fits best.
        snr: (S,) signal-to-noise ratio of that flux.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]


def measure_shapes(
    images: NDArray[np.floating], weight: NDArray[np.floating], start: float = 1.5
) -> Shapes:
    """Return adaptive moments of images, weighted by round Gaussians of their own width.

    The width w and the centre solve sum(G I r^2) / sum(G I) = w^2 and sum(G I r) = 0 with
    G = exp(-r^2 / 2 w^2), as for a Gaussian of that width (Bernstein & Jarvis 2002, AJ 123, 583).

    Args:
        images: (S, h, h), without background; odd sides.
        weight: (S, h, h) 1 / sigma^2, 0 for masked pixels.
        start: first width, pixels.
    """
    side = images.shape[1]
    axis = np.arange(side) - side // 2
    good = weight > 0
    flux = np.where(good, images, 0.0)
    x, y = np.zeros(len(images)), np.zeros(len(images))
    width = np.full(len(images), float(start))
    e1, e2 = np.zeros(len(images)), np.zeros(len(images))
    gauss = np.zeros(flux.shape)
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            dx, dy = axis[None, None, :] - x[:, None, None], axis[None, :, None] - y[:, None, None]
            gauss = np.exp(-(dx**2 + dy**2) / (2 * width[:, None, None] ** 2)) * good
            light = gauss * flux
            total = light.sum(axis=(1, 2))
            xx, yy, xy = ((light * p).sum(axis=(1, 2)) / total for p in (dx**2, dy**2, dx * dy))
            x = x + 1.5 * (light * dx).sum(axis=(1, 2)) / total
            y = y + 1.5 * (light * dy).sum(axis=(1, 2)) / total
            # a Gaussian of width s seen through one of width w has s^2 w^2 / (s^2 + w^2)
            mean = np.clip((xx + yy) / 2, 1e-3, 0.95 * width**2)
            own = np.sqrt(1 / (1 / mean - 1 / width**2))
            width = np.clip(own, SMALLEST, LARGEST * side)
            e1, e2 = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
        model = gauss / (2 * np.pi * width[:, None, None] ** 2)
        norm = (weight * model**2).sum(axis=(1, 2))
        amplitude = (weight * model * flux).sum(axis=(1, 2)) / norm
    lost = ~np.isfinite(width + x + y) | (np.hypot(x, y) > side / 4) | (width >= LARGEST * side)
    return Shapes(x, y, np.where(lost, np.nan, width), e1, e2, amplitude, amplitude * np.sqrt(norm))
