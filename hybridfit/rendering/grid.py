"""The fixed parts of rendering: Fourier grid, Hankel matrices and the PSF's transfer function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import fft, special
from torch import Tensor

LANCZOS = 30  # the PSF between its samples: GalSim's Lanczos(30), close to a sinc
# response at the Nyquist frequency below which a fit forgets aliasing: its error, 2e-4 of the
# peak, is below the noise up to a signal-to-noise ratio of 10,000, and it saves a third
WELL_SAMPLED = 1.5e-2
PIXEL_REACH = 6.0  # without a PSF between its pixels, only the pixel damps the high modes
CORE_WIDTH = 1.5  # pix along the minor axis: Gaussian scale of the window that holds the core
T_MAX = 5.6  # the window's edge in units of its scale: 4 exp(-T_MAX^2 / 2) = 6e-7
S_STEP = 0.0625  # step of the Hankel table in k times scale
N_NODES = 192


@dataclass(frozen=True)
class Grid:
    """Sizes and constant tensors shared by all galaxies of one padded shape.

    The core's modes reach somewhat beyond the sampling (Nyquist) frequency, and are folded back
    as sampling does; the smooth outer piece needs only the modes of the FFT.

    Args:
        height, width: of the stamp, pixels.
        rows, columns: of the FFT grid, at least the stamp plus half of the PSF.
        native: whether pixels beyond the core and sub-pixel shifts shall be GALFIT's, see
            `galfit_pixels`.
        x, y: (1, columns) and (rows, 1) pixel coordinates, the padding split to both sides.
        kx, ky: (K, 1) and (1, L) angular frequencies of the core's modes, radian / pix.
        phase_kx, phase_ky: the frequencies by which the centre moves the core: kx and ky, or as
            GALFIT has it the ones they fold to, so that the cusp stays on a pixel's centre.
        nodes: (N,) radii of the Hankel quadrature in units of the window's scale.
        hankel: (N, S) weights x 2 pi J0(s t) t, and ``hankel_slope`` with -J1(s t) t / s.
        ky_target: (L,) row of the FFT grid that each of the core's ky folds to.
        ky_flip: (L,) index of the opposite ky.
    """

    height: int
    width: int
    rows: int
    columns: int
    native: bool
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
        """(columns / 2 + 1, 1): those of kx that the FFT has itself."""
        return self.kx[: self.columns // 2 + 1]

    @property
    def inside_ky(self) -> Tensor:
        """(1, rows): those of ky that the FFT has itself."""
        return self.inside(self.ky)

    @property
    def folds(self) -> bool:
        """Whether there are modes beyond those of the FFT."""
        return self.kx.shape[0] > self.columns // 2 + 1

    def inside(self, modes: Tensor) -> Tensor:
        """Cut (..., K or 1, L) to the modes that the FFT has itself."""
        if not self.folds:
            return modes
        half = self.rows // 2
        modes = torch.cat([modes[..., :half], modes[..., -half:]], dim=-1)
        return modes[..., : self.columns // 2 + 1, :]


@lru_cache(maxsize=32)
def make_grid(
    height: int,
    width: int,
    psf_radius: int,
    reach: float,
    dtype: torch.dtype,
    device: torch.device,
    galfit: bool = False,
    native: bool = False,
) -> Grid:
    """Return the grid for a padded shape.

    Args:
        height, width: of the stamps, pixels.
        psf_radius: of the PSF image, in image pixels.
        reach: highest mode of the core in units of the Nyquist frequency, see `reach_of`.
        dtype, device: of the constant tensors.
        galfit: see ``phase_kx`` of `Grid`.
        native: see `Grid`.
    """
    rows, columns = (_fft_size(n, psf_radius) for n in (height, width))

    def coordinates(n: int, used: int) -> np.ndarray:
        index = np.arange(n)
        return np.where(index < used + (n - used + 1) // 2, index, index - n)

    x, y = coordinates(columns, width)[None, :], coordinates(rows, height)[:, None]
    top, last = (math.ceil(n / 2 * reach) for n in (rows, columns))
    # rows in FFT order: 0 ... top, -top ... -1; the FFT itself has its highest mode once
    row = np.concatenate([np.arange(top + (reach > 1)), np.arange(-top, 0)])
    nodes, hankel, slope = _hankel(72.0 if reach < 1.5 else 144.0)
    kx = 2 * np.pi / columns * np.arange(last + 1)[:, None]
    ky = 2 * np.pi / rows * row[None, :]
    phases = [k - 2 * np.pi * np.rint(k / (2 * np.pi)) if galfit else k for k in (kx, ky)]
    tensors = [
        torch.tensor(value, dtype=dtype, device=device)
        for value in (
            x,
            y,
            kx,
            ky,
            *phases,
            nodes,
            hankel,
            slope,
        )
    ]
    flip = (-np.arange(len(row))) % len(row)
    index = [torch.tensor(v, device=device) for v in (row % rows, flip)]
    return Grid(height, width, rows, columns, native, *tensors, *index)


def _fft_size(n: int, psf_radius: int) -> int:
    """Cutout plus room for the PSF's and the core's wings, rounded to a quick even FFT size."""
    size = n + max(16, min(psf_radius // 2, 32))
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


def transfer_function(
    psf: Tensor | None,
    oversampling: int,
    includes_pixel: Tensor,
    grid: Grid,
    batch: int,
    galfit: bool = False,
) -> Tensor:
    """Fourier transform of PSF and pixel on the core's modes.

    Args:
        psf: (B, h, w) odd sides, sum 1, or None.
        oversampling: PSF pixels per image pixel.
        includes_pixel: (B,) True where the PSF holds the pixel's response already.
        grid: of the stamps.
        batch: B, needed where there is no PSF.
        galfit: take the PSF for a sum over its pixels, not for samples of a smooth function.

    Returns:
        (B, 2, K, L): real and imaginary parts.
    """
    kx, ky = grid.kx, grid.ky
    pixel = torch.sinc(kx / (2 * math.pi)) * torch.sinc(ky / (2 * math.pi))
    if psf is None:
        transfer = pixel.to(torch.promote_types(kx.dtype, torch.complex64)).expand(batch, -1, -1)
        return torch.view_as_real(transfer).permute(0, 3, 1, 2).contiguous()
    transfer = _psf_modes(psf.to(kx.dtype), oversampling, grid)
    if not galfit:
        transfer = transfer * _between(oversampling, grid)
    transfer = torch.where(includes_pixel[:, None, None], transfer, transfer * pixel)
    return torch.view_as_real(transfer).permute(0, 3, 1, 2).contiguous()


def _between(oversampling: int, grid: Grid) -> Tensor:
    """Response of the interpolant between the PSF's samples on the core's modes, (K, L)."""
    kx, ky = grid.kx, grid.ky
    return _lanczos_response(kx / (2 * math.pi * oversampling)) * _lanczos_response(
        ky / (2 * math.pi * oversampling)
    )


def _psf_modes(psf: Tensor, oversampling: int, grid: Grid) -> Tensor:
    """Transform of the PSF's samples, its middle pixel at the origin, on the core's modes."""
    rows, columns = oversampling * grid.rows, oversampling * grid.columns
    height, width = psf.shape[-2:]
    iy = (torch.arange(height, device=psf.device) - height // 2) % rows
    ix = (torch.arange(width, device=psf.device) - width // 2) % columns
    # index_add: a PSF larger than the grid folds over, as the periodic transform asks
    image = psf.new_zeros(len(psf), rows, columns)
    wide = psf.new_zeros(len(psf), height, columns).index_add_(2, ix, psf)
    modes = torch.fft.rfft2(image.index_add_(1, iy, wide))
    # the samples' transform is periodic and Hermitian: read the modes beyond from those within
    row = torch.round(grid.ky[0] * (grid.rows / (2 * math.pi))).long()
    column = torch.arange(grid.kx.shape[0], device=psf.device) % columns
    mirrored = (column > columns // 2)[:, None]
    column = torch.where(mirrored[:, 0], columns - column, column)
    modes = modes.transpose(1, 2)[:, column]
    return torch.where(mirrored, modes[:, :, -row % rows].conj(), modes[:, :, row % rows])


@lru_cache(maxsize=1)
def _lanczos_table() -> tuple[np.ndarray, np.ndarray]:
    """Fourier transform of sinc(x) sinc(x / LANCZOS), |x| < LANCZOS, by quadrature."""
    x, step = np.linspace(0, LANCZOS, 128 * LANCZOS + 1, retstep=True)
    kernel = np.sinc(x) * np.sinc(x / LANCZOS)
    kernel[0] /= 2
    u = np.linspace(0.0, 0.7, 1401)
    response = 2 * step * np.cos(2 * np.pi * u[:, None] * x) @ kernel
    return u, response / response[0]


def _lanczos_response(u: Tensor) -> Tensor:
    """Response of the interpolant at u cycles per sample of the PSF; 0 well beyond 0.5."""
    grid, response = _lanczos_table()
    value = np.interp(np.abs(u.double().cpu().numpy()), grid, response, right=0.0)
    return torch.tensor(value, dtype=u.dtype, device=u.device)


def bandlimit_of(
    psf: Tensor | None,
    oversampling: int,
    well_sampled: float = WELL_SAMPLED,
    galfit: bool = False,
) -> float:
    """How far, in units of the Nyquist frequency, the core's modes must be followed.

    Args:
        psf: (B, h, w) or None.
        oversampling: PSF pixels per image pixel.
        galfit: whether the PSF is a sum over its pixels, see `transfer_function`.
        well_sampled: PSFs below this response at the Nyquist frequency do not count as aliasing.

    Returns:
        1 for PSFs that are well sampled, more for those that alias.
    """
    if psf is None or (galfit and oversampling == 1):
        return PIXEL_REACH
    if oversampling > 1:
        # finely sampled PSFs fall off long before their own Nyquist frequency
        return min(oversampling, 3) * (1 + 2 / LANCZOS)
    return 1.0 if bool((nyquist_power(psf) < well_sampled).all()) else 1 + 2 / LANCZOS


def grid_key(psf: Tensor | None, oversampling: Tensor) -> Tensor:
    """(B,) int64, the same for galaxies that may share a Fourier grid.

    These have one oversampling, and their PSFs alias all or none.
    """
    if psf is None:
        return oversampling * 2
    return oversampling * 2 + (nyquist_power(psf) >= WELL_SAMPLED).to(oversampling)


def nyquist_power(psf: Tensor) -> Tensor:
    """(B,) the PSF's largest response at the Nyquist frequency of either axis."""
    sign = [1 - 2 * (torch.arange(n, device=psf.device) % 2).to(psf.dtype) for n in psf.shape[-2:]]
    along_y = (psf.sum(dim=-1) * sign[0]).sum(dim=-1).abs()
    along_x = (psf.sum(dim=-2) * sign[1]).sum(dim=-1).abs()
    return torch.maximum(along_x, along_y)
