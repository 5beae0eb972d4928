"""The reconciled posterior: against integrals, long chains, and proposals that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fit_helpers import observe, population
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.approximate_likelihood import approximate_likelihood
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.linearised import Linearised, linearise, whitened_point
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.npe.density import NetworkDraws
from hybridfit.npe.posterior import draw, packaged_estimator
from hybridfit.pipeline.network_start import expectation
from hybridfit.sampling.importance_sampling import WeightedDraws, sample_posterior
from hybridfit.sampling.mcmc import MCMCOptions, sample
from hybridfit.sampling.mcmc_fallback import log_posterior, with_chains
from hybridfit.sampling.options import SamplingOptions
from hybridfit.sampling.proposal import EvaluatedDraws, FlowProposal, evaluated, flow_proposal
from hybridfit.sampling.student_t import factor_of

MIDDLE = np.array([32.0, 32.0, 0, 0, 0, 0, 0, 0])  # moves galaxies of 48 pixels into 112
CAREFUL = SamplingOptions(
    fit_draws=256, network_draws=64, round_draws=256, target_ess=800.0, max_draws=1400
)


@dataclass(frozen=True)
class Case:
    """A batch, its problem and its model about the fit."""

    cutouts: Cutouts
    problem: Problem
    about: Linearised

    def run(
        self, network: FlowProposal | None = None, options=SamplingOptions(), near=None
    ) -> WeightedDraws:
        with torch.inference_mode():
            return sample_posterior(
                self.problem, self.about, self.cutouts.id, network, near, options
            )


def make(cutouts: Cutouts, options: FitOptions = FitOptions()) -> Case:
    fit = fit_cutouts(cutouts, options)
    problem = build_problem(cutouts, options)
    with torch.inference_mode():
        whitened, linear = whitened_point(fit, problem, cutouts)
        return Case(cutouts, problem, linearise(problem, cutouts, whitened, linear))


@pytest.fixture(scope="module")
def faint() -> Case:
    """Four galaxies of S/N 12, whose posteriors are no Gaussians."""
    return make(observe(population(6, 4)[2:], 12.0, (40, 40), seed=5)[0])


@pytest.fixture(scope="module")
def expected(faint: Case) -> NetworkDraws:
    return expectation(faint.cutouts, packaged_estimator())


def proposal(case: Case, expected: NetworkDraws, n: int = 64, seed: int = 1) -> FlowProposal:
    draws = draw(expected.density, case.cutouts, n, seed)
    return flow_proposal(draws, expected.log_prob.amin(dim=1), case.problem)


def moments(sampled: WeightedDraws) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, P) of u."""
    weights = sampled.weights[..., None]
    mean = (weights * sampled.points.whitened.nan_to_num()).sum(dim=1)
    offset = sampled.points.whitened.nan_to_num() - mean[:, None]
    return mean, (weights * offset**2).sum(dim=1).sqrt()


@pytest.fixture(scope="module")
def truth(faint: Case) -> tuple[Tensor, Tensor]:
    """Mean and deviation of u from chains that are long: 40 walkers, 200 updates each."""
    everyone = torch.arange(len(faint.cutouts))
    covariance = faint.about.covariance[:, :6, :6]
    spread = torch.randn(len(everyone), 40, 6, generator=torch.Generator().manual_seed(2))
    factor = factor_of(covariance)
    starts = faint.about.whitened[:, None] + spread.double() @ factor.mT
    with torch.inference_mode():
        density = log_posterior(faint.problem, everyone)
        chain = sample(density, starts, factor, MCMCOptions(steps=200, burn_in=40))
    assert (chain.rhat < 1.08).all()
    assert (chain.ess > 600).all()
    return chain.samples.mean(dim=1), chain.samples.std(dim=1)


