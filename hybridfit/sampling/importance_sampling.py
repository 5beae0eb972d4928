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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.data.draws_batch import DrawsBatch, per_draw
from hybridfit.fitting.approximate_likelihood import ApproximateLikelihood
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.modes import Modes
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
)
from hybridfit.sampling.psis import pareto_k_limit, pareto_smooth
from hybridfit.sampling.quasi_random import Numbers
from hybridfit.sampling.ridge import Ridge, find_ridge, find_ridges
from hybridfit.sampling.student_t import StudentT, factor_of, weighted_moments

# of the t's: heavier than any posterior seen, yet most draws fall where the posterior is
FIRST_DOF, LATER_DOF, RIDGE_DOF = 6.0, 8.0, 6.0
# widths of size or index in whitened coordinates, the prior's being 1, from which on ellipses will
# not do: about S/N 100
BENT = 0.15
PRIOR_SKIP = 1 << 16  # of the quasi-random points: far from those of the t's


@dataclass(frozen=True)
class WeightedDraws(DrawsBatch):
    """Weighted draws of B posteriors in whitened and linear coordinates.

    Args:
        points: (B, S) draws with their densities; NaN where there is no draw.
        log_weights: (B, S) smoothed, of weights that sum to 1; -inf where there is no draw.
        diagnostics: how good they are; NaN for a galaxy without draws.
    """

    points: EvaluatedDraws
    log_weights: Tensor = field(metadata=per_draw(-torch.inf))
    diagnostics: SamplingDiagnostics

    @classmethod
    def of(cls, points: EvaluatedDraws, mixture: Mixture) -> Self:
        """Weigh draws from a mixture of proposals."""
        log_weights = points.target - mixture.log_q
        total = mixture.counts.sum(dim=1)
        evidence = torch.logsumexp(log_weights, dim=1) - torch.log(total)
        smoothed = pareto_smooth(log_weights)
        missed = missed_mass(points, mixture, smoothed.weights)
        count = torch.full_like(total, points.draw_count, dtype=torch.int64)
        about = SamplingDiagnostics(smoothed.ess, smoothed.pareto_k, evidence, missed, count)
        return cls(points, smoothed.log_weights, about)

    @classmethod
    def none(cls, batch: int, space: ParameterSpace, device: torch.device) -> Self:
        """Return no draws of so many galaxies."""
        row = torch.empty(batch, 0, dtype=torch.float64, device=device)
        sizes = (space.n_nonlinear, space.n_linear)
        whitened, linear = (row[..., None].expand(-1, -1, size) for size in sizes)
        about = SamplingDiagnostics().to(device).expanded(batch)
        return cls(EvaluatedDraws(whitened, linear, row, row), row, about)

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
    modes: Modes | None = None,
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
        modes: minima of the galaxies, all of which are proposed; default the fits alone.
    """
    space, fitted = problem.space, torch.isfinite(about.whitened).all(dim=1)
    numbers = Numbers.of(ids, space.n_nonlinear, space.n_linear, options.seed, fitted)
    first, plane = _first_student(about), plane_of(space).to(fitted.device)
    everyone = fitted.nonzero()[:, 0]
    nothing = WeightedDraws.none(len(about) - len(everyone), space, fitted.device)
    if not len(everyone):
        return nothing.padded(1)
    likelihood = checked_likelihood(problem, near, first, everyone, numbers, modes)
    network = network if network is not None and options.network_draws else None
    several = _have_several(modes, fitted)
    bent = _is_bent(about, plane) & ~several
    limit = _draw_limit(options, len(problem.profiles), fitted, no_signal)
    setting = _Setting(likelihood, numbers, options, limit, space.n_fluxes)
    order, finished = [(~fitted).nonzero()[:, 0]], [nothing]
    for kind in (fitted & ~bent & ~several, fitted & bent, fitted & several):
        rows = kind.nonzero()[:, 0]
        if not len(rows):
            continue
        start: StudentT | Ridge = first[rows]
        if modes is not None and several[rows[0]]:
            start = _ridges(problem, modes[rows], plane, rows)
        elif bent[rows[0]]:
            start = _ridge(problem, about, plane, rows)
        for some, draws in _rounds(setting, start, network, about, rows):
            order.append(some)
            finished.append(draws)
    return WeightedDraws.cat(finished)[torch.cat(order).argsort()]


def _is_bent(about: Linearised, plane: Tensor) -> Tensor:
    """(B,) whether sizes and shapes are so uncertain that a t at the fit is too simple."""
    variance = torch.diagonal(about.covariance, dim1=1, dim2=2)[:, plane]
    return (variance > BENT**2).any(dim=1)


def _have_several(modes: Modes | None, like: Tensor) -> Tensor:
    """(B,) whether galaxies have more than one mode, for B and the device of ``like``."""
    return torch.zeros_like(like) if modes is None else modes.exist.sum(dim=1) > 1


def _ridges(problem: Problem, modes: Modes, plane: Tensor, rows: Tensor) -> Ridge:
    """The ridges through all modes of the galaxies ``rows`` (b,)."""
    return find_ridges(problem, modes.whitened, modes.covariance, plane, rows, RIDGE_DOF)


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
) -> Iterator[tuple[Tensor, WeightedDraws]]:
    """Draw until the target ESS; yield the rows and draws of galaxies that are finished."""
    options = setting.options
    state = _first_round(setting, start, network, rows)
    n_first = len(state.mixture.proposals)
    while len(rows):
        n, found = state.draws.draw_count, state.draws.diagnostics
        enough = (found.ess >= options.target_ess) & (found.pareto_k < pareto_k_limit(n))
        # one fitted proposal is always worth its round
        enough &= len(state.mixture.proposals) > n_first
        done = enough | (n + options.round_draws > setting.limit[rows])
        out, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        if len(out):
            yield rows[out], state.draws[out]
        rows, state = rows[rest], state[rest]
        if len(rows):
            state = _next_round(setting, state, about, rows)


def plane_of(space: ParameterSpace) -> Tensor:
    """(K,) whitened columns of sizes and shapes."""
    return torch.tensor(space.size_and_shape_columns, dtype=torch.int64)


@dataclass(frozen=True)
class _State(Batch):
    """The draws of b galaxies so far, and what they came from."""

    draws: WeightedDraws
    mixture: Mixture

    @classmethod
    def of(cls, points: EvaluatedDraws, mixture: Mixture) -> _State:
        """Weigh draws."""
        return cls(WeightedDraws.of(points, mixture), mixture)


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
    options, points, mixture = setting.options, state.draws.points, state.mixture
    n, n_nonlinear = points.whitened.shape[1:]
    weights = state.draws.weights
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
    return _State.of(
        EvaluatedDraws.joined([points, new]), mixture.extended(proposals, own, points, new)
    )


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


def missed_mass(points: EvaluatedDraws, mixture: Mixture, weights: Tensor) -> Tensor:
    """(b,) share of the posterior where the network's density is below all of its own draws'."""
    for k, proposal in enumerate(mixture.proposals):
        if isinstance(proposal, FlowProposal):
            below = proposal.below_floor(mixture.log_density[:, k], points)
            return (weights * below).sum(dim=1)
    return torch.full_like(weights[:, 0], torch.nan)
