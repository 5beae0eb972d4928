"""Several minima of scenes in which components share a centre.

Bulge and disk can swap their roles, a bulge can be compact or extended: chi2 has several minima.
The fit takes the lowest; the others have a share of the posterior too, and are kept for sampling.
Structured starts exchange sizes and ellipticities, and spread the components' sizes around that of
their sum. They are followed on the middle of large cutouts first, and on the whole cutout only
where they lead to another minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.coarse_fit import SMALLEST
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import DARK, Solution, joint_covariance, solution_of
from hybridfit.fitting.window import window_problem
from hybridfit.model.parameters import ParameterSpace

# ln of the first and the last component's size over that of the sum, ln of all indices, and factors
# on the first and the last component's ellipticity
STARTS = (
    (-1.9, 0.0, 0.0, 0.5, 0.5),
    (0.9, -0.3, 0.7, 0.5, 0.5),
    (-1.2, 0.2, 1.4, 0.5, 0.5),
    (0.0, 0.2, 0.5, 0.2, 1.5),
)
SWAPPED_N = 0.3  # ln of the indices of starts with exchanged components
LOOK = LMOptions(max_iter=20, tolerance=0.05)
APART = 4.0  # squared standard deviations between two minima
# of ln evidence: how much less another mode may have; on the middle of a cutout, where part of the
# light is missing, twice as much
MARGIN = 6.0
LEAD = 0.05  # of ln evidence, by which another minimum has to be better
USABLE_U = 4.0  # largest whitened coordinate of a minimum that is followed


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


def concentric(space: ParameterSpace) -> tuple[int, ...]:
    """Return the components of the first source that share its centre; none if there is but one.

    Where nothing is tied all components of the source can be exchanged. Components of a GALFIT file
    are sources of their own.
    """
    first = [k for k, c in enumerate(space.components) if c.source == space.components[0].source]
    if space.links is not None:
        slices = space.slices()
        centres = [space.links.rows[slices[k].start : slices[k].start + 2] for k in first]
        pairs = zip(first, centres, strict=True)
        first = [k for k, centre in pairs if centre == centres[0] and any(centre)]
    return tuple(first) if len(first) > 1 else ()


def with_modes(
    solution: Solution, problem: Problem, cutouts: Cutouts
) -> tuple[Solution, Modes | None]:
    """Return the best of several minima, and all of them; None without `concentric` components.

    The best has the largest integral of the posterior by its curvature: a narrow mode may be lower,
    and hold little of it.

    Args:
        solution: of the B galaxies of ``problem``, from their first starts.
        problem: what was minimised.
        cutouts: the same galaxies.
    """
    rows = torch.isfinite(solution.cost).nonzero()[:, 0]
    if not concentric(problem.space) or len(rows) == 0:
        return solution, None
    solutions = [solution[rows], *_others(problem, cutouts, rows, solution[rows])]
    joint = torch.stack([joint_covariance(s, problem) for s in solutions], dim=1)
    cost = torch.stack([s.cost for s in solutions], dim=1)
    evidence = 0.5 * torch.linalg.slogdet(joint)[1] - cost
    # without a prior the lowest chi2 is asked for, else the mode with most of the posterior
    score = torch.where(cost < DARK, evidence if problem.prior_weight else -cost, -cost)
    score[:, 0] += LEAD
    best = score.nan_to_num(nan=-torch.inf).argmax(dim=1)
    chosen = _picked(solutions, best)
    points = torch.stack([chosen.whitened, *(s.whitened for s in solutions)], dim=1)
    each = torch.arange(len(rows), device=rows.device)
    joint = torch.cat([joint[each, best][:, None], joint], dim=1)
    evidence = torch.where(cost < DARK, evidence, -torch.inf)
    evidence = torch.cat([evidence[each, best][:, None], evidence], dim=1)
    return solution.put(rows, chosen), _modes_of(points, joint, evidence, rows, len(solution))


def _picked(solutions: Sequence[Solution], best: Tensor) -> Solution:
    """Return of each galaxy the solution of number ``best`` (b,); count all iterations."""
    batch = len(best)
    index = best * batch + torch.arange(batch, device=best.device)
    n_iter = torch.stack([s.n_iter for s in solutions]).sum(dim=0)
    return replace(Solution.cat(list(solutions))[index], n_iter=n_iter)


def structured_starts(problem: Problem, rows: Tensor, solution: Solution) -> Tensor:
    """Return whitened starts (b, S, P) of galaxies ``rows`` (b,) about their solutions."""
    space, constants = problem.space, problem.constants[rows]
    coords, _ = space.from_whitened(solution.whitened, constants)
    flux = problem.fluxes(solution.whitened, solution.linear, rows).clamp_min(1e-6)
    shared = [k for k in concentric(space) if space.components[k].is_ellipse]
    columns = [space.slices()[k] for k in shared]
    light = flux[:, shared]
    sizes = torch.stack([coords[:, c.start + 2] for c in columns], dim=1)
    middle = (light * sizes).sum(dim=1) / light.sum(dim=1)
    starts = []
    for first, last, log_n, round_first, round_last in STARTS:
        other = _with_index(coords.clone(), space, shared, log_n)
        for place, c in enumerate(columns):
            share = place / max(len(columns) - 1, 1)
            other[:, c.start + 2] = middle + first + (last - first) * share
            factor = round_first + (round_last - round_first) * share
            other[:, c.stop - 2 : c.stop] *= factor
        starts.append(other)
    if len(shared) > 1:
        starts += [_exchanged(coords, space, shared, sizes=both) for both in (True, False)]
    return torch.stack([space.to_whitened(start, constants) for start in starts], dim=1)


def _with_index(
    coords: Tensor, space: ParameterSpace, shared: Sequence[int], log_n: float
) -> Tensor:
    """Return coordinates (b, C) with the Sersic indices of components set, in place."""
    for k in shared:
        shape = space.components[k].shape
        if "n" in shape:
            coords[:, space.slices()[k].start + 3 + shape.index("n")] = log_n
    return coords


def _exchanged(coords: Tensor, space: ParameterSpace, shared: Sequence[int], sizes: bool) -> Tensor:
    """Return coordinates (b, C) with the components' ellipticities, or sizes too, reversed."""
    other = _with_index(coords.clone(), space, shared, SWAPPED_N)
    columns = [space.slices()[k] for k in shared]
    for mine, theirs in zip(columns, reversed(columns), strict=True):
        other[:, mine.stop - 2 : mine.stop] = coords[:, theirs.stop - 2 : theirs.stop]
        if sizes:
            other[:, mine.start + 2] = coords[:, theirs.start + 2]
    return other


