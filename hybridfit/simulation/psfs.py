"""PSFs as surveys have them: many shapes, elliptical, a few lopsided, real ones from files."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import special
from torch import Tensor

from hybridfit.files.fits import open_fits
from hybridfit.simulation.random_numbers import Random, Range, per_image, turned_images

SIGMA = 1 / math.sqrt(8 * math.log(2))  # of a Gaussian, in units of its FWHM
FAMILIES = ("moffat", "gaussian", "kolmogorov", "airy", "double")


def draw_psfs(
    n: int, random: Random, size: int, fwhm: Range, weights: tuple[float, ...], ellipticity: float
) -> Tensor:
    """Draw PSFs without the pixel's response, centred on the middle pixel but for a few.

    Args:
        n: how many.
        random: numbers.
        size: pixels a side, odd.
        fwhm: pixels, log-uniform.
        weights: of `FAMILIES`.
        ellipticity: largest 1 - q; most are much rounder.

    Returns:
        (n, size, size) float32, each sums to 1.
    """
    width = random.log_uniform(fwhm, n)
    family = random.one_of(weights, n)
    x, rho = _elliptical_radius(n, random, size, ellipticity)
    image = torch.empty_like(rho)
    for i, name in enumerate(FAMILIES):
        rows = (family == i).nonzero()[:, 0]
        if len(rows):
            image[rows] = _PROFILES[name](rho[rows], width[rows], random)
    # coma: light moved to one side within about two FWHM
    lopsided = random.chance(0.05, n) * random.uniform((0.05, 0.2), n)
    tilt = x * torch.exp(-0.125 * (rho / per_image(width)) ** 2) / per_image(width)
    return normalised(image * (1 + per_image(lopsided) * tilt))


def normalised(psf: Tensor) -> Tensor:
    """PSFs (B, h, w) without negative pixels, each with sum 1."""
    psf = psf.clamp_min(0.0)
    return psf / psf.sum(dim=(-2, -1), keepdim=True)


def fwhm_of(psf: Tensor, finer: int = 4) -> Tensor:
    """(B,) FWHM in pixels: of the disc as large as the area above half of the maximum."""
    middle, half = psf.shape[-1] // 2, min(psf.shape[-1] // 2, 15)
    cut = psf[:, None, middle - half : middle + half + 1, middle - half : middle + half + 1]
    # the logarithm of a PSF is close to a parabola, which the cubic follows
    log = torch.log(cut.clamp_min(1e-3 * cut.amax(dim=(-2, -1), keepdim=True)))
    fine = torch.nn.functional.interpolate(
        log, scale_factor=finer, mode="bicubic", align_corners=False
    )[:, 0]
    above = fine > fine.amax(dim=(-2, -1), keepdim=True) - math.log(2)
    return 2 * torch.sqrt(above.sum(dim=(-2, -1)).double() / (math.pi * finer**2))


def read_psfs(folder: str, size: int, device: torch.device) -> Tensor:
    """PSFs of the FITS files in a folder, cut or padded to ``size`` around their peaks.

    Where some files have "psf" in their names, as among cutouts, only these are read; of each
    the first image.

    Raises:
        ValueError: if there is no PSF in the folder, or one has no light.
    """
    paths = sorted(p for p in Path(folder).glob("*.fit*") if p.is_file())
    if not paths:
        raise ValueError(f"psf_files '{folder}' holds no FITS file, expected at least one PSF")
    paths = [path for path in paths if "psf" in path.name.lower()] or paths
    return torch.stack([_read_psf(path, size) for path in paths]).to(device)


def _read_psf(path: Path, size: int) -> Tensor:
    with open_fits(path) as file:
        planes = [hdu.data for hdu in file if hdu.is_image and np.ndim(hdu.data) == 2]
    if not planes:
        raise ValueError(f"{path.name} holds no image, expected a PSF of two dimensions")
    plane = np.nan_to_num(np.asarray(planes[0], dtype=np.float32))
    if not plane.sum() > 0:
        raise ValueError(f"{path.name} sums to {plane.sum()}, expected a PSF with light in it")
    row, column = np.unravel_index(int(plane.argmax()), plane.shape)
    padded = np.pad(plane, size)
    cut = padded[
        row + size - size // 2 : row + size + size // 2 + 1,
        column + size - size // 2 : column + size + size // 2 + 1,
    ]
    return normalised(torch.from_numpy(cut.copy())[None])[0]


def mixed_with_real(psf: Tensor, real: Tensor, share: float, random: Random) -> Tensor:
    """Put real PSFs, mirrored and turned at random, in the place of a share of the drawn ones."""
    n = len(psf)
    chosen = turned_images(real[random.integers(len(real), n)], random.integers(8, n))
    return torch.where(random.chance(share, n)[:, None, None], chosen, psf)


def _elliptical_radius(
    n: int, random: Random, size: int, ellipticity: float
) -> tuple[Tensor, Tensor]:
    """Coordinate along the major axis of random ellipses, and their radius, (n, size, size)."""
    half = size // 2
    index = torch.arange(-half, half + 1, dtype=torch.float32, device=random.device)
    angle = random.uniform((0, math.pi), n)
    q = 1 - ellipticity * random.uniform((0, 1), n) ** 2
    shift = per_image(random.chance(0.05, n) * random.uniform((0, 0.3), n))  # pix, off centre
    cos, sin = per_image(torch.cos(angle)), per_image(torch.sin(angle))
    x = cos * index + sin * index[:, None] - shift
    y = cos * index[:, None] - sin * index
    stretch = per_image(q)
    return x, torch.sqrt(x**2 * stretch + y**2 / stretch)


def _gaussian(rho: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    return torch.exp(-0.5 * (rho / per_image(SIGMA * fwhm)) ** 2)


def _moffat(rho: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    beta = random.uniform((2.0, 5.0), len(rho))
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    return torch.exp(-per_image(beta) * torch.log1p(rho**2 / per_image(alpha2)))


def _kolmogorov(rho: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    step, table = _kolmogorov_table()
    values = torch.tensor(table, dtype=torch.float32, device=rho.device)
    place = (torch.log1p(rho / per_image(fwhm)) / step).clamp_max(len(table) - 1.001)
    i = place.long()
    low = values[i]
    return torch.exp(low + (place - i) * (values[i + 1] - low))


@lru_cache(maxsize=1)
def _kolmogorov_table() -> tuple[float, np.ndarray]:
    """ln of the long-exposure atmosphere's PSF, the transform of exp(-k^(5/3)).

    At equal steps of ln(1 + r / FWHM), up to 30 FWHM.
    """
    k = np.linspace(0.0, 9.0, 9001)
    weight = k * np.exp(-(k ** (5 / 3)))
    fine = np.linspace(0.0, 4.0, 401)
    core = special.j0(fine[:, None] * k) @ weight
    fwhm = 2 * np.interp(-core[0] / 2, -core, fine)
    step, count = math.log1p(30.0) / 255, 256
    radius = np.expm1(step * np.arange(count))  # in units of the FWHM
    inside = np.minimum(radius, 5.0)
    core = special.j0(fwhm * inside[:, None] * k) @ weight / core[0]
    # the sum loses its digits in the wings, but they follow r^(-11/3) to a per cent there
    return step, np.log(core) - 11 / 3 * np.log(np.maximum(radius / 5.0, 1.0))


def _airy(rho: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """Diffraction of an aperture with a central obscuration, blurred by a Gaussian."""
    n = len(rho)
    hole = per_image(random.uniform((0.1, 0.5), n))
    sharp = (fwhm * random.uniform((0.7, 0.97), n)).clamp_min(1.4)
    # the FWHM is 1.03 lambda / D, and less with a hole: .97 at .3, .9 at .5
    angle = rho * per_image(math.pi * 1.03 / sharp) * (1 - 0.5 * hole**2)

    def jinc(z: Tensor) -> Tensor:
        z = z.clamp_min(1e-3)
        return 2 * torch.special.bessel_j1(z) / z

    image = (jinc(angle) - hole**2 * jinc(hole * angle)) ** 2
    sigma = SIGMA * torch.sqrt((fwhm**2 - sharp**2).clamp_min(0.0))
    return _blurred(image, sigma)


def _blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Convolve (B, S, S) with round Gaussians of ``sigma`` (B,) pixels."""
    side = image.shape[-1] + 3
    fy = torch.fft.fftfreq(side, device=image.device)[:, None]
    fx = torch.fft.rfftfreq(side, device=image.device)
    response = torch.exp(-2 * math.pi**2 * per_image(sigma) ** 2 * (fx**2 + fy**2))
    modes = torch.fft.rfft2(image, s=(side, side)) * response
    return torch.fft.irfft2(modes, s=(side, side))[:, : image.shape[-1], : image.shape[-1]]


def _double(rho: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """A core and wide wings, each a Moffat or a Gaussian."""
    n = len(rho)
    share = per_image(random.uniform((0.05, 0.4), n))
    wide = fwhm * random.uniform((1.5, 3.5), n)
    parts = []
    for width in (fwhm, wide):
        is_moffat = random.chance(0.5, n)[:, None, None]
        part = torch.where(is_moffat, _moffat(rho, width, random), _gaussian(rho, width, random))
        parts.append(part / part.sum(dim=(-2, -1), keepdim=True))
    return (1 - share) * parts[0] + share * parts[1]


_PROFILES: dict[str, Callable[[Tensor, Tensor, Random], Tensor]] = {
    "moffat": _moffat,
    "gaussian": _gaussian,
    "kolmogorov": _kolmogorov,
    "airy": _airy,
    "double": _double,
}
