"""Images of stars, and the operators that shift a PSF onto their pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.psf.stars import Stars

LANCZOS = 4  # half-width of the interpolation, PSF pixels
RING = 1.4  # outer radius of the ring for the background, in half-sides of the image
GROWN = 1  # pixels around other sources that are left out
ENOUGH = 30  # pixels in a ring


@dataclass(frozen=True, eq=False)
class StarStamps:
    """Images of S stars in units of their flux.

    Args:
        images: (S, h, h) flux per pixel over the flux of the star, without background.
        weight: (S, h, h) 1 / sigma^2 in the same unit, 0 for pixels of other sources.
        x, y: (S,) positions in the image, pixels.
        dx, dy: (S,) of the star from the middle pixel of its image.
        flux: (S,) of the star in the unit of the image.
    """

    images: NDArray[np.float64]
    weight: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    flux: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.flux)

    def take(self, which: NDArray[np.bool_]) -> StarStamps:
        """Return some of the stars."""
        return replace(self, **{name: value[which] for name, value in vars(self).items()})

    def scaled(self, factor: NDArray[np.float64]) -> StarStamps:
        """Return the stamps in units of another flux, ``factor`` (S,) times the present one."""
        wide = factor[:, None, None]
        return replace(
            self, images=self.images / wide, weight=self.weight * wide**2, flux=self.flux * factor
        )


def cut_stamps(
    image: NDArray[np.floating],
    sigma: NDArray[np.floating],
    mask: NDArray[np.bool_],
    stars: Stars,
    side: int,
) -> StarStamps:
    """Return the images of stars, with the background of a ring around each subtracted.

    Args:
        image, sigma, mask: (H, W), see `hybridfit.psf.stars.find_stars`.
        stars: of the image.
        side: of the images, odd, pixels.
    """
    half, wide = side // 2, round(RING * (side // 2)) + 1
    bad = mask | ~np.isfinite(image) | ~(sigma > 0)
    padded = [
        np.pad(np.where(bad, 0.0, image), wide),
        np.pad(np.where(bad, 0.0, 1 / np.where(bad, 1.0, sigma) ** 2), wide),
        np.pad(stars.segments, wide),
    ]
    axis = np.arange(-wide, wide + 1)
    radius = np.hypot(axis[:, None], axis)
    columns, rows = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    images, weights = [], []
    for x, y in zip(columns, rows, strict=True):
        box = slice(y, y + 2 * wide + 1), slice(x, x + 2 * wide + 1)
        pixels, weight, labels = (plane[box] for plane in padded)
        others = (labels > 0) & (labels != labels[wide, wide])
        weight = np.where(ndimage.binary_dilation(others, iterations=GROWN), 0.0, weight)
        ring = (radius > half) & (weight > 0) & (labels == 0)
        level = float(np.median(pixels[ring])) if ring.sum() > ENOUGH else 0.0
        inner = slice(wide - half, wide + half + 1)
        images.append(pixels[inner, inner] - level)
        weights.append(weight[inner, inner])
    found = StarStamps(
        np.stack(images),
        np.stack(weights),
        stars.x,
        stars.y,
        stars.x - columns,
        stars.y - rows,
        np.ones(len(stars.x)),
    )
    return found.scaled(np.maximum(stars.flux, 1e-30))


def shift_matrices(
    offsets: NDArray[np.float64], side: int, grid: int, oversampling: int
) -> NDArray[np.float64]:
    """Return (S, side, grid) weights of PSF pixels in the pixels of a star along one axis.

    Lanczos interpolation of the PSF at (i - offset) for pixel i from the middle of the image.

    Args:
        offsets: (S,) of the star from the middle pixel, image pixels.
        side: pixels of the image, odd.
        grid: pixels of the PSF, odd.
        oversampling: PSF pixels per image pixel.
    """
    pixel = np.arange(side) - side // 2
    at = oversampling * (pixel[None, :] - offsets[:, None]) + grid // 2  # (S, side)
    distance = at[:, :, None] - np.arange(grid)
    kernel = np.sinc(distance) * np.sinc(distance / LANCZOS) * (np.abs(distance) < LANCZOS)
    total = kernel.sum(axis=2, keepdims=True)
    return np.where(np.abs(total) > 0.5, kernel / np.where(total == 0, 1, total), kernel)
