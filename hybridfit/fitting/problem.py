"""The least-squares problem of a batch of galaxies: cost, gradient and Hessian in whitened space.

Flux and sky enter linearly. They are solved for exactly at every point (variable projection,
Golub & Pereyra 1973), so the optimiser sees the other parameters alone. All that is needed of
the pixels is one small Gram matrix a galaxy, of the weighted columns [derivatives, unit-flux
images, sky terms, residual]; what follows is algebra in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.data.batch import Batch, shared
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import typical_sigma
from hybridfit.fitting.cholesky import scaled_cholesky
from hybridfit.fitting.fixed import Surface
from hybridfit.fitting.lm import Normal
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
JITTER = 1e-9  # of the linear parameters' equations, scaled to a unit diagonal
LEAST_CALL = 2  # galaxies of a call of eager kernels
LIGHTER = 4  # galaxies in the place of one, where images come without their derivatives


@dataclass(frozen=True)
class Profiled(Batch):
    """The likelihood of b points with flux and sky at their best, and how sharp they are there.

    Args:
        cost: (b,) half of chi2.
        linear: (b, L) fluxes and sky terms at the minimum, units of the noise.
        factor: (b, L, L) with factor factor^T = S, the linear parameters' information: chi2
            rises by |factor^T d|^2 at a distance d.
    """

    cost: Tensor
    linear: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Problem(Batch):
    """A batch to be fitted; calling it evaluates points, as `lm.minimise` asks.

    Args:
        pixels: of B galaxies.
        grid: for their padded shape.
        space: parameters and prior.
        box: (B, 4) centre and half-widths of the position's prior, or (B, K, 4).
        prior_weight: 1 for maximum a posteriori, 0 for maximum likelihood.
        chunk: galaxies a kernel call takes; calls are filled up so that compiled kernels see one
            shape and a galaxy's rounding does not depend on its neighbours, see `_call_size`.
        profiles: one for each component of ``space``.
        kernels: see `Kernels`.
        surface: on which to stay, where parameters are fixed; points that the problem is
            called with are then its `Surface.coordinates`. What follows a fit does not know of it.
    """

    pixels: Pixels
    grid: Grid
    space: ParameterSpace
    box: Tensor
    prior_weight: float
    chunk: int
    profiles: tuple[Profile, ...] = shared()
    kernels: Kernels = EAGER
    surface: Surface | None = None

    def __call__(self, point: Tensor, rows: Tensor) -> Normal:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        if self.surface is None:
            return self._normal(point, rows)
        whitened, tangent = self.surface[rows].to_whitened(point)
        normal = self._normal(whitened, rows)
        hessian = tangent.mT @ normal.hessian @ tangent
        # a coordinate that does not move anything stays where it is
        still = (torch.diagonal(hessian, dim1=1, dim2=2) == 0).to(point.dtype)
        gradient = torch.einsum("bij,bi->bj", tangent, normal.gradient)
        return replace(normal, gradient=gradient, hessian=hessian + torch.diag_embed(still))

    def coordinates(self, whitened: Tensor) -> Tensor:
        """The points that the problem is called with, of whitened coordinates (B, P)."""
        return whitened if self.surface is None else self.surface.coordinates(whitened)

    def to_whitened(self, point: Tensor) -> Tensor:
        """Free parameters (B, P) of points that the problem is called with."""
        return point if self.surface is None else self.surface.to_whitened(point)[0]

    def _normal(self, whitened: Tensor, rows: Tensor) -> Normal:
        coords, chain = self.space.from_whitened(whitened, self.box[rows])
        gram, linear = self.gram(coords, rows)
        span = None if self.surface is None else self.surface.span[rows]
        cost, gradient, hessian, linear, joint = _eliminate(
            gram, linear, self.space.n_nonlinear, self.space.slices(), span
        )
        gradient = torch.einsum("bij,bi->bj", chain, gradient)
        hessian = chain.transpose(1, 2) @ hessian @ chain
        eye = torch.eye(whitened.shape[1], dtype=whitened.dtype, device=whitened.device)
        return Normal(
            cost + 0.5 * self.prior_weight * (whitened**2).sum(dim=1),
            gradient + self.prior_weight * whitened,
            hessian + (self.prior_weight or 1e-9) * eye,
            (linear, joint, cost),
        )

    def profile(self, whitened: Tensor, rows: Tensor) -> Profiled:
        """Evaluate points (b, P) of the galaxies ``rows``, the likelihood alone, no derivatives.

        Many points of one galaxy cost a quarter of as many calls of the problem itself.
        """
        coords, _ = self.space.from_whitened(whitened, self.box[rows])
        gram, linear = self.gram(coords, rows, jacobian=False)
        inner, slope = gram[:, :-1, :-1], gram[:, :-1, -1]
        factor, scale = scaled_cholesky(inner, JITTER)
        change = torch.cholesky_solve((scale * slope)[:, :, None], factor)[:, :, 0] * scale
        cost = 0.5 * (gram[:, -1, -1] - (slope * change).sum(dim=1))
        return Profiled(cost, linear + change, factor / scale[:, :, None])

    def gram(self, coords: Tensor, rows: Tensor, jacobian: bool = True) -> tuple[Tensor, Tensor]:
        """Gram matrices (b, Q + 1, Q + 1) in float64, and the linear parameters they are about.

        The residual is taken about the linear parameters' own solution: sums over the data
        themselves would lose a bright galaxy's chi2 in float32. Without ``jacobian`` the columns
        of the derivatives are missing.
        """
        dtype = self.pixels.data.dtype
        pieces, linear = [], []
        for pick, used, images in self.images(coords, rows, jacobian):
            pixels = (self.pixels.data[pick], self.pixels.weight[pick], self.pixels.sky)
            small = self.kernels.linear(images, *pixels).double()
            level = _linear_solution(small, None if self.surface is None else self.surface[pick])
            gram = self.kernels.gram(images, level.to(dtype), *pixels)
            pieces.append(gram[:used])
            linear.append(level.to(dtype)[:used])
        return torch.cat(pieces).double(), torch.cat(linear).double()

    def images(
        self, coords: Tensor, rows: Tensor, jacobian: bool
    ) -> Iterator[tuple[Tensor, int, list[Tensor]]]:
        """Yield images of render coordinates (b, P) chunk by chunk.

        Yields:
            the rows of the batch in a call, how many of them were asked for (the others fill it
            up), and each component's `component_images`.
        """
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
        if self.kernels is not EAGER or self.box.device.type != "cpu":
            return chunk
        return min(chunk, max(used, LEAST_CALL))


def _rows(shape: Geometry, index: Tensor) -> Geometry:
    return Geometry(*(getattr(shape, f.name)[index] for f in fields(shape)))


def _linear_solution(gram: Tensor, surface: Surface | None) -> Tensor:
    """Solve for the linear parameters (b, L) from `linear_gram`; columns of zeros give 0."""
    inner, right = gram[:, :-1, :-1], gram[:, :-1, -1:]
    if surface is None:
        return _solver(inner)(right)[:, :, 0]
    offset = surface.offset[:, :, None]
    return (offset + _solver(inner, surface.span)(right - inner @ offset))[:, :, 0]


def _solver(inner: Tensor, span: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Solves systems (b, L, L) for right sides (b, L, C), with ``span`` within its columns."""
    if span is not None:
        within = _solver(span.mT @ inner @ span)
        return lambda right: span @ within(span.mT @ right)
    factor, scale = scaled_cholesky(inner, JITTER)
    return lambda right: scale[:, :, None] * torch.cholesky_solve(scale[:, :, None] * right, factor)


