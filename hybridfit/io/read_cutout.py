"""Read one galaxy from its files: pixels, noise, mask and PSF, with notes for the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag, joined
from hybridfit.data.names import OVERSAMPLINGS, START_NAMES, is_oversampling
from hybridfit.data.positions import plain_name, to_cutout
from hybridfit.detection.prepare import Draft, prepare
from hybridfit.io.affine import Place, affine_between, target_of
from hybridfit.io.asinh import LINEAR, is_asinh
from hybridfit.io.open_image import OpenedImage, open_image, unused_note
from hybridfit.io.options import ReadOptions, start_problem
from hybridfit.io.photometry import Calibration, calibrate
from hybridfit.io.psf_files import checked_psf, read_psf, with_span
from hybridfit.io.sources import Source
from hybridfit.io.wcs import first_number, moved_wcs, pixel_area, pixel_scale
from hybridfit.model.value_columns import FIXED
from hybridfit.rendering.psf_images import PreparedPsf


@dataclass(frozen=True, eq=False)
class Cutout:
    """One galaxy in its final form, with its own shape.

    Args:
        id: the galaxy's name.
        image: (H, W) float32, flux; finite, 0 under the mask.
        sigma: (H, W) float32 in the same unit; positive, 1 under the mask.
        mask: (H, W) bool, True = leave out.
        psf: (h, w) float32, odd sides, sum 1; None without one.
        psf_oversampling: PSF pixels per image pixel.
        psf_includes_pixel: whether the PSF includes the pixel response.
        zeropoint: mag of one flux unit; 0 where unknown.
        zeropoint_from: its origin, "" where unknown.
        pixel_scale: arcsec, NaN where unknown.
        origin: x, y of the first pixel in the image as given.
        start: (7,) x, y, mag, r_eff, n, q, pa in cutout pixels, NaN where not given.
        flags: bits of `hybridfit.Flag`.
        wcs: astropy WCS of the cutout, None without one.
        message: notes for the user, or "".
        parameters: initial and fixed values of the model's parameters by name, in cutout pixels.
        to_pixels: (2, 3) of a further image, map from the pixels of the first one's cutout.
        exposures: further images; None for one that a galaxy lacks.
    """

    id: str
    image: NDArray[np.float32]
    sigma: NDArray[np.float32]
    mask: NDArray[np.bool_]
    psf: NDArray[np.float32] | None
    psf_oversampling: int
    psf_includes_pixel: bool
    zeropoint: float
    zeropoint_from: str
    pixel_scale: float
    origin: tuple[int, int]
    start: NDArray[np.float64]
    flags: int
    wcs: Any
    message: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    to_pixels: NDArray[np.float64] | None = None
    exposures: tuple[Cutout | None, ...] = ()


def read_cutout(source: Source, options: ReadOptions = ReadOptions()) -> Cutout:
    """Read one galaxy.

    Args:
        source: its files, from `find_sources`.
        options: see `ReadOptions`.

    Returns:
        The cutout, cropped if the image was much larger than the galaxy.

    Raises:
        BadInput: if the galaxy cannot be fitted; the text says why and what to do.
    """
    if source.problem:
        raise BadInput(source.problem)
    image = open_image(source, options)
    cutout = _prepared_cutout(image, source, options, _start(source, options, image.origin))
    cutout = replace(cutout, parameters=_parameters(source, cutout.origin))
    if not source.exposures:
        return cutout
    exposures, notes = [], []
    for number, other in enumerate(source.exposures, start=2):
        exposure, note = _exposure(other, options, cutout, image.shape)
        exposures.append(exposure)
        notes.append(note and f"image {number}: {note}")
    message = joined(cutout.message, *notes)
    return replace(cutout, exposures=tuple(exposures), message=message)


def _prepared_cutout(
    image: OpenedImage, source: Source, options: ReadOptions, start: NDArray[np.float64]
) -> Cutout:
    """Return the cutout of an image, whose target is expected at ``start`` of the section."""
    calibration = _calibration(source, options, image.header, image.wcs, image.planes["image"])
    draft = _prepared(Draft(dict(image.planes), start, image.origin), options, calibration)
    scale = pixel_scale(source.pixel_scale, options.pixel_scale, image.wcs)
    psf = _psf(source, options, image.psf, image.found.headers.get("psf"), scale)
    return assemble_cutout(
        source.id,
        draft,
        calibration,
        psf,
        psf_includes_pixel=_includes_pixel(source, options),
        pixel_scale=scale,
        wcs=image.wcs,
        notes=(LINEAR if is_asinh(image.header) else "", *image.notes),
        last_notes=(image.wcs_note, unused_note(image.found.unused)),
    )


def _exposure(
    source: Source, options: ReadOptions, first: Cutout, shape: tuple[int, int]
) -> tuple[Cutout | None, str]:
    """Read a further image of a galaxy.

    Args:
        source, options: of this image.
        first: the galaxy's first image.
        shape: height and width of that image as given.

    Returns:
        The cutout, placed by ``to_pixels``, or None where there is none or it cannot be used; and
        notes for the user.
    """
    if not source.image:
        return None, ""
    try:
        image = open_image(source, options)
        here = Place(first.wcs, (float(first.origin[0]), float(first.origin[1])), shape)
        target = target_of(first.start.tolist(), first.image.shape)
        affine = affine_between(here, Place(image.wcs, (0.0, 0.0), image.shape), target)
        start = np.full(len(START_NAMES), np.nan)
        start[:2] = affine @ [*target, 1.0] - image.origin
        cutout = _prepared_cutout(image, source, options, start)
        if bool(cutout.zeropoint_from) != bool(first.zeropoint_from):
            lacking = "it" if first.zeropoint_from else "the first image"
            raise BadInput(f"{lacking} has no zero point, unlike the other: give both, or neither")
    except BadInput as error:
        return None, f"left out: {error}"
    except Exception as error:  # a damaged file can raise almost any exception
        reason = f"{type(error).__name__} while reading '{source.image}': {error}"
        return None, f"left out: {reason}"
    affine[:, 2] -= cutout.origin
    return replace(cutout, to_pixels=affine), cutout.message


def _parameters(source: Source, origin: tuple[int, int]) -> dict[str, float]:
    """Return the values of a galaxy's row for the model's parameters, in cutout pixels."""
    shift = {"x": origin[0], "y": origin[1]}
    return {name: value - shift.get(_plain(name), 0) for name, value in source.parameters}


def _plain(name: str) -> str:
    """Return a parameter's name without its component and ``_fixed``."""
    return plain_name(name.removesuffix(FIXED))