@pytest.mark.parametrize("with_flow", [True, False])
def test_agrees_with_long_chains(faint, expected, truth, with_flow: bool):
    """Means and widths to .13 sigma: 600 draws, and as many of the chain, leave .04 open in widths.

    The largest of 24 numbers is three times that.
    """
    network = proposal(faint, expected) if with_flow else None
    sampled = faint.run(network, CAREFUL)
    mean, std = moments(sampled)
    assert (sampled.diagnostics.pareto_k < 0.7).all()
    assert ((mean - truth[0]) / truth[1]).abs().max() < 0.13
    assert (std / truth[1] - 1).abs().max() < 0.13
    # a wrong twin: the same draws without their weights
    equal = replace(sampled, log_weights=torch.where(sampled.log_weights > -50, 0.0, -torch.inf))
    equal = replace(equal, log_weights=equal.log_weights.log_softmax(dim=1))
    assert (moments(equal)[1] / truth[1] - 1).abs().max() > 0.25


def test_the_flow_is_no_prior(faint, expected, truth):
    """A network that is sure of something else costs draws, and changes nothing."""
    network = proposal(faint, expected)
    shift = 2.0 * truth[1][:, None]

    class Elsewhere(FlowProposal):
        def log_density(self, points: EvaluatedDraws) -> Tensor:
            back = replace(points, whitened=points.whitened - shift)
            return FlowProposal.log_density(self, back)

        def __getitem__(self, rows: Tensor) -> FlowProposal:
            assert len(rows) in (0, len(faint.cutouts))  # nobody leaves before the others here
            return self

    names = ("density", "linear", "floor", "constants", "scale", "background")
    moved = Elsewhere(
        whitened=network.whitened + shift, **{name: getattr(network, name) for name in names}
    )
    options = replace(CAREFUL, target_ess=1400.0)  # so that all take all rounds
    mean, std = moments(faint.run(moved, options))
    assert ((mean - truth[0]) / truth[1]).abs().max() < 0.13
    assert (std / truth[1] - 1).abs().max() < 0.13


def test_flux_and_sky_are_integrated_over_exactly(faint):
    """The target is the integral of exp(-chi2 / 2) over flux and sky, on a grid here."""
    problem, row = faint.problem, torch.tensor([0, 0])
    whitened = torch.stack([faint.about.whitened[0], faint.about.whitened[0] + 0.2])[None]
    with torch.inference_mode():
        profiled = problem.profile(whitened[0], row)
        points = evaluated(whitened, profiled, torch.zeros(1, 2, 2).double(), None)
        coords, _ = problem.space.from_whitened(whitened[0], problem.constants[row])
        images = next(iter(problem.images(coords, row, False)))[2][0][:2, 0].double()
    data, weight = (v[0].double() for v in (problem.pixels.data, problem.pixels.weight))
    found = []
    for k in range(2):
        spread = torch.linalg.inv(profiled.factor[k]).norm(dim=0)
        axes = [torch.linspace(-9, 9, 181).double() * s for s in spread]
        flux = profiled.linear[k, 0] + axes[0]
        sky = profiled.linear[k, 1] + axes[1]
        base = (data * weight).flatten(), (images[k] * weight).flatten(), weight.flatten()
        gram = torch.stack(base) @ torch.stack(base).T
        c = torch.stack(
            [torch.ones(181, 181), -flux[:, None].expand(181, 181), -sky[None].expand(181, 181)]
        ).double()
        chi2 = torch.einsum("iab,ij,jab->ab", c, gram, c)
        least = chi2.min()
        area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
        found.append(torch.log(torch.exp(-0.5 * (chi2 - least)).sum() * area) - 0.5 * least)
    prior = -0.5 * (whitened[0] ** 2).sum(dim=1) - 3 * np.log(2 * np.pi)
    # chi2 is some 1,600 in float32 sums: .01 of a unit
    assert torch.allclose(points.target[0], torch.stack(found) + prior, atol=0.02)


