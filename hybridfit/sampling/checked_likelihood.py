"""The cheap likelihood where it agrees with the exact one, and the exact one elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridfit.fitting.approximate_likelihood import ApproximateLikelihood
from hybridfit.fitting.modes import Modes
from hybridfit.fitting.problem import Problem, Profiled
from hybridfit.sampling.quasi_random import Numbers
from hybridfit.sampling.student_t import StudentT

N_CHECKS = 8  # draws at which the cheap likelihood is compared with the exact one
# of ln likelihood, among draws within RELEVANT of the best: weights off by 15 % at random
# change an interval by less than the draws' own scatter
TOLERANCE, RELEVANT = 0.15, 8.0

Likelihood = Callable[[Tensor, Tensor], Profiled]


def checked_likelihood(
    problem: Problem,
    near: ApproximateLikelihood | None,
    about: StudentT,
    rows: Tensor,
    numbers: Numbers,
    modes: Modes | None = None,
) -> Likelihood:
    """Return the cheap likelihood for those galaxies where it agrees with the exact one.

    Args:
        problem, near: the exact and the cheap one.
        about: where they are compared.
        rows: (b,) galaxies that have a fit.
        numbers: of the draws at which they are compared.
        modes: where they are compared, too; default nowhere else.
    """
    if near is None:
        return problem.profile
    worst = _worst_difference(problem, near, about, rows, numbers, modes)
    good = torch.zeros(len(about.mean), dtype=torch.bool, device=rows.device)
    good[rows] = worst < TOLERANCE  # NaN is not

    return _chosen(problem, near, good)


def _chosen(problem: Problem, near: ApproximateLikelihood, good: Tensor) -> Likelihood:
    """The cheap likelihood for galaxies where it is ``good`` (B,), the exact one for the others."""

    def chosen(whitened: Tensor, index: Tensor) -> Profiled:
        cheap = good[index].nonzero()[:, 0]
        exact = (~good[index]).nonzero()[:, 0]
        if len(exact) == 0:
            return near.profile(whitened, index)
        if len(cheap) == 0:
            return problem.profile(whitened, index)
        order = torch.argsort(torch.cat([cheap, exact]))
        parts = [
            near.profile(whitened[cheap], index[cheap]),
            problem.profile(whitened[exact], index[exact]),
        ]
        return Profiled.cat(parts)[order]

    return chosen


def _worst_difference(
    problem: Problem,
    near: ApproximateLikelihood,
    about: StudentT,
    rows: Tensor,
    numbers: Numbers,
    modes: Modes | None,
) -> Tensor:
    """Return (b,) the largest change of ln likelihood against the mean's that the cheap one misses.

    Draws far below the best of a galaxy do not count. Arguments as of `checked_likelihood`.
    """
    uniform, _ = numbers.take(rows, N_CHECKS, 0)
    here = about[rows]
    whitened = torch.cat([here.mean[:, None], here.draw(uniform)], dim=1)
    if modes is not None:
        others = modes.whitened[rows]
        known = torch.isfinite(others)
        whitened = torch.cat([whitened, torch.where(known, others, here.mean[:, None])], dim=1)
    index = rows.repeat_interleave(whitened.shape[1])
    values = []
    for likelihood in (problem.profile, near.profile):
        found = likelihood(whitened.flatten(0, 1), index)
        volume = torch.diagonal(found.factor, dim1=1, dim2=2).log().sum(dim=1)
        values.append((-found.cost - volume).view(len(rows), -1))
    exact, cheap = values
    posterior = exact - 0.5 * (whitened**2).sum(dim=2)
    relevant = posterior > posterior.amax(dim=1, keepdim=True) - RELEVANT
    off = (exact - cheap) - (exact - cheap)[:, :1]
    return torch.where(relevant, off, 0.0).abs().amax(dim=1)
