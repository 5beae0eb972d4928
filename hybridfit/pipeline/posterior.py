"""From fits to posteriors: each problem made again, sampled, widened, put into physical terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Draws, Posterior
from hybridfit.fitting.approximate_likelihood import nearby
from hybridfit.fitting.build_problem import prepared
from hybridfit.fitting.linearised import Linearised, linearise, whitened_point
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import physical_points
from hybridfit.npe.density import FlowDensity
from hybridfit.npe.posterior import draw
from hybridfit.sampling.importance_sampling import Sampled, sample_posterior
from hybridfit.sampling.mcmc_fallback import with_chains
from hybridfit.sampling.options import SamplingOptions
from hybridfit.sampling.proposal import Network, network_proposal
from hybridfit.uncertainty.error_budget import NONE, Budget, BudgetOptions, error_budget, noise_of
from hybridfit.uncertainty.evidence import with_evidence
from hybridfit.uncertainty.quality import ENOUGH, budget_flags
from hybridfit.uncertainty.tempering import temperature, tempered
from hybridfit.uncertainty.widening import widened

NUMBERS_AT_ONCE = 2**22  # derivatives in all pixels that are held together: bounds memory


@dataclass(frozen=True)
class Expected:
    """What the network makes of B galaxies before they are fitted.

    Args:
        density: its posterior.
        posterior: the draws that fits start from.
    """

    density: FlowDensity
    posterior: Posterior


@dataclass(frozen=True)
class Reconciled:
    """The posteriors of B galaxies on the CPU.

    Args:
        draws: weighted, the error budget included.
        ess, khat, log_evidence, missed: see `Result`.
        flow_distance: see `Result`.
        n_draws: (B,) evaluations of the likelihood.
        flags: (B,) of what the error budget found.
    """

    draws: Draws
    ess: Tensor
    khat: Tensor
    log_evidence: Tensor
    missed: Tensor
    flow_distance: Tensor
    n_draws: Tensor
    flags: Tensor


@torch.inference_mode()
def reconcile(
    cutouts: Cutouts,
    fit: Fit,
    expected: Expected | None,
    fit_options: FitOptions = FitOptions(),
    options: SamplingOptions = SamplingOptions(),
    budget: BudgetOptions = BudgetOptions(),
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Reconciled:
    """Sample the posteriors of a batch.

    Args:
        cutouts: B galaxies.
        fit: of them, made with ``fit_options``.
        expected: the network's posterior; it proposes where it knows the parameters, one Sersic
            component and a constant sky. None does without.
        fit_options: the model and its prior.
        options: of the sampling.
        budget: of the errors beyond the noise map's.
        device: where to compute.
        compile: whether the pixel kernels are compiled.
    """
    usable = fit_options.components == ("sersic",) and fit_options.sky == "constant"
    proposed = None
    if expected is not None and usable and options.network_draws:
        proposed = draw(expected.density, cutouts, options.network_draws, options.seed)
    pieces: list[_Piece] = []
    for rows, part, problem in _pieces(cutouts, fit_options, device, compile):
        whitened, linear = whitened_point(fit[rows].to(device), problem, part)
        about = linearise(problem, part, whitened, linear)
        noise = hot = None
        if budget != NONE:
            # correlated noise blurs as more of white noise would: widening alone is linear
            noise = noise_of(part, budget)
            hot = temperature(part, noise)
            problem, about, noise = tempered(problem, about, noise, hot)
        network = None
        if expected is not None and proposed is not None:
            floor = expected.posterior.log_prob[rows].amin(dim=1)
            network = network_proposal(
                expected.density[rows], proposed[rows], floor, problem, part.zeropoint
            )
        near = nearby(problem, part, about) if options.approximate_likelihood else None
        dark = without_signal(fit[rows])
        sampled = sample_posterior(problem, about, part.id, network, near, options, dark)
        sampled = with_evidence(sampled, problem, about, part, hot, noise)
        if options.mcmc:
            sampled = with_chains(sampled, problem, about, part.id, ENOUGH, options.seed, dark)
        terms = None if noise is None else error_budget(about, problem, part, budget, noise)
        samples = physical(sampled, terms, problem, part)
        distance = _distance(network, about, problem)
        pieces.append(_Piece(rows, samples.cpu(), sampled, distance.cpu(), _signs(terms)))
    return _joined(len(cutouts), fit, pieces)


def without_signal(fit: Fit) -> Tensor:
    """(B,) whether a galaxy of one component has no signal: its posterior is little but the prior.

    Of several components one without light leaves the others to be sampled.
    """
    none = (fit.flags & int(Flag.NO_SIGNAL)) != 0
    return none if len(fit.space.shapes) == 1 else torch.zeros_like(none)


@torch.inference_mode()
def budgeted(
    cutouts: Cutouts,
    fit: Fit,
    fit_options: FitOptions,
    budget: BudgetOptions,
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Fit:
    """Return fits with the error budget added to their covariances, and its flags.

    Args:
        cutouts: B galaxies.
        fit: of them, made with ``fit_options``.
        fit_options: the model and its prior.
        budget: of the errors beyond the noise map's.
        device: where to compute.
        compile: whether the pixel kernels are compiled.
    """
    covariance, flags = fit.covariance.clone(), fit.flags.clone()
    for rows, part, problem in _pieces(cutouts, fit_options, device, compile):
        whitened, linear = whitened_point(fit[rows].to(device), problem, part)
        about = linearise(problem, part, whitened, linear)
        terms = error_budget(about, problem, part, budget)
        slopes = about.to_physical
        extra = (slopes @ terms.total @ slopes.mT).cpu()
        known = torch.isfinite(extra).flatten(1).all(dim=1)[:, None, None]
        covariance[rows] += torch.where(known, extra, 0.0)
        flags[rows] |= _signs(terms)
    return replace(fit, covariance=covariance, flags=flags)


def _pieces(
    cutouts: Cutouts, options: FitOptions, device: torch.device | str, compile: bool
) -> Iterator[tuple[Tensor, Cutouts, Problem]]:
    """The problems of `prepared`, a few galaxies at a time."""
    for rows, part, problem in prepared(cutouts, options, device, compile):
        columns = options.space.n_nonlinear + options.space.n_linear + 1
        at_once = max(1, NUMBERS_AT_ONCE // (part.image[0].numel() * columns))
        at_once = min(at_once, 32) if problem.box.device.type == "cpu" else 8 * at_once
        for some in torch.arange(len(rows)).split(at_once):
            here = some.to(problem.box.device)
            yield rows[some], part[some.tolist()], problem.at(here)


def physical(sampled: Sampled, budget: Budget | None, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Physical parameters (B, S, Q) of draws, widened by what the likelihood does not know of."""
    points = torch.cat([sampled.whitened, sampled.linear], dim=2)
    if budget is not None:
        points = widened(points, sampled.weights, budget.total)
    return physical_points(points, problem, cutouts)


