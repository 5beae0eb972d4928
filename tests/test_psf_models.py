"""PSFs by position: one contract for every kind, and each format against an independent reader."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import galsim
import galsim.des
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from photutils.psf import GriddedPSFModel
from psf_model_helpers import (
    GRID,
    image_at,
    width_at,
    write_cube,
    write_folder,
    write_psfex,
    write_stdpsf,
    write_stpsf,
)
from read_helpers import gaussian, psf_image

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.psf_models.read import read_psf_model
from hybridfit.psf.from_stars import StarPSF
from hybridfit.psf.interpolation import grid_weights
from hybridfit.psf.model import PSFModel
from hybridfit.rendering.psf_images import windowed_centroid

SMALL = 1e-6  # of a sum of float32


def write_one(path):
    fits.writeto(path, psf_image(24, 1.5))
    return path


def write_piff(path):
    """The tables by which files of Piff are recognised."""
    table = fits.BinTableHDU(Table({"type": ["Simple"]}), name="psf")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def fake_piff(text: str) -> SimpleNamespace:
    """What `piff.read` returns, as far as it is used here."""

    def draw(x, y, chipnum, center, stamp_size):
        assert center
        return galsim.Gaussian(sigma=width_at(x - 1, y - 1)).drawImage(
            nx=stamp_size, ny=stamp_size, scale=1
        )

    return SimpleNamespace(draw=draw)


def star_psf() -> StarPSF:
    """A PSF as `psf_from_stars` makes them: a mean, and a term that widens it along x."""
    narrow, wide = (gaussian((31, 31), 15, 15, width) for width in (2.4, 3.0))
    terms = np.stack([narrow, 0.3 * (wide - narrow)])
    where = {"powers": np.array([[0, 0], [1, 0]]), "zero": (60.0, 50.0), "scale": (60.0, 50.0)}
    return StarPSF(2, True, terms=terms, **where, reach=1.0, stars=np.zeros((3, 2)))


WRITERS = {
    "one": write_one,
    "cube": write_cube,
    "scattered": lambda path: write_cube(path, [(x + 0.1 * y, y) for x, y in GRID]),
    "stpsf": write_stpsf,
    "stdpsf": write_stdpsf,
    "folder": lambda path: write_folder(path.with_suffix("")),
    "psfex": write_psfex,
    "psfex_fine": lambda path: write_psfex(path, step=0.7, side=35),
    "piff": write_piff,
}


@pytest.fixture(params=[*WRITERS, "stars"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def model(kind, tmp_path, monkeypatch) -> PSFModel:
    if kind == "stars":
        return star_psf()
    monkeypatch.setitem(sys.modules, "piff", SimpleNamespace(read=fake_piff))
    path = tmp_path / "psf.fits"
    written = WRITERS[kind](path)
    return read_psf_model(written)


def test_contract(model: PSFModel):
    """Odd sides, sum 1, centred, finite, and the same for one position and for many."""
    x, y = np.array([10.0, 60.0, 119.0, -500.0, 5000.0]), np.array([90.0, 50.0, 3.0, 1e4, 20.0])
    images = model.at(x, y)
    assert images.shape == (5, *model.shape)
    assert images.dtype == np.float32
    assert all(side % 2 for side in model.shape)
    assert np.isfinite(images).all()
    assert images.sum(axis=(1, 2), dtype=np.float64) == pytest.approx(1, abs=SMALL)
    for image in images.astype(np.float64):
        centre = np.array(windowed_centroid(image)) - np.array(image.shape) // 2
        assert np.abs(centre).max() < 0.01 * model.oversampling  # the PSFs are symmetric
    assert np.array_equal(model.at(60.0, 50.0), images[1:2])
    assert model.at([], []).shape == (0, *model.shape)
    assert model.oversampling == int(model.oversampling) >= 1
    assert isinstance(model.includes_pixel, bool)
    assert not model.flags & Flag.BAD_PSF
    assert not model.flags & Flag.PSF_OFF_CENTRE


def test_positions_are_checked(model: PSFModel):
    with pytest.raises(ValueError, match="1 of 2 positions are not finite"):
        model.at([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="expected one length"):
        model.at([1.0, 2.0], [1.0])


@pytest.mark.parametrize("name", ["cube", "stpsf", "stdpsf", "folder"])
def test_grids_are_exact_at_their_points_and_bilinear_between(name, tmp_path):
    """x and y are not exchanged: the grids are not square, and the PSF differs along both."""
    model = read_psf_model(WRITERS[name](tmp_path / "psf.fits"))
    side = max(model.shape)
    where = np.array(GRID)
    expected = [image_at(x, y, side, model.oversampling) for x, y in GRID]
    found = model.at(where[:, 0], where[:, 1])
    for one, image in zip(found, expected, strict=True):
        # 1e-5 of the flux is trimmed; half a pixel is moved by transforms where sides are even
        assert np.abs(one - image).max() < 1e-4 * image.max()
    middle = model.at(20.0, 25.0)[0].astype(np.float64)
    corners = [expected[k].astype(np.float64) for k in (0, 1, 4, 5)]
    assert np.abs(middle - np.mean(corners, axis=0)).max() < 1e-4 * middle.max()
    # beyond the grid the edge is used
    assert np.array_equal(model.at(-30.0, 200.0), model.at(0.0, 100.0))
    nearest = read_psf_model(
        WRITERS[name](tmp_path / "b.fits"), PSFOptions(interpolation="nearest")
    )
    assert np.array_equal(nearest.at(18.0, 26.0), nearest.at(0.0, 50.0))


def test_stdpsf_is_photutils(tmp_path):
    """Between the points, against photutils' own bilinear interpolation."""
    path = write_stdpsf(tmp_path / "psf.fits")
    other = GriddedPSFModel.read(path, format="stdpsf")
    model = read_psf_model(path)
    assert (model.oversampling, model.includes_pixel) == (4, True)
    offsets = (np.arange(model.shape[0]) - model.shape[0] // 2) / 4
    dx, dy = np.meshgrid(offsets, offsets)
    for x, y in [(10.0, 70.0), (100.0, 20.0), (77.0, 99.0)]:
        theirs = other.evaluate(x + dx, y + dy, 1.0, x, y) / 16
        # outer rings with 1e-5 of the flux are dropped
        assert np.abs(model.at(x, y)[0] - theirs).max() < 3e-5 * theirs.max()


def test_stpsf_takes_the_sampling_of_the_detector(tmp_path):
    model = read_psf_model(write_stpsf(tmp_path / "psf.fits"))
    assert (model.oversampling, model.includes_pixel) == (3, True)


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_psfex_is_galsims_reader(tmp_path, step):
    path = write_psfex(tmp_path / "psf.psf", step=step, side=41)
    model = read_psf_model(path)
    assert (model.oversampling, model.includes_pixel) == (round(1 / step), True)
    other = galsim.des.DES_PSFEx(str(path))
    for x, y in [(5.0, 8.0), (60.0, 50.0), (110.0, 90.0)]:
        # GalSim counts pixels from 1
        theirs = other.getPSFArray(galsim.PositionD(x + 1, y + 1))
        cut = (len(theirs) - model.shape[0]) // 2
        theirs = theirs[cut : len(theirs) - cut, cut : len(theirs) - cut] / theirs.sum()
        # rings with 1e-5 of the flux in the middle of the field hold up to 5e-4 elsewhere
        assert np.abs(model.at(x, y)[0] - theirs).max() < 5e-4 * theirs.max()


def test_psfex_of_any_step_is_resampled_to_whole_pixels(tmp_path):
    """PSF_SAMP 0.7: the Gaussian of the model has its width in image pixels, and sum 1."""
    model = read_psf_model(write_psfex(tmp_path / "psf.psf", step=0.7, side=35, degree=1))
    assert model.oversampling == 2
    found = model.at(60.0, 50.0)[0].astype(np.float64)
    side = model.shape[0]
    expected = galsim.Gaussian(sigma=1.8).drawImage(nx=side, ny=side, scale=0.5, method="no_pixel")
    assert np.abs(found - expected.array).max() < 2e-3 * found.max()  # the spline's accuracy
    assert any("PSF_SAMP 0.7" in note for note in model.notes)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"POLNAME1": "MAG_AUTO"}, "depends on MAG_AUTO .* PSFVAR_KEYS X_IMAGE,Y_IMAGE"),
        ({"POLDEG1": 3}, "has 6 images, expected 10 for a polynomial of degree 3"),
        ({"POLGRP2": 2}, "PSFVAR_GROUPS 1,1"),
        ({"PSF_SAMP": 0.0}, "PSF_SAMP is 0.0, expected"),
        ({"POLSCAL2": 0.0}, "POLSCAL2 = 0.0, expected two numbers"),
    ],
)
def test_broken_psfex(tmp_path, keys, text):
    with pytest.raises(BadInput, match=text):
        read_psf_model(write_psfex(tmp_path / "psf.psf", **keys))


