"""Several minima of scenes in which components share a centre.

Chi2 of concentric components has several minima. The fit takes the one with the largest integral
of the posterior; the others have a share of the posterior too, and are kept for sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.fitting.lm import LMOptions, minimise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.search import MARGIN, Found, distinct
from hybridfit.fitting.solution import DARK, Solution, joint_covariance, solution_of

LEAD = 0.05  # of ln evidence, by which another minimum has to be better
# of ln evidence on small images: minima that may be the best by more than this are fitted
CLOSE = 2.0


@dataclass(frozen=True)
class Modes(Batch):
    """Minima of B galaxies.

    Args:
        whitened: (B, M, P) the fit, then others; NaN where there is none.
        covariance: (B, M, P, P) about them.
    """

    whitened: Tensor
    covariance: Tensor

    @property
    def exist(self) -> Tensor:
        """(B, M) whether there is a mode."""
        return torch.isfinite(self.whitened).all(dim=2)


def fit_found(problem: Problem, found: Found, options: LMOptions) -> tuple[Solution, Tensor]:
    """Return the best of the minima that were found, and where the others are.

    The best has the largest integral of the posterior by its curvature: a narrow mode may be lower,
    and hold little of it. Without a prior it is the lowest.

    Args:
        problem: of B galaxies.
        found: on their small images.
        options: of the optimiser.

    Returns:
        The solutions, and (B, M, P) whitened points in or near the other minima, NaN where there
        is none.
    """
    exist = torch.isfinite(found.points).all(dim=2)
    lead = found.evidence.amax(dim=1, keepdim=True)
    first = torch.arange(exist.shape[1], device=exist.device) == 0
    # all where the first start led nowhere
    lost = (found.evidence[:, :1] < -0.5 * DARK) & torch.isfinite(lead)
    close = exist & ((found.evidence > lead - CLOSE) | lost) | first & ~torch.isfinite(lead)
    tried = _tried(problem, found.points, close, options, None)
    count = exist.shape[1]
    solution, _ = _best(problem, tried, count)
    doubtful = ~solution.converged | ~(solution.cost < DARK)
    more = exist & ~close & doubtful[:, None]
    if more.any():
        tried = _tried(problem, found.points, more, options, tried)
    solution, best = _best(problem, tried, count)
    here = tried.whitened.view_as(found.points)
    others = torch.where((close | more)[..., None], here, found.points)
    chosen = torch.arange(count, device=exist.device) == best[:, None]
    solution = replace(solution, n_iter=solution.n_iter + found.n_iter)
    return solution, torch.where(chosen[..., None], torch.nan, others)


def modes_of(problem: Problem, whitened: Tensor, candidates: Tensor) -> Modes:
    """Return all minima of galaxies that are fitted.

    Args:
        problem: of B galaxies.
        whitened: (B, P) the fits; NaN without one.
        candidates: (B, M, P) points in or near other minima, NaN where there is none.
    """
    rows = torch.isfinite(whitened).all(dim=1).nonzero()[:, 0]
    points = torch.cat([whitened[:, None], candidates], dim=1)[rows]
    own = problem[rows]
    exist = torch.isfinite(points).all(dim=2)
    solutions = _tried(own, points, exist, LMOptions(), None)
    joint, evidence = _evidence(own, solutions, points.shape[1])
    points = torch.where(exist[..., None], solutions.whitened.view_as(points), torch.nan)
    points[:, 0] = whitened[rows]
    return _modes_of(points, joint, evidence, rows, len(whitened))


def _tried(
    problem: Problem, points: Tensor, chosen: Tensor, options: LMOptions, before: Solution | None
) -> Solution:
    """Return the solutions (B M) from chosen starts; of infinite cost where there was no try.

    Args:
        problem: of B galaxies.
        points: (B, M, P) whitened starts.
        chosen: (B, M) which to follow.
        options: of the optimiser.
        before: solutions of earlier tries, default none.
    """
    flat = chosen.flatten().nonzero()[:, 0]
    pairs = flat // points.shape[1]
    start = points.flatten(0, 1)[flat]
    minimum = minimise(lambda point, some: problem(point, pairs[some]), start, options)
    solutions = solution_of(minimum, problem[pairs])
    if before is None:
        nowhere = torch.zeros(chosen.numel(), dtype=torch.int64, device=flat.device)
        before = solutions[nowhere]
        cost = torch.full_like(before.cost, torch.inf)
        before = replace(before, cost=cost, n_iter=nowhere)
    return before.put(flat, solutions)


def _evidence(problem: Problem, solutions: Solution, count: int) -> tuple[Tensor, Tensor]:
    """Return covariances (B, M, P + F, P + F) of B M solutions, and ln of their evidence (B, M).

    The latter is up to a constant, and -inf without a solution, or without light in a component.
    """
    joint = joint_covariance(solutions, problem)
    evidence = 0.5 * torch.linalg.slogdet(joint)[1] - solutions.cost
    evidence = torch.where(solutions.cost < DARK, evidence, -torch.inf)
    return joint.unflatten(0, (-1, count)), evidence.nan_to_num(nan=-torch.inf).view(-1, count)


def _best(problem: Problem, tried: Solution, count: int) -> tuple[Solution, Tensor]:
    """Return the best (B,) of B M solutions, and which one that is; count all iterations."""
    cost = tried.cost.view(-1, count)
    score = -cost
    if problem.prior_weight:
        evidence = _evidence(problem, tried, count)[1]
        # any fit with light in all components is better than one without
        score = torch.where(torch.isfinite(evidence), evidence, score)
    score = score.nan_to_num(nan=-torch.inf)
    score[:, 0] += LEAD
    best = score.argmax(dim=1)
    index = torch.arange(len(best), device=best.device) * count + best
    return replace(tried[index], n_iter=tried.n_iter.view(-1, count).sum(dim=1)), best


def _modes_of(points: Tensor, joint: Tensor, evidence: Tensor, rows: Tensor, batch: int) -> Modes:
    """Return the distinct ones of the minima of galaxies ``rows`` (b,) of a batch.

    Args:
        points: (b, M, P).
        joint: (b, M, P + F, P + F) covariances.
        evidence: (b, M) see `_evidence`.
        rows: (b,).
        batch: number of galaxies.
    """
    n = points.shape[2]
    precision = torch.linalg.pinv(joint[..., :n, :n], hermitian=True)
    kept = distinct(points, precision, evidence, MARGIN)
    count = int(kept.sum(dim=1).max()) if len(rows) else 1
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)[:, :count]
    each = torch.arange(len(rows), device=rows.device)[:, None]
    found = torch.where(kept[..., None], points, torch.nan)[each, order]
    whitened = points.new_full((batch, count, n), torch.nan)
    covariance = torch.eye(n).to(points).expand(batch, count, n, n).clone()
    whitened[rows], covariance[rows] = found, joint[each, order][..., :n, :n]
    return Modes(whitened, covariance)