def _distance(network: Network | None, about: Linearised, problem: Problem) -> Tensor:
    """(B,) of the fits, in the coordinates in which the flow is a standard normal."""
    if network is None:
        return torch.full_like(problem.box[:, 0], torch.nan)
    linear = about.linear * problem.pixels.scale[:, None]
    linear[:, 1] += problem.pixels.pedestal
    coords, _ = problem.space.from_whitened(about.whitened, problem.box)
    return network.density.distance(coords, linear)


@dataclass(frozen=True)
class _Piece:
    """Of some galaxies: rows (b,), samples (b, S, Q), their weights, distances, flags."""

    rows: Tensor
    samples: Tensor
    sampled: Sampled
    distance: Tensor
    flags: Tensor | int


def _signs(budget: Budget | None) -> Tensor | int:
    if budget is None:
        return 0
    own = (budget.own_chi2 - 1) / budget.own_scatter
    signs = (budget.misfit_significance, own, budget.psf_offset, budget.psf_wrong)
    return budget_flags(*signs).cpu()


def _joined(batch: int, fit: Fit, pieces: Sequence[_Piece]) -> Reconciled:
    """One result of the pieces, draws filled up to the longest with weight 0."""
    longest = max((piece.samples.shape[1] for piece in pieces), default=1)
    nothing = torch.full((batch,), torch.nan, dtype=torch.float64)
    samples = nothing[:, None, None].repeat(1, longest, len(fit.space.names))
    weights = torch.zeros(batch, longest, dtype=torch.float64)
    names = ("ess", "khat", "log_evidence", "missed", "n_draws")
    found = {name: nothing.clone() for name in names}
    distance, flags = nothing.clone(), torch.zeros(batch, dtype=torch.int64)
    for piece in pieces:
        rows, count = piece.rows, piece.samples.shape[1]
        samples[rows, :count] = piece.samples
        weights[rows, :count] = piece.sampled.weights.cpu()
        for name in names:
            found[name][rows] = getattr(piece.sampled, name).cpu().double()
        distance[rows], flags[rows] = piece.distance, piece.flags
    draws = Draws(fit.space, samples, weights)
    return Reconciled(draws, **found, flow_distance=distance, flags=flags)
