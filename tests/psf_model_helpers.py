"""PSFs by position as the tests write them: small files of every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from read_helpers import gaussian

GRID = [(x, y) for y in (0.0, 50.0, 100.0) for x in (0.0, 40.0, 80.0, 120.0)]  # not square


def width_at(x: float, y: float) -> float:
    """Width of the tests' PSF: bilinear in x and y, and different along both."""
    return 1.3 + 0.002 * x - 0.004 * y + 2e-5 * x * y


def image_at(x: float, y: float, side: int = 25, oversampling: int = 1) -> np.ndarray:
    middle = side // 2 if side % 2 else (side - 1) / 2
    image = gaussian((side, side), middle, middle, oversampling * width_at(x, y))
    return image / image.sum()


def write_cube(path: Path, where=GRID, **more) -> Path:
    """A cube PSF with a table POSITIONS."""
    cube = np.stack([image_at(x, y, **more) for x, y in where])
    table = Table(rows=list(where), names=["x", "y"])
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(cube, name="PSF")]
    hdus.append(fits.BinTableHDU(table, name="POSITIONS"))
    fits.HDUList(hdus).writeto(path)
    return path


def write_stpsf(path: Path, oversampling: int = 3, side: int = 60) -> Path:
    """A grid as `stpsf` writes them: x varies slowest, keywords hold (y, x), even sides."""
    where = sorted(GRID)
    cube = np.stack([image_at(x, y, side, oversampling) for x, y in where]) * oversampling**2
    header = fits.Header({"OVERSAMP": 4, "DET_SAMP": oversampling, "INSTRUME": "NIRCam"})
    for k, (x, y) in enumerate(where):
        header[f"DET_YX{k}"] = str((y, x))
    fits.writeto(path, cube, header)
    return path


def write_stdpsf(path: Path, side: int = 101) -> Path:
    """A grid as STDPSF files have them: positions from 1, 4 samples a pixel."""
    xs, ys = sorted({x for x, _ in GRID}), sorted({y for _, y in GRID})
    cube = np.stack([image_at(x, y, side, 4) * 16 for y in ys for x in xs])
    header = fits.Header({"NXPSFS": len(xs), "NYPSFS": len(ys)})
    header.update({f"IPSFX{k:02d}": int(x) + 1 for k, x in enumerate(xs, 1)})
    header.update({f"JPSFY{k:02d}": int(y) + 1 for k, y in enumerate(ys, 1)})
    fits.writeto(path, cube.astype(np.float32), header)
    return path


def write_folder(path: Path, where=GRID, name="psf_x{x}_y{y}.fits", header=None) -> Path:
    """One file for each position."""
    path.mkdir()
    for x, y in where:
        keys = fits.Header(header(x, y)) if header else None
        fits.writeto(path / name.format(x=x, y=y), image_at(x, y), keys)
    return path


def write_psfex(path: Path, step: float = 1.0, degree: int = 2, side: int = 25, **keys) -> Path:
    """A model as PSFEx writes it: terms 1, x, x^2, y, x y, y^2 of positions from 1."""
    pairs = [(a, b) for b in range(degree + 1) for a in range(degree + 1 - b)]
    middle = side // 2
    base = gaussian((side, side), middle, middle, 1.8 / step)
    wider = gaussian((side, side), middle, middle, 2.4 / step)
    terms = [base / base.sum()]
    terms += [(wider / wider.sum() - terms[0]) * 0.5 / (1 + a + 2 * b) for a, b in pairs[1:]]
    data = np.array([np.stack(terms)], dtype=np.float32)
    table = fits.BinTableHDU.from_columns(
        [fits.Column("PSF_MASK", f"{data.size}E", dim=f"({side},{side},{len(terms)})", array=data)],
        name="PSF_DATA",
    )
    table.header.update({"POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": degree, "PSF_SAMP": step})
    for number, (name, zero, scale) in enumerate([("X_IMAGE", 61, 110), ("Y_IMAGE", 51, 90)], 1):
        table.header.update({f"POLNAME{number}": name, f"POLGRP{number}": 1})
        table.header.update({f"POLZERO{number}": float(zero), f"POLSCAL{number}": float(scale)})
    # what the format of PSFEx has besides: other readers insist on it
    table.header.update({"PSFNAXIS": 3, "PSFAXIS1": side, "PSFAXIS2": side, "PSFAXIS3": len(terms)})
    table.header.update(keys)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path
