"""Fit and network reconciled: the posterior itself, by adaptive importance sampling.

The fit says where the posterior is and how sharp, the network what else may be, the likelihood
decides. Draws come from a Student-t at the fit, or where this is too simple from a ridge of them
(see `ridge`), from the network's flow and, a few, from the prior; each has the weight likelihood
x prior / mixture (see `proposal`). The next rounds come from a t fitted to the weighted draws so
far and from the ridge again, until their effective number is enough or the budget
is spent (AMIS; Cornuet et al. 2012, arXiv:0907.1254). Flux and sky, linear in the model and of a
flat prior, are integrated over exactly. The flow is a proposal and never a prior: the same pixels
do not count twice. What a galaxy may cost is bounded: where the weights cannot be trusted by then
(Pareto k) it is flagged, or, if that is asked for, sampled by a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.fitting.approximate_likelihood import ApproximateLikelihood
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem
from hybridfit.model.parameters import ParameterSpace
from hybridfit.sampling.checked_likelihood import Likelihood, checked_likelihood
from hybridfit.sampling.options import SamplingOptions
from hybridfit.sampling.proposal import (
    EvaluatedDraws,
    FlowProposal,
    Mixture,
    NonlinearProposal,
    PriorProposal,
    Proposal,
    evaluated,
    joined,
)
from hybridfit.sampling.psis import Smoothed, pareto_k_limit, pareto_smooth
from hybridfit.sampling.quasi_random import Numbers
from hybridfit.sampling.ridge import Ridge, find_ridge
from hybridfit.sampling.student_t import StudentT, factor_of, weighted_moments

# of the t's: heavier than any posterior seen, yet most draws fall where the posterior is
FIRST_DOF, LATER_DOF, RIDGE_DOF = 6.0, 8.0, 6.0
# widths of size or index in whitened coordinates, the prior's being 1, from which on ellipses will
# not do: about S/N 100
BENT = 0.15
PRIOR_SKIP = 1 << 16  # of the quasi-random points: far from those of the t's


@dataclass(frozen=True)
class WeightedDraws(Batch):
    """Weighted draws of B posteriors in whitened and linear coordinates.

    Args:
        whitened: (B, S, P) u.
        linear: (B, S, L) flux and sky terms, units of the noise.
        log_weights: (B, S) smoothed, of weights that sum to 1; -inf where there is no draw.
        ess: (B,) effective number of draws.
        pareto_k: (B,) Pareto k; NaN where the draws are a chain's.
        log_evidence: (B,) ln of the integral of likelihood, exp(-chi2 / 2), times prior, flux
            and sky in units of the noise; not yet what compares, see
            `hybridfit.uncertainty.evidence`.
        missed_mass: (B,) share of the mass where the network's density is below that of all its
            own draws.
        n_draws: (B,) points at which the likelihood was evaluated.
    """

    whitened: Tensor
    linear: Tensor
    log_weights: Tensor
    ess: Tensor
    pareto_k: Tensor
    log_evidence: Tensor
    missed_mass: Tensor
    n_draws: Tensor

    @property
    def weights(self) -> Tensor:
        """(B, S), sum 1."""
        return torch.exp(self.log_weights)


def sample_posterior(
    problem: Problem,
    about: Linearised,
    ids: Sequence[str],
    network: FlowProposal | None = None,
    near: ApproximateLikelihood | None = None,
    options: SamplingOptions = SamplingOptions(),
    no_signal: Tensor | None = None,
) -> WeightedDraws:
    """Sample the posteriors of B galaxies by importance.

    A galaxy's draws depend on its pixels, its id and the seed, not on the batch it comes in.

    Args:
        problem: of the B galaxies; its prior counts in full, whatever ``prior_weight``.
        about: their models about their fits, NaN where there is no fit: these have no draws.
        ids: B names, which seed the random numbers.
        network: what the flow proposes; None does without.
        near: a cheaper likelihood, used where it agrees with the exact one.
        options: see `SamplingOptions`.
        no_signal: (B,) bool, galaxies that get ``no_signal_draws`` at most; default none.
    """
    space, fitted = problem.space, torch.isfinite(about.whitened).all(dim=1)
    numbers = Numbers.of(ids, space.n_nonlinear, space.n_linear, options.seed, fitted)
    first, plane = _first_student(about), plane_of(space).to(fitted.device)
    everyone = fitted.nonzero()[:, 0]
    if not len(everyone):
        return _collected(len(about), problem, [])
    likelihood = checked_likelihood(problem, near, first, everyone, numbers)
    network = network if network is not None and options.network_draws else None
    bent = _is_bent(about, plane)
    limit = _draw_limit(options, len(problem.profiles), fitted, no_signal)
    setting = _Setting(likelihood, numbers, options, limit, len(problem.profiles))
    finished: list[tuple[Tensor, _State]] = []
    for rows in ((fitted & ~bent).nonzero()[:, 0], (fitted & bent).nonzero()[:, 0]):
        if not len(rows):
            continue
        start = _ridge(problem, about, plane, rows) if bent[rows[0]] else first[rows]
        finished += _rounds(setting, start, network, about, rows)
    return _collected(len(about), problem, finished)


def _is_bent(about: Linearised, plane: Tensor) -> Tensor:
    """(B,) whether sizes and shapes are so uncertain that a t at the fit is too simple."""
    variance = torch.diagonal(about.covariance, dim1=1, dim2=2)[:, plane].amax(dim=1)
    return variance > BENT**2


def _ridge(problem: Problem, about: Linearised, plane: Tensor, rows: Tensor) -> Ridge:
    """The ridge of proposals along ``plane`` of the galaxies ``rows`` (b,)."""
    n_nonlinear = problem.space.n_nonlinear
    covariance = about.covariance[rows, :n_nonlinear, :n_nonlinear]
    return find_ridge(problem, about.whitened[rows], covariance, plane, rows, RIDGE_DOF)


def _draw_limit(
    options: SamplingOptions, n_components: int, like: Tensor, no_signal: Tensor | None
) -> Tensor:
    """(B,) draws of each galaxy at most, for B and the device of ``like``."""
    limit = torch.full_like(like, options.most_draws(n_components), dtype=torch.int64)
    if no_signal is None:
        return limit
    return torch.where(no_signal.to(like.device), limit.clamp_max(options.no_signal_draws), limit)


@dataclass(frozen=True)
class _Setting:
    """What all rounds have in common."""

    likelihood: Likelihood
    numbers: Numbers
    options: SamplingOptions
    limit: Tensor  # (B,) draws of each galaxy at most
    n_flux: int  # linear parameters that are fluxes, the first ones


def _rounds(
    setting: _Setting,
    start: StudentT | Ridge,
    network: FlowProposal | None,
    about: Linearised,
    rows: Tensor,
) -> list[tuple[Tensor, _State]]:
    """Draw until the target ESS; finished galaxies leave the batch."""
    options, finished = setting.options, []
    state = _first_round(setting, start, network, rows)
    n_first = len(state.mixture.proposals)
    while len(rows):
        n = state.points.whitened.shape[1]
        enough = (state.smoothed.ess >= options.target_ess) & (
            state.smoothed.pareto_k < pareto_k_limit(n)
        )
        # one fitted proposal is always worth its round
        enough &= len(state.mixture.proposals) > n_first
        done = enough | (n + options.round_draws > setting.limit[rows])
        out, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        if len(out):
            finished.append((rows[out], state[out]))
        rows, state = rows[rest], state[rest]
        if len(rows):
            state = _next_round(setting, state, about, rows)
    return finished


def plane_of(space: ParameterSpace) -> Tensor:
    """(K,) whitened columns of sizes and shapes."""
    columns = [range(c.start + 2, c.stop - 2) for c in space.slices()]
    return torch.tensor([j for some in columns for j in some])


@dataclass(frozen=True)
class _State:
    """The draws of b galaxies so far, what they came from, and their weights."""

    points: EvaluatedDraws
    mixture: Mixture
    smoothed: Smoothed
    log_evidence: Tensor

    @classmethod
    def of(cls, points: EvaluatedDraws, mixture: Mixture) -> _State:
        """Weigh draws."""
        log_weights = points.target - mixture.log_q
        total = mixture.counts.sum(dim=1)
        evidence = torch.logsumexp(log_weights, dim=1) - torch.log(total)
        return cls(points, mixture, pareto_smooth(log_weights), evidence)

    def __getitem__(self, rows: Tensor) -> _State:
        return _State(
            self.points[rows], self.mixture[rows], self.smoothed[rows], self.log_evidence[rows]
        )


def _first_student(about: Linearised) -> StudentT:
    """The t at the fits."""
    n_nonlinear = about.whitened.shape[1]
    covariance = about.covariance[:, :n_nonlinear, :n_nonlinear]
    return student_of(torch.nan_to_num(about.whitened), covariance, FIRST_DOF)


def student_of(mean: Tensor, covariance: Tensor, dof: float) -> StudentT:
    """The t distributions of this mean (b, P) and covariance (b, P, P)."""
    return StudentT(mean, factor_of(covariance * ((dof - 2) / dof)), dof)


def _first_round(
    setting: _Setting, start: StudentT | Ridge, network: FlowProposal | None, rows: Tensor
) -> _State:
    """Draws about the fit, of the flow and of the prior."""
    options, numbers = setting.options, setting.numbers
    uniform, normal = numbers.take(rows, options.fit_draws, 0)
    unknown = torch.full_like(normal, torch.nan)
    parts = [(start.draw(uniform), normal, unknown)]
    counts = [torch.full((len(rows),), options.fit_draws, device=rows.device)]
    proposals: list[Proposal] = [NonlinearProposal(start)]
    if network is not None:
        mine = network[rows]
        whitened, linear = (
            mine.whitened[:, : options.network_draws],
            mine.linear[:, : options.network_draws],
        )
        parts.append((whitened, torch.zeros_like(linear), linear))
        counts.append(torch.isfinite(whitened).all(dim=2).sum(dim=1))
        proposals.append(mine)
    uniform, normal = numbers.take(rows, options.prior_draws, PRIOR_SKIP)
    unknown = torch.full_like(normal, torch.nan)
    parts.append((torch.special.ndtri(uniform[..., :-1]), normal, unknown))
    counts.append(torch.full((len(rows),), options.prior_draws, device=rows.device))
    proposals.append(PriorProposal())
    whitened, normal, given = (torch.cat(v, dim=1) for v in zip(*parts, strict=True))
    points = _evaluate(setting, rows, whitened, normal, given)
    count = torch.stack(counts, dim=1).to(points.target)
    return _State.of(points, Mixture.of(proposals, count, points))


def _next_round(setting: _Setting, state: _State, about: Linearised, rows: Tensor) -> _State:
    """Draw one round from a t fitted to the draws so far; half from the ridge, if used."""
    options, points, mixture = setting.options, state.points, state.mixture
    n, n_nonlinear = points.whitened.shape[1:]
    weights = state.smoothed.weights
    guess = about.whitened[rows], about.covariance[rows, :n_nonlinear, :n_nonlinear]
    student = student_of(*weighted_moments(points.whitened, weights, *guess), LATER_DOF)
    uniform, normal = setting.numbers.take(rows, options.round_draws, options.fit_draws + n)
    whitened, given = student.draw(uniform), torch.full_like(normal, torch.nan)
    half = options.round_draws // 2
    counts = torch.full(
        (len(rows),), float(options.round_draws), dtype=whitened.dtype, device=whitened.device
    )
    proposals: list[Proposal] = [NonlinearProposal(student)]
    own = [counts]
    ridge = (
        mixture.proposals[0].density
        if isinstance(mixture.proposals[0], NonlinearProposal)
        else None
    )
    if isinstance(ridge, Ridge):
        again = ridge.reweighted(points.whitened, weights)
        whitened[:, half:] = again.draw(uniform[:, half:])
        proposals.append(NonlinearProposal(again))
        own = [
            counts - (options.round_draws - half),
            torch.full_like(counts, options.round_draws - half),
        ]
    new = _evaluate(setting, rows, whitened, normal, given)
    return _State.of(joined([points, new]), mixture.extended(proposals, own, points, new))


def _evaluate(
    setting: _Setting, rows: Tensor, whitened: Tensor, normal: Tensor, given: Tensor | None
) -> EvaluatedDraws:
    """Draws (b, S, P) with their likelihood; what is not finite has none."""
    s = whitened.shape[1]
    fine = torch.isfinite(whitened).all(dim=2)
    safe = torch.where(fine[..., None], whitened, 0.0)
    profiled = setting.likelihood(safe.flatten(0, 1), rows.repeat_interleave(s))
    points = evaluated(safe, profiled, normal, given)
    # a flux below 0 has no magnitude: the flat prior of fluxes begins at 0
    fine &= (points.linear[..., : setting.n_flux] > 0).all(dim=2)
    return replace(points, target=torch.where(fine, points.target, -torch.inf))


def _collected(
    batch: int, problem: Problem, finished: Sequence[tuple[Tensor, _State]]
) -> WeightedDraws:
    """The galaxies' draws side by side, filled up to the longest."""
    space, device = problem.space, problem.box.device
    longest = max((state.points.whitened.shape[1] for _, state in finished), default=1)
    nothing = torch.full((batch,), torch.nan, dtype=torch.float64, device=device)
    whitened = nothing[:, None, None].repeat(1, longest, space.n_nonlinear)
    linear = nothing[:, None, None].repeat(1, longest, space.n_linear)
    log_weights = torch.full_like(whitened[..., 0], -torch.inf)
    ess, pareto_k, evidence, missed = (nothing.clone() for _ in range(4))
    n_draws = torch.zeros(batch, dtype=torch.int64, device=device)
    for rows, state in finished:
        n = state.points.whitened.shape[1]
        whitened[rows, :n], linear[rows, :n] = state.points.whitened, state.points.linear
        log_weights[rows, :n] = state.smoothed.log_weights
        ess[rows], pareto_k[rows] = state.smoothed.ess, state.smoothed.pareto_k
        evidence[rows], n_draws[rows] = state.log_evidence, n
        missed[rows] = missed_mass(state)
    return WeightedDraws(whitened, linear, log_weights, ess, pareto_k, evidence, missed, n_draws)


def missed_mass(state: _State) -> Tensor:
    """(b,) share of the posterior where the network's density is below all of its own draws'."""
    for k, proposal in enumerate(state.mixture.proposals):
        if isinstance(proposal, FlowProposal):
            below = proposal.below_floor(state.mixture.log_density[:, k], state.points)
            return (state.smoothed.weights * below).sum(dim=1)
    return torch.full_like(state.log_evidence, torch.nan)
