"""Preparation of every cutout before it is fitted, whether from files or from arrays.

Input are the planes as given; output are image, noise map and mask, ready for the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutout_checks import LARGEST, ORDINARY, SMALLEST, absurd_pixels
from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.data.names import NOISE_ROLES
from hybridfit.data.positions import to_cutout, to_parent
from hybridfit.detection import cropping, detect
from hybridfit.detection.detect import middle
from hybridfit.detection.gain_check import Doubt
from hybridfit.detection.masking import given_mask, masked_centre
from hybridfit.detection.no_data import without_data
from hybridfit.detection.noise import CREDIBLE, estimated_sigma, sigma_ratio, to_sigma
from hybridfit.detection.noise_outliers import noise_outliers

FIELD = 1024  # pixels: larger images are searched only within this size around the target


@dataclass(frozen=True, eq=False)
class Draft:
    """A cutout during preparation.

    Args:
        planes: (H, W) each, by role (`hybridfit.io.options.ROLES` without the PSF); after
            preparation "image" and "sigma" (float32) and "mask" (bool, True for excluded pixels).
        start: (7,) x, y, mag, r_eff, n, q, pa in pixels of the planes, NaN if not given.
        origin: x, y of the first pixel in the parent image.
        flags: bits raised so far.
        notes: notes for the user.
    """

    planes: Mapping[str, NDArray]
    start: NDArray[np.float64]
    origin: tuple[int, int] = (0, 0)
    flags: Flag = Flag(0)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width."""
        h, w = self.planes["image"].shape
        return h, w

    @property
    def position(self) -> tuple[float, float]:
        """Return the expected x, y of the target: the initial position, else the centre."""
        h, w = self.shape
        x, y = float(self.start[0]), float(self.start[1])
        return ((w - 1) / 2 if math.isnan(x) else x, (h - 1) / 2 if math.isnan(y) else y)

    def cut(self, box: tuple[slice, slice]) -> Draft:
        """Return the part of the draft in rows and columns ``box``."""
        x, y = box[1].start, box[0].start
        start = self.start.copy()
        start[0], start[1] = to_cutout(start[0], start[1], (x, y))
        return replace(
            self,
            planes={role: plane[box] for role, plane in self.planes.items()},
            start=start,
            origin=(self.origin[0] + x, self.origin[1] + y),
            flags=self.flags | Flag.CROPPED,
        )

    def noted(self, text: str = "", flag: Flag = Flag(0)) -> Draft:
        """Return the draft with a note, if there is one, and a flag."""
        return replace(self, notes=self.notes + ((text,) if text else ()), flags=self.flags | flag)


def prepare(
    draft: Draft,
    *,
    crop: str = "auto",
    mask_neighbours: bool = True,
    gain: float | None = None,
    gain_doubt: Doubt = Doubt.NONE,
) -> Draft:
    """Return a cutout that is ready to be fitted.

    Args:
        draft: planes as given, all of one shape; at most one of "sigma", "variance", "ivar".
            "bad" marks pixels without data; it is not a mask of neighbours.
        crop: "auto" to cut large images to the galaxy and its sky, "none" to keep every pixel.
        mask_neighbours: find and mask neighbours if neither mask nor segmap is given.
        gain: electrons per unit of flux, for a noise map that must be estimated; None if unknown.
        gain_doubt: how doubtful the gain is; a gain that the pixels contradict is not used.

    Returns:
        Planes "image" (float32, 0 under the mask), "sigma" (float32, 1 under the mask), "mask".

    Raises:
        BadInput: if nothing can be fitted; the message says why and what to do.
    """
    _check_position(draft)
    shape, given = draft.shape, set(draft.planes)
    draft = _near_target(draft) if crop == "auto" else draft
    draft, role, sigma, mask = _usable(*_with_given_mask(draft))
    image = _checked_image(draft, mask)
    detection = detect.detect_objects(image, sigma, mask, draft.position)
    box = cropping.crop_box(detection, image, sigma, draft.position)
    draft = _flagged_frame(draft, detection, box, shape)
    if sigma is None:
        draft, sigma = _estimate(draft, image, detection, mask, gain, gain_doubt)
    else:
        draft = _check_sigma(draft, image, sigma, detection, mask, role)
    if mask_neighbours and not {"mask", "segmap"} & given:
        draft, mask = _with_neighbours(draft, detection, mask)
    draft = replace(draft, planes={"image": image, "sigma": sigma, "mask": mask})
    return _finished(draft, box if crop == "auto" else None, shape)


