"""Simulate galaxies with GalSim instead of the package's own simulator, cached as npz shards.

Single Sersic profiles through three PSFs (an elliptical Moffat of FWHM 2.6 pix with heavy wings, a
Kolmogorov of 4.0, an obscured Airy pattern of 1.9 that is a little undersampled), at three exposure
times, on cutouts of 64, 96 and 128 pixels. There is noise of the sky and of the galaxy; the noise
map is the true one. GalSim uses the same PSF image as the fitter, interpolated by Lanczos(30): its
default, a quintic, is itself off by 3e-3.

Two populations:

prior: sizes, indices and shapes from the package's own `Prior`, cut to what GalSim can render
    (`LIMITS`); cutouts, positions and signal to noise are distributed as in the package's
    simulator. Coverage is then exactly defined if draws of the posterior are cut to the same limits
    (`inside`), as the prior of these galaxies is the package's within the limits. Without that cut
    intervals of the index cover too often at low signal to noise, as the posterior's tails extend
    beyond the limits.
uniform: uniform in n, q and ln r_eff; here the prior is not that of the population.
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
from hybridfit.model.prior import Prior

Array = NDArray[np.float64]

NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky")
LIMITS = {"r_eff": (0.7, 12.0), "n": (0.5, 6.2), "q": (0.15, 1.0)}
SIDES = (64, 64, 96, 128)  # pixels, of the shards in turn
ALL_SIDES = (32, 48, 64, 96, 128)  # of the package's simulator
FILL = (5.0, 12.0)  # the least side in units of r_eff, log-uniform, as the simulator's
OFFSET, WIDE, WIDE_SHARE = 0.8, 5.0, 0.15  # pix from the middle: normal, or uniform for a share
PSFS = ("moffat", "kolmogorov", "airy")
PSF_SIDE = 51
EXPOSURES = (10.0, 100.0, 1000.0)  # s
SKY_RATE = 5.0  # electrons / s / pix
ZEROPOINT = 25.0  # mag of one electron / s
SNR = (3.0, 1500.0)  # log-uniform, as in the simulator; of the sky's noise alone
SKY_OFFSET = 2.0  # standard deviation of the residual sky, in units of its noise
SHARD = 250


@dataclass(frozen=True)
class Shard:
    """Galaxies of one cutout size.

    Args:
        cutouts: B galaxies.
        theta: (B, 8) truth in the order of `NAMES`.
        snr: (B,) matched-filter signal to noise, sky noise only.
        psf, exposure: (B,) indices into `PSFS` and `EXPOSURES`.
    """

    cutouts: hf.Cutouts
    theta: Array
    snr: Array
    psf: NDArray[np.int64]
    exposure: NDArray[np.int64]


def shards(cache: Path, n: int, population: str, seed: int = 0) -> Iterator[Shard]:
    """Yield the shards that hold n galaxies, making those that are not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    for k in range(math.ceil(n / SHARD)):
        path = cache / f"{population}_{seed}_{k:02d}.npz"
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(temporary, **_make(k, population, seed))
            temporary.replace(path)  # so that a killed run leaves no partial file
        with np.load(path) as data:
            yield _shard({key: data[key][: n - k * SHARD] for key in data.files}, f"{k}")


def inside(samples: Array) -> NDArray[np.bool_]:
    """Return whether draws (..., 8) lie within `LIMITS`, as the population "prior" does."""
    keep = np.ones(samples.shape[:-1], bool)
    for name, (low, high) in LIMITS.items():
        value = samples[..., NAMES.index(name)]
        keep &= (value >= low) & (value <= high)
    return keep


def psf_image(kind: str, stretch: float = 1.0) -> Array:
    """Return samples of a PSF without the pixel's response, sum 1, widened by ``stretch``."""
    import galsim

    if kind == "moffat":
        point = galsim.Moffat(beta=2.5, fwhm=2.6).shear(g1=0.06, g2=-0.03)
    elif kind == "kolmogorov":
        point = galsim.Kolmogorov(fwhm=4.0).shear(g1=0.0, g2=0.02)
    else:
        sharp = galsim.Airy(lam_over_diam=1.6, obscuration=0.3)
        point = galsim.Convolve(sharp, galsim.Gaussian(fwhm=1.0))
    if stretch != 1.0:
        point = point.dilate(stretch)
    image = point.drawImage(nx=PSF_SIDE, ny=PSF_SIDE, scale=1.0, method="no_pixel").array
    return np.asarray(image, np.float64) / image.sum()


