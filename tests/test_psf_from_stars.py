"""PSFs made from an image's own stars, against the PSF with which the image was simulated."""

from __future__ import annotations

import json

import galsim
import numpy as np
import pytest
from astropy.io import fits

from hybridfit.data.errors import BadInput
from hybridfit.io.psf_models.read import read_psf_model
from hybridfit.psf.from_stars import ImagePixels, StarPSF, psf_from_stars, psf_from_tiles
from hybridfit.psf.options import StarOptions
from hybridfit.psf.star_error import psf_error
from hybridfit.psf.star_shapes import measure_shapes
from hybridfit.psf.star_stamps import StarStamps

SIDE = 420  # pixels of the test's image
SIGMA = 1.0


def true_psf(x: float, y: float) -> galsim.GSObject:
    """A Moffat whose width and ellipticity vary by some 10 % over the image."""
    u, v = 2 * x / SIDE - 1, 2 * y / SIDE - 1
    fwhm = 2.9 * (1 + 0.08 * u - 0.05 * v + 0.04 * u * v)
    return galsim.Moffat(beta=3, fwhm=fwhm).shear(g1=0.03 + 0.03 * v, g2=0.02 * u)


def true_image(x: float, y: float, side: int) -> np.ndarray:
    image = true_psf(x, y).drawImage(nx=side, ny=side, scale=1).array.astype(np.float64)
    return image / image.sum()


def add(image: galsim.Image, profile: galsim.GSObject, x: float, y: float) -> None:
    """Draw a source at x, y, pixels from 0."""
    centre = galsim.PositionI(round(x), round(y))
    bounds = galsim.BoundsI(centre.x - 30, centre.x + 30, centre.y - 30, centre.y + 30)
    stamp = galsim.Image(bounds, scale=1)
    profile.drawImage(stamp, center=galsim.PositionD(x, y))
    common = bounds & image.bounds
    image[common] += stamp[common]


@pytest.fixture(scope="module")
def field():
    """Image, sigma, mask, and x, y of 36 stars; 60 galaxies, a masked and a saturated star."""
    rng = np.random.default_rng(3)
    image = galsim.Image(SIDE, SIDE, xmin=0, ymin=0, scale=1)
    cells = [(i, j) for j in range(10) for i in range(10)]
    rng.shuffle(cells)
    where = (np.array(cells) + 0.5 + rng.uniform(-0.2, 0.2, (100, 2))) * SIDE / 10
    for k, (x, y) in enumerate(where):
        if k < 36:
            source = galsim.DeltaFunction(flux=10 ** rng.uniform(2.7, 4.0))
        elif k < 96:
            radius = 10 ** rng.uniform(-0.1, 0.7)
            shear = {"g1": rng.normal(0, 0.2), "g2": rng.normal(0, 0.2)}
            source = galsim.Exponential(half_light_radius=radius, flux=10 ** rng.uniform(2.7, 3.7))
            source = source.shear(**shear)
        else:
            source = galsim.DeltaFunction(flux=2e5)
        add(image, galsim.Convolve(source, true_psf(x, y)), x, y)
    pixels = np.minimum(image.array, 9000.0) + rng.normal(0, SIGMA, image.array.shape)
    mask = np.zeros(pixels.shape, bool)
    mask[np.hypot(*(np.indices(mask.shape)[::-1] - where[0][:, None, None])) < 4] = True
    return pixels, np.full(pixels.shape, SIGMA), mask, where


@pytest.fixture(scope="module")
def made(field) -> StarPSF:
    return psf_from_stars(*field[:3], StarOptions(saturation=8000.0, side=25))


def test_only_stars_are_used(field, made: StarPSF):
    """No galaxy, no saturated star, not the masked one; nearly all others."""
    where = field[3]
    distance = np.hypot(*(made.stars[:, None] - where[None]).transpose(2, 0, 1))
    nearest = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 0.5
    assert set(nearest) <= set(range(1, 36))
    assert len(nearest) >= 30


