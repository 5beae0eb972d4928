"""The bootstrap: true scatter where the noise map lies, the posterior where all is as it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from budget_helpers import replicas_of
from fit_helpers import observe, population
from tolerances import CHAIN, SINGLE, TEXT
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.samples import Draws
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty import bootstrap as module
from hybridfit.uncertainty.bootstrap import parametric_equations, resampled_equations
from hybridfit.uncertainty.options import BootstrapOptions

KINDS = ("pixels", "parametric")


@pytest.fixture(scope="module")
def measured() -> tuple[Cutouts, Fit]:
    """60 galaxies of S/N 100, bright enough for their posteriors to be nearly normal."""
    cutouts, _ = observe(population(60, 1), 100.0, seed=3)
    return cutouts, fit_cutouts(cutouts)


def ratio(draws: Draws, fit: Fit) -> Tensor:
    """(Q,) standard deviations over those of the covariance, median over the galaxies."""
    return (draws.std / fit.error).median(dim=0).values


def apart(one: Draws, other: Draws, fit: Fit) -> Tensor:
    """(Q,) root mean square difference, replica by replica, in the covariance's errors."""
    offset = one.samples - other.samples
    pa = fit.space.names.index("pa")
    offset[..., pa] = (offset[..., pa] + 90) % 180 - 90
    return (offset / fit.error[:, None]).pow(2).mean(dim=(0, 1)).sqrt()


def test_known_answer_on_a_linear_problem():
    """The algebra alone: resampling gives White's sandwich, new noise the inverse information."""
    generator = torch.Generator().manual_seed(1)
    n, r = 4000, 3000
    x = torch.linspace(-1, 1, n)
    columns = torch.stack([torch.ones(n), x, x**2])
    # the scatter is not what sigma = 1 says, and rises to the edge
    residual = torch.randn(n, generator=generator) * (0.5 + 2 * x**2)
    counts = torch.stack(
        [
            torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n).float()
            for _ in range(r)
        ]
    )
    matrix, right = resampled_equations(columns, residual, counts)
    np.testing.assert_allclose(
        matrix[5], (columns * counts[5]) @ columns.T, rtol=1e-4, atol=1e-2, err_msg="float32 sums"
    )
    found = torch.linalg.solve(matrix, right[:, :, None])[:, :, 0].T.cov()
    wide = columns.double()
    information = wide @ wide.T
    inverse = torch.linalg.inv(information)
    sandwich = inverse @ (wide * residual.double() ** 2) @ wide.T @ inverse
    # 3,000 replicas know a standard deviation to 1.3 %
    np.testing.assert_allclose(
        found.diagonal().sqrt(), sandwich.diagonal().sqrt(), rtol=0.06, atol=SINGLE
    )
    naive = inverse.diagonal().sqrt()
    assert (sandwich.diagonal().sqrt() / naive - 1).abs().max() > 0.3, "the noise is too tame"
    noise = torch.randn(r, n, generator=generator)
    matrix, right = parametric_equations(columns, noise, information)
    found = torch.linalg.solve(matrix, right[:, :, None])[:, :, 0].T.cov()
    np.testing.assert_allclose(found.diagonal().sqrt(), naive, rtol=0.06, atol=SINGLE)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_covariance_where_the_noise_is_right(measured, kind: str):
    """Within 8 %: 100 replicas know a standard deviation to 7 %, its median over 60 to 1 %.

    The pixels' residuals are one draw of the noise: some 20 pixels bear on a centre, so that
    a galaxy's own error is known to 15 % from them, and the median of 60 to 2 %. The rest is
    left to skewness, which a covariance does not know.
    """
    cutouts, fit = measured
    draws = replicas_of(cutouts, fit, BootstrapOptions(kind, 100, refit=False))
    assert (draws.weights > 0).all()
    assert (ratio(draws, fit) - 1).abs().max() < 0.08
    offset = (draws.mean - fit.theta) / fit.error
    offset[:, 6] = 0  # an angle near 180 may come back as one near 0
    # the largest of 480 means of 100 draws lies .35 off; the rest is skewness
    assert offset.abs().max() < 0.7


