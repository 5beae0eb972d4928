"""Masks by another name, bit planes by theirs, and what is said of a mask that hides the target."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from fit_helpers import observe
from read_helpers import galaxy, gaussian, psf_image

import hybridfit as hf
from hybridfit.data.errors import BadInput
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

SHAPE = (64, 64)
BAD = np.zeros(SHAPE, bool)
BAD[20:24, 38:44] = True  # 24 pixels beside the galaxy's middle
EVENLY = np.ones(SHAPE, np.float32)
LSST = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8}


def write_mef(path, *, image=None, header=None, headers=None, **planes):
    """A file of SCI, ERR, PSF and more HDUs, whose headers are in ``headers`` by name."""
    image = galaxy(seed=3) if image is None else image
    hdus = [fits.PrimaryHDU(header=fits.Header(header or {}))]
    for name, data in {"SCI": image, "ERR": EVENLY, "PSF": psf_image(), **planes}.items():
        own = fits.Header((headers or {}).get(name, {}))
        hdus.append(fits.ImageHDU(np.asarray(data), own, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def cutout_of(path, **options):
    chosen = ReadOptions(**{"zeropoint": 25.0, **options})
    return read_cutout(find_sources(path, chosen)[0], chosen)


@pytest.mark.parametrize("name", ["MASK", "MSK", "DQ", "FLAG", "FLAGS", "BADPIX", "BPM"])
@pytest.mark.parametrize("value", [1, 64])
def test_masks_are_known_by_their_names(tmp_path, name, value):
    plane = np.where(BAD, value, 0).astype(np.int16)
    stamp = cutout_of(write_mef(tmp_path / "a.fits", **{name: plane}))
    np.testing.assert_array_equal(stamp.mask, BAD)
    assert stamp.flags == 0
    assert "not used" not in stamp.message


@pytest.mark.parametrize("name", ["WHT", "WGT", "WEIGHT", "CTX", "CON", "EXP", "EXPOSURE"])
def test_without_weight_there_are_no_data(tmp_path, name):
    plane = np.where(BAD, 0, 7).astype(np.float32)
    stamp = cutout_of(write_mef(tmp_path / "a.fits", **{name: plane}))
    np.testing.assert_array_equal(stamp.mask, BAD)
    assert f"{name} masks 24 pixels (0)" in stamp.message
    assert "hdu-ivar" not in stamp.message
    assert not cutout_of(tmp_path / "a.fits", hdu_weight="").mask.any()
    assert name in cutout_of(tmp_path / "a.fits", hdu_weight="").message


def test_weights_are_noise_only_if_that_is_said(tmp_path):
    plane = np.where(BAD, 0, 4).astype(np.float32)
    path = write_mef(tmp_path / "a.fits", image=galaxy(sigma=0.5), WHT=plane)
    stamp = cutout_of(path, hdu_sigma="")
    assert stamp.flags == hf.Flag.SIGMA_ESTIMATED
    assert "say --hdu-ivar WHT if it is 1 / sigma^2" in stamp.message
    assert "not used: ERR" in stamp.message
    stamp = cutout_of(path, hdu_sigma="", hdu_ivar="WHT")
    assert stamp.flags == 0
    np.testing.assert_array_equal(stamp.sigma, np.where(BAD, 1, 0.5))


def test_what_has_no_role_is_named(tmp_path):
    small = np.ones((8, 8))
    path = write_mef(tmp_path / "a.fits", MODEL=EVENLY, SMALL=small, AREA=EVENLY)
    message = cutout_of(path).message
    assert "HDUs of the image's shape that were not used: MODEL, AREA" in message
    other_shapes = write_mef(tmp_path / "a.fits", CON=np.ones((3, *SHAPE)), WHT=small)
    assert not cutout_of(other_shapes).mask.any()


# ---- bits


@pytest.mark.parametrize(
    ("telescope", "harmless", "harmful"),
    [("JWST", 4 | 2048 | 1 << 21, 1), ("HST", 16 | 64 | 1024, 4096), ("HST", 32, 256), ("", 0, 2)],
)
def test_bits_of_data_quality_by_telescope(tmp_path, telescope, harmless, harmful):
    plane = np.full(SHAPE, harmless, np.int32)
    plane[BAD] |= harmful
    path = write_mef(tmp_path / "a.fits", header={"TELESCOP": telescope or "Hale"}, DQ=plane)
    np.testing.assert_array_equal(cutout_of(path).mask, BAD)
    whole = cutout_of(path, mask_bits=f"{1 << 28}")
    assert not whole.mask.any()


def hsc(tmp_path, name="MASK", **planes):
    """A mask as HSC's pipeline writes it: DETECTED over the galaxy and its neighbour."""
    image = galaxy(seed=3) + gaussian(SHAPE, 12, 50, 2.0, 900)
    rows, columns = np.mgrid[:64, :64]
    plane = np.where(np.hypot(rows - 31.5, columns - 31.5) < 12, 1 << LSST["DETECTED"], 0)
    plane |= np.where(np.hypot(rows - 50, columns - 12) < 8, 1 << LSST["DETECTED"], 0)
    plane[BAD] |= 1 << LSST["CR"]
    plane[:2] |= 1 << LSST["NO_DATA"]
    plane[5, 5] |= 1 << LSST["INTRP"]
    header = {f"MP_{key}": value for key, value in LSST.items()}
    return write_mef(
        tmp_path / "a.fits", image=image, headers={name: header}, **{name: plane.astype("i4")}
    )


