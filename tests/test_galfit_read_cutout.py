"""The pixels that an input file asks for: exactly GALFIT's, to the chi2 it found on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.io.galfit import (
    Component,
    Feedme,
    Value,
    find_feedmes,
    read_feedme,
    read_feedme_cutout,
)
from hybridfit.io.galfit.sigma import made_sigma
from hybridfit.io.options import ReadOptions

SHAPE = (30, 40)
REGION = (4, 34, 2, 26)  # x 5 to 34, y 3 to 26 in GALFIT's count


@pytest.fixture
def asked(tmp_path: Path) -> Feedme:
    """Files of one galaxy, and an input file that names them."""
    rng = np.random.default_rng(1)
    image = rng.normal(100, 5, SHAPE).astype(np.float32)
    sigma = rng.uniform(4, 6, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.int16)
    mask[3:5, 6] = 7
    psf = np.zeros((10, 12), np.float32)
    psf[5, 6] = 3.0  # GALFIT's centre of even sides
    psf[5, 7] = 1.0
    header = fits.Header({"EXPTIME": 100.0, "GAIN": 2.0})
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header)]).writeto(tmp_path / "im.fits")
    for name, plane in (("sigma", sigma), ("mask", mask), ("psf", psf)):
        fits.writeto(tmp_path / f"{name}.fits", plane)
    return Feedme(
        path=tmp_path / "galfit.feedme",
        image="im.fits[1]",
        sigma="sigma.fits",
        psf="psf.fits",
        mask="mask.fits",
        region=REGION,
        zeropoint=25.0,
        pixel_scale=(0.2, 0.3),
    )


def plane(asked: Feedme, name: str) -> np.ndarray:
    with fits.open(asked.path.parent / name) as hdus:
        return np.asarray(hdus[-1].data)


def test_the_region_and_nothing_else(asked: Feedme):
    """Region, mask, sigma, origin, zero point, scale: no cropping, no search for neighbours."""
    stamp = read_feedme_cutout(asked)
    box = np.s_[2:26, 4:34]
    mask = plane(asked, "mask.fits")[box] != 0
    assert stamp.origin == (4, 2)
    assert mask.sum() == 2
    np.testing.assert_array_equal(stamp.mask, mask)
    np.testing.assert_array_equal(
        stamp.image, np.where(mask, 0, plane(asked, "im.fits")[box]).astype("f4")
    )
    np.testing.assert_array_equal(stamp.sigma[~mask], plane(asked, "sigma.fits")[box][~mask])
    assert stamp.zeropoint == pytest.approx(25 + 5.0)  # 2.5 log10 of 100 s
    assert stamp.pixel_scale == pytest.approx(math.sqrt(0.06))
    assert np.isnan(stamp.start).all()
    assert (stamp.id, stamp.message) == ("galfit.feedme", "")
    assert stamp.flags == int(Flag.PSF_NORMALISED)


def test_the_psf_is_centred_as_galfit_does(asked: Feedme):
    stamp = read_feedme_cutout(asked)
    assert stamp.psf is not None
    h, w = stamp.psf.shape
    assert (h % 2, w % 2) == (1, 1)
    assert stamp.psf[h // 2, w // 2] == pytest.approx(0.75)
    assert stamp.psf[h // 2, w // 2 + 1] == pytest.approx(0.25)
    assert not stamp.psf_includes_pixel
    fine = read_feedme_cutout(replace(asked, psf_oversampling=2))
    assert fine.psf_oversampling == 2
    none = read_feedme_cutout(replace(asked, psf=""))
    assert none.psf is None
    assert none.flags & Flag.NO_PSF


def test_a_diffusion_kernel_is_convolved_in(asked: Feedme):
    """As text, the way Tiny Tim gives it, or as FITS; any normalisation."""
    kernel = np.array([[0.0, 1.0, 0.0], [1.0, 4.0, 3.0], [0.0, 1.0, 0.0]])
    np.savetxt(asked.path.parent / "kernel.txt", kernel)
    fits.writeto(asked.path.parent / "kernel.fits", kernel)
    for name in ("kernel.txt", "kernel.fits"):
        psf = read_feedme_cutout(replace(asked, kernel=name)).psf
        assert psf is not None
        cy, cx = (side // 2 for side in psf.shape)
        assert psf[cy, cx] == pytest.approx((0.75 * 4 + 0.25 * 1) / 10)
        assert psf[cy, cx + 1] == pytest.approx((0.75 * 3 + 0.25 * 4) / 10)
        assert psf[cy + 1, cx] == pytest.approx(0.75 / 10)
    with pytest.raises(BadInput, match=r"diffusion kernel, 'kernel\.txt'"):
        read_feedme_cutout(replace(asked, kernel="kernel.txt", psf_oversampling=2))
    np.savetxt(asked.path.parent / "even.txt", np.ones((2, 3)))
    with pytest.raises(BadInput, match="expected odd sides"):
        read_feedme_cutout(replace(asked, kernel="even.txt"))


def test_a_list_of_bad_pixels(asked: Feedme):
    """Lines of x y, from 1, in the whole image; what lies outside is passed over."""
    (asked.path.parent / "bad.txt").write_text("# x y\n5 3\n34 26 1\n35 26\n1000 -3\n")
    mask = read_feedme_cutout(replace(asked, mask="bad.txt")).mask
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [(0, 0), (23, 29)]
    (asked.path.parent / "bad.txt").write_text("some words\n")
    with pytest.raises(BadInput, match="lines of x y"):
        read_feedme_cutout(replace(asked, mask="bad.txt"))


def test_pixels_that_galfit_could_not_use(asked: Feedme):
    with fits.open(asked.path.parent / "im.fits", mode="update") as hdus:
        hdus[1].data[10, 10] = np.nan
    with fits.open(asked.path.parent / "sigma.fits", mode="update") as hdus:
        hdus[0].data[11, 11] = 0
        hdus[0].data[11, 12] = np.nan
    stamp = read_feedme_cutout(asked)
    assert stamp.mask[8, 6]
    assert stamp.mask[9, 7]
    assert stamp.mask[9, 8]
    assert stamp.flags & Flag.BAD_PIXELS
    assert "3 pixels" in stamp.message
    assert np.isfinite(stamp.image).all()
    assert (stamp.sigma > 0).all()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, 25.0), (0.0, 25.0), ("long", 25.0), ("10", 27.5)]
)
def test_exposure_times_that_are_none(asked: Feedme, seconds: object, expected: float):
    with fits.open(asked.path.parent / "im.fits", mode="update") as hdus:
        del hdus[1].header["EXPTIME"]
        if seconds is not None:
            hdus[1].header["EXPTIME"] = seconds
    stamp = read_feedme_cutout(asked)
    assert stamp.zeropoint == pytest.approx(expected)
    assert ("EXPTIME" in stamp.message) == (seconds in (0.0, "long"))


def test_compressed_files_are_opened_unasked(asked: Feedme):
    """GALFIT's library takes sigma.fits.gz for sigma.fits; an image may be its first HDU."""
    folder = asked.path.parent
    before = read_feedme_cutout(asked)
    fits.writeto(folder / "flat.fits.gz", plane(asked, "im.fits"), fits.Header({"EXPTIME": 100}))
    fits.writeto(folder / "other.fits.gz", plane(asked, "sigma.fits"))
    after = read_feedme_cutout(replace(asked, image="flat.fits", sigma="other.fits"))
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.sigma, before.sigma)
    assert after.zeropoint == before.zeropoint


