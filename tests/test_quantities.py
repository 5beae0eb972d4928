"""Arrays with units: one unit for image and noise, the zero point of that unit, or a refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.table import Column
from astropy.wcs import WCS
from read_helpers import galaxy, psf_image
from tolerances import TEXT

import hybridfit as hf
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.quantities import without_units

IMAGE = galaxy()[None]
SIGMA = np.ones_like(IMAGE)


def test_sigma_in_another_unit_is_converted():
    cutouts = Cutouts(image=IMAGE * u.nJy, sigma=SIGMA * 2e-3 * u.uJy, psf=None)
    torch.testing.assert_close(cutouts.image, torch.from_numpy(IMAGE))
    torch.testing.assert_close(cutouts.sigma, torch.full_like(cutouts.image, 2.0))
    assert cutouts.zeropoint.tolist() == pytest.approx([31.4])
    assert cutouts.zeropoint_from == ("unit nJy",)
    assert not cutouts.flags.any()


def test_the_magnitude_is_right():
    """Flux 1e4 nJy is 21.40 mag, also where sigma came in micro-Jy."""
    image = galaxy(flux=1e4)
    options = {"psf": psf_image(), "uncertainty": "covariance", "initial_values": "moments"}
    plain = hf.fit(image, sigma=np.ones_like(image), zeropoint=31.4, **options)
    table = hf.fit(image * u.nJy, sigma=np.full_like(image, 1e-3) * u.uJy, **options)
    # 1e-6: conversions of sigma round in its last digit
    assert table["mag"][0] == pytest.approx(plain["mag"][0], abs=1e-4)
    assert table["mag"][0] == pytest.approx(21.4, abs=0.03)  # S/N 500, n at its prior's edge
    assert table["zeropoint"][0] == pytest.approx(31.4)
    assert table["zeropoint_from"][0] == "unit nJy"
    assert (str(table["flux"].unit), str(table["sky"].unit)) == ("nJy", "nJy / pix")


@pytest.mark.parametrize(
    ("unit", "zeropoint"),
    [
        (u.Jy, 8.9),
        (u.uJy, 23.9),
        (u.Unit("10 nJy"), 28.9),
        (u.nmgy, 22.5),
        (u.Unit("erg / (s cm2 Hz)"), -48.6),
    ],
)
def test_units_of_flux_density_have_their_zero_point(unit, zeropoint):
    cutouts = Cutouts(image=IMAGE * unit, sigma=SIGMA * unit, psf=None)
    assert cutouts.zeropoint.tolist() == pytest.approx([zeropoint], abs=1e-6)


def test_surface_brightness_takes_the_pixels_area():
    unit = u.MJy / u.sr
    options = {"image": IMAGE * unit, "sigma": SIGMA * unit, "psf": None}
    expected = -2.5 * np.log10((unit * (0.03 * u.arcsec) ** 2).to_value(u.AB))
    by_scale = Cutouts(**options, pixel_scale=30 * u.mas)
    assert by_scale.zeropoint.tolist() == pytest.approx([expected])
    assert by_scale.pixel_scale.tolist() == pytest.approx([0.03])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-0.03 / 3600, 0.03 / 3600]
    assert Cutouts(**options, wcs=[wcs]).zeropoint.tolist() == pytest.approx([expected])
    assert Cutouts(**options).flags.tolist() == [int(Flag.NO_ZEROPOINT)]


def test_a_given_zero_point_goes_before_the_units():
    unit = {"image": IMAGE * u.nJy, "sigma": SIGMA * u.nJy, "psf": None}
    for given in (25.0, 25.0 * u.mag, 25.0 * u.ABmag):
        cutouts = Cutouts(**unit, zeropoint=given)
        assert cutouts.zeropoint.tolist() == [25.0]
        assert cutouts.zeropoint_from == ("given",)


def test_a_zero_point_that_is_nan_is_none():
    twice = [np.concatenate([plane] * 2) for plane in (IMAGE, SIGMA)]
    cutouts = Cutouts(*twice, None, zeropoint=[25.0, np.nan])
    assert cutouts.zeropoint.tolist() == [25.0, 0.0]
    assert cutouts.zeropoint_from == ("given", "")
    assert cutouts.flags.tolist() == [0, int(Flag.NO_ZEROPOINT)]


def test_counts_have_a_unit_but_no_zero_point():
    cutouts = Cutouts(image=IMAGE * u.adu, sigma=SIGMA * u.adu, psf=None)
    assert cutouts.flags.tolist() == [int(Flag.NO_ZEROPOINT)]


@pytest.mark.parametrize(
    ("image", "sigma", "told"),
    [
        (u.nJy, u.K, "sigma is in K, expected nJy"),
        (u.nJy, u.electron, "sigma is in electron, expected nJy"),
        (u.nJy, None, "image is in nJy and sigma has no unit"),
        (None, u.nJy, "sigma is in nJy and image has no unit"),
        (u.nJy, u.MJy / u.sr, "expected nJy"),
        (u.mag, u.mag, "linear in flux"),
        (u.ABmag, u.ABmag, "linear in flux"),
    ],
)
@pytest.mark.parametrize("way", [Cutouts, hf.fit])
def test_units_that_do_not_go_together_are_refused(image, sigma, told, way):
    pairs = ((IMAGE, image), (SIGMA, sigma))
    given = [array if unit is None else array * unit for array, unit in pairs]
    with pytest.raises(ValueError, match=told):
        way(given[0], sigma=given[1], psf=psf_image())


def test_other_fields_with_units_are_converted_or_refused():
    plain = {"image": IMAGE, "sigma": SIGMA}
    psf = Cutouts(**plain, psf=psf_image() * u.dimensionless_unscaled).psf
    torch.testing.assert_close(psf, Cutouts(**plain, psf=psf_image()).psf)
    assert Cutouts(**plain, psf=None, pixel_scale=0.2 * u.arcsec / u.pix).pixel_scale.item() == 0.2
    with pytest.raises(ValueError, match="pixel_scale is in s, expected arcsec"):
        Cutouts(**plain, psf=None, pixel_scale=0.2 * u.s)
    with pytest.raises(ValueError, match="in arcsec, expected plain numbers"):
        Cutouts(**plain, psf=None, origin=[[1.0, 2.0]] * u.arcsec)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(2.0 * u.electron / u.adu, 2.0), (100.0 * u.s, 100.0), (1.0 * u.min, 60.0), (2.0, 2.0)],
)
def test_gains_with_a_unit(gain, expected):
    _, given = without_units(IMAGE * u.adu, {"gain": gain})
    assert given["gain"] == pytest.approx(expected)


def test_a_gain_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="gain is in K, expected electron / adu"):
        hf.fit(IMAGE, psf=psf_image(), gain=2.0 * u.K)


def test_lists_columns_and_other_noise_maps():
    image, given = without_units([IMAGE[0] * u.uJy] * 2, {"variance": [SIGMA[0] * u.nJy**2] * 2})
    np.testing.assert_allclose(image, np.concatenate([IMAGE, IMAGE]), atol=TEXT)
    np.testing.assert_allclose(given["variance"], 1e-6, atol=TEXT)
    _, given = without_units(IMAGE * u.uJy, {"ivar": SIGMA * u.nJy**-2})
    np.testing.assert_allclose(given["ivar"], 1e6, atol=TEXT)
    column = Column(IMAGE, unit="uJy")
    image, given = without_units(column, {"sigma": SIGMA * u.nJy})
    np.testing.assert_allclose(given["sigma"], 1e-3, atol=TEXT)
    assert given["zeropoint"] == pytest.approx(23.9)


def test_a_zero_point_that_is_set_later_is_no_longer_missing():
    bare = Cutouts(image=IMAGE, sigma=SIGMA, psf=None)
    assert bare.flags.tolist() == [int(Flag.NO_ZEROPOINT)]
    assert bare.zeropoint_from == ("",)
    known = replace(bare, zeropoint=torch.tensor([25.0]))
    assert not known.flags.any()
    assert known.zeropoint_from == ("given",)
    assert known[:1].zeropoint_from == ("given",)
