"""Read the PSF of an image from any known kind of file or directory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from astropy.io import fits

from hybridfit.data.errors import BadInput
from hybridfit.io.address import parse_address
from hybridfit.io.planes import opened
from hybridfit.io.psf_files import read_psf, with_span
from hybridfit.io.psf_models.cubes import is_cube, read_cube
from hybridfit.io.psf_models.folder import read_folder
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.psf_models.piff import is_piff, read_piff
from hybridfit.io.psf_models.psfex import is_psfex, read_psfex
from hybridfit.io.psf_models.stdpsf import is_stdpsf, read_stdpsf
from hybridfit.io.psf_models.stpsf import is_stpsf, read_stpsf
from hybridfit.psf.model import ConstantPSF, PSFModel

Kind = tuple[
    Callable[[fits.HDUList, str], bool], Callable[[fits.HDUList, str, PSFOptions], PSFModel]
]
# the more specific kinds first; what is none of them is one PSF for the whole image
KINDS: tuple[Kind, ...] = (
    (is_piff, read_piff),
    (is_psfex, read_psfex),
    (is_stdpsf, read_stdpsf),
    (is_stpsf, read_stpsf),
    (is_cube, read_cube),
)


def read_psf_model(path: str | Path, options: PSFOptions = PSFOptions()) -> PSFModel:
    """Return the PSF of an image as a function of position.

    The kind of file is recognised by its content: PSFEx (``.psf``), Piff, STDPSF and stpsf grids,
    cubes with a table of positions, a directory with one file for each position, or one PSF.

    Args:
        path: file, ``file.fits[HDU]`` or directory.
        options: see `PSFOptions`.

    Raises:
        BadInput: if it cannot be read or used; the text says what was expected.
    """
    text = str(path)
    if Path(text).is_dir():
        return read_folder(Path(text), options)
    address = parse_address(text)
    with opened(address.path) as hdus:
        for is_kind, read_kind in KINDS:
            if is_kind(hdus, address.hdu):
                return _usable(read_kind, hdus, text, options)
    scale = options.image_scale or math.nan
    found = with_span(read_psf(text, options.center, options.oversampling, scale))
    return ConstantPSF(
        found.oversampling,
        bool(options.includes_pixel),
        found.flags,
        found.notes,
        image=found.psf,
    )


def _usable(
    read_kind: Callable[[fits.HDUList, str, PSFOptions], PSFModel],
    hdus: fits.HDUList,
    text: str,
    options: PSFOptions,
) -> PSFModel:
    """Return a PSF; turn errors about its content into `BadInput` that names the file."""
    try:
        return read_kind(hdus, text, options)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"PSF '{text}' cannot be used: {error}") from error
