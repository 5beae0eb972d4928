"""A further image of a scene as a term of its likelihood.

The terms of all images add up: the sum of their Gram matrices, each turned from the image's own
coordinates to the scene's, is that of the whole. The sky of a further image is nobody else's, so
its terms are projected out of its Gram matrix at once. As they are linear and their prior is flat,
that is their best value for the fit and, up to a constant, the integral over them for the
posterior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.fitting.cholesky import scaled_cholesky, solver
from hybridfit.fitting.frame import Frame
from hybridfit.fitting.pixels import Kernels, Pixels
from hybridfit.rendering.grid import Grid

JITTER = 1e-9  # of the sky's equations, scaled to a unit diagonal


@dataclass(frozen=True)
class ImageTerm(Batch):
    """An image of B scenes besides the first one.

    Args:
        pixels: see `Pixels`, in units of the image's own noise.
        grid: for its padded shape.
        frame: from the first image's coordinates to its own.
    """

    pixels: Pixels
    grid: Grid
    frame: Frame

    @property
    def n_pixels(self) -> Tensor:
        """(B,) pixels that are used."""
        return (self.pixels.weight > 0).flatten(1).sum(dim=1)

    @property
    def n_sky(self) -> Tensor:
        """(B,) sky terms that are projected out; 0 where no pixel is used."""
        return len(self.pixels.sky) * (self.n_pixels > 0)

    @property
    def log_sky_volume(self) -> Tensor:
        """(B,) ln of the integral over the sky about its best, in units of the image's noise."""
        weighted = (self.pixels.sky * self.pixels.weight[:, None]).flatten(2).double()
        factor, scale = scaled_cholesky(weighted @ weighted.mT, JITTER)
        root = torch.diagonal(factor, dim1=1, dim2=2) / scale
        volume = 0.5 * math.log(2 * math.pi) * root.shape[1] - root.log().sum(dim=1)
        return torch.where(self.n_pixels > 0, volume, 0.0)

    def without_sky(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Return columns (b, C, H, W) over sigma, of the scenes ``rows``, without their sky."""
        sky = (self.pixels.sky * self.pixels.weight[rows, None]).flatten(2).double()
        if sky.shape[1] == 0:
            return columns
        flat = columns.flatten(2)
        cross = sky.to(flat.dtype) @ flat.mT
        share = solver(sky @ sky.mT, JITTER)(cross.double())
        return (flat - share.mT.to(flat.dtype) @ sky.to(flat.dtype)).view_as(columns)


@dataclass(frozen=True)
class Rendered:
    """The components of b scenes as they appear in a further image.

    Args:
        images: of each component, see `hybridfit.rendering.kernels.component_images`.
        slope: (b, C, C) derivatives of the image's coordinates by the scene's.
        gain: (b,) see `Frame`.
        pixels: data (b, H, W), weight (b, H, W) and sky (T, H, W) of the image.
        small: (b, K + T + 1, K + T + 1) float64 Gram matrix of the linear columns and the data.
        kernels: that made it.
    """

    images: Sequence[Tensor]
    slope: Tensor
    gain: Tensor
    pixels: tuple[Tensor, Tensor, Tensor]
    small: Tensor
    kernels: Kernels

    @property
    def n_sky(self) -> int:
        """Number of sky terms of the image."""
        return len(self.pixels[2])

    def linear_gram(self, n_terms: int) -> Tensor:
        """Return the Gram matrix (b, L + 1, L + 1) by all the scene's terms and the data."""
        n = len(self.images)
        return self._by_scene(_projected(self.small, n, self.n_sky), 0, n_terms)

    def gram(self, level: Tensor) -> Tensor:
        """Return the Gram matrix (b, C + L + 1, C + L + 1) by coordinates, terms, and the residual.

        Args:
            level: (b, L) all the scene's terms at which the residual is taken.
        """
        n, sky = len(self.images), self.n_sky
        flux = level[:, :n].double() * self.gain[:, None]
        terms = flux
        if sky:
            inside = slice(n, n + sky)
            left = self.small[:, inside, -1:] - self.small[:, inside, :n] @ flux[:, :, None]
            own = solver(self.small[:, inside, inside], JITTER)(left)[:, :, 0]
            terms = torch.cat([flux, own], dim=1)
        whole = self.kernels.gram(list(self.images), terms.to(level.dtype), *self.pixels).double()
        n_shape = whole.shape[1] - n - sky - 1
        own_gram = _projected(whole, n_shape + n, sky)
        return self._by_scene(own_gram, n_shape, level.shape[1])

    def _by_scene(self, gram: Tensor, n_shape: int, n_terms: int) -> Tensor:
        """Turn a Gram matrix by shapes, fluxes and residual to the scene's coordinates and terms.

        Args:
            gram: (b, D + K + 1, D + K + 1) of the image's own, the sky projected out.
            n_shape: D, all coordinates or none of them.
            n_terms: L of the scene, of which the sky of its first image has zeros here.
        """
        n = len(self.images)
        turn = gram.new_zeros(len(gram), gram.shape[1], n_shape + n_terms + 1)
        if n_shape:
            turn[:, :n_shape, :n_shape] = self.slope[:, :n_shape, :n_shape]
        index = torch.arange(n, device=gram.device)
        turn[:, n_shape + index, n_shape + index] = self.gain[:, None]
        turn[:, -1, -1] = 1.0
        return turn.mT @ gram @ turn


def _projected(gram: Tensor, first: int, count: int) -> Tensor:
    """Project ``count`` sky columns from column ``first`` on out of a Gram matrix (b, N, N)."""
    if count == 0:
        return gram
    sky = slice(first, first + count)
    kept = torch.cat([torch.arange(first), torch.arange(first + count, gram.shape[1])])
    kept = kept.to(gram.device)
    cross = gram[:, sky][:, :, kept]
    whole = gram[:, kept][:, :, kept]
    return whole - cross.mT @ solver(gram[:, sky, sky], JITTER)(cross)
