"""Positions of PSFs: from tables, headers and file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.io.image_header import number_in
from hybridfit.io.psf_models.options import PSFOptions

PIXELS = (("x", "y"), ("xpos", "ypos"), ("x_pos", "y_pos"), ("xc", "yc"), ("psf_x", "psf_y"))
FROM_ONE = (("x_image", "y_image"), ("xwin_image", "ywin_image"))  # of SExtractor, from 1
SKY = (("ra", "dec"), ("alpha_j2000", "delta_j2000"), ("psf_ra", "psf_dec"))
# in file names: psf_x123.5_y456, and psf_123.5_456
NAMED = re.compile(r"x[_-]?(\d+(?:\.\d+)?)[_-]*y[_-]?(\d+(?:\.\d+)?)", re.IGNORECASE)
BARE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[_,-](\d+(?:\.\d+)?)(?![\d.]*\d)$")
EXPECTED = (
    "columns or keywords x, y (pixels), X_IMAGE, Y_IMAGE (pixels from 1) or ra, dec (degrees), or "
    "names like psf_x120_y340.fits"
)


def positions_in_table(
    tables: Sequence[fits.BinTableHDU], options: PSFOptions, count: int
) -> NDArray[np.float64] | None:
    """Return x, y (G, 2) from the first table with columns of positions, None without any.

    Args:
        tables: HDUs of one file.
        options: see `PSFOptions`.
        count: rows that the table must have; 0 for any number, without converting them.
    """
    for hdu in tables:
        columns = {name.lower(): name for name in hdu.columns.names}
        names = next((p for p in (*PIXELS, *FROM_ONE, *SKY) if set(p) <= set(columns)), None)
        if names is None or (count and len(hdu.data) != count):
            continue
        first, second = (np.asarray(hdu.data[columns[name]], dtype=np.float64) for name in names)
        if not count:
            return np.column_stack([first, second])
        return in_pixels(names, first, second, options)
    return None


def position_in_header(header: fits.Header, options: PSFOptions) -> tuple[float, float] | None:
    """Return x, y from the keywords of a PSF, None without any."""
    for names in (*PIXELS, *FROM_ONE, *SKY):
        values = [number_in(header, name.upper()) for name in names]
        if values[0] is not None and values[1] is not None:
            x, y = in_pixels(names, np.array(values[:1]), np.array(values[1:]), options)[0]
            return float(x), float(y)
    return None


def position_in_name(stem: str, options: PSFOptions) -> tuple[float, float] | None:
    """Return x, y from the name of a file without its ending, None without any."""
    match = NAMED.search(stem) or BARE.search(stem)
    if match is None:
        return None
    return float(match[1]) - options.origin, float(match[2]) - options.origin


def in_pixels(
    names: Sequence[str], first: NDArray[Any], second: NDArray[Any], options: PSFOptions
) -> NDArray[np.float64]:
    """Return x, y (G, 2), the first pixel at 0, from columns or keywords of these names.

    Raises:
        ValueError: if ra, dec are given without a WCS of the image.
    """
    if tuple(names) in FROM_ONE:
        return np.column_stack([first - 1.0, second - 1.0])
    if tuple(names) in PIXELS:
        return np.column_stack([first - float(options.origin), second - float(options.origin)])
    if options.wcs is None:
        raise ValueError(
            f"its positions are {' and '.join(names)}, and the image has no WCS to convert them: "
            "give x, y"
        )
    return np.column_stack(options.wcs.all_world2pix(first, second, 0))