@pytest.mark.parametrize("name", ["MASK", "DQ"])
def test_planes_of_hsc_by_their_names(tmp_path, name):
    stamp = cutout_of(hsc(tmp_path, name))
    expected = BAD.copy()
    expected[:2] = True
    assert stamp.flags == hf.Flag.MASK_ESTIMATED
    assert stamp.mask[50, 12]  # the neighbour: DETECTED does not tell it from the target
    np.testing.assert_array_equal(stamp.mask[:40, 20:], expected[:40, 20:])
    assert not stamp.mask[28:36, 28:36].any()
    assert f"{name} masks 152 pixels (BAD, SAT, CR, NO_DATA, EDGE)" in stamp.message
    chosen = cutout_of(tmp_path / "a.fits", mask_bits="CR, INTRP", mask_neighbours=False)
    only = BAD.copy()
    only[5, 5] = True
    np.testing.assert_array_equal(chosen.mask, only)
    by_value = cutout_of(tmp_path / "a.fits", mask_bits="8,4", mask_neighbours=False)
    np.testing.assert_array_equal(by_value.mask, only)
    detected = cutout_of(tmp_path / "a.fits", mask_bits="DETECTED")
    assert detected.flags & hf.Flag.SUSPECT_MASK
    assert "segmap" not in detected.message
    with pytest.raises(BadInput, match="has 'CRS', which the mask does not: its planes are BAD"):
        cutout_of(tmp_path / "a.fits", mask_bits="CRS")


def test_planes_that_have_a_type_instead_of_a_name(tmp_path):
    """Older files of HSC."""
    hsc(tmp_path)
    with fits.open(tmp_path / "a.fits") as hdus:
        for hdu, kind in ((hdus["SCI"], "IMAGE"), (hdus["MASK"], "MASK")):
            del hdu.header["EXTNAME"]
            hdu.header["EXTTYPE"] = kind
        hdus.writeto(tmp_path / "b.fits")
    stamp = cutout_of(tmp_path / "b.fits")
    assert stamp.mask[22, 40]
    assert not stamp.mask[28:36, 28:36].any()