def completed(draft: Draft, target: tuple[float, float] | None, note: str = "") -> Draft:
    """Fill masked pixels, so that no NaN enters arithmetic, and flag a masked target.

    Args:
        draft: a draft with planes "image", "sigma" and "mask".
        target: x, y of the target, None if unknown.
        note: note on a masked target.
    """
    mask = np.ascontiguousarray(draft.planes["mask"])
    if target is not None and masked_centre(mask, target):
        draft = draft.noted(note, Flag.MASKED_CENTRE)
    planes = {
        "image": np.where(mask, np.float32(0), draft.planes["image"]).astype(np.float32),
        "sigma": np.where(mask, np.float32(1), draft.planes["sigma"]).astype(np.float32),
        "mask": mask,
    }
    return replace(draft, planes=planes)


def noted_bad_pixels(
    draft: Draft, mask: NDArray[np.bool_], bad: NDArray[np.bool_], detail: str = ""
) -> Draft:
    """Note how many pixels have no usable value.

    Args:
        draft: any draft.
        mask: (H, W) pixels that are already excluded.
        bad: (H, W) pixels without a usable value.
        detail: further information on them.
    """
    count = int((bad & ~mask).sum())
    if not count:
        return draft
    return draft.noted(
        f"{count} pixels without a usable value were masked{detail}", Flag.BAD_PIXELS
    )


def _check_position(draft: Draft) -> None:
    h, w = draft.shape
    x, y = draft.position
    if not (-0.5 <= x < w - 0.5 and -0.5 <= y < h - 0.5):
        raise BadInput(
            f"start x, y = {x:g}, {y:g} lies outside the image of {w} x {h} pixels: expected "
            "pixels of the file, the first of which is 0, 0"
        )