def test_only_pixels_follow_the_true_scatter(measured):
    """A noise map half as high as the noise: new noise of sigma repeats its lie."""
    cutouts, _ = measured
    wrong = replace(cutouts, sigma=cutouts.sigma / 2)
    fit = fit_cutouts(wrong)
    options = BootstrapOptions("pixels", 100, refit=False)
    assert (ratio(replicas_of(wrong, fit, options), fit) / 2 - 1).abs().max() < 0.08
    twin = ratio(replicas_of(wrong, fit, replace(options, kind="parametric")), fit)
    assert (twin - 1).abs().max() < 0.08
    assert (twin / 2 - 1).abs().min() > 0.3, "the wrong twin passes: the test sees nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_the_refit_where_the_model_is_linear(kind: str):
    """The same random numbers, replica by replica: what is left falls as one over S/N."""
    galaxies = population(3, 5)
    for snr, limit in ((3000.0, 0.03), (300.0, 0.3)):
        cutouts, _ = observe(galaxies, snr, seed=2)
        fit = fit_cutouts(cutouts)
        full = replicas_of(cutouts, fit, BootstrapOptions(kind, 12, refit=True))
        quick = replicas_of(cutouts, fit, BootstrapOptions(kind, 12, refit=False))
        assert (full.weights > 0).all()
        assert apart(full, quick, fit).max() < limit
    other = replicas_of(cutouts, fit, BootstrapOptions(kind, 12, refit=False, seed=1))
    assert apart(full, other, fit).min() > 1, "other random numbers are no closer than this"


def test_refits_equal_the_covariance(measured):
    """As above for refits: 60 replicas of 12 galaxies, a median known to 3 %, and skewness."""
    cutouts, fit = measured[0][:12], measured[1][:12]
    draws = replicas_of(cutouts, fit, BootstrapOptions("parametric", 60))
    assert (draws.weights > 0).float().mean() > 0.99
    assert (ratio(draws, fit) - 1).abs().max() < 0.12


def test_what_the_pixels_leave_open_is_the_prior():
    """A galaxy of S/N 1.5: its index is known from the prior alone, and so is its error.

    A bootstrap that holds the prior's centre would quote a small one here.
    """
    cutouts, _ = observe(population(40, 1)[:20], 1.5, seed=3)
    fit = fit_cutouts(cutouts)
    draws = replicas_of(cutouts, fit, BootstrapOptions("parametric", 100, refit=False))
    index = draws.samples[..., fit.space.names.index("n")].log()
    width = torch.tensor([index[i][draws.weights[i] > 0].std() for i in range(len(cutouts))])
    assert width.nanmedian() > 0.5 * FitOptions().prior.n.sigma


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_do_not_matter(measured, kind: str, refit: bool, monkeypatch):
    """One by one, in a part-filled last batch, or all at once: the same replicas."""
    cutouts, fit = measured
    cutouts, fit = cutouts[:5], fit[:5]
    options = BootstrapOptions(kind, 5, refit=refit, seed=7)
    whole = replicas_of(cutouts, fit, options)
    again = replicas_of(cutouts, fit, options)
    assert torch.equal(whole.samples, again.samples), "not reproducible"
    turned = replicas_of(cutouts[[4, 1]], fit[torch.tensor([4, 1])], options)
    np.testing.assert_allclose(turned.samples, whole.samples[[4, 1]], rtol=1e-6, atol=CHAIN)
    more = replicas_of(cutouts[:1], fit[:1], replace(options, replicas=7))
    np.testing.assert_allclose(more.samples[0, :5], whole.samples[0], rtol=1e-6, atol=CHAIN)
    each = cutouts.image[0].numel()
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 80 * each)  # of 25 pairs some, the last few
    monkeypatch.setattr(module, "COUNTS_AT_ONCE", 2 * each)
    parts = replicas_of(cutouts, fit, options)
    # float32 sums in another order
    np.testing.assert_allclose(parts.samples, whole.samples, rtol=1e-5, atol=CHAIN)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_pixels_have_no_influence(measured, kind: str, refit: bool):
    """Garbage below a mask, and a wider padding, change no draw."""
    cutouts, _ = measured
    mask = torch.zeros_like(cutouts.mask[:3])
    mask[:, 5:12, 30:] = True
    clean = replace(cutouts[:3], mask=mask)
    garbage = torch.where(mask, torch.tensor(1e5), cutouts.image[:3])
    garbage[0, 6, 33] = torch.nan
    dirty = replace(clean, image=garbage, sigma=torch.where(mask, 1e-3, clean.sigma))
    fit = fit_cutouts(clean)
    options = BootstrapOptions(kind, 4, refit=refit)
    one, other = replicas_of(clean, fit, options), replicas_of(dirty, fit, options)
    assert torch.equal(one.samples, other.samples)
    # unlike garbage that is not masked
    seen = replicas_of(replace(dirty, mask=mask & (garbage == 0)), fit, options)
    if kind == "pixels":
        assert not torch.allclose(one.samples, seen.samples, rtol=1e-3, atol=CHAIN)


