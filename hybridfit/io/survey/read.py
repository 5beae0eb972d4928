"""Read an image of a survey: find its files, recognise its layout, calibrate it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.names import NOISE_ROLES
from hybridfit.io.address import parse_address
from hybridfit.io.asinh import LINEAR, is_asinh
from hybridfit.io.bit_masks import bit_names
from hybridfit.io.bit_tables import BitTable
from hybridfit.io.image_header import ImageHeader, text_in
from hybridfit.io.options import ROLES, ReadOptions
from hybridfit.io.photometry import Calibration, calibrate
from hybridfit.io.planes import LocatedPlanes, locate_planes, read_section
from hybridfit.io.psf_oversampling import SCALE_KEYS
from hybridfit.io.survey.image import Noise, SurveyImage
from hybridfit.io.survey.layout import Facts, Layout
from hybridfit.io.survey.layouts import LAYOUTS
from hybridfit.io.survey.options import AUTO, SurveyOptions
from hybridfit.io.survey.sdss import NOISE_NOTE, detector_noise, frame_sigma
from hybridfit.io.view import PartOf
from hybridfit.io.wcs import celestial_wcs, first_number, pixel_area, pixel_scale

SAMPLE = 512  # pixels: side of the middle of an image from which its scatter is known
GIVEN = ("sigma", "variance", "ivar", "weight", "mask")


def read_survey_image(path: str | Path, options: SurveyOptions = SurveyOptions()) -> SurveyImage:
    """Return an image with its noise, mask and calibration; pixels are read when asked for.

    Args:
        path: file, or ``file.fits[HDU]``; other files of the image are found beside it.
        options: see `SurveyOptions`.

    Raises:
        BadInput: if there is no such file or image, or it is not of the layout that was asked for.
    """
    text = str(path)
    facts, layout = _recognised(text, options.layout)
    located = locate_planes(text, _names(layout.hdus))
    located, notes = _with_files(located, layout, options, text)
    header = located.headers["image"]
    wcs, wcs_note = celestial_wcs(header, located.part.origin)
    calibration = _calibration(located, layout, options, wcs)
    table = layout.bits(facts) if layout.bits is not None else None
    noise, noise_note = _noise(located, layout, text)
    unit = ImageHeader.of(header)
    notes = (*calibration.notes, LINEAR if is_asinh(header) else "", *notes, noise_note)
    return SurveyImage(
        path=text,
        layout=layout.name,
        shape=located.part.shape,
        addresses=located.addresses,
        headers=located.headers,
        wcs=wcs,
        zeropoint=calibration.zeropoint,
        zeropoint_from=calibration.origin,
        unit=unit.unit.name,
        pixel_scale=_scale(header, wcs, options),
        gain=calibration.gain,
        exposure=unit.exposure,
        band=facts.band,
        bits=_bits(located, table),
        notes=tuple(filter(None, (*notes, wcs_note, *calibration.gain_notes))),
        part=located.part,
        mask_bits=options.mask_bits,
        table=table,
        noise=noise,
    )


def _bits(located: LocatedPlanes, table: BitTable | None) -> dict[str, int]:
    """Return the names of the mask's bits; empty without a mask, or where it has no names."""
    header = next((located.headers[r] for r in ("mask", "dq") if r in located.headers), None)
    if header is None:
        return {}
    return bit_names(header, text_in(located.headers["image"], "TELESCOP"), table)


