"""Galaxies of any model, in memory and as files with a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.build_problem import profiles_of
from hybridfit.fitting.options import FitOptions
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.rendering.render import render

BULGE_DISK = [31.3, 31.8, 19.3, 3.0, 2.5, 0.8, 40.0, 31.3, 31.8, 19.0, 9.0, 0.6, 60.0, 0.1]
POINT = [31.3, 31.8, 20.0, 0.1]
QUICK = {"uncertainty": "covariance", "initial_values": "moments", "compile": "off"}


def galaxies(
    model: object, theta: list[list[float]], sigma: float = 0.1, side: int = 64
) -> Cutouts:
    """Noisy galaxies of a model, with a Gaussian PSF of 3 pixels.

    Args:
        model: see `FitOptions`.
        theta: (B, Q) true parameters in the order of the model's names.
        sigma: noise of a pixel.
        side: of the cutouts, pixels.
    """
    space, count = FitOptions(model=model).space, len(theta)
    flat = np.zeros((count, side, side), np.float32)
    blank = Cutouts(
        flat,
        flat + sigma,
        gaussian_psf(),
        zeropoint=25.0,
        pixel_scale=0.2,
        id=[f"g{i}" for i in range(count)],
    )
    values = torch.tensor(theta, dtype=torch.float64)
    image = render(values, blank, space, profiles_of(space)).float()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return replace(blank, image=image + sigma * noise)


def gaussian_psf() -> NDArray[np.float32]:
    y, x = np.mgrid[-12:13, -12:13]
    psf = np.exp(-0.5 * (x**2 + y**2) / 1.3**2)
    return (psf / psf.sum()).astype(np.float32)


def write_manifest(cutouts: Cutouts, folder: Path, **columns: list[object]) -> Path:
    """Write galaxies as files, with a manifest of these further columns; return its path."""
    write_cutouts(cutouts, folder)
    table = Table({"id": list(cutouts.id)})
    for role in ("image", "sigma", "psf"):
        table[role] = [f"{name}_{role}.fits" for name in cutouts.id]
    table["pixel_scale"] = [0.2] * len(cutouts)
    for name, values in columns.items():
        table[name] = values
    path = folder / "manifest.csv"
    table.write(path, overwrite=True)
    return path
