"""Grids of stpsf (WebbPSF): a cube whose positions are keywords ``DET_YX0``, ``DET_YX1``..."""

from __future__ import annotations

import re

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.io.image_header import number_in, text_in
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.psf.model import GriddedPSF, PSFModel
from hybridfit.psf.stack import prepare_stack

KEY = re.compile(r"DET_YX(\d+)")
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
FRAME = "positions are detector pixels of stpsf: the image must have the detector's pixel grid"


def is_stpsf(hdus: fits.HDUList, hdu: str = "") -> bool:
    """Return whether the first HDU with an image is a grid of stpsf."""
    return any(KEY.fullmatch(key) for key in hdus[0].header)


def read_stpsf(hdus: fits.HDUList, text: str, options: PSFOptions) -> PSFModel:
    """Return the PSF of a grid; stpsf has convolved it with the pixel, and counts pixels from 0.

    Args:
        hdus: the open file.
        text: its path, for errors.
        options: see `PSFOptions`.

    Raises:
        ValueError: if keywords are missing.
    """
    header, data = hdus[0].header, hdus[0].data
    if data is None or data.ndim not in (2, 3):
        raise ValueError("its first HDU holds no cube of PSFs (G, h, w)")
    images = np.asarray(data).reshape(-1, *data.shape[-2:])
    positions = _positions(header, len(images))
    known = (number_in(header, key) for key in ("DET_SAMP", "OVERSAMP"))
    own = next((value for value in known if value is not None and value > 0), None)
    sampling = options.oversampling or own
    if sampling is None:
        raise ValueError("it has neither DET_SAMP nor OVERSAMP: say psf_oversampling")
    stack = prepare_stack(images, float(sampling), options.center)
    return GriddedPSF(
        stack.oversampling,
        options.includes_pixel is not False,
        stack.flags,
        (*stack.notes, FRAME),
        images=stack.images,
        positions=positions,
        interpolation=options.interpolation,
    )


def _positions(header: fits.Header, count: int) -> NDArray[np.float64]:
    """Return x, y (G, 2) from keywords such as ``DET_YX0 = '(1023.0, 511.0)'``, y before x."""
    found = {}
    for key in header:
        match = KEY.fullmatch(key)
        values = NUMBER.findall(text_in(header, key)) if match else []
        if match and len(values) == 2:
            found[int(match[1])] = (float(values[1]), float(values[0]))
    if sorted(found) != list(range(count)):
        raise ValueError(
            f"it has {count} PSFs and positions {len(found)} in DET_YX0...: expected one for each, "
            "as '(y, x)'"
        )
    return np.array([found[k] for k in range(count)])
