"""Fill values, padding and saturated plateaus are no data; true zeros and quantised noise are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fit_helpers import observe
from read_helpers import galaxy, gaussian, write_galaxy
from scipy import ndimage

import hybridfit as hf
from hybridfit.detection.no_data import without_data
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

SHAPE = (128, 128)
ROW, COLUMN = np.mgrid[: SHAPE[0], : SHAPE[1]]
REGIONS = {
    "slanted": ROW + 0.4 * COLUMN > 140,
    "corner": ROW + COLUMN < 35,
    "hole": (abs(ROW - 30) < 3) & (abs(COLUMN - 90) < 3),
    "column": COLUMN == 40,
    "part of a row": (ROW == 20) & (COLUMN > 30) & (COLUMN < 60),
    "slanted gap": abs(ROW - 0.5 * COLUMN) < 1.5,
    "field stop": np.hypot(ROW - 64, COLUMN - 64) > 60,
}
UNMASKED = np.zeros(SHAPE, bool)


def noise(seed=0, smoothing=0.0):
    white = np.random.default_rng(seed).normal(0, 1, SHAPE)
    smooth = ndimage.gaussian_filter(white, smoothing) if smoothing else white
    return smooth / smooth.std()


LIGHT = gaussian(SHAPE, 63.5, 63.5, 4, 5000)


@pytest.mark.parametrize("value", [0.0, -999.0, 1e5, 123.4])
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("sky", [0.0, 0.5, 5.0, 1e4])
def test_areas_of_one_value_are_no_data(region, value, sky):
    for smoothing in (0, 1):
        image = (LIGHT + noise(smoothing=smoothing) + sky).astype(np.float32)
        image[REGIONS[region]] = value
        found, values = without_data(image, UNMASKED)
        # at 1e4 float32 has steps of .001: a few true pixels have the value by chance
        assert (found != REGIONS[region]).sum() <= 5
        assert found[REGIONS[region]].all()
        assert values == (pytest.approx(value),)


@pytest.mark.parametrize("region", REGIONS)
def test_a_fill_value_that_never_lies_apart_among_integers(region):
    """Nearly all zeros of 315 in a slanted gap stayed data, at 5 sigma below the sky."""
    image = np.round(LIGHT + 3 * noise() + 15)
    image[REGIONS[region]] = 0
    found, values = without_data(image, UNMASKED)
    np.testing.assert_array_equal(found, REGIONS[region])
    assert values == (0.0,)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
def test_counts_next_to_none_around_a_large_galaxy_are_data(rate):
    """Zeros lie together where most pixels are 0, but others lie among them."""
    light = gaussian(SHAPE, 63.5, 63.5, 22, 2e5)
    image = np.random.default_rng(4).poisson(light + rate).astype(np.float32)
    assert not without_data(image, UNMASKED)[0].any()


def test_rounded_corners_among_integers_near_zero():
    """What sticks out of squares passed for zeros that are there by chance."""
    corners = np.hypot(*(np.clip(abs(axis - 63.5) - 44, 0, 99) for axis in (ROW, COLUMN))) > 18
    image = np.round(LIGHT + noise())
    image[corners] = 0
    found, _ = without_data(image, UNMASKED)
    assert found[corners].mean() > 0.95  # the ends of areas are thinner than squares
    assert found[~corners].mean() < 0.05  # zeros at their rims


def test_two_fill_values_and_a_saturated_core():
    image = LIGHT + noise() + 3.0
    image[REGIONS["corner"]], image[REGIONS["column"]] = 0, -1
    level = np.sort(image.ravel())[-12]
    expected = REGIONS["corner"] | REGIONS["column"] | (image >= level)
    found, values = without_data(np.minimum(image, level), UNMASKED)
    np.testing.assert_array_equal(found, expected)
    assert sorted(values) == pytest.approx([-1, 0, level])


@pytest.mark.parametrize("region", ["slanted", "corner", "column", "field stop"])
@pytest.mark.parametrize("rate", [3.0, 100.0])
def test_fill_values_among_counts(region, rate):
    """Where zeros also occur by chance some true pixels at the area's rim go with it."""
    image = np.random.default_rng(3).poisson(LIGHT + rate)
    image[REGIONS[region]] = 0
    found, _ = without_data(image, UNMASKED)
    assert found[REGIONS[region]].mean() > 0.95  # corners of squares stick out
    near = ndimage.binary_dilation(REGIONS[region], np.ones((9, 9)))
    assert not found[~near].any()


