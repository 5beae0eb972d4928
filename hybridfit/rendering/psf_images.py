"""Prepare PSF images for the renderer: odd sides, sum 1, centred, and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from hybridfit.data.flags import Flag
from hybridfit.data.names import PSF_CENTERS
from hybridfit.options.checks import described
from hybridfit.rendering.psf_wings import find_wings, percent

NEGATIVE_SHARE = 0.05  # of the flux: noise in a real PSF's wings is well below it
EDGE_LEVEL = 0.02  # of the peak, the mean along the middle of one edge
# image pixels: well-centred lopsided PSFs stay below (oversampled ones more so), but not PSFs that
# were cut out half a pixel off
OFF_CENTRE, OFF_CENTRE_FINE = 0.25, 0.1
WHOLE = 5e-3  # of a sampling: no PSF width is known better
HALF_PAD = 8  # pixels for the ripples of a barely sampled PSF
LEAST_SIDE = 5  # pixels: a smaller image has no room for wings
TRIMMED = 1e-5  # of the flux: allowed loss from trimming the rim to keep transforms small


@dataclass(frozen=True, eq=False)
class PreparedPsf:
    """A PSF in the renderer's form.

    Args:
        psf: (h, w) float32, odd sides, sum 1, centred on the middle pixel.
        oversampling: PSF pixels per image pixel.
        flags: bits of `hybridfit.Flag`.
        notes: what the user should know.
    """

    psf: NDArray[np.float32]
    oversampling: int
    flags: int
    notes: tuple[str, ...]


def prepare_psf(
    psf: ArrayLike, center: str = "array", oversampling: int = 1
) -> tuple[NDArray[np.float32], int]:
    """Return a PSF with odd sides and sum 1 whose centre is the middle pixel, and its flags.

    See `examine_psf`, which also returns notes.
    """
    if oversampling < 1 or oversampling != int(oversampling):
        raise ValueError(f"oversampling is {oversampling}, expected a whole number >= 1")
    found = examine_psf(psf, center, float(oversampling))
    return found.psf, found.flags


def examine_psf(
    psf: ArrayLike, center: str = "array", sampling: float = 1.0, between: bool | None = None
) -> PreparedPsf:
    """Return a PSF prepared for the renderer, and flags for its faults.

    The centre of an array with N pixels a side is pixel N // 2, counted from 0, as in GALFIT
    (Peng et al. 2010, AJ 139, 2097): an even side is padded with zeros at its end. An oversampled
    PSF with even sides is usually centred between its middle pixels, (N - 1) / 2: if its centroid
    is nearer to that, it is moved by half of a PSF pixel. A significant background is subtracted.
    Outer rings that hold less than 1e-5 of the flux are dropped.

    Args:
        psf: (h, w), any normalisation; NaN counts as 0.
        center: "array" leaves the PSF in place, so that an off-centre PSF shifts x and y of the
            fit; "centroid" shifts its centroid onto the middle pixel; "galfit" uses pixel N // 2
            and every value unchanged.
        sampling: PSF pixels per image pixel; if it is not an integer, the PSF is interpolated to
            the next larger integer.
        between: whether the centre of even sides is between their middle pixels; None to decide by
            the centroid, as above. PSFs of one set must agree.

    Returns:
        The PSF with bits of `hybridfit.Flag`: BAD_PSF (NaN, negative pixels with more than 5 % of
        the flux, more than 2 % of the peak at an edge, below 5 pixels a side, or coarser than the
        image), PSF_OFF_CENTRE
        (by a quarter of an image pixel, a tenth where oversampled), PSF_NORMALISED (its sum was
        off 1 by more than 1 %), PSF_TRUNCATED (a background, or wings that the image cuts off).

    Raises:
        ValueError: if the array is not two-dimensional or its sum is not positive.
    """
    if center not in PSF_CENTERS:
        raise ValueError(f"center is '{center}', expected {' or '.join(map(repr, PSF_CENTERS))}")
    array, flags = _normalised(psf)
    centre = windowed_centroid(array)
    array, faults, notes = _cleaned(array, centre, mend=center != "galfit")
    if between is None:
        between = _is_between(array.shape, centre, sampling)
    middle, off_centre, remarks = _examine_centre(array.shape, centre, center, sampling, between)
    flags, notes = flags | faults | off_centre, notes + remarks
    if min(array.shape) < LEAST_SIDE:
        flags |= Flag.BAD_PSF
        notes += (_too_small(array.shape),)
    origin = np.asarray(centre if center == "centroid" else middle)
    array, finer = at_whole_sampling(array, origin, sampling)
    if 1 - sampling > WHOLE:
        flags |= Flag.BAD_PSF
        notes += (f"the PSF's pixels are {1 / sampling:.2f} times as wide as the image's",)
    array = _trimmed(array)
    return PreparedPsf((array / array.sum()).astype(np.float32), finer, int(flags), notes)


def _normalised(psf: ArrayLike) -> tuple[NDArray[np.float64], Flag]:
    """Return the PSF with sum 1 and without NaN."""
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
        what = what if finite.any() else "has no finite pixel"
        raise ValueError(f"the PSF {what}, expected a positive sum")
    if abs(total - 1) > 0.01:
        flags |= Flag.PSF_NORMALISED
    return (array / scale) / (total / scale), flags


def _cleaned(
    array: NDArray[np.float64], centre: tuple[float, float], mend: bool
) -> tuple[NDArray[np.float64], Flag, tuple[str, ...]]:
    """Return the PSF without its background, and flags and notes on its faults."""
    array, notes = _without_background(array, centre, mend)
    flags = Flag.PSF_TRUNCATED if notes else Flag(0)
    if _unphysical(array):
        flags |= Flag.BAD_PSF
    return array, flags, notes


def _without_background(
    array: NDArray[np.float64], centre: tuple[float, float], mend: bool
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Subtract a significant background; return notes on it and on truncated wings."""
    wings = find_wings(array, centre)
    notes: tuple[str, ...] = ()
    if wings is None:
        return array, notes
    if wings.has_background:
        done = "subtracted" if mend else "left in"
        notes += (f"the PSF has a background with {percent(wings.background)} of its flux, {done}",)
        if mend:
            array = np.where(wings.support, array - wings.background / wings.support.sum(), array)
            array = array / array.sum()
    if wings.is_cut:
        notes += (
            f"the PSF's image cuts off about {percent(wings.lost)} of its flux in its wings: "
            "give a larger one",
        )
    return array, notes


