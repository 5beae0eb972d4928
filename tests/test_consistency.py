"""Distance of fit and flow: 1 where they agree as their errors say, large where one is wrong."""

from __future__ import annotations

import pytest
import torch

from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty.consistency import (
    MAX_DISAGREEMENT,
    comparison_coordinates,
    comparison_slopes,
    disagreement,
    disagreement_flags,
)

SPACE = ParameterSpace()
TRUTH = torch.tensor([32.0, 31.0, 21.0, 4.0, 1.5, 0.6, 40.0, 0.0], dtype=torch.float64)
SIGMA = torch.tensor([0.05, 0.05, 0.02, 0.1, 0.1, 0.02, 2.0, 0.01], dtype=torch.float64)


def distance_of(fit: Fit, samples: torch.Tensor) -> torch.Tensor:
    """The distance (B,) of fits from physical draws (B, S, 8)."""
    zeropoint = torch.full((len(samples),), 25.0)
    each = zeropoint.double().repeat_interleave(samples.shape[1])
    coords, linear = SPACE.from_physical(samples.flatten(0, 1), each)
    shape = samples.shape[:2]
    return disagreement(fit, coords.view(*shape, -1), linear.view(*shape, -1), zeropoint)


def made(offset: torch.Tensor, n: int = 200, n_draws: int = 64) -> torch.Tensor:
    """Distances of ``n`` galaxies whose fits lie ``offset`` joint deviations from the flow."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, 8, generator=generator, dtype=torch.float64)

    # both centres scatter about the truth by what they claim
    centre = TRUTH + SIGMA * normal(n)
    samples = centre[:, None] + SIGMA * normal(n, n_draws)
    theta = TRUTH + SIGMA * (normal(n) + offset * 2**0.5)
    covariance = torch.diag(SIGMA**2).expand(n, 8, 8)
    whole = torch.zeros(n, dtype=torch.int64)
    fit = Fit(SPACE, theta, covariance, whole.double(), whole, whole, whole)
    return distance_of(fit, samples)


def test_where_both_are_right_it_is_about_one():
    distance = made(torch.zeros(8, dtype=torch.float64))
    # d^2 x 7 is chi2 with 7 degrees of freedom, a little wider as 64 draws give the covariance
    assert distance.square().mean() == pytest.approx(1.0, abs=0.25)
    # as two independent measurements would be: chi2 of 7 degrees of freedom above 13.7, and a few
    # more as 64 draws give the covariance
    assert (disagreement_flags(distance) != 0).double().mean() < 0.2


@pytest.mark.parametrize("name", ["x", "mag", "n", "q"])
def test_one_wrong_parameter_is_enough(name):
    offset = torch.zeros(8, dtype=torch.float64)
    # of 7 coordinates one is off, so d is an offset over sqrt(7)
    offset[SPACE.names.index(name)] = 10 * MAX_DISAGREEMENT
    distance = made(offset)
    assert (disagreement_flags(distance) == int(Flag.DISAGREES)).float().mean() > 0.95


def test_a_missing_fit_has_no_distance_and_no_flag():
    n = 3
    theta = TRUTH.expand(n, 8).clone()
    theta[1] = torch.nan
    samples = TRUTH + SIGMA * torch.randn(n, 32, 8, dtype=torch.float64)
    samples[2] = torch.nan
    whole = torch.zeros(n, dtype=torch.int64)
    covariance = torch.diag(SIGMA**2).expand(n, 8, 8)
    fit = Fit(SPACE, theta, covariance, whole.double(), whole, whole, whole)
    distance = distance_of(fit, samples)
    assert torch.isfinite(distance).tolist() == [True, False, False]
    assert not disagreement_flags(distance).any()


def test_an_angle_near_180_degrees_is_near_0():
    n = 2
    theta = TRUTH.expand(n, 8).clone()
    theta[:, 6] = torch.tensor([179.8, 90.0])
    samples = TRUTH + SIGMA * torch.randn(n, 256, 8, dtype=torch.float64)
    samples[..., 6] = (0.3 + 2.0 * torch.randn(n, 256, dtype=torch.float64)) % 180
    whole = torch.zeros(n, dtype=torch.int64)
    covariance = torch.diag(SIGMA**2).expand(n, 8, 8)
    fit = Fit(SPACE, theta, covariance, whole.double(), whole, whole, whole)
    near, far = distance_of(fit, samples).tolist()
    assert near < MAX_DISAGREEMENT < far


def test_slopes_are_those_of_finite_differences():
    zeropoint = torch.full((8,), 25.0, dtype=torch.float64)
    step = 1e-6 * torch.eye(8, dtype=torch.float64)
    above, below = (
        comparison_coordinates(*SPACE.from_physical(TRUTH + sign * step, zeropoint))
        for sign in (1, -1)
    )
    expected = ((above - below) / 2e-6).T
    # central differences in float64
    assert (comparison_slopes(TRUTH[None])[0] - expected).abs().max() < 1e-7
