"""Slice sampling of a batch on targets whose answers are known, and diagnostics against arviz."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridfit.sampling import mcmc
from hybridfit.sampling.convergence import bulk_ess, split_rhat
from hybridfit.sampling.mcmc import Chain, MCMCOptions, sample

P = 6
ROOT = torch.from_numpy(np.random.default_rng(3).standard_normal((P, P))) + 1.5 * torch.eye(P)
FACTOR = torch.linalg.cholesky(ROOT @ ROOT.T)  # correlations up to .9
INVERSE = torch.linalg.inv(FACTOR)
BEND, FLARE = 0.5, 0.5

Density = Callable[[Tensor], Tensor]


def gaussian(z: Tensor) -> Tensor:
    return -0.5 * (z**2).sum(dim=1)


def banana(z: Tensor) -> Tensor:
    """z_1 follows BEND (z_0^2 - 1): mean 0, variance 1 + 2 BEND^2."""
    bent = z[:, 1] - BEND * (z[:, 0] ** 2 - 1)
    return gaussian(z) + 0.5 * (z[:, 1] ** 2 - bent**2)


def funnel(z: Tensor) -> Tensor:
    """Two-sided: the width of z_1 is exp(FLARE z_0), its variance exp(2 FLARE^2)."""
    log_width = FLARE * z[:, 0]
    return gaussian(z) + 0.5 * z[:, 1] ** 2 * (1 - torch.exp(-2 * log_width)) - log_width


TARGETS: dict[str, tuple[Density, float]] = {
    "gaussian": (gaussian, 1.0),
    "banana": (banana, 1 + 2 * BEND**2),
    "funnel": (funnel, math.exp(2 * FLARE**2)),
}


def exact(name: str, *shape: int, seed: int = 0) -> Tensor:
    """Independent draws (*shape, P) in whitened coordinates."""
    z = torch.randn(*shape, P, generator=torch.Generator().manual_seed(seed)).double()
    if name == "banana":
        z[..., 1] += BEND * (z[..., 0] ** 2 - 1)
    if name == "funnel":
        z[..., 1] *= torch.exp(FLARE * z[..., 0])
    return z


def long_run(name: str, batch: int = 32, seed: int = 1) -> Chain:
    """Many long chains of one target, from exact draws: what is left of error is the kernel's."""
    density = TARGETS[name][0]
    starts = exact(name, batch, 12) @ FACTOR.T
    options = MCMCOptions(steps=150, burn_in=20)
    return sample(lambda x, _: density(x @ INVERSE.T), starts, FACTOR.expand(batch, P, P), options)


def summaries(z: Tensor) -> Tensor:
    """Numbers (4, ..., P) of draws (..., S, P): centre, core, body, wings.

    All are bounded: the funnel's squares are so skewed that their mean over 32 galaxies is no
    Gaussian.
    """
    shares = [(z.abs() < limit).double() for limit in (0.5, 1.0, 2.0)]
    return torch.stack([torch.tanh(z), *shares]).mean(dim=-2)


def pulls(name: str, chain: Chain) -> Tensor:
    """Summaries of each coordinate against the known answers, which are of a million draws.

    In units of the error of their mean over the galaxies, as the galaxies' own scatter tells.
    """
    found = summaries(chain.samples @ INVERSE.T)  # (4, B, P)
    answers = summaries(exact(name, 1_000_000, seed=9))
    return (found.mean(dim=1) - answers) / (found.std(dim=1) / math.sqrt(len(chain.samples)))


@pytest.mark.parametrize("name", TARGETS)
def test_long_runs_give_the_known_answers(name: str) -> None:
    """24 numbers, each a t of 31 degrees of freedom: beyond 4.5 in one of 500 such tests."""
    assert float(pulls(name, long_run(name)).abs().max()) < 4.5


class _NoReference(mcmc.Reference):
    """A twin that forgets that the ellipse leaves T as it is: it samples the target times T."""

    def log_density(self, white: Tensor) -> Tensor:
        return 0 * white[..., 0]


class _FixedScale(mcmc.Reference):
    """A twin whose T is normal in the density, but a t in the draws."""

    def log_density(self, white: Tensor) -> Tensor:
        return -0.5 * (white**2).sum(dim=-1)


