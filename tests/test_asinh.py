"""Pan-STARRS images on an asinh scale: decoded, with their variances, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from read_helpers import galaxy, gaussian, psf_image, write
from tolerances import CHAIN, SINGLE

import hybridfit as hf
from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions

EXPOSURE = 600.0
A = 1.0857362047581294  # 2.5 log10(e)


def encoded(flux: np.ndarray, offset: float, softening: float) -> tuple[np.ndarray, fits.Header]:
    """Flux on the scale, by the definition of the asinh as a logarithm, and its keywords."""
    x = (np.asarray(flux, np.float64) - offset) / (2 * softening)
    value = A * np.sign(x) * np.log(np.abs(x) + np.sqrt(x**2 + 1))
    return value.astype(np.float32), fits.Header({"BOFFSET": offset, "BSOFTEN": softening})


def written(root, image_header=None, noise: str = "variance"):
    """A galaxy of flux 3e5 and its variance, each on a scale of its own."""
    rng = np.random.default_rng(5)
    model = gaussian((80, 80), 39.5, 39.5, 4.0, 3e5)
    variance = 400.0 + model
    image = (model + rng.normal(0, np.sqrt(variance))).astype(np.float32)
    data, header = encoded(image, 3.0, 25.0)
    header["EXPTIME"] = EXPOSURE
    header.update(image_header or {})
    write(root / "a_image.fits", data, header)
    write(root / f"a_{noise}.fits", *encoded(variance, 410.0, 8.0))
    write(root / "a_psf.fits", psf_image())
    return image, variance


def cutout_of(root, **options):
    chosen = ReadOptions(crop="none", mask_neighbours=False, **options)
    return read_cutout(find_sources(root, chosen)[0], chosen)


def test_image_and_variance_are_made_linear(tmp_path):
    image, variance = written(tmp_path)
    stamp = cutout_of(tmp_path)
    # 1e-5: values of up to 10 are kept in float32, 6e-7 of a factor e^(10 / 1.09) in flux
    np.testing.assert_allclose(stamp.image, image, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(stamp.sigma, np.sqrt(variance), rtol=1e-4, atol=CHAIN)
    assert "made linear from the asinh scale of Pan-STARRS" in stamp.message
    assert not stamp.flags & (Flag.BAD_SIGMA | Flag.NO_ZEROPOINT)
    assert stamp.zeropoint == pytest.approx(25 + 2.5 * math.log10(EXPOSURE))


def test_magnitude_of_a_stack(tmp_path):
    written(tmp_path)
    run = RunOptions(uncertainty="covariance", initial_values="moments")
    fit_files(tmp_path, tmp_path / "out", run=run)
    row = Table.read(tmp_path / "out" / "results.fits")[0]
    expected = 25 + 2.5 * math.log10(EXPOSURE) - 2.5 * math.log10(3e5)
    # a Gaussian of S/N 400: 0.003, and 0.5 is the least of n that the prior has
    assert row["mag"] == pytest.approx(expected, abs=0.03)
    assert row["zeropoint_from"] == "FPA.ZP, EXPTIME"


def test_a_linear_variance_beside_an_encoded_image(tmp_path):
    _, variance = written(tmp_path)
    write(tmp_path / "a_variance.fits", variance)
    np.testing.assert_allclose(cutout_of(tmp_path).sigma, np.sqrt(variance), rtol=1e-5, atol=SINGLE)


def test_masks_with_the_images_keywords_are_masks(tmp_path):
    _, header = encoded(np.ones(1), 3.0, 25.0)
    written(tmp_path)
    mask = np.zeros((80, 80), np.int16)
    mask[:5] = 4096
    write(tmp_path / "a_mask.fits", mask, header)
    stamp = cutout_of(tmp_path)
    assert stamp.mask[:5].all()
    assert not stamp.mask[5:].any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"BSOFTEN": "x"}, "expected two numbers"),
        ({"BSOFTEN": 0.0}, "BSOFTEN above 0"),
        ({"BOFFSET": None}, "BOFFSET"),
    ],
)
def test_keywords_that_cannot_be_used_are_refused(tmp_path, change, told):
    written(tmp_path, change)
    with pytest.raises(BadInput, match=told):
        cutout_of(tmp_path)


def test_one_keyword_alone_is_refused(tmp_path):
    written(tmp_path)
    write(tmp_path / "a_image.fits", galaxy((80, 80)), fits.Header({"BSOFTEN": 25.0}))
    with pytest.raises(BadInput, match="BOFFSET = missing"):
        cutout_of(tmp_path)


def test_linear_pixels_with_the_keywords_left_are_refused(tmp_path):
    """Made linear by the user, keywords kept: a second decoding would give 1e300."""
    image, _ = written(tmp_path)
    header = fits.Header({"BOFFSET": 3.0, "BSOFTEN": 25.0})
    write(tmp_path / "a_image.fits", image, header)
    with pytest.raises(BadInput, match="remove both keywords if it is linear"):
        cutout_of(tmp_path)
    assert "remove both" in hf.read(tmp_path).messages[0]