def _names(own: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the HDU names of each role: those of a layout, else those of cutouts."""
    usual = {role: tuple(ReadOptions().hdu_names(role)) for role in ROLES if role != "segmap"}
    return {**{role: names for role, names in usual.items() if role != "psf"}, **own}


def _recognised(text: str, wanted: str) -> tuple[Facts, Layout]:
    """Return the layout that was asked for, or the first that recognises the image."""
    located = locate_planes(text, _names({}))
    name = Path(parse_address(text).path).name
    facts = Facts(name, located.names, located.headers["image"], located.primary)
    fitting = (
        layout
        for layout in LAYOUTS
        if (layout.recognise(facts) if wanted == AUTO else layout.name == wanted)
    )
    return facts, next(fitting)


def _with_files(
    located: LocatedPlanes, layout: Layout, options: SurveyOptions, text: str
) -> tuple[LocatedPlanes, tuple[str, ...]]:
    """Return the planes with those in other files, and notes; given files take precedence."""
    addresses, headers = dict(located.addresses), dict(located.headers)
    given = {role: getattr(options, role) for role in GIVEN if getattr(options, role)}
    image = Path(parse_address(text).path)
    found = _companions(layout, image, {*addresses, *given})
    if set(NOISE_ROLES) & set(given):
        addresses = {role: where for role, where in addresses.items() if role not in NOISE_ROLES}
    if {"mask"} & {*given, *found}:
        addresses.pop("dq", None)
    for role, where in {**found, **given}.items():
        plane = locate_planes(where, {"image": _preferred(role)})
        addresses[role], headers[role] = plane.addresses["image"], plane.headers["image"]
    if options.weight_is_ivar and "weight" in addresses:
        addresses["ivar"], headers["ivar"] = addresses["weight"], headers["weight"]
    headers = {role: headers[role] for role in addresses}
    kinds = [role for role in NOISE_ROLES if role in addresses]
    if len(kinds) > 1:
        raise BadInput(f"'{text}' has its noise as {' and as '.join(kinds)}: expected one of them")
    notes = _notes(addresses, found, layout, image)
    return replace(located, addresses=addresses, headers=headers), notes


def _companions(layout: Layout, image: Path, known: set[str]) -> dict[str, str]:
    """Return the files beside an image by role; none for roles that are known already."""
    found: dict[str, str] = {}
    for companion in layout.companions:
        taken = {*found, *known}
        same = set(NOISE_ROLES) if companion.role in NOISE_ROLES else {companion.role}
        path = None if same & taken else companion.find(image)
        if path is not None:
            found[companion.role] = str(path)
    return found


def _preferred(role: str) -> tuple[str, ...]:
    """Return names of the HDU with a plane in a file of its own."""
    return (*ReadOptions().hdu_names(role), "MASKBITS", "IMAGE", "SCI")


def _notes(
    addresses: Mapping[str, str], found: Mapping[str, str], layout: Layout, image: Path
) -> tuple[str, ...]:
    """Return notes on files that were found or not, and on the noise."""
    used = tuple(f"{role} from {Path(path).name}" for role, path in found.items())
    if set(NOISE_ROLES) & set(addresses) or layout.name == "sdss":
        return used
    names = (c.wanted(image) for c in layout.companions if c.role in NOISE_ROLES)
    looked = ", ".join(dict.fromkeys(filter(None, names)))
    missing = f"no noise map was found{f' (looked for {looked})' if looked else ''}"
    if "weight" in addresses:
        missing += "; the weight map only marks pixels without data, unless weight_is_ivar is set"
    return (*used, missing)


def _calibration(
    located: LocatedPlanes, layout: Layout, options: SurveyOptions, wcs: Any
) -> Calibration:
    """Return zero point and gain; that of the survey where the header has none."""
    header = located.headers["image"]
    found = calibrate(
        header,
        zeropoint=options.zeropoint,
        gain=options.gain,
        area=pixel_area(options.pixel_scale, wcs),
        pixels=_sample(located.addresses["image"], located.part),
    )
    if found.origin or layout.zeropoint is None:
        return found
    note = f"zero point {layout.zeropoint:g} is that of every {layout.title}"
    return replace(found, zeropoint=layout.zeropoint, origin=layout.title, notes=(note,))


def _sample(address: str, part: PartOf) -> NDArray[np.floating]:
    """Return the middle of an image, by which the scatter of its pixels is known."""
    (h, w), half = part.shape, SAMPLE // 2
    x, y = max(w // 2 - half, 0), max(h // 2 - half, 0)
    return read_section(address, (x, min(x + SAMPLE, w), y, min(y + SAMPLE, h)))[0]


def _scale(header: fits.Header, wcs: Any, options: SurveyOptions) -> float:
    """Return arcsec per pixel: as given, from the WCS, or from a keyword; NaN if unknown."""
    found = pixel_scale(math.nan, options.pixel_scale, wcs)
    if math.isfinite(found):
        return found
    image = ImageHeader.of(header)
    own = first_number(*(image.positive(key) for key in SCALE_KEYS))
    return math.nan if own is None else own


def _noise(located: LocatedPlanes, layout: Layout, text: str) -> tuple[Noise | None, str]:
    """Return the function that computes the noise of a tile, for surveys without noise maps."""
    if layout.name != "sdss" or set(NOISE_ROLES) & set(located.addresses):
        return None, ""
    path, header = parse_address(text).path, located.headers["image"]
    detector_noise(header)  # errors are raised now, not with the first tile
    return partial(_frame_noise, path, header), NOISE_NOTE


def _frame_noise(
    path: str, header: fits.Header, image: NDArray[np.floating], origin: tuple[int, int]
) -> NDArray[np.floating]:
    return frame_sigma(path, header, image, origin)
