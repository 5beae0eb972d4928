"""PSFs from FITS files: choose the HDU and the sampling, and prepare a shared PSF only once."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import lru_cache

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.io.address import parse_address
from hybridfit.io.planes import read_plane_in_file
from hybridfit.io.psf_oversampling import PSF_EXTENSIONS, Sampling, Stated, sampling_of, stated
from hybridfit.rendering.psf_images import PreparedPsf, examine_psf

MAX_PSF_SIDE = 2049
LEAST_SPAN = 3.0  # image pixels of an oversampled PSF


def read_psf(
    path: str, center: str, oversampling: float | None = None, image_scale: float = math.nan
) -> PreparedPsf:
    """Return the prepared PSF of a file; recent ones are cached, as many galaxies share one.

    Of several images in a file the one named PSF is used, otherwise the oversampled one with
    distortion among those that stpsf writes, otherwise the first.

    Args:
        path: ``file.fits`` or ``file.fits[HDU]``.
        center: see `examine_psf`.
        oversampling: PSF pixels per image pixel, None to use the PSF's header.
        image_scale: arcsec per image pixel, to compare with the PSF's.

    Raises:
        BadInput: if the file cannot be read, or the PSF cannot be used.
    """
    try:
        status = os.stat(parse_address(path).path)
    except OSError as error:
        raise BadInput(f"PSF file '{path}' does not exist or cannot be opened") from error
    state = status.st_mtime_ns, status.st_size
    _, keys, note = _loaded(path, state)
    sampling = sampling_of(keys, image_scale, oversampling)
    found = _prepared(path, state, center, sampling.value)
    return _with(found, sampling, note)


def checked_psf(
    array: NDArray[np.floating],
    where: str,
    center: str,
    oversampling: float | None = None,
    header: fits.Header | None = None,
    image_scale: float = math.nan,
) -> PreparedPsf:
    """Run `examine_psf` on data from a file; turn its errors into `BadInput` of the galaxy."""
    keys = Stated() if header is None else stated(header)
    sampling = sampling_of(keys, image_scale, oversampling)
    return _with(_examined(array, where, center, sampling.value), sampling, ())


def with_span(found: PreparedPsf) -> PreparedPsf:
    """Flag an oversampled PSF that spans very few image pixels."""
    span = max(found.psf.shape) / found.oversampling
    if found.oversampling == 1 or span >= LEAST_SPAN:
        return found
    note = f"the PSF spans only {span:.1f} image pixels: is psf_oversampling right?"
    return replace(found, flags=found.flags | Flag.BAD_PSF, notes=(*found.notes, note))


@lru_cache(maxsize=4)
def _loaded(
    path: str, state: tuple[int, int]
) -> tuple[NDArray[np.floating], Stated, tuple[str, ...]]:
    """Return a PSF file's pixels, the sampling in its header, and a note on the chosen HDU."""
    found = read_plane_in_file(path, ("PSF", *PSF_EXTENSIONS))
    array, keys = found.plane, stated(found.header)
    if not (keys.counter or keys.scale_key) and found.primary is not found.header:
        keys = replace(stated(found.primary), extension=keys.extension)
    names = () if parse_address(path).hdu else found.names
    others = [name for name in names if name in PSF_EXTENSIONS]
    if keys.extension not in others or len(others) < 2:
        return array, keys, ()
    note = f"the PSF is extension {keys.extension} of {', '.join(others)}"
    return array, keys, (note,)


@lru_cache(maxsize=4)
def _prepared(path: str, state: tuple[int, int], center: str, sampling: float) -> PreparedPsf:
    found = _examined(_loaded(path, state)[0], path, center, sampling)
    found.psf.setflags(write=False)  # shared by many galaxies
    return found


def _examined(array: NDArray[np.floating], where: str, center: str, sampling: float) -> PreparedPsf:
    if max(array.shape) > MAX_PSF_SIDE:
        raise BadInput(
            f"PSF '{where}' has {array.shape[0]} x {array.shape[1]} pixels, expected at most "
            f"{MAX_PSF_SIDE} a side: cut out its middle"
        )
    try:
        return examine_psf(array, center, sampling)
    except ValueError as error:
        raise BadInput(f"PSF '{where}' cannot be used: {error}") from error


def _with(found: PreparedPsf, sampling: Sampling, first: tuple[str, ...]) -> PreparedPsf:
    """Return the PSF with the flags and notes of its file before its own."""
    notes = (*first, *sampling.notes, *found.notes)
    return replace(found, flags=found.flags | int(sampling.flags), notes=notes)
