"""The error budget of several images: what is independent averages out, structure does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from budget_helpers import about
from fit_helpers import observe, population
from test_exposures import affine, exposure_of
from tolerances import SINGLE
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.psf_background import flag_psf_background
from hybridfit.rendering.render import render
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.error_budget import Budget, error_budget, noise_of
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.tempering import temperatures, tempered

OPTIONS = FitOptions(compile="off", objective="ml", precision="float64")
# errors so small that the pixels add nothing to their priors
WEAK = BudgetOptions(
    "off", psf_width_error=1e-4, psf_shape_error=1e-4, sky_slope_error=1e-4, sky_error=1e-4
)


def structured(amplitude: float = 0.0, exposures: int = 0) -> Cutouts:
    """Three bright galaxies, part of whose light lies in stripes; each image has noise."""
    cutouts, truth = observe(population(3, 5), 300.0)
    stripes = 1 + amplitude * torch.sin(torch.arange(48.0)[:, None] / 1.5)
    clean = render(torch.tensor(truth), cutouts, dtype=torch.float64) * stripes
    noise = torch.tensor(np.random.default_rng(3).standard_normal((1 + exposures, *clean.shape)))
    images = [clean + one for one in noise]
    others = [exposure_of(cutouts, image=image) for image in images[1:]]
    return replace(cutouts, image=images[0], exposures=others)


def budgets(cutouts: Cutouts, options: BudgetOptions, found: Tensor | None = None) -> Budget:
    part = about(cutouts, fit_cutouts(cutouts, OPTIONS), OPTIONS)
    if found is None:
        return error_budget(*part, options)
    one = noise.given(found, len(cutouts))
    return error_budget(*part, options, replace(one, exposures=(one,) * len(cutouts.exposures)))


def ratio(several: Budget, one: Budget, term: str) -> np.ndarray:
    """Traces of one term of the parameters other than the sky, relative to another budget's."""
    values = [torch.diagonal(b.terms[term], dim1=1, dim2=2)[:, :7] for b in (several, one)]
    return (values[0] / values[1]).median(dim=1).values.numpy()


def test_independent_errors_average_out() -> None:
    cutouts = structured()
    two = replace(cutouts, exposures=[exposure_of(cutouts)])
    kernel = torch.tensor([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]])
    for term, found in (("sky", None), ("noise", kernel)):
        several, one = (budgets(c, WEAK, found) for c in (two, cutouts))
        # half of the variance, for the same likelihood twice; the weak priors leave 1e-3
        assert np.allclose(ratio(several, one, term), 0.5, rtol=5e-3, atol=SINGLE), term
    # the term of the PSF counts by its share of all errors, which is the same
    assert np.allclose(ratio(several, one, "psf"), 0.5, rtol=5e-3, atol=SINGLE)


def test_structure_does_not_average_out() -> None:
    several = structured(0.2, exposures=3)
    images = several.single_images()
    mean = sum(image.image for image in images) / 4
    deep = replace(images[0], image=mean, sigma=images[0].sigma / 2)
    joint, other, alone = (budgets(c, BudgetOptions()) for c in (several, deep, images[0]))
    seen = other.misfit_significance > 12
    assert int(seen.sum()) == 3
    # each image is looked at alone, so four are twice as significant as one, not four times; the
    # amplitude's scatter is one in its significance
    gain = joint.misfit_significance / alone.misfit_significance
    assert ((gain > 1.4) & (gain < 2.8)).all()
    assert (joint.misfit_significance > 5).all()
    assert torch.allclose(joint.misfit_amplitude, other.misfit_amplitude, rtol=0.35, atol=SINGLE)
    # as large as the term of one image that is twice as deep, for the same amplitude
    share = (joint.misfit_amplitude / other.misfit_amplitude).numpy() ** 2
    assert np.allclose(ratio(joint, other, "misfit"), share, rtol=0.05, atol=SINGLE)
    assert torch.allclose(
        joint.own_pixels, sum(own_pixels(c) for c in images), rtol=0.02, atol=SINGLE
    )


def own_pixels(cutouts: Cutouts) -> Tensor:
    return budgets(cutouts, BudgetOptions()).own_pixels


def test_a_masked_exposure_adds_nothing() -> None:
    cutouts = structured(0.1)
    dark = exposure_of(cutouts, mask=torch.ones_like(cutouts.mask), image=0 * cutouts.image)
    several, one = (
        budgets(c, BudgetOptions()) for c in (replace(cutouts, exposures=[dark]), cutouts)
    )
    for name, term in one.terms.items():
        # the fit to the first image alone is a step away from the joint one, in float32
        assert torch.allclose(several.terms[name], term, rtol=3e-3, atol=3e-3 * float(term.max()))
    for name in ("misfit_amplitude", "psf_offset", "psf_wrong", "own_chi2", "own_scatter"):
        assert torch.allclose(getattr(several, name), getattr(one, name), rtol=3e-3, atol=SINGLE), (
            name
        )


