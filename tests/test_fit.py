"""Fits of simulated galaxies: right, with honest errors, and none disturbs another."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_helpers import (
    Array,
    apart,
    catastrophic,
    differences,
    load_sims,
    observe,
    population,
    pulls,
)
from render_helpers import gaussian_psf, moffat_psf
from tolerances import TEXT

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.compile import MAX_SHAPES, compiled_kernels, wants_compile
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.window import window_problem
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import LogNormal, Prior
from hybridfit.model.profiles import PROFILES, Sersic
from hybridfit.rendering.convolution import GalfitConvolution
from hybridfit.rendering.render import render
from hybridfit.uncertainty.covariance import quote_covariance

NAMES = ParameterSpace().names
ML = FitOptions(objective="ml")


@pytest.fixture(scope="module")
def sample() -> tuple[Cutouts, Array, Fit]:
    """64 galaxies at S/N 20 to 500, their truth and their fits."""
    cutouts, truth = observe(population(64, 1), np.geomspace(20, 500, 64))
    return cutouts, truth, fit_cutouts(cutouts)


# --- right answers, honest errors -----------------------------------------------------------


def test_nearly_noise_free_galaxies_are_found_again() -> None:
    """At S/N 1e5 what is left is the kernels' own float32: 1e-3 of each, 0.1 degree."""
    theta = population(30, 2)
    cutouts, truth = observe(theta, 1e5)
    fit = fit_cutouts(cutouts)
    error = np.abs(differences(fit.theta.numpy(), truth))
    assert (error[:, :3] < 1e-3).all()  # x, y, mag
    assert (error[:, 3:5] / truth[:, 3:5] < 2e-3).all()  # r_eff, n
    assert (error[:, 5] < 1e-3).all()
    assert (error[:, 6] < 0.1).all()


def test_pulls_of_a_population(sample: tuple[Cutouts, Array, Fit]) -> None:
    """Standard deviations of 1; 64 galaxies leave +-0.09, so 0.7 to 1.3 is 3.4 sigma."""
    _, truth, fit = sample
    p = pulls(fit, truth)
    assert (p.std(axis=0) > 0.7).all()
    assert (p.std(axis=0) < 1.3).all()
    assert np.abs(p).max() < 5.5
    assert (np.abs(fit.chi2 / fit.dof - 1) < 5 * torch.sqrt(2 / fit.dof.double())).all()
    assert (fit.dof == 48 * 48 - 8).all()
    assert not (fit.flags & int(Flag.NOT_CONVERGED | Flag.NO_SIGNAL | Flag.POOR_FIT)).any()


def scatter(factor: float = 1.0) -> tuple[Array, float]:
    """Scatter over quoted error of each parameter, and the mean of d^T C^-1 d over its
    expectation, in 400 noise realisations of one galaxy; errors times ``sqrt(factor)``."""
    n = 400
    one = [[24.1, 23.2, 20.0, 3.5, 2.0, 0.55, 40.0, 0.3]]
    cutouts, truth = observe(np.repeat(one, n, axis=0), 120.0, seed=5)
    fit = fit_cutouts(cutouts)
    assert int((fit.flags != 0).sum()) == 0
    difference = differences(fit.theta.numpy(), truth)
    covariance = factor * fit.covariance.numpy()
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).mean(axis=0)
    joint = np.einsum("bi,bij,bj->b", difference, np.linalg.inv(covariance), difference)
    return difference.std(axis=0) / error, float(joint.mean() / len(NAMES))


def honest(ratio: Array, joint: float) -> bool:
    """Within what 400 realisations leave: 3.5 % of a scatter, 2.5 % of the joint chi2; 4 times
    that, and no more than half the way to a covariance that is wrong by 2."""
    return bool((np.abs(ratio - 1) < 0.15).all()) and abs(joint - 1) < 0.12


def test_covariance_is_the_scatter() -> None:
    assert honest(*scatter())


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_covariance_would_be_noticed(factor: float) -> None:
    assert not honest(*scatter(factor))


