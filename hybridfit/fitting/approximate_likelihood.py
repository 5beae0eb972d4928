"""The likelihood near a fit at a fraction of its cost.

Most of a cutout is sky that holds little of a galaxy's light. A window around the galaxy is
rendered as ever; beyond it the model is

    sum_k F_k (m_k + J_k (u - u_fit)) + sky

with the images m_k and their derivatives J_k at the fit, so that what those pixels say is algebra
with one Gram matrix. Flux and sky, which the outer pixels do know well, stay exact. `accuracy`
tells where this will not do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem, Profiled
from hybridfit.fitting.window import window_problem
from hybridfit.rendering.design_matrix import linear_columns, shape_columns

SIDES = (64, 128, 256)  # pix, of windows
WORTH = 0.7  # of the cutout's side, above which a window saves too little


@dataclass(frozen=True)
class ApproximateLikelihood:
    """The likelihood of B galaxies about their fits; `profile` as `Problem.profile`.

    Args:
        window: the problem in the windows.
        gram: (B, C + 1, C + 1) float64 of the pixels outside: derivatives by the whitened
            parameters, by the linear ones, and the residual at the fit.
        whitened, linear: (B, P) and (B, L) at the fit.
    """

    window: Problem
    gram: Tensor
    whitened: Tensor
    linear: Tensor

    def profile(self, whitened: Tensor, rows: Tensor) -> Profiled:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        inside = self.window.profile(whitened, rows)
        gram, at_fit = self.gram[rows], self.linear[rows]
        turn = self._images(whitened - self.whitened[rows], rows)
        n = turn.shape[2]
        outer = turn @ gram[:, :n, :n] @ turn.transpose(1, 2)
        # what the model at the fit leaves over outside, and adds up to there
        n_nonlinear = self.whitened.shape[1]
        left = gram[:, :n, n] + torch.einsum("bcl,bl->bc", gram[:, :n, n_nonlinear:n], at_fit)
        own = gram[:, n_nonlinear:n, n_nonlinear:]
        square = (
            gram[:, n, n]
            + 2 * (own[:, :, -1] * at_fit).sum(dim=1)
            + torch.einsum("bl,blk,bk->b", at_fit, own[:, :, :-1], at_fit)
        )
        slope = (turn @ left[:, :, None])[:, :, 0]
        return _joined(inside, outer, slope, square)

    def _images(self, offset: Tensor, rows: Tensor) -> Tensor:
        """(b, L, C): the unit-flux images and sky terms in terms of the Gram matrix's columns."""
        space = self.window.space
        n_nonlinear, n_linear = space.n_nonlinear, space.n_linear
        turn = offset.new_zeros(len(offset), n_linear, n_nonlinear + n_linear)
        index = torch.arange(n_linear, device=offset.device)
        turn[:, index, n_nonlinear + index] = 1.0
        for k, columns in enumerate(space.slices()):
            turn[:, k, columns] = offset[:, columns] / self.linear[rows, k, None]
        return turn


@dataclass(frozen=True)
class LinkedLikelihood(ApproximateLikelihood):
    """The likelihood of scenes with fixed or tied parameters.

    Here the columns of the Gram matrix are those of the renderer: derivatives by the coordinates of
    all components, unit images of all fluxes and sky terms, and the residual.

    Args:
        coords: (B, C) float64 render coordinates at the fit, in the windows.
        terms: (B, L) float64 all fluxes and sky terms at the fit.
    """

    coords: Tensor
    terms: Tensor

    def profile(self, whitened: Tensor, rows: Tensor) -> Profiled:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        assert self.window.terms is not None
        inside = self.window.profile(whitened, rows)
        own, space = self.window.terms[rows], self.window.space
        coords, _ = space.from_whitened(whitened, self.window.constants[rows])
        each = self._term_images(coords[:, : space.n_coords], rows)  # (b, L, C + L)
        gram, n = self.gram[rows], each.shape[2]
        turn = own.span.mT @ each
        # what the image has outside that does not follow the free fluxes and sky terms
        data = torch.nn.functional.pad(self.terms[rows], (n - each.shape[1], 1), value=0.0)
        data[:, n] = 1.0
        data[:, :n] -= (own.at(coords)[:, None] @ each)[:, 0]
        image = (gram @ data[:, :, None])[:, :, 0]
        outer = turn @ gram[:, :n, :n] @ turn.mT
        slope = (turn @ image[:, :n, None])[:, :, 0]
        return _joined(inside, outer, slope, (data * image).sum(dim=1))

    def _term_images(self, coords: Tensor, rows: Tensor) -> Tensor:
        """(b, L, C + L): unit images of all terms in terms of the Gram matrix's columns."""
        space = self.window.space
        n_coords, n_terms = space.n_coords, space.n_terms
        offset, terms = coords - self.coords[rows], self.terms[rows]
        each = coords.new_zeros(len(coords), n_terms, n_coords + n_terms)
        index = torch.arange(n_terms, device=coords.device)
        each[:, index, n_coords + index] = 1.0
        for k, columns in enumerate(space.slices()):
            each[:, k, columns] = offset[:, columns] / terms[:, k, None]
        return each


