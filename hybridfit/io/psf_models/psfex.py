"""PSFEx models: pixels that are polynomials in the position (Bertin 2011, ASPC 442, 435)."""

from __future__ import annotations

import re

import numpy as np
from astropy.io import fits

from hybridfit.io.image_header import number_in, text_in
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.psf.model import PolynomialPSF, PSFModel, powers_up_to
from hybridfit.psf.stack import prepare_terms

X_NAMES = re.compile(r"X(WIN|PEAK|PSF|MODEL)?_IMAGE(_DBL)?", re.IGNORECASE)
Y_NAMES = re.compile(r"Y(WIN|PEAK|PSF|MODEL)?_IMAGE(_DBL)?", re.IGNORECASE)
# PSFEx scales the positions of its stars to [-1/2, 1/2]; beyond twice that nothing is known
REACH = 1.0
COLUMN = "PSF_MASK"


def is_psfex(hdus: fits.HDUList, hdu: str = "") -> bool:
    """Return whether a file was written by PSFEx."""
    return _table(hdus) is not None


def read_psfex(hdus: fits.HDUList, text: str, options: PSFOptions) -> PSFModel:
    """Return the PSF of a PSFEx file; its pixels include the response of the image's pixel.

    Args:
        hdus: the open file.
        text: its path, for notes.
        options: see `PSFOptions`.

    Raises:
        ValueError: if the file is incomplete, or depends on more than the position.
    """
    table = _table(hdus)
    assert table is not None
    header = table.header
    sampling = options.oversampling or 1 / _step(header)
    terms = np.asarray(table.data[COLUMN][0], dtype=np.float64)
    terms = terms.reshape(-1, *terms.shape[-2:])
    degree, axes = _polynomial(header)
    powers = _powers(degree, axes)
    if len(terms) != len(powers):
        raise ValueError(
            f"it has {len(terms)} images, expected {len(powers)} for a polynomial of degree "
            f"{degree} in {len(axes)} variables"
        )
    stack = prepare_terms(terms, sampling, options.center)
    finer = stack.oversampling
    notes = stack.notes
    if finer > 1 and abs(finer / sampling - 1) > 5e-3:
        notes += (f"PSF_SAMP {1 / sampling:.4g}: interpolated to {finer} pixels per pixel",)
    scales = {axis: _scale(header, number) for number, axis in axes.items()}
    x, y = (scales.get(axis, (0.0, 1.0)) for axis in "xy")
    return PolynomialPSF(
        finer,
        options.includes_pixel is not False,
        stack.flags,
        notes,
        terms=stack.images,
        powers=powers,
        zero=(x[0] - 1, y[0] - 1),  # PSFEx counts pixels from 1
        scale=(x[1], y[1]),
        reach=REACH,
    )


def _table(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    """Return the table with the model, None if there is none."""
    for hdu in hdus[1:]:
        if isinstance(hdu, fits.BinTableHDU) and COLUMN in hdu.columns.names:
            return hdu
    return None


def _step(header: fits.Header) -> float:
    """Return image pixels per PSF pixel."""
    step = number_in(header, "PSF_SAMP")
    if step is None or not 0 < step < 32:
        raise ValueError(
            f"PSF_SAMP is {text_in(header, 'PSF_SAMP') or 'missing'}, expected image pixels per "
            "PSF pixel, above 0"
        )
    return step


def _polynomial(header: fits.Header) -> tuple[int, dict[int, str]]:
    """Return the degree of the polynomial, and "x" or "y" by number of the variable."""
    count = int(number_in(header, "POLNAXIS") or 0)
    axes: dict[int, str] = {}
    for number in range(1, count + 1):
        name = text_in(header, f"POLNAME{number}")
        axis = "x" if X_NAMES.fullmatch(name) else "y" if Y_NAMES.fullmatch(name) else ""
        if not axis or axis in axes.values():
            raise ValueError(
                f"it depends on {name or 'something without a name'} (POLNAME{number}), expected "
                "X_IMAGE and Y_IMAGE: run PSFEx with PSFVAR_KEYS X_IMAGE,Y_IMAGE"
            )
        axes[number] = axis
    groups = {number_in(header, f"POLGRP{number}") for number in axes}
    if len(groups) > 1:
        raise ValueError(
            f"its variables are in {len(groups)} groups, expected one: run PSFEx with "
            "PSFVAR_GROUPS 1,1"
        )
    return int(number_in(header, "POLDEG1") or 0) if axes else 0, axes


def _powers(degree: int, axes: dict[int, str]) -> np.ndarray:
    """Return exponents of x, y of each term: those of the first variable run fastest."""
    pairs = powers_up_to(degree)
    if len(axes) < 2:
        pairs = pairs[pairs[:, 1] == 0]
    return pairs[:, ::-1] if axes.get(1) == "y" else pairs


def _scale(header: fits.Header, number: int) -> tuple[float, float]:
    """Return zero point and scale of a variable."""
    keys = f"POLZERO{number}", f"POLSCAL{number}"
    zero, scale = (number_in(header, key) for key in keys)
    if zero is None or scale is None or scale == 0:
        found = ", ".join(f"{key} = {text_in(header, key) or 'missing'}" for key in keys)
        raise ValueError(f"it has {found}, expected two numbers, the second not 0")
    return zero, scale
