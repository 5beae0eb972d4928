"""Student-t proposals against scipy, their quasi-random draws, and factors of bad covariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tolerances import DOUBLE
from torch import Tensor

from hybridfit.sampling.student_t import (
    StudentT,
    factor_of,
    shifted,
    sobol_points,
    standard_t,
    weighted_moments,
)

RNG = np.random.default_rng(11)


def covariances(batch: int, size: int, spread: float = 1.0) -> Tensor:
    """Random correlated ones, with standard deviations from 1e-4 to 1e2 for a spread of 1."""
    root = RNG.standard_normal((batch, size, size)) + np.eye(size)
    scale = 10 ** (spread * RNG.uniform(-4, 2, (batch, size, 1)))
    root = root * scale
    return torch.from_numpy(root @ np.swapaxes(root, 1, 2))


def proposal(dof: float, batch: int = 3, size: int = 4, spread: float = 1.0) -> StudentT:
    mean = torch.from_numpy(RNG.standard_normal((batch, size)))
    return StudentT(mean, factor_of(covariances(batch, size, spread)), dof)


@pytest.mark.parametrize("dof", [1.0, 4.0, 30.0, math.inf])
def test_log_density_is_scipys(dof: float) -> None:
    t = proposal(dof, spread=0.3)  # scipy has its limits
    points = t.draw(torch.from_numpy(RNG.uniform(size=(50, 5))))
    ours = t.log_density(points)
    for i in range(3):
        scale = (t.factor[i] @ t.factor[i].T).numpy()
        theirs = stats.multivariate_t(t.mean[i].numpy(), scale, df=dof).logpdf(points[i].numpy())
        # scipy goes by the eigenvalues of matrices whose condition is 1e6 or so
        np.testing.assert_allclose(ours[i].numpy(), theirs, rtol=1e-8, atol=DOUBLE)


def integral(t: StudentT, density_of: StudentT) -> float:
    """Integral over the plane of the density, by importance sampling from a wide t."""
    points = t.draw(sobol_points(1 << 16, 3, seed=1))
    return float(torch.exp(density_of.log_density(points) - t.log_density(points)).mean())


def test_density_integrates_to_one_and_its_twin_does_not() -> None:
    factor = factor_of(covariances(1, 2, 0.1))
    mean = torch.zeros(1, 2).double()
    narrow, wide = StudentT(mean, factor, 5.0), StudentT(mean + 0.1, 2 * factor, 3.0)
    # 65536 quasi-random points of a smooth ratio
    assert integral(wide, narrow) == pytest.approx(1.0, abs=1e-3)

    class Forgetful(StudentT):
        """Its density lacks the factor's determinant."""

        def log_density(self, points: Tensor) -> Tensor:
            volume = torch.diagonal(self.factor, dim1=1, dim2=2).log().sum(dim=1)
            return super().log_density(points) + volume[:, None]

    assert abs(integral(wide, Forgetful(mean, factor, 5.0)) - 1) > 0.01


@pytest.mark.parametrize("dof", [3.0, 6.0, math.inf])
def test_draws_have_the_right_moments_and_quantiles(dof: float) -> None:
    t = proposal(dof)
    # per problem in its own whitened coordinates, where each marginal is a standard t
    draws = t.draw(sobol_points(4096, 5, seed=3))
    white = torch.linalg.solve_triangular(t.factor, (draws - t.mean[:, None]).mT, upper=False).mT
    levels = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    expected = stats.t(dof).ppf(levels) if math.isfinite(dof) else stats.norm.ppf(levels)
    found = np.quantile(white.numpy(), levels, axis=1)  # (5, B, P)
    # random draws would be off by .04 at the outer levels (1 sigma)
    np.testing.assert_allclose(
        found, np.broadcast_to(expected[:, None, None], found.shape), atol=0.04
    )
    if dof > 4:
        variance = dof / (dof - 2) if math.isfinite(dof) else 1.0
        spread = white.var(dim=1).numpy() / variance
        np.testing.assert_allclose(spread, 1.0, atol=0.05)
        correlated = np.corrcoef(white[0].numpy().T) - np.eye(4)
        assert np.abs(correlated).max() < 0.03


