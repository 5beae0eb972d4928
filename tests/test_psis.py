"""Pareto smoothing against arviz-stats, and on weights whose tails are known."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridfit.sampling.psis import fit_pareto, pareto_k_limit, pareto_smooth, tail_length

RNG = np.random.default_rng(7)
TAILS = {
    "pareto": lambda size: RNG.pareto(1.0 / 0.6, size),
    "cauchy": lambda size: np.abs(RNG.standard_cauchy(size)),
    "lognormal": lambda size: np.exp(2.0 * RNG.standard_normal(size)),
    "uniform": lambda size: RNG.uniform(0.5, 1.0, size),
    "far down": lambda size: np.exp(8.0 * RNG.standard_normal(size)),
}


def arviz_smooth(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return array_stats.psislw(-log_weights)  # it takes negative log weights


def agrees(ours: Tensor, pareto_k: Tensor, log_weights: np.ndarray) -> bool:
    theirs, their_k = arviz_smooth(log_weights)
    # two orders of summation of some hundred terms, in double precision
    close = np.allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9)
    return bool(close and np.allclose(pareto_k.numpy(), their_k, rtol=1e-9, atol=1e-9))


@pytest.mark.parametrize("n", [25, 64, 225, 256, 1000])
@pytest.mark.parametrize("tail", TAILS)
def test_as_arviz(tail: str, n: int) -> None:
    raw = np.log(TAILS[tail]((40, n))) + RNG.normal(0, 300, (40, 1))
    smoothed = pareto_smooth(torch.from_numpy(raw))
    assert agrees(smoothed.log_weights, smoothed.pareto_k, raw)
    total = smoothed.weights.sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    torch.testing.assert_close(smoothed.ess, 1 / (smoothed.weights**2).sum(dim=1))


def test_wrong_twins_disagree_with_arviz() -> None:
    """Raw weights, and a fit without the prior on k, are not what the paper asks for."""
    raw = np.log(TAILS["pareto"]((40, 256)))
    good = pareto_smooth(torch.from_numpy(raw))
    assert not agrees(torch.log_softmax(torch.from_numpy(raw), dim=1), good.pareto_k, raw)
    m = tail_length(256)
    no_prior = (good.pareto_k * (m + 10) - 5) / m
    assert not agrees(good.log_weights, no_prior, raw)
    assert not agrees(good.log_weights + 1e-6, good.pareto_k, raw)


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_shape_of_a_pareto_is_found(k: float) -> None:
    """Draws from the distribution itself; 4000 of them know k to .02, so 30 rows to .01."""
    unit = RNG.uniform(size=(30, 4000))
    excess = 2.0 * (-np.log1p(-unit) if k == 0 else np.expm1(-k * np.log1p(-unit)) / k)
    found, sigma = fit_pareto(torch.from_numpy(np.sort(excess, axis=1)))
    assert float(found.mean()) == pytest.approx(k, abs=0.02)
    assert float(sigma.mean()) == pytest.approx(2.0, rel=0.02)


def test_importance_sampling_of_a_normal() -> None:
    """From a t5 the weights are bounded; from a normal of half the width they have no variance.

    The ratio's tail has k = 1 - (width of the proposal / of the target)^2: .75 for a half.
    """
    batch, n = 200, 1024
    wide = RNG.standard_t(5, (batch, n))
    log_t = -3 * np.log1p(wide**2 / 5)
    good = pareto_smooth(torch.from_numpy(-0.5 * wide**2 - log_t))
    assert (good.pareto_k < pareto_k_limit(n)).all()
    assert (good.ess > 0.7 * n).all()
    narrow = 0.5 * RNG.standard_normal((batch, n))
    bad = pareto_smooth(torch.from_numpy(-0.5 * narrow**2 + 2 * narrow**2))
    # the log factor of a Gaussian's tail, and the prior at .5, draw it down a little
    assert 0.45 < float(bad.pareto_k.median()) < 0.85
    assert float((bad.pareto_k > pareto_k_limit(n)).double().mean()) > 0.1


def test_smoothing_lowers_the_error() -> None:
    """What it is for: the mean square error of a self-normalised integral with heavy weights."""
    batch, n = 2000, 256
    points = torch.from_numpy(0.6 * RNG.standard_normal((batch, n)))
    raw = -0.5 * points**2 + 0.5 * (points / 0.6) ** 2
    smooth = pareto_smooth(raw).weights
    error = {
        name: float((((weights * points**2).sum(dim=1) - 1) ** 2).mean())
        for name, weights in (("raw", torch.softmax(raw, dim=1)), ("smooth", smooth))
    }
    assert error["smooth"] < error["raw"]


def test_order_and_largest_weight_are_kept() -> None:
    raw = torch.from_numpy(np.log(TAILS["cauchy"]((20, 100))))
    smoothed = pareto_smooth(raw)
    order = raw.argsort(dim=1)
    assert (smoothed.log_weights.gather(1, order).diff(dim=1) >= -1e-12).all()
    # below the tail nothing changes but the norm
    body = order[:, : 100 - tail_length(100)]
    moved = (smoothed.log_weights - raw).gather(1, body)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=0, atol=1e-12)
    norm = moved[:, 0]
    assert ((smoothed.log_weights.amax(dim=1) - norm) <= raw.amax(dim=1) + 1e-12).all()


def test_what_is_not_finite_has_no_weight() -> None:
    rng = np.random.default_rng(5)  # its own: of 64 draws a tail may be cut at another place
    raw = torch.from_numpy(rng.standard_normal((6, 64)))
    whole = pareto_smooth(raw)
    bad = torch.cat([raw, torch.full((6, 4), torch.nan)], dim=1)
    bad[:, -1], bad[:, -2] = -torch.inf, torch.inf
    smoothed = pareto_smooth(bad)
    assert (smoothed.weights[:, 64:] == 0).all()
    torch.testing.assert_close(smoothed.weights.sum(dim=1), torch.ones(6).double())
    assert torch.isfinite(smoothed.pareto_k).all()
    torch.testing.assert_close(smoothed.ess, whole.ess, rtol=0.05, atol=0)


def test_galaxies_without_weights_disturb_no_other() -> None:
    raw = torch.from_numpy(np.log(TAILS["pareto"]((5, 64))))
    mixed = raw.clone()
    mixed[1], mixed[3] = -torch.inf, torch.nan
    mixed[4] = 3.0
    alone, together = pareto_smooth(raw), pareto_smooth(mixed)
    for i in (0, 2):
        assert torch.equal(alone.log_weights[i], together.log_weights[i])
        assert alone.pareto_k[i] == together.pareto_k[i]
    assert (together.weights[[1, 3]] == 0).all()
    assert (together.ess[[1, 3]] == 0).all()
    assert torch.isinf(together.pareto_k[[1, 3]]).all()
    torch.testing.assert_close(together.weights[4], torch.full((64,), 1 / 64).double())
    assert float(together.ess[4]) == pytest.approx(64)
    assert float(together.pareto_k[4]) == 0.0


def test_few_weights_that_count() -> None:
    """Nine draws fell where the density is not 0: eight of them are the tail. Two are too few."""
    raw = torch.full((2, 256), -torch.inf).double()
    raw[0, :9] = torch.from_numpy(RNG.standard_normal(9))
    raw[1, :2] = 0.0
    smoothed = pareto_smooth(raw)
    assert torch.isfinite(smoothed.pareto_k[0])
    assert torch.isinf(smoothed.pareto_k[1])
    assert float(smoothed.ess[1]) == pytest.approx(2.0)
    torch.testing.assert_close(smoothed.weights.sum(dim=1), torch.ones(2).double())
    # the same nine alone: the same fit, of a tail of eight
    excess = torch.exp(raw[0, :9] - raw[0].max()).sort().values
    k, _ = fit_pareto((excess[1:] - excess[0])[None])
    torch.testing.assert_close(smoothed.pareto_k[:1], k)


def test_one_giant() -> None:
    """All others underflow: one draw, and no trust in it."""
    raw = torch.zeros(1, 64).double()
    raw[0, 5] = 1e4
    smoothed = pareto_smooth(raw)
    assert float(smoothed.ess[0]) == pytest.approx(1.0)
    assert float(smoothed.pareto_k[0]) > 1.0


def test_ties_at_the_threshold() -> None:
    """Weights that were cut at one value, as defensive mixtures do, with a few above it."""
    raw = torch.zeros(1, 256).double()
    raw[0, :3] = torch.tensor([0.1, 0.2, 0.3])
    smoothed = pareto_smooth(raw)
    assert torch.isfinite(smoothed.pareto_k).all()
    assert torch.isfinite(smoothed.log_weights).all()


@pytest.mark.parametrize("n", [1, 2, 5, 6, 16])
def test_few_draws(n: int) -> None:
    raw = torch.from_numpy(RNG.standard_normal((3, n)))
    smoothed = pareto_smooth(raw)
    torch.testing.assert_close(smoothed.weights.sum(dim=1), torch.ones(3).double())
    assert torch.isfinite(smoothed.pareto_k).all() == (n > 5)
    assert pareto_smooth(raw[:0]).pareto_k.shape == (0,)


def test_float32_and_wrong_shapes() -> None:
    raw = torch.from_numpy(RNG.standard_normal((3, 64))).float()
    assert pareto_smooth(raw).log_weights.dtype == torch.float64
    with pytest.raises(ValueError, match="expected \\(B, S\\)"):
        pareto_smooth(raw[0])
    with pytest.raises(ValueError, match="expected 2"):
        pareto_k_limit(1)


def test_limit_of_k() -> None:
    assert pareto_k_limit(100) == pytest.approx(0.5)
    assert pareto_k_limit(10**6) == 0.7


def test_cost() -> None:
    """256 galaxies of 256 draws: .05 ms a galaxy on one core, 1 ms with a busy machine."""
    raw = torch.from_numpy(np.log(TAILS["pareto"]((256, 256))))
    pareto_smooth(raw)
    start = time.process_time()
    pareto_smooth(raw)
    assert (time.process_time() - start) / 256 < 1e-3
