"""Galaxies of bulge + disk drawn from the prior that the fit uses, as `bulge_disk.load` has them.

Intervals of such galaxies contain the truth as often as they say if, and only if, the posteriors
are sampled correctly: no choice of the prior can help or harm (Cook, Gelman & Rubin 2006). The
prior of sizes is narrower than the default one, so that most galaxies are in their cutouts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.fitting.options import FitOptions
from hybridfit.model.prior import Prior
from hybridfit.model.scene_values import scene_values
from hybridfit.rendering.render import render

Array = NDArray[np.float64]

PRIOR = Prior().updated({"r_circ": {"median": 6.0, "sigma": 0.4, "low": 3.0, "high": 15.0}})
SIDE = 96  # pix
ZEROPOINT = 22.5
SNR = (100.0, 1000.0)
FWHM = (2.2, 4.5)  # pix, of Moffat PSFs
BETA, PSF_SIDE = 3.0, 41


def drawn(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return the arrays of so many galaxies, with the truths' names of ``scenes/bd.npz``."""
    random = np.random.default_rng(seed)
    fwhm = random.uniform(*FWHM, count)
    psf = np.stack([moffat(width) for width in fwhm])
    flat = np.zeros((count, SIDE, SIDE))
    cutouts = hf.Cutouts(image=flat, sigma=flat + 1, psf=psf, zeropoint=np.full(count, ZEROPOINT))
    share = random.uniform(0, 1, count)
    theta = from_prior(share, random)
    options = FitOptions("bulge+disk", prior=PRIOR)
    snr = np.exp(random.uniform(np.log(SNR[0]), np.log(SNR[1]), count))

    def image(values: Array) -> Array:
        return render(
            torch.from_numpy(values), cutouts, options.space, options.profiles, torch.float64
        ).numpy()

    mags = [options.space.names.index(f"{part}_mag") for part in ("bulge", "disk")]
    now = np.sqrt((image(theta) ** 2).sum(axis=(1, 2)))
    theta[:, mags] -= 2.5 * np.log10(snr / now)[:, None]
    data = image(theta) + random.standard_normal(flat.shape)
    named = dict(zip(options.space.names, theta.T, strict=True))
    flux = sum(10 ** (-0.4 * named[f"{part}_mag"]) for part in ("bulge", "disk"))
    return {
        "data": data,
        "sigma": flat + 1,
        "psf": psf,
        "t_snr": snr,
        "t_bt": share,
        "t_mag": -2.5 * np.log10(flux),
        "t_n_b": named["bulge_n"],
        "t_x": named["bulge_x"],
        "t_y": named["bulge_y"],
        **{f"t_re_{p[0]}": named[f"{p}_r_eff"] for p in ("bulge", "disk")},
        **{f"t_q_{p[0]}": named[f"{p}_q"] for p in ("bulge", "disk")},
        **{f"t_pa_{p[0]}": named[f"{p}_pa"] + 90 for p in ("bulge", "disk")},
    }


def from_prior(share: Array, random: np.random.Generator) -> Array:
    """Return physical values (B, Q) of draws of the prior, with centres near the middle."""
    values = scene_values([FitOptions("bulge+disk").scene], PRIOR)[[0] * len(share)]
    space, half = values.space, torch.ones(len(share), dtype=torch.float64)
    middle = torch.full((len(share), 2), (SIDE - 1) / 2, dtype=torch.float64)
    start = torch.ones(len(share), len(space.names), dtype=torch.float64)
    constants = values.constants(start, ZEROPOINT * half, middle, half, half)
    whitened = torch.from_numpy(random.standard_normal((len(share), space.n_nonlinear)))
    coords, _ = space.from_whitened(whitened, constants)
    linear = torch.from_numpy(np.stack([share, 1 - share, 0 * share], axis=1))
    return space.to_physical(coords, linear, ZEROPOINT * half)[0].numpy()


def moffat(fwhm: float) -> Array:
    """Return a PSF (H, W) of sum 1, sampled at the pixels' middles."""
    axis = np.arange(PSF_SIDE) - PSF_SIDE // 2
    square = axis**2 + axis[:, None] ** 2
    scale = fwhm / 2 / np.sqrt(2 ** (1 / BETA) - 1)
    image = (1 + square / scale**2) ** -BETA
    return np.asarray(image / image.sum())
