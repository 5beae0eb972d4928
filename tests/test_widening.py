"""Widened draws have the covariance that was asked for, and keep their shape."""

from __future__ import annotations

import torch
from tolerances import DOUBLE

from hybridfit.uncertainty.widening import widened


def skewed(b: int = 3, s: int = 4000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated draws with a long side, of very different units, and uneven weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, s, 4, generator=generator, dtype=torch.float64)
    x[..., 1] = torch.exp(0.5 * x[..., 1]) + 0.8 * x[..., 0]
    weights = torch.rand(b, s, generator=generator, dtype=torch.float64)
    weights[:, ::7] = 0.0
    weights = weights / weights.sum(dim=1, keepdim=True)
    return x * torch.tensor([1.0, 1e-3, 1e4, 1.0]).double(), weights


def moments(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = (x * w[..., None]).sum(dim=1, keepdim=True)
    return mean, (x - mean).mT @ ((x - mean) * w[..., None])


def added(scale: float = 1.0) -> torch.Tensor:
    """A covariance of rank 2 in the draws' units."""
    modes = torch.tensor([[1.0, 5e-4, 0.0, 0.5], [0.3, 0.0, 2e4, 0.1]]).double() * scale
    return (modes.mT @ modes).expand(3, 4, 4)


def test_the_covariance_is_the_sum():
    x, w = skewed()
    mean, covariance = moments(x, w)
    new_mean, new = moments(widened(x, w, added()), w)
    expected = covariance + added()
    unit = torch.diagonal(expected, dim1=1, dim2=2).sqrt()
    unit = unit[:, :, None] * unit[:, None, :]
    # an algebraic identity: rounding alone
    assert torch.allclose(new / unit, expected / unit, atol=1e-9)
    assert torch.allclose(new_mean, mean, rtol=1e-9, atol=DOUBLE)
    assert not torch.allclose(covariance / unit, expected / unit, atol=0.1)  # the wrong twin


def test_nothing_added_changes_nothing():
    x, w = skewed(seed=1)
    same = widened(x, w, torch.zeros(3, 4, 4).double())
    assert torch.allclose(same, x, rtol=1e-7, atol=1e-9)
    unknown = widened(x, w, torch.full((3, 4, 4), torch.nan).double())
    assert torch.allclose(unknown, x, rtol=1e-7, atol=1e-9)


def test_the_long_side_stays():
    """Skewness survives a widening by half of the variance: new noise would have washed it out."""
    x, w = skewed(seed=2)
    extra = torch.diag_embed(0.5 * torch.diagonal(moments(x, w)[1], dim1=1, dim2=2))

    def skewness(values: torch.Tensor) -> torch.Tensor:
        mean, covariance = moments(values, w)
        third = (w * (values - mean)[..., 1] ** 3).sum(dim=1)
        return third / covariance[:, 1, 1] ** 1.5

    before, after = skewness(x), skewness(widened(x, w, extra))
    assert (after > 0.5 * before).all()
    assert (before > 0.3).all()


def test_draws_that_do_not_count_and_galaxies_without_any():
    x, w = skewed(seed=3)
    x[0, ::7] = torch.nan  # of weight 0
    w[1] = 0.0
    moved = widened(x, w, added())
    assert torch.isnan(moved[0, ::7]).all()
    assert torch.isfinite(moved[0, 1::7]).all()
    assert torch.equal(moved[1], x[1])
    single = widened(x[2:], w[2:], added()[2:])
    assert torch.allclose(single, moved[2:], rtol=1e-9, atol=DOUBLE)