def test_a_galaxy_does_not_depend_on_its_batch(faint, expected):
    network = proposal(faint, expected)
    together = faint.run(network)
    index = torch.tensor([3])
    with torch.inference_mode():
        alone = sample_posterior(
            faint.problem[index],
            Linearised(
                **{k: v[index] for k, v in vars(faint.about).items() if isinstance(v, Tensor)}
            ),
            [faint.cutouts.id[3]],
            network[index],
        )
    n = int(alone.diagnostics.n_draws[0])
    assert n == int(together.diagnostics.n_draws[3])
    # float32 sums in another order of the batch's products
    torch.testing.assert_close(
        alone.points.whitened[0, :n], together.points.whitened[3, :n], atol=2e-3, rtol=1e-3
    )
    assert abs(float(alone.diagnostics.ess[0] - together.diagnostics.ess[3])) < 2


def test_two_components_and_a_sky_with_slopes():
    """What the network does not know is sampled from the fit alone."""
    options = FitOptions(model=("sersic", "exponential"), sky="plane")
    values = np.array([[20.2, 19.8, 21, 2.0, 3.0, 0.8, 30, 20.1, 20.0, 21, 6.0, 0.6, 40, 0, 0, 0]])
    space = options.space
    cutouts, _ = observe(values, 300.0, (44, 44), space=space, profiles=options.profiles)
    sampled = make(cutouts, options).run(options=SamplingOptions(max_draws=2048))
    assert sampled.points.whitened.shape[2:] == (11,)
    assert sampled.points.linear.shape[2:] == (5,)
    assert float(sampled.diagnostics.ess[0]) > 50
    assert torch.isnan(sampled.diagnostics.missed_mass).all()


def test_no_component_takes_light_away():
    """Fluxes of all components are positive in draws that count, not the first's alone."""
    options = FitOptions(model=("sersic", "exponential"))
    values = np.array([[20.2, 19.8, 22, 2.0, 3.0, 0.8, 30, 20.1, 20.0, 24.5, 6.0, 0.6, 40, 0]])
    space = options.space
    cutouts, _ = observe(values, 60.0, (44, 44), space=space, profiles=options.profiles)
    sampled = make(cutouts, options).run(options=SamplingOptions(max_draws=512))
    assert (sampled.points.linear[..., 1] < 0).any(), (
        "the second one's flux is not known to be positive"
    )
    assert (sampled.points.linear[sampled.weights > 0][:, :2] > 0).all()


def test_masked_pixels_and_missing_fits(faint):
    """Garbage under the mask changes nothing; a galaxy without a fit has no draws."""
    mask = torch.zeros_like(faint.cutouts.mask)
    mask[:, 5:9, 30:36] = True
    filled = [torch.where(mask, value, faint.cutouts.image) for value in (0.0, 1e6)]
    one, other = (make(replace(faint.cutouts, image=i, mask=mask)).run() for i in filled)
    torch.testing.assert_close(one.points.whitened, other.points.whitened, equal_nan=True)
    whitened = faint.about.whitened.clone()
    whitened[1] = torch.nan
    lost = replace(faint, about=replace(faint.about, whitened=whitened)).run()
    assert (lost.weights[1] == 0).all()
    assert torch.isnan(lost.diagnostics.ess[1])
    assert torch.isfinite(lost.diagnostics.ess[[0, 2, 3]]).all()


