"""The least-squares problem of a batch of galaxies: cost, gradient and Hessian in whitened space.

Flux and sky enter linearly. They are solved for exactly at every point (variable projection,
Golub & Pereyra 1973), so the optimiser sees the other parameters alone. All that is needed of
the pixels is one small Gram matrix a galaxy, of the weighted columns [derivatives, unit-flux
images, sky terms, residual]; what follows is algebra in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch, shared
from hybridfit.fitting.cholesky import scaled_cholesky, solver
from hybridfit.fitting.image_term import ImageTerm, Rendered
from hybridfit.fitting.linear_terms import LinearTerms
from hybridfit.fitting.lm import Normal
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.pixels import EAGER, Kernels, Pixels, pixel_columns
from hybridfit.model.constants import Constants
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile
from hybridfit.rendering.design_matrix import linear_columns, weighted_columns
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.kernels import Geometry, geometry

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
        exposures: further images of the same scenes; ``pixels`` and ``grid`` are the first one's,
            in whose pixels the scenes are.
        nuisances: what else the pixels depend on, always at its best; None for nothing.
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
    exposures: tuple[ImageTerm, ...] = ()

    @property
    def n_pixels(self) -> Tensor:
        """(B,) pixels of all images that are used."""
        used = (self.pixels.weight > 0).flatten(1).sum(dim=1)
        for term in self.exposures:
            used = used + term.n_pixels
        return used

    @property
    def n_parameters(self) -> Tensor:
        """(B,) free parameters, the sky of each exposure included."""
        own = torch.full_like(self.n_pixels, self.space.n_nonlinear + self.space.n_linear)
        for term in self.exposures:
            own = own + term.n_sky
        return own if self.nuisances is None else own + self.nuisances.count

    nuisances: Nuisances | None = None

    def __call__(self, whitened: Tensor, rows: Tensor) -> Normal:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        coords, chain = self.space.from_whitened(whitened, self.constants[rows])
        return self.evaluate(whitened, coords, chain, rows)

    def evaluate(self, whitened: Tensor, coords: Tensor, chain: Tensor, rows: Tensor) -> Normal:
        """Evaluate points (b, P) with coordinates (b, C) and their derivatives (b, C, P)."""
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
            small = self._linear_gram(images, pixels, pick).double()
            others = [self._seen(term, coords[index], pick, jacobian) for term in self.exposures]
            for other in others:
                small = small + other.linear_gram(self.space.n_terms)
            if others:
                small = small + self._unseen_sky(pick, small.shape[1])
            own = self._linear_solution(small, coords[index], pick).to(dtype)
            level = self._terms(own, coords[index], pick)
            gram = self._pixel_gram(images, level, pixels, pick)
            for other in others:
                gram = gram.double() + other.gram(level)
            if others:
                gram = gram + self._unseen_sky(pick, gram.shape[1])
            pieces.append(gram[:used])
            free.append(own[:used])
            levels.append(level[:used])
        gram, linear, terms = (torch.cat(v).double() for v in (pieces, free, levels))
        return gram, linear, terms

    def alone(self, term: ImageTerm) -> Problem:
        """Return the problem with one exposure as its only image, to render scenes placed there.

        Their coordinates are those of `Frame.place`; priors and ties belong to the first image's.
        """
        return replace(self, pixels=term.pixels, grid=term.grid, exposures=())

    def _linear_gram(
        self, images: list[Tensor], pixels: tuple[Tensor, Tensor, Tensor], rows: Tensor
    ) -> Tensor:
        """Return `linear_gram` with the nuisances at their best."""
        if self.nuisances is None:
            return self.kernels.linear(images, *pixels)
        data, weight, sky = pixels
        columns = [*linear_columns(images, sky), data[:, None]]
        return self.nuisances[rows].gram(weighted_columns(columns, weight))

    def _pixel_gram(
        self,
        images: list[Tensor],
        level: Tensor,
        pixels: tuple[Tensor, Tensor, Tensor],
        rows: Tensor,
    ) -> Tensor:
        """Return `pixel_gram` with the nuisances at their best."""
        if self.nuisances is None:
            return self.kernels.gram(images, level, *pixels)
        data, weight, sky = pixels
        columns = pixel_columns(images, level, data, sky)
        return self.nuisances[rows].gram(weighted_columns(columns, weight))

    def _linear_solution(self, gram: Tensor, coords: Tensor, rows: Tensor) -> Tensor:
        """Solve for the free linear parameters (b, F) from `linear_gram`; columns of 0 give 0."""
        inner, right = gram[:, :-1, :-1], gram[:, :-1, -1:]
        if self.terms is None:
            return solver(inner, JITTER)(right)[:, :, 0]
        terms = self.terms[rows]
        offset = terms.at(coords)[:, :, None]
        within = solver(terms.span.mT @ inner @ terms.span, JITTER)
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
        shapes = self._geometry(coords)
        chunk = self.chunk if jacobian else LIGHTER * self.chunk
        for first in range(0, len(rows), chunk):
            used = min(chunk, len(rows) - first)
            index = torch.arange(first, first + self._call_size(used, chunk), device=rows.device)
            index = index.clamp_max(len(rows) - 1)
            pick = rows[index]
            chosen = [_rows(shape, index) for shape in shapes]
            transfer = self.pixels.transfer[pick]
            yield pick, index, used, self._rendered(chosen, self.grid, transfer, jacobian)

    def _geometry(self, coords: Tensor) -> list[Geometry]:
        """Return the kernels' input for each component at coordinates (b, C)."""
        return [
            geometry(coords[:, columns], profile, self.pixels.data.dtype)
            for columns, profile in zip(self.space.slices(), self.profiles, strict=True)
        ]

    def _rendered(
        self, shapes: list[Geometry], grid: Grid, transfer: Tensor, jacobian: bool
    ) -> list[Tensor]:
        """Return the images of each component."""
        return [
            self.kernels.images(shape, profile, grid, transfer, jacobian)
            for shape, profile in zip(shapes, self.profiles, strict=True)
        ]

    def _unseen_sky(self, rows: Tensor, size: int) -> Tensor:
        """Return what keeps the first image's sky at its start where that image has no pixel.

        Without it the sky would have no information at all. It is added to Gram matrices
        (b, size, size).
        """
        unseen = (self.pixels.weight[rows] == 0).flatten(1).all(dim=1)
        gram = torch.zeros(len(rows), size, size, dtype=torch.float64, device=rows.device)
        for k in range(size - 1 - self.space.n_sky, size - 1):
            gram[:, k, k] = unseen.double()
        return gram

    def _seen(self, term: ImageTerm, coords: Tensor, rows: Tensor, jacobian: bool) -> Rendered:
        """Return how scenes at coordinates (b, C), of the galaxies ``rows``, appear in an image."""
        frame, own = term.frame[rows], term.pixels
        placed, slope = frame.place(coords.double(), self.space.slices())
        transfer = own.transfer[rows]
        images = self._rendered(self._geometry(placed), term.grid, transfer, jacobian)
        pixels = (own.data[rows], own.weight[rows], own.sky)
        small = self.kernels.linear(images, *pixels).double()
        return Rendered(images, slope, frame.gain, pixels, small, self.kernels)

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
    solve = solver(span.mT @ gram[:, n_coords:total, n_coords:total] @ span, JITTER)
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