@pytest.mark.parametrize("sky", ["constant", "plane", "fixed"])
def test_covariance_is_the_inverse_curvature(sky: str) -> None:
    """(J^T W J)^-1 in physical parameters, J by float64 differences of the public render.

    1 % of each correlation: the analytic Jacobian's own difference from the renderer's.
    Masked pixels and unequal sigma are in it.
    """
    space = ParameterSpace(sky=sky)
    slopes = [0.01, -0.02] if sky == "plane" else []
    one = [24.3, 22.7, 20.0, 3.0, 2.5, 0.6, 70.0, 0.4, *slopes]
    cutouts, _ = observe([one], 300.0, space=space, seed=3)
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[0, 26:30, 20:23] = True
    sigma = 1 + 0.5 * torch.rand(1, 48, 48, generator=torch.Generator().manual_seed(1))
    cutouts = replace(cutouts, mask=mask, sigma=sigma)
    fit = fit_cutouts(cutouts, FitOptions(objective="ml", sky=sky, sky_value=0.4))
    weight = torch.where(mask, 0.0, 1 / sigma.double())[0]
    columns = []
    whitened = len(space.names) - (sky == "fixed")
    for j in range(whitened):
        step = torch.zeros_like(fit.theta)
        step[0, j] = 1e-4
        high, low = (
            render(fit.theta + s, cutouts, space, dtype=torch.float64) for s in (step, -step)
        )
        columns.append(((high - low)[0] / 2e-4 * weight).flatten())
    jacobian = torch.stack(columns, dim=1)
    expected = torch.linalg.inv(jacobian.T @ jacobian).numpy()
    found = fit.covariance[0].numpy()
    if sky == "fixed":
        assert (found[-1] == 0).all()
        assert fit.theta[0, -1] == pytest.approx(0.4, abs=1e-12)
        found = found[:-1, :-1]
    scale = np.sqrt(np.diag(expected))
    assert np.abs((found - expected) / scale / scale[:, None]).max() < 0.01
    used = int((~mask).sum())
    assert fit.dof[0] == used - whitened
    residual = (cutouts.image.double() - render(fit.theta, cutouts, space, dtype=torch.float64))[0]
    assert float(fit.chi2[0]) == pytest.approx(float(((residual * weight) ** 2).sum()), rel=1e-5)


def test_a_prior_narrows_the_errors() -> None:
    """Without data of n a narrow prior's width is the error of n; ml does not know it."""
    cutouts, _ = observe([[24.0, 23.5, 20.0, 3.0, 1.5, 0.6, 70.0, 0.0]], 30.0)
    prior = Prior(n=LogNormal(1.5, 0.05, 0.3, 8.0))
    narrow = fit_cutouts(cutouts, FitOptions(prior=prior))
    wide = fit_cutouts(cutouts, ML)
    assert 0.5 * 0.075 < float(narrow.error[0, 4]) < 1.02 * 0.075
    assert float(wide.error[0, 4]) > 2 * 0.075


def test_an_unknown_angle_is_quoted_as_such() -> None:
    cutouts, _ = observe([[24.0, 23.5, 20.0, 3.0, 1.0, 1.0, 0.0, 0.0]], 40.0)
    fit = fit_cutouts(cutouts)
    quoted = quote_covariance(fit)
    assert float(quoted.error[0, 6]) <= 180 / math.sqrt(12) + 1e-9
    assert torch.isfinite(quoted.covariance).all()
    assert torch.equal(quoted.error[:, :6], fit.error[:, :6])


# --- a galaxy's fit is its own --------------------------------------------------------------


def test_independent_of_batch_and_order(sample: tuple[Cutouts, Array, Fit]) -> None:
    """1 of 1, 7 of 64, another order, other chunks: 1e-3 of the error is float32's rounding."""
    cutouts, _, fit = sample
    order = np.random.default_rng(0).permutation(64)
    shuffled = fit_cutouts(cutouts[list(order)])
    assert apart(fit[torch.tensor(order)], shuffled) < 1e-3
    assert torch.equal(fit.flags[torch.tensor(order)], shuffled.flags)
    assert apart(fit[:7], fit_cutouts(cutouts[:7])) < 1e-3
    for i in range(0, 64, 7):
        alone = fit_cutouts(cutouts[i : i + 1])
        assert apart(fit[i : i + 1], alone) < 1e-3
        scale = fit.error[i] * fit.error[i][:, None]
        assert ((alone.covariance[0] - fit.covariance[i]) / scale).abs().max() < 1e-3
        assert alone.n_iter[0] == fit.n_iter[i]
        assert alone.flags[0] == fit.flags[i]
    for chunk in (1, 3, 64, 100):
        assert apart(fit, fit_cutouts(cutouts, FitOptions(chunk=chunk))) < 1e-3


