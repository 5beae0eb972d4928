"""The results table: columns, units, positions on the sky, and files that give it back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from hybridfit.cutouts import Cutouts
from hybridfit.io import export, table
from hybridfit.parameters import ParameterSpace
from hybridfit.results import Fit

NAMES = ["x", "y", "mag", "r_eff", "n", "q", "pa", "sky"]
EXPECTED = [
    *["id", "flags"],
    *[column for name in NAMES for column in (name, f"{name}_err")],
    *["r_eff_arcsec", "r_eff_arcsec_err", "ra", "dec", "pa_sky"],
    *["chi2", "dof", "n_iter", "message"],
]


def tan_wcs(angle: float = 0.0, parity: float = -1.0, scale: float = 0.2) -> WCS:
    """A TAN WCS at 150, 60 degrees, turned by ``angle``; parity -1 has east to the left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 60.0], [16, 16]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[parity, 0], [0, 1]]) @ [[c, -s], [s, c]]
    return wcs


def made(n: int = 3, sky: str = "constant", shapes=(("n",),), **more) -> tuple[Cutouts, Fit]:
    space = ParameterSpace(shapes, sky)
    p = len(space.names)
    theta = 0.5 + torch.arange(n * p, dtype=torch.float64).reshape(n, p) / (n * p)
    covariance = torch.eye(p, dtype=torch.float64).expand(n, p, p) * 0.04
    whole = torch.arange(n)
    fit = Fit(space, theta, covariance, theta[:, 0] * 900, whole + 900, whole + 4, whole * 2)
    image = torch.zeros(n, 32, 32)
    return Cutouts(image=image, sigma=image + 1, psf=None, **more), fit


def test_columns_units_and_values():
    cutouts, fit = made(pixel_scale=0.2, origin=[10.0, 20.0])
    result = table.make_table(cutouts, fit)
    assert result.colnames == [*EXPECTED, "covariance"]
    assert all(result[name].description for name in result.colnames)
    assert [str(result[name].unit) for name in ("x", "mag_err", "pa", "r_eff_arcsec", "ra")] == [
        *["pix", "mag", "deg", "arcsec", "deg"]
    ]
    np.testing.assert_allclose(result["x"], fit.theta[:, 0] + 10)
    np.testing.assert_allclose(result["y"], fit.theta[:, 1] + 20)
    np.testing.assert_allclose(result["r_eff_arcsec_err"], 0.2 * 0.2)
    np.testing.assert_allclose(result["covariance"], fit.covariance)
    assert np.isnan(result["ra"]).all()
    assert list(result["flags"]) == [0, 2, 4]


def test_other_parameters_bring_their_columns():
    """Two components and a sloping sky: names, units and descriptions follow."""
    cutouts, fit = made(sky="plane", shapes=(("n",), ()))
    result = table.make_table(cutouts, fit, covariance=False)
    for name in (*fit.space.names, "r_eff_arcsec_2", "ra_1", "pa_sky_2"):
        assert name in result.colnames
    assert "n_2" not in result.colnames
    assert result["r_eff_2"].unit == "pix"
    assert "gradient" in result["sky_dx"].description


@pytest.mark.parametrize("parity", [-1.0, 1.0])
@pytest.mark.parametrize("angle", [0.0, 37.0, 200.0])
def test_position_angle_on_the_sky(angle: float, parity: float):
    """A step along the major axis, carried to the sky by astropy, has the quoted angle."""
    wcs, x, y, pa = tan_wcs(angle, parity), 11.0, 25.0, 65.0
    ra, dec, pa_sky = table.on_sky(wcs, x, y, 0.4, pa)
    here = wcs.pixel_to_world(x, y)
    step = np.array([-math.sin(math.radians(pa)), math.cos(math.radians(pa))])
    there = wcs.pixel_to_world(x + step[0], y + step[1])
    expected = here.position_angle(there).deg % 180
    assert here.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 1e-6
    assert pa_sky == pytest.approx(expected, abs=1e-3)


def test_position_angle_north_up():
    """With north up and east left, pa from +y towards -x is pa on the sky; it wraps at 180."""
    for pa in (0.001, 30.0, 90.0, 179.9):
        assert table.on_sky(tan_wcs(), 15, 15, 0.5, pa)[2] == pytest.approx(pa, abs=1e-3)
    mirrored = table.on_sky(tan_wcs(parity=1.0), 15, 15, 0.5, 30.0)[2]
    assert mirrored == pytest.approx(150.0, abs=1e-3)


def test_galactic_wcs_gives_equatorial_positions():
    wcs = tan_wcs()
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    ra, dec, pa_sky = table.on_sky(wcs, 15, 15, 0.3, 20.0)
    here = wcs.pixel_to_world(15, 15).icrs
    step = wcs.pixel_to_world(15 - math.sin(math.radians(20)), 15 + math.cos(math.radians(20))).icrs
    assert (ra, dec) == pytest.approx((here.ra.deg, here.dec.deg))
    assert pa_sky == pytest.approx(here.position_angle(step).deg % 180, abs=1e-2)


