"""Starts from a posterior: the median first, then its ends, and only where it is wide."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import hybridfit as hf
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.moments import Starts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.posterior import packaged_estimator
from hybridfit.pipeline.network_start import ENDS, N_DRAWS, expectation, starts_of_one
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields

SPACE = ParameterSpace()


@pytest.fixture(scope="module")
def scenes():
    drawn = simulate_fields(64, 8, dataclasses.replace(CLEAN, sides=(48,), snr=(40.0, 300.0)))
    return drawn[torch.arange(12)]


def around(theta: torch.Tensor, width: float) -> torch.Tensor:
    """Draws (B, S, 6) of relative ``width`` about physical parameters."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(len(theta), N_DRAWS, 8, generator=generator, dtype=torch.float64)
    samples = theta[:, None].repeat(1, N_DRAWS, 1)
    samples[..., 2] += width * noise[..., 2]
    samples[..., 3:5] *= torch.exp(width * noise[..., 3:5])
    coords, _ = SPACE.from_physical(samples.flatten(0, 1), torch.zeros(samples[..., 0].numel()))
    return coords.view(len(theta), N_DRAWS, -1)


def test_the_first_start_is_the_median_and_the_others_its_ends(scenes):
    starts = starts_of_one(around(scenes.theta, 0.8))
    assert starts.coords.shape == (12, 1 + len(ENDS), 6)
    assert starts.wide.all()
    low, high = starts.coords[:, 1, 3], starts.coords[:, 2, 3]
    middle = starts.coords[:, 0, 3]
    assert (low < middle).all()
    assert (middle < high).all()
    coords, _ = SPACE.from_physical(scenes.theta, scenes.cutouts.zeropoint)
    # the median of 64 draws is good to 1.25 sigma / 8
    assert (middle - coords[:, 3]).abs().max() < 4 * 1.25 * 0.8 / 8


def test_a_narrow_posterior_gives_one_start(scenes):
    assert not starts_of_one(around(scenes.theta, 0.05)).wide.any()


def test_without_a_psf_moments_start_the_fit(scenes):
    """The network was not trained without one."""
    bare = dataclasses.replace(scenes.cutouts[:3], psf=None)
    one, other = (
        hf.fit(bare, uncertainty="covariance", compile="off", initial_values=values)
        for values in ("network", "moments")
    )
    assert (one["chi2"] == other["chi2"]).all()


def test_a_fit_takes_fewer_steps_from_the_truth_than_from_moments(scenes):
    options = FitOptions(compile="off")
    starts = starts_of_one(around(scenes.theta, 0.01))
    seeded = fit_cutouts(scenes.cutouts, options, starts=starts)
    plain = fit_cutouts(scenes.cutouts, options)
    assert seeded.n_iter.sum() < plain.n_iter.sum()
    # the same minimum, to what the optimiser's tolerance leaves
    assert (seeded.chi2 - plain.chi2).max() < 0.5


def test_starts_that_are_missing_are_moments(scenes):
    options = FitOptions(compile="off")
    nothing = Starts(torch.full((12, 3, 6), torch.nan, dtype=torch.float64), torch.ones(12) > 0)
    seeded = fit_cutouts(scenes.cutouts, options, starts=nothing)
    plain = fit_cutouts(scenes.cutouts, options)
    assert torch.equal(seeded.theta, plain.theta)


def test_further_starts_find_the_lower_minimum(scenes):
    # a first start at the far end of everything, and a further one at the truth
    coords, _ = SPACE.from_physical(scenes.theta, scenes.cutouts.zeropoint)
    lost = coords.clone()
    lost[:, :2] += 7.0
    lost[:, 2] -= 3.0
    options = FitOptions(compile="off", retry=True, coarse_fit=False)
    wide = torch.ones(len(coords), dtype=torch.bool)
    both = Starts(torch.stack([lost, coords], dim=1), wide)
    found = fit_cutouts(scenes.cutouts, options, starts=both)
    kept = fit_cutouts(scenes.cutouts, options, starts=Starts(both.coords, ~wide))
    best = fit_cutouts(scenes.cutouts, options, starts=Starts(coords[:, None], ~wide))
    assert (found.chi2 - best.chi2).max() < 1.0
    assert (kept.chi2 - best.chi2).max() > 1.0  # the twin without further starts


def test_starts_stay_in_the_position_box_of_the_users_prior(scenes):
    away = dataclasses.replace(scenes.cutouts, start=torch.nan)
    middle = (away.size.flip(1).double()[:, None] - 1) / 2
    narrow = Prior(position=0.03)  # 1.4 pixels of 48; targets lie up to 5 from the middle
    inside = (
        expectation(away, packaged_estimator(), prior=narrow).posterior.samples[..., :2] - middle
    )
    anywhere = expectation(away, packaged_estimator()).posterior.samples[..., :2] - middle
    assert inside.abs().nan_to_num(0.0).max() < 0.03 * 48
    assert anywhere.abs().max() > 0.03 * 48


def test_cutouts_of_one_galaxy(scenes):
    starts = starts_of_one(around(scenes.theta[3:4], 0.05))
    assert starts.coords.shape[0] == 1