def test_a_mask_file_of_bits(tmp_path):
    image, plane = galaxy(seed=3), np.where(BAD, 5, 2).astype(np.uint8)
    for role, data in {"image": image, "sigma": EVENLY, "psf": psf_image(), "mask": plane}.items():
        fits.writeto(tmp_path / f"a_{role}.fits", data)
    np.testing.assert_array_equal(cutout_of(tmp_path, mask_bits="4").mask, BAD)
    with pytest.raises(BadInput, match="has 'SAT', which the mask does not: its bits have no"):
        cutout_of(tmp_path, mask_bits="SAT")


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", "has 0, expected the value of a bit"), ("-1", "has -1"), ("1.5", "has '1.5'")],
)
def test_bits_that_cannot_be(text, said):
    with pytest.raises(ValueError, match=said):
        ReadOptions(mask_bits=text)


def test_dq_and_weight_beside_the_image(tmp_path):
    planes = {"dq": np.where(BAD, 1, 0), "weight": (np.arange(64) > 2) * np.ones((64, 1))}
    planes |= {"image": galaxy(seed=3), "sigma": EVENLY, "psf": psf_image()}
    for role, data in planes.items():
        fits.writeto(tmp_path / f"a_{role}.fits", data)
    expected = BAD | (np.arange(64) <= 2)
    np.testing.assert_array_equal(cutout_of(tmp_path).mask, expected)
    made = hf.prepare(**{k: v for k, v in planes.items() if k != "id"}, zeropoint=25)
    np.testing.assert_array_equal(made.mask[0], expected)


@pytest.mark.parametrize(("name", "value"), [("WHT", 0), ("DQ", 4), ("FLAG", 1)])
def test_planes_that_leave_nothing_are_named(tmp_path, name, value):
    path = write_mef(tmp_path / "a.fits", **{name: np.full(SHAPE, value)})
    with pytest.raises(BadInput, match=f"every pixel is masked by {name}") as caught:
        cutout_of(path)
    assert caught.value.flags == hf.Flag.NO_DATA


# ---- hints


def said_of(tmp_path, mask):
    return cutout_of(write_mef(tmp_path / "a.fits", MASK=mask)).message


def test_hints_of_a_mask_that_hides_the_target(tmp_path):
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 31.5, columns - 31.5)
    core = np.where(radius < 3, 2, 0) + np.where(BAD, 1, 0)  # of a saturated star
    said = said_of(tmp_path, core)
    assert "the mask hides the target: 32 pixels at its centre" in said
    assert "segmap" not in said
    segments = np.where(radius < 9, 7, 0) + np.where(BAD, 3, 0)
    assert "if it is a segmentation map, give it as segmap" in said_of(tmp_path, segments)
    scattered = np.random.default_rng(1).choice([0, 1, 4], p=[0.3, 0.4, 0.3], size=SHAPE)
    assert "bit planes, choose the harmful bits with mask_bits" in said_of(tmp_path, scattered)
    assert "does it mark objects, or is it inverted?" in said_of(tmp_path, (radius < 9) * 1)


@pytest.mark.parametrize("name", ["MSK", "WGT", "WHT", "DQ", "FLAG", "CTX"])
def test_size_beside_bad_pixels(tmp_path, name):
    """Passed over, such pixels made r_eff 6.47 and n .15 for 6 and 2."""
    truth = [[31.2, 31.6, 20.0, 6.0, 2.0, 0.7, 40.0, 0.1]]
    cutouts, _ = observe(truth, 200.0, SHAPE, seed=2)
    image = cutouts.image[0].numpy().copy()
    rows, columns = np.mgrid[:64, :64]
    bad = rows + 0.5 * columns > 66
    rng = np.random.default_rng(4)
    image[bad] = rng.normal(3, 2, bad.sum())  # scattered light, say
    plane = np.where(bad, 0, 3) if name in ("WGT", "WHT", "CTX") else np.where(bad, 3, 0)
    write_mef(tmp_path / "a.fits", image=image, PSF=cutouts.psf[0], **{name: plane})
    row = hf.fit(hf.read(tmp_path), uncertainty="covariance", initial_values="moments")[0]
    for value, true in (("r_eff", 6.0), ("n", 2.0)):
        assert abs(row[value] - true) < 3.5 * row[f"{value}_err"]