def test_files_are_found_from_a_folder_above(asked: Feedme):
    """GALFIT's paths are of where it was started, often the folder above."""
    deep = asked.path.parent / "runs" / "one"
    deep.mkdir(parents=True)
    stamp = read_feedme_cutout(replace(asked, path=deep / "galfit.feedme"))
    np.testing.assert_array_equal(stamp.image, read_feedme_cutout(asked).image)


def test_a_region_beyond_the_image_is_cut(asked: Feedme):
    stamp = read_feedme_cutout(replace(asked, region=(-3, 60, 10, 40)))
    assert stamp.image.shape == (20, 40)
    assert stamp.origin == (0, 10)
    assert "extends beyond" in stamp.message
    whole = read_feedme_cutout(replace(asked, region=None))
    assert (whole.image.shape, whole.origin) == (SHAPE, (0, 0))


def test_options_go_before_the_file(asked: Feedme):
    options = ReadOptions(zeropoint=22.0, pixel_scale=0.5, no_psf=True)
    stamp = read_feedme_cutout(asked, options, "mine")
    assert (stamp.zeropoint, stamp.pixel_scale, stamp.psf, stamp.id) == (22.0, 0.5, None, "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "gone.fits"}, r"row A\) names 'gone.fits', but there is no such file"),
        ({"sigma": "gone.fits"}, r"row C\) names"),
        ({"psf": "gone.fits"}, r"row D\) names"),
        ({"mask": "gone.fits"}, r"row F\) names"),
        ({"image": ""}, r"row A\) names no image"),
        ({"image": "im.fits[7]"}, "has no HDU '7'"),
        ({"mode": 1}, r"row P\) is 1, a model only"),
        ({"mode": 3}, r"row P\) is 3"),
        ({"bands": ("g", "r")}, r"2 bands at once \(g, r\)"),
        ({"region": (100, 120, 3, 9)}, "expected 5 to"),
        ({"sigma": "psf.fits"}, "sigma '.*psf.fits' has shape"),
        ({"mask": "psf.fits", "region": None}, "mask '.*psf.fits' has shape"),
        ({"zeropoint": math.nan}, r"row J\) is missing"),
        ({"psf_oversampling": 0}, r"row E\) is 0"),
    ],
)
def test_what_cannot_be_fitted_is_told(asked: Feedme, changes: dict, message: str):
    with pytest.raises(BadInput, match=message):
        read_feedme_cutout(replace(asked, **changes))


