"""Arrays are prepared as files are: the same pixels give the same cutouts, and the same fits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.nddata import (
    CCDData,
    Cutout2D,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.utils.masked import Masked
from astropy.wcs import WCS
from fit_helpers import observe
from read_helpers import galaxy, gaussian, psf_image, write_galaxy
from tolerances import SINGLE

import hybridfit as hf

FAST = {"uncertainty": "covariance", "initial_values": "moments"}
SHAPE = (64, 64)
IMAGE, PSF = galaxy(seed=3), psf_image()
SIGMA = np.linspace(0.9, 1.1, 64 * 64).reshape(SHAPE)
MASK = np.zeros(SHAPE, bool)
MASK[5:12, 40:50] = True


@pytest.fixture(scope="module")
def with_neighbour():
    """A galaxy with a brighter one beside it, the cutouts, and its truth."""
    middle = [[31.5, 31.5, 22.0, 4.0, 1.5, 0.8, 30.0, 0.0], [50, 52, 20, 5, 2, 0.7, 90, 0.0]]
    cutouts, truth = observe(middle, np.array([60.0, 250.0]), SHAPE, seed=1)
    noise_free, _ = observe(middle, np.array([60.0, 250.0]), SHAPE, seed=2)
    image = cutouts.image[0] + noise_free.image[1] - noise_of(2)[1]
    return image.numpy(), cutouts.psf[0].numpy(), truth[0]


def noise_of(seed):
    return torch.tensor(np.random.default_rng(seed).standard_normal((2, *SHAPE)))


def test_arrays_and_files_are_the_same(tmp_path, with_neighbour):
    """Without masking the neighbour magnitudes were off by 1.6; files and arrays agree."""
    image, psf, truth = with_neighbour
    write_galaxy(tmp_path, image=image, sigma=np.ones(SHAPE), psf=psf)
    read = hf.read(tmp_path, zeropoint=25.0)
    made = hf.prepare(image, sigma=1.0, psf=psf, zeropoint=25.0, id=["a"])
    assert made.flags.tolist() == read.flags.tolist() == [hf.Flag.MASK_ESTIMATED]
    for name in ("image", "sigma", "mask", "psf", "start", "zeropoint", "origin"):
        np.testing.assert_array_equal(getattr(made, name), getattr(read, name), err_msg=name)
    assert made.messages == read.messages
    row = hf.fit(image, sigma=np.ones(SHAPE), psf=psf, zeropoint=25.0, **FAST)[0]
    same = hf.fit(read, **FAST)[0]
    assert row["mag"] == same["mag"]
    assert abs(row["mag"] - truth[2]) < 4 * row["mag_err"]  # the neighbour's wings are left
    left_in = {"mask_neighbours": False}, {"prepare": False}
    for options in left_in:
        drawn = hf.fit(image, sigma=np.ones(SHAPE), psf=psf, zeropoint=25.0, **options, **FAST)[0]
        assert abs(drawn["mag"] - truth[2]) > 0.3


@pytest.mark.parametrize("role", ["sigma", "variance", "ivar"])
def test_every_kind_of_noise(role):
    plane = SIGMA ** {"sigma": 1, "variance": 2, "ivar": -2}[role]
    cutouts = hf.prepare(IMAGE, **{role: plane}, psf=PSF)
    np.testing.assert_allclose(cutouts.sigma[0], SIGMA, rtol=1e-6, atol=SINGLE)  # float32


def test_missing_sigma_is_made():
    image = galaxy((128, 128), sigma=3.0, flux=20_000)
    cutouts = hf.prepare(image, psf=PSF, gain=2.0, zeropoint=25)
    assert cutouts.flags.tolist() == [hf.Flag.SIGMA_ESTIMATED]
    assert float(cutouts.sigma.min()) == pytest.approx(3.0, rel=0.05)  # of 5,000 pixels
    expected = np.sqrt(9 + gaussian((128, 128), 63.5, 63.5, 3.0, 20_000)[63, 63] / 2)
    assert float(cutouts.sigma[0, 63, 63]) == pytest.approx(expected, rel=0.05)


def masked_forms():
    bad = np.where(MASK, 1e4, IMAGE)
    yield "numpy", {"image": np.ma.masked_array(bad, MASK), "sigma": SIGMA}
    yield "sigma", {"image": bad, "sigma": np.ma.masked_array(SIGMA, MASK)}
    yield "astropy", {"image": Masked(bad, mask=MASK), "sigma": SIGMA}
    masked = Masked(bad * u.nJy, mask=MASK)
    yield "with a unit", {"image": masked, "sigma": SIGMA * 1e-3 * u.uJy}
    yield "list", {"image": [np.ma.masked_array(bad, MASK)], "sigma": [SIGMA]}
    yield "mask", {"image": bad, "sigma": SIGMA, "mask": MASK}
    yield "NDData", {"image": NDData(bad, StdDevUncertainty(SIGMA), MASK)}
    yield "of masked", {"image": NDData(np.ma.masked_array(bad, MASK), StdDevUncertainty(SIGMA))}


@pytest.mark.parametrize(
    ("form", "given"), list(masked_forms()), ids=[k for k, _ in masked_forms()]
)
def test_masked_pixels_stay_masked(form, given):
    cutouts = hf.prepare(**given, psf=PSF)
    np.testing.assert_array_equal(cutouts.mask[0], MASK)
    np.testing.assert_allclose(
        cutouts.sigma[0].numpy()[~MASK], SIGMA[~MASK], rtol=1e-6, atol=SINGLE
    )
    assert (cutouts.image[0].numpy()[MASK] == 0).all()


def test_masked_arrays_in_cutouts():
    image = np.ma.masked_array(IMAGE, MASK)[None]
    other = np.zeros(SHAPE, bool)
    other[0, 0] = True
    sigma = np.ma.masked_array(SIGMA, other)[None]
    cutouts = hf.Cutouts(image=image, sigma=sigma, psf=PSF)
    np.testing.assert_array_equal(cutouts.mask[0], MASK | other)
    taken = hf.fit(image, sigma=sigma, psf=PSF, prepare=False, mask=MASK[None], **FAST)
    assert taken["dof"][0] == 64 * 64 - MASK.sum() - 1 - 8
    with pytest.raises(ValueError, match="image is CCDData: pass it through"):
        hf.Cutouts(image=CCDData(IMAGE, unit="adu"), sigma=sigma, psf=PSF)


@pytest.mark.parametrize(
    ("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)]
)
def test_ccddata(kind, power):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150, 2]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    ccd = CCDData(
        IMAGE,
        unit="adu",
        uncertainty=kind(SIGMA**power),
        mask=MASK,
        wcs=wcs,
        psf=PSF,
        meta={"MAGZERO": 24.5},
    )
    cutouts = hf.prepare(ccd)
    np.testing.assert_allclose(
        cutouts.sigma[0].numpy()[~MASK], SIGMA[~MASK], rtol=1e-6, atol=SINGLE
    )
    np.testing.assert_array_equal(cutouts.mask[0], MASK)
    assert cutouts.zeropoint.tolist() == [24.5]
    assert cutouts.pixel_scale.tolist() == pytest.approx([0.36])
    table = hf.fit([ccd, ccd], id=["a", "b"], **FAST)
    assert list(table["id"]) == ["a", "b"]
    assert table["ra"][0] == pytest.approx(150, abs=0.01)
    single = hf.fit(IMAGE, sigma=SIGMA, psf=PSF, mask=MASK, zeropoint=24.5, **FAST)[0]
    assert table["mag"][1] == pytest.approx(single["mag"], abs=1e-4)


def test_uncertainty_in_another_unit():
    image = NDData(IMAGE, StdDevUncertainty(SIGMA * 1e-3, unit="mJy"), unit="uJy")
    np.testing.assert_allclose(hf.prepare(image, psf=PSF).sigma[0], SIGMA, rtol=1e-6, atol=SINGLE)
    given = hf.prepare(IMAGE * u.uJy, sigma=SIGMA * 1e-3 * u.mJy, psf=PSF)
    np.testing.assert_allclose(given.sigma[0], SIGMA, rtol=1e-6, atol=SINGLE)
    with pytest.raises(ValueError, match="sigma is in m, expected uJy"):
        hf.prepare(IMAGE * u.uJy, sigma=SIGMA * u.m, psf=PSF)
    with pytest.raises(ValueError, match="type 'unknown', expected StdDevUncertainty"):
        hf.prepare(NDData(IMAGE, UnknownUncertainty(SIGMA)), psf=PSF)


def test_cutout2d_and_the_psf_of_nddata():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [32.5, 32.5]
    cut = Cutout2D(IMAGE, (31.5, 31.5), 48, wcs=wcs)
    cutouts = hf.prepare(cut, sigma=1.0, psf=NDData(PSF), mask_neighbours=False)
    np.testing.assert_array_equal(cutouts.image[0], IMAGE[8:56, 8:56])
    assert cutouts.wcs[0].wcs.crpix.tolist() == [24.5, 24.5]
    own = hf.prepare(NDData(IMAGE, StdDevUncertainty(SIGMA), psf=NDData(PSF)))
    np.testing.assert_array_equal(own.psf, cutouts.psf)


def test_images_of_several_shapes_and_kinds():
    cutouts = hf.prepare([IMAGE, torch.tensor(galaxy((40, 50)))], sigma=1.0, psf=[PSF, PSF[2:-2]])
    assert cutouts.size.tolist() == [[64, 64], [40, 50]]
    assert cutouts.mask[1, 40:].all()
    assert not cutouts.mask[1, :40, :50].any()
    batch = hf.prepare(
        np.stack([IMAGE] * 3), sigma=np.stack([SIGMA] * 3), psf=PSF, zeropoint=[1, 2, 3]
    )
    assert batch.zeropoint.tolist() == [1, 2, 3]
    assert batch.id == ("0", "1", "2")


def test_large_images_are_cropped_and_positions_stay():
    image = galaxy((500, 600), x=400.3, y=120.6, width=4, flux=5000)
    given = {"sigma": 1.0, "psf": PSF, "zeropoint": 25, "x": 400, "y": 121}
    cutouts = hf.prepare(image, **given, origin=[1000, 2000])
    assert cutouts.flags.tolist() == [hf.Flag.CROPPED]
    row = hf.fit(image, sigma=1.0, psf=None, x=400, y=121, **FAST)[0]
    assert row["x"] == pytest.approx(400.3, abs=0.2)
    dx, dy = (cutouts.origin[0] - torch.tensor([1000.0, 2000.0])).tolist()
    assert cutouts.start[0, :2].tolist() == [400 - dx, 121 - dy]
    assert hf.prepare(image, sigma=1.0, psf=PSF, crop="none").size.tolist() == [[500, 600]]


@pytest.mark.parametrize("dtype", ["u2", ">i4", "i8", "f2", ">f8", "g"])
def test_every_type_of_number(dtype):
    """Differences of unsigned integers wrap around, for one."""
    image = np.round(IMAGE + 100).astype(dtype)
    image[:9] = 0
    cutouts = hf.prepare(image, sigma=1.0, psf=PSF, zeropoint=25)
    assert cutouts.flags.tolist() == [hf.Flag.BAD_PIXELS]
    assert cutouts.mask[0, :9].all()
    np.testing.assert_array_equal(cutouts.image[0, 9:], np.round(IMAGE + 100)[9:])


def test_galfits_centre_of_a_psf():
    """Pixel N // 2 of even sides, and every value unchanged: no background is subtracted."""
    psf = gaussian((26, 26), 13, 13, 1.5)
    psf = (psf / psf.sum() + 0.05 / psf.size) / 1.05
    kept = hf.prepare(IMAGE, sigma=SIGMA, zeropoint=25.0, psf=psf, psf_center="galfit")
    assert kept.psf is not None
    assert kept.psf.shape == (1, 27, 27)  # zeros at the end
    np.testing.assert_allclose(kept.psf[0, :26, :26], psf, rtol=SINGLE, atol=SINGLE)
    assert kept.flags.tolist() == [int(hf.Flag.PSF_TRUNCATED)]
    assert "background with" in kept.messages[0]
    assert "left in" in kept.messages[0]
    moved = hf.prepare(IMAGE, sigma=SIGMA, zeropoint=25.0, psf=psf, psf_center="array")
    assert "subtracted" in moved.messages[0]
    # of an oversampled PSF between the middle pixels the next one counts, as in GALFIT
    fine = gaussian((26, 26), 12.5, 12.5, 3.0)
    fine = fine / fine.sum()
    same = hf.prepare(
        IMAGE, sigma=SIGMA, zeropoint=25.0, psf=fine, psf_oversampling=2, psf_center="galfit"
    )
    assert same.psf is not None
    reach = same.psf.shape[1] // 2
    expected = np.pad(fine, ((0, 1), (0, 1)))[13 - reach :, 13 - reach :]
    np.testing.assert_allclose(
        same.psf[0], expected[: 2 * reach + 1, : 2 * reach + 1], rtol=1e-4, atol=SINGLE
    )
    assert same.flags.tolist() == [int(hf.Flag.PSF_OFF_CENTRE)]