def test_the_psf_is_the_true_one(made: StarPSF):
    """Away from the stars, pixel by pixel and in its width."""
    assert made.shape == (49, 49)
    assert (made.oversampling, made.includes_pixel, made.flags) == (2, True, 0)
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, SIDE, (2, 20))
    found = made.at(x, y)[:, ::2, ::2] * 4
    truth = np.stack([true_image(a, b, 25) for a, b in zip(x, y, strict=True)])
    apart = np.sqrt(((found - truth) ** 2).sum(axis=(1, 2)) / (truth**2).sum(axis=(1, 2)))
    middle = np.sqrt(((truth - true_image(210, 210, 25)) ** 2).sum(axis=(1, 2)))
    # the S/N of all stars together is some 800, six terms: 1 % in the pixels' sum; a constant
    # PSF would be off by several times as much
    assert np.median(apart) < 0.02
    assert np.median(apart) < 0.4 * np.median(middle / np.sqrt((truth**2).sum(axis=(1, 2))))
    white = np.ones(truth.shape)
    ours, theirs = measure_shapes(found, white), measure_shapes(truth, white)
    size = np.log(ours.size / theirs.size)
    assert np.sqrt(np.mean(size**2)) < 0.012


def test_the_error_is_that_of_the_width(made: StarPSF):
    """The quoted error of the width covers the true one, and is not far above it."""
    x, y = made.stars.T
    found = made.at(x, y)[:, ::2, ::2] * 4
    truth = np.stack([true_image(a, b, 25) for a, b in zip(x, y, strict=True)])
    white = np.ones(truth.shape)
    size = np.log(measure_shapes(found, white).size / measure_shapes(truth, white).size)
    rms = float(np.sqrt(np.mean(size**2)))
    assert rms < 2 * made.error.size  # an upper limit where stars show no excess
    assert made.error.size < 0.03
    assert 0 < made.error.shape < 0.03
    assert made.error.residual < 0.06
    assert "stars" in made.notes[0]


def test_the_error_sees_a_wrong_psf():
    """Stars that are 5 % wider than the PSF: the error says 5 %, with the right model almost 0."""
    rng = np.random.default_rng(2)
    side, count, noise = 25, 40, 2e-4
    wide, narrow = (
        galsim.Gaussian(sigma=s).drawImage(nx=side, ny=side, scale=1).array for s in (1.575, 1.5)
    )
    images = wide + rng.normal(0, noise, (count, side, side))
    zero = np.zeros(count)
    weight = np.full(images.shape, noise**-2)
    stamps = StarStamps(images, weight, zero, zero, zero, zero, zero + 1)
    wrong = psf_error(stamps, np.broadcast_to(narrow, images.shape))
    right = psf_error(stamps, np.broadcast_to(wide, images.shape))
    # the pixel adds to both widths alike: 5 % of the Gaussian is 4.6 % of the image
    assert wrong.size == pytest.approx(0.046, abs=0.006)
    assert right.size < 0.004
    assert wrong.residual > 3 * right.residual


def test_shapes_of_gaussians():
    """Width, centroid and ellipticity of Gaussians wide enough for the pixel sum."""
    x, y, width = np.array([0.0, 0.3, -0.4]), np.array([0.2, 0.0, 0.4]), np.array([1.5, 2.0, 3.0])
    axis = np.arange(25) - 12
    dx = axis[None, None, :] - x[:, None, None]
    dy = axis[None, :, None] - y[:, None, None]
    images = 5 * np.exp(-(dx**2 + dy**2) / (2 * width[:, None, None] ** 2))
    found = measure_shapes(images, np.full(images.shape, 4.0))
    assert found.size == pytest.approx(width, rel=2e-3)  # the edge of the image cuts the widest
    assert found.x == pytest.approx(x, abs=1e-3)
    assert found.y == pytest.approx(y, abs=1e-3)
    assert np.abs([found.e1, found.e2]).max() < 1e-3
    assert found.flux == pytest.approx(10 * np.pi * width**2, rel=2e-3)
    # of a Gaussian the S/N is flux / (sigma sqrt(4 pi) width)
    expected = found.flux / (0.5 * np.sqrt(4 * np.pi) * width)
    assert found.snr == pytest.approx(expected, rel=2e-3)


