"""Oversampled PSFs: where their centre is, and how finely they are sampled by their headers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.io import fits
from read_helpers import gaussian, psf_image, write
from tolerances import TEXT

import hybridfit as hf
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.io.psf_files import read_psf
from hybridfit.io.psf_oversampling import sampling_of, stated
from hybridfit.rendering.psf_images import examine_psf, prepare_psf, windowed_centroid
from hybridfit.rendering.render import render

WIDTH = 1.5  # image pixels, of the Gaussian that all PSFs here are
ZEROPOINT = 25.0


def finely_sampled(k: float, side: int, centre: float | None = None) -> np.ndarray:
    """A Gaussian with ``k`` PSF pixels per image pixel; by default in the array's very middle."""
    at = (side - 1) / 2 if centre is None else centre
    return gaussian((side, side), at, at, WIDTH * k)


def observed(x=32.3, y=31.8, r_eff=8.0, n=2.0) -> np.ndarray:
    """A galaxy of S/N 10,000 or so through the true PSF, noise-free, (64, 64)."""
    theta = torch.tensor([[x, y, 15.0, r_eff, n, 0.7, 30.0, 0.0]], dtype=torch.float64)
    psf = finely_sampled(5, 101)[None]
    flat = np.zeros((1, 64, 64))
    cutouts = Cutouts(
        image=flat, sigma=flat + 1, psf=psf / psf.sum(), psf_oversampling=5, zeropoint=ZEROPOINT
    )
    return render(theta, cutouts)[0].numpy()


def measured(psf: np.ndarray, k: int):
    image = observed()
    cutouts = Cutouts(
        image=image[None], sigma=image[None] * 0 + 1, psf=psf, psf_oversampling=k, zeropoint=25.0
    )
    return hf.fit(cutouts, uncertainty="covariance", initial_values="moments")[0]


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("even", [False, True])
def test_positions_are_right_for_all_samplings_and_sides(k, even):
    side = 20 * k + (20 * k) % 2 + (0 if even else 1)
    found = examine_psf(finely_sampled(k, side), "array", k)
    assert found.psf.shape[0] % 2 == 1
    assert found.oversampling == k
    assert not found.flags & Flag.PSF_OFF_CENTRE
    assert ("between its middle pixels" in " ".join(found.notes)) == even
    row = measured(found.psf, k)
    # the window's and the fit's own rounding; half a PSF pixel would be .1 or more
    assert row["x"] == pytest.approx(32.3, abs=2e-3)
    assert row["y"] == pytest.approx(31.8, abs=2e-3)
    assert row["r_eff"] == pytest.approx(8.0, rel=1e-3)