def test_bad_galaxies_are_rows():
    images = np.stack([IMAGE, np.full(SHAPE, np.nan), np.full(SHAPE, 3.0)])
    cutouts = hf.prepare(images, sigma=1.0, psf=PSF, zeropoint=25)
    assert cutouts.flags.tolist() == [0, hf.Flag.NO_DATA, hf.Flag.NO_SIGNAL]
    assert "constant (3 in every pixel)" in cutouts.messages[2]
    outside = hf.prepare(IMAGE, sigma=1.0, psf=PSF, x=70)
    assert "x, y = 70, 31.5 lies outside" in outside.messages[0]
    negative = hf.prepare(IMAGE, sigma=1.0, psf=-PSF)
    assert negative.flags.tolist() == [hf.Flag.UNREADABLE]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"psf": hf}, "psf is a module"),
        ({"sigma": np.ones((60, 64))}, r"sigma has shape \(60, 64\), expected \(64, 64\)"),
        ({"sigma": np.ones((2, 64, 64))}, "sigma has 2 planes, expected 1"),
        ({"ivar": 1.0}, "noise is given as sigma and as ivar: expected one"),
        ({"mask": MASK[:5]}, r"mask has shape \(5, 64\)"),
        ({"crop": "some"}, "crop is 'some'"),
        ({"zeropoint": [1, 2]}, r"zeropoint has shape \(2,\), expected \(1,\)"),
        ({"id": ["a", "b"]}, "id has 2 entries, expected 1"),
        ({"psf_oversampling": 1.5}, "psf_oversampling is 1.5"),
        ({"start": [1, 2, 20, 5, 2, 1.5, 0]}, r"q is 1.5, expected in \(0, 1\]"),
    ],
)
def test_misuse_raises(more, said):
    with pytest.raises(ValueError, match=said):
        hf.prepare(IMAGE, **{"sigma": SIGMA, "psf": PSF, **more})


def test_no_psf_is_said():
    with pytest.raises(ValueError, match="psf is missing: expected psf="):
        hf.prepare(IMAGE, sigma=SIGMA)
    without = hf.prepare(IMAGE, sigma=SIGMA, psf=None, zeropoint=25)
    assert without.flags.tolist() == [hf.Flag.NO_PSF]
    even = np.pad(3 * PSF, ((1, 0), (1, 0)))
    normalised = hf.prepare(IMAGE, sigma=SIGMA, psf=even, zeropoint=25)
    assert normalised.flags.tolist() == [hf.Flag.PSF_NORMALISED]


def test_cutouts_are_taken_as_they_are():
    """What is prepared already is not prepared again."""
    cutouts, _ = observe([[31.5, 31.5, 22.0, 4.0, 1.5, 0.8, 30.0, 0.0]], 100.0, SHAPE)
    filled = dataclasses.replace(cutouts, image=torch.where(torch.tensor(MASK), 0.0, cutouts.image))
    assert not filled.mask.any()
    assert hf.fit(filled, **FAST)["flags"][0] & hf.Flag.BAD_PIXELS == 0
