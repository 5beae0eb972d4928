"""The background of a PSF, and wings that its image cuts off: found, subtracted, allowed for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from budget_helpers import about, budget_of, quoted
from fit_helpers import observe, population
from tolerances import TEXT

import hybridfit as hf
from hybridfit.data.flags import Flag
from hybridfit.data.result import Quality
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.rendering.psf_images import examine_psf, prepare_psf, windowed_centroid
from hybridfit.rendering.psf_wings import find_wings, percent
from hybridfit.rendering.render import render
from hybridfit.simulation.psfs import FAMILIES, draw_psfs
from hybridfit.simulation.random_numbers import Random
from hybridfit.uncertainty.image_view import image_views
from hybridfit.uncertainty.psf_error import other_wings, wing_derivatives
from hybridfit.uncertainty.quality import quality

TRUNCATED = int(Flag.PSF_TRUNCATED)


def moffat(side: int, fwhm: float = 3.3, beta: float = 3.5) -> np.ndarray:
    """Of sum 1 in an endless plane, so that a stamp has less."""
    index = np.arange(side) - side // 2
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    r2 = index[:, None] ** 2 + index**2
    return (beta - 1) / (np.pi * alpha2) * (1 + r2 / alpha2) ** -beta


def on_background(psf: np.ndarray, share: float) -> np.ndarray:
    return (psf / psf.sum() + share / psf.size) / (1 + share)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0432, "4.3 %"), (0.3, "30 %"), (0.9961, "100 %"), (4.3, "430 %"), (-2.5, "-250 %")],
)
def test_shares_have_no_exponent(share: float, text: str):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("side", "share"), [(41, 0.034), (41, -0.034), (81, 0.13), (41, 0.005), (61, -0.01)]
)
def test_a_background_is_taken_off(side, share):
    true, _ = prepare_psf(moffat(side))
    found = examine_psf(on_background(moffat(side), share))
    assert found.flags & TRUNCATED
    assert "background" in found.notes[0]
    half = min(true.shape[0], found.psf.shape[0]) // 2
    cuts = [
        p[p.shape[0] // 2 - half : p.shape[0] // 2 + half + 1][
            :, p.shape[1] // 2 - half : p.shape[1] // 2 + half + 1
        ]
        for p in (true, found.psf)
    ]
    # 1 % of the background is left, in units of the flux in all pixels
    assert np.abs(cuts[1] - cuts[0]).sum() < 0.01 * abs(share) + 1e-5


def test_galfit_s_values_stay():
    array = on_background(moffat(41), 0.034)
    found = examine_psf(array, "galfit")
    assert found.flags & TRUNCATED
    assert "left in" in found.notes[0]
    np.testing.assert_allclose(found.psf, array, rtol=1e-5, atol=TEXT)


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_real_wings_are_no_background(family):
    """Moffat, Kolmogorov, Airy with its rings, cores with haloes: of 61 pixels, FWHM 1.5 to 8."""
    weights = tuple(float(k == family) for k in range(len(FAMILIES)))
    random = Random.seeded(11, torch.device("cpu"))
    for psf in draw_psfs(40, random, 61, (1.5, 8.0), weights, 0.25).double().numpy():
        found = find_wings(psf / psf.sum(), windowed_centroid(psf))
        assert found is None or not found.has_background


def test_noise_is_no_background():
    rng = np.random.default_rng(3)
    flagged = 0
    for _ in range(100):
        psf = moffat(41) + rng.normal(0, 3e-5, (41, 41))
        flagged += bool(prepare_psf(psf)[1] & TRUNCATED)
    assert flagged <= 2  # the limit is four standard errors and .3 % of the flux


@pytest.mark.parametrize(
    ("side", "beta", "factor"), [(11, 3.5, 1.6), (15, 2.5, 1.4), (25, 2.0, 1.3), (41, 1.7, 1.3)]
)
def test_the_flux_beyond_the_stamp(side, beta, factor):
    psf = moffat(side, beta=beta)
    lost = 1 - psf.sum()  # 1.2 to 4 %: in units of what is inside nearly the same
    found = find_wings(psf / psf.sum(), (side // 2, side // 2))
    assert lost / factor < found.lost < lost * factor
    flags = prepare_psf(psf)[1]
    assert flags & TRUNCATED
    assert "cuts off about" in " ".join(examine_psf(psf).notes)


def test_a_cut_at_a_radius_is_seen_too():
    psf, index = moffat(41), np.arange(41) - 20
    psf[np.hypot(index[:, None], index) > 6.5] = 0.0
    lost = 1 - psf.sum()
    found = find_wings(psf / psf.sum(), (20, 20))
    assert found.lost == pytest.approx(lost, rel=0.5)
    assert found.is_cut


def test_padding_with_zeros_changes_nothing():
    """PSFs from files are padded to common sides: a galaxy's errors must not change with it."""
    psf = moffat(15)
    found, padded = find_wings(psf, (7, 7)), find_wings(np.pad(psf, 3), (10, 10))
    assert (found.lost, found.background, found.error) == (
        padded.lost,
        padded.background,
        padded.error,
    )
    np.testing.assert_array_equal(padded.support[3:-3, 3:-3], found.support)
    for images, others in zip(
        other_wings(psf, 25)[0], other_wings(np.pad(psf, 3), 25)[0], strict=True
    ):
        np.testing.assert_array_equal(images, others)