def galsim_image(theta: Array, psf: Array, side: int) -> Array:
    """Return GalSim's image (side, side) of unit flux, for one row of physical parameters."""
    import galsim

    fine = galsim.GSParams(
        maximum_fft_size=32768, folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6
    )
    x, y, _, r_eff, n, q, pa, _ = theta
    samples = galsim.Image(np.ascontiguousarray(psf), scale=1.0)
    point = galsim.InterpolatedImage(samples, x_interpolant=galsim.Lanczos(30), flux=1)
    galaxy = galsim.Sersic(n=n, half_light_radius=r_eff * math.sqrt(q), gsparams=fine)
    galaxy = galaxy.shear(q=q, beta=(pa + 90) * galsim.degrees)
    middle = (side - 1) / 2
    seen = galsim.Convolve(galaxy, point, gsparams=fine).shift(x - middle, y - middle)
    return np.asarray(seen.drawImage(nx=side, ny=side, scale=1).array, np.float64)


def _make(k: int, population: str, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng([seed, k, 0 if population == "prior" else 1])
    side = SIDES[k % len(SIDES)]
    theta = _from_prior(rng, side) if population == "prior" else _uniform(rng)
    far = rng.uniform(-WIDE, WIDE, (SHARD, 2))
    near = OFFSET * rng.standard_normal((SHARD, 2))
    offset = np.where(rng.random((SHARD, 1)) < WIDE_SHARE, far, near)
    theta[:, :2] = (side - 1) / 2 + offset
    psf = rng.integers(len(PSFS), size=SHARD)
    exposure = rng.integers(len(EXPOSURES), size=SHARD)
    seconds = np.array(EXPOSURES)[exposure]
    noise = np.sqrt(SKY_RATE / seconds)  # electrons / s
    snr = np.exp(rng.uniform(*np.log(SNR), SHARD))
    theta[:, 7] = SKY_OFFSET * noise * rng.standard_normal(SHARD)
    images = [psf_image(kind) for kind in PSFS]
    unit = np.stack([galsim_image(theta[i], images[psf[i]], side) for i in range(SHARD)])
    flux = snr * noise / np.sqrt((unit**2).sum(axis=(1, 2)))
    theta[:, 2] = ZEROPOINT - 2.5 * np.log10(flux)
    galaxy = flux[:, None, None] * unit
    sigma = np.sqrt(noise[:, None, None] ** 2 + np.maximum(galaxy, 0) / seconds[:, None, None])
    image = galaxy + theta[:, 7, None, None] + sigma * rng.standard_normal(sigma.shape)
    return {
        "image": image.astype(np.float32),
        "sigma": sigma.astype(np.float32),
        "theta": theta,
        "snr": snr,
        "psf": psf,
        "exposure": exposure,
    }


def _shard(data: dict[str, NDArray], name: str) -> Shard:
    psfs = np.stack([psf_image(kind) for kind in PSFS]).astype(np.float32)
    cutouts = hf.Cutouts(
        image=data["image"],
        sigma=data["sigma"],
        psf=psfs[data["psf"]],
        zeropoint=np.full(len(data["snr"]), ZEROPOINT),
        # a galaxy's draws depend on its id, so ids must differ
        id=[f"{name}-{i}" for i in range(len(data["snr"]))],
    )
    return Shard(cutouts, data["theta"], data["snr"], data["psf"], data["exposure"])


def _from_prior(rng: np.random.Generator, side: int) -> Array:
    """Draw (SHARD, 8) with size, index and shape from the package's prior, cut to `LIMITS`."""
    space = ParameterSpace(prior=Prior())
    kept: list[Array] = []
    while sum(map(len, kept)) < SHARD:
        whitened = torch.from_numpy(rng.standard_normal((SHARD, space.n_nonlinear)))
        coords, _ = space.from_whitened(
            whitened, space.constants(torch.ones(SHARD, 4, dtype=torch.float64))
        )
        linear = torch.ones(SHARD, space.n_linear, dtype=torch.float64)
        theta, _ = space.to_physical(coords, linear, torch.zeros(SHARD, dtype=torch.float64))
        drawn = theta.numpy()
        kept.append(drawn[inside(drawn) & (_sides(drawn[:, 3], rng) == side)])
    return np.concatenate(kept)[:SHARD]


def _sides(r_eff: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cutouts (n,) of galaxies: any of those that hold a random multiple of r_eff."""
    needed = r_eff * np.exp(rng.uniform(*np.log(FILL), len(r_eff)))
    first = np.minimum(np.searchsorted(ALL_SIDES, needed), len(ALL_SIDES) - 1)
    chosen = first + (rng.random(len(r_eff)) * (len(ALL_SIDES) - first)).astype(int)
    return np.array(ALL_SIDES)[chosen]


def _uniform(rng: np.random.Generator) -> Array:
    """Draw (SHARD, 8) uniform in n, q and ln r_eff."""
    theta = np.zeros((SHARD, len(NAMES)))
    theta[:, 3] = np.exp(rng.uniform(*np.log(LIMITS["r_eff"]), SHARD))
    theta[:, 4] = rng.uniform(*LIMITS["n"], SHARD)
    theta[:, 5] = rng.uniform(*LIMITS["q"], SHARD)
    theta[:, 6] = rng.uniform(0, 180, SHARD)
    return theta
