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
        # joined about the window's own solution
        there = torch.einsum("blk,bk->bl", outer, inside.linear)
        square = square + ((there - 2 * slope) * inside.linear).sum(dim=1)
        total = inside.factor @ inside.factor.transpose(1, 2) + outer
        factor = torch.linalg.cholesky_ex(total)[0]
        change = torch.cholesky_solve((slope - there)[:, :, None], factor)[:, :, 0]
        cost = inside.cost + 0.5 * (square - ((slope - there) * change).sum(dim=1))
        return Profiled(cost, inside.linear + change, factor)

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


def approximate_likelihood(
    problem: Problem, cutouts: Cutouts, about: Linearised
) -> ApproximateLikelihood | None:
    """Return the likelihood about the fits, or None where a window would save nothing.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        about: their models about their fits.
    """
    height, width = cutouts.image.shape[-2:]
    sides = [side for side in SIDES if side <= WORTH * min(height, width)]
    space = problem.space
    if not sides or space.links is not None or space.n_sky >= 3 or problem.grid.convolution.galfit:
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
    columns = torch.cat([about.columns, about.residual[:, None]], dim=1)
    columns = (columns * outside[:, None]).flatten(2)
    gram = (columns @ columns.transpose(1, 2)).double()
    return ApproximateLikelihood(window, gram, about.whitened, about.linear)