def test_real_psfex_against_tractors_stamp(shared_data):
    """The model of a DECam CCD at the middle of a cutout, as Tractor evaluated it."""
    folder = shared_data / "fields" / "real" / "decam_tractor"
    model = read_psf_model(folder / "psfex.fits")
    theirs = fits.getdata(folder / "psf.fits").astype(np.float64)
    theirs /= theirs.sum()
    found = model.at(35 + 35, 1465 + 35)[0]
    cut = [(a - b) // 2 for a, b in zip(theirs.shape, found.shape, strict=True)]
    inner = theirs[cut[0] : len(theirs) - cut[0], cut[1] : len(theirs) - cut[1]]
    # positions within a pixel, and a background of the PSF that is subtracted here
    assert np.abs(found - inner).max() < 3e-3 * theirs.max()


def test_positions_of_a_folder(tmp_path):
    """From names, headers (from 1 and from the sky) and a table: the same PSFs."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150, 2], [60, 50], [-1e-4, 1e-4]

    def sky(x, y):
        ra, dec = wcs.all_pix2world(x, y, 0)
        return {"RA": float(ra), "DEC": float(dec)}

    folders = {
        "names": write_folder(tmp_path / "names"),
        "bare": write_folder(tmp_path / "bare", name="hst_{x}_{y}.fits"),
        "image": write_folder(
            tmp_path / "image",
            name="a{x}b{y}.fits",
            header=lambda x, y: {"X_IMAGE": x + 1, "Y_IMAGE": y + 1},
        ),
        "sky": write_folder(tmp_path / "sky", header=sky),
        "table": write_folder(tmp_path / "table", name="t{x}and{y}.fits"),
    }
    rows = [(f"t{x}and{y}.fits", x, y) for x, y in GRID]
    Table(rows=rows, names=["file", "x", "y"]).write(folders["table"] / "positions.csv")
    models = {k: read_psf_model(folder, PSFOptions(wcs=wcs)) for k, folder in folders.items()}
    for name, model in models.items():
        got = model.at([33.0], [71.0])[0]
        assert np.abs(got - models["names"].at(33.0, 71.0)).max() < 1e-7, name
    with pytest.raises(BadInput, match="no WCS to convert them"):
        read_psf_model(folders["sky"])


def test_a_folder_without_positions(tmp_path):
    folder = write_folder(tmp_path / "f", where=[(0.0, 0.0)], name="psf.fits")
    with pytest.raises(BadInput, match=r"1 of 1 PSFs .* no position .*psf.fits.*psf_x120_y340"):
        read_psf_model(folder)


def test_scattered_positions_are_linear_in_triangles():
    """A function that is linear in x and y is reproduced inside, the nearest value is outside."""
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 100, (30, 2))
    values = 3 + 2 * positions[:, 0] - positions[:, 1]
    where = rng.uniform(35, 65, (50, 2))
    found = grid_weights(positions, where) @ values
    assert found == pytest.approx(3 + 2 * where[:, 0] - where[:, 1], abs=1e-9)
    far = grid_weights(positions, np.array([[1e4, -1e4]])).toarray()
    assert far.max() == far.sum() == 1


def test_one_psf_is_that_of_the_cutouts(tmp_path):
    model = read_psf_model(write_one(tmp_path / "psf.fits"), PSFOptions(includes_pixel=True))
    assert model.includes_pixel
    assert np.array_equal(model.at(0.0, 0.0)[0], model.at(500.0, 30.0)[0])


def test_piff_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "piff", None)
    with pytest.raises(BadInput, match=r"pip install 'hybridfit\[piff\]'"):
        read_psf_model(write_piff(tmp_path / "psf.fits"))


def test_piff_itself(tmp_path):
    """A PSF that Piff wrote: its own drawing at the same place, in pixels from 1."""
    piff = pytest.importorskip("piff", reason="pip install 'hybridfit[piff]'")
    path = tmp_path / "a.piff"
    psf = piff.SimplePSF(piff.Gaussian(fastfit=True), piff.Polynomial(order=1))
    stars = []
    for x, y in GRID:
        drawn = galsim.Gaussian(sigma=width_at(x, y)).drawImage(nx=25, ny=25, scale=1)
        drawn.setCenter(round(x) + 1, round(y) + 1)
        place = galsim.PositionD(x + 1, y + 1)
        data = piff.StarData(drawn, place, weight=drawn * 0 + 1e6, field_pos=place)
        stars.append(piff.Star(data, None))
    psf.fit(stars, {0: galsim.PixelScale(1.0)}, None)
    psf.write(str(path))
    model = read_psf_model(path, PSFOptions(stamp=25))
    assert model.includes_pixel
    found = model.at(40.0, 50.0)[0]
    expected = galsim.Gaussian(sigma=width_at(40.0, 50.0)).drawImage(nx=25, ny=25, scale=1).array
    # along this row the width is linear; a pixel further its peak differs by 5e-3
    assert np.abs(found - expected / expected.sum()).max() < 2e-3 * expected.max()


@pytest.mark.parametrize("field", ["field_ground", "field_space"])
def test_true_psfs_of_the_fields(shared_data, field):
    """Off the grid: 8 places between the 5 x 5 points of the simulated fields."""
    path = shared_data / "fields" / field / "psf" / "psf_grid.fits.gz"
    model = read_psf_model(path)
    with fits.open(path) as hdus:
        truth = hdus["PSF_CHECK"].data.astype(np.float64)
        table = hdus["CHECK_POSITIONS"].data
        where = [np.asarray(table[name], float) for name in ("x", "y")]
    found = model.at(*where)
    pad = (truth.shape[1] - found.shape[1]) // 2
    truth = truth[:, pad : truth.shape[1] - pad, pad : truth.shape[2] - pad]
    for one, image in zip(found, truth, strict=True):
        # bilinear in a grid of 384 pixels: the ground's PSF is quadratic, the space's more curved
        limit = 0.02 if field == "field_ground" else 0.05
        assert np.sqrt(((one - image) ** 2).sum() / (image**2).sum()) < limit
