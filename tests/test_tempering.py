"""Sampling at the temperature of correlated noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from budget_helpers import OPTIONS, about, sample, smoothed
from fit_helpers import observe, population
from tolerances import SINGLE

import hybridfit as hf
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.error_budget import error_budget, noise_of
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.tempering import mean_excess, temperature, tempered


def test_white_noise_has_no_temperature() -> None:
    found = noise.white(5, torch.device("cpu"))
    assert torch.equal(temperature(sample(5, 80.0, 1)[0], found), torch.ones(5).double())


def test_temperature_is_the_gain_of_variance() -> None:
    """Galaxies far wider than the correlation feel all of it, 7.1; points feel less."""
    theta = population(6, 2, 96)
    theta[:3, 3], theta[3:, 3] = 9.0, 1.0
    cutouts, _ = observe(theta, 200.0, (96, 96), 2)
    line = np.correlate((1, 2, 1), (1, 2, 1), "full") / 6
    found = noise.given(torch.tensor(np.outer(line, line)), 6)
    hot = temperature(cutouts, found)
    whole = float(found.inflation[0]) ** 2
    assert (hot[:3] > 0.75 * whole).all()
    assert (hot[:3] <= whole).all()
    assert (hot[3:] < hot[:3].min()).all()
    assert (hot[3:] > 2).all()


def test_temperature_is_near_that_of_the_fit() -> None:
    """Moments give sizes to some ten percent, and T hardly depends on them: 15 % off at most."""
    cutouts, _ = sample(40, 60.0, 9, 64)
    linearised, problem, _ = about(cutouts, fit_cutouts(cutouts, OPTIONS))
    line = np.correlate((1, 2, 1), (1, 2, 1), "full") / 6
    found = noise.given(torch.tensor(np.outer(line, line)), len(cutouts))
    ratio = temperature(cutouts, found) / mean_excess(linearised, problem, found)
    assert 0.95 < float(ratio.median()) < 1.05
    assert float(ratio.log().abs().quantile(0.9)) < 0.15


def test_tempered_covariance_and_its_budget_are_the_untempered_ones() -> None:
    """Where the pixels outweigh the prior, T and what is left of the noise term make the whole."""
    cutouts, _ = sample(12, 1500.0, 3, 64)
    rough = smoothed(np.random.default_rng(4).standard_normal((12, 64, 64)), (1, 2, 1))
    cutouts = replace(
        cutouts, image=cutouts.image + 3 * torch.tensor(rough), sigma=cutouts.sigma * 3
    )
    linearised, problem, part = about(cutouts, fit_cutouts(cutouts, OPTIONS))
    options = BudgetOptions(psf_width_error=0, psf_shape_error=0, misfit=False)
    found = noise_of(cutouts, options)
    cold = error_budget(linearised, problem, part, options, found).terms["noise"]
    cold = cold + linearised.covariance
    hot = temperature(cutouts, found)
    assert (hot > 2).all()
    problem, about_hot, found = tempered(problem, linearised, found, hot)
    warm = error_budget(about_hot, problem, part, options, found).terms["noise"]
    assert float(torch.diagonal(warm, dim1=1, dim2=2).max()) > 0
    warm = warm + about_hot.covariance
    ratio = torch.diagonal(warm, dim1=1, dim2=2) / torch.diagonal(cold, dim1=1, dim2=2)
    # too large where T is more than a direction feels; smaller by what the prior gains in weight
    assert (ratio.sqrt() > 0.95).all()
    assert 0.95 < float(ratio.sqrt().median()) < 1.15
    assert torch.allclose(
        about_hot.residual * hot.sqrt()[:, None, None].float(), linearised.residual, atol=SINGLE
    )


def test_posteriors_follow_correlated_noise() -> None:
    """Widths of posteriors over those that take the noise for white, of bright galaxies."""
    theta = population(8, 5, 64)
    theta[:, 3] = np.maximum(theta[:, 3], 3.0)
    clean, _ = observe(theta, 1e6, (64, 64), 5)
    rough = smoothed(np.random.default_rng(6).standard_normal((8, 64, 64)), (1, 2, 1))
    scale = 1e6 / 60
    cutouts = replace(
        clean,
        image=clean.image + scale * torch.tensor(rough),
        sigma=clean.sigma * scale,
    )
    kwargs = {"fit": OPTIONS, "initial_values": "moments"}
    aware = hf.fit(cutouts, **kwargs)
    blind = hf.fit(cutouts, budget=BudgetOptions("off", 0, 0, 0, 0, 0, False), **kwargs)
    ratio = np.array([aware[f"{k}_err"] / blind[f"{k}_err"] for k in ("mag", "r_eff", "n", "q")])
    assert 1.9 < float(np.median(ratio)) < 2.9