@pytest.mark.parametrize("side", [40, 47])
def test_a_call_of_few_galaxies_rounds_like_a_full_one(side: int) -> None:
    """Calls of eager kernels are filled up to two galaxies only: one alone is another product."""
    cutouts, _ = observe(population(9, 6), 60.0, shape=(side, side), seed=7)
    problem = build_problem(cutouts, FitOptions(), compile=False)
    scatter = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    whitened = scatter.repeat(1, problem.space.n_nonlinear)
    coords, rows = problem.space.from_whitened(whitened, problem.constants)[0], torch.arange(9)
    for jacobian in (True, False):
        whole, level, _ = problem.gram(coords, rows, jacobian)
        scale = torch.diagonal(whole, dim1=1, dim2=2).sqrt()
        scale = scale[:, :, None] * scale[:, None, :]
        for count in (1, 2, 3, 5):
            few = coords[:count], rows[:count], jacobian
            gram, linear, _ = problem.gram(*few)
            # equal here; another library's matrix products may round in another order
            assert ((gram - whole[:count]) / scale[:count]).abs().max() < 1e-6
            torch.testing.assert_close(linear, level[:count], rtol=1e-5, atol=1e-5)
            assert [len(pick) for pick, _, _ in problem.images(*few)] == [max(count, 2)]


def test_different_kinds_of_psf_in_one_batch() -> None:
    """Oversampled, undersampled, with and without the pixel: each as if it were alone."""
    theta = population(6, 4)
    psf = np.stack([moffat_psf(f)[8:-8, 8:-8] for f in (3.0, 1.6, 6.0, 3.0, 8.0, 3.3)])
    kinds = {
        "psf_oversampling": [1, 1, 2, 1, 4, 1],
        "psf_includes_pixel": [False, False, True, True, False, False],
    }
    cutouts, truth = observe(theta, 200.0, psf=psf, **kinds)
    fit = fit_cutouts(cutouts)
    assert np.abs(pulls(fit, truth)).max() < 5
    for i in range(6):
        # 0.02: alone, a group's grid is the same, but which modes count as aliased may not be
        assert apart(fit[i : i + 1], fit_cutouts(cutouts[i : i + 1])) < 0.02


def test_large_stamps_take_the_coarse_start_to_the_same_end() -> None:
    """It changes the start alone: 0.1 of an error is what the tolerance leaves, usually less."""
    cutouts, truth = observe(population(16, 6, 100), np.geomspace(30, 300, 16), (100, 110))
    one, other = (fit_cutouts(cutouts, FitOptions(coarse_fit=c)) for c in (True, False))
    assert apart(one, other) < 0.1
    assert np.abs(pulls(one, truth)).max() < 5
    assert apart(one[3:4], fit_cutouts(cutouts[3:4])) < 1e-3


def test_garbage_under_the_mask_changes_nothing(sample: tuple[Cutouts, Array, Fit]) -> None:
    cutouts = sample[0][:8]
    mask = torch.zeros(8, 48, 48, dtype=torch.bool)
    mask[:, 5:15, 30:40] = True
    mask[:, :, 3] = True
    clean = fit_cutouts(replace(cutouts, mask=mask))
    for bad in (torch.nan, torch.inf, -torch.inf, 1e30, -1e30):
        image = torch.where(mask, bad, cutouts.image)
        found = fit_cutouts(replace(cutouts, image=image, mask=mask))
        assert torch.equal(found.theta, clean.theta)
        for sigma in (torch.nan, 0.0, -1.0, torch.inf, 1e-30):
            wrong = torch.where(mask, sigma, cutouts.sigma)
            found = fit_cutouts(replace(cutouts, image=image, sigma=wrong, mask=mask))
            assert torch.equal(found.theta, clean.theta)
            assert torch.equal(found.covariance, clean.covariance)
    # pixels without a value or a sigma need no mask
    image = torch.where(mask, torch.nan, cutouts.image)
    assert torch.equal(fit_cutouts(replace(cutouts, image=image)).theta, clean.theta)
    assert (clean.dof == 48 * 48 - mask[0].sum() - 8).all()


