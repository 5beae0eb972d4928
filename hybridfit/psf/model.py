"""PSFs by position: one class for all of them, `PSFModel`, and what the readers make of files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.psf.interpolation import grid_weights


@dataclass(frozen=True)
class PSFError:
    """How uncertain a PSF is, as numbers for an error budget.

    Args:
        size: relative standard error of the width, d ln(width).
        shape: standard error of each component of the ellipticity, (a - b) / (a + b).
        residual: root of the mean squared residual of stars over that of the PSF, without noise.

    NaN stands for an unknown error.
    """

    size: float = math.nan
    shape: float = math.nan
    residual: float = math.nan


@dataclass(frozen=True, eq=False)
class PSFModel(ABC):
    """A PSF that may depend on the position in an image.

    Args:
        oversampling: PSF pixels per image pixel.
        includes_pixel: whether the PSF includes the response of the image's pixel.
        flags: bits of `hybridfit.Flag`.
        notes: what the user should know.
        error: how uncertain the PSF is.
    """

    oversampling: int
    includes_pixel: bool
    flags: int = 0
    notes: tuple[str, ...] = ()
    error: PSFError = PSFError()

    def at(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float32]:
        """Return the PSFs at N positions.

        Args:
            x, y: (N,) or single numbers, in pixels of the image, the first of which has its
                centre at 0, 0. Positions outside the image are allowed.

        Returns:
            (N, h, w) with odd sides, each with its centre in the middle pixel and of sum 1.

        Raises:
            ValueError: if positions are not finite, or x and y do not have the same length.
        """
        where = _positions(x, y)
        images = self._images(where[:, 0], where[:, 1])
        sums = images.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
        return (images / sums).astype(np.float32)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Height and width of the images, in PSF pixels; both are odd."""

    @abstractmethod
    def _images(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating]:
        """Return (N, h, w) images of any positive sum at positions (N,)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ConstantPSF(PSFModel):
    """One PSF for the whole image.

    Args:
        image: (h, w), odd sides, sum 1, the centre in the middle pixel.
    """

    image: NDArray[np.floating]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return _sides(self.image)

    def _images(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating]:
        return np.broadcast_to(self.image, (len(x), *self.shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class GriddedPSF(PSFModel):
    """PSFs at given positions, interpolated between them.

    On a rectangular grid the interpolation is bilinear, otherwise linear in the triangles between
    neighbouring positions. Beyond the outermost positions the PSF at the edge is used.

    Args:
        images: (G, h, w), odd sides, sum 1, the centres in the middle pixels.
        positions: (G, 2) x, y in pixels of the image.
        interpolation: "linear", or "nearest" for the PSF of the nearest position.
    """

    images: NDArray[np.floating]
    positions: NDArray[np.float64]
    interpolation: str = "linear"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return _sides(self.images)

    def _images(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating]:
        weights = grid_weights(self.positions, np.column_stack([x, y]), self.interpolation)
        flat = weights @ self.images.reshape(len(self.images), -1)
        return np.asarray(flat).reshape(len(x), *self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class PolynomialPSF(PSFModel):
    """A PSF whose pixels are polynomials in the position.

    PSF(x, y) = sum over k of T_k u^a_k v^b_k, u = (x - x0) / sx, v = (y - y0) / sy.

    Args:
        terms: (K, h, w) images T_k, odd sides.
        powers: (K, 2) exponents a, b.
        zero: x0, y0 in pixels of the image.
        scale: sx, sy in pixels.
        reach: largest |u| and |v|; positions further out have the PSF at that edge, because
            polynomials diverge.
    """

    terms: NDArray[np.floating]
    powers: NDArray[np.integer]
    zero: tuple[float, float]
    scale: tuple[float, float]
    reach: float = math.inf

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return _sides(self.terms)

    def _images(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating]:
        design = polynomial(x, y, self.powers, self.zero, self.scale, self.reach)
        flat = design @ self.terms.reshape(len(self.terms), -1)
        return flat.reshape(len(x), *self.shape)


def polynomial(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    powers: NDArray[np.integer],
    zero: tuple[float, float],
    scale: tuple[float, float],
    reach: float = math.inf,
) -> NDArray[np.float64]:
    """Return u^a_k v^b_k (N, K), see `PolynomialPSF`."""
    u = np.clip((x - zero[0]) / scale[0], -reach, reach)
    v = np.clip((y - zero[1]) / scale[1], -reach, reach)
    return u[:, None] ** powers[:, 0] * v[:, None] ** powers[:, 1]


def powers_up_to(degree: int) -> NDArray[np.integer]:
    """Return the exponents (K, 2) of all terms up to a degree, those of x running fastest."""
    pairs = [(a, b) for b in range(degree + 1) for a in range(degree + 1 - b)]
    return np.array(pairs)


def _positions(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return positions (N, 2) from numbers or arrays of one length."""
    both = [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (x, y)]
    if both[0].ndim != 1 or both[0].shape != both[1].shape:
        raise ValueError(
            f"x and y have the shapes {both[0].shape} and {both[1].shape}, expected one length (N,)"
        )
    where = np.column_stack(both)
    if not np.isfinite(where).all():
        bad = int((~np.isfinite(where)).any(axis=1).sum())
        raise ValueError(
            f"{bad} of {len(where)} positions are not finite: leave out sources without position"
        )
    return where


def _sides(images: NDArray[np.floating]) -> tuple[int, int]:
    h, w = images.shape[-2:]
    return h, w