def test_the_shortcut_agrees_with_the_whole_stamp():
    """In a window of 64 pixels the posterior is that of the whole 112, with 40 % of the cost."""
    cutouts, _ = observe(population(4, 6) + MIDDLE, 40.0, (112, 112), seed=7)
    case = make(cutouts)
    with torch.inference_mode():
        near = approximate_likelihood(case.problem, cutouts, case.about)
    assert near is not None
    (mean, std), (cheap, width) = (moments(case.run(near=n)) for n in (None, near))
    # the same draws in the first round; ln L may be off by .15, far out
    assert ((cheap - mean) / std).abs().max() < 0.1
    assert (width / std - 1).abs().max() < 0.1
    # a wrong twin: what is outside of the window forgotten
    blind = replace(near, gram=torch.zeros_like(near.gram) + 1e-9 * torch.eye(9))
    rows = torch.arange(4)
    with torch.inference_mode():
        away = (
            case.about.whitened
            + 2 * case.about.covariance[:, :6, :6].diagonal(dim1=1, dim2=2).sqrt()
        )
        exact, good, bad = (
            f.profile(away, rows).cost - f.profile(case.about.whitened, rows).cost
            for f in (case.problem, near, blind)
        )
    assert (good - exact).abs().max() < 0.3 * (bad - exact).abs().max()


def doubted(sampled: WeightedDraws, rows: slice) -> WeightedDraws:
    """The same draws, with weights of ``rows`` that cannot be trusted."""
    pareto_k = sampled.diagnostics.pareto_k.clone()
    pareto_k[rows] = 2.0
    return replace(sampled, diagnostics=replace(sampled.diagnostics, pareto_k=pareto_k))


def test_chains_take_over_where_weights_fail(faint, truth):
    """With hopeless weights the chain gives the same posterior, and says that it is one."""
    sampled = faint.run()
    failed = doubted(sampled, slice(0, 2))
    with torch.inference_mode():
        taken = with_chains(failed, faint.problem, faint.about, faint.cutouts.id, 50.0)
    assert torch.isnan(taken.diagnostics.pareto_k).tolist() == [True, True, False, False]
    mean, std = (value[:2] for value in moments(taken))
    # some 200 kept draws of a chain of 16 walkers
    assert ((mean - truth[0][:2]) / truth[1][:2]).abs().max() < 0.4
    assert (std / truth[1][:2] - 1).abs().max() < 0.3
    untouched = with_chains(sampled, faint.problem, faint.about, faint.cutouts.id, 50.0)
    assert untouched.points.whitened is sampled.points.whitened


def test_a_chain_does_not_depend_on_the_chains_beside_it(faint):
    """Of three that fail the second alone gives the same draws; those left out stay as they are."""
    sampled = faint.run()
    failed = doubted(sampled, slice(None))
    short = MCMCOptions(steps=24, burn_in=16)
    with torch.inference_mode():

        def chains(leave: list[bool]) -> WeightedDraws:
            which = torch.tensor(leave)
            about, ids = faint.about, faint.cutouts.id
            return with_chains(failed, faint.problem, about, ids, 50.0, 0, which, short)

        several = chains([False, False, False, True])
        alone = chains([True, False, True, True])
    spent = several.diagnostics.n_draws - sampled.diagnostics.n_draws
    assert (spent[:3] > 16 * 40).all()  # each walker's updates take one evaluation or more
    assert spent[3] == 0
    assert torch.equal(
        several.points.whitened[3].nan_to_num(), sampled.points.whitened[3].nan_to_num()
    )
    assert spent[1] == alone.diagnostics.n_draws[1] - sampled.diagnostics.n_draws[1]
    # the same numbers; the likelihood's float32 sums come in another order
    torch.testing.assert_close(
        several.points.whitened[1], alone.points.whitened[1], rtol=1e-3, atol=1e-3, equal_nan=True
    )


def test_what_the_network_missed(faint, expected):
    """Its share is small for the shipped network, and near 1 for one that looks elsewhere."""
    usual = faint.run(proposal(faint, expected))
    assert (usual.diagnostics.missed_mass < 0.2).all()
    network = proposal(faint, expected)
    blind = replace(network, floor=torch.full_like(network.floor, 1e3))
    assert (faint.run(blind).diagnostics.missed_mass > 0.99).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="prior_draws is 0, expected 1 or more"):
        SamplingOptions(prior_draws=0)
    with pytest.raises(ValueError, match="at most max_draws"):
        SamplingOptions(target_ess=5000)