@pytest.mark.parametrize("scale", [1e-10, 1e6])
def test_the_unit_of_flux_does_not_matter(scale: float, sample: tuple[Cutouts, Array, Fit]) -> None:
    """Image and sigma times a number: mag and sky go with it, nothing else moves."""
    cutouts, _, fit = sample
    image, sigma = cutouts.image.double() * scale, cutouts.sigma.double() * scale
    found = fit_cutouts(replace(cutouts, image=image, sigma=sigma))
    theta = found.theta.clone()
    theta[:, 2] += 2.5 * math.log10(scale)
    theta[:, 7] /= scale
    assert apart(fit, replace(found, theta=theta)) < 5e-3  # float32 of the scaled pixels
    expected = fit.error.clone()
    expected[:, 7] *= scale
    torch.testing.assert_close(found.error, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.chi2, fit.chi2, rtol=1e-5, atol=0)
    assert torch.equal(found.flags, fit.flags)


def test_a_high_sky_costs_no_digits(sample: tuple[Cutouts, Array, Fit]) -> None:
    """1e4 sigma above zero. 0.02: the pixels themselves are float32, 5e-4 sigma there."""
    cutouts, _, fit = sample
    found = fit_cutouts(replace(cutouts, image=cutouts.image + 1e4))
    theta = found.theta.clone()
    theta[:, 7] -= 1e4
    assert apart(fit, replace(found, theta=theta)) < 0.02
    torch.testing.assert_close(found.chi2, fit.chi2, rtol=1e-3, atol=0)


# --- options --------------------------------------------------------------------------------


def test_estimators_agree_at_high_signal() -> None:
    """The prior is worth about one pixel's sigma: at S/N 1000 next to nothing."""
    cutouts, truth = observe(population(24, 7), 1000.0)
    fit, ml = fit_cutouts(cutouts), fit_cutouts(cutouts, ML)
    assert apart(fit, ml) < 0.1
    assert np.abs(pulls(ml, truth)).max() < 5


def test_float64_agrees(sample: tuple[Cutouts, Array, Fit]) -> None:
    cutouts, _, fit = sample
    assert apart(fit, fit_cutouts(cutouts, FitOptions(precision="float64"))) < 0.01


def test_adam_agrees(sample: tuple[Cutouts, Array, Fit]) -> None:
    """0.3 of an error is where Adam says it has converged."""
    cutouts, _, fit = sample
    adam = fit_cutouts(cutouts[::8], FitOptions(method="adam", retry=False))
    assert apart(fit[::8], adam) < 0.3
    assert np.median(np.abs(pulls(adam, fit.theta[::8].numpy()))) < 0.05


def test_start_values_are_taken() -> None:
    """With one evaluation and nothing else the answer is the start."""
    cutouts, _ = observe(population(3, 8), 50.0)
    start = torch.tensor([[24.5, 22.5, 99.0, 4.2, 3.3, 0.42, 77.0]]).double().repeat(3, 1)
    start[1, 4] = torch.nan
    start[2] = torch.nan
    options = FitOptions(max_iter=1, coarse_fit=False, retry=False, tolerance=1e-12)
    fit = fit_cutouts(replace(cutouts, start=start), options)
    whitened = fit_cutouts(cutouts, options)
    torch.testing.assert_close(fit.theta[0, [0, 1, 3, 4, 5, 6]], start[0, [0, 1, 3, 4, 5, 6]])
    torch.testing.assert_close(fit.theta[1, [0, 1, 3, 5, 6]], start[0, [0, 1, 3, 5, 6]])
    assert fit.theta[1, 4] == pytest.approx(float(whitened.theta[1, 4]), rel=1e-6)
    torch.testing.assert_close(fit.theta[2], whitened.theta[2])
    assert (fit.flags & int(Flag.NOT_CONVERGED)).all()


def test_a_start_chooses_between_two_galaxies() -> None:
    """x, y of the start are where the target is: the position's box is around them."""
    pair = np.array(
        [[15.0, 32.0, 20, 3.0, 1.0, 0.7, 30, 0], [48.0, 30.0, 20, 3.0, 1.0, 0.7, 90, 0]]
    )
    one, _ = observe(pair[:1], 200.0, (64, 64), seed=1)
    other, _ = observe(pair[1:], 200.0, (64, 64), seed=2)
    both = one.image + other.image
    start = torch.full((2, 7), torch.nan).double()
    start[:, :2] = torch.tensor(pair[:, :2]) + 1.0
    cutouts = replace(one[[0, 0]], image=both.repeat(2, 1, 1), sigma=one.sigma[[0, 0]] * 1.4)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, :, 34:] = True
    mask[1, :, :30] = True
    fit = fit_cutouts(replace(cutouts, start=start, mask=mask))
    assert np.abs(fit.theta[:, :2].numpy() - pair[:, :2]).max() < 0.5
    assert not (fit.flags & int(Flag.OFF_CENTRE)).any()