def _examine_centre(
    shape: tuple[int, ...],
    centre: tuple[float, float],
    center: str,
    sampling: float,
    between: bool,
) -> tuple[NDArray[np.float64], Flag, tuple[str, ...]]:
    """Return y, x of the array's middle, and a flag and notes if the PSF's centre is not there.

    Args:
        shape: of the array, (h, w).
        centre: y, x of the PSF's centre.
        center: as `examine_psf` takes it.
        sampling: PSF pixels per image pixel.
        between: whether the middle of even sides is between pixels.
    """
    flags = Flag(0)
    notes: tuple[str, ...] = ()
    middle = middle_of(shape, between)
    between = between and any(side % 2 == 0 for side in shape)
    if between and center == "array":
        notes += ("the oversampled PSF has even sides, its centre between its middle pixels",)
    elif between and center == "galfit":
        middle, flags = np.ceil(middle), Flag.PSF_OFF_CENTRE
    offset = np.subtract(centre, middle)
    limit = OFF_CENTRE if sampling <= 1 else OFF_CENTRE_FINE
    if center != "centroid" and np.hypot(*offset) > limit * sampling:
        flags = Flag.PSF_OFF_CENTRE
    if flags:
        notes += (_off_centre(offset / sampling, shape),)
    return middle, flags, notes