def data_of_few_values(seed):
    rng = np.random.default_rng(seed)
    for rate in (0.005, 0.05, 0.3, 0.5, 1, 3):
        yield f"counts {rate}", rng.poisson(LIGHT / 10 + rate)
        yield f"vignetted counts {rate}", rng.poisson(LIGHT / 10 + rate * (1.05 - ROW / 128))
    for smoothing in (0, 1):
        image = LIGHT + noise(seed, smoothing)
        for step in (0.1, 0.5, 1):
            yield f"steps of {step}", np.round(image / step) * step
        for clip in (-0.5, 0, 0.5):
            yield f"clipped at {clip}", np.maximum(image, clip)
        for k in (2, 3, 8):
            yield f"replicated {k} times", np.kron(image[::k, ::k], np.ones((k, k)))[:128, :128]
        yield "float32 on a high sky", (image + 1e6).astype(np.float32)
        yield "median filtered", ndimage.median_filter(image, 5)
    yield "no noise", (LIGHT + 100).astype(np.float32)
    yield "no noise, no sky", np.where(LIGHT > 1e-3, LIGHT, 0)


@pytest.mark.parametrize("seed", range(3))
def test_true_zeros_and_repeated_values_are_data(seed):
    wrong = [
        name for name, image in data_of_few_values(seed) if without_data(image, UNMASKED)[0].any()
    ]
    assert wrong == []


def test_most_of_the_image_is_kept():
    """An image of which nearly nothing would be left is taken as it is."""
    image = np.where(np.hypot(ROW - 64, COLUMN - 64) < 15, LIGHT + noise(), 0.0)
    assert not without_data(image, UNMASKED)[0].any()


@pytest.mark.parametrize(("sky", "wrong"), [(0.5, 6.41), (5.0, 22.7)])
def test_size_beside_a_slanted_edge(tmp_path, sky, wrong):
    """Zeros taken for data made r_eff 6.41 +- .11 and 22.7 for 6."""
    truth = [[31.2, 31.6, 20.0, 6.0, 2.0, 0.7, 40.0, sky]]
    cutouts, _ = observe(truth, 400.0, (64, 64), seed=2)
    rows, columns = np.mgrid[:64, :64]
    image = cutouts.image.clone()
    image[0, rows + 0.5 * columns > 72] = 0.0
    write_cutouts(dataclasses.replace(cutouts, image=image), tmp_path)
    stamp = read_cutout(find_sources(tmp_path)[0])
    assert stamp.flags == hf.Flag.BAD_PIXELS
    assert "areas or edges of one value among them (0: " in stamp.message
    row = hf.fit(hf.read(tmp_path), uncertainty="covariance", initial_values="moments")[0]
    assert abs(row["r_eff"] - 6.0) < 3 * row["r_eff_err"]  # 99.7 % of noises
    assert abs(row["r_eff"] - wrong) > 3 * row["r_eff_err"]


def test_plane_of_zeros_under_the_mask_is_nothing_to_speak_of(tmp_path):
    image, mask = galaxy(), np.zeros((64, 64), np.uint8)
    mask[:20, :30] = 1
    image[:20, :30] = 0
    stamp = read_cutout(find_sources(write_galaxy(tmp_path, image=image, mask=mask))[0])
    assert stamp.flags == 0
    assert stamp.message == ""