def test_a_fixed_sky() -> None:
    cutouts, truth = observe(population(16, 9), 100.0)
    level = float(truth[0, 7])
    one = replace(cutouts, image=cutouts.image - torch.tensor(truth[:, 7, None, None]) + level)
    fit = fit_cutouts(one, FitOptions(sky="fixed", sky_value=level))
    assert (fit.theta[:, 7] == level).all()
    assert (fit.error[:, 7] == 0).all()
    expected = truth.copy()
    expected[:, 7] = level
    p = differences(fit.theta.numpy(), expected)[:, :7] / fit.error.numpy()[:, :7]
    assert np.abs(p).max() < 5
    assert (fit.dof == 48 * 48 - 7).all()
    whitened = fit_cutouts(one)
    assert (fit.error[:, 2] < whitened.error[:, 2]).all()  # a known sky is worth something


def test_a_sky_plane_and_padding() -> None:
    """Slopes about the middle of the stamp as it came, whatever it is padded to."""
    space = ParameterSpace(sky="plane")
    theta = np.concatenate([population(8, 10, 40), np.tile([0.05, -0.08], (8, 1))], axis=1)
    theta[:, 7] = 2.0
    cutouts, truth = observe(theta, 150.0, (40, 44), space=space)
    options = FitOptions(sky="plane")
    fit = fit_cutouts(cutouts, options)
    assert np.abs(pulls(fit, truth)).max() < 5
    padded = torch.zeros(8, 64, 56)
    padded[:, :40, :44] = cutouts.image
    mask = torch.ones(8, 64, 56, dtype=torch.bool)
    mask[:, :40, :44] = False
    size = torch.tensor([40, 44]).expand(8, 2)
    wide = Cutouts(
        image=padded, sigma=padded * 0 + 1, mask=mask, psf=cutouts.psf, size=size, zeropoint=25.0
    )
    same = fit_cutouts(wide, options)
    assert apart(fit, same) < 0.01
    torch.testing.assert_close(same.covariance, fit.covariance, rtol=0.02, atol=1e-6)
    assert torch.equal(same.dof, fit.dof)
    # the constant sky too
    assert apart(fit_cutouts(cutouts), fit_cutouts(wide)) < 0.01


def test_without_a_psf() -> None:
    theta = population(8, 11)
    theta[:, 3] = np.maximum(theta[:, 3], 3.0)
    cutouts, truth = observe(theta, 100.0, psf=None)
    fit = fit_cutouts(cutouts)
    assert np.abs(pulls(fit, truth)).max() < 5
    # with a narrow PSF that nobody told of, galaxies of three pixels are still about right
    cutouts, truth = observe(theta, 100.0, psf=gaussian_psf(0.8, 7))
    bare = fit_cutouts(replace(cutouts, psf=None))
    assert not catastrophic(bare, truth).any()


def test_galfit_convolution_fits_what_it_renders() -> None:
    theta = population(6, 12)
    cutouts, truth = observe(theta, 150.0, convolution=GalfitConvolution())
    options = FitOptions(convolution="galfit")
    fit = fit_cutouts(cutouts, options)
    assert np.abs(pulls(fit, truth)).max() < 5
    assert not (fit.flags & int(Flag.NOT_CONVERGED)).any()
    # with the right Jacobian an LM needs few evaluations
    assert fit.n_iter.double().mean() < 8


def test_one_exponential() -> None:
    space = ParameterSpace.of_shapes(((),))
    theta = np.delete(population(8, 13), 4, axis=1)
    cutouts, truth = observe(theta, 100.0, space=space, profiles=(PROFILES["exponential"](),))
    fit = fit_cutouts(cutouts, FitOptions(model=("exponential",)))
    assert fit.space.names == ("x", "y", "mag", "r_eff", "q", "pa", "sky")
    assert np.abs(pulls(fit, truth)).max() < 5


