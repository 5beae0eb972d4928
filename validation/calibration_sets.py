"""Simulate galaxies drawn from a stated prior, and observations with something wrong.

GalSim renders each galaxy once, without noise, and caches it (`truths`); a scenario then makes
the user's data (`observe`). All scenarios share galaxies, skies and the noise's random numbers, so
that they differ only in what is wrong:

clean: nothing is wrong.
sky: the subtracted sky was wrong by 0.2 % of its level, too high or too low, the same everywhere.
gradient: as sky, and the residual sky rises by another 0.2 % of the level from side to side.
psf: the given PSF is 2 % too narrow in FWHM.
drizzle: the noise is that of many exposures drizzled with pixfrac 0.8 onto pixels of 0.6. Sigma is
    the rms of a pixel, as in a weight map scaled to the pixels' scatter. Neighbouring pixels are
    correlated, so that errors of anything much larger than a pixel are too small by `NOISE_FACTOR`,
    1.78, if the noise is assumed to be white.
neighbour: an unmasked galaxy, 1-2.5 mag fainter and 3-5 r_eff away.
structure: arms, bars, rings and clumps (`hybridfit.simulation.contaminants.structured`). The
    truth is the smooth galaxy's; its magnitude counts the light that was added.

Sizes, indices and shapes follow `prior_of(side)`: the package's prior between limits that GalSim
can render and the cutout can hold, so that a fit with the same prior must be calibrated. Only the
flux does not follow the prior, which is flat in it: the signal to noise is log-uniform, to cover
its range. At S/N above 10 the difference is small, and `population_weights` corrects for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import LogNormal, Prior
from hybridfit.simulation.contaminants import structured
from hybridfit.simulation.random_numbers import Random
from validation.galsim_galaxies import NAMES, PSFS, galsim_image, psf_image

Array = NDArray[np.float64]

SCENARIOS = ("clean", "sky", "gradient", "psf", "drizzle", "neighbour", "structure")
SIDES = (64, 64, 96, 128)  # pixels, of the shards in turn
SHARD = 250
SNR = (5.0, 1000.0)  # log-uniform, matched filter, of the sky's noise alone
SKY_LEVEL = (2e3, 2e4)  # electrons a pixel of the subtracted sky, log-uniform
ZEROPOINT = 30.0  # mag of one electron
WRONG_SKY = 0.002  # of the sky's level
NARROW = 0.98  # width of the given PSF over the true one
PSF_FWHM = (2.6, 4.0, 1.9)  # pix, of galsim_galaxies.PSFS
OFFSET = 2.0  # pix: half-width of the square that the centres lie in
PIXFRAC, SCALE = 0.8, 0.6  # drop and output pixel, in units of the detector's pixels
FAINTER = (1.0, 2.5)  # mag
AWAY = (3.0, 5.0)  # in units of the galaxy's r_eff, within the cutout


@dataclass(frozen=True)
class Truth:
    """Noise-free galaxies of one cutout size.

    Args:
        name: of the shard.
        theta: (B, 8) in the order of `NAMES`, sky 0.
        snr: (B,) matched-filter signal to noise, sky noise only.
        level: (B,) electrons a pixel of the true sky.
        psf: (B,) index into `PSFS`.
        image, neighbour: (B, H, W) electrons.
        seed: of the noise and of what the scenarios draw.
    """

    name: str
    theta: Array
    snr: Array
    level: Array
    psf: NDArray[np.int64]
    image: NDArray[np.float32]
    neighbour: NDArray[np.float32]
    seed: tuple[int, ...]

    @property
    def side(self) -> int:
        """Pixels."""
        return self.image.shape[-1]


def prior_of(side: int) -> Prior:
    """Return the prior that galaxies on cutouts of this side are drawn from, to fit with."""
    return Prior(
        r_circ=LogNormal(4.0, 1.2, 0.7, side / 12), n=LogNormal(1.8, 0.9, 0.5, 6.2), q_min=0.15
    )


def truths(cache: Path, n: int, seed: int = 0) -> Iterator[Truth]:
    """Yield the shards that hold n galaxies, making those that are not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    for k in range(math.ceil(n / SHARD)):
        path = cache / f"truth_{seed}_{k:02d}.npz"
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(temporary, **_make(k, seed))
            temporary.replace(path)  # so that a killed run leaves no partial file
        with np.load(path) as data:
            arrays = {key: data[key][: n - k * SHARD] for key in data.files}
        yield Truth(name=f"{seed}-{k}", seed=(seed, k), **arrays)


