"""A directory with one PSF file for each position."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.io.planes import read_plane_in_file
from hybridfit.io.psf_files import read_psf
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.psf_models.positions import (
    EXPECTED,
    FROM_ONE,
    PIXELS,
    SKY,
    in_pixels,
    position_in_header,
    position_in_name,
)
from hybridfit.psf.model import GriddedPSF, PSFModel
from hybridfit.psf.stack import joined_stack

ENDINGS = (".fits", ".fit", ".fits.gz", ".fits.fz", ".fit.gz")
TABLES = ("positions.csv", "positions.ecsv", "positions.fits")
MAX_FILES = 10_000
NAMED = 5  # files listed in an error


def read_folder(folder: Path, options: PSFOptions) -> PSFModel:
    """Return the PSF of a directory of FITS files, one for each position.

    Positions are taken from a table (``positions.csv``, ``.ecsv`` or ``.fits``, with the names of
    the files in ``file``), else from the files' headers, else from their names.

    Raises:
        BadInput: if there are no files, a position is missing, or the samplings differ.
    """
    files = sorted(path for path in folder.iterdir() if _is_psf(path))[: MAX_FILES + 1]
    if not 0 < len(files) <= MAX_FILES:
        raise BadInput(f"'{folder}' has {len(files)} FITS files, expected 1 to {MAX_FILES} PSFs")
    positions = _positions(folder, files, options)
    scale = options.image_scale or math.nan
    given = None if options.oversampling is None else float(options.oversampling)
    found = [read_psf(str(path), options.center, given, scale) for path in files]
    samplings = sorted({one.oversampling for one in found})
    if len(samplings) > 1:
        raise BadInput(
            f"the PSFs in '{folder}' have {samplings} pixels per image pixel, expected one number: "
            "give psf_oversampling"
        )
    stack = joined_stack(found)
    return GriddedPSF(
        stack.oversampling,
        bool(options.includes_pixel),
        stack.flags,
        stack.notes,
        images=stack.images,
        positions=positions,
        interpolation=options.interpolation,
    )


def _is_psf(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(ENDINGS) and name not in TABLES and not name.startswith(".")


def _positions(folder: Path, files: list[Path], options: PSFOptions) -> NDArray[np.float64]:
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is not None:
        return _from_table(table, files, options)
    found = [_of_file(path, options) for path in files]
    missing = [path.name for path, where in zip(files, found, strict=True) if where is None]
    if missing:
        raise BadInput(
            f"{len(missing)} of {len(files)} PSFs in '{folder}' have no position "
            f"({', '.join(missing[:NAMED])}): expected {EXPECTED}, or a table {TABLES[0]}"
        )
    return np.array([where for where in found if where is not None])


def _of_file(path: Path, options: PSFOptions) -> tuple[float, float] | None:
    """Return x, y of a file from its headers, else from its name."""
    plane = read_plane_in_file(str(path), ("PSF",))
    try:
        headers = (plane.header, plane.primary)
        inside = next(filter(None, (position_in_header(h, options) for h in headers)), None)
    except ValueError as error:
        raise BadInput(f"PSF '{path}': {error}") from error
    return inside or position_in_name(path.name.split(".fit")[0], options)


def _from_table(path: Path, files: list[Path], options: PSFOptions) -> NDArray[np.float64]:
    """Return x, y of the files from a table with columns ``file`` and positions."""
    try:
        table = Table.read(path)
    except Exception as error:  # of any reader
        raise BadInput(f"'{path}' cannot be read as a table: {error}") from error
    names = next(
        (pair for pair in (*PIXELS, *FROM_ONE, *SKY) if set(pair) <= set(table.colnames)), None
    )
    if "file" not in table.colnames or names is None:
        raise BadInput(
            f"'{path}' has the columns {', '.join(table.colnames)}, expected file and x, y (or ra, "
            "dec)"
        )
    try:
        first, second = (np.asarray(table[name], dtype=np.float64) for name in names)
        where = in_pixels(names, first, second, options)
    except ValueError as error:
        raise BadInput(f"'{path}': {error}") from error
    rows = {os.path.basename(str(name)): k for k, name in enumerate(table["file"])}
    missing = [file.name for file in files if file.name not in rows]
    if missing:
        raise BadInput(f"'{path}' has no row for {', '.join(missing[:NAMED])}")
    return where[[rows[file.name] for file in files]]