def test_a_window_moves_the_box_of_each_component() -> None:
    """The same whitened coordinates are the same galaxy on the window, its corner less."""
    options = FitOptions(("sersic", "exponential"), compile="off")
    cutouts, _ = observe(population(2, 5), 50.0)
    problem = build_problem(cutouts, options)
    bounds = torch.tensor([[[24.0, 24.0, 12.0, 12.0], [24.0, 24.0, 3.0, 3.0]]]).double()
    several = replace(problem, constants=problem.space.constants(bounds.repeat(2, 1, 1)))
    small, corner = window_problem(several, cutouts, several.constants.centre, (32, 24))
    whitened = 0.3 * torch.randn(2, problem.space.n_nonlinear, dtype=torch.float64)
    wide, _ = problem.space.from_whitened(whitened, several.constants)
    narrow, _ = problem.space.from_whitened(whitened, small.constants)
    for columns in problem.space.slices():
        moved = (wide - narrow)[:, columns]
        assert torch.allclose(moved[:, :2], corner.double(), rtol=0, atol=TEXT)
        assert torch.allclose(moved[:, 2:], torch.zeros(()).double(), rtol=0, atol=TEXT)


def test_a_users_profile() -> None:
    from profiles_of_users import Moffat

    prior = Prior(shapes={"beta": LogNormal(3.0, 0.5, 1.5, 8.0)})
    space = ParameterSpace.of_shapes((("beta",),), prior=prior)
    theta = population(6, 14)
    theta[:, 4] = 2.5
    cutouts, truth = observe(theta, 200.0, space=space, profiles=(Moffat(),))
    fit = fit_cutouts(cutouts, FitOptions(model=("profiles_of_users:Moffat",), prior=prior))
    assert "beta" in fit.space.names
    assert np.abs(pulls(fit, truth)).max() < 5


def test_two_components_of_our_own() -> None:
    """A compact bulge in a disk at S/N 500, both seen: the fit describes the pixels."""
    space = ParameterSpace.of_shapes((("n",), ()))
    bulge = [24.1, 23.4, 20.5, 1.5, 3.0, 0.9, 20.0]
    disk = [24.1, 23.4, 20.0, 5.0, 0.5, 70.0]
    theta = np.repeat([[*bulge, *disk, 0.2]], 6, axis=0)
    profiles = (Sersic(), PROFILES["exponential"]())
    cutouts, truth = observe(theta, 1000.0, space=space, profiles=profiles)
    fit = fit_cutouts(cutouts, FitOptions(model=("sersic", "exponential")))
    own = ("x", "y", "mag", "r_eff", "n", "q", "pa")
    assert fit.space.names[:7] == tuple(f"sersic_{name}" for name in own)
    assert (torch.abs(fit.chi2 / fit.dof - 1) < 0.15).all()
    names = list(space.names)
    for name, tolerance in (("mag_2", 0.5), ("r_eff_2", 1.5)):
        assert np.median(np.abs(fit.theta[:, names.index(name)] - truth[:, names.index(name)])) < (
            tolerance
        )


def test_an_empty_batch() -> None:
    cutouts, _ = observe(population(2, 1), 50.0)
    fit = fit_cutouts(cutouts[:0])
    assert len(fit) == 0
    assert fit.theta.shape == (0, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": "mle"}, "objective is 'mle', expected one of map, ml"),
        ({"sky": "flat"}, "sky is 'flat', expected"),
        ({"method": "newton"}, "expected one of lm, adam"),
        ({"model": ("serisc",)}, "unknown profile 'serisc'"),
        ({"model": ()}, "expected a profile's name"),
        ({"max_iter": 0}, "max_iter is 0, expected 1 or more"),
        ({"precision": "float16"}, "precision"),
        ({"compile": "yes"}, "compile"),
        ({"convolution": "fft"}, "convolution"),
    ],
)
def test_wrong_options(wrong: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=said):
        FitOptions(**wrong)


def test_a_profile_without_a_prior_says_so() -> None:
    import profiles_of_users  # noqa: F401

    with pytest.raises(ValueError, match="no prior for the shape parameter 'beta'"):
        FitOptions(model=("profiles_of_users:Moffat",))


# --- bad galaxies ---------------------------------------------------------------------------


BAD = (
    "masked",
    "nan",
    "constant",
    "negative",
    "hot",
    "zero",
    "one pixel",
    "sigma",
    "huge",
    "noise",
)


