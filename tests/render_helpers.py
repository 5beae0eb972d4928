"""Truths to hold the renderer against: GalSim, and two quadratures that share nothing with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from scipy.signal import fftconvolve

from hybridfit.data.cutouts import Cutouts
from hybridfit.rendering.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Galaxy:
    """One Sersic galaxy of unit flux, in the project's conventions."""

    x: float
    y: float
    r_eff: float
    n: float
    q: float
    pa: float

    @property
    def theta(self) -> list[float]:
        """Physical parameters at zero point 0, without sky."""
        return [self.x, self.y, 0.0, self.r_eff, self.n, self.q, self.pa, 0.0]


def draw(rng: np.random.Generator, n: tuple[float, float], r_eff: tuple[float, float]) -> Galaxy:
    """A galaxy near the middle of a 128 x 128 stamp: n and r_eff log-uniform, q .1 to 1."""

    def log_uniform(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    x, y = 64 + rng.uniform(-0.5, 0.5, 2)
    size, index = log_uniform(*r_eff), log_uniform(*n)
    return Galaxy(x, y, size, index, rng.uniform(0.1, 1.0), rng.uniform(0.0, 180.0))


def stamps(
    shape: tuple[int, int], psf: Array | None, batch: int = 1, oversampling: int = 1, **more
) -> Cutouts:
    """Empty stamps with these PSFs."""
    image = np.zeros((batch, *shape), np.float32)
    return Cutouts(image=image, sigma=image + 1, psf=psf, psf_oversampling=oversampling, **more)


def rendered(
    galaxy: Galaxy,
    psf: Array | None,
    shape: tuple[int, int] = (128, 128),
    oversampling: int = 1,
    dtype: torch.dtype = torch.float32,
    **more,
) -> Array:
    """One galaxy by the public renderer."""
    theta = torch.tensor([galaxy.theta], dtype=torch.float64)
    cutouts = stamps(shape, psf, 1, oversampling, **more)
    return render(theta, cutouts, dtype=dtype)[0].double().numpy()


def errors(image: Array, truth: Array) -> tuple[float, float]:
    """max |d| / peak, and sum |d| / flux where the total flux is 1."""
    difference = np.abs(image - truth)
    return float(difference.max() / truth.max()), float(difference.sum())


# --- PSFs -----------------------------------------------------------------------------------


def gaussian_psf(sigma: float, half: int = 20, oversampling: int = 1) -> Array:
    """Samples of a round Gaussian, ``sigma`` in image pixels, ``half`` PSF pixels to each side."""
    x = np.arange(-half, half + 1) / oversampling
    line = np.exp(-0.5 * (x / sigma) ** 2)
    image = line[:, None] * line
    return image / image.sum()


def moffat_psf(
    fwhm: float, beta: float = 3.5, g1: float = 0.0, g2: float = 0.0, oversampling: int = 1
) -> Array:
    """Samples of a Moffat sheared by g1, g2, 41 image pixels wide, without the pixel."""
    half = 20 * oversampling
    y, x = np.mgrid[-half : half + 1, -half : half + 1] / oversampling
    # the area-preserving shear, turned round: from the image to the round profile
    norm = 1 / math.sqrt(1 - g1**2 - g2**2)
    u, v = norm * ((1 - g1) * x - g2 * y), norm * (-g2 * x + (1 + g1) * y)
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    image = (1 + (u**2 + v**2) / alpha2) ** -beta
    return image / image.sum()


# --- truths ---------------------------------------------------------------------------------


def by_galsim(
    galaxy: Galaxy, psf: Array, shape: tuple[int, int] = (128, 128), oversampling: int = 1
) -> Array:
    """GalSim, the PSF between its samples by Lanczos(30); its own kvalue_accuracy is 1e-6."""
    import galsim

    tight = galsim.GSParams(
        maximum_fft_size=32768, folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6
    )
    samples = galsim.Image(np.ascontiguousarray(psf), scale=1 / oversampling)
    point = galsim.InterpolatedImage(samples, x_interpolant=galsim.Lanczos(30), flux=1)
    r_circ = galaxy.r_eff * math.sqrt(galaxy.q)
    profile = galsim.Sersic(n=galaxy.n, half_light_radius=r_circ, gsparams=tight)
    profile = profile.shear(q=galaxy.q, beta=(galaxy.pa + 90) * galsim.degrees)
    height, width = shape
    moved = galsim.Convolve(profile, point, gsparams=tight).shift(
        galaxy.x - (width - 1) / 2, galaxy.y - (height - 1) / 2
    )
    return moved.drawImage(nx=width, ny=height, scale=1).array.astype(float)


def brightness(galaxy: Galaxy, x: Array, y: Array) -> Array:
    """The Sersic profile as Graham & Driver (2005) have it, written out anew."""
    b = special.gammaincinv(2 * galaxy.n, 0.5)
    angle = math.radians(galaxy.pa)
    dx, dy = x - galaxy.x, y - galaxy.y
    along = -dx * math.sin(angle) + dy * math.cos(angle)
    across = dx * math.cos(angle) + dy * math.sin(angle)
    radius = np.hypot(along, across / galaxy.q) / galaxy.r_eff
    n = galaxy.n
    norm = b ** (2 * n) / (2 * math.pi * n * special.gamma(2 * n) * galaxy.r_eff**2 * galaxy.q)
    return norm * np.exp(-b * radius ** (1 / n))


def by_fine_pixels(galaxy: Galaxy, psf: Array, shape: tuple[int, int] = (128, 128)) -> Array:
    """For galaxies without a cusp that are much larger than a pixel: 11 x 11 points in each."""
    height, width = shape
    margin, k = psf.shape[0] // 2, 11
    offset = (np.arange(k) - k // 2) / k
    y, x = np.mgrid[-margin : height + margin, -margin : width + margin].astype(float)
    image = np.mean([brightness(galaxy, x + a, y + b) for a in offset for b in offset], axis=0)
    return fftconvolve(image, psf, mode="same")[margin:-margin, margin:-margin]


def by_polar_quadrature(
    galaxy: Galaxy, sigma: float, shape: tuple[int, int], includes_pixel: bool = False
) -> Array:
    """Elliptical rings around the cusp, seen through a Gaussian PSF and the pixel exactly.

    The profile depends on the ring alone, so along the radius Gauss-Legendre in ln(radius)
    takes up any cusp, and around the ring the trapezoidal rule of a smooth periodic function
    converges exponentially. ``includes_pixel`` leaves the pixel out: it is in the PSF then.
    """
    height, width = shape
    farthest = math.hypot(height, width) / 2 + 8 * sigma + 4
    angle = math.radians(galaxy.pa)
    edges = np.concatenate(  # of the semi-major axis, pixels
        [np.geomspace(1e-12, 0.3, 12), np.arange(0.6, farthest / galaxy.q + sigma, sigma)]
    )
    node, weight = np.polynomial.legendre.leggauss(6)
    image = np.zeros(shape)
    step = 0.9 * sigma  # pixels between points of a ring: leaves exp(-24) of the kernel
    x, y = np.arange(width), np.arange(height)
    b = special.gammaincinv(2 * galaxy.n, 0.5)
    for low, high in pairwise(edges):
        log = 0.5 * (math.log(high / low) * node + math.log(low * high))
        radius = np.exp(log)
        area = 2 * math.pi * radius**2 * galaxy.q * 0.5 * math.log(high / low) * weight
        light = _radial(galaxy, radius, b) * area
        if light.sum() < 1e-12:
            continue
        count = max(24, math.ceil(2 * math.pi * high / step))
        phi = 2 * math.pi * (np.arange(count) + 0.5) / count
        u = radius[:, None] * np.cos(phi)  # along the major axis
        v = galaxy.q * radius[:, None] * np.sin(phi)
        px = galaxy.x - u * math.sin(angle) + v * math.cos(angle)
        py = galaxy.y + u * math.cos(angle) + v * math.sin(angle)
        near = (np.abs(px - width / 2) < width / 2 + 8 * sigma) & (
            np.abs(py - height / 2) < height / 2 + 8 * sigma
        )
        each = np.broadcast_to((light / count)[:, None], px.shape)[near]
        along_x = _kernel(x - px[near][:, None], sigma, includes_pixel)
        along_y = _kernel(y - py[near][:, None], sigma, includes_pixel)
        image += (along_y * each[:, None]).T @ along_x
    return image


def _radial(galaxy: Galaxy, radius: Array, b: float) -> Array:
    n = galaxy.n
    norm = b ** (2 * n) / (2 * math.pi * n * special.gamma(2 * n) * galaxy.r_eff**2 * galaxy.q)
    return norm * np.exp(-b * (radius / galaxy.r_eff) ** (1 / n))


def _kernel(distance: Array, sigma: float, includes_pixel: bool) -> Array:
    if includes_pixel:
        return np.exp(-0.5 * (distance / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)
    high, low = (distance + 0.5) / sigma, (distance - 0.5) / sigma
    return special.ndtr(high) - special.ndtr(low)


def by_pixel_quadrature(galaxy: Galaxy, shape: tuple[int, int]) -> Array:
    """Without a PSF: each pixel by Gauss-Legendre, halved towards the cusp until it is smooth."""
    height, width = shape
    y, x = (v.ravel().astype(float) for v in np.mgrid[:height, :width])
    pixel, half = np.arange(height * width), 0.5
    node, weight = np.polynomial.legendre.leggauss(8)
    image = np.zeros(height * width)
    for depth in range(34):
        distance = np.hypot(x - galaxy.x, y - galaxy.y)
        # the profile varies over q times the distance from the cusp
        smooth = (half * 3 < galaxy.q * distance) | (depth == 33)
        done = np.flatnonzero(smooth)
        if len(done):
            px = x[done, None, None] + half * node[None, None, :]
            py = y[done, None, None] + half * node[None, :, None]
            f = brightness(galaxy, px, py)
            np.add.at(image, pixel[done], half**2 * np.einsum("pij,i,j->p", f, weight, weight))
        x, y, pixel = x[~smooth], y[~smooth], pixel[~smooth]
        half /= 2
        x = np.concatenate([x + a * half for a in (-1, 1) for _ in (-1, 1)])
        y = np.concatenate([y + b * half for _ in (-1, 1) for b in (-1, 1)])
        pixel = np.tile(pixel, 4)
        if len(pixel) == 0:
            break
    return image.reshape(shape)
