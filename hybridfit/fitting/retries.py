"""Further starts of doubtful fits, looked at on the middle of the cutout before they are followed.

Most other starts lead to the minimum that is known already. On cutouts that are large enough the
middle tells so at a quarter of the cost: only a start that ends there in another minimum, and one
that is about as low, is followed on the whole cutout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.coarse_fit import SMALLEST
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import Solution
from hybridfit.fitting.window import window_problem

LOOK = LMOptions(max_iter=20, tolerance=0.05)
# of half of chi2: how much worse another minimum may be on the middle and still be followed, and
# how far from the known one, in squared standard deviations, it has to lie
MARGIN, APART = 1.0, 1.0
USABLE_U = 3.0  # whitened coordinates of a minimum that the whole cutout can start from


@dataclass(frozen=True)
class Middle:
    """The known minima of b galaxies on the middle of their cutouts.

    Args:
        problem: on the middle.
        known: minima there, from the solutions on the whole cutouts.
        converged: (b,) whether those solutions had.
    """

    problem: Problem
    known: Minimum
    converged: Tensor

    def look(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) which of the whitened starts (b, P) to follow, and from where (b, P)."""
        there, known = minimise(self.problem, start, LOOK), self.known.normal
        offset = there.point - self.known.point
        apart = torch.einsum("bi,bij,bj->b", offset, known.hessian, offset) > APART
        rise = there.normal.cost - known.cost
        # what has not settled is known to no precision, and any start may help it
        other = apart | ~self.converged | (rise < -LOOK.tolerance)
        follow = torch.isfinite(there.normal.cost) & (rise < MARGIN) & other
        usable = torch.isfinite(there.point).all(dim=1) & (there.point.abs().amax(dim=1) < USABLE_U)
        return follow, torch.where(usable[:, None], there.point, start)


def middle_of(
    solution: Solution, problem: Problem, cutouts: Cutouts, rows: Tensor
) -> Middle | None:
    """Return the middle of the cutouts of galaxies ``rows``, or None where it would save little.

    Args:
        solution: of the B galaxies of ``problem``.
        problem: on the whole cutouts.
        cutouts: the same B galaxies.
        rows: (b,).
    """
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST or problem.terms is not None or problem.space.n_sky >= 3:
        return None
    sides = (height // 4 * 2, width // 4 * 2)
    own = problem[rows]
    small, _ = window_problem(own, cutouts[rows], own.constants.centre, sides)
    known = minimise(small, solution.whitened[rows], LOOK)
    return Middle(small, known, solution.converged[rows])
