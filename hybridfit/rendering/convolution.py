"""Convolution strategies: how the samples of a PSF act on the Fourier modes of an image.

`Continuous` treats the PSF as samples of a smooth function. `GalfitConvolution` treats it as a sum
over its pixels and moves a profile's cusp to the centre of a pixel, as GALFIT does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

LANCZOS = 30  # the PSF between its samples: GalSim's Lanczos(30), close to a sinc
# response at the Nyquist frequency below which a fit ignores aliasing: the error, 2e-4 of the peak,
# is below the noise up to a signal-to-noise ratio of 10,000, and this saves a third
WELL_SAMPLED = 1.5e-2
PIXEL_BANDLIMIT = 6.0  # if only the pixel response damps the high modes


@dataclass(frozen=True)
class Convolution(ABC):
    """A way to convolve with a PSF; strategies are stateless, comparable and hashable."""

    name: ClassVar[str]
    galfit: ClassVar[bool]  # whether pixels follow GALFIT, for callers that must know

    def bandlimit(
        self, psf: Tensor | None, oversampling: int, well_sampled: float = WELL_SAMPLED
    ) -> float:
        """Return the highest mode needed for a core, in units of the Nyquist frequency.

        Args:
            psf: (B, h, w) or None.
            oversampling: PSF pixels per image pixel.
            well_sampled: PSFs below this response at the Nyquist frequency count as well sampled.

        Returns:
            1 for well-sampled PSFs, more for those that alias.
        """
        if psf is None:
            return PIXEL_BANDLIMIT
        if oversampling > 1:
            # finely sampled PSFs fall off well below their own Nyquist frequency
            return min(oversampling, 3) * (1 + 2 / LANCZOS)
        return self._native_bandlimit(psf, well_sampled)

    @abstractmethod
    def _native_bandlimit(self, psf: Tensor, well_sampled: float) -> float:
        """Return `bandlimit` of PSFs with one sample per pixel."""

    @abstractmethod
    def between_samples(self, modes: Tensor, kx: Tensor, ky: Tensor, oversampling: int) -> Tensor:
        """Return modes (B, K, L) of a PSF's samples, damped by the interpolation between samples.

        Args:
            modes: (B, K, L), complex.
            kx, ky: (K, 1) and (1, L) angular frequencies, radian / pix.
            oversampling: PSF pixels per image pixel.
        """

    @abstractmethod
    def phase_frequencies(self, k: np.ndarray) -> np.ndarray:
        """Return the phase frequencies with which the centre shifts a core's modes."""


@dataclass(frozen=True)
class Continuous(Convolution):
    """The PSF is a smooth function, sampled at its pixels."""

    name = "continuous"
    galfit = False

    def _native_bandlimit(self, psf: Tensor, well_sampled: float) -> float:
        return 1.0 if bool((nyquist_power(psf) < well_sampled).all()) else 1 + 2 / LANCZOS

    def between_samples(self, modes: Tensor, kx: Tensor, ky: Tensor, oversampling: int) -> Tensor:
        """Multiply by the response of the interpolant between the samples."""
        cycles = (k / (2 * math.pi * oversampling) for k in (kx, ky))
        along_x, along_y = (_lanczos_response(u) for u in cycles)
        return modes * (along_x * along_y)

    def phase_frequencies(self, k: np.ndarray) -> np.ndarray:
        """Return the modes' own: the centre may lie anywhere in a pixel."""
        return k


@dataclass(frozen=True)
class GalfitConvolution(Convolution):
    """The PSF is a sum over its pixels, and the cusp stays on the centre of a pixel."""

    name = "galfit"
    galfit = True

    def _native_bandlimit(self, psf: Tensor, well_sampled: float) -> float:
        return PIXEL_BANDLIMIT

    def between_samples(self, modes: Tensor, kx: Tensor, ky: Tensor, oversampling: int) -> Tensor:
        """Return the modes unchanged: there is nothing between the samples."""
        return modes

    def phase_frequencies(self, k: np.ndarray) -> np.ndarray:
        """Return the frequencies that modes fold to."""
        return k - 2 * np.pi * np.rint(k / (2 * np.pi))


CONTINUOUS = Continuous()
STRATEGIES: dict[str, Convolution] = {s.name: s for s in (CONTINUOUS, GalfitConvolution())}


def convolution_of(name: str) -> Convolution:
    """Return the strategy named by `FitOptions.convolution`."""
    if name not in STRATEGIES:
        raise ValueError(f"convolution is '{name}', expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def nyquist_power(psf: Tensor) -> Tensor:
    """Return (B,) the PSF's largest response at the Nyquist frequency of either axis."""
    sign = [1 - 2 * (torch.arange(n, device=psf.device) % 2).to(psf.dtype) for n in psf.shape[-2:]]
    along_y = (psf.sum(dim=-1) * sign[0]).sum(dim=-1).abs()
    along_x = (psf.sum(dim=-2) * sign[1]).sum(dim=-1).abs()
    return torch.maximum(along_x, along_y)


@lru_cache(maxsize=1)
def _lanczos_table() -> tuple[np.ndarray, np.ndarray]:
    """Return the Fourier transform of sinc(x) sinc(x / LANCZOS), |x| < LANCZOS, by quadrature."""
    x, step = np.linspace(0, LANCZOS, 128 * LANCZOS + 1, retstep=True)
    kernel = np.sinc(x) * np.sinc(x / LANCZOS)
    kernel[0] /= 2
    u = np.linspace(0.0, 0.7, 1401)
    response = 2 * step * np.cos(2 * np.pi * u[:, None] * x) @ kernel
    return u, response / response[0]


def _lanczos_response(u: Tensor) -> Tensor:
    """Return the interpolant's response at u cycles per PSF sample; 0 well beyond 0.5."""
    grid, response = _lanczos_table()
    value = np.interp(np.abs(u.double().cpu().numpy()), grid, response, right=0.0)
    return torch.tensor(value, dtype=u.dtype, device=u.device)
