"""From fits to posteriors: each problem sampled, widened, put into physical terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Draws
from hybridfit.fitting.approximate_likelihood import approximate_likelihood
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import physical_points
from hybridfit.npe.density import NetworkDraws
from hybridfit.sampling.importance_sampling import WeightedDraws, sample_posterior
from hybridfit.sampling.mcmc_fallback import with_chains
from hybridfit.sampling.options import SamplingOptions
from hybridfit.sampling.proposal import FlowProposal, flow_proposal
from hybridfit.uncertainty.error_budget import NONE, Budget, BudgetOptions, error_budget, noise_of
from hybridfit.uncertainty.evidence import with_evidence
from hybridfit.uncertainty.quality import ENOUGH, budget_flags
from hybridfit.uncertainty.tempering import temperatures, tempered
from hybridfit.uncertainty.widening import widened

NUMBERS_AT_ONCE = 2**22  # derivatives in all pixels that are held together: bounds memory


@dataclass(frozen=True)
class PosteriorResult(Batch):
    """The posteriors of B galaxies on the CPU.

    Args:
        draws: weighted, the error budget included.
        diagnostics: of the draws.
        flow_distance: see `Result`.
        flags: (B,) of what the error budget found.
        heat: (B,) temperatures of the noise, see `hybridfit.uncertainty.tempering`, of several
            images the highest.
    """

    draws: Draws
    diagnostics: SamplingDiagnostics
    flow_distance: Tensor
    flags: Tensor
    heat: Tensor


@torch.inference_mode()
def sample_fitted(
    fitted: Fitted,
    network: NetworkDraws | None,
    floor: Tensor | None = None,
    options: SamplingOptions = SamplingOptions(),
    budget: BudgetOptions = BudgetOptions(),
) -> PosteriorResult:
    """Sample the posteriors of galaxies about their fits.

    Args:
        fitted: b galaxies with the problem that they were fitted as.
        network: draws that are proposed, of the same galaxies: of one Sersic component and a
            constant sky. None does without.
        floor: (b,) the least ln density of the network's draws; default that of ``network``.
        options: of the sampling.
        budget: of the errors beyond the noise map's.
    """
    parts = []
    for some in _blocks(fitted):
        mine = None if network is None else network[some]
        least = mine.log_prob.amin(dim=1) if mine is not None else None
        least = least if floor is None else floor[some]
        parts.append(_sample_block(fitted[some], mine, least, options, budget))
    return PosteriorResult.cat(parts)


def _sample_block(
    fitted: Fitted,
    drawn: NetworkDraws | None,
    floor: Tensor | None,
    options: SamplingOptions,
    budget: BudgetOptions,
) -> PosteriorResult:
    """Sample galaxies whose derivatives in all pixels fit into memory."""
    part, problem, about = fitted.cutouts, fitted.problem, fitted.linearise()
    noise = hot = None
    if budget != NONE:
        # correlated noise blurs as more of white noise would: widening alone is linear
        noise = noise_of(part, budget)
        hot = temperatures(part, noise)
        problem, about, noise = tempered(problem, about, noise, hot)
    network = None
    if drawn is not None and floor is not None:
        network = flow_proposal(drawn, floor, problem)
    near = approximate_likelihood(problem, part, about) if options.approximate_likelihood else None
    dark = without_signal(fitted.fit)
    sampled = sample_posterior(problem, about, part.id, network, near, options, dark, fitted.modes)
    sampled = with_evidence(sampled, problem, about, part, hot, noise)
    if options.mcmc:
        sampled = with_chains(sampled, problem, about, part.id, ENOUGH, options.seed, dark)
    terms = None if noise is None else error_budget(about, problem, part, budget, noise)
    samples = physical(sampled, terms, problem, part)
    return PosteriorResult(
        Draws(problem.space, samples.cpu(), sampled.weights.cpu()),
        sampled.diagnostics.to("cpu"),
        _distance(network, about, problem).cpu(),
        _signs(terms, len(part)),
        torch.ones(len(part), dtype=torch.float64) if hot is None else hot.amax(dim=1).cpu(),
    )


def without_signal(fit: Fit) -> Tensor:
    """(B,) whether a galaxy of one component has no signal: its posterior is little but the prior.

    Of several components one without light leaves the others to be sampled.
    """
    none = (fit.flags & int(Flag.NO_SIGNAL)) != 0
    return none if fit.space.n_components == 1 else torch.zeros_like(none)


@torch.inference_mode()
def budgeted(fitted: Fitted, fit: Fit, budget: BudgetOptions) -> tuple[Fit, Tensor]:
    """Return a fit with the error budget added to its covariances, and its flags.

    With it come the temperatures (b,) of the noise of galaxies without signal, NaN for others.

    Args:
        fitted: b galaxies with the problem that they were fitted as.
        fit: of them, to which the budget is added.
        budget: of the errors beyond the noise map's.
    """
    covariance, flags = fit.covariance.clone(), fit.flags.clone()
    heat = torch.full_like(fit.chi2, torch.nan)
    for rows in _blocks(fitted):
        part = fitted[rows]
        about, noise = part.linearise(), noise_of(part.cutouts, budget)
        dark = ((part.fit.flags & int(Flag.NO_SIGNAL)) != 0).nonzero()[:, 0]
        if len(dark):
            hot = temperatures(part.cutouts[dark], noise[dark])
            heat[rows[dark]] = hot.amax(dim=1).cpu()
        terms = error_budget(about, part.problem, part.cutouts, budget, noise)
        slopes = about.to_physical
        extra = (slopes @ terms.total @ slopes.mT).cpu()
        known = torch.isfinite(extra).flatten(1).all(dim=1)[:, None, None]
        covariance[rows] += torch.where(known, extra, 0.0)
        flags[rows] |= _signs(terms, len(rows))
    return replace(fit, covariance=covariance, flags=flags), heat


def _blocks(fitted: Fitted) -> Sequence[Tensor]:
    """Rows of a few galaxies at a time, whose derivatives in all pixels fit into memory."""
    space = fitted.problem.space
    columns = space.n_nonlinear + space.n_linear + 1
    pixels = sum(image.image[0].numel() for image in fitted.cutouts.single_images())
    at_once = max(1, NUMBERS_AT_ONCE // (pixels * columns))
    at_once = min(at_once, 32) if fitted.whitened.device.type == "cpu" else 8 * at_once
    return torch.arange(len(fitted)).split(at_once)


def physical(
    sampled: WeightedDraws, budget: Budget | None, problem: Problem, cutouts: Cutouts
) -> Tensor:
    """Physical parameters (B, S, Q) of draws, widened by what the likelihood does not know of."""
    points = torch.cat([sampled.points.whitened, sampled.points.linear], dim=2)
    if budget is not None:
        points = widened(points, sampled.weights, budget.total)
    return physical_points(points, problem, cutouts)


def _distance(network: FlowProposal | None, about: Linearised, problem: Problem) -> Tensor:
    """(B,) of the fits, in the coordinates in which the flow is a standard normal."""
    if network is None:
        return torch.full_like(problem.pixels.scale, torch.nan)
    linear = about.linear * problem.pixels.scale[:, None]
    linear[:, -1] += problem.pixels.background
    coords, _ = problem.space.from_whitened(about.whitened, problem.constants)
    return network.density.distance(coords, linear)


def _signs(budget: Budget | None, batch: int) -> Tensor:
    """(B,) bits of `Flag` of what the error budget found."""
    if budget is None:
        return torch.zeros(batch, dtype=torch.int64)
    own = (budget.own_chi2 - 1) / budget.own_scatter
    signs = (budget.misfit_significance, own, budget.psf_offset, budget.psf_wrong)
    return budget_flags(*signs).cpu()
