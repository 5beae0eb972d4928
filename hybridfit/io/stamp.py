"""One galaxy from its files: pixels, noise, mask, PSF, and what had to be said about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.cutouts import START_NAMES
from hybridfit.io import detect
from hybridfit.io.header import celestial_wcs, first_number, gain, pixel_scale, zeropoint
from hybridfit.io.noise import CREDIBLE, estimated_sigma, sigma_ratio, to_sigma
from hybridfit.io.options import NOISE_ROLES, ROLES, BadInput, ReadOptions, start_problem
from hybridfit.io.planes import read_plane, read_planes
from hybridfit.io.psf import checked_psf, read_psf
from hybridfit.io.sources import Source
from hybridfit.results import Flag

CENTRE = 1.5  # pixels around the target's position that should have data
LEAST_PSF = 3.0  # image pixels that an oversampled PSF spans
FIELD = 1024  # pixels: from a larger image this much is looked at


@dataclass(frozen=True, eq=False)
class Stamp:
    """One galaxy as it will be fitted, of its own shape.

    Args:
        id: the galaxy's name.
        image: (H, W) float32, flux; finite, 0 under the mask.
        sigma: (H, W) float32 in the same unit; positive, 1 under the mask.
        mask: (H, W) bool, True = leave out.
        psf: (h, w) float32, odd sides, sum 1; None without one.
        psf_oversampling: PSF pixels per image pixel.
        psf_includes_pixel: whether the PSF holds the pixel's response.
        zeropoint: magnitudes; pixel_scale: arcsec, NaN where unknown.
        origin: x, y of the first pixel in the image as given.
        start: (7,) x, y, mag, r_eff, n, q, pa in stamp pixels, NaN where not given.
        flags: bits of `hybridfit.Flag`.
        wcs: astropy WCS of the stamp, None without one.
        message: what the user should know, "" if nothing.
    """

    id: str
    image: NDArray[np.float32]
    sigma: NDArray[np.float32]
    mask: NDArray[np.bool_]
    psf: NDArray[np.float32] | None
    psf_oversampling: int
    psf_includes_pixel: bool
    zeropoint: float
    pixel_scale: float
    origin: tuple[int, int]
    start: NDArray[np.float64]
    flags: int
    wcs: Any
    message: str


@dataclass(eq=False)
class _Draft:
    """The stamp while it is being made; never leaves this module."""

    planes: dict[str, NDArray]
    start: NDArray[np.float64]
    origin: tuple[int, int] = (0, 0)
    flags: Flag = Flag(0)
    notes: tuple[str, ...] = ()

    @property
    def position(self) -> tuple[float, float]:
        """x, y where the target is expected: the start's, else the middle."""
        h, w = self.planes["image"].shape
        x, y = float(self.start[0]), float(self.start[1])
        return ((w - 1) / 2 if math.isnan(x) else x, (h - 1) / 2 if math.isnan(y) else y)

    def cut(self, box: tuple[slice, slice]) -> None:
        self.planes = {role: plane[box] for role, plane in self.planes.items()}
        dx, dy = box[1].start, box[0].start
        self.origin = self.origin[0] + dx, self.origin[1] + dy
        self.start[:2] -= dx, dy
        self.flags |= Flag.CROPPED

    def note(self, text: str, flag: Flag = Flag(0)) -> None:
        self.notes += (text,)
        self.flags |= flag


