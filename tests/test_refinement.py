"""Refinement: its algebra against finite differences, and what it finds against the truth."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tolerances import CHAIN

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.coordinates import SERSIC
from hybridfit.npe.frame import N_TARGETS, decode, decode_with_slopes, encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.network import Estimator
from hybridfit.npe.normal_equations import normal_equations, window_sides
from hybridfit.npe.refinement import MODEL_ERRORS, estimator_inputs, gauss_newton_step
from hybridfit.npe.refinement_scalars import N_SCALARS, scalars_of
from hybridfit.npe.symmetry import scalar_signs
from hybridfit.rendering.render import render
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields
from hybridfit.training.data import shard_of, targets_of
from hybridfit.training.validation import laplace_limit

TINY = {"backbone": "none", "width": 32, "context": 16, "flow_layers": 2, "flow_hidden": 16}


@pytest.fixture(scope="module")
def scenes():
    """Clean galaxies of all sizes, brightness and shapes."""
    return simulate_fields(192, 5, CLEAN)


@pytest.fixture(scope="module")
def inputs(scenes):
    return make_inputs(scenes.cutouts, with_views=False)


@pytest.fixture(scope="module")
def frame(inputs):
    return inputs.frame


@pytest.fixture(scope="module")
def truth(scenes, frame):
    return encode(scenes.theta, scenes.cutouts.zeropoint, frame)


def laplace_of(n: int = 5) -> Laplace:
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(n, 8, 8, generator=generator, dtype=torch.float64).tril()
    diagonal = torch.diagonal(factor, dim1=1, dim2=2)
    diagonal.copy_(10 ** (2 * diagonal.abs()))  # widths from 1 to 1e-4
    return Laplace(torch.randn(n, 8, generator=generator, dtype=torch.float64), factor)


def test_whitening_goes_there_and_back():
    laplace = laplace_of()
    w = 4 * torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(laplace.whiten(laplace.original(w)), w, rtol=1e-9, atol=1e-9)


def test_whitened_slope_is_its_determinant():
    laplace = laplace_of()
    w = 4 * torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = laplace.original(w)
    for i in range(len(t)):
        one = laplace[i : i + 1]
        slope = torch.autograd.functional.jacobian(
            lambda v, o=one: o.whiten(v[None, None]), t[i, 0]
        )
        found = torch.linalg.slogdet(slope.reshape(8, 8))[1]
        assert float(one.log_slope(w[i : i + 1])[0, 0]) == pytest.approx(float(found), abs=1e-9)


def test_slopes_of_decoding_against_differences(scenes, inputs, truth):
    rows = slice(0, 24)
    t = truth[rows].clone()
    coords, linear, slopes = decode_with_slopes(t, inputs.frame[rows])
    for name, one, other in zip(
        ("coords", "linear"), (coords, linear), decode(t, inputs.frame[rows]), strict=True
    ):
        assert torch.equal(one, other), name
    step = 1e-6
    for k in range(N_TARGETS):
        ahead, behind = t.clone(), t.clone()
        ahead[:, k] += step
        behind[:, k] -= step
        difference = [
            (a - b) / (2 * step)
            for a, b in zip(
                decode(ahead, inputs.frame[rows]), decode(behind, inputs.frame[rows]), strict=True
            )
        ]
        assert torch.allclose(slopes[:, :, k], torch.cat(difference, dim=1), rtol=1e-5, atol=1e-7)


def test_gradient_is_that_of_chi2(scenes, inputs, truth):
    """-1/2 d chi2 / d p by central differences of the residuals' sum of squares."""
    space = ParameterSpace()
    some = scenes.cutouts[:6]
    coords, linear = decode(truth[:6] + 0.01, inputs.frame[slice(0, 6)])
    found = normal_equations(coords, linear, some)
    gradient, chi2 = found.gradient, found.chi2

    def half_chi2(coords, linear):
        theta, _ = space.to_physical(coords, linear, some.zeropoint)
        model = render(theta, some, space, dtype=torch.float64).double()
        weight = torch.where(some.mask, 0.0, 1 / some.sigma).double()
        residual = (some.image.double() - model) * weight
        return 0.5 * residual.square().sum(dim=(1, 2))

    used = (~some.mask).sum(dim=(1, 2))
    assert torch.allclose(chi2[:, 0], 2 * half_chi2(coords, linear) / used, rtol=1e-3, atol=CHAIN)
    point = torch.cat([coords, linear], dim=1)
    information = found.information
    for k in range(N_TARGETS):
        # a tenth of a deviation: far enough for float32 images, near enough for a parabola
        step = 0.1 / information[:, k, k].sqrt()
        ahead, behind = point.clone(), point.clone()
        ahead[:, k] += step
        behind[:, k] -= step
        slope = (
            half_chi2(behind[:, :6], behind[:, 6:]) - half_chi2(ahead[:, :6], ahead[:, 6:])
        ) / (2 * step)
        # in units of the likelihood's own width the gradient is of order one
        error = (gradient[:, k] - slope) / information[:, k, k].sqrt()
        assert error.abs().max() < 0.02, k


