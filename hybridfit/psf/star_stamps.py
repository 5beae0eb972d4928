"""Images of stars, and the operators that shift a PSF onto their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.psf.stars import CleanPixels, Pixels, Stars, clean_pixels, detected

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

    @classmethod
    def joined(cls, parts: Sequence[StarStamps]) -> StarStamps:
        """Return the stars of several parts of an image, the brightest first."""
        names = [entry.name for entry in fields(cls)]
        whole = cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        peak = np.sqrt((whole.weight * whole.images**2).sum(axis=(1, 2)))
        order = np.argsort(-peak)
        return replace(whole, **{name: getattr(whole, name)[order] for name in names})

    def scaled(self, factor: NDArray[np.float64]) -> StarStamps:
        """Return the stamps in units of another flux, ``factor`` (S,) times the present one."""
        wide = factor[:, None, None]
        return replace(
            self, images=self.images / wide, weight=self.weight * wide**2, flux=self.flux * factor
        )


def cut_stamps(pixels: Pixels, stars: Stars, side: int) -> StarStamps:
    """Return the images of stars, with the background of a ring around each subtracted.

    Args:
        pixels: an image or a part of it.
        stars: of this part.
        side: of the images, odd, pixels.
    """
    half, wide = side // 2, round(RING * (side // 2)) + 1
    clean = clean_pixels(pixels)
    assert clean is not None  # it has stars
    image, weight = np.pad(clean.image, wide), np.pad(clean.weight, wide)
    columns, rows = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    stamps, weights = [], []
    for x, y in zip(columns - pixels.origin[0], rows - pixels.origin[1], strict=True):
        box = slice(y, y + 2 * wide + 1), slice(x, x + 2 * wide + 1)
        stamp, used = _without_neighbours(CleanPixels(image[box], weight[box], clean.level), half)
        inner = slice(wide - half, wide + half + 1)
        stamps.append(stamp[inner, inner])
        weights.append(used[inner, inner])
    found = StarStamps(
        np.stack(stamps),
        np.stack(weights),
        stars.x,
        stars.y,
        stars.x - columns,
        stars.y - rows,
        np.ones(len(stars.x)),
    )
    return found.scaled(np.maximum(stars.flux, 1e-30))


def _without_neighbours(
    around: CleanPixels, half: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return image and weight around a star, without background; weight 0 on other sources.

    Args:
        around: the star is in the middle pixel.
        half: pixels from the middle beyond which the background is measured.
    """
    middle = around.image.shape[0] // 2
    axis = np.arange(len(around.image)) - middle
    labels = detected(around)
    others = (labels > 0) & (labels != labels[middle, middle])
    weight = np.where(ndimage.binary_dilation(others, iterations=GROWN), 0.0, around.weight)
    ring = (np.hypot(axis[:, None], axis) > half) & (weight > 0) & (labels == 0)
    level = float(np.median(around.image[ring])) if ring.sum() > ENOUGH else 0.0
    return around.image - level, weight


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