def _others(problem: Problem, cutouts: Cutouts, rows: Tensor, solution: Solution) -> list[Solution]:
    """Return for each start the solutions of galaxies ``rows``; of infinite cost where dropped.

    Args:
        problem, cutouts: of B galaxies.
        rows: (b,).
        solution: of these.
    """
    starts = structured_starts(problem, rows, solution)
    count = starts.shape[1]
    index = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
    follow, points = _looked_at(problem, cutouts, rows, solution, starts)
    own = solution[index]
    nothing = torch.full_like(own.cost, torch.inf), torch.zeros_like(own.n_iter)
    solutions = replace(own, cost=nothing[0], n_iter=nothing[1])
    chosen = follow.nonzero()[:, 0]
    if len(chosen):
        pairs = rows[index[chosen]]
        minimum = _minimise(problem, pairs, points[chosen], LMOptions())
        solutions = solutions.put(chosen, solution_of(minimum, problem[pairs]))
    first = torch.arange(len(rows), device=rows.device) * count
    return [solutions[first + k] for k in range(count)]


def _looked_at(
    problem: Problem, cutouts: Cutouts, rows: Tensor, solution: Solution, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (b S,) which starts to follow on the whole cutouts, and from where (b S, P).

    Args:
        problem, cutouts, rows, solution: see `_others`.
        starts: (b, S, P).
    """
    small, count = _middle(problem, cutouts), starts.shape[1]
    each = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
    there = _minimise(small, rows[each], starts.flatten(0, 1), LOOK)
    known = _minimise(small, rows, solution.whitened, LOOK)
    offset = there.point - known.point[each]
    apart = torch.einsum("bi,bij,bj->b", offset, there.normal.hessian, offset) > APART
    rise = there.normal.cost - known.normal.cost[each]
    doubtful = ~solution.converged | ~(solution.cost < DARK)
    usable = torch.isfinite(there.point).all(dim=1) & (there.point.abs().amax(dim=1) < USABLE_U)
    fine = torch.isfinite(there.normal.cost) & usable
    return fine & (apart & (rise < 2 * MARGIN) | doubtful[each]), there.point


def _middle(problem: Problem, cutouts: Cutouts) -> Problem:
    """Return the problem on the middle of large cutouts; itself where they are small."""
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST or problem.space.n_sky >= 3:
        return problem
    sides = (height // 4 * 2, width // 4 * 2)
    return window_problem(problem, cutouts, problem.constants.centre, sides)[0]


def _minimise(problem: Problem, rows: Tensor, start: Tensor, options: LMOptions) -> Minimum:
    """Minimise from starts (m, P) of the galaxies ``rows`` (m,), of which some may be the same."""
    return minimise(lambda point, some: problem(point, rows[some]), start, options)


def _modes_of(points: Tensor, joint: Tensor, evidence: Tensor, rows: Tensor, batch: int) -> Modes:
    """Return the distinct ones of the minima of galaxies ``rows`` (b,) of a batch.

    Args:
        points: (b, M, P).
        joint: (b, M, P + F, P + F) covariances.
        evidence: (b, M) see `_distinct`.
        rows: (b,).
        batch: number of galaxies.
    """
    n = points.shape[2]
    kept = _distinct(points, joint[..., :n, :n], evidence)
    count = int(kept.sum(dim=1).max())
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)[:, :count]
    each = torch.arange(len(rows), device=rows.device)[:, None]
    found = torch.where(kept[..., None], points, torch.nan)[each, order]
    whitened = points.new_full((batch, count, n), torch.nan)
    covariance = torch.eye(n).to(points).expand(batch, count, n, n).clone()
    whitened[rows], covariance[rows] = found, joint[each, order][..., :n, :n]
    return Modes(whitened, covariance)


def _distinct(points: Tensor, covariance: Tensor, evidence: Tensor) -> Tensor:
    """Return (b, M) which minima to keep: the first, and others apart from those before them.

    Args:
        points: (b, M, P).
        covariance: (b, M, P, P).
        evidence: (b, M) ln of their integrals, up to a constant; -inf where there is none.
    """
    precision = torch.linalg.pinv(covariance, hermitian=True)
    offset = points[:, :, None] - points[:, None]  # (b, M, M, P)
    distance = torch.einsum("bijp,bipq,bijq->bij", offset, precision, offset)
    distance = torch.minimum(distance, distance.mT)
    best = evidence.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    good = torch.isfinite(evidence) & (evidence > best - MARGIN)
    kept = torch.zeros_like(good)
    kept[:, 0] = True
    for k in range(1, points.shape[1]):
        near = (distance[:, k, :k] < APART) & kept[:, :k]
        kept[:, k] = good[:, k] & ~near.any(dim=1)
    return kept
