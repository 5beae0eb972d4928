"""Noise is the image's: no model changes it, and a galaxy's light is not taken for it."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from budget_helpers import about, field_on, sample, smoothed
from fit_helpers import observe, population

from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.detect import detect_objects
from hybridfit.detection.noise import estimated_sigma
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.error_budget import error_budget, noise_of
from hybridfit.uncertainty.image_noise import (
    FAINT,
    LEAST_PIXELS,
    LEAST_SKY,
    Place,
    measure_noise,
    sky_edge,
    target_place,
)
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.tempering import temperature

SIDE = 64


def bulge_and_disk(count: int, snr: float, side: int, seed: int = 0) -> Cutouts:
    """Galaxies whose bulge and disk no single profile follows, in white noise of sigma 1."""
    options = FitOptions(model=("sersic", "exponential"))
    one = population(count, seed, side)
    bulge = one[:, :7].copy()
    bulge[:, 3:6] = 1.5, 3.0, 0.9
    disk = np.delete(one[:, :7], 4, axis=1)
    disk[:, 3:5] = side / 8, 0.4
    theta = np.concatenate([bulge, disk, np.zeros((count, 1))], axis=1)
    return observe(theta, snr, (side, side), seed, options.space, options.profiles)[0]


def test_ellipses_are_those_of_the_galaxy() -> None:
    """Points of one isophote, on the major and the minor axis, of galaxies with q .5 at all angles.

    Circles would have them at twice the radius; moments behind a PSF make galaxies rounder, which
    leaves a fourth of that, and pixels are up to half a pixel beside.
    """
    theta = population(8, 1, SIDE)
    theta[:, 3:6], theta[:, :2] = (8.0, 1.0, 0.5), 31.5
    theta[:, 6] = np.arange(8) * 22.5
    cutouts, _ = observe(theta, 1000.0, (SIDE, SIDE), 1)
    place = target_place(cutouts)
    angle = torch.deg2rad(torch.tensor(theta[:, 6]))
    row = torch.arange(8)

    def at(along: float, across: float) -> torch.Tensor:
        x = 31.5 - along * torch.sin(angle) + across * torch.cos(angle)
        y = 31.5 + along * torch.cos(angle) + across * torch.sin(angle)
        return place.radius[row, y.round().long(), x.round().long()]

    assert (at(16, 0) / at(0, 8) - 1).abs().max() < 0.3
    assert (at(16, 0) / (16 * 0.5**0.5) - 1).abs().max() < 0.15


def test_sky_leaves_the_galaxy_out() -> None:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    r = torch.sqrt((x - 31.5) ** 2 + (y - 31.5) ** 2).expand(4, -1, -1)
    flat = torch.sqrt((x - 31.5) ** 2 + 9 * (y - 31.5) ** 2)
    twice = 2 * torch.atan2(y - 31.5, x - 31.5).expand(4, -1, -1)
    place = Place(torch.zeros(4, 6), r, twice)
    light = torch.stack([20 * torch.exp(-v / h) for v, h in ((r[0], 4), (r[0], 40), (flat, 6))])
    light = torch.cat([light, 0 * r[:1]])
    used = torch.ones(4, SIDE, SIDE, dtype=torch.bool)
    used[:, :, :5] = False
    edge = sky_edge(light, used, place)
    # rings grow by a fourth, over which an exponential of that size falls by two thirds
    assert FAINT / 3 < float(20 * torch.exp(-edge[0] / 4)) < 1.5 * FAINT
    share = (used[1] & (r[1] >= edge[1])).double().mean() / used[1].double().mean()
    assert abs(float(share) - LEAST_SKY) < 0.03  # fills the cutout: its outermost quarter
    # thinner than its ellipse says: the mean about its major axis counts, a third of that on it
    assert float(20 * torch.exp(-edge[2] / 6)) < 3 * FAINT
    assert float(edge[3]) == 0.0


@pytest.mark.parametrize("snr", [300.0, 3000.0])
def test_light_that_no_profile_follows_is_no_noise(snr: float) -> None:
    """Bulge and disk in white noise, up to 3 sigma a pixel where the sky begins.

    Chance gives 1 in 20 cutouts an excess of a few percent; see the twin for what residuals give.
    """
    cutouts = bulge_and_disk(20, snr, 96)
    hot = temperature(cutouts, measure_noise(cutouts))
    assert float(hot.quantile(0.9)) < 1.1
    assert float(hot.max()) < 1.3


def test_residuals_of_a_bad_model_would_pass_for_noise() -> None:
    """The wrong twin: what one exponential leaves of the same cutouts in the place of the image."""
    cutouts = bulge_and_disk(6, 3000.0, 96)
    options = FitOptions(model=("exponential",), compile="off")
    one, _, _ = about(cutouts, fit_cutouts(cutouts, options), options)
    place = target_place(cutouts)
    edge = sky_edge(one.residual, ~cutouts.mask, place)
    sky = place.radius >= edge[:, None, None]
    assert float(temperature(cutouts, noise.measure(one.residual, sky)).median()) > 3


def test_structure_is_no_noise() -> None:
    """Arms of 10 % of the light, S/N 300: noise stays as white as without them."""
    theta = population(30, 24)
    theta[:, 3] = np.maximum(theta[:, 3], 2.5)
    clean, truth = observe(theta, 300.0, (48, 48), 24)
    dirty = field_on(clean, truth, 0.1, 25)
    plain, rough = (temperature(c, measure_noise(c)) for c in (clean, dirty))
    assert float((rough / plain).log().abs().quantile(0.9)) < 0.05


def test_correlated_noise_is_found_beside_and_under_light() -> None:
    """Noise of large apertures is 16/6 of white noise's: to 8 % in the median of 30, as measured.

    A galaxy that fills the cutout leaves a quarter of its pixels and there takes shapes out, which
    leaves half of the power's certainty: 15 %.
    """
    rng = np.random.default_rng(3)
    for side, size, tolerance in ((64, 2.0, 0.08), (64, 14.0, 0.15)):
        theta = population(30, 3, side)
        theta[:, 3], theta[:, 4] = size, 1.0
        clean, _ = observe(theta, 1e5, (side, side), 3)
        rough = torch.tensor(smoothed(rng.standard_normal((30, side, side)), (1, 2, 1)))
        scale = 1e5 / 500
        cutouts = replace(
            clean, image=(clean.image + scale * rough).float(), sigma=clean.sigma * scale
        )
        found = float(measure_noise(cutouts).inflation.median())
        assert abs(found / (16 / 6) - 1) < tolerance


def test_a_source_that_nobody_masked_does_not_bend_the_plane() -> None:
    """A star of 500 sigma adds its own pixels, clipped, and no slope of the sky around it.

    Four pixels at 5 sigma add 16 x 25 / 4096 = .1 to the power, its shrinkage by chance as much;
    a plane drawn by the star itself would add some 10.
    """
    white = torch.randn(10, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    star = torch.zeros(SIDE, SIDE)
    star[8:10, 8:10] = 500.0
    sky = torch.ones_like(white, dtype=torch.bool)
    plain, dirty = (noise.measure(image, sky).inflation for image in (white, white + star))
    assert float((dirty**2 - plain**2).abs().max()) < 0.4


def test_models_do_not_change_the_noise() -> None:
    """Fits of any profile, sky or prior: the same bits, for a fit is not even asked for."""
    assert "linearised" not in signature(noise_of).parameters
    cutouts = bulge_and_disk(3, 500.0, 48)
    found = noise_of(cutouts)
    for options in (
        FitOptions(compile="off"),
        FitOptions(model=("exponential",), compile="off"),
        FitOptions(sky="fixed", sky_value=2.0, compile="off"),
        FitOptions(sky="plane", objective="ml", compile="off"),
    ):
        one = about(cutouts, fit_cutouts(cutouts, options), options)
        assert torch.equal(error_budget(*one).noise_inflation, found.inflation)


@pytest.mark.parametrize(("size", "snr"), [(4.0, 100.0), (16.0, 5000.0), (30.0, 5000.0)])
def test_a_noise_map_made_from_the_image_has_no_light_in_it(size: float, snr: float) -> None:
    """Sigma is 1: to 5 % by 400 and more differences, and a tenth of curvature that is left.

    Galaxies of S/N 5000 that fill the stamp gave 1.2 to 2.5 by the curvature of their own light.
    """
    theta = population(6, 2, SIDE)
    theta[:, 3:6] = size, 1.0, 0.7
    cutouts, _ = observe(theta, snr, (SIDE, SIDE), 2)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    found = []
    for image in cutouts.image.numpy():
        scene = detect_objects(image, None, mask, (31.5, 31.5))
        sigma, _ = estimated_sigma(image, scene, mask, None)
        found.append(float(np.median(sigma)))
    assert 0.9 < min(found) <= max(found) < 1.2
    assert abs(np.median(found) - 1) < 0.1


def test_another_start_leaves_the_noise_as_it_is() -> None:
    """Moments are found again from a start 1 pix beside, to the steps that they are rounded to."""
    cutouts = bulge_and_disk(12, 800.0, SIDE)
    place = target_place(cutouts)
    start = torch.full((12, 7), torch.nan, dtype=torch.float64)
    start[:, :2] = place.coords[:, :2] + torch.tensor([0.8, -0.6])
    other = measure_noise(replace(cutouts, start=start))
    same = (measure_noise(cutouts).values == other.values).all(dim=(1, 2))
    assert float(same.double().mean()) > 0.9  # one in thousands lies at the edge of a step


def test_no_sky_no_noise() -> None:
    """Fewer pixels than tell a correlation: taken for white, and said so by their number."""
    cutouts, _ = sample(2, 50.0, 5, 32)
    mask = torch.ones_like(cutouts.mask)
    mask[0, 12:20, 12:20] = False
    mask[1] = False
    found = measure_noise(replace(cutouts, mask=mask))
    assert bool(found.is_white[0])
    assert float(found.pixels[0]) < LEAST_PIXELS < float(found.pixels[1])
    assert torch.equal(
        noise_of(cutouts, BudgetOptions("off")).values, torch.ones(2, 1, 1, dtype=torch.float64)
    )