def test_windows_and_the_modelled_noise_change_no_step(scenes, inputs, truth):
    """The step found in windows is that from all pixels, in units of its widths.

    Without the noise map's pixels the weights are not the best ones for bright galaxies, whose own
    noise is the most: they lose little.
    """
    coords, linear, slopes = decode_with_slopes(truth, inputs.frame)
    sides = window_sides(coords, linear[:, :1] / inputs.noise.sky[:, None], scenes.cutouts)
    assert (sides < 128).sum() > 40
    whole = normal_equations(coords, linear, scenes.cutouts)
    windowed = normal_equations(coords, linear, scenes.cutouts, inputs.noise)
    eye = torch.eye(8, dtype=torch.float64) * 0.1
    matrix = slopes.mT @ whole.information @ slopes + eye
    factor = torch.linalg.cholesky(matrix)
    steps = []
    for found in (whole, windowed):
        matrix = slopes.mT @ found.information @ slopes + eye
        gradient = slopes.mT @ found.gradient[:, :, None]
        steps.append(factor.mT @ torch.linalg.solve(matrix, gradient))
    off = (steps[0] - steps[1]).abs().amax(dim=(1, 2))
    assert off.quantile(0.9) < 0.1
    assert off.max() < 0.6


def test_the_noise_map_tells_nothing_that_scalars_do_not(scenes, inputs, truth):
    """Shot noise is in a simulated map without any noise of its own: it would show the galaxy.

    Another map, of the same measured level, must give the same step and the same scalars; a few of
    its pixels are a thousand times too low.
    """
    some = scenes.cutouts[:16]
    factor = 0.5 + torch.rand(some.sigma.shape, generator=torch.Generator().manual_seed(4))
    factor[:, 3:5, 3:5] = 1e-3
    other = dataclasses.replace(some, sigma=some.sigma * factor)
    steps = [
        [
            gauss_newton_step(truth[:16], inputs[slice(0, 16)], cutouts, model_error)
            for model_error in MODEL_ERRORS
        ]
        for cutouts in (some, other)
    ]
    for here, there in zip(*steps, strict=True):
        assert torch.equal(here.laplace.mean, there.laplace.mean)
        assert torch.equal(here.laplace.factor, there.laplace.factor)
    assert torch.equal(scalars_of(steps[0]), scalars_of(steps[1]))


@pytest.mark.parametrize("noise", [True, False], ids=["windows", "all-pixels"])
def test_units_of_flux_change_nothing(scenes, inputs, truth, noise):
    """Fluxes in erg / s / cm2 / A, of 1e-20 and less, whose squares float32 does not know."""
    unit = 1e-22
    rows, some = slice(0, 64), scenes.cutouts[:64]
    sigma = torch.where(some.mask, 1.0, some.sigma * unit)  # as `Cutouts` has it
    small = dataclasses.replace(some, image=some.image * unit, sigma=sigma)
    coords, linear = decode(truth[rows] + 0.01, inputs.frame[rows])
    level = inputs.noise[rows]
    tiny = dataclasses.replace(level, sky=level.sky * unit)
    usual, other = (
        normal_equations(coords, linear * u, c, n if noise else None, MODEL_ERRORS[0])
        for u, c, n in ((1.0, some, level), (unit, small, tiny))
    )
    back = torch.ones(8, dtype=torch.float64)
    back[6:] = unit
    scale = torch.diagonal(usual.information, dim1=1, dim2=2).sqrt()
    information = other.information * back[:, None] * back / scale[:, :, None] / scale[:, None]
    expected = usual.information / scale[:, :, None] / scale[:, None]
    torch.testing.assert_close(information, expected, rtol=0, atol=1e-4)  # float32 sums
    off = (other.gradient * back - usual.gradient) / scale
    # rounding of the scaled pixels: some 1e-7 of the brightest, which has 1e4 deviations
    assert off.abs().max() < 0.02
    for name in ("chi2", "kept"):
        torch.testing.assert_close(getattr(other, name), getattr(usual, name), rtol=1e-3, atol=1e-4)


