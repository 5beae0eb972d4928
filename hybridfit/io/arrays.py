"""Prepare arrays like files: mask neighbours and bad pixels, estimate a missing sigma."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.data.flags import joined
from hybridfit.data.names import NOISE_ROLES, PSF_CENTERS
from hybridfit.data.tensors import entries
from hybridfit.detection.prepare import Draft
from hybridfit.detection.prepare import prepare as prepare_planes
from hybridfit.io.array_arguments import (
    MISSING,
    images_of,
    initial_values_of,
    numbers_of,
    planes_of,
    psfs_of,
    spread_numbers,
)
from hybridfit.io.image_header import text_in
from hybridfit.io.nddata import Plain
from hybridfit.io.options import mask_bits_problem
from hybridfit.io.photometry import Calibration, calibrate
from hybridfit.io.psf_files import checked_psf, with_span
from hybridfit.io.quality_planes import merged_quality
from hybridfit.io.read import blank_cutout, stack
from hybridfit.io.read_cutout import Cutout, assemble_cutout
from hybridfit.io.wcs import first_number, pixel_area
from hybridfit.io.wcs import pixel_scale as known_scale
from hybridfit.options.checks import check_choice, checked, described
from hybridfit.rendering.psf_images import PreparedPsf


def prepare(
    image: Any,
    *,
    psf: Any = MISSING,
    sigma: Any = None,
    variance: Any = None,
    ivar: Any = None,
    mask: Any = None,
    segmap: Any = None,
    dq: Any = None,
    weight: Any = None,
    mask_bits: str = "",
    id: Sequence[str] | str | None = None,
    zeropoint: ArrayLike | None = None,
    pixel_scale: ArrayLike | None = None,
    gain: ArrayLike | None = None,
    psf_oversampling: ArrayLike | None = None,
    psf_includes_pixel: ArrayLike = False,
    psf_center: str = "array",
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    start: ArrayLike | None = None,
    origin: ArrayLike = 0.0,
    flags: ArrayLike = 0,
    wcs: Any = None,
    messages: Sequence[str] | str = "",
    crop: str = "auto",
    mask_neighbours: bool = True,
) -> Cutouts:
    """Prepare images in memory as `read` prepares files, and return them as `Cutouts`.

    >>> cutouts = hybridfit.prepare(image, sigma=sigma, psf=psf, zeropoint=25.0)
    >>> cutouts = hybridfit.prepare([ccd1, ccd2])  # CCDData with uncertainty, mask, psf, wcs

    Pixels without data or with absurd noise are masked, a missing sigma is estimated from the
    background (plus Poisson noise where the gain is known), neighbours are detected and masked
    if neither ``mask`` nor ``segmap`` is given, large images are cropped, PSFs are normalised.
    ``flags`` and ``messages`` record what was done.

    Args:
        image: (B, H, W) or (H, W), flux units; or a list of images, of any shapes. Each may be
            an array, a tensor, a masked array (masked pixels are bad), a Quantity, or an `NDData`
            or `CCDData`, whose uncertainty, mask, unit, psf, wcs and header are used.
        psf: (h, w) for all or (B, h, w), a list of these, or None to fit without one; required
            unless the images have their own.
        sigma, variance, ivar: at most one, of the images' shapes, (H, W) for all, or a number.
        mask: of the images' shapes, nonzero = leave out.
        segmap: of the images' shapes, labels; the target's segment is kept.
        dq: of the images' shapes, bits of bad pixels; weight: likewise, 0 where there are no data.
        mask_bits: which bits of ``dq`` or ``mask`` are harmful, "1,4096"; default all.
        id: (B,) names; default the row numbers.
        zeropoint: (B,) or one for all, mag; default the header's.
        pixel_scale: (B,) or one for all, arcsec; default the WCS's.
        gain: (B,) or one for all, electrons per flux unit; default the header's.
        psf_oversampling: (B,) or one for all, PSF pixels per image pixel; default 1.
        psf_includes_pixel: as of `Cutouts`.
        psf_center: as of `ReadOptions`.
        x, y: (B,) or one for all, position of the target in the image; default its centre.
        start: (B, 7) or (7,) initial values x, y, mag, r_eff, n, q, pa, NaN where not given.
        origin: (B, 2) or (2,) x and y of the images' first pixels in a parent image.
        flags: (B,) bits that are already set.
        wcs: an astropy WCS for all, or B of them.
        messages: (B,) existing texts.
        crop: "auto" to crop large images to the galaxy and its sky, "none" to keep every pixel.
        mask_neighbours: False to leave neighbours unmasked.

    Returns:
        The cutouts; an unusable galaxy has no data, a flag, and the reason as its message.

    Raises:
        ValueError: for inconsistent shapes, units or numbers.
    """
    how = _checked_preparation(crop, psf_center, mask_neighbours, mask_bits)
    images = images_of(image)
    count = len(images)
    names = [str(i) for i in (range(count) if id is None else entries("id", id, count))]
    noise = {"sigma": sigma, "variance": variance, "ivar": ivar}
    masks = {"mask": mask, "segmap": segmap, "dq": dq, "weight": weight}
    planes = planes_of(noise | masks, images)
    psfs = psfs_of(psf, images)
    calibration = {"zeropoint": zeropoint, "pixel_scale": pixel_scale, "gain": gain}
    grid = {"psf_oversampling": psf_oversampling, "psf_includes_pixel": psf_includes_pixel}
    values = numbers_of(calibration | grid, count)
    starts = initial_values_of(start, x, y, count)
    systems = entries("wcs", wcs, count) if isinstance(wcs, list | tuple) else [wcs] * count
    galaxies = [
        _Galaxy(
            names[i],
            own if systems[i] is None else replace(own, wcs=systems[i]),
            {role: plane[i] for role, plane in planes.items()},
            psfs[i],
            {name: float(column[i]) for name, column in values.items()},
            starts[i],
        )
        for i, own in enumerate(images)
    ]
    return _with_more(stack(_cutouts(galaxies, how)), origin, flags, messages)


@dataclass(frozen=True)
class _Galaxy:
    """The user's input for one galaxy."""

    name: str
    image: Plain
    planes: Mapping[str, NDArray]
    psf: NDArray | None
    values: Mapping[str, float]
    start: NDArray[np.float64]