def _near_target(draft: Draft) -> Draft:
    """Cut an image much larger than a galaxy to the search area."""
    if max(draft.shape) <= FIELD:
        return draft
    return draft.cut(detect.box_around(draft.position, FIELD // 2, draft.shape))


def _with_given_mask(draft: Draft) -> tuple[Draft, NDArray[np.bool_]]:
    """Return the draft with notes on the given mask, and the mask (H, W)."""
    mask, notes = given_mask(draft.planes, draft.position)
    for text, flag in notes:
        draft = draft.noted(text, flag)
    return draft, mask


def _usable(
    draft: Draft, mask: NDArray[np.bool_]
) -> tuple[Draft, str, NDArray[np.float32] | None, NDArray[np.bool_]]:
    """Return draft, kind of noise plane, sigma (None without one) and mask with bad pixels."""
    image = draft.planes["image"]
    bad = ~np.isfinite(image) | (np.abs(image) > LARGEST)
    filled, values = without_data(image, mask | bad)
    bad |= filled
    role = next((role for role in NOISE_ROLES if role in draft.planes), "")
    sigma, outliers = None, np.zeros(image.shape, bool)
    if role:
        plane = draft.planes[role]
        deviation = to_sigma(plane, role)
        unusable = ~((deviation > SMALLEST) & (deviation < LARGEST))
        if unusable[~mask].all():
            raise BadInput(f"no pixel has a usable {role}: expected positive numbers in flux units")
        if role == "ivar":
            mask = mask | (plane == 0)  # the usual markers of missing data
        bad |= unusable | _beyond_float32(image, deviation, mask | bad | unusable)
        draft, outliers = _noise_outliers(draft, deviation, ~(mask | bad), role)
        sigma = np.where(unusable | outliers, 1.0, deviation).astype(np.float32)
    listed = ", ".join(f"{value:g}" for value in values)
    areas = f", areas or edges of one value among them ({listed}: {int(filled.sum())})"
    draft = noted_bad_pixels(draft, mask, bad, areas if values else "")
    return draft, role, sigma, mask | bad | outliers


def _beyond_float32(
    image: NDArray[np.floating], sigma: NDArray[np.floating], mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mark pixels that cannot be weighted against others, see `absurd_pixels`."""
    signal, noise = np.where(mask, 0.0, np.abs(image)), np.where(mask, np.inf, sigma)
    if signal.max() <= ORDINARY * noise.min():  # nearly always: avoids torch
        return np.zeros_like(mask)
    planes = [torch.from_numpy(np.where(mask, 1.0, plane)) for plane in (image, sigma)]
    planes.append(torch.from_numpy(mask))
    return absurd_pixels(*(plane[None] for plane in planes))[0].numpy()


def _noise_outliers(
    draft: Draft, sigma: NDArray[np.floating], usable: NDArray[np.bool_], role: str
) -> tuple[Draft, NDArray[np.bool_]]:
    """Find pixels with absurd noise, and note them in the draft."""
    if not usable.any():
        return draft, np.zeros(usable.shape, bool)
    outliers = noise_outliers(draft.planes["image"], sigma, usable)
    if outliers.any():
        low, high = sigma[outliers].min(), sigma[outliers].max()
        listed = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
        count = int(outliers.sum())
        text = (
            f"masked {count} pixels whose {role} is far from that of their neighbours "
            f"(sigma {listed}, elsewhere {middle(sigma[usable & ~outliers]):.2g})"
        )
        draft = draft.noted(text, Flag.BAD_PIXELS)
    return draft, outliers


def _checked_image(draft: Draft, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the image (H, W), 0 under the mask; raise BadInput if it holds nothing to fit."""
    image = np.where(mask, 0.0, draft.planes["image"]).astype(np.float32)
    if mask.all():
        raise BadInput("no pixel has data: all are NaN, masked or without noise", int(Flag.NO_DATA))
    values = image[~mask]
    if values.min() == values.max():
        raise BadInput(
            f"the image is constant ({values[0]:g} in every pixel): nothing to fit",
            int(Flag.NO_SIGNAL),
        )
    return image


def _flagged_frame(
    draft: Draft,
    detection: detect.Detection,
    box: tuple[slice, slice] | None,
    shape: tuple[int, int],
) -> Draft:
    """Flag an image of many sources; raise BadInput if it is unclear which one is the target."""
    count = cropping.sources_in_frame(detection, box, shape)
    if not count:
        return draft
    about = f"the image is a frame with about {count} sources"
    advice = "make a cutout of each, or give x, y of each in a manifest"
    given = not np.isnan(draft.start[:2]).any()
    if not (given or detection.target):
        raise BadInput(
            f"{about} and there is none at its middle, where the target is expected: {advice}",
            int(Flag.UNREADABLE | Flag.SEVERAL_SOURCES),
        )
    x, y = to_parent(*draft.position, draft.origin)
    text = f"{about}, and this is the one at x, y = {x:.0f}, {y:.0f}: {advice}"
    return draft.noted(text, Flag.SEVERAL_SOURCES)


def _with_neighbours(
    draft: Draft, detection: detect.Detection, mask: NDArray[np.bool_]
) -> tuple[Draft, NDArray[np.bool_]]:
    """Return the draft, flagged if neighbours were found, and the mask (H, W) including them."""
    neighbours = detect.neighbour_mask(detection)
    if neighbours is None:
        return draft, mask
    return draft.noted(flag=Flag.MASK_ESTIMATED), mask | neighbours


def _finished(draft: Draft, box: tuple[slice, slice] | None, shape: tuple[int, int]) -> Draft:
    """Cut the draft to ``box``, if any, with a note (``shape`` is the old shape), and fill it."""
    if box is not None:
        draft = draft.cut(box)
    if draft.flags & Flag.CROPPED:
        h, w = draft.shape
        draft = draft.noted(f"cropped from {shape[0]} x {shape[1]} to {h} x {w} pixels")
    return completed(draft, draft.position)


def _estimate(
    draft: Draft,
    image: NDArray[np.float32],
    detection: detect.Detection,
    mask: NDArray[np.bool_],
    gain: float | None,
    doubt: Doubt,
) -> tuple[Draft, NDArray[np.float32]]:
    try:
        sigma, with_gain = estimated_sigma(image, detection, mask, gain, doubt)
    except ValueError as error:
        raise BadInput(str(error)) from error
    how = "without Poisson noise, as no gain is known"
    if gain is not None:
        refused = f"without Poisson noise: pixels scatter less than a gain of {gain:g} implies"
        how = f"gain {gain:g}" if with_gain else refused
    text = f"sigma estimated from the background ({how})"
    return draft.noted(text, Flag.SIGMA_ESTIMATED), sigma.astype(np.float32)


def _check_sigma(
    draft: Draft,
    image: NDArray[np.float32],
    sigma: NDArray[np.float32],
    detection: detect.Detection,
    mask: NDArray[np.bool_],
    role: str,
) -> Draft:
    ratio = sigma_ratio(image, sigma, detection, mask)
    if ratio is None or CREDIBLE[0] <= ratio <= CREDIBLE[1]:
        return draft
    text = f"the blank sky scatters {ratio:.2g} times as much as the {role} implies"
    return draft.noted(text, Flag.BAD_SIGMA)
