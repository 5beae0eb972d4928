"""Crops follow the source's own size, and a frame of many sources is told at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from astropy.io import fits
from read_helpers import gaussian, psf_image, write_galaxy

import hybridfit as hf
from hybridfit.data.errors import BadInput
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

SIDE = 2048
FRAMED = hf.Flag.SEVERAL_SOURCES | hf.Flag.CROPPED | hf.Flag.MASK_ESTIMATED


def positions():
    """150 sources of a frame, none within 60 pixels of its middle."""
    found = np.random.default_rng(3).uniform(30, SIDE - 30, (400, 2))
    found = found[np.hypot(*(found - SIDE / 2).T) > 60][:149]
    return np.concatenate([found, [[60.0, 80.0]]])


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    rng = np.random.default_rng(4)
    image = rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    for x, y in positions():
        flux, width = 10 ** rng.uniform(2.7, 4.3), rng.uniform(1.5, 4)
        x0, y0 = int(x) - 25, int(y) - 25
        image[y0 : y0 + 50, x0 : x0 + 50] += gaussian((50, 50), x - x0, y - y0, width, flux)
    return write_galaxy(tmp_path_factory.mktemp("frame"), image=image, sigma=np.ones_like(image))


def cutout_of(path, **options):
    return read_cutout(find_sources(path)[0], ReadOptions(zeropoint=25.0, **options))


def test_a_frame_without_a_target_is_told_at_once(frame):
    """It was fitted as one stamp of 1152 x 1152 pixels, for minutes."""
    start = time.process_time()
    with pytest.raises(
        BadInput, match=r"a frame with about 1\d0 sources and there is none"
    ) as caught:
        cutout_of(frame)
    assert time.process_time() - start < 5  # .4 s on a core that is free
    assert caught.value.flags & hf.Flag.SEVERAL_SOURCES
    assert hf.read(frame).image.shape == (1, 32, 32)


@pytest.mark.parametrize("number", [5, 77, 149])
def test_one_source_of_a_frame(frame, number):
    x, y = positions()[number]
    stamp = cutout_of(frame, x=x, y=y)
    assert stamp.flags & ~FRAMED == 0
    assert stamp.flags & hf.Flag.SEVERAL_SOURCES
    assert f"this is the one at x, y = {x:.0f}, {y:.0f}" in stamp.message
    assert max(stamp.image.shape) <= 193  # 16 x the sigma of the largest, or 177
    dx, dy = stamp.start[:2]
    assert (dx + stamp.origin[0], dy + stamp.origin[1]) == pytest.approx((x, y))


@pytest.mark.parametrize("position", [(1500.0, 1000.0), (1500.0, 20.0), (2040.0, 3.0)])
def test_a_source_too_faint_to_be_seen_is_cropped(frame, position):
    """Nothing was detected there: the crop was all that had been looked at, 640 x 1152 pixels."""
    stamp = cutout_of(frame, x=position[0], y=position[1])
    assert max(stamp.image.shape) <= 177
    assert stamp.flags & hf.Flag.CROPPED
    assert stamp.flags & hf.Flag.SEVERAL_SOURCES


@pytest.mark.parametrize(("width", "side"), [(0.0, 177), (12.0, 211), (30.0, 319)])
def test_crop_of_a_faint_extended_source(tmp_path, width, side):
    """By the width under which it is seen, not by the image's size."""
    image = np.random.default_rng(5).normal(0, 1, (900, 1000)).astype(np.float32)
    if width:  # 12 sigma altogether, below the noise in every pixel
        image += gaussian(image.shape, 500, 450, width, 12 * 2 * np.sqrt(np.pi) * width)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=np.ones_like(image)))
    assert max(stamp.image.shape) <= side
    assert max(stamp.image.shape) >= min(side, 177)
    if width:
        assert min(stamp.image.shape) >= 2 * 3 * width


def test_a_frame_that_is_not_cropped_is_told_too(frame):
    x, y = positions()[5]
    stamp = cutout_of(frame, x=x, y=y, crop="none")
    assert stamp.image.shape == (SIDE, SIDE)
    assert stamp.flags & hf.Flag.SEVERAL_SOURCES
    assert "about 150 sources" in stamp.message  # what is seen of them, and noise peaks


def test_a_galaxy_among_its_neighbours_is_no_frame(tmp_path):
    rng = np.random.default_rng(6)
    image = rng.normal(0, 1, (500, 500)).astype(np.float32)
    image += gaussian(image.shape, 249.5, 249.5, 5, 8000)
    for x, y in rng.uniform(20, 480, (12, 2)):
        image += gaussian(image.shape, x, y, 2, 800)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=np.ones_like(image)))
    assert not stamp.flags & hf.Flag.SEVERAL_SOURCES
    # a galaxy of many clumps that fills its image is none either
    image += gaussian(image.shape, 249.5, 249.5, 120, 3e6)
    for x, y in rng.uniform(50, 450, (60, 2)):
        image += gaussian(image.shape, x, y, 2, 2000)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=np.sqrt(1 + np.maximum(image, 0))))
    assert not stamp.flags & hf.Flag.SEVERAL_SOURCES


def test_frames_of_arrays_are_told_too(frame):
    image = fits.getdata(next(iter(frame.glob("*_image.fits"))))
    cutouts = hf.prepare(image, sigma=1.0, psf=psf_image(), zeropoint=25.0)
    assert cutouts.flags[0] & hf.Flag.SEVERAL_SOURCES
    assert "none at its middle" in cutouts.messages[0]
    assert cutouts.image.shape == (1, 32, 32)