@dataclass(frozen=True)
class _Preparation:
    """How all galaxies are prepared."""

    crop: str
    mask_neighbours: bool
    mask_bits: str
    psfs: _Psfs


def _checked_preparation(
    crop: str, psf_center: str, mask_neighbours: bool, mask_bits: str
) -> _Preparation:
    """Return checked options of the preparation; raise ValueError for invalid ones."""
    check_choice("crop", crop, ("auto", "none"))
    check_choice("psf_center", psf_center, PSF_CENTERS)
    mask_neighbours = checked("mask_neighbours", mask_neighbours, bool)
    mask_bits = checked("mask_bits", mask_bits, str)
    if problem := mask_bits_problem(mask_bits):
        raise ValueError(problem)
    return _Preparation(crop, mask_neighbours, mask_bits, _Psfs(psf_center))


def _cutouts(galaxies: Sequence[_Galaxy], how: _Preparation) -> list[Cutout]:
    """Prepare all galaxies; raise errors that appear late only if every galaxy failed."""
    cutouts: list[Cutout] = []
    strange: list[Exception] = []  # late signs of misuse, or problems of one galaxy
    for galaxy in galaxies:
        try:
            cutouts.append(_cutout(galaxy, how))
        except BadInput as error:
            cutouts.append(blank_cutout(galaxy.name, error))
        except Exception as error:
            strange += [error] if isinstance(error, ValueError | TypeError) else []
            reason = BadInput(f"{type(error).__name__} in preparing it: {error}")
            cutouts.append(blank_cutout(galaxy.name, reason))
    if strange and len(strange) == len(galaxies):
        raise strange[0]
    return cutouts