@pytest.mark.parametrize("twin", [_NoReference, _FixedScale])
def test_wrong_twins_fail(twin: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcmc, "Reference", twin)
    assert float(pulls("gaussian", long_run("gaussian")).abs().max()) > 6


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_is_worth_its_evaluations(name: str) -> None:
    """From too wide a Gaussian, with the options as they are, in fewer than 4000 evaluations.

    The funnel, as wide at one end as at the other it is narrow, is the hardest.
    """
    batch, walkers = 16, 12
    density = TARGETS[name][0]
    starts = 1.3 * exact("gaussian", batch, walkers) @ FACTOR.T
    guess = (1.5 * FACTOR).expand(batch, P, P)
    chain = sample(lambda x, _: density(x @ INVERSE.T), starts, guess)
    assert chain.samples.shape == (batch, walkers * MCMCOptions().steps, P)
    assert float(chain.evaluations.double().mean()) < 4000
    assert float(chain.ess.median()) > 80
    assert float(chain.rhat.median()) < 1.2
    assert ((chain.acceptance > 0.2) & (chain.acceptance < 0.8)).all()
    z = chain.samples @ INVERSE.T
    # a galaxy's mean is off by 1 / sqrt(ESS), the batch's by a quarter of that
    assert float(z.mean(dim=1).pow(2).mean().sqrt()) < 2 / math.sqrt(80)
    assert float(z.mean(dim=(0, 1)).abs().max()) < 0.1
    spread = z.std(dim=1).mean(dim=0)
    spread[1] /= math.sqrt(TARGETS[name][1])
    assert float((spread - 1).abs().max()) < 0.15


@pytest.mark.parametrize("starts", ["few", "far"])
def test_poor_starts_and_a_narrow_guess_are_forgotten(starts: str) -> None:
    """Three draws that are each other's copies, as of failed weights; or all 4 sigma away."""
    batch, walkers = 16, 12
    if starts == "few":
        begin = exact("gaussian", batch, 3).repeat(1, 4, 1)
    else:
        begin = 0.3 * exact("gaussian", batch, walkers)
        begin[:, :, 0] += 4.0
    chain = sample(
        lambda x, _: gaussian(x @ INVERSE.T),
        begin @ FACTOR.T,
        (0.3 * FACTOR).expand(batch, P, P),
    )
    z = chain.samples @ INVERSE.T
    assert float(chain.rhat.median()) < 1.15
    assert float(z.mean(dim=1).pow(2).mean().sqrt()) < 0.12
    assert float((z.std(dim=1).mean(dim=0) - 1).abs().max()) < 0.06


def test_each_row_has_its_own_density() -> None:
    centre = 10.0 * torch.arange(4).double()[:, None].expand(4, P)
    width = torch.tensor([0.1, 1.0, 10.0, 100.0]).double()

    def density(x: Tensor, rows: Tensor) -> Tensor:
        return gaussian((x - centre[rows]) / width[rows, None])

    starts = centre[:, None] + width[:, None, None] * exact("gaussian", 4, 12)
    factor = width[:, None, None] * torch.eye(P).double()
    chain = sample(density, starts, factor, MCMCOptions(steps=100))
    z = (chain.samples - centre[:, None]) / width[:, None, None]
    assert float(z.mean(dim=1).abs().max()) < 0.3
    assert float((z.std(dim=1) - 1).abs().max()) < 0.25
    rows = torch.arange(4).repeat_interleave(chain.samples.shape[1])
    expected = density(chain.samples.flatten(0, 1), rows).view(4, -1)
    torch.testing.assert_close(chain.log_density, expected)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf])
def test_what_is_not_finite_is_never_moved_to(bad: float) -> None:
    """A half of a Gaussian: what is drawn is the truncated one, of mean sqrt(2 / pi)."""

    def density(x: Tensor, _: Tensor) -> Tensor:
        return torch.where(x[:, 0] < 0, bad, gaussian(x))

    starts = exact("gaussian", 16, 12)  # half of the walkers stand where nothing is
    chain = sample(density, starts, torch.eye(P).double().expand(16, P, P), MCMCOptions(steps=100))
    assert (chain.samples[:, :, 0] >= 0).all()
    assert torch.isfinite(chain.log_density).all()
    mean = chain.samples[:, :, 0].mean(dim=1)
    error = float(mean.std()) / 4
    assert abs(float(mean.mean()) - math.sqrt(2 / math.pi)) < 4 * error
    assert error < 0.03


