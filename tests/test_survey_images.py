"""Whole images of surveys: each layout is recognised, calibrated, masked, and read by tiles."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from survey_helpers import (
    FLUX,
    HARMFUL,
    HARMLESS,
    SCALE,
    SIGMA,
    WRITERS,
    H,
    W,
    bits,
    des,
    jwst,
    kids,
    lsst,
    plain,
    sdss,
    wcs_header,
)
from tolerances import SINGLE

from hybridfit.data.errors import BadInput
from hybridfit.io.survey.layouts import LAYOUTS
from hybridfit.io.survey.options import LAYOUTS as NAMES
from hybridfit.io.survey.options import SurveyOptions
from hybridfit.io.survey.read import read_survey_image


@pytest.fixture(params=WRITERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def written(name, tmp_path):
    return WRITERS[name](tmp_path)


@pytest.fixture
def image(written):
    return read_survey_image(written.path, SurveyOptions(**written.more))


def test_layout_and_calibration(name, written, image):
    assert image.layout == name.split("_")[0]
    assert image.shape == (H, W)
    # constants of the formulas are rounded to .001 mag
    assert image.zeropoint == pytest.approx(written.zeropoint, abs=2e-3)
    assert written.origin in image.zeropoint_from
    assert image.pixel_scale == pytest.approx(SCALE, rel=1e-6)
    assert {key: image.bits[key] for key in written.bits} == written.bits
    ra, dec = image.wcs.all_pix2world(29.5, 19.5, 0)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-7)


def test_pixels_noise_and_mask(written, image):
    assert np.array_equal(image.mask, written.bad)
    good = ~written.bad
    # float32, through an inverse variance or the asinh scale
    expected = FLUX * written.unit
    assert image.image[good] == pytest.approx(expected[good], rel=1e-5, abs=1e-5 * written.unit)
    assert not image.image[~good].any()
    if written.sigma:
        assert image.has_noise
        assert image.sigma[good] == pytest.approx(SIGMA[good] * written.unit, rel=1e-5)
        assert np.isnan(image.sigma[~good]).all()


def test_tiles_are_parts_of_the_whole(image):
    """Also where they reach over the edge; x, y are not exchanged, ra and dec stay."""
    whole = image.tile(0, W, 0, H)
    for x0, x1, y0, y1 in [(3, 20, 5, 33), (-10, 12, 30, 100), (40, 60, 0, 7)]:
        tile = image.tile(x0, x1, y0, y1)
        cut = slice(max(y0, 0), y1), slice(max(x0, 0), x1)
        assert tile.origin == (max(x0, 0), max(y0, 0))
        assert np.array_equal(tile.image, whole.image[cut])
        assert np.array_equal(tile.mask, whole.mask[cut])
        if whole.sigma is None:
            assert tile.sigma is None
        else:
            assert np.array_equal(tile.sigma, whole.sigma[cut], equal_nan=True)
        inner = tile.wcs.all_pix2world(1.0, 2.0, 0)
        outer = whole.wcs.all_pix2world(tile.origin[0] + 1.0, tile.origin[1] + 2.0, 0)
        assert np.allclose(inner, outer, atol=1e-9)


def test_every_layout_has_a_test_and_an_option():
    names = {layout.name for layout in LAYOUTS}
    assert names == {key.split("_")[0] for key in WRITERS}
    assert names | {"auto"} == set(NAMES)


def test_weights_of_exposure_are_no_noise(tmp_path):
    image = read_survey_image(WRITERS["hst"](tmp_path).path)
    assert not image.has_noise
    assert image.sigma is None
    assert image.tile(0, 20, 0, 20).weight.max() == 2028
    assert any("unless weight_is_ivar" in note for note in image.notes)
    assert image.exposure == 2028


def test_the_noise_of_sdss_frames(tmp_path):
    """By hand at one pixel: gain 4.72, dark variance 1.3225 of camera column 3, r."""
    image = read_survey_image(sdss(tmp_path).path)
    x, y = 37, 11
    calibration = np.linspace(0.004, 0.006, W)[x]
    sky = 100 + 3 * (7 * x / (W - 1)) + 2 * (5 * y / (H - 1))
    counts = float(FLUX[y, x]) * 0.01 / calibration + sky
    expected = calibration * np.sqrt(counts / 4.72 + 1.3225)
    assert image.sigma[y, x] == pytest.approx(expected, rel=1e-5)
    tile = image.tile(30, 50, 5, 25)
    assert tile.sigma[y - 5, x - 30] == pytest.approx(expected, rel=1e-5)
    assert image.has_noise
    assert any("sky and calibration" in note for note in image.notes)


def test_a_frame_without_its_sky(tmp_path):
    header = wcs_header(BUNIT="nanomaggy", CAMCOL=3, RUN=4192, FILTER="r", NMGY=0.005)
    path = tmp_path / "frame-r-004192-3-0300.fits"
    fits.writeto(path, FLUX, header)
    image = read_survey_image(path)
    with pytest.raises(BadInput, match=r"no whole SDSS frame: expected .* give sigma"):
        image.tile(0, 20, 0, 20)
    header["FILTER"] = "V"
    fits.writeto(path, FLUX, header, overwrite=True)
    with pytest.raises(BadInput, match=r"FILTER = V, expected 1 to 6, a number, and one of u"):
        read_survey_image(path)
    assert read_survey_image(path, SurveyOptions(layout="plain")).zeropoint == 22.5


def test_bits_are_chosen_by_name(tmp_path):
    path = lsst(tmp_path).path
    image = read_survey_image(path, SurveyOptions(mask_bits="DETECTED"))
    assert np.array_equal(image.mask, HARMLESS)
    image = read_survey_image(path, SurveyOptions(mask_bits="CR"))
    assert np.array_equal(image.mask, HARMFUL)
    with pytest.raises(BadInput, match=r"'GHOST'.* its planes are BAD, SAT"):
        read_survey_image(path, SurveyOptions(mask_bits="GHOST")).tile(0, 9, 0, 9)


def test_files_that_are_given_take_precedence(tmp_path):
    path = plain(tmp_path).path
    fits.writeto(tmp_path / "other.fits", np.full((H, W), 7.0))
    fits.writeto(tmp_path / "bad.fits", bits(0, 1))
    given = SurveyOptions(
        variance=str(tmp_path / "other.fits"), mask=str(tmp_path / "bad.fits"), zeropoint=20.0
    )
    image = read_survey_image(path, given)
    assert np.allclose(image.sigma[~image.mask], np.sqrt(7), rtol=1e-6, atol=SINGLE)
    assert np.array_equal(image.mask, HARMLESS)
    assert (image.zeropoint, image.zeropoint_from) == (20.0, "given")


def test_what_is_missing_is_noted(tmp_path):
    path = kids(tmp_path).path
    (tmp_path / "KiDS_DR4.0_150.1_2.2_r_wei.fits").unlink()
    image = read_survey_image(path)
    assert not image.has_noise
    assert any("looked for KiDS_DR4.0_150.1_2.2_r_wei.fits" in note for note in image.notes)
    assert any("zero point 0 is that of every KiDS coadd" in note for note in image.notes)


def test_a_plane_of_another_shape(tmp_path):
    path = plain(tmp_path).path
    fits.writeto(tmp_path / "a_rms_r.fits", SIGMA[:30], overwrite=True)
    image = read_survey_image(path)
    with pytest.raises(BadInput, match=r"sigma of .* has shape \(30, 60\), expected \(40, 60\)"):
        image.tile(0, 20, 0, 20)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"BUNIT": "nJy", "MAGZERO": 31.41}, "MAGZERO = 31.41 disagrees"),
        ({"BUNIT": "nJy", "MAGZERO": 31.402}, ""),  # 31.400
        ({"BUNIT": "nJy", "FLUXMAG0": 10 ** (0.4 * 27.0)}, "FLUXMAG0 gives the zero point 27.000"),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 9.5e-13}, "PIXAR_SR used, which is 1.01 times"),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 9.403e-13}, ""),  # (0.2 arcsec)^2 is 9.4018e-13
        (
            {"BUNIT": "ELECTRONS/S", "PHOTFLAM": 7e-20, "PHOTPLAM": 8045.0, "PHOTFNU": 1.6e-7},
            "PHOTFNU gives the zero point",
        ),
        ({"MAGZERO": 27.0, "MAGZPT": 27.01}, "zero point 27 of MAGZERO used, MAGZPT = 27.01"),
        # one is per second: the exposure makes up for the difference
        ({"MAGZERO": 30.27, "MAGZPT": 24.713, "EXPTIME": 167.0}, ""),
    ],
)
def test_zero_points_that_disagree(tmp_path, keys, text):
    """More than .005 mag apart is noted, less is not."""
    fits.writeto(tmp_path / "a.fits", FLUX, wcs_header(**keys))
    notes = " | ".join(read_survey_image(tmp_path / "a.fits").notes)
    words = ("disagrees", "gives the zero point", "times the area", "ignored")
    assert text in notes
    assert any(word in notes for word in words) == bool(text)


def test_sections_and_hdus(tmp_path):
    """An address with a section: the planes of the whole are cut alike."""
    path = jwst(tmp_path).path
    whole = read_survey_image(path)
    part = read_survey_image(f"{path}[SCI][11:50,6:40]")
    assert part.shape == (35, 40)
    assert np.array_equal(part.sigma, whole.sigma[5:, 10:50], equal_nan=True)
    assert np.array_equal(part.mask, whole.mask[5:, 10:50])
    ra = part.wcs.all_pix2world(0.0, 0.0, 0)
    assert np.allclose(ra, whole.wcs.all_pix2world(10.0, 5.0, 0), atol=1e-9)


def test_wrong_files(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_survey_image(tmp_path / "none.fits")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(BadInput, match="expected an HDU with an image"):
        read_survey_image(tmp_path / "empty.fits")
    with pytest.raises(ValueError, match="sigma and as ivar: expected one"):
        SurveyOptions(sigma="a.fits", ivar="b.fits")
    with pytest.raises(ValueError, match="layout"):
        SurveyOptions(layout="desi")


def test_a_tile_of_a_large_mosaic_needs_little_memory(tmp_path):
    """20,000 x 20,000 pixels, 1.6 GB a plane (sparse files): memory follows the tile."""
    header = wcs_header(MAGZERO=27.0)
    for part in ("image", "rms"):
        path = tmp_path / f"big_{part}.fits"
        fits.writeto(path, np.ones((10, 20_000), np.float32), header)
        with path.open("r+b") as file:
            block = file.read(2880)
            file.seek(0)
            card = b"NAXIS2  =                   10"
            assert card in block
            file.write(block.replace(card, b"NAXIS2  =                20000"))
            size = 2880 * -(-20_000 * 20_000 * 4 // 2880)
            file.truncate(2880 + size)
    image = read_survey_image(tmp_path / "big_image.fits")
    assert image.shape == (20_000, 20_000)
    tracemalloc.start()
    tile = image.tile(19_500, 21_000, 0, 700)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tile.image.shape == (700, 500)
    assert not tile.mask[:10].any()
    assert tile.mask[10:].all()  # a noise of 0
    assert peak < 40e6  # bytes: some copies of 350,000 pixels
    with pytest.raises(BadInput, match=r"read it by tile"):
        _ = image.image


def test_real_fields(shared_data):
    """Every image of the real fields is read as it is."""
    root = shared_data / "fields" / "real"
    found = {}
    for path in ("hsc_gama79635/hsc_r", "kids_viking/g", "hsc_cosmos35/i", "sep_image/image"):
        found[path] = read_survey_image(root / f"{path}.fits")
    decam = read_survey_image(root / "decam_tractor" / "image.fits")
    assert found["hsc_gama79635/hsc_r"].layout == found["hsc_cosmos35/i"].layout == "lsst"
    assert found["hsc_gama79635/hsc_r"].zeropoint == pytest.approx(27.0, abs=1e-6)
    assert found["hsc_gama79635/hsc_r"].pixel_scale == pytest.approx(0.168, abs=1e-4)
    assert found["kids_viking/g"].zeropoint_from == "MAGZERO"
    assert found["sep_image/image"].has_noise
    assert decam.has_noise
    assert decam.pixel_scale == pytest.approx(0.262, abs=1e-3)
    for image in (*found.values(), decam):
        tile = image.tile(5, 45, 5, 40)
        assert tile.image.shape == (35, 40)
        assert tile.mask.mean() < 0.2
        scatter = 1.4826 * np.median(np.abs(tile.image - np.median(tile.image))[~tile.mask])
        if tile.sigma is not None and image is not decam:  # the noise is that of the pixels
            assert 0.3 < scatter / np.nanmedian(tile.sigma) < 8


def test_options_are_used_for_the_area(tmp_path):
    """A pixel scale that is given stands in for a missing WCS."""
    written = des(tmp_path)
    fits.writeto(tmp_path / "b.fits", FLUX, fits.Header({"BUNIT": "MJy/sr"}))
    image = read_survey_image(tmp_path / "b.fits", SurveyOptions(pixel_scale=SCALE))
    expected = 8.90 - 2.5 * np.log10(1e6 * np.radians(SCALE / 3600) ** 2)
    assert image.zeropoint == pytest.approx(expected, abs=2e-3)
    assert image.pixel_scale == SCALE
    assert replace(written).path.exists()