def read_stamp(source: Source, options: ReadOptions = ReadOptions()) -> Stamp:
    """Read one galaxy.

    Args:
        source: its files, from `find_sources`.
        options: see `ReadOptions`.

    Returns:
        The stamp, cropped if the image was much larger than the galaxy.

    Raises:
        BadInput: if the galaxy cannot be fitted; the text says why and what to do.
    """
    if source.problem:
        raise BadInput(source.problem)
    planes, header = _planes(source, options)
    psf_plane = planes.pop("psf", None)
    draft = _Draft(planes, _start(source, options))
    shape = draft.planes["image"].shape
    _check_position(draft)
    if options.crop == "auto" and max(shape) > FIELD:
        draft.cut(detect.box_around(draft.position, FIELD // 2, shape))
    noise_role, given, mask = _noise_and_mask(draft)
    image = np.where(mask, 0.0, draft.planes["image"]).astype(np.float32)
    _check_signal(image, mask)
    scene = detect.find_scene(image, given, mask, draft.position)
    if given is None:
        sigma = _estimate(draft, image, scene, mask, gain(source.gain, options.gain, header))
    else:
        sigma = given
        _check_sigma(draft, image, sigma, scene, mask, noise_role)
    if options.mask_neighbours and not {"mask", "segmap"} & set(planes):
        neighbours = detect.neighbour_mask(scene)
        if neighbours is not None:
            mask = mask | neighbours
            draft.flags |= Flag.MASK_ESTIMATED
    draft.planes = {"image": image, "sigma": np.where(mask, 1.0, sigma), "mask": mask}
    box = detect.crop_box(scene, image, draft.position) if options.crop == "auto" else None
    if box is not None:
        draft.cut(box)
    if draft.flags & Flag.CROPPED:
        h, w = draft.planes["image"].shape
        draft.note(f"cropped from {shape[0]} x {shape[1]} to {h} x {w} pixels")
    _check_centre(draft)
    psf, oversampling, includes = _psf(source, options, psf_plane, draft)
    wcs, wcs_note = celestial_wcs(header, draft.origin)
    magnitude, magnitude_note = zeropoint(source.zeropoint, options.zeropoint, header)
    h, w = draft.planes["image"].shape
    mask = draft.planes["mask"]
    return Stamp(
        id=source.id,
        image=np.where(mask, np.float32(0), draft.planes["image"]),
        sigma=draft.planes["sigma"].astype(np.float32),
        mask=np.ascontiguousarray(mask),
        psf=psf,
        psf_oversampling=oversampling,
        psf_includes_pixel=includes,
        zeropoint=magnitude,
        pixel_scale=pixel_scale(source.pixel_scale, options.pixel_scale, wcs),
        origin=draft.origin,
        start=draft.start,
        flags=int(draft.flags),
        wcs=wcs,
        message="; ".join(filter(None, (*draft.notes, wcs_note, magnitude_note))),
    )


def _planes(source: Source, options: ReadOptions) -> tuple[dict[str, NDArray], fits.Header]:
    """Every plane of a galaxy from its own files, else from the HDUs of its image's file."""
    if not source.image:
        raise BadInput(f"no image file is given for '{source.id}'")
    names = {role: options.hdu_names(role) for role in ROLES}
    strict = options.hdu_image != ReadOptions.hdu_image
    planes, header = read_planes(source.image, names, strict)
    given = {role: getattr(source, role) for role in ROLES[1:] if getattr(source, role)}
    if set(NOISE_ROLES) & set(given):  # a noise file goes before a noise HDU of any kind
        for role in NOISE_ROLES:
            planes.pop(role, None)
    if options.no_psf or "psf" in given:
        planes.pop("psf", None)
    for role, path in given.items():
        if role != "psf":
            planes[role] = read_plane(path, names[role])[0]
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
    return planes, header


def _start(source: Source, options: ReadOptions) -> NDArray[np.float64]:
    given = [getattr(options, name) for name in START_NAMES]
    pairs = zip(source.start, given, strict=True)
    start = [option if math.isnan(own) and option is not None else own for own, option in pairs]
    problem = start_problem(start)
    if problem:
        raise BadInput(f"{problem} (galaxy '{source.id}')")
    return np.array(start, dtype=np.float64)


def _check_position(draft: _Draft) -> None:
    h, w = draft.planes["image"].shape
    x, y = draft.position
    if not (-0.5 <= x < w - 0.5 and -0.5 <= y < h - 0.5):
        raise BadInput(
            f"start x, y = {x:g}, {y:g} lies outside the image of {w} x {h} pixels: expected "
            "pixels of the file, the first of which is 0, 0"
        )


def _noise_and_mask(
    draft: _Draft,
) -> tuple[str, NDArray[np.float32] | None, NDArray[np.bool_]]:
    """The kind of noise given, sigma (None if there is none), and the mask so far."""
    image = draft.planes["image"]
    mask = np.zeros(image.shape, dtype=bool)
    if "mask" in draft.planes:
        given = draft.planes["mask"]
        mask |= given != 0  # NaN is not 0: left out
        _check_mask(draft, given)
    if "segmap" in draft.planes:
        segments = np.nan_to_num(draft.planes["segmap"]).astype(np.int64)
        target = detect.label_at(segments, draft.position, CENTRE)
        if not target:
            x, y = draft.position
            draft.note(f"the segmentation map has no segment at x, y = {x:.1f}, {y:.1f}")
        mask |= (segments != 0) & (segments != target)
    if mask.all():
        raise BadInput("every pixel is masked: nothing is left to fit", int(Flag.NO_DATA))
    bad = ~np.isfinite(image) | (np.abs(image) > 1e37)  # the square of what float32 holds is not
    padding = detect.padding(image) & ~bad
    bad |= padding
    role = next((role for role in NOISE_ROLES if role in draft.planes), "")
    sigma = None
    if role:
        plane = draft.planes[role]
        deviation = to_sigma(plane, role)
        unusable = ~np.isfinite(deviation)
        if unusable[~mask].all():
            raise BadInput(f"no pixel has a usable {role}: expected positive numbers in flux units")
        if role == "ivar":
            mask |= plane == 0  # the usual way to say "no data"
        bad |= unusable
        sigma = np.where(unusable, 1.0, deviation).astype(np.float32)
    count = int((bad & ~mask).sum())
    if count:
        among = ", edges of one value among them" if (padding & ~mask).any() else ""
        draft.note(f"{count} pixels without a usable value were masked{among}", Flag.BAD_PIXELS)
    return role, sigma, mask | bad


def _check_mask(draft: _Draft, given: NDArray) -> None:
    """Flag a mask that hides the target or seems to be a segmentation map."""
    x, y = draft.position
    centre = [given[detect.box_around((x, y), half, given.shape)] for half in (1, 2)]
    hidden = any((part != 0).mean() > 0.5 for part in centre)
    if not hidden and not (centre[0] != 0).any():
        return
    several = len(np.unique(given[np.isfinite(given) & (given > 0)])) > 1
    if hidden or several:
        hint = (
            "if it is a segmentation map, give it as segmap"
            if several
            else "is it one of objects, or inverted?"
        )
        draft.note(f"the mask hides the target: {hint}", Flag.SUSPECT_MASK)


def _check_signal(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    if mask.all():
        raise BadInput("no pixel has data: all are NaN, masked or without noise", int(Flag.NO_DATA))
    values = image[~mask]
    if values.min() == values.max():
        raise BadInput(
            f"the image is constant ({values[0]:g} in every pixel): nothing to fit",
            int(Flag.NO_SIGNAL),
        )


def _check_centre(draft: _Draft) -> None:
    mask = draft.planes["mask"]
    x, y = draft.position
    box = detect.box_around((x, y), 2, mask.shape)
    rows, columns = np.ogrid[box]
    if (mask[box] & ((columns - x) ** 2 + (rows - y) ** 2 <= CENTRE**2)).any():
        draft.flags |= Flag.MASKED_CENTRE


def _estimate(
    draft: _Draft,
    image: NDArray[np.float32],
    scene: detect.Scene,
    mask: NDArray[np.bool_],
    electrons: float | None,
) -> NDArray[np.float32]:
    try:
        sigma = estimated_sigma(image, scene, mask, electrons)
    except ValueError as error:
        raise BadInput(str(error)) from error
    how = "no gain known, so without Poisson noise" if electrons is None else f"gain {electrons:g}"
    draft.note(f"sigma estimated from the background ({how})", Flag.SIGMA_ESTIMATED)
    return sigma.astype(np.float32)


def _check_sigma(
    draft: _Draft,
    image: NDArray[np.float32],
    sigma: NDArray[np.float32],
    scene: detect.Scene,
    mask: NDArray[np.bool_],
    role: str,
) -> None:
    ratio = sigma_ratio(image, sigma, scene, mask)
    if ratio is not None and not CREDIBLE[0] <= ratio <= CREDIBLE[1]:
        draft.note(
            f"blank sky scatters {ratio:.2g} times as much as the {role} says", Flag.BAD_SIGMA
        )


def _psf(
    source: Source, options: ReadOptions, plane: NDArray | None, draft: _Draft
) -> tuple[NDArray[np.float32] | None, int, bool]:
    """The galaxy's PSF, its oversampling and whether it includes the pixel."""
    oversampling = first_number(source.psf_oversampling, options.psf_oversampling)
    includes = bool(first_number(source.psf_includes_pixel, float(options.psf_includes_pixel)))
    if oversampling is None or oversampling < 1 or oversampling != int(oversampling):
        raise BadInput(f"psf_oversampling is {oversampling}, expected a whole number >= 1")
    if options.no_psf:
        draft.flags |= Flag.NO_PSF
        return None, 1, False
    path = source.psf or (options.psf if plane is None else None)
    if path:
        psf, flags = read_psf(path, options.psf_center, int(oversampling))
    elif plane is not None:
        psf, flags = checked_psf(plane, source.image, options.psf_center, int(oversampling))
    else:
        looked = f"{options.pattern_psf.replace('{id}', source.id)}, HDU {options.hdu_psf or 'PSF'}"
        raise BadInput(
            f"no PSF found for '{source.id}' (looked for {looked}): pass --psf FILE, or --no-psf "
            "to fit without one"
        )
    draft.flags |= Flag(flags)
    span = max(psf.shape) / oversampling
    if oversampling > 1 and span < LEAST_PSF:
        text = f"the PSF spans only {span:.1f} image pixels: is psf_oversampling right?"
        draft.note(text, Flag.BAD_PSF)
    return psf, int(oversampling), includes