def test_galaxies_without_a_start_disturb_no_other() -> None:
    seen: list[Tensor] = []

    def density(x: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows)
        return torch.where(rows == 1, torch.nan, gaussian(x))

    starts = exact("gaussian", 3, 12)
    starts[2, 4] = torch.nan
    factor = torch.eye(P).double().expand(3, P, P)
    chain = sample(density, starts, factor)
    assert torch.isnan(chain.samples[1]).all()
    assert (chain.log_density[1] == -torch.inf).all()
    assert torch.isinf(chain.rhat[1])
    assert float(chain.ess[1]) == 0.0
    assert int(chain.evaluations[1]) == 12
    assert torch.isfinite(chain.samples[[0, 2]]).all()
    assert (chain.ess[[0, 2]] > 50).all()
    counts = torch.bincount(torch.cat(seen), minlength=3)
    assert torch.equal(counts, chain.evaluations)  # every evaluation is counted
    alone = sample(lambda x, r: torch.full((len(x),), torch.nan), starts, factor)
    assert torch.isnan(alone.samples).all()
    assert torch.isinf(alone.rhat).all()


def test_walkers_that_cannot_move_stay() -> None:
    """A density that is finite at the starts only: the chain ends, and is not trusted."""
    starts = exact("gaussian", 2, 8)

    def density(x: Tensor, _: Tensor) -> Tensor:
        known = (x[:, None] == starts.flatten(0, 1)[None]).all(dim=2).any(dim=1)
        return torch.where(known, 0.0, -torch.inf)

    chain = sample(density, starts, torch.eye(P).double().expand(2, P, P))
    steps = MCMCOptions().steps
    assert torch.equal(chain.samples.view(2, 8, steps, P)[:, :, -1], starts)
    assert (chain.rhat > 2).all()
    assert (chain.acceptance == 0).all()


def test_the_seed_decides() -> None:
    starts = exact("gaussian", 2, 12)
    factor = torch.eye(P).double().expand(2, P, P)
    before = torch.random.get_rng_state()
    one, two, other = (sample(lambda x, _: gaussian(x), starts, factor, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.samples, two.samples)
    assert not torch.equal(one.samples, other.samples)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_misuse() -> None:
    starts = exact("gaussian", 2, 8)
    with pytest.raises(ValueError, match="expected \\(B, W, P\\)"):
        sample(lambda x, _: gaussian(x), starts, torch.eye(P).double())
    with pytest.raises(ValueError, match="steps is 0"):
        MCMCOptions(steps=0)
    with pytest.raises(ValueError, match="inflate"):
        MCMCOptions(inflate=0.0)
    with pytest.raises(ValueError, match="expected \\(B, W, T, P\\)"):
        split_rhat(starts)


def autoregressive(rho: float, steps: int, batch: int = 3, seed: int = 4) -> np.ndarray:
    """Chains (batch, 5, steps, 2) of variance 1 with autocorrelation rho^t."""
    unit = np.random.default_rng(seed).standard_normal((batch, 5, steps, 2))
    chains = unit.copy()
    for t in range(1, steps):
        chains[:, :, t] = rho * chains[:, :, t - 1] + math.sqrt(1 - rho**2) * unit[:, :, t]
    return chains


@pytest.mark.parametrize("steps", [8, 9, 10, 11, 40, 101])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.95])
def test_diagnostics_are_arvizs(rho: float, steps: int) -> None:
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    chains = autoregressive(rho, steps)
    chains[0, :, :, 0] = chains[0, :, :, 0].round(1)  # ties
    ours = bulk_ess(torch.from_numpy(chains)).numpy(), split_rhat(torch.from_numpy(chains)).numpy()
    for b in range(3):
        for p in range(2):
            one = chains[b, :, :, p]
            ess = array_stats.ess(one, chain_axis=0, draw_axis=1, method="bulk")
            rhat = array_stats.rhat(one, chain_axis=0, draw_axis=1)
            assert ours[0][b, p] == pytest.approx(float(ess), rel=1e-9)
            assert ours[1][b, p] == pytest.approx(float(rhat), rel=1e-9)


def test_diagnostics_find_chains_that_disagree() -> None:
    fine = torch.from_numpy(autoregressive(0.0, 200))
    assert (split_rhat(fine) < 1.03).all()
    elsewhere, trend, wide = fine.clone(), fine.clone(), fine.clone()
    elsewhere[:, 0] += 1.5
    trend += torch.linspace(-1, 1, 200)[:, None]  # alike as wholes, not as halves
    wide[:, 0] *= 3  # alike in their means, not in their widths
    for chains in (elsewhere, trend, wide):
        assert (split_rhat(chains) > 1.05).all()
    slow = torch.from_numpy(autoregressive(0.9, 2000, batch=10))
    # an autoregression's known time: (1 + rho) / (1 - rho) = 19
    assert float(bulk_ess(slow).mean()) == pytest.approx(10000 / 19, rel=0.1)
    assert torch.isnan(bulk_ess(0 * fine)).all()
    assert torch.isnan(split_rhat(fine[:, :, :7])).all()
