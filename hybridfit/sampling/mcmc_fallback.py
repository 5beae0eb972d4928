"""Chains for the galaxies whose importance weights cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor

from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem, Profiled
from hybridfit.sampling.importance_sampling import WeightedDraws
from hybridfit.sampling.mcmc import Chain, MCMCOptions, sample
from hybridfit.sampling.proposal import evaluated
from hybridfit.sampling.psis import pareto_k_limits
from hybridfit.sampling.student_t import factor_of

N_WALKERS = 16
# short chains scatter about 1.05; above this the walkers do not agree
MAX_RHAT, MIN_ESS = 1.2, 100.0


def with_chains(
    sampled: WeightedDraws,
    problem: Problem,
    about: Linearised,
    ids: Sequence[str],
    enough: float,
    seed: int = 0,
    leave: Tensor | None = None,
    options: MCMCOptions = MCMCOptions(),
) -> WeightedDraws:
    """Replace draws of too few or too heavy weights by those of a chain, where that converges.

    All chains run at once, and none is longer than ``options`` say. A galaxy's chain depends on
    its pixels, its id and the seed, not on the galaxies beside it.

    Args:
        sampled: of the B galaxies of ``problem``.
        problem: the likelihood and its prior.
        about: the models about the fits, for a first guess of the covariance.
        ids: B names, which seed the chains.
        enough: effective number of draws below which the weights do not do.
        seed: of the random numbers.
        leave: (B,) bool, galaxies that get no chain in any case; default none.
        options: of each chain.

    Returns:
        The draws; where a chain took over, ``pareto_k`` is NaN and ``ess`` the chain's.
    """
    failed = needs_chain(sampled, enough)
    rows = (failed if leave is None else failed & ~leave.to(failed.device)).nonzero()[:, 0]
    if len(rows) == 0:
        return sampled
    seeds = _seeds([ids[row] for row in rows.tolist()], seed)
    chain, streams = _run_chains(sampled, problem, about, rows, seeds, options)
    n_draws = sampled.diagnostics.n_draws.index_add(0, rows, chain.evaluations.to(rows))
    sampled = replace(sampled, diagnostics=replace(sampled.diagnostics, n_draws=n_draws))
    for k in ((chain.rhat < MAX_RHAT) & (chain.ess > MIN_ESS)).nonzero()[:, 0].tolist():
        row = rows[k : k + 1]
        sampled = sampled.put(row, _replaced(sampled[row], problem[row], chain[[k]], streams[k]))
    return sampled


def _seeds(ids: Sequence[str], seed: int) -> list[int]:
    """Return a seed for each galaxy that depends on its id and ``seed`` alone."""
    names = [f"{seed} {one}" for one in ids]
    return [int.from_bytes(sha256(name.encode()).digest()[:7], "big") for name in names]


def _run_chains(
    sampled: WeightedDraws,
    problem: Problem,
    about: Linearised,
    rows: Tensor,
    seeds: Sequence[int],
    options: MCMCOptions,
) -> tuple[Chain, list[torch.Generator]]:
    """Sample the posteriors of the galaxies ``rows`` (b,); return their random streams, too."""
    streams = [torch.Generator().manual_seed(value) for value in seeds]
    starts = _walkers(sampled, rows, streams)
    p = sampled.points.whitened.shape[2]
    factor = factor_of(about.covariance[rows, :p, :p])
    return sample(log_posterior(problem, rows), starts, factor, options, seeds), streams


def _walkers(sampled: WeightedDraws, rows: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """Return the walkers' first points (b, W, P), picked from a galaxy's draws by their weights."""
    picks = [
        torch.multinomial(weights, N_WALKERS, replacement=True, generator=stream)
        for weights, stream in zip(sampled.weights[rows].cpu(), streams, strict=True)
    ]
    points = sampled.points.whitened
    return torch.stack([points[row, pick] for row, pick in zip(rows, picks, strict=True)])


def needs_chain(sampled: WeightedDraws, enough: float) -> Tensor:
    """(B,) whether there are draws, and their weights do not do."""
    some = torch.isfinite(sampled.log_weights).any(dim=1)
    about = sampled.diagnostics
    return some & ~((about.pareto_k < pareto_k_limits(about.n_draws)) & (about.ess >= enough))


def _replaced(
    sampled: WeightedDraws, problem: Problem, chain: Chain, stream: torch.Generator
) -> WeightedDraws:
    """Return the draws of a chain in place of one galaxy's, as many as there is room for.

    Args:
        sampled: of one galaxy, as `problem` and `chain`.
        problem: the likelihood.
        chain: of the same galaxy.
        stream: of random numbers for flux and sky.
    """
    length, steps = sampled.draw_count, chain.samples.shape[1]
    kept = torch.linspace(0, steps - 1, min(length, steps)).round().long()
    whitened = chain.samples[:, kept.to(chain.samples.device)]
    found = problem.profile(whitened[0], torch.zeros_like(kept).to(whitened.device))
    normal = torch.randn(*found.linear.shape, generator=stream, dtype=whitened.dtype).to(whitened)
    log_weights = torch.full_like(whitened[..., 0], -math.log(len(kept)))
    ess = chain.ess.clamp_max(len(kept)).to(sampled.diagnostics.ess)
    about = replace(sampled.diagnostics, ess=ess, pareto_k=torch.full_like(ess, torch.nan))
    points = evaluated(whitened, found, normal[None], None)
    return WeightedDraws(points, log_weights, about).padded(length)


def log_posterior(problem: Problem, which: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """ln of likelihood x prior at u, flux and sky integrated over, but for a constant.

    Args:
        problem: of a batch.
        which: (b,) its galaxies that the rows of points are counted among.
    """

    def density(whitened: Tensor, rows: Tensor) -> Tensor:
        found: Profiled = problem.profile(whitened, which[rows])
        volume = torch.diagonal(found.factor, dim1=1, dim2=2).log().sum(dim=1)
        value = -found.cost - 0.5 * (whitened**2).sum(dim=1) - volume
        positive = (found.linear[:, : problem.space.n_fluxes] > 0).all(dim=1)
        return torch.where(positive & torch.isfinite(value), value, -torch.inf)

    return density
