"""The fixed parts of rendering: the Fourier grid and the Hankel matrices of the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import fft, special
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.rendering.convolution import (
    CONTINUOUS,
    WELL_SAMPLED,
    Convolution,
    nyquist_power,
)

NO_PSF_RADIUS = 8  # pixels of padding without a PSF
PADDING = 16  # pixels, at least
CORE_WIDTH = 1.5  # pix along the minor axis: Gaussian scale of the window that holds the core
T_MAX = 5.6  # the window's edge in units of its scale: 4 exp(-T_MAX^2 / 2) = 6e-7
S_STEP = 0.0625  # step of the Hankel table in k times scale
N_NODES = 192


@dataclass(frozen=True)
class Grid:
    """Sizes and constant tensors shared by all galaxies of one padded shape.

    The core's modes extend somewhat beyond the Nyquist frequency, and are folded back as by
    sampling; the smooth outer piece needs only the modes of the FFT.

    Args:
        height, width: of the cutout, pixels.
        rows, columns: of the FFT grid, at least the cutout plus half of the PSF.
        convolution: how PSFs are convolved on this grid.
        galfit_pixels: whether pixels beyond the core and sub-pixel shifts follow GALFIT, see
            `hybridfit.rendering.galfit_pixels`.
        x, y: (1, columns) and (rows, 1) pixel coordinates, the padding split to both sides.
        kx, ky: (K, 1) and (1, L) angular frequencies of the core's modes, radian / pix.
        phase_kx, phase_ky: the frequencies with which the centre shifts the core: kx and ky, or
            in GALFIT's case those they fold to, so that the cusp stays on a pixel's centre.
        nodes: (N,) radii of the Hankel quadrature in units of the window's scale.
        hankel: (N, S) weights x 2 pi J0(s t) t, and ``hankel_slope`` with -J1(s t) t / s.
        ky_target: (L,) row of the FFT grid that each of the core's ky folds to.
        ky_flip: (L,) index of the opposite ky.
    """

    height: int
    width: int
    rows: int
    columns: int
    convolution: Convolution
    galfit_pixels: bool
    x: Tensor
    y: Tensor
    kx: Tensor
    ky: Tensor
    phase_kx: Tensor
    phase_ky: Tensor
    nodes: Tensor
    hankel: Tensor
    hankel_slope: Tensor
    ky_target: Tensor
    ky_flip: Tensor

    @property
    def inside_kx(self) -> Tensor:
        """(columns / 2 + 1, 1): the kx of the FFT itself."""
        return self.kx[: self.columns // 2 + 1]

    @property
    def inside_ky(self) -> Tensor:
        """(1, rows): the ky of the FFT itself."""
        return self.inside(self.ky)

    @property
    def folds(self) -> bool:
        """Whether there are modes beyond those of the FFT."""
        return self.kx.shape[0] > self.columns // 2 + 1

    def inside(self, modes: Tensor) -> Tensor:
        """Crop (..., K or 1, L) to the modes of the FFT itself."""
        if not self.folds:
            return modes
        half = self.rows // 2
        modes = torch.cat([modes[..., :half], modes[..., -half:]], dim=-1)
        return modes[..., : self.columns // 2 + 1, :]


def _pixels(n: int, used: int) -> np.ndarray:
    """Return (n,) pixel coordinates on a periodic axis whose first ``used`` pixels are an image."""
    index = np.arange(n)
    return np.where(index < used + (n - used + 1) // 2, index, index - n)


@lru_cache(maxsize=32)
def make_grid(
    height: int,
    width: int,
    psf_radius: int,
    bandlimit: float,
    dtype: torch.dtype,
    device: torch.device,
    convolution: Convolution = CONTINUOUS,
    galfit_pixels: bool = False,
    padding: int = PADDING,
) -> Grid:
    """Return the grid for a padded shape.

    Args:
        height, width: of the cutouts, pixels.
        psf_radius: of the PSF image, in image pixels.
        bandlimit: highest mode of the core in units of the Nyquist frequency, see
            `Convolution.bandlimit`.
        dtype, device: of the constant tensors.
        convolution, galfit_pixels: see `Grid`.
        padding: least number of pixels between the periodic images of a cutout.
    """
    rows, columns = (_fft_size(n, psf_radius, padding) for n in (height, width))
    x, y = _pixels(columns, width)[None, :], _pixels(rows, height)[:, None]
    top, last = (math.ceil(n / 2 * bandlimit) for n in (rows, columns))
    # rows in FFT order: 0 ... top, -top ... -1; the FFT itself has its highest mode once
    row = np.concatenate([np.arange(top + (bandlimit > 1)), np.arange(-top, 0)])
    nodes, hankel, slope = _hankel(72.0 if bandlimit < 1.5 else 144.0)
    kx = 2 * np.pi / columns * np.arange(last + 1)[:, None]
    ky = 2 * np.pi / rows * row[None, :]
    phases = [convolution.phase_frequencies(k) for k in (kx, ky)]
    tensors = [
        torch.tensor(value, dtype=dtype, device=device)
        for value in (x, y, kx, ky, *phases, nodes, hankel, slope)
    ]
    flip = (-np.arange(len(row))) % len(row)
    index = [torch.tensor(v, device=device) for v in (row % rows, flip)]
    return Grid(height, width, rows, columns, convolution, galfit_pixels, *tensors, *index)


def fourier_grid(
    shape: Sequence[int],
    psf: Tensor | None,
    oversampling: int,
    dtype: torch.dtype,
    device: torch.device,
    convolution: Convolution = CONTINUOUS,
    well_sampled: float = WELL_SAMPLED,
) -> Grid:
    """Return the grid for galaxies of one padded shape whose PSFs have one oversampling.

    Args:
        shape: height and width of the cutouts, pixels.
        psf: (B, h, w), or None without convolution.
        oversampling: PSF pixels per image pixel.
        dtype, device: of the grid's tensors.
        convolution: how PSFs are convolved.
        well_sampled: see `Convolution.bandlimit`.
    """
    height, width = shape
    limit = convolution.bandlimit(psf, oversampling, well_sampled)
    if psf is None:
        return make_grid(height, width, NO_PSF_RADIUS, limit, dtype, device)
    radius = max(psf.shape[-2:]) // 2 // oversampling
    native = convolution.galfit and oversampling == 1
    return make_grid(height, width, radius, limit, dtype, device, convolution, native)


def grid_of(
    cutouts: Cutouts,
    dtype: torch.dtype,
    convolution: Convolution = CONTINUOUS,
    shape: Sequence[int] | None = None,
    well_sampled: float = WELL_SAMPLED,
) -> Grid:
    """Return the grid for cutouts that share one PSF oversampling, see `fourier_grid`.

    Args:
        cutouts: B galaxies.
        dtype: of the grid's tensors, which are on the cutouts' device.
        convolution, well_sampled: as there.
        shape: height and width of windows instead of those of the cutouts.
    """
    return fourier_grid(
        cutouts.image.shape[-2:] if shape is None else shape,
        cutouts.psf,
        int(cutouts.psf_oversampling[0]),
        dtype,
        cutouts.image.device,
        convolution,
        well_sampled,
    )


def grid_key(psf: Tensor | None, oversampling: Tensor) -> Tensor:
    """Return (B,) int64, equal for galaxies that may share a Fourier grid.

    These have the same oversampling, and either all or none of their PSFs alias.
    """
    if psf is None:
        return oversampling * 2
    return oversampling * 2 + (nyquist_power(psf) >= WELL_SAMPLED).to(oversampling)


def _fft_size(n: int, psf_radius: int, padding: int) -> int:
    """Return cutout plus padding for the wings of PSF and core, rounded to a fast even FFT size."""
    size = n + max(padding, min(psf_radius // 2, 32))
    while size % 2 or fft.next_fast_len(size, real=True) != size:
        size += 1
    return size


@lru_cache(maxsize=2)
def _hankel(s_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Legendre in y with t = T_MAX y^3, dense at the cusp of high Sersic indices."""
    nodes = N_NODES if s_max < 100 else 2 * N_NODES
    y, weight = np.polynomial.legendre.leggauss(nodes)
    y, weight = (y + 1) / 2, weight / 2
    t = T_MAX * y**3
    measure = 2 * np.pi * t * weight * 3 * T_MAX * y**2
    s = np.arange(0.0, s_max + S_STEP, S_STEP)
    z = t[:, None] * s[None, :]
    # J1(z) / z is entire; its limit 1/2 stands at z = 0
    j1_over_z = np.where(z > 1e-6, special.j1(z) / np.maximum(z, 1e-6), 0.5)
    hankel = measure[:, None] * special.j0(z)
    slope = -measure[:, None] * t[:, None] ** 2 * j1_over_z
    return t, hankel, slope
