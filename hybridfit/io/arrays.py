"""Arrays prepared as files are: neighbours masked, a missing sigma made, bad pixels left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from astropy.nddata import Cutout2D, NDData
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.data.flags import joined
from hybridfit.data.names import (
    NOISE_ROLES,
    OVERSAMPLINGS,
    PSF_CENTERS,
    START_NAMES,
    is_oversampling,
)
from hybridfit.data.quantities import in_unit_of, without_units
from hybridfit.data.tensors import entries
from hybridfit.detection.prepare import Draft
from hybridfit.detection.prepare import prepare as prepare_planes
from hybridfit.io.image_header import text_in
from hybridfit.io.nddata import Plain, plain_array, plain_image
from hybridfit.io.options import mask_bits_problem, start_problem
from hybridfit.io.photometry import calibrate
from hybridfit.io.psf_files import checked_psf, with_span
from hybridfit.io.quality_planes import merged_quality
from hybridfit.io.read import blank_cutout, stack
from hybridfit.io.read_cutout import Cutout, assemble_cutout
from hybridfit.io.wcs import first_number, pixel_area
from hybridfit.io.wcs import pixel_scale as known_scale
from hybridfit.options.checks import check_choice, checked, described
from hybridfit.rendering.psf_images import PreparedPsf

MISSING: Any = object()


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
    """Prepare images in memory as `read` does files, and return them as `Cutouts`.

    >>> cutouts = hybridfit.prepare(image, sigma=sigma, psf=psf, zeropoint=25.0)
    >>> cutouts = hybridfit.prepare([ccd1, ccd2])  # CCDData with uncertainty, mask, psf, wcs

    Pixels without data or with absurd noise are masked, a missing sigma is made from the
    background (and from Poisson noise where the gain is known), neighbours are found and masked
    where neither ``mask`` nor ``segmap`` is given, large images are cropped, PSFs are normalised.
    What was done stands in ``flags`` and ``messages``.

    Args:
        image: (B, H, W) or (H, W), flux units; or a list of images, of any shapes. Each may be
            an array, a tensor, a masked array (masked pixels are bad), a Quantity, or an `NDData`
            or `CCDData`, whose uncertainty, mask, unit, psf, wcs and header are taken.
        psf: (h, w) for all or (B, h, w), a list of such, or None to fit without one; needed
            unless the images have their own.
        sigma, variance, ivar: one at most, of the images' shapes, (H, W) for all, or a number.
        mask: of the images' shapes, not 0 = leave out.
        segmap: of the images' shapes, labels; the target's segment is kept.
        dq: of the images' shapes, bits of bad pixels; weight: the same, 0 where there are no data.
        mask_bits: which bits of ``dq`` or ``mask`` are harmful, "1,4096"; default all.
        id: (B,) names; default the row numbers.
        zeropoint: (B,) or one for all, mag; default the header's.
        pixel_scale: (B,) or one for all, arcsec; default the WCS's.
        gain: (B,) or one for all, electrons per flux unit; default the header's.
        psf_oversampling: (B,) or one for all, PSF pixels per image pixel; default 1.
        psf_includes_pixel: as of `Cutouts`.
        psf_center: as of `ReadOptions`.
        x, y: (B,) or one for all, where the target is in the image; default its middle.
        start: (B, 7) or (7,) starting values x, y, mag, r_eff, n, q, pa, NaN where not given.
        origin: (B, 2) or (2,) x and y of the images' first pixels in a parent.
        flags: (B,) bits to begin with.
        wcs: an astropy WCS for all, or B of them.
        messages: (B,) texts to begin with.
        crop: "auto" to cut large images to the galaxy and its sky, "none" to keep every pixel.
        mask_neighbours: False to leave neighbours in.

    Returns:
        The cutouts; a galaxy that cannot be used is one without data, flagged, with the reason.

    Raises:
        ValueError: for shapes, units or numbers that do not fit together.
    """
    check_choice("crop", crop, ("auto", "none"))
    check_choice("psf_center", psf_center, PSF_CENTERS)
    mask_neighbours = checked("mask_neighbours", mask_neighbours, bool)
    mask_bits = checked("mask_bits", mask_bits, str)
    if problem := mask_bits_problem(mask_bits):
        raise ValueError(problem)
    images = _images(image)
    count = len(images)
    names = [str(i) for i in (range(count) if id is None else entries("id", id, count))]
    noise_and_masks = {
        "sigma": sigma,
        "variance": variance,
        "ivar": ivar,
        "mask": mask,
        "segmap": segmap,
        "dq": dq,
        "weight": weight,
    }
    planes = _all_planes(noise_and_masks, images)
    psfs, ready = _psfs(psf, images), _Psfs(psf_center)
    numbers = {
        "zeropoint": zeropoint,
        "pixel_scale": pixel_scale,
        "gain": gain,
        "psf_oversampling": psf_oversampling,
        "psf_includes_pixel": psf_includes_pixel,
    }
    values = _checked_numbers(numbers, count)
    starts = _starts(start, x, y, count)
    systems = entries("wcs", wcs, count) if isinstance(wcs, list | tuple) else [wcs] * count
    stamps: list[Cutout] = []
    strange: list[Exception] = []  # misuse that is seen late, or a galaxy's own
    for i, own in enumerate(images):
        single = {name: float(column[i]) for name, column in values.items()}
        try:
            stamps.append(
                _stamp(
                    names[i],
                    own if systems[i] is None else replace(own, wcs=systems[i]),
                    {role: plane[i] for role, plane in planes.items()},
                    psfs[i],
                    single,
                    starts[i],
                    ready,
                    crop=crop,
                    mask_neighbours=mask_neighbours,
                    mask_bits=mask_bits,
                )
            )
        except BadInput as error:
            stamps.append(blank_cutout(names[i], error))
        except Exception as error:
            strange += [error] if isinstance(error, ValueError | TypeError) else []
            reason = BadInput(f"{type(error).__name__} in preparing it: {error}")
            stamps.append(blank_cutout(names[i], reason))
    if strange and len(strange) == count:
        raise strange[0]
    return _with_more(stack(stamps), origin, flags, messages)


def _all_planes(given: Mapping[str, Any], images: Sequence[Plain]) -> dict[str, list[NDArray]]:
    """Planes of every image by role; of noise there may be one kind."""
    planes = {
        role: _planes(role, value, images) for role, value in given.items() if value is not None
    }
    kinds = [role for role in NOISE_ROLES if role in planes]
    if len(kinds) > 1:
        raise ValueError(f"noise is given as {' and as '.join(kinds)}: expected one of them")
    return planes


def _checked_numbers(given: Mapping[str, Any], count: int) -> dict[str, NDArray[np.float64]]:
    """(B,) numbers by name, without units, NaN where none was given."""
    _, plain = without_units(np.zeros(0), given)
    values = {name: _numbers(name, value, count) for name, value in plain.items()}
    finer = values["psf_oversampling"]
    wrong = [value for value in finer.tolist() if not (math.isnan(value) or is_oversampling(value))]
    if wrong:
        raise ValueError(f"psf_oversampling is {wrong[0]:g}, expected {OVERSAMPLINGS}")
    for name in ("pixel_scale", "gain"):
        if (values[name] <= 0).any() or np.isinf(values[name]).any():
            raise ValueError(f"{name} is {described(plain[name])}, expected numbers above 0")
    if np.isinf(values["zeropoint"]).any():
        raise ValueError(f"zeropoint is {described(plain['zeropoint'])}, expected finite numbers")
    return values


def _stamp(
    name: str,
    image: Plain,
    planes: dict[str, NDArray],
    psf: NDArray | None,
    values: dict[str, float],
    start: NDArray[np.float64],
    ready: _Psfs,
    *,
    crop: str,
    mask_neighbours: bool,
    mask_bits: str,
) -> Cutout:
    """One galaxy prepared."""
    wide = image.data.dtype.kind != "f" or image.data.dtype.itemsize > 4
    given = {"image": image.data.astype(np.float64 if wide else np.float32), **planes}
    if not set(NOISE_ROLES) & set(planes):
        given |= image.noise
    if image.bad is not None:
        given["bad"] = image.bad
    telescope = text_in(image.header, "TELESCOP")
    given, told = merged_quality(given, {}, telescope, mask_bits)
    wcs = _celestial(image.wcs)
    area = pixel_area(first_number(values["pixel_scale"]), wcs)
    known = calibrate(
        image.described,
        zeropoint=first_number(values["zeropoint"]),
        gain=first_number(values["gain"]),
        area=area,
        pixels=image.data,
    )
    draft = prepare_planes(
        Draft(given, start.copy()),
        crop=crop,
        mask_neighbours=mask_neighbours,
        gain=known.gain,
        gain_doubt=known.gain_doubt,
    )
    scale = known_scale(values["pixel_scale"], None, wcs)
    found = None if psf is None else ready.of(psf, name, values["psf_oversampling"], scale)
    return assemble_cutout(
        name,
        draft,
        # there is no header to look into
        replace(known, origin=known.origin.replace("BUNIT", "unit")),
        found,
        psf_includes_pixel=bool(values["psf_includes_pixel"]),
        pixel_scale=scale,
        wcs=wcs,
        notes=told,
    )


@dataclass(frozen=True)
class _Psfs:
    """PSFs made ready, those that several images share only once."""

    center: str
    known: dict[tuple[int, float, float], PreparedPsf] = field(default_factory=dict)

    def of(self, psf: NDArray, name: str, oversampling: float, scale: float) -> PreparedPsf:
        key = id(psf), oversampling, scale
        if key not in self.known:
            given = None if math.isnan(oversampling) else oversampling
            found = checked_psf(psf, f"of '{name}'", self.center, given, None, scale)
            self.known[key] = with_span(found)
        return self.known[key]


def _images(image: Any) -> list[Plain]:
    """One entry for each galaxy."""
    if isinstance(image, list | tuple) and image and all(_is_image(one) for one in image):
        images = [plain_image(one, f"image {i}") for i, one in enumerate(image)]
    else:
        whole = plain_image(image)
        if whole.data.ndim not in (2, 3):
            raise ValueError(
                f"image has shape {whole.data.shape}, expected (B, H, W) or (H, W), or a list"
            )
        images = [whole] if whole.data.ndim == 2 else [whole[i] for i in range(len(whole.data))]
    for i, one in enumerate(images):
        if one.data.ndim != 2 or min(one.data.shape) < 5:
            raise ValueError(
                f"image {i} has shape {one.data.shape}, expected (H, W) of 5 pixels a side or more"
            )
    if not images:
        raise ValueError("image is empty, expected at least one (H, W)")
    return images


def _is_image(value: Any) -> bool:
    return isinstance(value, NDData | Cutout2D) or getattr(value, "ndim", 0) == 2


def _planes(role: str, value: Any, images: Sequence[Plain]) -> list[NDArray]:
    """A plane for each image: given as a number, (H, W) for all, (B, H, W) or a list."""
    count = len(images)
    if isinstance(value, list | tuple) and len(value) == count and all(map(_is_image, value)):
        several = [plain_array(one, role) for one in value]
    else:
        whole, bad, unit = plain_array(value, role)
        single = whole.ndim < 3
        if not single and len(whole) not in (1, count):
            raise ValueError(
                f"{role} has {len(whole)} planes, expected {count}, one for each image"
            )
        rows = [() if single else (0 if len(whole) == 1 else i) for i in range(count)]
        several = [(whole[row], None if bad is None else bad[row], unit) for row in rows]
    planes = []
    for (plane, masked, unit), image in zip(several, images, strict=True):
        if plane.ndim == 0:
            plane = np.full(image.data.shape, plane)
        if plane.shape != image.data.shape:
            raise ValueError(
                f"{role} has shape {plane.shape}, expected {image.data.shape} as the image"
            )
        if role in NOISE_ROLES:
            plane = in_unit_of(image.unit, role, plane, unit)
        if masked is not None:  # no noise is known there; or left out
            plane = np.where(masked, np.nan if role in NOISE_ROLES else 1, plane)
        planes.append(plane)
    return planes


def _psfs(psf: Any, images: Sequence[Plain]) -> list[NDArray | None]:
    """The PSF of each image, None without one."""
    count = len(images)
    if psf is None:
        return [None] * count
    if psf is MISSING:
        own = [image.psf for image in images]
        if any(one is None for one in own):
            raise ValueError(
                "psf is missing: expected psf=..., (h, w) or (B, h, w), or psf=None to fit "
                "without one"
            )
        return own
    if isinstance(psf, list | tuple) and len(psf) == count and all(map(_is_image, psf)):
        return [plain_image(one, "psf").data for one in psf]
    whole = plain_image(psf, "psf").data
    if whole.ndim == 2:
        return [whole] * count
    if whole.ndim != 3 or len(whole) not in (1, count):
        raise ValueError(f"psf has shape {whole.shape}, expected (h, w) for all or ({count}, h, w)")
    return [whole[0 if len(whole) == 1 else i] for i in range(count)]


def _numbers(name: str, value: ArrayLike | None, count: int, *shape: int) -> NDArray[np.float64]:
    """(B, ...) numbers, NaN where none was given."""
    if value is None:
        return np.full((count, *shape), math.nan)
    array = plain_array(value, name)[0].astype(np.float64)
    if array.shape not in ((), (1,), shape, (count, *shape)):
        raise ValueError(f"{name} has shape {array.shape}, expected {(count, *shape)}")
    return np.broadcast_to(array, (count, *shape))


def _starts(
    start: ArrayLike | None, x: ArrayLike | None, y: ArrayLike | None, count: int
) -> NDArray[np.float64]:
    """(B, 7) starting values, checked."""
    starts = _numbers("start", start, count, len(START_NAMES)).copy()
    for column, name, value in ((0, "x", x), (1, "y", y)):
        if value is not None:
            starts[:, column] = _numbers(name, value, count)
    for row in starts:
        problem = start_problem(tuple(row))
        if problem:
            raise ValueError(problem)
    return starts


def _celestial(wcs: Any) -> Any:
    """The celestial axes of a WCS; None where there are none."""
    if wcs is None:
        return None
    if not hasattr(wcs, "has_celestial"):
        raise ValueError(f"wcs is {described(wcs)}, expected an astropy.wcs.WCS")
    return wcs.celestial if wcs.has_celestial else None


def _with_more(
    cutouts: Cutouts, origin: ArrayLike, flags: ArrayLike, messages: Sequence[str] | str
) -> Cutouts:
    """The cutouts with what the caller knows beside them."""
    count = len(cutouts)
    told = [messages] * count if isinstance(messages, str) else entries("messages", messages, count)
    bits = _numbers("flags", flags, count)
    if not (bits == np.round(bits)).all() or np.isinf(bits).any():
        raise ValueError(f"flags is {described(flags)}, expected whole numbers")
    first = _numbers("origin", origin, count, 2)
    return replace(
        cutouts,
        origin=cutouts.origin + torch.from_numpy(first.copy()),
        flags=cutouts.flags | torch.from_numpy(bits.astype(np.int64)),
        messages=[joined(*map(str, pair)) for pair in zip(told, cutouts.messages, strict=True)],
    )
