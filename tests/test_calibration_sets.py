"""The scenarios of the calibration benchmark are what they say they are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim", reason="GalSim makes the galaxies of the benchmarks")

from validation import calibration_sets as sets
from validation.common import interval_coverage

DROP = sets.PIXFRAC / sets.SCALE


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    """Eight Gaussian blobs in place of GalSim's galaxies: observing does not mind."""
    rng = np.random.default_rng(3)
    side, count = 32, 8
    place = np.arange(side) - (side - 1) / 2
    blob = np.exp(-(place**2 + place[:, None] ** 2) / 18.0)
    flux = np.full(count, 1e5)
    theta = np.zeros((count, 8))
    theta[:, :2], theta[:, 3], theta[:, 4], theta[:, 5] = (side - 1) / 2, 3.5, 0.5, 0.8
    theta[:, 2] = sets.ZEROPOINT - 2.5 * np.log10(flux)
    image = (flux[:, None, None] * blob / blob.sum()).astype(np.float32)
    level = rng.uniform(5e3, 1e4, count)
    psf = np.zeros(count, np.int64)
    neighbour = 0.2 * np.roll(image, 9, axis=2)
    return sets.Truth("t", theta, np.full(count, 50.0), level, psf, image, neighbour, (1, 2))


def test_drizzled_noise_is_unit_and_as_correlated_as_theory_says() -> None:
    # Fruchter & Hook 2002, eq. 9: errors of large areas over those of white noise
    expected = DROP / (1 - 1 / (3 * DROP))
    assert pytest.approx(expected, rel=1e-4) == sets.NOISE_FACTOR
    noise = sets.correlated(np.random.default_rng(0).standard_normal((400, 64, 64)))
    assert noise.var() == pytest.approx(1.0, abs=0.01)  # 1.6 million pixels, correlated
    beside = (noise[:, :, 1:] * noise[:, :, :-1]).mean()
    assert beside == pytest.approx(sets.drizzle_correlation()[4], abs=0.01)
    blocks = noise.reshape(400, 4, 16, 4, 16).mean(axis=(2, 4)) * 16
    # 6,400 means of 16 x 16: their deviation to 1 %; a block's edges cost some of the factor
    assert 0.93 * sets.NOISE_FACTOR < blocks.std() < sets.NOISE_FACTOR


def test_scenarios_differ_in_what_is_wrong_alone(truth: sets.Truth) -> None:
    seen = {name: sets.observe(truth, name) for name in sets.SCENARIOS}
    clean, asked = seen["clean"]
    assert np.array_equal(asked, truth.theta)
    residual = (clean.image.numpy() - truth.image) / clean.sigma.numpy()
    assert residual.std() == pytest.approx(1.0, abs=0.05)  # 8,192 pixels
    sky, with_sky = seen["sky"]
    offset = (sky.image - clean.image).numpy()
    assert np.abs(with_sky[:, 7]) == pytest.approx(0.002 * truth.level)
    assert np.allclose(offset, with_sky[:, 7, None, None], atol=2e-3)  # float32 of 1e4
    tilt = (seen["gradient"][0].image - sky.image).numpy()
    assert np.allclose(tilt.mean(axis=(1, 2)), 0, atol=2e-3)
    assert (np.ptp(tilt, axis=(1, 2)) > 0.9 * 0.002 * truth.level).all()
    given, true = seen["psf"][0], clean
    assert given.psf is not None
    assert true.psf is not None
    assert (given.psf[:, 25, 25] > 1.02 * true.psf[:, 25, 25]).all()  # narrower: a higher peak
    assert np.array_equal(given.image.numpy(), clean.image.numpy())
    assert float((seen["neighbour"][0].image - clean.image).max()) > 100
    arms, brighter = seen["structure"]
    assert (brighter[:, 2] <= truth.theta[:, 2] + 0.02).all()  # added light counts
    assert float((arms.image - clean.image).abs().max()) > 100


def test_unknown_scenario_is_named(truth: sets.Truth) -> None:
    with pytest.raises(ValueError, match="scenario is 'fog', expected one of clean, sky"):
        sets.observe(truth, "fog")


def test_weights_make_flat_fluxes_log_uniform() -> None:
    flux = np.random.default_rng(0).uniform(1, 100, (1, 200_000))  # flat
    weights = sets.population_weights(-2.5 * np.log10(flux))
    middle = np.average(np.log(flux[0]), weights=weights[0])
    assert middle == pytest.approx(np.log(100) / 2, abs=0.02)  # of a log-uniform one


def test_interval_coverage_counts_a_lost_galaxy_as_outside() -> None:
    truth = np.zeros((4, 7))
    truth[:, 6] = 179.0
    values = truth.copy()
    values[:, 6] = 1.0  # 2 degrees away, the short way round
    values[0] = np.nan
    held = interval_coverage(values, np.full((4, 7), 1.9), truth)
    assert held["mag"] == [0.75, 0.75]
    assert held["pa"] == [0.0, 0.75]  # 2 is more than 1.9, less than 1.96 x 1.9
