"""Stamps of overlapping sources of known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fit_helpers import ZEROPOINT, Array, observe

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.build_problem import profiles_of
from hybridfit.fitting.options import FitOptions

SIDE = 64


def source(
    x: float, y: float, mag: float = 20.0, r_eff: float = 3.0, n: float = 1.5, q: float = 0.7
) -> list[float]:
    """Values of one Sersic profile, relative to the middle of the cutout."""
    middle = (SIDE - 1) / 2
    return [middle + x, middle + y, mag, r_eff, n, q, 40.0]


def scenes(*sources: list[float], snr: float = 150.0, count: int = 1, seed: int = 0, **more):
    """``count`` noisy cutouts of the same sources, and the truth (count, 7 M + 1) with the sky."""
    space = FitOptions("+".join(["sersic"] * len(sources))).space
    theta = np.tile([*np.concatenate(sources), 0.0], (count, 1))
    profiles = profiles_of(space)
    return observe(theta, snr, (SIDE, SIDE), seed=seed, space=space, profiles=profiles, **more)


def with_star(cutouts: Cutouts, x: float, y: float, mag: float) -> Cutouts:
    """Add a star at x, y pixels from the middle."""
    import galsim

    psf = np.asarray(cutouts.psf[0] if cutouts.psf.ndim == 3 else cutouts.psf, dtype=float)
    image = galsim.InterpolatedImage(galsim.Image(psf, scale=1.0), x_interpolant="lanczos30")
    star = galsim.Convolve(image, galsim.Pixel(1.0)).withFlux(10 ** (0.4 * (ZEROPOINT - mag)))
    drawn = star.shift(x, y).drawImage(nx=SIDE, ny=SIDE, scale=1.0, method="no_pixel").array
    return replace(cutouts, image=cutouts.image + torch.tensor(drawn.astype(np.float32)))


def close(found: Array, truth: Array, by: float) -> bool:
    """Whether positions agree within ``by`` pixels."""
    return bool(np.hypot(*(np.asarray(found)[..., :2] - np.asarray(truth)[..., :2]).T).max() < by)