def test_a_wrong_twin_of_the_draws_is_found() -> None:
    """Normal draws, whose radius was forgotten, have too few outliers for their density."""
    points = sobol_points(4096, 5, seed=3)
    t, normal = standard_t(points, 3.0), standard_t(points, math.inf)
    expected = stats.t(3.0).ppf(0.975)
    assert np.quantile(t[:, 0].numpy(), 0.975) == pytest.approx(expected, rel=0.02)
    assert np.quantile(normal[:, 0].numpy(), 0.975) < 0.7 * expected


def test_quasi_random_draws_beat_random_ones() -> None:
    """Root mean square errors of mean and variance of 128 draws over 40 seeds."""
    t = StudentT(torch.zeros(1, 7).double(), torch.eye(7).double()[None], math.inf)

    def errors(uniform: Tensor) -> tuple[float, float]:
        draws = t.draw(uniform)[0]
        return float((draws.mean(dim=0) ** 2).mean()), float(((draws.var(dim=0) - 1) ** 2).mean())

    quasi = np.mean([errors(sobol_points(128, 8, seed=s)) for s in range(40)], axis=0)
    random = np.mean([errors(torch.from_numpy(RNG.uniform(size=(128, 8)))) for _ in range(40)], 0)
    assert quasi[0] < random[0] / 25  # five times nearer, as 25 times the draws
    assert quasi[1] < random[1] / 4


def test_points_are_cached_and_go_on() -> None:
    first, again = sobol_points(64, 5, seed=1), sobol_points(64, 5, seed=1)
    assert torch.equal(first, again)
    again.zero_()  # a caller's own copy
    assert torch.equal(sobol_points(64, 5, seed=1), first)
    assert not torch.equal(sobol_points(64, 5, seed=2), first)
    both = torch.cat([first, sobol_points(64, 5, seed=1, skip=64)])
    assert torch.equal(both, sobol_points(128, 5, seed=1))
    assert ((both > 0) & (both < 1)).all()
    # one point in each of 128 slices of every axis
    assert ((both * 128).long().sort(dim=0).values == torch.arange(128)[:, None]).all()
    before = torch.random.get_rng_state()
    sobol_points(32, 3, seed=99)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_shifts_keep_the_evenness_and_differ() -> None:
    points = sobol_points(256, 4, seed=1)
    turned = shifted(points, 3, seed=5)
    assert turned.shape == (3, 256, 4)
    assert not torch.equal(turned[0], turned[1])
    assert torch.equal(turned, shifted(points, 3, seed=5))
    assert ((turned > 0) & (turned < 1)).all()
    # means of 256 random numbers scatter by .018
    assert float((turned.mean(dim=1) - 0.5).abs().max()) < 0.004
    t = StudentT(torch.zeros(3, 3).double(), torch.eye(3).double().expand(3, 3, 3), 6.0)
    draws = t.draw(turned)
    assert draws.shape == (3, 256, 3)
    for i in range(3):  # the radii of the batch are computed once, and are the same as alone
        torch.testing.assert_close(draws[i], standard_t(turned[i], 6.0))


def test_factor_of_good_covariances_is_cholesky() -> None:
    covariance = covariances(20, 7, 0.3)
    torch.testing.assert_close(factor_of(covariance), torch.linalg.cholesky(covariance))


def test_factor_of_bad_covariances() -> None:
    good = covariances(7, 4, 0.2)
    bad = good.clone()
    bad[1, 2, 2] = -1.0
    bad[2, 0, 3] = bad[2, 3, 0] = torch.nan
    bad[3] = torch.nan
    bad[4, 1] = bad[4, 0] * 2  # singular: two parameters that are one
    bad[4, :, 1] = bad[4, :, 0] * 2
    bad[4, 1, 1] = bad[4, 0, 0] * 4
    bad[5, 0, 1] = bad[5, 1, 0] = 1.001 * (bad[5, 0, 0] * bad[5, 1, 1]).sqrt()
    bad[6, 3, 3] = torch.inf
    factor = factor_of(bad, fallback=9.0)
    assert torch.isfinite(factor).all()
    assert (torch.diagonal(factor, dim1=1, dim2=2) > 0).all()
    assert torch.equal(factor, factor.tril())
    product = factor @ factor.mT
    torch.testing.assert_close(product[0], good[0])  # a good one is not disturbed
    assert float(product[1, 2, 2]) == pytest.approx(9.0)
    keep = [0, 1, 3]
    torch.testing.assert_close(product[1][keep][:, keep], good[1][keep][:, keep])
    torch.testing.assert_close(product[3], 9.0 * torch.eye(4).double())
    # variances stay, and a direction that is not known to be narrow keeps its width
    for i in (4, 5):
        diagonal = torch.diagonal(product[i])
        torch.testing.assert_close(diagonal, torch.diagonal(bad[i]), rtol=1e-6, atol=0)
    assert float(product[6, 3, 3]) == pytest.approx(9.0)


