"""Positions and angles on the sky from every celestial frame that a header can name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.coordinates import (
    FK4,
    FK5,
    ITRS,
    TETE,
    BarycentricMeanEcliptic,
    Galactic,
    SkyCoord,
    Supergalactic,
    UnitSphericalRepresentation,
)
from astropy.io import fits
from astropy.time import Time
from astropy.units import deg
from astropy.wcs import WCS
from read_helpers import galaxy, psf_image, write

import hybridfit as hf
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sky_positions import frame_problem, on_sky
from hybridfit.io.sources import find_sources
from hybridfit.io.wcs import pixel_area

SCALE = 0.2 / 3600  # deg a pixel
DATE = "2010-03-04"


def header_in(kind: str, lon: float = 150.0, lat: float = 2.0, **more) -> fits.Header:
    """A TAN WCS with its reference in pixel 9, 9 from 0, north up and east left in its frame."""
    header = fits.Header({"CRVAL1": lon, "CRVAL2": lat, "CRPIX1": 10.0, "CRPIX2": 10.0})
    header.update({"CDELT1": -SCALE, "CDELT2": SCALE, **more})
    first, second = ("RA--", "DEC-") if kind == "RA" else (f"{kind}LON", f"{kind}LAT")
    header.update({"CTYPE1": f"{first}-TAN", "CTYPE2": f"{second}-TAN"})
    return header


def wcs_in(kind: str, *place: float, **more) -> WCS:
    return WCS(header_in(kind, *place, **more))


FRAMES = {
    "FK5 of 1975": (wcs_in("RA", RADESYS="FK5", EQUINOX=1975.0), FK5(equinox="J1975")),
    "FK5 by its equinox": (wcs_in("RA", EQUINOX=2015.5), FK5(equinox="J2015.5")),
    "FK4": (wcs_in("RA", RADESYS="FK4"), FK4(equinox="B1950")),
    "FK4 by its equinox": (wcs_in("RA", EQUINOX=1950.0), FK4(equinox="B1950")),
    "FK4 in small letters": (wcs_in("RA", RADESYS="fk4", EQUINOX=1950.0), FK4(equinox="B1950")),
    "apparent": (
        wcs_in("RA", **{"RADESYS": "GAPPT", "DATE-OBS": DATE}),
        TETE(obstime=Time(DATE)),
    ),
    "Galactic": (wcs_in("G"), Galactic()),
    "supergalactic": (wcs_in("S"), Supergalactic()),
    "ecliptic": (wcs_in("E"), BarycentricMeanEcliptic(equinox="J2000")),
    "ecliptic of 1950": (
        wcs_in("E", RADESYS="FK5", EQUINOX=1950.0),
        BarycentricMeanEcliptic(equinox="J1950"),
    ),
    "terrestrial": (wcs_in("T", **{"DATE-OBS": DATE}), ITRS(obstime=Time(DATE))),
}


def placed(frame, lon: float, lat: float) -> SkyCoord:
    return SkyCoord(frame.realize_frame(UnitSphericalRepresentation(lon * deg, lat * deg))).icrs


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_gives_icrs_and_east_of_north(name):
    """A step along the major axis, taken in the frame and seen in ICRS, has the quoted angle."""
    wcs, frame = FRAMES[name]
    pa = 65.0  # of the image, whose +y is the frame's own north
    ra, dec, pa_sky = on_sky(wcs, 9.0, 9.0, 0.4, pa)
    here, turn = placed(frame, 150.0, 2.0), math.radians(pa)
    east, north = SCALE * math.sin(turn), SCALE * math.cos(turn)
    there = placed(frame, 150.0 + east / math.cos(math.radians(2.0)), 2.0 + north)
    # 0.01 mas: rounding of angles in double precision
    assert here.separation(SkyCoord(ra, dec, unit="deg")).to_value("mas") < 0.01
    # a step of 0.2 arcsec bends by less than 1e-4 deg, and aberration shears by as little
    assert pa_sky == pytest.approx(here.position_angle(there).deg % 180, abs=1e-2)
    assert frame_problem(wcs) == ""


def test_ecliptic_by_hand():
    """The rotation by the obliquity of J2000, 23.4392911 deg, without any frame of astropy."""
    ra, dec, pa_sky = on_sky(wcs_in("E"), 9.0, 9.0, 0.4, 0.0)
    obliquity, lon, lat = np.radians([23.4392911, 150.0, 2.0])
    x, y, z = math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)
    c, s = math.cos(obliquity), math.sin(obliquity)
    expected = math.degrees(math.atan2(c * y - s * z, x)), math.degrees(math.asin(s * y + c * z))
    # 2e-5 deg: ICRS and the mean equinox of J2000 differ by 0.02 arcsec
    assert (ra, dec) == pytest.approx(expected, abs=2e-5)
    assert (ra, dec) == pytest.approx((152.81, 13.34), abs=0.005)
    # north of the ecliptic as seen from ours, by the sine rule between both poles
    turned = math.degrees(math.asin(-s * math.cos(lon) / math.cos(math.radians(dec))))
    assert pa_sky == pytest.approx(turned, abs=1e-3)


def test_fk5_of_2000_is_taken_to_icrs_too():
    """They differ by some 20 mas, which is a pixel of JWST's."""
    ra, dec, _ = on_sky(wcs_in("RA", RADESYS="FK5", EQUINOX=2000.0), 9.0, 9.0, 0.4, 0.0)
    expected = SkyCoord(150, 2, unit="deg", frame="fk5").icrs
    assert expected.separation(SkyCoord(ra, dec, unit="deg")).to_value("mas") < 0.01