def test_the_half_pixel_is_exact():
    """Moved in Fourier space a Gaussian keeps its values: float32's rounding is left."""
    side = 40
    psf, _ = prepare_psf(finely_sampled(2, side), oversampling=2)
    true = gaussian(psf.shape, psf.shape[1] // 2, psf.shape[0] // 2, 2 * WIDTH)
    assert np.abs(psf - true / true.sum()).max() < 1e-6 * true.max() + 1e-8


def test_an_even_side_that_is_centred_on_a_pixel_stays():
    """Tiny Tim's PSFs are oversampled and have their peak in pixel N // 2."""
    found = examine_psf(finely_sampled(2, 40, 20.0), "array", 2)
    assert found.flags == 0
    assert found.notes == ()
    assert np.unravel_index(found.psf.argmax(), found.psf.shape) == tuple(
        side // 2 for side in found.psf.shape
    )


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_an_odd_side_that_is_half_a_pixel_off_is_flagged(k):
    """As where a user has cut odd sides out of an array of even ones."""
    found = examine_psf(finely_sampled(k, 20 * k + 1, 10 * k - 0.5), "array", k)
    assert found.flags & Flag.PSF_OFF_CENTRE
    said = [float(part.split()[0]) for part in found.notes[0].split("lies ")[1].split(",")[:2]]
    assert said == pytest.approx([-0.5 / k] * 2, abs=6e-3)  # printed to two digits


def test_one_even_side_is_moved_along_it_only():
    array = gaussian((41, 40), 19.5, 20.0, 2 * WIDTH)
    psf, flags = prepare_psf(array, oversampling=2)
    y, x = windowed_centroid(psf.astype(float))
    assert (y, x) == pytest.approx((psf.shape[0] // 2, psf.shape[1] // 2), abs=1e-3)
    assert not flags


def test_an_even_side_at_the_image_sampling_is_flagged_as_galfit_has_it():
    found = examine_psf(finely_sampled(1, 30))
    assert found.flags & Flag.PSF_OFF_CENTRE
    assert "-0.50, -0.50 image pixels" in found.notes[0]
    row = measured(found.psf, 1)
    assert row["x"] == pytest.approx(32.8, abs=2e-3)  # told, and not mended


@pytest.mark.parametrize("k", [2, 3, 4])
def test_galfit_takes_the_pixel_and_is_told(k):
    found = examine_psf(finely_sampled(k, 20 * k), "galfit", k)
    assert found.flags & Flag.PSF_OFF_CENTRE
    _, x = windowed_centroid(found.psf.astype(float))
    assert x - found.psf.shape[1] // 2 == pytest.approx(-0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("cards", "scale", "value", "said"),
    [
        ({}, 0.03, 1, ""),
        ({"OVERSAMP": 4, "DET_SAMP": 4, "PIXELSCL": 0.0075}, 0.03, 4, "DET_SAMP, PIXELSCL"),
        ({"OVERSAMP": 4, "DET_SAMP": 2}, np.nan, 2, "DET_SAMP"),
        ({"OVERSAMP": 3}, np.nan, 3, "OVERSAMP"),
        ({"PIXELSCL": 0.01}, 0.03, 3, "PIXELSCL"),
        ({"PIXELSCL": 0.05 / 3600}, 0.2, 4, "PIXELSCL"),  # degrees
        ({"PIXELSCL": 0.05 / 3600, "PIXUNIT": "deg"}, 0.2, 4, "PIXELSCL"),
        ({"PIXELSCL": 50.0, "PIXUNIT": "mas"}, 0.2, 4, "PIXELSCL"),
        ({"OVERSAMP": "4", "PIXELSCL": " 0.05"}, 0.2, 4, "OVERSAMP, PIXELSCL"),  # as texts
        # the nominal scale of stpsf and that of the image's WCS differ by a per cent
        ({"DET_SAMP": 4, "PIXELSCL": 0.0311 / 4}, 0.0307, 4, "DET_SAMP, PIXELSCL"),
        # a drizzled image has other pixels than the detector
        ({"DET_SAMP": 4, "PIXELSCL": 0.063 / 4}, 0.04, 2.54, "interpolated"),
        ({"PIXELSCL": 0.063, "DET_SAMP": 4, "EXTNAME": "DET_SAMP"}, 0.063, 1, "includes-pixel"),
        ({"OVERSAMP": 1, "DET_SAMP": 4, "CALCSAMP": 4, "PIXELSCL": 0.06}, 0.06, 1, ""),
        ({"PIXSCALE": 0.05}, 0.2, 4, "PIXSCALE"),
        ({"PIXELSCL": 1e-5, "PIXUNIT": "meter", "OVERSAMP": 2}, 0.2, 2, "OVERSAMP"),
        ({"CDELT1": -0.05 / 3600, "CUNIT1": "deg"}, 0.1, 2, "CDELT1"),
        ({"CDELT1": 1.0}, 0.1, 1, ""),  # pixels
        ({"PSF_SAMP": 0.5}, np.nan, 2, "PSF_SAMP"),
        ({"PSF_SAMP": 0.4}, np.nan, 2.5, "interpolated"),
        ({"OVERSAMP": "four", "PIXELSCL": -1.0}, 0.1, 1, ""),
        # a scale that is the image's may have been copied from it
        ({"OVERSAMP": 4, "PIXSCALE": 0.2}, 0.2, 4, "OVERSAMP"),
    ],
)
def test_headers_of_psfs(cards, scale, value, said):
    found = sampling_of(stated(fits.Header(cards)), scale, None)
    assert found.value == pytest.approx(value, rel=2e-3)
    assert found.flags == 0
    assert said in " ".join(found.notes)
    assert bool(found.notes) == bool(said)


def test_a_wcs_in_the_header_of_a_psf():
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -1e-5, "CD2_2": 1e-5}
    found = sampling_of(stated(fits.Header(cards)), 0.072, None)
    assert found.value == 2
    assert "WCS" in found.notes[0]


def test_what_is_given_goes_before_the_header_and_is_told():
    said = stated(fits.Header({"DET_SAMP": 4, "PIXELSCL": 0.0075}))
    found = sampling_of(said, 0.03, 2.0)
    assert found.value == 2
    assert found.flags == Flag.BAD_PSF
    assert "psf_oversampling 2 is used, but the PSF's DET_SAMP, PIXELSCL says 4" in found.notes[0]
    assert sampling_of(said, 0.03, 4.0).notes == ()
    copied = sampling_of(stated(fits.Header({"PIXSCALE": 0.2})), 0.2, 4.0)
    assert (copied.value, copied.flags) == (4, 0)
    wild = sampling_of(stated(fits.Header({"PIXELSCL": 1e-6})), 0.2, None)
    assert (wild.value, wild.flags) == (1, Flag.BAD_PSF)


def test_a_ratio_that_is_not_whole_is_interpolated():
    """From 2.6 PSF pixels per image pixel to 3: a Gaussian of the right width, to 1e-4."""
    found = examine_psf(finely_sampled(2.6, 61), "array", 2.6)
    assert found.oversampling == 3
    true = gaussian(found.psf.shape, found.psf.shape[1] // 2, found.psf.shape[0] // 2, 3 * WIDTH)
    assert np.abs(found.psf - true / true.sum()).max() < 1e-4 * true.max()
    coarse = examine_psf(finely_sampled(0.5, 31), "array", 0.5)
    assert coarse.oversampling == 1
    assert coarse.flags & Flag.BAD_PSF


@pytest.fixture
def stpsf_folder(tmp_path):
    """A galaxy at .03 arcsec a pixel, and a PSF as stpsf writes it: even sides, 4 extensions."""
    image = observed() + np.random.default_rng(0).normal(0, 0.1, (64, 64))
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -0.03 / 3600, "CD2_2": 0.03 / 3600}
    )
    write(tmp_path / "a_image.fits", image.astype("f4"), header)
    write(tmp_path / "a_sigma.fits", np.full((64, 64), 0.1, "f4"))
    fine, wide = finely_sampled(4, 120), gaussian((120, 120), 59.5, 59.5, 7.0)
    binned = fine.reshape(30, 4, 30, 4).sum(axis=(1, 3))
    hdus = []
    for name, data, k in (
        ("OVERSAMP", wide, 4),
        ("DET_SAMP", binned, 1),
        ("OVERDIST", fine, 4),
        ("DET_DIST", binned, 1),
    ):
        cards = fits.Header({"OVERSAMP": k, "DET_SAMP": 4, "PIXELSCL": 0.03 / k})
        kind = fits.ImageHDU if hdus else fits.PrimaryHDU
        hdus.append(kind(data, cards))
        hdus[-1].name = name
    fits.HDUList(hdus).writeto(tmp_path / "a_psf.fits")
    return tmp_path


