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
from hybridfit.data.names import NOISE_ROLES, OVERSAMPLINGS, START_NAMES, is_oversampling
from hybridfit.data.positions import plain_name, to_cutout
from hybridfit.detection.prepare import Draft, prepare
from hybridfit.io.asinh import LINEAR, is_asinh
from hybridfit.io.image_header import text_in
from hybridfit.io.noise_units import in_unit_of_image
from hybridfit.io.options import ROLES, ReadOptions, start_problem
from hybridfit.io.photometry import Calibration, calibrate
from hybridfit.io.planes import FilePlanes, read_plane, read_planes
from hybridfit.io.psf_files import checked_psf, read_psf, with_span
from hybridfit.io.quality_planes import merged_quality
from hybridfit.io.sources import Source
from hybridfit.io.wcs import celestial_wcs, first_number, moved_wcs, pixel_area, pixel_scale
from hybridfit.model.value_columns import FIXED
from hybridfit.rendering.psf_images import PreparedPsf

NAMED = 8  # HDUs listed in a message


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
    found = _planes(source, options)
    header, origin = found.headers["image"], found.part.origin
    psf_plane = found.planes.pop("psf", None)
    planes, notes = merged_quality(
        found.planes, found.headers, text_in(header, "TELESCOP"), options.mask_bits
    )
    wcs, wcs_note = celestial_wcs(header, (0, 0))
    scale_note = LINEAR if is_asinh(header) else ""
    calibration = _calibration(source, options, header, wcs, found.planes["image"])
    given = Draft(planes, _start(source, options, origin), origin)
    draft = _prepared(given, options, calibration)
    scale = pixel_scale(source.pixel_scale, options.pixel_scale, wcs)
    psf = _psf(source, options, psf_plane, found.headers.get("psf"), scale)
    cutout = assemble_cutout(
        source.id,
        draft,
        calibration,
        psf,
        psf_includes_pixel=_includes_pixel(source, options),
        pixel_scale=scale,
        wcs=wcs,
        notes=(scale_note, *notes),
        last_notes=(wcs_note, _unused(found.unused)),
    )
    return replace(cutout, parameters=_parameters(source, draft.origin))


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


def _planes(source: Source, options: ReadOptions) -> FilePlanes:
    """Read each plane from its own file, or from an HDU of the image's file."""
    if not source.image:
        raise BadInput(f"no image file is given for '{source.id}'")
    names = {role: options.hdu_names(role) for role in ROLES}
    strict = options.hdu_image != ReadOptions.hdu_image
    found = read_planes(source.image, names, strict)
    planes, headers = dict(found.planes), dict(found.headers)
    given = {role: getattr(source, role) for role in ROLES[1:] if getattr(source, role)}
    if set(NOISE_ROLES) & set(given):  # a noise file takes precedence over any noise HDU
        for role in NOISE_ROLES:
            planes.pop(role, None)
    if options.no_psf or "psf" in given:
        planes.pop("psf", None)
    for role, path in given.items():
        if role != "psf":
            plane, headers[role] = read_plane(path, names[role], parent=found.part)
            planes[role] = in_unit_of_image(plane, role, headers[role], headers["image"])
    kinds = [role for role in NOISE_ROLES if role in planes]
    if len(kinds) > 1:
        raise BadInput(
            f"'{source.id}' has its noise as {' and as '.join(kinds)}: expected one of them; leave "
            f"one out, or say --hdu-{kinds[0]} '' to pass over an HDU"
        )
    shape = planes["image"].shape
    for role, plane in planes.items():
        if role != "psf" and plane.shape != shape:
            raise BadInput(
                f"{role} of '{source.id}' has shape {plane.shape}, expected {shape} as its image "
                f"({given.get(role, source.image)})"
            )
    return replace(found, planes=planes, headers=headers)


def _unused(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"HDUs of the image's shape that were not used: {listed}"


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
