"""Chains for the galaxies whose importance weights cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor

from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem, Profiled
from hybridfit.sampling.importance_sampling import WeightedDraws
from hybridfit.sampling.mcmc import Chain, MCMCOptions, sample
from hybridfit.sampling.psis import pareto_k_limit
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
    spent = chain.evaluations.to(sampled.n_draws)
    sampled = replace(sampled, n_draws=sampled.n_draws.index_add(0, rows, spent))
    for k in ((chain.rhat < MAX_RHAT) & (chain.ess > MIN_ESS)).nonzero()[:, 0].tolist():
        sampled = _replaced(sampled, problem, rows[k : k + 1], chain, k, streams[k])
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
    p = sampled.whitened.shape[2]
    factor = factor_of(about.covariance[rows, :p, :p])
    return sample(log_posterior(problem, rows), starts, factor, options, seeds), streams


def _walkers(sampled: WeightedDraws, rows: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """Return the walkers' first points (b, W, P), picked from a galaxy's draws by their weights."""
    picks = [
        torch.multinomial(weights, N_WALKERS, replacement=True, generator=stream)
        for weights, stream in zip(sampled.weights[rows].cpu(), streams, strict=True)
    ]
    return torch.stack([sampled.whitened[row, pick] for row, pick in zip(rows, picks, strict=True)])


def needs_chain(sampled: WeightedDraws, enough: float) -> Tensor:
    """(B,) whether there are draws, and their weights do not do."""
    some = torch.isfinite(sampled.log_weights).any(dim=1)
    limit = torch.tensor([pareto_k_limit(max(n, 2)) for n in sampled.n_draws.tolist()])
    return some & ~((sampled.pareto_k < limit.to(sampled.pareto_k)) & (sampled.ess >= enough))


def _replaced(
    sampled: WeightedDraws,
    problem: Problem,
    index: Tensor,
    chain: Chain,
    k: int,
    stream: torch.Generator,
) -> WeightedDraws:
    """Put the draws of chain ``k`` into the row ``index`` (1,), as many as there is room for."""
    row, length = int(index), sampled.whitened.shape[1]
    kept = torch.linspace(0, chain.samples.shape[1] - 1, min(length, chain.samples.shape[1]))
    whitened = chain.samples[k, kept.round().long().to(index.device)]
    found = problem.profile(whitened, index.expand(len(whitened)))
    normal = torch.randn(*found.linear.shape, generator=stream, dtype=whitened.dtype).to(whitened)
    step = torch.linalg.solve_triangular(found.factor.mT, normal[..., None], upper=True)[..., 0]
    log_weights = torch.full_like(sampled.log_weights[row], -torch.inf)
    log_weights[: len(whitened)] = -torch.log(torch.tensor(float(len(whitened))))
    values = {
        "whitened": _put(sampled.whitened, row, whitened),
        "linear": _put(sampled.linear, row, found.linear + step),
        "log_weights": sampled.log_weights.index_copy(0, index, log_weights[None]),
        "ess": sampled.ess.index_copy(
            0, index, chain.ess[k : k + 1].clamp_max(len(whitened)).to(sampled.ess)
        ),
        "pareto_k": sampled.pareto_k.index_fill(0, index, torch.nan),
    }
    return replace(sampled, **values)


def _put(values: Tensor, row: int, new: Tensor) -> Tensor:
    values = values.clone()
    values[row, : len(new)] = new
    return values


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
        positive = (found.linear[:, : len(problem.space.shapes)] > 0).all(dim=1)
        return torch.where(positive & torch.isfinite(value), value, -torch.inf)

    return density