def test_factor_of_nearly_singular_ones_can_be_used() -> None:
    """A draw has a finite density, and a step of it is neither nothing nor without end."""
    direction = torch.ones(1, 5).double()
    covariance = direction[:, :, None] * direction[:, None] + 1e-14 * torch.eye(5).double()
    t = StudentT(torch.zeros(1, 5).double(), factor_of(covariance), 6.0)
    draws = t.draw(sobol_points(64, 6))
    assert torch.isfinite(t.log_density(draws)).all()
    white = torch.linalg.solve_triangular(t.factor, draws.mT, upper=False)
    assert float(white.abs().max()) < 20


def test_weighted_moments_of_many_draws_are_their_own() -> None:
    truth = covariances(2, 4, 0.2)
    t = StudentT(torch.ones(2, 4).double(), factor_of(truth), math.inf)
    draws = t.draw(sobol_points(4096, 5))
    weights = torch.from_numpy(RNG.uniform(0.5, 1.5, (2, 4096)))
    weights /= weights.sum(dim=1, keepdim=True)
    mean, covariance = weighted_moments(draws, weights, 0 * t.mean, 100 * truth)
    scale = torch.diagonal(truth, dim1=1, dim2=2).sqrt()
    assert ((mean - 1).abs() < 0.06 * scale).all()
    # the given one, 100 times as large, counts as 4 draws of about 3800: 10 %
    ratio = torch.diagonal(covariance, dim1=1, dim2=2) / scale**2
    assert ((ratio > 1.0) & (ratio < 1.25)).all()
    own = np.cov(draws[0].numpy().T, aweights=weights[0].numpy())
    whitened = weighted_moments(draws, weights, 0 * t.mean, truth, strength=0.0)[1]
    np.testing.assert_allclose(whitened[0].numpy(), own, rtol=1e-9, atol=DOUBLE)


def test_weighted_moments_are_unbiased_where_the_given_one_is_right() -> None:
    """Over 4000 galaxies of 6 draws in 3 dimensions; without the shrinkage 1/6 would be lost."""
    truth = covariances(1, 3, 0.1).expand(4000, 3, 3)
    draws = torch.from_numpy(RNG.standard_normal((4000, 6, 3))) @ factor_of(truth).mT
    weights = torch.full((4000, 6), 1 / 6).double()
    mean, covariance = weighted_moments(draws, weights, torch.zeros(4000, 3), truth)
    ratio = torch.diagonal(covariance.mean(dim=0)) / torch.diagonal(truth[0])
    np.testing.assert_allclose(ratio.numpy(), 1.0, atol=0.03)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    offset = draws - mean[:, None]
    plain = torch.einsum("bsp,bsq->bpq", offset, offset) / 6  # the twin that forgets both
    ratio = torch.diagonal(plain.mean(dim=0)) / torch.diagonal(truth[0])
    assert (ratio < 0.9).all()


def test_weighted_moments_of_few_and_no_draws() -> None:
    given = covariances(3, 4, 0.1)
    draws = torch.from_numpy(RNG.standard_normal((3, 8, 4)))
    draws[:, 7] = torch.nan
    weights = torch.zeros(3, 8).double()
    weights[0, 2] = 1.0
    weights[1, :2] = 0.5
    mean, covariance = weighted_moments(draws, weights, torch.full((3, 4), 7.0), given)
    torch.testing.assert_close(mean[0], draws[0, 2])
    torch.testing.assert_close(covariance[0], given[0])
    torch.testing.assert_close(mean[2], torch.full((4,), 7.0).double())
    torch.testing.assert_close(covariance[2], given[2])
    assert (torch.linalg.eigvalsh(covariance[1]) > 0).all()


def test_misuse() -> None:
    t = proposal(4.0)
    with pytest.raises(ValueError, match="expected \\(\\[B,\\] S, 5\\)"):
        t.draw(torch.rand(8, 4))
    with pytest.raises(ValueError, match="expected \\(B, P\\) and"):
        StudentT(t.mean, t.factor[0], 4.0)
    with pytest.raises(ValueError, match="more than 0"):
        StudentT(t.mean, t.factor, 0.0)