def assemble_cutout(
    id: str,
    draft: Draft,
    calibration: Calibration,
    psf: PreparedPsf | None,
    *,
    psf_includes_pixel: bool,
    pixel_scale: float,
    wcs: Any,
    notes: Sequence[str] = (),
    last_notes: Sequence[str] = (),
) -> Cutout:
    """Assemble a galaxy from its prepared parts.

    Args:
        id: its name.
        draft: its prepared planes.
        calibration: zero point and gain.
        psf: None to fit without one.
        psf_includes_pixel: whether the PSF includes the pixel response.
        pixel_scale: arcsec, NaN where unknown.
        wcs: WCS of the image as given, None without one.
        notes, last_notes: notes on the pixels; a long message may cut off the last ones.
    """
    flags = draft.flags | (Flag.NO_PSF if psf is None else psf.flags)
    return Cutout(
        id=id,
        **_plane_fields(draft, psf, psf_includes_pixel),
        zeropoint=calibration.zeropoint,
        zeropoint_from=calibration.origin,
        pixel_scale=pixel_scale,
        origin=draft.origin,
        start=draft.start,
        flags=int(flags | (0 if calibration.origin else Flag.NO_ZEROPOINT)),
        wcs=moved_wcs(wcs, draft.origin),
        message=_message(draft, calibration, psf, notes, last_notes),
    )