def _joined(inside: Profiled, outer: Tensor, slope: Tensor, square: Tensor) -> Profiled:
    """Join the likelihood of the window with that of the pixels outside.

    Args:
        inside: of b points.
        outer: (b, F, F) Gram matrix outside of the free fluxes and sky terms,
        slope: (b, F) of these with the data, and
        square: (b,) of the data with themselves.
    """
    # joined about the window's own solution
    there = torch.einsum("blk,bk->bl", outer, inside.linear)
    square = square + ((there - 2 * slope) * inside.linear).sum(dim=1)
    total = inside.factor @ inside.factor.transpose(1, 2) + outer
    factor = torch.linalg.cholesky_ex(total)[0]
    change = torch.cholesky_solve((slope - there)[:, :, None], factor)[:, :, 0]
    cost = inside.cost + 0.5 * (square - ((slope - there) * change).sum(dim=1))
    return Profiled(cost, inside.linear + change, factor)


def approximate_likelihood(
    problem: Problem, cutouts: Cutouts, about: Linearised
) -> ApproximateLikelihood | None:
    """Return the likelihood about the fits, or None where a window would save nothing.

    Scenes seen in several images have none: the sky of an exposure joins its pixels inside and
    outside of a window.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        about: their models about their fits.
    """
    height, width = cutouts.image.shape[-2:]
    sides = [side for side in SIDES if side <= WORTH * min(height, width)]
    space = problem.space
    special = problem.grid.convolution.galfit or problem.nuisances is not None
    if not sides or space.n_sky >= 3 or problem.exposures or special:
        return None
    side = sides[0]
    coords, _ = problem.space.from_whitened(about.whitened, problem.constants)
    centre = torch.where(torch.isfinite(coords[:, :2]), coords[:, :2], problem.constants.centre)
    window, corner = window_problem(problem, cutouts, centre, (side, side))
    x = torch.arange(width, device=coords.device)
    y = torch.arange(height, device=coords.device)
    inside_x = (x >= corner[:, :1]) & (x < corner[:, :1] + side)
    inside_y = (y >= corner[:, 1:]) & (y < corner[:, 1:] + side)
    outside = ~(inside_y[:, :, None] & inside_x[:, None, :])
    if problem.terms is not None:
        gram = _render_gram(problem, about, outside)
        here = problem.expand(about.whitened, about.linear, torch.arange(len(outside)).to(corner))
        moved, _ = space.from_whitened(about.whitened, window.constants)
        moved = moved[:, : space.n_coords]
        return LinkedLikelihood(window, gram, about.whitened, about.linear, moved, here.terms)
    columns = torch.cat([about.columns, about.residual[:, None]], dim=1)
    columns = (columns * outside[:, None]).flatten(2)
    gram = (columns @ columns.transpose(1, 2)).double()
    return ApproximateLikelihood(window, gram, about.whitened, about.linear)


def _render_gram(problem: Problem, about: Linearised, outside: Tensor) -> Tensor:
    """Return the Gram matrix (B, C + L + 1, C + L + 1) of `LinkedLikelihood`.

    Args:
        problem: of B galaxies.
        about: their models about their fits.
        outside: (B, H, W) pixels that count.
    """
    rows = torch.arange(len(outside), device=outside.device)
    here, grams = problem.expand(about.whitened, about.linear, rows), []
    for pick, used, images in problem.images(here.coords, rows, jacobian=True):
        some = pick[:used]
        images = [image[:used] for image in images]
        flux = here.terms[some, : len(images)].to(images[0].dtype)
        shapes = torch.cat(shape_columns(images, flux), dim=1)
        terms = torch.cat(linear_columns(images, problem.pixels.sky), dim=1)
        weight = problem.pixels.weight[some][:, None]
        columns = torch.cat([shapes * weight, terms * weight, about.residual[some, None]], dim=1)
        flat = (columns * outside[some, None]).flatten(2)
        grams.append((flat @ flat.mT).double())
    return torch.cat(grams)
