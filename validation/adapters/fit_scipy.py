"""Plain scipy.optimize.least_squares: the script that one writes oneself.

Variant "native": pixel centres, the middle 11 x 11 by 5 x 5 points, convolved by FFT on the image's
own grid. Variant "fine": the same on a grid three times finer, with the PSF interpolated.
"""

from __future__ import annotations

import numpy as np
import scipy
from exchange import (
    CONVERGED,
    FAILED,
    Array,
    Fitted,
    Galaxy,
    flux_over_amplitude,
    magnitude_gradient,
    serve,
)
from scipy import fft, ndimage, optimize, special

FINE = 3  # variant "fine": grid points per pixel and side
BOX = 5  # grid points each side of the centre that are averages over 5 x 5
# ln r_eff, ln n, ellipticity
LOW, HIGH = (np.log(0.05), np.log(0.2), 0.0), (np.log(100), np.log(10), 0.98)


class Model:
    """Images of p = x, y, ln amplitude, ln r_eff, ln n, 1 - q, pa [deg], sky."""

    def __init__(self, psf: Array, shape: tuple[int, int], fine: int) -> None:
        self.shape, self.fine = shape, fine
        if fine > 1:
            psf = _finer(psf, fine)
        grid = [side * fine for side in shape]
        pairs = zip(grid, psf.shape, strict=True)
        self.padded = [fft.next_fast_len(a + b - 1, real=True) for a, b in pairs]
        self.kernel = fft.rfft2(psf, self.padded)
        self.half = [side // 2 for side in psf.shape]
        y, x = ((np.arange(side) + 0.5) / fine - 0.5 for side in grid)
        self.x, self.y = np.meshgrid(x, y)

    def __call__(self, p: Array) -> Array:
        """The image (H, W)."""
        pixels = _profile(p, self.x, self.y)
        self._sharpen(pixels, p)
        full = fft.irfft2(fft.rfft2(pixels * np.exp(p[2]), self.padded) * self.kernel, self.padded)
        (top, left), (height, width) = self.half, self.x.shape
        image = full[top : top + height, left : left + width]
        if self.fine > 1:
            image = image.reshape(self.shape[0], self.fine, self.shape[1], self.fine)
            image = image.mean(axis=(1, 3))
        return image + p[7]

    def _sharpen(self, pixels: Array, p: Array) -> None:
        """Put averages over 5 x 5 points into the pixels around the centre."""
        nearest = [round((c + 0.5) * self.fine - 0.5) for c in p[1::-1]]
        row, column = (
            int(np.clip(c, BOX, side - BOX - 1))
            for c, side in zip(nearest, pixels.shape, strict=True)
        )
        box = np.s_[row - BOX : row + BOX + 1, column - BOX : column + BOX + 1]
        points = (np.arange(5) - 2) / 5 / self.fine
        x = self.x[box][..., None, None] + points
        y = self.y[box][..., None, None] + points[:, None]
        pixels[box] = _profile(p, x, y).mean(axis=(2, 3))


def _profile(p: Array, x: Array, y: Array) -> Array:
    """Surface brightness over that at r_eff."""
    n, q, pa = np.exp(p[4]), 1 - p[5], np.deg2rad(p[6])
    along = -(x - p[0]) * np.sin(pa) + (y - p[1]) * np.cos(pa)
    across = (x - p[0]) * np.cos(pa) + (y - p[1]) * np.sin(pa)
    radius = np.sqrt(along**2 + (across / q) ** 2) / np.exp(p[3])
    return np.exp(-special.gammaincinv(2 * n, 0.5) * (radius ** (1 / n) - 1))


def _finer(psf: Array, fine: int) -> Array:
    """The PSF (h, w) on points ``fine`` times denser, by splines, sum 1; odd sides stay odd."""
    points = [
        (np.arange(side * fine) - (side * fine - 1) / 2) / fine + (side - 1) / 2
        for side in psf.shape
    ]
    grid = np.meshgrid(*points, indexing="ij")
    dense = ndimage.map_coordinates(psf, grid, order=5, mode="constant")
    return dense / dense.sum()


def to_parameters(theta: Array, zeropoint: float) -> Array:
    x, y, mag, r_eff, n, q, pa, sky = theta
    level = -0.4 * np.log(10) * (mag - zeropoint) - np.log(flux_over_amplitude(r_eff, n, q))
    return np.array([x, y, level, np.log(r_eff), np.log(n), 1 - q, pa, sky])


class Scipy:
    """See the module."""

    version = scipy.__version__
    batched = False
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        return Model(psf, shape, 1)(to_parameters(theta, zeropoint))

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        return [_fit(galaxy, {"native": 1, "fine": FINE}[variant]) for galaxy in galaxies]


def _fit(galaxy: Galaxy, fine: int) -> Fitted:
    if galaxy.start is None:
        raise ValueError("scipy has no starting values of its own")
    height, width = galaxy.image.shape
    model = Model(galaxy.psf, (height, width), fine)
    first = to_parameters(galaxy.start, galaxy.zeropoint)
    low = np.array([0, 0, -50, *LOW, -720, -np.inf])
    high = np.array([width, height, 50, *HIGH, 720, np.inf])
    first[3:6] = np.clip(first[3:6], low[3:6] + 1e-3, high[3:6] - 1e-3)
    best = optimize.least_squares(
        lambda p: ((galaxy.image - model(p)) / galaxy.sigma).ravel(),
        first,
        bounds=(low, high),
        x_scale="jac",
    )
    r_eff, n, q = np.exp(best.x[3]), np.exp(best.x[4]), 1 - best.x[5]
    covariance = np.linalg.pinv(best.jac.T @ best.jac)
    error = np.sqrt(np.diag(covariance))
    # ln q has the derivative -1/q by the ellipticity
    gradient = magnitude_gradient(r_eff, n, q) * np.array([1, 1, 1, -1 / q])
    mag = galaxy.zeropoint - 2.5 / np.log(10) * (
        best.x[2] + np.log(flux_over_amplitude(r_eff, n, q))
    )
    mag_error = np.sqrt(gradient @ covariance[2:6, 2:6] @ gradient)
    x, y, pa, sky = best.x[[0, 1, 6, 7]]
    return Fitted(
        np.array([x, y, mag, r_eff, n, q, pa % 180, sky]),
        np.array(
            [*error[:2], mag_error, error[3] * r_eff, error[4] * n, error[5], error[6], error[7]]
        ),
        CONVERGED if best.success else FAILED,
        message=best.message,
    )


if __name__ == "__main__":
    serve(Scipy())
