"""PSF images made ready for the renderer: odd sides, sum 1, centred, and checked."""

from __future__ import annotations

import math
import os
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hybridfit.arguments import described
from hybridfit.io.address import parse_address
from hybridfit.io.options import BadInput
from hybridfit.io.planes import read_plane
from hybridfit.results import Flag

MAX_PSF_SIDE = 2049
NEGATIVE_SHARE = 0.05  # of the flux: noise in a real PSF's wings stays well below it
EDGE_LEVEL = 0.02  # of the peak, the mean along the middle of one edge
OFF_CENTRE = 0.5  # image pixels
TRIMMED = 1e-5  # of the flux: what may be cut off all around to keep transforms small


def prepare_psf(
    psf: ArrayLike, center: str = "array", oversampling: int = 1
) -> tuple[NDArray[np.float32], int]:
    """Return a PSF with odd sides and sum 1 whose centre is the middle pixel.

    The centre of an array with N pixels a side is pixel N // 2, counted from 0, as in GALFIT
    (Peng et al. 2010, AJ 139, 2097): an even side is padded by one row or column of zeros at
    its end. Outer rings that hold less than 1e-5 of the flux are dropped.

    Args:
        psf: (h, w), any normalisation; NaN counts as 0.
        center: "array" leaves the PSF where it is, so that a PSF which is off its centre
            shifts x and y of the fit; "centroid" shifts its centroid onto the middle pixel.
        oversampling: PSF pixels per image pixel.

    Returns:
        The PSF (h', w') and bits of `hybridfit.Flag`: BAD_PSF (NaN, negative pixels with more
        than 5 % of the flux, or more than 2 % of the peak at an edge), PSF_OFF_CENTRE (by more
        than half an image pixel), PSF_NORMALISED (its sum was off 1 by more than 1 %).

    Raises:
        ValueError: if the array is not two-dimensional or its sum is not positive.
    """
    if center not in ("array", "centroid"):
        raise ValueError(f"center is '{center}', expected 'array' or 'centroid'")
    try:
        array = np.array(psf, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the PSF is {described(psf)}, expected an array of numbers (h, w): a file is read by "
            "hybridfit.read(..., psf=FILE)"
        ) from error
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"the PSF has shape {array.shape}, expected two axes (h, w)")
    flags = Flag(0)
    finite = np.isfinite(array)
    if not finite.all():
        flags |= Flag.BAD_PSF
        array[~finite] = 0.0
    scale = float(np.abs(array).max())
    total = float((array / scale).sum()) * scale if scale > 0 else 0.0
    content = float(np.abs(array / scale).sum()) * scale if scale > 0 else 0.0
    if not math.isfinite(total) or total <= 1e-3 * content:
        what = "holds nothing but zeros" if scale == 0 else f"sums to {total:.3g}"
        raise ValueError(f"the PSF {what}, expected a positive sum")
    if abs(total - 1) > 0.01:
        flags |= Flag.PSF_NORMALISED
    array = (array / scale) / (total / scale)
    if _unphysical(array):
        flags |= Flag.BAD_PSF
    array = np.pad(array, [(0, 1 - side % 2) for side in array.shape])
    offset = np.subtract(windowed_centroid(array), [side // 2 for side in array.shape])
    if center == "centroid":
        array = _shifted(array, -offset)
    elif np.hypot(*offset) > OFF_CENTRE * oversampling:
        flags |= Flag.PSF_OFF_CENTRE
    array = _trimmed(array)
    return (array / array.sum()).astype(np.float32), int(flags)


def windowed_centroid(psf: NDArray[np.float64]) -> tuple[float, float]:
    """Return y, x of a PSF's centre, weighted by a Gaussian of its own width.

    c <- c + 1.5 sum(w I (r - c)) / sum(w I), as SExtractor's XWIN_IMAGE but for the factor, 2
    there, which would never settle on a single bright pixel; unlike the plain centroid it does
    not follow the noise and the structure of the wings.
    """
    smooth = ndimage.uniform_filter(psf, 3, mode="constant")
    peak = np.unravel_index(int(smooth.argmax()), psf.shape)
    width = math.sqrt(max(int((smooth > 0.5 * smooth.max()).sum()), 4) / math.pi) / 1.1774
    y, x = np.arange(psf.shape[0]), np.arange(psf.shape[1])
    cy, cx = float(peak[0]), float(peak[1])
    for _ in range(30):
        wy = np.exp(-0.5 * ((y - cy) / width) ** 2)
        wx = np.exp(-0.5 * ((x - cx) / width) ** 2)
        rows = psf @ wx
        total = float(wy @ rows)
        if not total > 0:
            break
        dy = 1.5 * float((wy * (y - cy)) @ rows) / total
        dx = 1.5 * float(wy @ (psf @ (wx * (x - cx)))) / total
        if not max(abs(dy), abs(dx)) < 2 * width:
            break  # nothing there to settle on: keep what is known
        cy, cx = cy + dy, cx + dx
        if max(abs(dy), abs(dx)) < 1e-4:
            break
    return cy, cx


@lru_cache(maxsize=4)
def _cached(path: str, stamp: tuple[int, int], center: str, oversampling: int) -> tuple:
    array, _ = read_plane(path, ("PSF",), limits=False)
    psf, flags = checked_psf(array, path, center, oversampling)
    psf.setflags(write=False)  # it is shared by many galaxies
    return psf, flags


def read_psf(path: str, center: str, oversampling: int) -> tuple[NDArray[np.float32], int]:
    """Return `prepare_psf` of a file; the last few are remembered, for one PSF serves many.

    Raises:
        BadInput: if the file cannot be read, or the PSF cannot be used.
    """
    try:
        status = os.stat(parse_address(path).path)
    except OSError as error:
        raise BadInput(f"PSF file '{path}' does not exist or cannot be opened") from error
    return _cached(path, (status.st_mtime_ns, status.st_size), center, oversampling)


def checked_psf(
    array: NDArray[np.floating], where: str, center: str, oversampling: int
) -> tuple[NDArray[np.float32], int]:
    """`prepare_psf` for data from a file: what is wrong with it is the galaxy's `BadInput`."""
    if max(array.shape) > MAX_PSF_SIDE:
        raise BadInput(
            f"PSF '{where}' has {array.shape[0]} x {array.shape[1]} pixels, expected at most "
            f"{MAX_PSF_SIDE} a side: cut out its middle"
        )
    try:
        return prepare_psf(array, center, oversampling)
    except ValueError as error:
        raise BadInput(f"PSF '{where}' cannot be used: {error}") from error


def _unphysical(psf: NDArray[np.float64]) -> bool:
    """Whether strong negative pixels, or flux at an edge, make a PSF of sum 1 unphysical."""
    if -psf[psf < 0].sum() > NEGATIVE_SHARE:
        return True
    if min(psf.shape) < 5:
        return False  # too small to have wings: a delta function in 3 x 3 pixels is fine
    peak = psf.max()
    h, w = psf.shape
    rows, columns = slice(h // 3, h - h // 3), slice(w // 3, w - w // 3)
    edges = (psf[0, columns], psf[-1, columns], psf[rows, 0], psf[rows, -1])
    return any(float(edge.mean()) > EDGE_LEVEL * peak for edge in edges)


def _shifted(psf: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move a PSF by a part of a pixel with a quintic spline, after whole pixels with zeros."""
    reach = int(np.ceil(np.abs(shift).max())) + 2  # so that nothing leaves the array
    return ndimage.shift(np.pad(psf, reach), shift, order=5, mode="constant", prefilter=True)


def _trimmed(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop outer rings around the middle pixel that hold less than 1e-5 of the flux."""
    h, w = psf.shape
    ring = np.maximum.outer(np.abs(np.arange(h) - h // 2), np.abs(np.arange(w) - w // 2))
    outside = np.bincount(ring.ravel(), np.abs(psf).ravel())[::-1].cumsum()[::-1]
    reach = max(int((outside >= TRIMMED).sum()) - 1, 1)  # rings 0..reach stay
    cy, cx = min(reach, h // 2), min(reach, w // 2)
    return psf[h // 2 - cy : h // 2 + cy + 1, w // 2 - cx : w // 2 + cx + 1]
