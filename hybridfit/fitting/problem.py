"""The least-squares problem of a batch of galaxies: cost, gradient and Hessian in whitened space.

Flux and sky enter linearly. They are solved for exactly at every point (variable projection,
Golub & Pereyra 1973), so the optimiser sees the other parameters alone. All that is needed of
the pixels is one small Gram matrix a galaxy, of the weighted columns [derivatives, unit-flux
images, sky terms, residual]; what follows is algebra in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hybridfit.batch import Batch, shared
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import typical_sigma
from hybridfit.fitting.cholesky import scaled_cholesky
from hybridfit.fitting.linear_terms import LinearTerms
from hybridfit.fitting.lm import Normal
from hybridfit.model.constants import Constants
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile
from hybridfit.rendering.design_matrix import gram_matrix, linear_columns, shape_columns
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.kernels import Geometry, component_images, geometry
from hybridfit.rendering.sky import sky_terms
from hybridfit.rendering.transfer import transfer_of


@dataclass(frozen=True)
class Pixels(Batch):
    """What the kernels read of a batch, in units of each galaxy's own noise.

    Args:
        data: (B, H, W) image minus ``background``, over ``scale``.
        weight: (B, H, W) scale / sigma, 0 where masked.
        transfer: (B, 2, K, L) of PSF and pixel.
        scale: (B,) typical sigma, flux units.
        background: (B,) flux units, so that a high sky costs no digits.
        sky: (T, H, W) the free sky terms, each of order one.
    """

    data: Tensor
    weight: Tensor
    transfer: Tensor
    scale: Tensor
    background: Tensor
    sky: Tensor = shared()


def make_pixels(
    cutouts: Cutouts,
    background: Tensor,
    n_sky: int,
    grid: Grid,
    dtype: torch.dtype,
) -> Pixels:
    """Normalise a batch whose galaxies share one PSF oversampling."""
    scale = typical_sigma(cutouts)
    unit = scale.to(dtype)[:, None, None]
    weight = torch.where(cutouts.mask, 0.0, unit / cutouts.sigma)
    # the cutouts are float32: their difference from a level near their own is exact enough
    data = (cutouts.image - background.to(dtype)[:, None, None]) / unit
    return Pixels(
        torch.where(cutouts.mask, 0.0, data).to(dtype),
        weight.to(dtype),
        transfer_of(cutouts, grid),
        scale,
        background,
        sky_terms(n_sky, grid.height, grid.width, dtype, cutouts.image.device),
    )


def pixel_gram(
    images: list[Tensor], linear: Tensor, data: Tensor, weight: Tensor, sky: Tensor
) -> Tensor:
    """Gram matrix of the weighted columns, (b, Q + 1, Q + 1).

    Args:
        images: for each component (b, 1 + D, H, W): unit-flux image, then derivatives.
        linear: (b, K + T) fluxes and sky coefficients at which the residual is taken.
        data, weight: (b, H, W).
        sky: (T, H, W).
    """
    flux = linear[:, : len(images)]
    level = torch.einsum("bt,thw->bhw", linear[:, len(images) :], sky)
    residual = data - level
    for k, image in enumerate(images):
        residual = residual - flux[:, k, None, None] * image[:, 0]
    columns = [*shape_columns(images, flux), *linear_columns(images, sky), residual[:, None]]
    return gram_matrix(columns, weight)


def linear_gram(images: list[Tensor], data: Tensor, weight: Tensor, sky: Tensor) -> Tensor:
    """Gram matrix of the weighted linear columns and the data alone, (b, L + 1, L + 1)."""
    return gram_matrix([*linear_columns(images, sky), data[:, None]], weight)


@dataclass(frozen=True)
class Kernels:
    """The pixel functions, eager or compiled."""

    images: Callable[..., Tensor] = component_images
    linear: Callable[..., Tensor] = linear_gram
    gram: Callable[..., Tensor] = pixel_gram


EAGER = Kernels()
# half of a sum of squares: what is far below 0 is the rounding of absurd fluxes
LEAST_COST = -1e4
JITTER = 1e-9  # of the linear parameters' equations, scaled to a unit diagonal
LEAST_CALL = 2  # galaxies of a call of eager kernels
LIGHTER = 4  # galaxies in the place of one, where images come without their derivatives


@dataclass(frozen=True)
class Profiled(Batch):
    """The likelihood of b points with flux and sky at their best, and how sharp they are there.

    Args:
        cost: (b,) half of chi2.
        linear: (b, F) free fluxes and sky terms at the minimum, units of the noise.
        factor: (b, F, F) with factor factor^T = S, the linear parameters' information: chi2
            rises by |factor^T d|^2 at a distance d.
    """

    cost: Tensor
    linear: Tensor
    factor: Tensor


@dataclass(frozen=True)
class RenderPoint(Batch):
    """The renderer's input at b points.

    Args:
        coords: (b, C) render coordinates of all components.
        terms: (b, L) fluxes and sky terms, units of the noise.
        jacobian: (b, C + L, P + F) d (coords, terms) / d (whitened, free linear).
    """

    coords: Tensor
    terms: Tensor
    jacobian: Tensor


@dataclass(frozen=True)
class Problem(Batch):
    """A batch to be fitted; calling it evaluates points, as `lm.minimise` asks.

    Args:
        pixels: of B galaxies.
        grid: for their padded shape.
        space: parameters and prior.
        constants: of the scenes' priors, fixed values and ties.
        prior_weight: 1 for maximum a posteriori, 0 for maximum likelihood.
        chunk: galaxies a kernel call takes; calls are filled up so that compiled kernels see one
            shape and a galaxy's rounding does not depend on its neighbours, see `_call_size`.
        profiles: one for each component of ``space``.
        kernels: see `Kernels`.
        terms: how fluxes and sky follow from the free ones; None where all are free.
    """

    pixels: Pixels
    grid: Grid
    space: ParameterSpace
    constants: Constants
    prior_weight: float
    chunk: int
    profiles: tuple[Profile, ...] = shared()
    kernels: Kernels = EAGER
    terms: LinearTerms | None = None

    def __call__(self, whitened: Tensor, rows: Tensor) -> Normal:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        coords, chain = self.space.from_whitened(whitened, self.constants[rows])
        gram, free, level = self.gram(coords, rows)
        jacobian = self._jacobian(coords, chain, rows)
        cost, gradient, hessian, free, information = _eliminate(
            gram, free, level, jacobian, self.space.slices()
        )
        cost = torch.where(cost > LEAST_COST, cost, torch.inf)
        eye = torch.eye(whitened.shape[1], dtype=whitened.dtype, device=whitened.device)
        return Normal(
            cost + 0.5 * self.prior_weight * (whitened**2).sum(dim=1),
            gradient + self.prior_weight * whitened,
            hessian + (self.prior_weight or 1e-9) * eye,
            (free, information, cost),
        )

    def expand(self, whitened: Tensor, linear: Tensor, rows: Tensor) -> RenderPoint:
        """Return the renderer's input at points of the galaxies ``rows``.

        Args:
            whitened: (b, P).
            linear: (b, F) free fluxes and sky terms, units of the noise.
            rows: (b,).
        """
        coords, chain = self.space.from_whitened(whitened, self.constants[rows])
        terms = self._terms(linear, coords, rows)
        jacobian = self._jacobian(coords, chain, rows)
        return RenderPoint(coords[:, : self.space.n_coords], terms, jacobian)

    def located(self, whitened: Tensor, linear: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates (b, C) and terms (b, L) of `expand`, without their derivatives."""
        coords, _ = self.space.from_whitened(whitened, self.constants[rows])
        return coords[:, : self.space.n_coords], self._terms(linear, coords, rows)

    def fluxes(self, whitened: Tensor, linear: Tensor, rows: Tensor) -> Tensor:
        """Return the flux (b, K) of each component in units of the noise, see `expand`."""
        if self.terms is None:
            return linear[:, : self.space.n_components]
        return self.located(whitened, linear, rows)[1][:, : self.space.n_components]

    def _jacobian(self, coords: Tensor, chain: Tensor, rows: Tensor) -> Tensor:
        """Return d (coords, terms) / d (whitened, free linear) (b, C + L, P + F)."""
        n_coords, n_free = self.space.n_coords, chain.shape[2]
        n_terms, n_linear = self.space.n_terms, self.space.n_linear
        full = chain.new_zeros(len(chain), n_coords + n_terms, n_free + n_linear)
        full[:, :n_coords, :n_free] = chain[:, :n_coords]
        if self.terms is None:
            index = torch.arange(n_linear, device=chain.device)
            full[:, n_coords + index, n_free + index] = 1.0
            return full
        own = self.terms[rows]
        full[:, n_coords:, :n_free] = own.slope(coords, chain)
        full[:, n_coords:, n_free:] = own.span
        return full

    def profile(self, whitened: Tensor, rows: Tensor) -> Profiled:
        """Evaluate points (b, P) of the galaxies ``rows``, the likelihood alone, no derivatives.

        Many points of one galaxy cost a quarter of as many calls of the problem itself.
        """
        coords, _ = self.space.from_whitened(whitened, self.constants[rows])
        gram, free, _ = self.gram(coords, rows, jacobian=False)
        inner, slope = gram[:, :-1, :-1], gram[:, :-1, -1]
        if self.terms is not None:
            span = self.terms.span[rows]
            inner, slope = span.mT @ inner @ span, (span.mT @ slope[:, :, None])[:, :, 0]
        factor, scale = scaled_cholesky(inner, JITTER)
        change = torch.cholesky_solve((scale * slope)[:, :, None], factor)[:, :, 0] * scale
        cost = 0.5 * (gram[:, -1, -1] - (slope * change).sum(dim=1))
        return Profiled(cost, free + change, factor / scale[:, :, None])

    def gram(
        self, coords: Tensor, rows: Tensor, jacobian: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return Gram matrices, and the linear parameters at which the residual is taken.

        The residual is taken about the linear parameters' own solution: sums over the data
        themselves would lose a bright galaxy's chi2 in float32. Without ``jacobian`` the columns
        of the derivatives are missing.

        Returns:
            (b, Q + 1, Q + 1) float64, the free linear parameters (b, F) and all terms (b, L).
        """
        dtype = self.pixels.data.dtype
        pieces, free, levels = [], [], []
        for pick, index, used, images in self._images(coords, rows, jacobian):
            pixels = (self.pixels.data[pick], self.pixels.weight[pick], self.pixels.sky)
            small = self.kernels.linear(images, *pixels).double()
            own = self._linear_solution(small, coords[index], pick).to(dtype)
            level = self._terms(own, coords[index], pick)
            gram = self.kernels.gram(images, level, *pixels)
            pieces.append(gram[:used])
            free.append(own[:used])
            levels.append(level[:used])
        gram, linear, terms = (torch.cat(v).double() for v in (pieces, free, levels))
        return gram, linear, terms

    def _linear_solution(self, gram: Tensor, coords: Tensor, rows: Tensor) -> Tensor:
        """Solve for the free linear parameters (b, F) from `linear_gram`; columns of 0 give 0."""
        inner, right = gram[:, :-1, :-1], gram[:, :-1, -1:]
        if self.terms is None:
            return _solver(inner)(right)[:, :, 0]
        terms = self.terms[rows]
        offset = terms.at(coords)[:, :, None]
        within = _solver(terms.span.mT @ inner @ terms.span)
        return within(terms.span.mT @ (right - inner @ offset))[:, :, 0]

    def _terms(self, linear: Tensor, coords: Tensor, rows: Tensor) -> Tensor:
        """Return all fluxes and sky terms (b, L) of free ones (b, F), in their precision."""
        if self.terms is None:
            return linear
        own = self.terms[rows]
        value = own.at(coords) + (own.span @ linear.double()[:, :, None])[:, :, 0]
        return value.to(linear.dtype)

    def images(
        self, coords: Tensor, rows: Tensor, jacobian: bool
    ) -> Iterator[tuple[Tensor, int, list[Tensor]]]:
        """Yield images of render coordinates (b, C) chunk by chunk.

        Yields:
            the rows of the batch in a call, how many of them were asked for (the others fill it
            up), and each component's `component_images`.
        """
        for pick, _, used, images in self._images(coords, rows, jacobian):
            yield pick, used, images

    def _images(
        self, coords: Tensor, rows: Tensor, jacobian: bool
    ) -> Iterator[tuple[Tensor, Tensor, int, list[Tensor]]]:
        """Yield as `images` does, with the points' own numbers (chunk,) second."""
        shapes = [
            geometry(coords[:, columns], profile, self.pixels.data.dtype)
            for columns, profile in zip(self.space.slices(), self.profiles, strict=True)
        ]
        chunk = self.chunk if jacobian else LIGHTER * self.chunk
        for first in range(0, len(rows), chunk):
            used = min(chunk, len(rows) - first)
            index = torch.arange(first, first + self._call_size(used, chunk), device=rows.device)
            index = index.clamp_max(len(rows) - 1)
            pick = rows[index]
            transfer = self.pixels.transfer[pick]
            yield (
                pick,
                index,
                used,
                [
                    self.kernels.images(_rows(shape, index), profile, self.grid, transfer, jacobian)
                    for shape, profile in zip(shapes, self.profiles, strict=True)
                ],
            )

    def _call_size(self, used: int, chunk: int) -> int:
        """Return how many galaxies a kernel call takes for ``used`` of them.

        Compiled kernels, and those of a GPU, take a whole chunk. On a CPU eager kernels round alike
        in calls of any size from two galaxies on, while one alone takes other matrix products.
        """
        if self.kernels is not EAGER or self.pixels.scale.device.type != "cpu":
            return chunk
        return min(chunk, max(used, LEAST_CALL))


def _rows(shape: Geometry, index: Tensor) -> Geometry:
    return Geometry(*(getattr(shape, f.name)[index] for f in fields(shape)))


def _solver(inner: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what solves systems (b, F, F) for right sides (b, F, C)."""
    factor, scale = scaled_cholesky(inner, JITTER)
    return lambda right: scale[:, :, None] * torch.cholesky_solve(scale[:, :, None] * right, factor)


def _eliminate(
    gram: Tensor, free: Tensor, level: Tensor, jacobian: Tensor, components: list[slice]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve for the free linear parameters and project them out of gradient and Hessian.

    Args:
        gram: (b, C + L + 1, C + L + 1) by render coordinates and terms, and the residual.
        free, level: (b, F) and (b, L) linear parameters at which the residual was taken.
        jacobian: (b, C + L, P + F) of `RenderPoint`.
        components: columns of each component in render coordinates.

    Returns:
        Cost (b,), gradient (b, P) and Hessian (b, P, P) by whitened coordinates, the free linear
        solution (b, F), and the information matrix (b, C + L, C + L) by coordinates and terms.
    """
    total = jacobian.shape[1]
    n_coords, n_free = total - level.shape[1], jacobian.shape[2] - free.shape[1]
    span = jacobian[:, n_coords:, n_free:]
    slope = gram[:, :total, total, None]
    right = span.mT @ slope[:, n_coords:]
    solve = _solver(span.mT @ gram[:, n_coords:total, n_coords:total] @ span)
    change = solve(right)
    cost = 0.5 * (gram[:, total, total] - (right * change).sum(dim=(1, 2)))
    # the derivative columns were made with the old flux
    solution = level + (span @ change)[:, :, 0]
    stretch = torch.ones_like(jacobian[:, :, 0])
    for k, columns in enumerate(components):
        old = level[:, k]
        stretch[:, columns] = torch.where(old != 0, solution[:, k] / old, 1.0)[:, None]
    information = gram[:, :total, :total] * stretch[:, :, None] * stretch[:, None, :]
    joint = jacobian.mT @ information @ jacobian
    cross = joint[:, :n_free, n_free:]
    along = jacobian[:, :, :n_free] * stretch[:, :, None]
    gradient = -(along.mT @ slope - cross @ change)[:, :, 0]
    hessian = joint[:, :n_free, :n_free] - cross @ solve(cross.mT)
    hessian = 0.5 * (hessian + hessian.mT)
    return cost, gradient, hessian, free + change[:, :, 0], information
