"""Whether the pixels know that a source has a size: its fit compared with a point source.

    rise = chi2(point at its best position) - chi2(fit)

Of a star it is what size, index and shape gain by following the noise, near a corner of what they
may be: below 10 for 600 simulated ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import Solution

POINT = 0.03  # pix, circularised half-light radius that no pixel can tell from none
STEPS = 2  # Gauss-Newton steps of the position, which begins within a few of its errors
FAR = 200.0  # rise at the fit's own position, of which no step takes so much back


def point_rise(solution: Solution, problem: Problem, rows: Tensor) -> Tensor:
    """(b,) by how much chi2 rises from the fits of galaxies ``rows`` to point sources.

    Args:
        solution: of a batch with one component.
        problem: of the same batch; nothing is fixed.
        rows: (b,).
    """
    prior = problem.space.priors[0]
    if len(rows) == 0:
        return solution.chi2[rows]
    whitened = torch.zeros_like(solution.whitened[rows])
    whitened[:, :2] = solution.whitened[rows, :2]
    size = whitened.new_tensor(POINT).clamp_min(prior.r_circ.low).log()
    whitened[:, 2] = prior.r_circ.whitened(size)
    cost = problem.profile(whitened, rows).cost
    rise = 2 * cost - solution.chi2[rows]
    near = (rise < FAR).nonzero()[:, 0]
    if len(near):
        best = _at_best_position(problem, whitened[near], rows[near])
        rise[near] = 2 * best - solution.chi2[rows[near]]
    return rise


def _at_best_position(problem: Problem, whitened: Tensor, rows: Tensor) -> Tensor:
    """(b,) cost of the points ``whitened`` (b, P) once x, y have moved to where it is least."""
    cost = whitened.new_full((len(rows),), torch.inf, dtype=torch.float64)
    for _ in range(STEPS):
        here = problem(whitened, rows)
        cost = torch.minimum(cost, here.carry[2])  # without the prior
        step = torch.linalg.solve(here.hessian[:, :2, :2], -here.gradient[:, :2, None])[:, :, 0]
        whitened = whitened.clone()
        whitened[:, :2] += torch.nan_to_num(step).clamp(-1.0, 1.0)
    return torch.minimum(cost, problem.profile(whitened, rows).cost)