def spoilt() -> tuple[Cutouts, list[int]]:
    """One galaxy of each bad kind, good ones in between; and the rows of the good ones."""
    cutouts, _ = observe(population(2 * len(BAD) + 1, 15), 100.0)
    image, sigma, mask = cutouts.image.clone(), cutouts.sigma.clone(), cutouts.mask.clone()
    for k, kind in enumerate(BAD):
        i = 2 * k + 1
        if kind == "masked":
            mask[i] = True
        elif kind == "nan":
            image[i] = torch.nan
        elif kind == "constant":
            image[i] = 7.5
        elif kind == "negative":
            image[i] = -image[i]
        elif kind == "hot":
            image[i, 24, 24] = 1e12
        elif kind == "zero":
            image[i] = 0.0
        elif kind == "one pixel":
            mask[i] = True
            mask[i, 24, 24] = False
        elif kind == "sigma":
            sigma[i] = 0.0
        elif kind == "huge":
            image[i] = torch.where(image[i] > 2, 3e38, -3e38)
        elif kind == "noise":
            generator = torch.Generator().manual_seed(2)
            image[i] = torch.randn(image[i].shape, generator=generator)
    bad = Cutouts(image=image, sigma=sigma, mask=mask, psf=cutouts.psf, zeropoint=25.0)
    return bad, list(range(0, 2 * len(BAD) + 1, 2))


@pytest.mark.parametrize(
    "options",
    [
        FitOptions(),
        ML,
        FitOptions(sky="plane"),
        FitOptions(sky="fixed"),
        FitOptions(method="adam", retry=False),
        FitOptions(model=("sersic", "exponential")),
    ],
    ids=["map", "ml", "plane", "fixed", "adam", "two components"],
)
def test_bad_galaxies_are_flagged_and_disturb_no_other(options: FitOptions) -> None:
    cutouts, good = spoilt()
    if options.method == "adam":
        cutouts, good = cutouts[:11], good[:5]
    fit = fit_cutouts(cutouts, options)
    kinds = {kind: 2 * k + 1 for k, kind in enumerate(BAD)}
    for kind, i in kinds.items():
        if i >= len(cutouts):
            continue
        assert fit.flags[i] != 0, f"{kind} is not flagged"
        assert not torch.isinf(fit.theta[i]).any(), kind
        if kind in ("masked", "nan", "sigma", "one pixel"):
            assert fit.flags[i] & int(Flag.NO_DATA), kind
            assert torch.isnan(fit.theta[i]).all(), kind
            assert torch.isnan(fit.covariance[i]).all(), kind
            assert torch.isnan(fit.chi2[i]), kind
            assert fit.dof[i] <= 0, kind
        if kind in ("constant", "zero", "noise", "negative"):
            some = Flag.NO_SIGNAL | Flag.UNCERTAIN | Flag.NOT_CONVERGED
            assert fit.flags[i] & int(some), kind
    alone = fit_cutouts(cutouts[good], options)
    assert apart(fit[torch.tensor(good)], alone) < 1e-3
    assert torch.equal(fit.flags[torch.tensor(good)], alone.flags)


def test_a_batch_of_nothing_but_bad_galaxies() -> None:
    cutouts, _ = spoilt()
    fit = fit_cutouts(cutouts[list(range(1, len(cutouts), 2))])
    assert (fit.flags != 0).all()


def test_a_bad_psf_disturbs_no_other() -> None:
    """Negative wings, or all of the flux in one pixel."""
    cutouts, _ = observe(population(4, 16), 100.0)
    psf = cutouts.psf.expand(4, *cutouts.psf.shape[-2:]).clone()  # type: ignore[union-attr]
    psf[1] = 0
    psf[1, 12, 12] = 1
    psf[2] = -psf[2]
    psf[2, 12, 12] += 2
    fit = fit_cutouts(replace(cutouts, psf=psf))
    clean = fit_cutouts(cutouts)
    assert apart(fit[torch.tensor([0, 3])], clean[torch.tensor([0, 3])]) < 1e-3


# --- compiled -------------------------------------------------------------------------------


def test_when_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert not wants_compile("off", 10**6, cpu)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/g++")
    assert not wants_compile("auto", 10, cpu)
    assert wants_compile("auto", 10**6, cpu)
    assert wants_compile("on", 1, cpu)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not wants_compile("auto", 10**6, cpu)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler found"):
        assert not wants_compile("on", 1, cpu)
    with pytest.raises(ValueError, match="'maybe', expected auto, on or off"):
        wants_compile("maybe", 1, cpu)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize("sky", ["constant", "plane"])