def observe(truth: Truth, scenario: str) -> tuple[hf.Cutouts, Array]:
    """Return the user's cutouts of the galaxies, and their true parameters (B, 8)."""
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario is '{scenario}', expected one of {', '.join(SCENARIOS)}")
    theta = truth.theta.copy()
    model = truth.image.astype(np.float64)
    rng = np.random.default_rng([*truth.seed, 1])
    white = rng.standard_normal(model.shape)
    sign = rng.choice((-1.0, 1.0), len(theta))
    angle = rng.uniform(0, 2 * math.pi, len(theta))
    if scenario == "structure":
        model, added = _structured(truth)
        theta[:, 2] -= 2.5 * np.log10(1 + added)
    if scenario == "neighbour":
        model = model + truth.neighbour
    sigma = np.sqrt(truth.level[:, None, None] + np.maximum(model, 0))
    noise = correlated(white) if scenario == "drizzle" else white
    image = model + sigma * noise
    if scenario in ("sky", "gradient"):
        theta[:, 7] = sign * WRONG_SKY * truth.level
        image += theta[:, 7, None, None]
    if scenario == "gradient":
        image += (WRONG_SKY * truth.level)[:, None, None] * slope(angle, truth.side)
    stretch = NARROW if scenario == "psf" else 1.0
    psfs = np.stack([psf_image(kind, stretch) for kind in PSFS]).astype(np.float32)
    cutouts = hf.Cutouts(
        image=image.astype(np.float32),
        sigma=sigma.astype(np.float32),
        psf=psfs[truth.psf],
        zeropoint=np.full(len(theta), ZEROPOINT),
        # a galaxy's draws depend on its id, so ids must differ
        id=[f"{truth.name}-{i}" for i in range(len(theta))],
    )
    return cutouts, theta


def population_weights(mag: Array) -> Array:
    """Return weights that turn draws under a prior flat in flux into draws under this population's.

    The signal to noise is log-uniform, and so is the flux of a galaxy of given shape.
    """
    return np.asarray(10 ** (0.4 * (mag - np.nanmin(mag, axis=-1, keepdims=True))))


def slope(angle: Array, side: int) -> Array:
    """Return planes (B, side, side), 0 in the middle, that rise by 1 from side to side."""
    place = (np.arange(side) - (side - 1) / 2) / side
    along_x, along_y = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return np.asarray(along_x * place + along_y * place[:, None])


def drizzle_correlation(reach: int = 3) -> Array:
    """Return the correlation (2 reach + 1,) of drizzled noise along an axis, at whole-pixel lags.

    Each drop spreads its noise over a box; an output pixel sums over its own box. For many
    exposures at random sub-pixel offsets the correlation at a lag is the convolution of both boxes'
    autocorrelations, two triangles (Fruchter & Hook 2002, section 6 and appendix).
    """
    drop, fine = PIXFRAC / SCALE, 1e-3
    x = np.arange(-reach - 2, reach + 2 + fine / 2, fine)
    triangle = np.maximum(1 - np.abs(x) / drop, 0) / drop
    lags = np.arange(-reach, reach + 1)
    overlap = np.maximum(1 - np.abs(x[None] - lags[:, None]), 0) @ triangle * fine
    return np.asarray(overlap / overlap[reach])


NOISE_FACTOR = float(drizzle_correlation().sum())  # of the error of a mean over many pixels


def correlated(white: Array) -> Array:
    """Correlate white noise (B, H, W) by `drizzle_correlation` along both axes; keep variance 1."""
    for axis in (1, 2):
        side = white.shape[axis]
        lagged = np.zeros(side)
        correlation = drizzle_correlation()
        reach = len(correlation) // 2
        for lag, value in zip(range(-reach, reach + 1), correlation, strict=True):
            lagged[lag] = value
        power = np.maximum(np.fft.rfft(lagged).real, 0)
        shape = [1, 1, 1]
        shape[axis] = len(power)
        spectrum = np.fft.rfft(white, axis=axis) * np.sqrt(power).reshape(shape)
        white = np.fft.irfft(spectrum, n=side, axis=axis)
    return white