@pytest.mark.parametrize("kind", ["RA", "E"])
def test_angles_hold_at_a_pole(kind):
    """At the pole longitudes jump; the directions of the pixels do not."""
    wcs = wcs_in(kind, 30.0, 90.0)
    for pa in (0.0, 40.0, 130.0):
        near = on_sky(wcs, 9.0, 9.3, 0.4, pa)
        step = np.array([-math.sin(math.radians(pa)), math.cos(math.radians(pa))]) * 1e-3
        here = SkyCoord(*near[:2], unit="deg")
        ahead = SkyCoord(*on_sky(wcs, 9.0 + step[0], 9.3 + step[1], 0.4, pa)[:2], unit="deg")
        expected = here.position_angle(ahead).deg % 180
        # 0.1 deg: 1e-3 of a pixel, 0.3 pixels from a pole, sees the meridians turn
        assert abs((near[2] - expected + 90) % 180 - 90) < 0.2


@pytest.mark.parametrize(
    ("kind", "more", "named"),
    [
        ("H", {}, "HLON"),  # helioecliptic
        ("X", {}, "XLON"),  # nobody's
        ("T", {}, "TLON"),  # terrestrial, without a date
        ("RA", {"RADESYS": "GAPPT"}, "GAPPT"),  # apparent, without a date
        ("RA", {"RADESYS": "MARS2000"}, "MARS2000"),
    ],
)
def test_frames_without_a_transformation_say_so(kind, more, named):
    wcs = wcs_in(kind, **more)
    assert all(map(math.isnan, on_sky(wcs, 9.0, 9.0, 0.4, 20.0)))
    assert named in frame_problem(wcs)
    assert "no ra, dec" in frame_problem(wcs)


def test_a_cube_is_taken_by_its_celestial_axes():
    header = header_in("G", CTYPE3="FREQ", CRVAL3=1e9, CDELT3=1e6, CRPIX3=1.0)
    assert on_sky(WCS(header), 9.0, 9.0, 0.4, 65.0) == on_sky(wcs_in("G"), 9.0, 9.0, 0.4, 65.0)


def test_a_centre_off_the_projection_is_told():
    """An all-sky map has corners without a sky."""
    header = header_in("G", 0.0, 0.0)
    header.update({"CRPIX1": 4000.0, "CRPIX2": 3000.0, "CDELT1": -0.05, "CDELT2": 0.05})
    header.update({"CTYPE1": "GLON-AIT", "CTYPE2": "GLAT-AIT"})
    table = hf.fit(
        galaxy()[None],
        sigma=np.ones((1, 64, 64)),
        psf=psf_image(),
        zeropoint=25.0,
        wcs=[WCS(header)],
        uncertainty="covariance",
        initial_values="moments",
    )
    assert math.isnan(table["ra"][0])
    assert "the centre lies off the projection" in table["notes"][0]


class Broken:
    """Of the shared interface, and not of the sky."""

    def pixel_to_world(self, x, y):
        return x * 3.0


def test_wcs_of_the_shared_interface_that_is_not_of_the_sky():
    assert all(map(math.isnan, on_sky(Broken(), 9.0, 9.0, 0.4, 65.0)))
    assert "the WCS is not of the sky" in frame_problem(Broken())


class Shared:
    """A WCS of the shared interface alone, as gwcs has it."""

    def pixel_to_world(self, x, y):
        return WCS(header_in("G")).pixel_to_world(x, y)


def test_wcs_of_the_shared_interface():
    expected = on_sky(wcs_in("G"), 9.0, 9.0, 0.4, 65.0)
    assert on_sky(Shared(), 9.0, 9.0, 0.4, 65.0) == pytest.approx(expected, abs=1e-6)


def read_with(tmp_path, header):
    write(tmp_path / "a.fits", galaxy(), header)
    options = ReadOptions(no_psf=True)
    (tmp_path / "m.csv").write_text("id,image\na,a.fits\n")
    return read_cutout(find_sources(tmp_path / "m.csv", options)[0], options)


