"""Simulated galaxies of known truth for the tests of fitting."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from render_helpers import moffat_psf

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile
from hybridfit.rendering.convolution import CONTINUOUS, Convolution
from hybridfit.rendering.render import render

Array = NDArray[np.float64]
ZEROPOINT = 25.0


def observe(
    theta: Array,
    snr: float | Array,
    shape: tuple[int, int] = (48, 48),
    seed: int = 0,
    space: ParameterSpace | None = None,
    profiles: tuple[Profile, ...] | None = None,
    convolution: Convolution = CONTINUOUS,
    **more,
) -> tuple[Cutouts, Array]:
    """Noisy cutouts of physical parameters (B, Q) and the truth.

    Sigma is 1 everywhere; every ``mag`` is set so that sqrt(sum model^2) of the galaxy, the
    sky aside, is ``snr``. There is a PSF unless ``more`` has one, or None.
    """
    space = space or ParameterSpace()
    truth = np.array(theta, dtype=float)
    n = len(truth)
    more.setdefault("psf", moffat_psf(3.0, 3.0, 0.03, -0.02)[8:-8, 8:-8])
    if more["psf"] is not None:
        more["psf"] = more["psf"] / more["psf"].sum(axis=(-2, -1), keepdims=True)
    flat = np.zeros((n, *shape))
    empty = Cutouts(image=flat, sigma=flat + 1, zeropoint=ZEROPOINT, **more)
    mags = [i for i, role in enumerate(space.roles) if role == "mag"]
    skies = [i for i, name in enumerate(space.names) if name.startswith("sky")]
    dark = truth.copy()
    dark[:, skies] = 0.0

    def image(values: Array) -> Array:
        return render(
            torch.tensor(values), empty, space, profiles, torch.float64, convolution=convolution
        ).numpy()

    now = np.sqrt((image(dark) ** 2).sum(axis=(1, 2)))
    truth[:, mags] -= 2.5 * np.log10(np.asarray(snr) / now)[:, None]
    noise = np.random.default_rng(seed).standard_normal(flat.shape)
    return replace(empty, image=torch.tensor(image(truth) + noise)), truth


def population(n: int, seed: int, side: int = 48) -> Array:
    """(n, 8) resolved galaxies of all shapes near the middle of the stamp."""
    rng = np.random.default_rng(seed)
    middle = (side - 1) / 2
    return np.stack(
        [
            middle + rng.uniform(-1, 1, n),
            middle + rng.uniform(-1, 1, n),
            np.full(n, 20.0),
            np.exp(rng.uniform(math.log(1.5), math.log(side / 10), n)),
            np.exp(rng.uniform(math.log(0.6), math.log(5.0), n)),
            rng.uniform(0.2, 0.95, n),
            rng.uniform(0, 180, n),
            rng.uniform(-0.5, 0.5, n),
        ],
        axis=1,
    )


def differences(found: Array, truth: Array, space: ParameterSpace | None = None) -> Array:
    """found - truth, angles in (-90, 90]."""
    difference = np.array(found) - truth
    for i, name in enumerate((space or ParameterSpace()).names):
        if name.startswith("pa"):
            difference[:, i] = (difference[:, i] + 90) % 180 - 90
    return difference


def pulls(fit: Fit, truth: Array) -> Array:
    """(B, Q) differences in units of the quoted errors."""
    return differences(fit.theta.numpy(), truth, fit.space) / fit.error.numpy()


def apart(one: Fit, other: Fit) -> float:
    """Largest difference between two fits of the same galaxies, in quoted errors; NaN agree."""
    difference = differences(one.theta.numpy(), other.theta.numpy(), one.space)
    same = np.isnan(one.theta.numpy()) & np.isnan(other.theta.numpy())
    same |= difference == 0  # a fixed sky has no error
    error = np.where(same, 1.0, one.error.numpy())
    return float(np.abs(np.where(same, 0.0, difference / error)).max())


def load_sims(folder: Path, name: str, rows: slice | Array | None = None):  # type: ignore[no-untyped-def]
    """Cutouts, truth (B, 7) in the project's convention (NaN for bd), and the file's columns."""
    z = np.load(folder / "sims" / f"{name}.npz")
    z = {key: z[key][slice(None) if rows is None else rows] for key in z.files}
    psf = z["psf"] / z["psf"].sum(axis=(1, 2), keepdims=True)
    cutouts = Cutouts(image=z["data"], sigma=z["sigma"], psf=psf, zeropoint=22.5)
    if "t_re" not in z:
        return cutouts, np.full((len(psf), 7), np.nan), z
    columns = [z["t_" + key] for key in ("x", "y", "mag", "re", "n", "q")]
    return cutouts, np.stack([*columns, (z["t_pa"] - 90) % 180], axis=1), z


def catastrophic(fit: Fit, truth: Array) -> NDArray[np.bool_]:
    """|dmag| > 0.5 or r_eff off by a factor 2, and whatever is not a number."""
    theta = fit.theta.numpy()
    ratio = theta[:, 3] / truth[:, 3]
    return ~((np.abs(theta[:, 2] - truth[:, 2]) <= 0.5) & (ratio < 2) & (ratio > 0.5))