def test_ordinary_psfs_have_neither(shared_data):
    with np.load(shared_data / "sims" / "main.npz") as data:
        for psf in data["psf"]:
            assert not prepare_psf(psf)[1] & TRUNCATED


def test_truncated_psfs_are_usable_at_best():
    flags = torch.tensor([TRUNCATED])
    assert quality(flags, sampled=True).tolist() == [Quality.USABLE]


def test_cutouts_with_a_background_are_flagged_too():
    """Nobody has made their PSF ready: it stays, and the budget allows for what is under it."""
    cutouts, _ = observe(population(3, 5), 100.0, psf=moffat(41))
    raw = on_background(moffat(41), 0.034).astype(np.float32)
    psf = torch.stack([cutouts.psf[0], torch.tensor(raw), cutouts.psf[0]])
    table = hf.fit(replace(cutouts, psf=psf), initial_values="moments")
    assert (np.array(table["flags"]) & TRUNCATED).tolist() == [0, TRUNCATED, 0]
    assert "background with 3.3 % of its flux: hybridfit.prepare_psf" in table["notes"][1]
    assert table["quality"][1] != "certified"


# --- the error budget -----------------------------------------------------------------------


@pytest.mark.parametrize("oversampling", [1, 3])
def test_wing_derivatives_are_differences_of_renders(oversampling):
    """The model through PSF + v (W - PSF) is linear in v: 1e-4 for float32 PSFs."""
    side = 11 * oversampling + (11 * oversampling + 1) % 2
    psf = moffat(side, 3.3 * oversampling)
    psf /= psf.sum()
    options = FitOptions(compile="off", precision="float64")
    cutouts, _ = observe(population(3, 5), 100.0, psf=psf, psf_oversampling=oversampling)
    fit = fit_cutouts(cutouts, options)
    linearised, problem, part = about(cutouts, fit, options)
    found = wing_derivatives(image_views(problem, part, linearised)[0])
    images, widths = other_wings(psf.astype(np.float32).astype(float), 3 * side)
    assert widths[1] == pytest.approx(0.02, abs=0.015)
    inside = images[1].sum()
    assert 0.8 < inside < 1.0  # the rest lies beyond three stamps
    # a PSF whose sum is not 1 is none: compare with one whose wings are brought to sum 1
    wide = np.pad(psf, side)
    theta = fit.theta.clone()
    theta[:, 7] = 0.0
    models = [
        render(theta, replace(cutouts, psf=p / p.sum()), dtype=torch.float64)
        for p in (wide, wide + 0.1 * images[1])
    ]
    slope = ((1 + 0.1 * inside) * models[1] - models[0]) / 0.1  # model through W
    expected = widths[1] * (slope - models[0]) / cutouts.sigma
    difference = (found[:, 1] - expected).abs().amax(dim=(1, 2))
    # what lies between three stamps and the Fourier grid is all that differs
    assert float((difference / expected.abs().amax(dim=(1, 2))).max()) < 0.05


def cut_psf_galaxies(count: int):
    """S/N 400, the true PSF in 41 pixels, the given one of 11 lacks 2.4 % of it."""
    theta = population(count, 31)
    theta[:, 3] = np.maximum(theta[:, 3], 2.0)
    cutouts, truth = observe(theta, 400.0, psf=moffat(41))
    small, flags = prepare_psf(moffat(41)[15:-15, 15:-15])
    assert flags & TRUNCATED
    given = replace(cutouts, psf=small, flags=torch.full((count,), flags))
    return given, truth


def test_errors_cover_wings_that_are_cut_off():
    given, truth = cut_psf_galaxies(40)
    budget, linearised, fit = budget_of(given)
    names = list(fit.space.names)
    r_eff = names.index("r_eff")
    miss = (fit.theta[:, r_eff].numpy() - truth[:, r_eff]) ** 2
    with_it, without = (quoted(linearised, added)[:, r_eff] for added in (budget.total, 0.0))
    assert np.sqrt(np.median(miss / without**2)) > 1.2  # .67 where all is right
    assert np.sqrt(np.mean(miss / with_it**2)) < 1.3
    unflagged, _, _ = budget_of(replace(given, flags=torch.zeros(40, dtype=torch.int64)))
    assert (
        budget.terms["psf"].diagonal(dim1=1, dim2=2)
        >= unflagged.terms["psf"].diagonal(dim1=1, dim2=2)
    ).all()


def test_what_others_psfs_lack_changes_nothing():
    given, _ = cut_psf_galaxies(6)
    mixed = replace(given, flags=torch.tensor([0, TRUNCATED, 0, 0, TRUNCATED, 0]))
    none = replace(given, flags=torch.zeros(6, dtype=torch.int64))
    found, plain, every = (budget_of(one)[0].total for one in (mixed, none, given))
    for row, flagged in enumerate(mixed.flags != 0):
        torch.testing.assert_close(
            found[row], (every if flagged else plain)[row], rtol=1e-5, atol=1e-12
        )