def test_compiled_is_the_same(sky: str, sample: tuple[Cutouts, Array, Fit]) -> None:
    """Sums in another order: 1e-3 of the error (a miscompiled kernel is off by far more)."""
    cutouts = sample[0][:20]
    eager = fit_cutouts(cutouts, FitOptions(compile="off", sky=sky))
    compiled = fit_cutouts(cutouts, FitOptions(compile="on", sky=sky))
    assert apart(eager, compiled) < 1e-3
    scale = eager.error[:, :, None] * eager.error[:, None]
    assert ((compiled.covariance - eager.covariance) / scale).abs().max() < 1e-3
    assert torch.equal(compiled.flags, eager.flags)


# --- the validation sets --------------------------------------------------------------------


def test_a_fifth_of_the_main_set(shared_data) -> None:  # type: ignore[no-untyped-def]
    """No failure, and pulls of 1 with what 40 galaxies leave, +-0.11, times 3."""
    cutouts, truth, _ = load_sims(shared_data, "main", np.arange(0, 200, 5))
    fit = fit_cutouts(cutouts)
    failed = catastrophic(fit, truth)
    assert not (failed & (fit.flags.numpy() == 0)).any()
    assert failed.sum() <= 1
    spread = pulls_of_seven(fit, truth)[~failed].std(axis=0)
    assert (spread > 0.67).all()
    assert (spread < 1.33).all()


def pulls_of_seven(fit: Fit, truth: Array) -> Array:
    """The file's truths have no sky: (B, 7)."""
    padded = np.concatenate([truth, np.zeros((len(truth), 1))], axis=1)
    return pulls(fit, padded)[:, :7]


@pytest.mark.slow
def test_the_main_set(shared_data) -> None:  # type: ignore[no-untyped-def]
    """What the project promises of it; pulls of the galaxies that did not fail."""
    cutouts, truth, z = load_sims(shared_data, "main")
    fit = fit_cutouts(cutouts)
    failed = catastrophic(fit, truth)
    assert failed.sum() <= 1
    assert not (failed & (fit.flags.numpy() == 0)).any()
    p = pulls_of_seven(fit, truth)
    spread = p[~failed].std(axis=0)
    assert (spread >= 0.88).all()
    assert (spread <= 1.12).all()
    bright = p[~failed & (z["t_snr"] > 150)].std(axis=0)[[0, 1, 2, 5]]
    assert (bright >= 0.83).all()
    assert (bright <= 1.17).all()


@pytest.mark.slow
def test_the_hard_set(shared_data) -> None:  # type: ignore[no-untyped-def]
    cutouts, truth, _ = load_sims(shared_data, "hard")
    fit = fit_cutouts(cutouts)
    failed = catastrophic(fit, truth)
    assert failed.sum() <= 12
    assert not (failed & (fit.flags.numpy() == 0)).any()


def test_bulge_and_disk(shared_data) -> None:  # type: ignore[no-untyped-def]
    """From one start most land in the best minimum or near it: chi2 within 5 sigma of dof."""
    cutouts, _, z = load_sims(shared_data, "bd", slice(0, 24))
    fit = fit_cutouts(cutouts, FitOptions(model=("sersic", "exponential")))
    assert torch.isfinite(fit.theta).any(dim=1).all()
    near = (fit.chi2 / fit.dof - 1).abs() < 5 * torch.sqrt(2 / fit.dof.double())
    assert near.double().mean() > 0.8
    # together they have the galaxy's flux
    names = list(fit.space.names)
    flux = sum(
        10 ** (-0.4 * fit.theta[:, names.index(f"{k}_mag")]) for k in ("sersic", "exponential")
    )
    offset = (-2.5 * torch.log10(flux)).numpy() - z["t_mag"]  # type: ignore[arg-type]
    assert np.nanmedian(np.abs(offset)) < 0.1


def test_many_shapes_can_be_compiled() -> None:
    """torch compiles a function for 8 shapes and then silently stays eager; surveys have more."""
    import torch._dynamo.config as config  # not at import: it costs a second

    compiled_kernels()
    limit = getattr(config, "recompile_limit", None) or config.cache_size_limit
    assert limit >= MAX_SHAPES > 100


def test_a_component_does_not_take_light_away(shared_data: Path) -> None:
    """Of these bulges and disks two end with a flux below 0 at first: none stays so."""
    cutouts, _, _ = load_sims(shared_data, "bd", slice(0, 40))
    fit = fit_cutouts(cutouts, FitOptions(("sersic", "sersic"), compile="off"))
    assert torch.isfinite(fit.theta).all()
