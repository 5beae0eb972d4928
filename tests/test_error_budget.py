"""The error budget: each term against the scatter that its flaw causes; what must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from budget_helpers import OPTIONS, about, budget_of, field_on, quoted, sample, smoothed
from fit_helpers import differences, observe, population
from tolerances import CHAIN, SINGLE

from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.rendering.render import render
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.error_budget import NONE, TERMS, error_budget
from hybridfit.uncertainty.options import BudgetOptions

# --- the whole ------------------------------------------------------------------------------


def test_terms_are_positive_and_finite() -> None:
    cutouts, _ = sample(24, 60.0, 1)
    budget, linearised, _ = budget_of(cutouts)
    assert tuple(budget.terms) == TERMS
    for term in budget.terms.values():
        assert term.shape == linearised.covariance.shape
        scale = torch.diagonal(linearised.covariance, dim1=1, dim2=2).sqrt()
        value = torch.linalg.eigvalsh(term / scale[:, :, None] / scale[:, None])
        assert value.min() > -1e-8
    assert torch.allclose(
        budget.total, sum(budget.terms.values(), torch.zeros(1).double()), atol=SINGLE
    )
    assert (quoted(linearised, budget.total) >= quoted(linearised) * (1 - 1e-9)).all()


def test_everything_off_adds_nothing() -> None:
    budget, _, _ = budget_of(sample(4, 60.0, 2)[0], NONE)
    assert not budget.total.any()


@pytest.mark.parametrize("name", TERMS)
def test_a_term_switched_off_is_zero_and_the_others_stay(name: str) -> None:
    off = {
        "noise": {"correlated_noise": "off"},
        "misfit": {"misfit": False},
        "psf": {"psf_width_error": 0.0, "psf_shape_error": 0.0},
        "sky": {"sky_error": 0.0, "sky_slope_error": 0.0},
    }
    cutouts, _ = sample(6, 300.0, 3)
    rough = torch.tensor(smoothed(np.random.default_rng(3).standard_normal((6, 48, 48)), (1, 1)))
    cutouts = replace(cutouts, image=cutouts.image + rough)
    whole, _, _ = budget_of(cutouts)
    assert all(term.any() for key, term in whole.terms.items() if key != "misfit")
    budget, _, _ = budget_of(cutouts, replace(BudgetOptions(), **off[name]))
    assert not budget.terms[name].any()
    if name in ("psf", "sky"):
        for other in set(TERMS) - {name}:
            assert torch.equal(budget.terms[other], whole.terms[other])


def test_batch_equals_loop() -> None:
    """Sums of float32 over pixels, in another order at most: 1e-3 of the errors."""
    cutouts, _ = sample(7, 100.0, 4)
    mask = torch.zeros_like(cutouts.mask)
    mask[::2, :, 30:36] = True
    cutouts = replace(cutouts, mask=mask)
    fit = fit_cutouts(cutouts, OPTIONS)
    linearised, problem, part = about(cutouts, fit)
    whole = error_budget(linearised, problem, part)
    for i in range(len(cutouts)):
        one = error_budget(*about(cutouts[[i]], fit[i : i + 1]))
        scale = torch.diagonal(linearised.covariance[i]).sqrt()
        for name in TERMS:
            apart = (one.terms[name][0] - whole.terms[name][i]) / scale[:, None] / scale
            assert apart.abs().max() < 1e-3 * max(1.0, float((whole.terms[name][i]).abs().max()))
        assert float(one.own_chi2[0]) == pytest.approx(float(whole.own_chi2[i]), rel=1e-4)


def test_what_is_masked_does_not_matter() -> None:
    cutouts, _ = sample(5, 100.0, 5)
    mask = torch.zeros_like(cutouts.mask)
    mask[:, 5:15, 5:20] = True
    image, sigma = cutouts.image.clone(), cutouts.sigma.clone()
    image[:, 5:15, 5:20] += 1e4 * torch.rand(5, 10, 15)
    sigma[:, 5:15, 5:20] = 1e-4
    clean, _, _ = budget_of(replace(cutouts, mask=mask))
    dirty, _, _ = budget_of(replace(cutouts, image=image, sigma=sigma, mask=mask))
    assert torch.equal(clean.total, dirty.total)


def test_a_galaxy_without_a_fit_has_no_budget_and_harms_no_other() -> None:
    cutouts, _ = sample(3, 100.0, 6)
    fit = fit_cutouts(cutouts, OPTIONS)
    whole = error_budget(*about(cutouts, fit))
    theta = fit.theta.clone()
    theta[1] = torch.nan
    budget = error_budget(*about(cutouts, replace(fit, theta=theta)))
    assert torch.isnan(budget.total[1]).all()
    assert torch.isnan(budget.own_chi2[1])
    for i in (0, 2):
        assert torch.allclose(budget.total[i], whole.total[i], rtol=1e-6, atol=SINGLE)


@pytest.mark.parametrize(
    "options",
    [
        FitOptions(model=("sersic", "exponential"), compile="off"),
        FitOptions(sky="plane", compile="off"),
        FitOptions(sky="fixed", compile="off"),
        FitOptions(convolution="galfit", compile="off"),
        FitOptions(objective="ml", compile="off"),
    ],
    ids=["two components", "plane", "fixed sky", "galfit", "ml"],
)
def test_any_model_has_a_budget(options: FitOptions) -> None:
    cutouts, _ = sample(3, 200.0, 7)
    if options.space.n_components > 1:
        one = population(3, 7)[:, :7]
        disk = np.delete(one, 4, axis=1) * (1, 1, 1, 1.8, 0.9, 1)
        theta = np.concatenate([one, disk, np.zeros((3, 1))], axis=1)
        cutouts, _ = observe(theta, 400.0, space=options.space, profiles=options.profiles)
    budget, _, fit = budget_of(cutouts, BudgetOptions(), options)
    size = options.space.n_nonlinear + options.space.n_linear
    assert budget.total.shape == (3, size, size)
    fitted = torch.isfinite(fit.theta).all(dim=1)  # one of two components may have no flux
    assert fitted.any()
    assert torch.isfinite(budget.total[fitted]).all()
    assert budget.terms["psf"][fitted].any()
    assert budget.terms["sky"][fitted].any()


def test_without_a_psf_there_is_no_doubt_of_it() -> None:
    cutouts, _ = observe(population(3, 8), 100.0, psf=None)
    budget, _, _ = budget_of(cutouts)
    assert not budget.terms["psf"].any()
    assert torch.isnan(budget.psf_wrong).all()
    assert torch.isfinite(budget.total).all()


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"budget\.psf_width_error is 2"):
        BudgetOptions(psf_width_error=2)
    with pytest.raises(ValueError, match=r"budget\.psf_wrong_fraction"):
        BudgetOptions(psf_wrong_fraction=1.0)


# --- correlated noise -----------------------------------------------------------------------


def test_errors_follow_correlated_noise() -> None:
    """Pulls of 120 galaxies scatter by 1 +- .065: within 4 of these with the term, not without."""
    theta = population(120, 9, 64)
    cutouts, truth = observe(theta, 80.0, (64, 64), 9)
    clean = render(torch.tensor(truth), cutouts, dtype=torch.float64).numpy()
    rough = smoothed(np.random.default_rng(10).standard_normal(clean.shape), (1, 2, 1))
    cutouts = replace(cutouts, image=torch.tensor(clean + rough))
    budget, linearised, fit = budget_of(cutouts)
    off = differences(fit.theta.numpy(), truth)[:, [0, 1, 2, 3, 4, 5]]
    plain = (off / quoted(linearised)[:, :6]).std(axis=0)
    whole = (off / quoted(linearised, budget.terms["noise"])[:, :6]).std(axis=0)
    assert (plain > 1.6).all()
    assert ((whole > 0.74) & (whole < 1.26)).all()
    assert abs(float(budget.noise_inflation.median()) / (16 / 6) - 1) < 0.08


def test_noise_autocorrelation_from_a_file(tmp_path: Path) -> None:
    line = np.array([0.1, 0.5, 1.0, 0.5, 0.1])
    image = np.outer(line, line)
    fits.writeto(tmp_path / "noise.fits", image.astype(np.float32))
    cutouts, _ = sample(3, 80.0, 11)
    fit = fit_cutouts(cutouts, OPTIONS)
    one = about(cutouts, fit)
    read = error_budget(*one, BudgetOptions(correlated_noise=str(tmp_path / "noise.fits")))
    given = error_budget(*one, found=noise.given(torch.tensor(image), 3))
    assert torch.allclose(read.terms["noise"], given.terms["noise"], rtol=1e-4, atol=CHAIN)
    assert torch.allclose(given.noise_inflation, torch.full((3,), line.sum()).double(), atol=SINGLE)
    fits.writeto(tmp_path / "cube.fits", np.zeros((2, 3, 3), np.float32))
    with pytest.raises(ValueError, match="two-dimensional"):
        error_budget(*one, BudgetOptions(correlated_noise=str(tmp_path / "cube.fits")))


# --- structure ------------------------------------------------------------------------------


def test_structure_is_found_and_covered() -> None:
    """A field of 10 %: its amplitude, and pulls of 80 galaxies; without it they are too large."""
    theta = population(80, 24)
    theta[:, 3] = np.maximum(theta[:, 3], 2.5)
    clean, truth = observe(theta, 300.0, (48, 48), 24)
    plain, _, _ = budget_of(clean)
    assert float((plain.misfit_amplitude == 0).double().mean()) > 0.9
    budget, linearised, fit = budget_of(field_on(clean, truth, 0.1, 25))
    assert 0.05 < float(budget.misfit_amplitude.median()) < 0.15
    off = differences(fit.theta.numpy(), truth)[:, [0, 1, 2, 3, 4, 5]]
    before = np.sqrt(np.median((off / quoted(linearised)[:, :6]) ** 2, axis=0)) / 0.6745
    after = off / quoted(linearised, budget.terms["misfit"])[:, :6]
    after = np.sqrt(np.median(after**2, axis=0)) / 0.6745
    assert (before > 1.8).all()
    assert ((after > 0.3) & (after < 1.4)).all()


def test_chi2_under_the_galaxys_own_light() -> None:
    """About 1 where all is right, and beyond its scatter where the profile is wrong."""
    cutouts, truth = sample(60, 200.0, 27)
    right, _, _ = budget_of(cutouts)
    pull = (right.own_chi2 - 1) / right.own_scatter
    assert abs(float(pull.mean())) < 0.5
    assert 0.7 < float(pull.std()) < 1.3
    wrong, _, _ = budget_of(field_on(cutouts, truth, 0.1, 28))
    assert float((pull > 4).double().mean()) < 0.05
    assert float(((wrong.own_chi2 - 1) / wrong.own_scatter > 4).double().mean()) > 0.5
    assert (right.own_pixels > 3).all()
