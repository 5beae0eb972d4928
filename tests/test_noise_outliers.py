"""A noise map is checked against its own neighbourhood: absurd pixels are masked and told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fit_helpers import observe
from read_helpers import galaxy, gaussian, write, write_galaxy
from scipy import ndimage

import hybridfit as hf
from hybridfit.detection.noise_outliers import noise_outliers
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

SHAPE = (96, 96)
ROW, COLUMN = np.mgrid[: SHAPE[0], : SHAPE[1]]
EVERYWHERE = np.ones(SHAPE, bool)
REGIONS = {
    "pixel": (ROW == 50) & (COLUMN == 40),
    "corner": (ROW == 0) & (COLUMN == 95),
    "edge": (ROW < 2),
    "scattered": (ROW % 7 == 0) & (COLUMN % 7 == 0),
    "rows": (ROW > 60) & (ROW < 64),
    "block": (abs(ROW - 20) < 9) & (abs(COLUMN - 70) < 9),
    "core": (abs(ROW - 47.5) < 1) & (abs(COLUMN - 47.5) < 1),
}


def scene(gain=1.0, seed=0):
    """A bright galaxy with Poisson noise on a sky of 100 counts: image and its true sigma."""
    light = gaussian(SHAPE, 47.5, 47.5, 3.0, 1e6)
    sigma = np.sqrt((light + 100) / gain)
    return light + np.random.default_rng(seed).normal(0, 1, SHAPE) * sigma, sigma


@pytest.mark.parametrize("factor", [1e-38, 1e-6, 0.05, 1e6, 1e30])
@pytest.mark.parametrize("region", REGIONS)
def test_absurd_pixels_are_found_and_no_others(region, factor):
    image, sigma = scene()
    given = np.where(REGIONS[region], sigma * factor, sigma)
    found = noise_outliers(image, given, EVERYWHERE)
    np.testing.assert_array_equal(found, REGIONS[region])


def legitimate():
    rng = np.random.default_rng(5)
    star = gaussian(SHAPE, 30.3, 60.7, 0.9, 1e8)  # next to no wings: sigma falls a thousandfold
    yield "star", np.sqrt(star + 1)
    yield "galaxy", scene()[1]
    yield "step of coverage", np.where(ROW > 1.3 * COLUMN, 5.0, 1.0)
    yield "gap between chips", np.where(abs(ROW - 0.2 * COLUMN - 40) < 4, 6.0, 1.0)
    yield "overlap of dithers", np.where(abs(COLUMN - 40) < 2, 0.5, 1.0)
    yield "noisy map", np.exp(rng.normal(0, 0.2, SHAPE))
    yield "deep area", np.where(REGIONS["block"], 0.05, 1.0)
    yield "deep corner", np.where(ROW + COLUMN > 150, 0.1, 1.0)
    yield "moire of weights", 1 + 0.5 * np.sin(ROW) * np.sin(COLUMN)
    yield "high where masked by weight", np.where(np.hypot(ROW - 48, COLUMN - 48) < 20, 1.0, 20.0)
    yield "measured from counts", np.sqrt(9 + rng.poisson(4, SHAPE))


@pytest.mark.parametrize(("name", "sigma"), list(legitimate()), ids=[n for n, _ in legitimate()])
def test_legitimate_structure_is_kept(name, sigma):
    light = sigma**2 - 1 if name in ("star", "galaxy") else 0.0
    image = light + sigma * np.random.default_rng(1).normal(0, 1, SHAPE)
    assert not noise_outliers(image, sigma, EVERYWHERE).any()


def test_good_area_in_a_map_that_is_mostly_flagged_by_its_noise():
    sigma = np.where(np.hypot(ROW - 48, COLUMN - 48) < 30, 1.0, 1e15)
    image = np.random.default_rng(1).normal(0, 1, SHAPE)
    np.testing.assert_array_equal(noise_outliers(image, sigma, EVERYWHERE), sigma > 1)


def test_told_and_counted(tmp_path):
    sigma = np.ones((64, 64))
    sigma[10, 20:23] = 1e-6
    stamp = read_cutout(find_sources(write_galaxy(tmp_path, sigma=sigma))[0])
    assert stamp.flags == hf.Flag.BAD_PIXELS
    assert (
        "pixels whose sigma is far from that of their neighbours (sigma 1e-06, elsewhere 1)"
        in stamp.message
    )
    np.testing.assert_array_equal(stamp.mask, sigma < 1)
    mask = (sigma < 1).astype(np.uint8)
    assert read_cutout(find_sources(write_galaxy(tmp_path, mask=mask))[0]).flags == 0


@pytest.mark.parametrize(("role", "value"), [("sigma", 1e-6), ("variance", 1e-12), ("ivar", 1e12)])
def test_size_with_one_absurd_pixel(tmp_path, role, value):
    """One such pixel drew r_eff to 6.21 +- .06 for 6, and the row was usable."""
    truth = [[31.2, 31.6, 20.0, 6.0, 2.0, 0.7, 40.0, 0.1]]
    cutouts, _ = observe(truth, 400.0, (64, 64), seed=2)
    write_cutouts(cutouts, tmp_path)
    (tmp_path / "0_sigma.fits").unlink()
    noise = np.ones((64, 64))
    noise[36, 27] = value
    write(tmp_path / f"0_{role}.fits", noise)
    clean = hf.fit(cutouts, uncertainty="covariance", initial_values="moments")[0]
    row = hf.fit(hf.read(tmp_path), uncertainty="covariance", initial_values="moments")[0]
    assert row["flags"] == hf.Flag.BAD_PIXELS
    # one pixel of 4,096 less: the fit moves by a few hundredths of its errors
    assert abs(row["r_eff"] - clean["r_eff"]) < 0.2 * clean["r_eff_err"]
    assert abs(row["r_eff"] - 6.0) < 3 * row["r_eff_err"]
    left_in = dataclasses.replace(cutouts, sigma=np.where(noise == 1, 1, 1e-6)[None])
    drawn = hf.fit(left_in, uncertainty="covariance", initial_values="moments")[0]
    assert abs(drawn["r_eff"] - clean["r_eff"]) > 0.5 * clean["r_eff_err"]
    assert ndimage.label(hf.read(tmp_path).mask[0].numpy())[1] == 1


def test_noise_of_one_value_needs_no_look():
    image, sigma = galaxy(SHAPE), np.full(SHAPE, 3.0)
    assert not noise_outliers(image, sigma, EVERYWHERE).any()