def test_masked_altogether(asked: Feedme):
    fits.writeto(asked.path.parent / "all.fits", np.ones(SHAPE, np.int16))
    with pytest.raises(BadInput, match="every pixel of the region is masked") as info:
        read_feedme_cutout(replace(asked, mask="all.fits"))
    assert info.value.flags == int(Flag.NO_DATA)


def test_sigma_is_made_where_there_is_none(asked: Feedme):
    """Sky scatter, and the object's Poisson noise by GAIN; GALFIT's 7 where there is none."""
    stamp = read_feedme_cutout(replace(asked, sigma="", mask=""))
    assert stamp.flags & Flag.SIGMA_ESTIMATED
    assert "gain 2" in stamp.message
    assert np.median(stamp.sigma) == pytest.approx(5.1, rel=0.1)  # 5, and 1 % of weak noise
    image = np.random.default_rng(2).normal(0, 3, (200, 200))
    image[22:38, 22:38] += 7000
    sigma, how = made_sigma(image, np.ones(image.shape, bool), fits.Header())
    assert "gain 7, GALFIT's default" in how
    assert sigma[30, 30] == pytest.approx(math.sqrt(1000 + 9), rel=0.01)
    averaged, _ = made_sigma(
        image, np.ones(image.shape, bool), fits.Header({"ATODGAIN": 1.0, "NCOMBINE": 4})
    )
    assert averaged[30, 30] == pytest.approx(math.sqrt(7000 / 4 + 9), rel=0.01)
    with pytest.raises(ValueError, match="no scatter"):
        made_sigma(np.ones((9, 9)), np.ones((9, 9), bool), fits.Header())


def test_a_mask_over_the_galaxy_is_told(asked: Feedme):
    values = {name: Value(value) for name, value in (("x", 6.0), ("y", 5.2))}
    hidden = read_feedme_cutout(replace(asked, components=(Component("sersic", values),)))
    assert hidden.flags & Flag.MASKED_CENTRE
    assert "does the mask cover the galaxy" in hidden.message
    away = {"x": Value(20.0), "y": Value(math.nan)}
    assert not read_feedme_cutout(
        replace(asked, components=(Component("sersic", away),))
    ).flags & int(Flag.MASKED_CENTRE)


def test_faults_of_the_data_are_flagged(shared_data: Path):
    """KiDS's PSFs have 11 to 25 % of their flux below 0."""
    root = shared_data / "real" / "galfit3"
    for path in find_feedmes(root):
        feedme = read_feedme(path)
        case, mode = path.parts[-3:-1]
        if "_kids" in case:
            bad = read_feedme_cutout(feedme).flags & Flag.BAD_PSF
            assert bool(bad) == ("moffat" not in mode)


def test_chi2_of_galfits_own_models(shared_data: Path):
    """chi2 of each block's model on our pixels is what GALFIT says: region, mask, sigma, unit.

    With a sigma image to 1e-7, single precision's. Where GALFIT made sigma itself, within 11 %:
    how it measures the sky is not published.
    """
    compared = 0
    for path in find_feedmes(shared_data / "real" / "galfit3"):
        feedme = read_feedme(path)
        stamp = read_feedme_cutout(feedme)
        with fits.open(next(path.parent.glob("imgblock.fits*"))) as hdus:
            model, header = hdus[2].data.astype(float), hdus[2].header
        used = ~stamp.mask
        residual = (stamp.image.astype(float) - model)[used] / stamp.sigma[used]
        assert used.sum() == header["NDOF"] + header["NFREE"]
        near = 1e-6 if feedme.sigma else 0.11
        assert np.square(residual).sum() == pytest.approx(header["CHISQ"], rel=near), path
        assert stamp.origin == (feedme.region[0], feedme.region[2])
        compared += bool(feedme.sigma)
    assert compared == 68