def _eliminate(
    gram: Tensor, linear: Tensor, n_nonlinear: int, components: list[slice], span: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve for the linear parameters and project them out of gradient and Hessian.

    Returns cost (b,), gradient (b, P) and Hessian (b, P, P) by render coordinates, the linear
    solution (b, L), and the joint information matrix (b, P + L, P + L).
    """
    n_linear = linear.shape[1]
    total = n_nonlinear + n_linear
    info = gram[:, :total, :total]
    slope = gram[:, :total, total]
    inner = info[:, n_nonlinear:, n_nonlinear:]
    solve = _solver(inner, span)
    change = solve(slope[:, n_nonlinear:, None])[:, :, 0]
    solution = linear + change
    cost = 0.5 * (gram[:, total, total] - (slope[:, n_nonlinear:] * change).sum(dim=1))
    # the derivative columns were made with the old flux
    stretch = torch.ones(len(gram), total, dtype=gram.dtype, device=gram.device)
    for k, columns in enumerate(components):
        old = linear[:, k]
        ratio = torch.where(old != 0, solution[:, k] / old, 1.0)
        stretch[:, columns] = ratio[:, None]
    info = info * stretch[:, :, None] * stretch[:, None, :]
    cross = info[:, :n_nonlinear, n_nonlinear:]
    gradient = -(
        slope[:, :n_nonlinear] * stretch[:, :n_nonlinear] - (cross @ change[:, :, None])[:, :, 0]
    )
    hessian = info[:, :n_nonlinear, :n_nonlinear] - cross @ solve(cross.mT)
    return cost, gradient, 0.5 * (hessian + hessian.transpose(1, 2)), solution, info
