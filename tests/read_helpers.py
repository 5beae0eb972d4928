"""Small galaxies as FITS files for the tests of reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

# GALFIT's input file for one Sersic profile in the files of a galaxy ``id``
FEEDME = """A) {id}_image.fits
B) out.fits
C) {id}_sigma.fits
D) {id}_psf.fits
E) 1
F) none
J) 25
O) regular
P) 0
0) sersic
1) 16 16 1 1
3) 22 1
4) 3 1
5) 1.5 1
9) .7 1
10) 30 1
Z) 0
0) sky
1) 0 1
2) 0 0
3) 0 0
Z) 0
"""


def gaussian(shape, x, y, width, flux=1.0):
    """A round Gaussian of total ``flux`` on a grid of (H, W)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    r2 = (columns - x) ** 2 + (rows - y) ** 2
    return flux * np.exp(-r2 / (2 * width**2)) / (2 * np.pi * width**2)


def galaxy(shape=(64, 64), x=None, y=None, width=3.0, flux=2000.0, sigma=1.0, sky=0.0, seed=1):
    """A noisy Gaussian galaxy, by default in the middle, float32."""
    x = (shape[1] - 1) / 2 if x is None else x
    y = (shape[0] - 1) / 2 if y is None else y
    noise = np.random.default_rng(seed).normal(0, sigma, shape) if sigma else 0.0
    return (gaussian(shape, x, y, width, flux) + sky + noise).astype(np.float32)


def psf_image(side=15, width=1.3):
    psf = gaussian((side, side), side // 2, side // 2, width)
    return (psf / psf.sum()).astype(np.float32)


def write(path: Path, data, header=None) -> Path:
    fits.writeto(path, np.asarray(data), header=header, overwrite=True)
    return path


def calibrated(role: str) -> fits.Header | None:
    """An image's header with a zero point; None for other planes."""
    return fits.Header({"MAGZERO": 25.0}) if role in ("image", "sci", "data") else None


def write_galaxy(root: Path, name="a", **planes) -> Path:
    """Write ``<name>_<role>.fits`` for each plane; image, sigma and psf by default.

    A plane given as None is not written.
    """
    image = planes.get("image", galaxy())
    default = {"image": image, "sigma": np.ones(np.shape(image), np.float32), "psf": psf_image()}
    if {"variance", "ivar"} & set(planes):
        del default["sigma"]
    for role, data in {**default, **planes}.items():
        if data is not None:
            write(root / f"{name}_{role}.fits", data, calibrated(role))
    return root


def write_mef(path: Path, **planes) -> Path:
    """Write a multi-extension file with one named HDU for each plane, an empty one first."""
    hdus = [fits.PrimaryHDU()]
    for name, data in planes.items():
        hdus.append(fits.ImageHDU(np.asarray(data), calibrated(name), name=name.upper()))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path