def test_a_step_from_near_the_truth_leaves_normal_deviates(scenes, inputs, truth):
    """Bright clean galaxies: (truth - m) in units of the step's widths is N(0, 1)."""
    bright = (scenes.snr > 60).nonzero()[:, 0]
    some, guess = scenes.cutouts[bright.tolist()], truth[bright]
    start = guess + 0.02 * torch.randn(guess.shape, generator=torch.Generator().manual_seed(0))
    laplace = gauss_newton_step(start, inputs[bright], some, None).laplace
    w = laplace.whiten(truth[bright][:, None])[:, 0]
    # galaxies come in fours that share a shape: about 70 numbers a coordinate
    assert (w.mean(dim=0).abs() < 0.4).all()
    assert ((w.std(dim=0) > 0.75) & (w.std(dim=0) < 1.3)).all(), w.std(dim=0)
    # its density at the truth is as good as any can be
    nll = 0.5 * w.square().sum(dim=1) + 4 * math.log(2 * math.pi)
    nll = nll - laplace.log_slope(w[:, None])[:, 0]
    gap = nll - laplace_limit(scenes.theta[bright], some)
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5 + 0.1
    # and it is the step that found it: the start itself is far off
    far = laplace.whiten(start[:, None])[:, 0]
    assert far.square().mean() > 4 * w.square().mean()


@pytest.mark.parametrize("oversampling", [1, 3])
def test_steps_in_stamps_that_are_not_square(oversampling):
    """One galaxy under many noises leaves normal deviates, also with a finer PSF."""
    n = 192
    line = torch.arange(-20.0, 21.0) / oversampling
    psf = torch.exp(-(line**2 + line[:, None] ** 2) / (2 * 1.4**2))
    blank = torch.zeros(n, 64, 96)
    empty = Cutouts(
        image=blank, sigma=blank + 1, psf=psf / psf.sum(), psf_oversampling=oversampling
    )
    # S/N 215
    theta = torch.tensor([[46.3, 31.1, -8.0, 2.0, 1.0, 0.6, 30.0, 2.0]]).double().expand(n, -1)
    noise = torch.randn(blank.shape, generator=torch.Generator().manual_seed(6))
    cutouts = dataclasses.replace(empty, image=render(theta, empty) + noise)
    inputs = make_inputs(cutouts, with_views=False)
    coords, linear = ParameterSpace().from_physical(theta, cutouts.zeropoint)
    assert (window_sides(coords, linear[:, :1], cutouts) < 64).all()
    truth = encode(theta, cutouts.zeropoint, inputs.frame)
    start = truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(7))
    w = gauss_newton_step(start, inputs, cutouts, MODEL_ERRORS[0]).laplace.whiten(truth[:, None])[
        :, 0
    ]
    # four errors of a mean; 3 asinh(d / 3) of a normal deviate has a deviation of 0.93, +- 0.05
    assert (w.mean(dim=0).abs() < 4 * 0.93 / n**0.5).all()
    assert ((w.std(dim=0) > 0.78) & (w.std(dim=0) < 1.08)).all(), w.std(dim=0)


def test_a_long_step_is_cut_and_told(scenes, inputs, truth):
    start = truth[:32].clone()
    start[:, 2] += 4.0
    step = gauss_newton_step(start, inputs[slice(0, 32)], scenes.cutouts[:32], MODEL_ERRORS[0])
    assert ((step.laplace.mean - start).abs() <= 3.0 + 1e-9).all()
    assert ((step.laplace.mean - start)[:, 2:6].abs() <= 1.0 + 1e-9).all()
    assert (step.cut <= 1).all()
    assert (step.cut < 0.9).any()
    scalars = scalars_of([step, step])
    assert scalars.shape == (32, N_SCALARS)
    assert torch.isfinite(scalars).all()
    assert torch.allclose(scalars[:, -1].double(), step.cut.log(), atol=1e-6)


def test_a_second_step_is_shorter_where_the_first_ended_well(scenes, inputs, truth):
    bright = (scenes.snr > 60).nonzero()[:, 0]
    some, guess = scenes.cutouts[bright.tolist()], truth[bright]
    start = guess + 0.05 * torch.randn(guess.shape, generator=torch.Generator().manual_seed(0))
    first = gauss_newton_step(start, inputs[bright], some, MODEL_ERRORS[0])
    second = gauss_newton_step(first.laplace.mean, inputs[bright], some, MODEL_ERRORS[1])
    assert second.length.median() < 0.1 * first.length.median()
    off = [s.laplace.whiten(guess[:, None]).square().mean() for s in (first, second)]
    assert off[1] <= off[0]