def test_tables_have_positions_or_the_reason(tmp_path):
    """From memory: the ecliptic one has its place, the supergalactic too, the other says why."""
    image = np.stack([galaxy()] * 3)
    table = hf.fit(
        image,
        sigma=np.ones_like(image),
        psf=psf_image(),
        zeropoint=25.0,
        wcs=[wcs_in("E"), wcs_in("S"), wcs_in("H")],
        uncertainty="covariance",
        initial_values="moments",
    )
    at = [(float(row["x"]), float(row["y"])) for row in table]
    for k, frame in enumerate((BarycentricMeanEcliptic(), Supergalactic())):
        x, y = at[k]
        # within 10 arcsec of the reference a TAN projection is flat to 1e-8
        lon = 150.0 - SCALE * (x - 9) / math.cos(math.radians(2.0))
        there = SkyCoord(table["ra"][k], table["dec"][k], unit="deg")
        # a pixel is 200 mas; the convergence of meridians over 25 pixels is below 1 mas
        assert placed(frame, lon, 2.0 + SCALE * (y - 9)).separation(there).to_value("mas") < 5
        assert "ra, dec" not in table["notes"][k]
    assert math.isnan(table["ra"][2])
    assert "HLON coordinates cannot be transformed to ICRS" in table["notes"][2]


def test_axes_that_are_not_of_the_sky_are_told(tmp_path):
    header = header_in("RA")
    header.update({"CTYPE1": "WAVE-TAB", "CTYPE2": "VELO-F2V"})
    stamp = read_with(tmp_path, header)
    assert stamp.wcs is None
    assert "WCS" in stamp.message


@pytest.mark.parametrize(
    ("first", "second"), [("RA", "DEC"), ("RA--TAN", "DEC-TAN"), ("GLON", "GLAT")]
)
def test_axes_without_a_projection_are_told(tmp_path, first, second):
    header = header_in("RA")
    header.update({"CTYPE1": first, "CTYPE2": second})
    stamp = read_with(tmp_path, header)
    assert stamp.wcs is None
    assert f"no ra, dec: CTYPE {first}, {second} has no projection" in stamp.message


@pytest.mark.parametrize("kind", ["LINEAR", "PIXEL", "X", ""])
def test_plain_axes_are_nothing_to_tell(tmp_path, kind):
    header = header_in("RA")
    header.update({"CTYPE1": kind, "CTYPE2": kind})
    assert "ra, dec" not in read_with(tmp_path, header).message


def test_the_primary_headers_frame_counts_for_an_extension(tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"RADESYS": "FK5", "EQUINOX": 1975.0}))
    image = fits.ImageHDU(galaxy(), header_in("RA"), name="SCI")
    fits.HDUList([primary, image]).writeto(tmp_path / "a.fits")
    (tmp_path / "m.csv").write_text("id,image\na,a.fits\n")
    options = ReadOptions(no_psf=True, zeropoint=25.0)
    stamp = read_cutout(find_sources(tmp_path / "m.csv", options)[0], options)
    expected = on_sky(wcs_in("RA", RADESYS="FK5", EQUINOX=1975.0), 9.0, 9.0, 0.4, 65.0)
    assert on_sky(stamp.wcs, 9.0, 9.0, 0.4, 65.0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("key", "value"),
    [("WCSAXES", 30_000), ("WCSAXESB", 5_000), ("A_ORDER", 9_999), ("BP_ORDER", 20_000)],
)
def test_a_wcs_of_absurd_size_is_told_and_not_set_up(tmp_path, key, value):
    """Matrices of 30,000 axes take 7 GB, a polynomial of order 9,999 looks up 5e7 keywords."""
    header = header_in("G")
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["B_ORDER"] = 2, 2
    header[key] = value
    stamp = read_with(tmp_path, header)
    assert f"{key} = {value}, expected" in stamp.message
    assert stamp.wcs is None


@pytest.mark.parametrize("broken", ["CTYPE1", "CRVAL1", "TELESCOP", "BUNIT", "GAIN", "INHERIT"])
def test_a_broken_card_costs_what_it_says_and_not_the_galaxy(tmp_path, broken):
    header = header_in("G")
    header[broken] = 1
    whole = np.asarray(read_with(tmp_path, header_in("G")).image)
    path = tmp_path / "a.fits"
    write(path, galaxy(), header)
    content = path.read_bytes()
    at = content.index(f"{broken:8}=".encode())
    path.write_bytes(
        content[:at] + f"{broken:8}= 'a = (b / ".ljust(80).encode() + content[at + 80 :]
    )
    options = ReadOptions(no_psf=True)
    stamp = read_cutout(find_sources(tmp_path / "m.csv", options)[0], options)
    np.testing.assert_array_equal(stamp.image, whole)


def test_a_pixel_of_no_scale_has_no_area():
    """The square of 1e200 arcsec is no number of a computer's."""
    assert pixel_area(1e200, None) is None
    assert pixel_area(1.0, None) == pytest.approx(math.radians(1 / 3600) ** 2, rel=1e-12, abs=0)
