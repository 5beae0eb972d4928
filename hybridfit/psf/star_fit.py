"""Fit a PSF with polynomial terms to the images of stars: one linear, regularised problem.

Star i at position p_i is PSF(p_i) = E + sum over k of P_k(p_i) (sum_m c_km D_m + A S z_k), shifted
onto its pixels. E is the mean PSF, D_m are its derivatives by ln(width) and by both components of
the ellipticity, S is a Gaussian smoothing, and A an amplitude that follows the mean profile. The
coefficients c and the pixels z have Gaussian priors, so that few stars change the core and its
shape, and noise stays out of the wings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg

from hybridfit.psf.star_stamps import StarStamps, shift_matrices

MODES = 3
MODE_WIDTH = 0.15  # prior of the coefficients of the derivatives
SMOOTH = 0.25  # width of the smoothing, in FWHM
FLOOR = 1e-3  # of the amplitude, in peaks of the PSF
TOLERANCE, MOST = 1e-3, 60  # of conjugate gradients
COPY_OF = 1.5  # FWHM over which the amplitude is the largest one around, so that rings count


@dataclass(frozen=True, eq=False)
class Basis:
    """What the terms are made of.

    Args:
        mean: (g, g) E, in pixel values of the image: the sum is oversampling^2.
        modes: (3, g, g) D_m.
        amplitude: (g, g) A.
        smoothing: width of S, PSF pixels.
        oversampling: PSF pixels per image pixel.
    """

    mean: NDArray[np.float64]
    modes: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    smoothing: float
    oversampling: int

    def smooth(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return S z for (K, g, g) pixels; S is symmetric and keeps the variance of white noise."""
        axes = ndimage.gaussian_filter1d(z, self.smoothing, axis=1, mode="constant", truncate=4)
        both = ndimage.gaussian_filter1d(axes, self.smoothing, axis=2, mode="constant", truncate=4)
        return both * (2 * np.sqrt(np.pi) * self.smoothing)


def basis_of(mean: NDArray[np.float64], fwhm: float, oversampling: int) -> Basis:
    """Return the basis for a mean PSF.

    Args:
        mean: (g, g) pixel values of a PSF.
        fwhm: PSF pixels.
        oversampling: PSF pixels per image pixel.
    """
    y, x = np.indices(mean.shape) - mean.shape[0] // 2
    down, right = np.gradient(mean)
    wider = -(2 * mean + x * right + y * down)
    along = -(x * right - y * down)
    across = -(x * down + y * right)
    size = round(COPY_OF * fwhm) // 2 * 2 + 1
    profile = ndimage.maximum_filter(ndimage.gaussian_filter(np.abs(mean), 1.0), size)
    amplitude = ndimage.gaussian_filter(profile, fwhm / 2) + FLOOR * mean.max()
    return Basis(mean, np.stack([wider, along, across]), amplitude, SMOOTH * fwhm, oversampling)


@dataclass(frozen=True, eq=False)
class Problem:
    """The linear problem of some stars.

    Args:
        stamps: S stars.
        design: (S, K) P_k at their positions.
        basis: see `Basis`.
        tau: prior width of z.
    """

    stamps: StarStamps
    design: NDArray[np.float64]
    basis: Basis
    tau: float

    def solve(self) -> NDArray[np.float64]:
        """Return the terms (K, g, g) of the most probable PSF; E is part of the first."""
        rows, columns = self._shifts()
        weight = self.stamps.weight
        residual = self.stamps.images - _shifted(self.basis.mean, rows, columns)
        right = self._back(weight * residual, rows, columns)

        def normal(v: NDArray[np.float64]) -> NDArray[np.float64]:
            terms = np.einsum("sk,kgh->sgh", self.design, self._terms(v))
            return v + self._back(weight * _shifted(terms, rows, columns), rows, columns)

        operator = LinearOperator((right.size, right.size), matvec=normal)
        found, _ = cg(operator, right, rtol=TOLERANCE, maxiter=MOST)
        terms = self._terms(found)
        terms[0] += self.basis.mean
        return terms

    def _shifts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return shifts(self.stamps, self.basis.mean.shape[0], self.basis.oversampling)

    def _terms(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return terms (K, g, g) without E from standard normal parameters."""
        count, grid = self.design.shape[1], self.basis.mean.shape
        c = v[: count * MODES].reshape(count, MODES)
        z = v[count * MODES :].reshape(count, *grid)
        pixels = self.tau * self.basis.amplitude * self.basis.smooth(z)
        return pixels + MODE_WIDTH * np.einsum("km,mgh->kgh", c, self.basis.modes)

    def _back(
        self,
        images: NDArray[np.float64],
        rows: NDArray[np.float64],
        columns: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the adjoint of the terms' images: (S, h, h) to parameters."""
        grids = rows.transpose(0, 2, 1) @ images @ columns
        terms = np.einsum("sk,sgh->kgh", self.design, grids)
        c = MODE_WIDTH * np.einsum("mgh,kgh->km", self.basis.modes, terms)
        z = self.basis.smooth(self.tau * self.basis.amplitude * terms)
        return np.concatenate([c.ravel(), z.ravel()])


def shifts(
    stamps: StarStamps, grid: int, oversampling: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrices of all stars along y and x, see `shift_matrices`."""
    side = stamps.images.shape[1]
    return (
        shift_matrices(stamps.dy, side, grid, oversampling),
        shift_matrices(stamps.dx, side, grid, oversampling),
    )


def _shifted(
    psf: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return one or S PSFs on the pixels of S stars, (S, h, h)."""
    return rows @ psf @ columns.transpose(0, 2, 1)


def predicted(
    terms: NDArray[np.float64],
    design: NDArray[np.float64],
    stamps: StarStamps,
    oversampling: int,
) -> NDArray[np.float64]:
    """Return the PSF (S, h, h) on the pixels of each star; the sum over all pixels is 1."""
    psfs = np.einsum("sk,kgh->sgh", design, terms)
    rows, columns = shifts(stamps, terms.shape[1], oversampling)
    return _shifted(psfs, rows, columns)