@pytest.mark.parametrize("refit", [False, True])
def test_galaxies_without_a_fit_stop_nothing(measured, refit: bool):
    cutouts, _ = measured
    image = cutouts.image[:4].clone()
    image[1] = torch.nan
    cutouts = replace(cutouts[:4], image=image)
    fit = fit_cutouts(cutouts)
    assert torch.isnan(fit.theta[1]).all()
    draws = replicas_of(cutouts, fit, BootstrapOptions("pixels", 4, refit=refit))
    assert draws.exist.tolist() == [True, False, True, True]
    assert torch.isnan(draws.samples[1]).all()
    assert torch.isnan(draws.std[1]).all()
    none = replicas_of(cutouts[:0], fit[:0], BootstrapOptions("pixels", 4, refit=refit))
    assert none.samples.shape == (0, 4, 8)
    only = replicas_of(cutouts[1:2], fit[1:2], BootstrapOptions("pixels", 4, refit=refit))
    assert not only.exist.any()


def test_failed_replicas_do_not_count(measured, monkeypatch):
    """What does not settle in one evaluation has weight 0, and the others share what is left."""
    cutouts, fit = measured
    draws = replicas_of(cutouts[:2], fit[:2], BootstrapOptions("pixels", 6), FitOptions(max_iter=1))
    assert (draws.weights == 0).any()
    bad = draws.weights == 0
    assert torch.isnan(draws.samples[bad]).all()
    assert torch.isfinite(draws.samples[~bad]).all()


@pytest.mark.parametrize("sky", ["fixed", "constant", "plane"])
def test_every_sky(sky: str):
    space = ParameterSpace(sky=sky)
    theta = population(6, 2)
    theta[:, 7] = 0.3
    slopes = np.full((6, 2), 0.004)
    truth = np.concatenate([theta, slopes], axis=1) if sky == "plane" else theta
    cutouts, _ = observe(truth, 100.0, seed=4, space=space)
    options = FitOptions(sky=sky, sky_value=0.3)
    fit = fit_cutouts(cutouts, options)
    for kind in KINDS:
        draws = replicas_of(cutouts, fit, BootstrapOptions(kind, 100, refit=False), options)
        full = replicas_of(cutouts[:1], fit[:1], BootstrapOptions(kind, 4), options)
        assert full.exist.all()
        wide = ratio(draws, fit)
        if sky == "fixed":
            assert draws.std[:, 7].max() < 1e-9
            np.testing.assert_allclose(draws.mean[:, 7], 0.3, atol=TEXT)
            wide = wide[:7]
        # a median over 6 galaxies of errors from 100 replicas: 3 %, and as much again of pixels
        assert (wide - 1).abs().max() < 0.2
        assert ((draws.mean - fit.theta) / fit.error)[:, [0, 1, 2, 3, 4, 5]].abs().max() < 0.5


def test_several_components():
    space = ParameterSpace.of_shapes((("n",), ("n",)))
    one, other = population(4, 3, 64), population(4, 4, 64)
    other[:, :2] += 14.0
    truth = np.concatenate([one[:, :7], other], axis=1)
    options = FitOptions(("sersic", "sersic"))
    cutouts, truth = observe(truth, 200.0, (64, 64), 5, space, options.profiles)
    fit = fit_cutouts(cutouts, options)
    usable = torch.isfinite(fit.theta).all(dim=1)
    assert usable.any()
    draws = replicas_of(cutouts, fit, BootstrapOptions("parametric", 60, refit=False), options)
    assert draws.samples.shape == (4, 60, 15)
    assert torch.equal(draws.exist, usable)
    full = replicas_of(cutouts[:1], fit[:1], BootstrapOptions("pixels", 3), options)
    assert full.samples.shape == (1, 3, 15)


def test_maximum_likelihood_has_no_prior(measured):
    cutouts, _ = measured
    options = FitOptions(objective="ml")
    fit = fit_cutouts(cutouts, options)
    draws = replicas_of(cutouts, fit, BootstrapOptions("pixels", 100, refit=False), options)
    assert (ratio(draws, fit) - 1).abs().max() < 0.1


def test_misuse_is_told():
    with pytest.raises(ValueError, match="kind is 'jackknife', expected one of pixels, parametric"):
        BootstrapOptions(kind="jackknife")
    with pytest.raises(ValueError, match="replicas is 1, expected 2 or more"):
        BootstrapOptions(replicas=1)
    cutouts, _ = observe(population(2, 1), 50.0)
    fit = fit_cutouts(cutouts)
    with pytest.raises(ValueError, match="1 fits came for 2 galaxies"):
        replicas_of(cutouts, fit[:1])