def test_the_worst_psf_is_told() -> None:
    """A PSF that is wrong in the exposure alone is found there."""
    cutouts, _ = observe(population(3, 5), 300.0)
    psf = cutouts.psf
    assert psf is not None
    wide = torch.nn.functional.avg_pool2d(psf[:, None], 3, 1, 1)[:, 0]
    wide = wide / wide.sum(dim=(1, 2), keepdim=True)
    good, bad = (replace(cutouts, exposures=[exposure_of(cutouts, psf=p)]) for p in (psf, wide))
    fine, doubtful = (budgets(c, BudgetOptions()) for c in (good, bad))
    assert (doubtful.psf_wrong > 5 * fine.psf_wrong).all()
    slopes = torch.diagonal(doubtful.terms["psf"], dim1=1, dim2=2)
    assert (slopes[:, 2:4] > torch.diagonal(fine.terms["psf"], dim1=1, dim2=2)[:, 2:4]).all()


def test_each_image_has_its_own_temperature() -> None:
    cutouts, _ = observe(population(4, 5), 60.0)
    rng = np.random.default_rng(5)
    rough = rng.standard_normal((4, 48, 48))
    rough = sum(np.roll(rough, s, axis=(1, 2)) for s in ((0, 0), (0, 1), (1, 0), (1, 1))) / 2
    image = cutouts.image + 5 * torch.tensor(rough)
    exposure = exposure_of(cutouts, image=image, sigma=cutouts.sigma * 26**0.5)
    both = replace(cutouts, exposures=[exposure])
    found = noise_of(both)
    hot = temperatures(both, found)
    assert hot.shape == (4, 2)
    assert (hot[:, 0] < 1.3).all()
    assert (hot[:, 1] > 2).all()
    linearised, problem, _ = about(both, fit_cutouts(both, OPTIONS), OPTIONS)
    cold, warm, _ = tempered(problem, linearised, found, hot)
    weight = problem.exposures[0].pixels.weight
    expected = weight / hot[:, 1].sqrt()[:, None, None]
    assert torch.allclose(cold.exposures[0].pixels.weight, expected.to(weight), atol=SINGLE)
    total = sum((image.columns.flatten(2) @ image.columns.flatten(2).mT) for image in warm.images)
    assert torch.allclose(warm.information, total.double(), atol=SINGLE)


def test_flags_of_exposures_are_the_galaxys() -> None:
    cutouts, _ = observe(population(2, 5), 60.0)
    psf = cutouts.psf
    assert psf is not None
    raised = psf + 3e-4
    raised = raised / raised.sum(dim=(1, 2), keepdim=True)
    both = flag_psf_background(replace(cutouts, exposures=[exposure_of(cutouts, psf=raised)]))
    assert not (both.flags & int(Flag.PSF_TRUNCATED)).any()
    assert (both.all_flags & int(Flag.PSF_TRUNCATED)).all()
    assert all("background" in text for text in both.messages)
    fit = fit_cutouts(both, OPTIONS)
    assert (fit.flags & int(Flag.PSF_TRUNCATED)).all()


@pytest.mark.parametrize(
    ("model", "sky"), [("sersic+point", "constant"), ("sersic+point", "plane"), ("sersic", "fixed")]
)
def test_scenes_in_equal_exposures(model: str, sky: str) -> None:
    """Tied components and other skies: two equal images have the fit of one that is deeper."""
    cutouts, _ = observe(population(3, 9), 100.0)
    turned = affine(np.array([[0.0, -1.0], [1.0, 0.0]]), (47.0, 0.0))  # by 90 degrees
    psf = cutouts.psf
    assert psf is not None
    image = cutouts.image.transpose(1, 2).flip(2)
    other = exposure_of(cutouts, image=image, psf=psf.transpose(1, 2).flip(2), to_pixels=turned)
    options = replace(OPTIONS, objective="map", model=model, sky=sky)
    one = fit_cutouts(replace(cutouts, exposures=[other]), options)
    deep = fit_cutouts(replace(cutouts, sigma=cutouts.sigma / 2**0.5), options)
    names = [k for k, name in enumerate(one.space.names) if not name.startswith("sky")]
    error = deep.error[:, names]
    # the turned image is rendered anew, to 1e-4 of its peak
    apart = ((one.theta - deep.theta)[:, names] / error).abs()
    assert (apart.nan_to_num(0.0) < 0.05).all()
    assert torch.equal(torch.isnan(one.theta), torch.isnan(deep.theta))  # a nucleus without light
    known = error < 1  # not that of the magnitude of a nucleus that is hardly there
    assert torch.allclose(one.error[:, names][known], error[known], rtol=0.02, atol=SINGLE)
    assert torch.allclose(one.chi2, deep.chi2, rtol=1e-5, atol=SINGLE)