def test_an_stpsf_file_needs_no_option(stpsf_folder):
    """Without --psf-oversampling r_eff came out as 8.5 and n as 8.0."""
    cutouts = hf.read(stpsf_folder)
    assert cutouts.psf_oversampling.tolist() == [4]
    said = cutouts.messages[0]
    assert "extension OVERDIST of OVERSAMP, DET_SAMP, OVERDIST, DET_DIST" in said
    assert "psf_oversampling 4 is from the PSF's header (DET_SAMP, PIXELSCL)" in said
    row = hf.fit(cutouts, uncertainty="covariance", initial_values="moments")[0]
    # the noise moves them by 1e-3
    assert row["r_eff"] == pytest.approx(8.0, rel=5e-3)
    assert row["n"] == pytest.approx(2.0, rel=1e-2)
    assert row["x"] == pytest.approx(32.3, abs=5e-3)


def test_an_option_goes_before_the_header(stpsf_folder):
    cutouts = hf.read(stpsf_folder, psf_oversampling=2)
    assert cutouts.psf_oversampling.tolist() == [2]
    assert int(cutouts.flags[0]) & Flag.BAD_PSF
    assert "psf_oversampling 2 is used" in cutouts.messages[0]


def test_a_psf_in_the_image_s_own_file(tmp_path):
    image = fits.ImageHDU(observed().astype("f4"), name="SCI")
    sigma = fits.ImageHDU(np.ones((64, 64), "f4"), name="ERR")
    psf = fits.ImageHDU(finely_sampled(3, 61), fits.Header({"OVERSAMP": 3}), name="PSF")
    fits.HDUList([fits.PrimaryHDU(), image, sigma, psf]).writeto(tmp_path / "a.fits")
    cutouts = hf.read(tmp_path)
    assert cutouts.psf_oversampling.tolist() == [3]
    assert "from the PSF's header (OVERSAMP)" in cutouts.messages[0]


def test_the_primary_header_speaks_for_an_extension(tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"OVERSAMP": 3}))
    fits.HDUList([primary, fits.ImageHDU(finely_sampled(3, 61))]).writeto(tmp_path / "psf.fits")
    found = read_psf(str(tmp_path / "psf.fits"), "array")
    assert found.oversampling == 3


def test_a_shared_psf_is_prepared_once_for_each_scale(tmp_path):
    """The same file serves images of two pixel scales."""
    write(tmp_path / "psf.fits", finely_sampled(4, 81), fits.Header({"PIXELSCL": 0.025}))
    rows = ["id,image,psf,pixel_scale"]
    write(tmp_path / "im.fits", observed().astype("f4"))
    rows += [f"{name},im.fits,psf.fits,{scale}" for name, scale in (("a", 0.1), ("b", 0.05))]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert hf.read(tmp_path / "list.csv").psf_oversampling.tolist() == [4, 2]


def test_ordinary_psfs_are_left_alone():
    array = psf_image(31, 2.0).astype(float)
    found = examine_psf(array)
    assert (found.flags, found.notes, found.oversampling) == (0, (), 1)
    middle = found.psf.shape[0] // 2
    cut = array[15 - middle : 16 + middle, 15 - middle : 16 + middle]
    np.testing.assert_allclose(found.psf, cut / cut.sum(), rtol=1e-6, atol=TEXT)
    assert torch.is_tensor(Cutouts(image=array[None], sigma=array[None] + 1, psf=found.psf).psf)


@pytest.mark.parametrize(
    "key", ["PIXELSCL", "OVERSAMP", "PIXUNIT", "PSF_SAMP", "EXTNAME", "CDELT1"]
)
def test_a_broken_card_of_a_psf_says_nothing(key):
    header = fits.Header()
    header.append(fits.Card.fromstring(f"{key:8}= 'a = (b / "))
    header["DET_SAMP"] = 3
    assert stated(header).count == 3