def test_no_wcs_and_bad_values_give_nan():
    assert all(map(math.isnan, table.on_sky(None, 1, 1, 0.5, 10)))
    assert all(map(math.isnan, table.on_sky(tan_wcs(), math.nan, 1, 0.5, 10)))


def parts_of(cutouts: Cutouts, fit: Fit, covariance: bool):
    columns = table.columns(fit.space, table.id_width(cutouts.id), covariance)
    rows = table.make_rows(cutouts, fit, columns)
    return [rows[:2], rows[2:]], columns


def read_parquet(path: Path) -> Table:
    """As ``Table.read``, which would want pandas for it."""
    from astropy.table.meta import get_header_from_yaml
    from pyarrow import parquet

    data = parquet.read_table(path)
    lines = data.schema.metadata[b"table_meta_yaml"].decode().splitlines()
    header = get_header_from_yaml(lines)
    read = Table({name: data[name].to_pylist() for name in data.column_names}, meta=header["meta"])
    for column in header["datatype"]:
        read[column["name"]].unit = column.get("unit")
        read[column["name"]].description = column.get("description")
    return read


@pytest.mark.parametrize("format", export.FORMATS)
def test_files_give_the_table_back(format: str, tmp_path: Path):
    """Written in two parts, read by astropy: the same values, units, descriptions, options."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    covariance = format != "csv"
    ids = ["a", "galaxy with a longer name", "Ü1"]
    cutouts, fit = made(id=ids, wcs=[tan_wcs(), None, None], messages=["é, a note", "", "x" * 900])
    parts, columns = parts_of(cutouts, fit, covariance)
    meta = {"CREATOR": "hybridfit", "OPTIONS": json.dumps({"psf": "x" * 300, "n": [1, 2]})}
    path = tmp_path / f"results.{format}"
    export.write_results(path, iter(parts), columns, meta)
    read = read_parquet(path) if format == "parquet" else Table.read(path)
    direct = table.make_table(cutouts, fit, covariance)
    assert read.colnames == direct.colnames
    for name in direct.colnames[1:-2]:
        np.testing.assert_array_equal(np.ma.filled(read[name], np.nan), direct[name], err_msg=name)
        if format != "csv":
            assert read[name].unit == direct[name].unit
            assert read[name].description == direct[name].description
    assert str(read["id"][1]) == ids[1]
    if covariance:
        values = np.reshape(read["covariance"], direct["covariance"].shape)
        np.testing.assert_array_equal(values, direct["covariance"])
    assert str(read["message"][2]).endswith("x...")
    assert len(str(read["message"][2])) == table.MESSAGE_WIDTH
    if format != "csv":
        assert json.loads(read.meta["OPTIONS"])["psf"] == "x" * 300
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "scratch files were left"


def test_fits_is_plain(tmp_path: Path):
    """What TOPCAT wants: one binary table in HDU 1, ASCII, descriptions as TCOMM."""
    cutouts, fit = made(id=["a", "b", "Ü1"])
    parts, columns = parts_of(cutouts, fit, covariance=True)
    path = tmp_path / "results.fits"
    export.write_results(path, parts, columns, {})
    assert path.stat().st_size % 2880 == 0
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 2
        assert hdus[1].header["NAXIS2"] == 3
        assert hdus[1].header["TCOMM1"] == "name of the galaxy"
        assert hdus[1].data["id"][2] == "\\xdc1"
        np.testing.assert_array_equal(hdus[1].data["mag"], fit.theta[:, 2])


def test_unwritable_results_leave_nothing(tmp_path: Path):
    """A writer that fails half-way (a full disk) leaves no half table."""
    cutouts, fit = made()
    parts, columns = parts_of(cutouts, fit, covariance=False)

    def failing():
        yield parts[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        export.write_results(tmp_path / "results.fits", failing(), columns, {})
    assert list(tmp_path.iterdir()) == []


def test_formats_that_cannot_be():
    with pytest.raises(ValueError, match="expected one of fits"):
        export.check_format("hdf5")
    with pytest.raises(ValueError, match="csv cannot hold"):
        export.check_format("csv", "covariance matrices")


def test_long_paths_do_not_hide_the_reason():
    text = f"'/{'folder/' * 30}g1_image.fits' has no HDU 'SCI': it has 0 PRIMARY"
    assert table.shortened(text) == b"'.../g1_image.fits' has no HDU 'SCI': it has 0 PRIMARY"
    assert table.shortened("short '/a/b.fits'") == b"short '/a/b.fits'"
    assert len(table.shortened("é" * 300)) <= table.MESSAGE_WIDTH