def test_a_neighbour_is_forgiven(scenes, inputs, truth):
    """With a second galaxy in the stamp the step ends nearer to the truth than one that believes
    all pixels, and says that it left some out; without one both end at the same place.
    """
    rows = ((scenes.snr > 60) & (scenes.cutouts.size.amin(dim=1) >= 64)).nonzero()[:, 0]
    some, guess = scenes.cutouts[rows.tolist()], truth[rows]
    y, x = (torch.arange(n, dtype=torch.float32) for n in some.image.shape[-2:])
    centre = 0.2 * some.size.amin(dim=1).float()[:, None]
    spot = torch.exp(-((y - centre) ** 2) / 18)[:, :, None]
    spot = spot * torch.exp(-((x - centre) ** 2) / 18)[:, None]
    noise = some.sigma.masked_fill(some.mask, torch.inf).flatten(1).amin(dim=1)
    beside = dataclasses.replace(some, image=some.image + 30 * noise[:, None, None] * spot)
    off, left, ends = {}, {}, {}
    for model_error in (None, *MODEL_ERRORS):
        alone, both = (
            gauss_newton_step(guess, inputs[rows], c, model_error) for c in (some, beside)
        )
        off[model_error] = alone.laplace.whiten(both.laplace.mean[:, None])[:, 0].abs().amax(dim=1)
        left[model_error], ends[model_error] = 1 - both.pixels.kept[:, 0], alone
        assert (1 - alone.pixels.kept[:, 0]).median() < 0.02, model_error
    assert (left[None] == 0).all()
    assert off[None].median() > 5
    for model_error in MODEL_ERRORS:
        # without a neighbour forgiving costs next to nothing: the same place, within a deviation
        apart = ends[None].laplace.whiten(ends[model_error].laplace.mean[:, None])[:, 0]
        assert apart.abs().amax(dim=1).quantile(0.9) < 0.5, model_error
        assert off[model_error].median() < 0.3 * off[None].median(), model_error
        assert (left[model_error] > 0.01).all(), model_error


def test_without_an_initial_estimator_nothing_is_refined(scenes):
    plain = estimator_inputs(scenes.cutouts[:4], None, with_views=False)
    assert plain.laplace is None
    assert torch.equal(plain.scalars, make_inputs(scenes.cutouts[:4], False).scalars)


def test_targets_are_those_of_the_whitening_and_padding_changes_nothing(scenes):
    torch.manual_seed(0)
    measured = make_inputs(scenes.cutouts[:2], False).scalars.shape[1]
    estimator = Estimator(NetworkOptions(**TINY, refinement=True), measured + N_SCALARS)
    shard = shard_of(scenes, False, estimator.initial_estimator)
    inputs = estimator_inputs(scenes.cutouts, estimator.initial_estimator, False)
    targets, log_slope = targets_of(
        encode(scenes.theta, scenes.cutouts.zeropoint, inputs.frame), inputs
    )
    # a shard measures small stamps without their padding: other Fourier grids, which differ by
    # 1e-4 of the peak, and the guess of an untrained initial estimator is far off
    for mine, theirs in (
        (shard.targets, targets.float()),
        (shard.log_slope, log_slope.float()),
        (shard.scalars, inputs.scalars),
    ):
        assert (mine - theirs).abs().quantile(0.99) < 0.02


def test_signs_of_the_steps_scalars(scenes, inputs, truth):
    """Coordinates mirrored or turned give the scalars that symmetry says they have."""
    start = truth[:64] + 0.05
    step = gauss_newton_step(start, inputs[slice(0, 64)], scenes.cutouts[:64], None)
    laplace, scalars = step.laplace, scalars_of([step, step])
    signs = scalar_signs(refined=True)[:, -N_SCALARS:]
    i, j = torch.tril_indices(8, 8, -1)
    for of_targets, sign in zip(SERSIC.signs, signs, strict=True):
        flip = of_targets.double()
        mirrored = Laplace(laplace.mean * flip, flip[:, None] * laplace.factor * flip)
        expected = scalars * sign
        assert torch.allclose(expected[:, :8], mirrored.mean.float(), atol=CHAIN)
        covariance = torch.cholesky_inverse(mirrored.factor)
        width = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
        correlation = (covariance / width[:, :, None] / width[:, None])[:, i, j].float()
        assert torch.allclose(expected[:, 16 : 16 + len(i)], correlation, atol=1e-5)
        step = mirrored.whiten((start * flip)[:, None])[:, 0] / 3  # of the start: minus the step
        told = torch.sinh(expected[:, 16 + len(i) : 24 + len(i)].double())
        assert torch.allclose(told, -3 * torch.sinh(step), rtol=1e-3, atol=1e-4)