def _make(k: int, seed: int) -> dict[str, NDArray]:
    rng = np.random.default_rng([seed, k])
    side = SIDES[k % len(SIDES)]
    theta = _from_prior(rng, side)
    psf = rng.integers(len(PSFS), size=SHARD)
    level = np.exp(rng.uniform(*np.log(SKY_LEVEL), SHARD))
    snr = np.exp(rng.uniform(*np.log(SNR), SHARD))
    neighbours = _draw_neighbours(rng, theta, psf, side)
    images = [psf_image(kind) for kind in PSFS]
    unit, other = (
        np.stack([galsim_image(row, images[p], side) for row, p in zip(some, psf, strict=True)])
        for some in (theta, neighbours)
    )
    flux = snr * np.sqrt(level / (unit**2).sum(axis=(1, 2)))
    theta[:, 2] = ZEROPOINT - 2.5 * np.log10(flux)
    ratio = 10 ** (-0.4 * neighbours[:, 2])  # its magnitude is relative to the galaxy's
    return {
        "theta": theta,
        "snr": snr,
        "level": level,
        "psf": psf,
        "image": (flux[:, None, None] * unit).astype(np.float32),
        "neighbour": ((flux * ratio)[:, None, None] * other).astype(np.float32),
    }


def _from_prior(rng: np.random.Generator, side: int) -> Array:
    """Draw (SHARD, 8) parameters but the magnitude, near the middle of the cutout."""
    space = ParameterSpace(prior=prior_of(side))
    whitened = torch.from_numpy(rng.standard_normal((SHARD, space.n_nonlinear)))
    coords, _ = space.from_whitened(
        whitened, space.constants(torch.ones(SHARD, 4, dtype=torch.float64))
    )
    coords[:, :2] = torch.from_numpy((side - 1) / 2 + rng.uniform(-OFFSET, OFFSET, (SHARD, 2)))
    linear = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(SHARD, 2)
    theta, _ = space.to_physical(coords, linear, torch.zeros(SHARD, dtype=torch.float64))
    return theta.numpy()


def _draw_neighbours(
    rng: np.random.Generator, theta: Array, psf: NDArray[np.int64], side: int
) -> Array:
    """Draw (SHARD, 8) parameters of the neighbours, ``mag`` relative to the galaxy's own."""
    neighbours = np.zeros_like(theta)
    fwhm = np.array(PSF_FWHM)[psf]
    away = np.maximum(theta[:, 3] * rng.uniform(*AWAY, SHARD), 2 * fwhm)
    away, angle = np.minimum(away, 0.45 * side), rng.uniform(0, 2 * math.pi, SHARD)
    neighbours[:, 0] = theta[:, 0] + away * np.cos(angle)
    neighbours[:, 1] = theta[:, 1] + away * np.sin(angle)
    neighbours[:, 2] = rng.uniform(*FAINTER, SHARD)
    neighbours[:, 3] = np.maximum(theta[:, 3] * rng.uniform(0.4, 1.0, SHARD), 0.7)
    neighbours[:, 4] = np.exp(rng.uniform(math.log(0.7), math.log(4.0), SHARD))
    neighbours[:, 5] = rng.uniform(0.3, 1.0, SHARD)
    neighbours[:, 6] = rng.uniform(0, 180, SHARD)
    return neighbours


def _structured(truth: Truth) -> tuple[Array, Array]:
    """Return images (B, H, W) with structure, and the added light (B,) over the galaxy's."""
    total = truth.image.sum(axis=(1, 2), dtype=np.float64)
    flux = 10 ** (0.4 * (ZEROPOINT - truth.theta[:, 2]))
    unit = torch.from_numpy((truth.image / flux[:, None, None]).astype(np.float32))
    fwhm = torch.tensor(PSF_FWHM, dtype=torch.float64)[torch.from_numpy(truth.psf)]
    random = Random.seeded(1000 * truth.seed[0] + truth.seed[1], torch.device("cpu"))
    with_arms = structured(unit, torch.from_numpy(truth.theta), fwhm, random).double().numpy()
    model = with_arms * flux[:, None, None]
    return model, (model.sum(axis=(1, 2)) - total) / flux


__all__ = ["NAMES", "NOISE_FACTOR", "SCENARIOS", "Truth", "observe", "prior_of", "truths"]
