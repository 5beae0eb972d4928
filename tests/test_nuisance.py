"""Nuisances that a fit left out, against refits and Bayes' theorem; PSF and structure as such."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from budget_helpers import (
    OPTIONS,
    about,
    budget_of,
    design,
    fitted,
    narrower,
    quoted,
    sample,
    smoothed,
)
from fit_helpers import differences, observe, population
from torch import Tensor

from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.rendering.render import render
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty import misfit
from hybridfit.uncertainty.error_budget import GRAVE, Doubt, grave
from hybridfit.uncertainty.image_view import image_views
from hybridfit.uncertainty.nuisance import Moment, Nuisance, moment, nuisance, whiten
from hybridfit.uncertainty.psf_error import psf_derivatives


def test_nuisance_left_out_scatters_the_fit_as_its_term_says() -> None:
    """Refits of 4,000 realisations with the nuisance drawn anew: variances to 2.2 %."""
    columns, mode = design(12, 4), design(13, 1) + 0.5 * design(12, 4)[:, :1]
    fit, inverse = fitted(columns)
    sigma, generator = 0.15, torch.Generator().manual_seed(14)
    flat = columns[0].flatten(1).double()
    none = torch.zeros(1, 5, 5, dtype=torch.float64)
    estimates, added, means, values = [], [], [], []
    for _ in range(4000):
        value = sigma * torch.randn(1, generator=generator, dtype=torch.float64)
        data = torch.randn(24, 24, generator=generator) + float(value) * mode[0, 0]
        estimate = inverse @ (flat @ data.flatten().double())
        residual = data - (estimate.float() @ columns[0].flatten(1)).view(24, 24)
        known = nuisance(fit, mode, residual[None], none)
        found = moment(known, torch.tensor([sigma]).double())
        response = fit.inverse.mT @ known.response
        added.append(torch.diagonal((response @ found.second @ response.mT)[0]))
        estimates.append(estimate)
        means.append(found.mean[0])
        values.append(value)
    scatter = torch.stack(estimates).var(dim=0)
    term = torch.stack(added).mean(dim=0)
    plain = torch.diagonal(inverse)
    assert torch.all((scatter / (plain + term) - 1).abs() < 0.09)
    assert float((scatter / plain).max()) > 1.3  # the wrong twin: the nuisance forgotten
    # and the nuisance itself is found as sharply as its posterior says
    error = torch.cat(values) - torch.cat(means)
    expected = torch.linalg.inv(known.information[0] + 1 / sigma**2)[0, 0]
    assert float(error.var() / expected) == pytest.approx(1.0, abs=0.09)


def test_correlated_noise_makes_a_nuisance_less_sure() -> None:
    """Its score over the square root of its information scatters by 1: 2,000 give .016."""
    columns, mode = design(15, 3), design(16, 1)
    fit, inverse = fitted(columns)
    line = np.correlate((1, 2, 1), (1, 2, 1), "full") / 6
    found = noise.given(torch.tensor(np.outer(line, line)), 1)
    excess = noise.excess_gram(torch.cat([fit.columns, mode], dim=1), found)
    rng = np.random.default_rng(17)
    draws = smoothed(rng.standard_normal((2000, 24, 24)), (1, 2, 1))
    flat = columns[0].flatten(1).double()
    ratio: dict[bool, list[float]] = {True: [], False: []}
    for data in torch.tensor(draws):
        estimate = inverse @ (flat @ data.flatten())
        residual = (data.flatten() - estimate @ flat).view(1, 24, 24).float()
        for aware in ratio:
            known = nuisance(fit, mode, residual, excess * aware)
            ratio[aware].append(float(known.score[0, 0] / known.information[0, 0, 0].sqrt()))
    # the field is periodic and the stamp is not: some per cent
    assert float(np.std(ratio[True])) == pytest.approx(1.0, abs=0.1)
    assert float(np.std(ratio[False])) > 1.5  # the wrong twin: noise taken for white


def test_evidence_weighs_a_nuisance() -> None:
    """Against Bayes' theorem by quadrature, for one nuisance of known information and score."""
    sigma, share, information = 0.1, 0.05, 400.0
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    prior = torch.exp(-0.5 * (grid / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    for value in (0.0, 0.1, 0.3):
        score = information * value
        likelihood = torch.exp(score * grid - 0.5 * information * grid**2)
        step = float(grid[1] - grid[0])
        slab = float((prior * likelihood).sum()) * step
        second = float((prior * likelihood * grid**2).sum()) * step
        whole = share * slab + (1 - share)
        known = Nuisance(
            torch.ones(1, 1, 1).double(),
            torch.full((1, 1, 1), information).double(),
            torch.full((1, 1), score).double(),
        )
        found = moment(known, torch.tensor([sigma]).double(), share)
        assert float(found.probability) == pytest.approx(share * slab / whole, rel=1e-6)
        assert float(found.second) == pytest.approx(share * second / whole, rel=1e-6)


# --- PSF ------------------------------------------------------------------------------------


@pytest.mark.parametrize("oversampling", [1, 3])
def test_psf_derivatives_are_those_of_stretched_psfs(oversampling: int) -> None:
    """Against differences of renders with Gaussians of other widths; 1e-3 for the finite step."""

    def gaussian(stretch: tuple[float, float, float]) -> Tensor:
        width, plus, cross = stretch
        half = 20 * oversampling
        index = (np.arange(2 * half + 1) - half) / oversampling
        x, y = index[None, :], index[:, None]
        shape = 1.5 * np.array([[1 + width + plus, cross], [cross, 1 + width - plus]])
        inverse = np.linalg.inv(shape @ shape)
        r2 = inverse[0, 0] * x**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y**2
        image = np.exp(-0.5 * r2)
        return torch.tensor(image / image.sum(), dtype=torch.float32)

    options = FitOptions(compile="off", precision="float64")
    cutouts, _ = observe(
        population(4, 18), 50.0, psf=gaussian((0, 0, 0)).numpy(), psf_oversampling=oversampling
    )
    fit = fit_cutouts(cutouts, options)
    linearised, problem, part = about(cutouts, fit, options)
    found = psf_derivatives(image_views(problem, part, linearised)[0])
    step = 5e-3
    for j in range(3):
        up, down = (
            render(
                fit.theta,
                replace(cutouts, psf=gaussian(tuple(sign * step * (i == j) for i in range(3)))),
                dtype=torch.float64,
            )
            for sign in (1, -1)
        )
        slope = (up - down) / (2 * step) / cutouts.sigma
        assert float((found[:, j] - slope).abs().max() / slope.abs().max()) < 1e-3


def test_width_of_a_wrong_psf_is_found() -> None:
    """Bright resolved galaxies tell the width: pulls of its estimate scatter by about 1."""
    theta = population(40, 19)
    theta[:, 3] = np.maximum(theta[:, 3], 2.5)
    cutouts, _ = observe(theta, 1500.0, (48, 48), 19)
    assert cutouts.psf is not None
    right, _, _ = budget_of(cutouts)
    wrong, _, _ = budget_of(replace(cutouts, psf=narrower(cutouts.psf, 0.02)))
    pull = right.psf_offset / right.psf_offset_error
    assert abs(float(pull.median())) < 0.5
    assert float(pull.abs().median()) < 1.2
    offset = (wrong.psf_offset / wrong.psf_offset_error**2).sum()
    offset = offset / (1 / wrong.psf_offset_error**2).sum()
    assert float(offset) == pytest.approx(0.0202, abs=0.004)
    worse, _, _ = budget_of(replace(cutouts, psf=narrower(cutouts.psf, 0.1)))
    assert float((worse.psf_wrong > 0.9).double().mean()) > 0.6
    assert float((right.psf_wrong > 0.5).double().mean()) < 0.1


def test_errors_cover_a_psf_that_is_too_narrow() -> None:
    """At S/N 500 a PSF 2 % too narrow moves n, q by several sigma; the term takes it in."""
    theta = population(60, 20)
    cutouts, truth = observe(theta, 500.0, (48, 48), 20)
    assert cutouts.psf is not None
    budget, linearised, fit = budget_of(replace(cutouts, psf=narrower(cutouts.psf, 0.02)))
    off = np.abs(differences(fit.theta.numpy(), truth))[:, 3:6]
    plain = (off < 2 * quoted(linearised)[:, 3:6]).mean(axis=0)
    whole = (off < 2 * quoted(linearised, budget.terms["psf"])[:, 3:6]).mean(axis=0)
    assert (plain < 0.75).all()
    assert (whole > plain).all()
    assert whole.mean() > plain.mean() + 0.1  # 180 trials: 2 of their errors at least


def test_a_wrong_psf_counts_where_it_dominates() -> None:
    """Half at `GRAVE` of the fit's errors, in full far above, next to nothing below."""
    for size in (0.3, GRAVE, 40.0):
        known = Nuisance(
            torch.full((1, 1, 1), size).double(), torch.ones(1, 1, 1).double(), torch.zeros(1, 1)
        )
        doubt = Doubt(known, Moment(torch.ones(1, 1, 1).double(), torch.zeros(1, 1), torch.ones(1)))
        share = float(grave(doubt.term) / doubt.term)
        assert share == pytest.approx(size**2 / (size**2 + GRAVE**2))


# --- structure ------------------------------------------------------------------------------


def test_misfit_is_what_its_formulas_say() -> None:
    """Amplitude and significance against matrices of all pairs of pixels, on a small stamp."""
    side, length = 20, torch.tensor([1.7]).double()
    columns = design(21, 3, side)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    light = 30 * torch.exp(-((x - 9.0) ** 2 + (y - 10.0) ** 2) / 14)[None]
    fit, _ = fitted(columns)
    white = noise.white(1, torch.device("cpu"))
    generator = torch.Generator().manual_seed(22)
    residual = (
        torch.randn(1, side, side, generator=generator) + 0.2 * light * design(23, 1, side)[0]
    )
    flat = fit.columns[0].flatten(1).double()
    outside = torch.eye(side**2, dtype=torch.float64) - flat.T @ flat
    residual = (residual.flatten().double() @ outside).view(1, side, side).float()
    none = torch.zeros(1, 0, side, side)
    (found,) = misfit.shared_misfit([misfit.Lit(fit, none, residual, light, length, white)])

    position = torch.stack([x.flatten(), y.flatten()]).double()
    apart = ((position[:, :, None] - position[:, None]) ** 2).sum(dim=0)
    shine = light.flatten().double()
    field = shine[:, None] * torch.exp(-apart / (2 * 1.7**2)) * shine
    power = residual.flatten().double() @ field @ residual.flatten().double()
    chance = torch.trace(field @ outside)
    variance = torch.trace(field @ outside @ field @ outside)
    square = (power - chance) / variance
    significance = square * (variance / 2).sqrt()
    assert float(found.significance) == pytest.approx(float(significance), rel=1e-3)
    assert float(significance) > misfit.SIGNIFICANT
    shrunk = square * (1 - (misfit.SIGNIFICANT / significance) ** 2)
    assert float(found.amplitude) == pytest.approx(float(shrunk.sqrt()), rel=1e-3)
    gram = float(shrunk) * flat @ field @ flat.T
    assert torch.allclose(found.gram[0], gram, rtol=1e-3, atol=1e-4 * float(gram.abs().max()))


def test_what_is_odd_about_the_centre_gets_less() -> None:
    """Positions twice less than the rest, in the fit's own coordinates."""
    cutouts, _ = sample(2, 100.0, 26)
    linearised, problem, _ = about(cutouts, fit_cutouts(cutouts, OPTIONS))
    fit = whiten(linearised.columns, linearised.information, linearised.prior, linearised.whitened)
    back = torch.linalg.inv(fit.inverse)
    plain = fit.inverse @ torch.eye(8).double() @ fit.inverse.mT
    scaled = back @ misfit.symmetric(plain, fit, problem.space) @ back.mT
    expected = torch.tensor([misfit.ODD] * 2 + [misfit.EVEN] * 6).double()
    assert torch.allclose(scaled, torch.diag(expected).expand(2, 8, 8), atol=1e-6)
