"""Cubes of PSFs with a table of positions in the same file."""

from __future__ import annotations

import math

import numpy as np
from astropy.io import fits

from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.psf_models.positions import positions_in_table
from hybridfit.io.psf_oversampling import sampling_of, stated
from hybridfit.psf.model import GriddedPSF, PSFModel
from hybridfit.psf.stack import prepare_stack

PREFERRED = ("PSF", "EPSF")


def is_cube(hdus: fits.HDUList, hdu: str = "") -> bool:
    """Return whether a file has a cube of images and a table of their positions."""
    return (
        bool(_cubes(hdus)) and positions_in_table(_tables(hdus), PSFOptions(), count=0) is not None
    )


def read_cube(hdus: fits.HDUList, text: str, options: PSFOptions) -> PSFModel:
    """Return the PSF of a cube (G, h, w) and a table with G rows ``x``, ``y`` or ``ra``, ``dec``.

    Args:
        hdus: the open file.
        text: path, ``file.fits[HDU]`` to choose one of several cubes.
        options: see `PSFOptions`.

    Raises:
        ValueError: if no table has one row for each PSF.
    """
    cube = _chosen(hdus, text)
    positions = positions_in_table(_tables(hdus), options, count=len(cube.data))
    if positions is None:
        raise ValueError(
            f"{cube.name or 'its cube'} has {len(cube.data)} PSFs, but no table of the file has as "
            "many rows of x, y or ra, dec"
        )
    given = None if options.oversampling is None else float(options.oversampling)
    sampling = sampling_of(stated(cube.header), options.image_scale or math.nan, given)
    stack = prepare_stack(np.asarray(cube.data), sampling.value, options.center)
    return GriddedPSF(
        stack.oversampling,
        bool(options.includes_pixel),
        stack.flags | int(sampling.flags),
        (*sampling.notes, *stack.notes),
        images=stack.images,
        positions=positions,
        interpolation=options.interpolation,
    )


def _chosen(hdus: fits.HDUList, text: str) -> fits.ImageHDU:
    """Return the cube that the address names, else one named PSF, else the first."""
    cubes = _cubes(hdus)
    name = text.rpartition("[")[2].rstrip("]").upper() if text.endswith("]") else ""
    wanted = (name,) if name else PREFERRED
    for hdu in cubes:
        number = next(i for i, other in enumerate(hdus) if other is hdu)
        if hdu.name.upper() in wanted or name == str(number):
            return hdu
    if name:
        raise ValueError(f"'{name}' is none of its cubes {', '.join(c.name for c in cubes)}")
    return cubes[0]


def _cubes(hdus: fits.HDUList) -> list[fits.ImageHDU]:
    return [hdu for hdu in hdus if hdu.is_image and len(hdu.shape) == 3 and 0 not in hdu.shape]


def _tables(hdus: fits.HDUList) -> list[fits.BinTableHDU]:
    return [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