def middle_of(shape: tuple[int, ...], between: bool) -> NDArray[np.float64]:
    """Return y, x of the middle of an array: pixel N // 2, counted from 0.

    Args:
        shape: (h, w).
        between: whether the middle of even sides is between their middle pixels, (N - 1) / 2.
    """
    middle = np.array([side // 2 for side in shape], dtype=np.float64)
    even = np.array([side % 2 == 0 for side in shape])
    return np.where(even, middle - 0.5, middle) if between else middle


def lies_between(psf: NDArray[np.float64], sampling: float) -> bool:
    """Return whether the centre of a PSF with even sides is between its middle pixels.

    Args:
        psf: (h, w), or the mean of a set.
        sampling: PSF pixels per image pixel.
    """
    return _is_between(psf.shape, windowed_centroid(psf), sampling)


def _is_between(shape: tuple[int, ...], centre: tuple[float, float], sampling: float) -> bool:
    even = np.array([side % 2 == 0 for side in shape])
    if sampling <= 1 or not even.any():
        return False
    return bool(np.subtract(centre, middle_of(shape, False))[even].mean() <= -0.25)


def _off_centre(offset: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    """Describe by how many image pixels y, x a PSF is off its centre."""
    at = "its middle" if all(side % 2 for side in shape) else "pixel N // 2"
    return (
        f"the PSF's centroid lies {offset[1]:+.2f}, {offset[0]:+.2f} image pixels in x, y from "
        f"{at}: positions are off by as much; --psf-center centroid corrects it"
    )


def _too_small(shape: tuple[int, ...]) -> str:
    """Describe an image of a PSF that cannot hold its wings."""
    return (
        f"the PSF has {shape[0]} x {shape[1]} pixels, too few for its wings: expected at least "
        f"{LEAST_SIDE} a side, enough to hold nearly all of its flux"
    )


def windowed_centroid(psf: NDArray[np.float64]) -> tuple[float, float]:
    """Return y, x of a PSF's centre, weighted by a Gaussian of its own width.

    c <- c + 1.5 sum(w I (r - c)) / sum(w I), as SExtractor's XWIN_IMAGE except for its factor of
    2, which would never converge on a single bright pixel; unlike the plain centroid it is not
    affected by noise and structure in the wings.
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
            break  # no flux to converge on: keep the last centre
        cy, cx = cy + dy, cx + dx
        if max(abs(dy), abs(dx)) < 1e-4:
            break
    return cy, cx


def _unphysical(psf: NDArray[np.float64]) -> bool:
    """Return whether strong negative pixels, or flux at an edge, make a PSF of sum 1 unphysical."""
    if -psf[psf < 0].sum() > NEGATIVE_SHARE:
        return True
    if min(psf.shape) < LEAST_SIDE:
        return False  # no wings to test, see `_too_small`
    peak = psf.max()
    h, w = psf.shape
    rows, columns = slice(h // 3, h - h // 3), slice(w // 3, w - w // 3)
    edges = (psf[0, columns], psf[-1, columns], psf[rows, 0], psf[rows, -1])
    return any(float(edge.mean()) > EDGE_LEVEL * peak for edge in edges)


def _centred(psf: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pad and shift a PSF so that ``centre`` y, x is the middle pixel of odd sides."""
    shape = np.array(psf.shape)
    if not (shape % 2).all():
        psf = np.pad(psf, [(0, 1 - side % 2) for side in shape])
    shift = shape // 2 - centre
    if not shift.any():
        return psf
    if set(shift.tolist()) <= {0.0, 0.5}:
        return _moved_by_half(psf, shift)
    reach = int(np.ceil(np.abs(shift).max())) + 2  # so that no flux leaves the array
    return ndimage.shift(np.pad(psf, reach), shift, order=5, mode="constant", prefilter=True)


def _moved_by_half(psf: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift a PSF by half a pixel as a band-limited function, as the renderer interprets it."""
    psf = np.pad(psf, HALF_PAD)
    for axis, step in enumerate(shift):
        if step:
            phase = np.exp(-2j * np.pi * step * fft.rfftfreq(psf.shape[axis]))
            phase = phase[:, None] if axis == 0 else phase
            modes = fft.rfft(psf, axis=axis) * phase
            psf = fft.irfft(modes, n=psf.shape[axis], axis=axis)
    return psf


def at_whole_sampling(
    psf: NDArray[np.float64], origin: NDArray[np.float64], sampling: float
) -> tuple[NDArray[np.float64], int]:
    """Move ``origin`` y, x into the middle pixel; return the PSF and its pixels per image pixel.

    A sampling that is not a whole number is raised to the next one.
    """
    finer = max(1, math.ceil(sampling - WHOLE))
    if abs(sampling / finer - 1) > WHOLE:
        return _resampled(psf, origin, sampling / finer), finer
    return _centred(psf, origin), finer


def _resampled(
    psf: NDArray[np.float64], centre: NDArray[np.float64], step: float
) -> NDArray[np.float64]:
    """Interpolate a PSF to pixels of ``step`` of its pixels, with ``centre`` y, x in the middle."""
    reach = [
        math.floor(min(c, side - 1 - c) / step) for c, side in zip(centre, psf.shape, strict=True)
    ]
    grid = np.meshgrid(
        *(c + step * np.arange(-n, n + 1) for c, n in zip(centre, reach, strict=True)),
        indexing="ij",
    )
    return ndimage.map_coordinates(psf, grid, order=5, mode="constant")


def _trimmed(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop outer rings around the middle pixel with less than 1e-5 of the flux."""
    h, w = psf.shape
    ring = np.maximum.outer(np.abs(np.arange(h) - h // 2), np.abs(np.arange(w) - w // 2))
    outside = np.bincount(ring.ravel(), np.abs(psf).ravel())[::-1].cumsum()[::-1]
    reach = max(int((outside >= TRIMMED).sum()) - 1, 1)  # rings 0..reach stay
    cy, cx = min(reach, h // 2), min(reach, w // 2)
    return psf[h // 2 - cy : h // 2 + cy + 1, w // 2 - cx : w // 2 + cx + 1]