def _plane_fields(draft: Draft, psf: PreparedPsf | None, includes_pixel: bool) -> dict[str, Any]:
    """Return the fields of a `Cutout` that hold pixels, and describe its PSF."""
    return {
        **draft.planes,
        "psf": None if psf is None else psf.psf,
        "psf_oversampling": 1 if psf is None else psf.oversampling,
        "psf_includes_pixel": psf is not None and includes_pixel,
    }


def _message(
    draft: Draft,
    calibration: Calibration,
    psf: PreparedPsf | None,
    notes: Sequence[str],
    last_notes: Sequence[str],
) -> str:
    """Return all notes as one text, the more important ones first."""
    gain_notes = calibration.gain_notes if draft.flags & Flag.SIGMA_ESTIMATED else ()
    psf_notes = () if psf is None else psf.notes
    return joined(*calibration.notes, *notes, *draft.notes, *gain_notes, *psf_notes, *last_notes)


def _calibration(
    source: Source, options: ReadOptions, header: fits.Header, wcs: Any, pixels: NDArray
) -> Calibration:
    """Return zero point and gain from the manifest's row, else the options, else the header."""
    return calibrate(
        header,
        zeropoint=first_number(source.zeropoint, options.zeropoint),
        gain=first_number(source.gain, options.gain),
        area=pixel_area(first_number(source.pixel_scale, options.pixel_scale), wcs),
        pixels=pixels,
    )


def _prepared(draft: Draft, options: ReadOptions, calibration: Calibration) -> Draft:
    """Return the draft cropped, with masked neighbours and an estimated sigma, per the options."""
    return prepare(
        draft,
        crop=options.crop,
        mask_neighbours=options.mask_neighbours,
        gain=calibration.gain,
        gain_doubt=calibration.gain_doubt,
    )


def _start(source: Source, options: ReadOptions, origin: tuple[int, int]) -> NDArray[np.float64]:
    given = [getattr(options, name) for name in START_NAMES]
    pairs = zip(source.start, given, strict=True)
    start = [option if math.isnan(own) and option is not None else own for own, option in pairs]
    problem = start_problem(start)
    if problem:
        raise BadInput(f"{problem} (galaxy '{source.id}')")
    values = np.array(start, dtype=np.float64)
    for k, name in enumerate(START_NAMES[:2]):  # the first component given is the target
        own = [v for key, v in source.parameters if _plain(key) == name and math.isfinite(v)]
        values[k] = own[0] if own and math.isnan(values[k]) else values[k]
    values[0], values[1] = to_cutout(values[0], values[1], origin)
    return values


def _includes_pixel(source: Source, options: ReadOptions) -> bool:
    return bool(first_number(source.psf_includes_pixel, float(options.psf_includes_pixel)))


def _psf(
    source: Source,
    options: ReadOptions,
    plane: NDArray | None,
    header: fits.Header | None,
    scale: float,
) -> PreparedPsf | None:
    """Return the galaxy's PSF; None to fit without one.

    Args:
        source, options: with its location and sampling.
        plane, header: the PSF in the image's own file.
        scale: arcsec per image pixel, NaN if unknown.
    """
    given = first_number(source.psf_oversampling, options.psf_oversampling)
    if given is not None and not is_oversampling(given):
        raise BadInput(f"psf_oversampling is {given:g}, expected {OVERSAMPLINGS}")
    if options.no_psf:
        return None
    path = source.psf or (options.psf if plane is None else None)
    if path:
        found = read_psf(path, options.psf_center, given, scale)
    elif plane is not None:
        found = checked_psf(plane, source.image, options.psf_center, given, header, scale)
    else:
        looked = f"{options.pattern_psf.replace('{id}', source.id)}, HDU {options.hdu_psf or 'PSF'}"
        raise BadInput(
            f"no PSF found for '{source.id}' (looked for {looked}): pass --psf FILE, or --no-psf "
            "to fit without one"
        )
    return with_span(found)