def test_too_few_stars():
    noise = np.random.default_rng(1).normal(0, 1, (200, 200))
    with pytest.raises(BadInput, match=r"expected 3 or more .* give a PSF, or lower min_snr"):
        psf_from_stars(noise, np.ones(noise.shape))
    with pytest.raises(BadInput, match="has 0 isolated stars"):
        psf_from_stars(noise, np.ones(noise.shape), np.ones(noise.shape, bool))


def test_few_stars_have_a_constant_psf(field):
    image, sigma, mask, _ = field
    psf = psf_from_stars(image, sigma, mask, StarOptions(saturation=8000.0, max_stars=5, side=21))
    assert len(psf.terms) == 1
    assert len(psf.stars) <= 5
    assert np.array_equal(psf.at(0.0, 0.0), psf.at(SIDE, SIDE))


def test_a_wide_psf_is_sampled_by_the_pixels(field):
    """One PSF pixel per image pixel, as for a FWHM of 4 pixels and more."""
    image, sigma, mask, _ = field
    options = StarOptions(saturation=8000.0, max_stars=8, side=21, oversampling=1)
    psf = psf_from_stars(image, sigma, mask, options)
    assert (psf.oversampling, psf.shape) == (1, (21, 21))
    x, y = psf.stars.mean(axis=0)
    truth = true_image(x, y, 21)
    # eight stars, the PSF varies by 10 % between them
    assert np.abs(psf.at(x, y)[0] - truth).max() < 0.15 * truth.max()


def test_tiles_have_the_psf_of_the_whole(field, made: StarPSF):
    """Four parts that overlap, one of them without data: every star once, nearly the same PSF."""
    image, sigma, mask, _ = field
    half, overlap = SIDE // 2, 30

    def tiles():
        for y in (0, half):
            for x in (0, half):
                x0, y0 = max(x - overlap, 0), max(y - overlap, 0)
                box = slice(y0, y + half), slice(x0, x + half)
                yield ImagePixels(image[box], sigma[box], mask[box], (x0, y0))
        yield ImagePixels(image[:50, :50], sigma[:50, :50], np.ones((50, 50), bool))

    psf = psf_from_tiles(tiles, image.shape, StarOptions(saturation=8000.0, side=25))
    # stars between the parts lie in the overlap of one of them at least
    apart = np.hypot(*(psf.stars[:, None] - made.stars[None]).transpose(2, 0, 1)).min(axis=1)
    assert (apart < 0.1).sum() >= len(made.stars) - 2
    distance = np.hypot(*(psf.stars[:, None] - psf.stars[None]).transpose(2, 0, 1))
    assert (distance[~np.eye(len(distance), dtype=bool)] > 5).all()
    x, y = np.random.default_rng(6).uniform(0, SIDE, (2, 9))
    ours, whole = psf.at(x, y), made.at(x, y)
    # the background is measured in each part, and a star or two may differ
    assert np.sqrt(((ours - whole) ** 2).sum() / (whole**2).sum()) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("field_ground", 0.02), ("field_space", 0.06)])
def test_simulated_fields(shared_data, name, limit):
    """Median misfit of the PSF: PSFEx has .05 on the ground field; space has Airy rings."""
    folder = shared_data / "fields" / name
    image, sigma, bits = (
        fits.getdata(folder / f"{part}.fits.fz", 1) for part in ("image", "sigma", "mask")
    )
    psf = psf_from_stars(image, sigma, bits != 0)
    grid = read_psf_model(f"{folder}/psf/psf_grid.fits.gz[PSF_PIX]")
    assert json.loads((folder / "psf" / "psf_truth.json").read_text())["nx"] == image.shape[1]
    x, y = np.random.default_rng(0).uniform(0, 1535, (2, 40))
    found, truth = psf.at(x, y), grid.at(x, y)
    o = psf.oversampling
    half = min(found.shape[1] // 2 // o, truth.shape[1] // 2)
    middle = found.shape[1] // 2
    found = found[:, middle - half * o : middle + half * o + 1 : o]
    found = found[:, :, middle - half * o : middle + half * o + 1 : o] * o**2
    m = truth.shape[1] // 2
    truth = truth[:, m - half : m + half + 1, m - half : m + half + 1]
    apart = np.sqrt(((found - truth) ** 2).sum(axis=(1, 2)) / (truth**2).sum(axis=(1, 2)))
    assert np.median(apart) < limit