def _cutout(galaxy: _Galaxy, how: _Preparation) -> Cutout:
    """Prepare one galaxy."""
    image, values = galaxy.image, galaxy.values
    telescope = text_in(image.header, "TELESCOP")
    given, notes = merged_quality(_given_planes(galaxy), {}, telescope, how.mask_bits)
    wcs = _celestial(image.wcs)
    known = _calibration(image, values, wcs)
    draft = prepare_planes(
        Draft(given, galaxy.start.copy()),
        crop=how.crop,
        mask_neighbours=how.mask_neighbours,
        gain=known.gain,
        gain_doubt=known.gain_doubt,
    )
    scale = known_scale(values["pixel_scale"], None, wcs)
    return assemble_cutout(
        galaxy.name,
        draft,
        known,
        how.psfs.of(galaxy.psf, galaxy.name, values["psf_oversampling"], scale),
        psf_includes_pixel=bool(values["psf_includes_pixel"]),
        pixel_scale=scale,
        wcs=wcs,
        notes=notes,
    )


def _given_planes(galaxy: _Galaxy) -> dict[str, NDArray]:
    """Return a galaxy's planes (H, W) by role, with its image's own noise and bad pixels."""
    image = galaxy.image
    wide = image.data.dtype.kind != "f" or image.data.dtype.itemsize > 4
    given = {"image": image.data.astype(np.float64 if wide else np.float32), **galaxy.planes}
    if not set(NOISE_ROLES) & set(galaxy.planes):
        given |= image.noise
    if image.bad is not None:
        given["bad"] = image.bad
    return given


def _calibration(image: Plain, values: Mapping[str, float], wcs: Any) -> Calibration:
    """Return zero point and gain of an image."""
    known = calibrate(
        image.described,
        zeropoint=first_number(values["zeropoint"]),
        gain=first_number(values["gain"]),
        area=pixel_area(first_number(values["pixel_scale"]), wcs),
        pixels=image.data,
    )
    # there is no header to search
    return replace(known, origin=known.origin.replace("BUNIT", "unit"))


@dataclass(frozen=True)
class _Psfs:
    """Prepare the PSFs; one shared by several images only once."""

    center: str
    known: dict[tuple[int, float, float], PreparedPsf] = field(default_factory=dict)

    def of(
        self, psf: NDArray | None, name: str, oversampling: float, scale: float
    ) -> PreparedPsf | None:
        """Return a galaxy's prepared PSF, or None."""
        if psf is None:
            return None
        key = id(psf), oversampling, scale
        if key not in self.known:
            given = None if math.isnan(oversampling) else oversampling
            found = checked_psf(psf, f"of '{name}'", self.center, given, None, scale)
            self.known[key] = with_span(found)
        return self.known[key]


def _celestial(wcs: Any) -> Any:
    """Return the celestial axes of a WCS, or None."""
    if wcs is None:
        return None
    if not hasattr(wcs, "has_celestial"):
        raise ValueError(f"wcs is {described(wcs)}, expected an astropy.wcs.WCS")
    return wcs.celestial if wcs.has_celestial else None


def _with_more(
    cutouts: Cutouts, origin: ArrayLike, flags: ArrayLike, messages: Sequence[str] | str
) -> Cutouts:
    """Return the cutouts with the caller's further fields."""
    count = len(cutouts)
    own = [messages] * count if isinstance(messages, str) else entries("messages", messages, count)
    bits = spread_numbers("flags", flags, count)
    if not (bits == np.round(bits)).all() or np.isinf(bits).any():
        raise ValueError(f"flags is {described(flags)}, expected whole numbers")
    first = spread_numbers("origin", origin, count, 2)
    return replace(
        cutouts,
        origin=cutouts.origin + torch.from_numpy(first.copy()),
        flags=cutouts.flags | torch.from_numpy(bits.astype(np.int64)),
        messages=[joined(*map(str, pair)) for pair in zip(own, cutouts.messages, strict=True)],
    )
