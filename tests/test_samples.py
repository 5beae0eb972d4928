"""Weighted draws: their moments and quantiles, around the circle and without draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import DOUBLE, SINGLE, TEXT

from hybridfit.calibration.sbc_samples import weighted_quantiles
from hybridfit.data.samples import Draws
from hybridfit.model.parameters import ParameterSpace

SPACE = ParameterSpace()
PA = SPACE.names.index("pa")
LEVELS = (0.16, 0.5, 0.84)


def random_draws(b: int = 4, s: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(b, s, 8, generator=generator, dtype=torch.float64)
    samples[..., PA] = 90 + 5 * samples[..., PA]
    times = torch.randint(0, 4, (b, s), generator=generator)
    return samples, times


def test_weights_count_as_repetitions():
    """Moments of draws with whole weights are those of the draws repeated as often."""
    samples, times = random_draws()
    weighted = Draws(SPACE, samples, times.double())
    assert torch.allclose(weighted.weights.sum(dim=1), torch.ones(4).double(), atol=SINGLE)
    for i in range(4):
        repeated = samples[i].repeat_interleave(times[i], dim=0).numpy()
        plain = [k for k in range(8) if k != PA]  # the mean of an angle is the circle's
        np.testing.assert_allclose(weighted.mean[i][plain], repeated.mean(axis=0)[plain], atol=TEXT)
        n = float(weighted.effective[i])
        expected = np.cov(repeated.T, ddof=0) * n / (n - 1)
        np.testing.assert_allclose(weighted.covariance[i], expected, rtol=1e-9, atol=DOUBLE)
    # a wrong twin: the same draws without their weights
    assert not torch.allclose(Draws(SPACE, samples).mean, weighted.mean, atol=1e-2)


def test_quantiles_agree_with_the_calibration_s_own():
    samples, times = random_draws(seed=1)
    ours = Draws(SPACE, samples, times.double()).quantiles(LEVELS)
    theirs = weighted_quantiles(samples.numpy(), LEVELS, times.numpy())
    np.testing.assert_allclose(ours.movedim(1, 0), theirs, atol=1e-9)
    equal = Draws(SPACE, samples).quantiles(LEVELS)
    expected = np.quantile(samples.numpy(), LEVELS, axis=1, method="hazen")
    np.testing.assert_allclose(equal.movedim(1, 0), expected, atol=1e-9)


def test_extreme_levels_stay_among_the_draws_that_count():
    samples, _ = random_draws(seed=2)
    weights = torch.ones(4, 40).double()
    far = samples.clone()
    far[:, 0, 2], weights[:, 0] = 1e6, 0.0
    quantiles = Draws(SPACE, far, weights).quantiles([0.0, 1.0])[..., 2]
    assert (quantiles[:, 1] == samples[:, 1:, 2].amax(dim=1)).all()
    assert (quantiles[:, 0] == samples[:, 1:, 2].amin(dim=1)).all()


def test_angles_have_no_beginning():
    """Draws turned by 90 degrees, across 0, keep their deviation and quantiles."""
    samples, times = random_draws(seed=3)
    turned = samples.clone()
    turned[..., PA] = (samples[..., PA] - 90) % 180
    plain, across = (Draws(SPACE, s, times.double()) for s in (samples, turned))
    assert torch.allclose(plain.std[:, PA], across.std[:, PA], atol=SINGLE)
    shift = (plain.quantiles(LEVELS) - across.quantiles(LEVELS))[..., PA] % 180
    assert torch.allclose(shift, torch.full_like(shift, 90.0), atol=SINGLE)
    assert (turned[..., PA].std(dim=1) > 5 * across.std[:, PA]).all()  # what a naive one gives


def test_galaxies_without_draws_have_no_numbers():
    samples, times = random_draws(seed=4)
    samples[1], times[2] = torch.nan, 0
    draws = Draws(SPACE, samples, times.double())
    assert draws.exist.tolist() == [True, False, False, True]
    for value in (draws.mean, draws.std, draws.quantiles(LEVELS)[:, 0]):
        assert torch.isnan(value[1:3]).all()
        assert torch.isfinite(value[[0, 3]]).all()
    assert draws.effective[1:3].tolist() == [0, 0]


def test_shapes_are_checked():
    samples, times = random_draws()
    with pytest.raises(ValueError, match="expected \\(B, S, 8\\)"):
        Draws(SPACE, samples[..., :5])
    with pytest.raises(ValueError, match="as the samples"):
        Draws(SPACE, samples, times[:, :7].double())


def test_one_draw_is_all_its_quantiles():
    """A galaxy that was fitted once, and one without a draw."""
    samples = torch.rand(2, 1, 8, dtype=torch.float64)
    weights = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    found = Draws(ParameterSpace(), samples, weights).quantiles([0.16, 0.5])
    torch.testing.assert_close(found[0], samples[0].expand(2, 8))
    assert torch.isnan(found[1]).all()


def test_padding_changes_nothing_that_is_quoted() -> None:
    """Parts of a batch have different numbers of draws; a table has one."""
    generator = torch.Generator().manual_seed(3)
    samples = torch.rand(2, 30, len(ParameterSpace().names), generator=generator).double()
    draws = Draws(ParameterSpace(), samples, torch.rand(2, 30, generator=generator).double())
    padded = draws.padded(50)
    assert padded.samples.shape[1] == padded.weights.shape[1] == 50
    assert (padded.weights[:, 30:] == 0).all()
    torch.testing.assert_close(padded.covariance, draws.covariance)
    torch.testing.assert_close(padded.quantiles([0.16, 0.5]), draws.quantiles([0.16, 0.5]))
