"""Annular profiles against the integral of an analytic profile; units, scale bars and compass."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.units import deg
from astropy.wcs import WCS
from scipy.special import gammainc, gammaincinv
from tolerances import TEXT

from hybridfit.plots.annuli import Ellipse, annular_profile, annulus_edges
from hybridfit.plots.brightness import Brightness
from hybridfit.plots.orientation import compass, scale_bar

SIDE, FINE = 161, 7
ELLIPSE = Ellipse(79.3, 81.6, 18.0, 0.55, 37.0)
FLUX = 1000.0


def sersic(ellipse: Ellipse, n: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Surface brightness [flux/pix^2] of a total flux of `FLUX`."""
    b = gammaincinv(2 * n, 0.5)
    norm = 2 * math.pi * n * ellipse.q * ellipse.r_eff**2 * b ** (-2 * n) * math.gamma(2 * n)
    return FLUX / norm * np.exp(-b * (ellipse.radius(x, y) / ellipse.r_eff) ** (1 / n))


def rendered(ellipse: Ellipse, n: float) -> np.ndarray:
    """The same integrated over pixels."""
    offset = (np.arange(FINE) - FINE // 2) / FINE
    fine = (np.arange(SIDE)[:, None] + offset).ravel()
    values = sersic(ellipse, n, fine[None, :], fine[:, None])
    return values.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))


def enclosed(ellipse: Ellipse, n: float, radius: np.ndarray) -> np.ndarray:
    """Flux within a semi-major axis."""
    return FLUX * gammainc(2 * n, gammaincinv(2 * n, 0.5) * (radius / ellipse.r_eff) ** (1 / n))


@pytest.mark.parametrize("n", [0.7, 1.0, 2.5])
def test_annuli_of_a_noise_free_model_are_the_analytic_ones(n: float):
    image, nothing = rendered(ELLIPSE, n), np.zeros((SIDE, SIDE), bool)
    found = annular_profile(image, 2 * image[None], np.ones_like(image), nothing, ELLIPSE)
    edges = annulus_edges(ELLIPSE, image.shape)
    area = math.pi * ELLIPSE.q * np.diff(edges**2)
    true = np.diff(enclosed(ELLIPSE, n, edges)) / area
    # pixels are taken for uniform, which costs most where the profile is steep across one
    some = (found.radius > 5) & (found.coverage > 0.99)
    assert some.sum() > 12
    np.testing.assert_allclose(found.data[some], true[some], rtol=0.01, atol=TEXT)
    np.testing.assert_allclose(found.models[0], 2 * found.data, atol=TEXT)
    # each wrong twin of the geometry gives another profile
    for wrong in (
        replace(ELLIPSE, pa=ELLIPSE.pa + 90),
        replace(ELLIPSE, pa=-ELLIPSE.pa),
        replace(ELLIPSE, q=1.0),
        replace(ELLIPSE, x=ELLIPSE.x + 4),
    ):
        twin = annular_profile(image, image[None], np.ones_like(image), nothing, wrong)
        at = np.interp(found.radius[some], twin.radius, np.nan_to_num(twin.data))
        assert np.abs(at / true[some] - 1).max() > 0.05


def test_errors_are_the_scatter_of_noise():
    rng = np.random.default_rng(3)
    sigma = rng.uniform(0.5, 2.0, (60, 60))
    ellipse = Ellipse(30.2, 29.1, 5.0, 0.6, 20.0)
    nothing = np.zeros(sigma.shape, bool)
    every = [
        annular_profile(sigma * rng.normal(size=sigma.shape), sigma[None], sigma, nothing, ellipse)
        for _ in range(300)
    ]
    ratio = np.nanstd([one.data for one in every], axis=0)[:20] / every[0].error[:20]
    # the scatter of 300 is known to 4 %
    assert np.abs(ratio - 1).max() < 0.17


def test_masked_pixels_count_for_nothing():
    image, mask = rendered(ELLIPSE, 1.0), np.zeros((SIDE, SIDE), bool)
    whole = annular_profile(image, image[None], np.ones_like(image), mask, ELLIPSE)
    mask[:, :60] = True
    image = np.where(mask, np.nan, image)
    found = annular_profile(image, np.nan_to_num(image)[None], np.ones_like(image), mask, ELLIPSE)
    inner = found.radius < 8
    np.testing.assert_allclose(found.data[inner], whole.data[inner], atol=TEXT)
    assert (found.coverage[20:24] < whole.coverage[20:24]).all()
    assert (found.error[20:24] > whole.error[20:24]).all()
    mask[:] = True
    empty = annular_profile(image, image[None], np.ones_like(image), mask, ELLIPSE)
    assert np.isnan(empty.data).all()
    assert (empty.coverage == 0).all()


