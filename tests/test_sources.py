"""Detection of all sources of a cutout: close pairs apart, one galaxy as one source."""

from __future__ import annotations

import numpy as np
import pytest
from neighbour_helpers import SIDE, close, scenes, source
from scipy import ndimage

from hybridfit.detection.sources import SCALES, FoundSources, find_sources, white_scatter


def found_in(cutouts, i: int = 0, **more) -> FoundSources:
    planes = (cutouts.image[i], cutouts.sigma[i], cutouts.mask[i])
    return find_sources(*(plane.numpy() for plane in planes), **more)


@pytest.mark.parametrize("scale", SCALES)
def test_the_noise_of_the_filter_is_known(scale: float) -> None:
    noise = np.random.default_rng(0).standard_normal((512, 512))
    scatter = ndimage.gaussian_laplace(noise, scale).std()
    # sampling: a Gaussian of one pixel's sigma is not quite a continuous one
    assert white_scatter(scale) == pytest.approx(scatter, rel=0.1 if scale > 1.2 else 0.2)


def test_noise_holds_hardly_any_source() -> None:
    rng = np.random.default_rng(1)
    blank = np.zeros((128, 128), bool)
    counts = [
        len(find_sources(rng.standard_normal((128, 128)).astype(np.float32), blank + 1.0, blank))
        for _ in range(40)
    ]
    assert sum(counts) <= 3  # one in 100 cutouts is what the threshold stands for


@pytest.mark.parametrize("apart", [6.0, 9.0, 14.0])
def test_pairs_come_apart(apart: float) -> None:
    # smoothed by 1.5 pixels, as for masks, the nearer ones have one maximum
    pair = source(0.0, 0.0), source(apart, 1.0, mag=20.7, r_eff=2.0)
    cutouts, truth = scenes(*pair, snr=120)
    found = found_in(cutouts)
    assert len(found) == 2
    order = np.argsort(found.x)
    places = np.stack([found.x, found.y], axis=1)[order]
    assert close(places, truth[0, :14].reshape(2, 7), 1.5)


@pytest.mark.parametrize("q", [0.12, 0.4, 1.0])
@pytest.mark.parametrize("n", [0.6, 1.0, 4.0])
def test_one_galaxy_is_one_source(n: float, q: float) -> None:
    cutouts, _ = scenes(source(0.3, -0.4, r_eff=5.0, n=n, q=q), snr=100, count=6)
    # the noise on a thin or flat galaxy makes a second one now and then
    assert sum(len(found_in(cutouts, i)) for i in range(6)) <= 7
    assert all(
        np.hypot(found_in(cutouts, i).x - 31.8, found_in(cutouts, i).y - 31.1).min() < 3
        for i in range(6)
    )


def test_flux_and_size_of_a_lone_source() -> None:
    cutouts, truth = scenes(source(0.2, 0.1, r_eff=4.0, n=1.0), snr=300)
    found = found_in(cutouts)
    flux = 10 ** (0.4 * (25.0 - truth[0, 2]))
    assert found.flux[0] == pytest.approx(flux, rel=0.15)  # the wings are below the noise
    assert found.radius[0] == pytest.approx(4.0, rel=0.35)  # with the PSF, and of an ellipse


def test_masked_pixels_hold_no_source() -> None:
    cutouts, _ = scenes(source(0.0, 0.0), source(15.0, 0.0, mag=19.0), snr=200)
    image, sigma = cutouts.image[0].numpy().copy(), cutouts.sigma[0].numpy()
    mask = np.zeros((SIDE, SIDE), bool)
    mask[22:42, 37:57] = True
    image[mask] = 1e6  # a saturated star: neither it nor the edge of its mask is a source
    found = find_sources(image, sigma, mask)
    assert len(found) == 1
    assert close([found.x[0], found.y[0]], [31.5, 31.5], 1.5)


def test_a_slope_of_the_sky_is_no_source() -> None:
    cutouts, _ = scenes(source(0.0, 0.0), snr=60)
    slope = np.linspace(-4, 4, SIDE, dtype=np.float32)[None, :]
    planes = cutouts.image[0].numpy() + slope + 50.0, cutouts.sigma[0].numpy()
    assert len(find_sources(*planes, cutouts.mask[0].numpy())) == 1


def test_nothing_but_masked_pixels() -> None:
    image = np.ones((32, 32), np.float32)
    assert len(find_sources(image, image, np.ones((32, 32), bool))) == 0


def test_correlated_noise_is_not_full_of_sources() -> None:
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.standard_normal((128, 128)), 1.2)
    noise = (noise / noise.std()).astype(np.float32)
    blank = np.zeros(noise.shape, bool)
    assert len(find_sources(noise, blank + np.float32(1.0), blank)) <= 1