def test_what_is_no_ellipse_is_refused():
    plane = np.zeros((8, 8))
    for wrong in (replace(ELLIPSE, q=0.0), replace(ELLIPSE, x=math.nan)):
        with pytest.raises(ValueError, match="expected an ellipse"):
            annular_profile(plane, plane[None], plane + 1, plane > 1, wrong)


def test_surface_brightness_is_in_the_units_that_are_known():
    flux = np.array([1.0, 100.0, -1.0])
    known = Brightness(25.0, 0.2)
    # one unit on 0.04 square arcsec: 25 + 2.5 log10(0.04)
    assert known.of(flux)[:2] == pytest.approx([21.505, 16.505], abs=1e-3)
    assert np.isnan(known.of(flux)[2])
    assert known.radius(np.array([10.0])) == pytest.approx([2.0])
    assert Brightness(math.nan, 0.2).of(flux)[0] == 1.0
    assert Brightness(25.0, math.nan).radius(np.array([10.0])) == pytest.approx([10.0])
    # 10 % more light than the model, 2 % uncertain, in both units
    data, model, error = np.array([110.0]), np.array([100.0]), np.array([2.2])
    assert known.residual(data, model) == pytest.approx([-2.5 * math.log10(1.1)])
    assert known.residual_error(data, model, error) == pytest.approx([0.0217], abs=1e-4)
    assert Brightness().residual(data, model) == pytest.approx([0.1])


def wcs(angle: float, kind: tuple[str, str] = ("RA---TAN", "DEC--TAN"), mirrored: bool = False):
    made, turn = WCS(naxis=2), math.radians(angle)
    made.wcs.ctype, made.wcs.crval, made.wcs.crpix = kind, [150.0, 40.0], [20.0, 20.0]
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    flip = np.diag([1.0 if mirrored else -1.0, 1.0])
    made.wcs.cd = 1e-4 * flip @ rotation
    return made


@pytest.mark.parametrize("angle", [0.0, 30.0, 200.0])
def test_north_and_east_of_a_turned_image(angle: float):
    """A sky that is turned by an angle has North turned back by it, and East a right angle on."""
    turn = math.radians(angle)
    found = compass(wcs(angle), 19.0, 19.0)
    assert found.north == pytest.approx([math.sin(turn), math.cos(turn)], abs=1e-3)
    assert found.east == pytest.approx([-math.cos(turn), math.sin(turn)], abs=1e-3)
    mirrored = compass(wcs(0.0, mirrored=True), 19.0, 19.0)
    assert mirrored.east == pytest.approx([1.0, 0.0], abs=1e-3)


def test_north_is_that_of_icrs_in_galactic_pixels():
    made = wcs(0.0, ("GLON-TAN", "GLAT-TAN"))
    here = made.pixel_to_world(19.0, 19.0)
    other = SkyCoord(here.icrs.ra, here.icrs.dec + 0.001 * deg)
    along = np.array(made.world_to_pixel(other), float) - 19.0
    found = compass(made, 19.0, 19.0)
    assert found.north == pytest.approx(along / np.hypot(*along), abs=1e-3)
    assert abs(found.north[1]) < 0.99


def test_no_compass_where_nothing_is_known():
    flat = wcs(0.0)
    flat.wcs.cd = np.zeros((2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for unknown in (None, flat, wcs(0.0, ("WAVE", "LINEAR")), object()):
            assert compass(unknown, 5.0, 5.0) is None
        assert compass(wcs(0.0), math.nan, 5.0) is None


@pytest.mark.parametrize(
    ("width", "scale", "length", "label"),
    [
        (100, 0.2, 25.0, '5"'),
        (100, 0.03, 100 * 0.5 / 3, '0.5"'),
        (1000, 1.0, 300.0, "5'"),
        (100, math.nan, 20.0, "20 pix"),
        (100, 0.0, 20.0, "20 pix"),
        (8, 1e-3, 2.0, '0.002"'),
    ],
)
def test_scale_bars_are_round(width: int, scale: float, length: float, label: str):
    bar = scale_bar(width, scale)
    assert (bar.length, bar.label) == (pytest.approx(length), label)
