"""Read the pixels that a GALFIT input file selects, without masking or estimating anything else."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import signal

from hybridfit.data.cutout_checks import LARGEST
from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.data.names import START_NAMES
from hybridfit.data.positions import to_cutout
from hybridfit.detection.noise import to_sigma
from hybridfit.detection.prepare import Draft, completed, noted_bad_pixels
from hybridfit.files.fits import looks_like_fits
from hybridfit.files.regular import read_text
from hybridfit.io.address import parse_address
from hybridfit.io.asinh import LINEAR, is_asinh
from hybridfit.io.galfit.entries import Feedme
from hybridfit.io.galfit.sigma import made_sigma
from hybridfit.io.options import ReadOptions
from hybridfit.io.photometry import Calibration
from hybridfit.io.planes import read_plane, read_section
from hybridfit.io.psf_files import checked_psf, read_psf
from hybridfit.io.read_cutout import Cutout, assemble_cutout
from hybridfit.io.view import PartOf
from hybridfit.io.wcs import celestial_wcs, pixel_scale
from hybridfit.rendering.psf_images import PreparedPsf

ENDINGS = ("", ".gz", ".fz")  # GALFIT's FITS library also opens compressed files
MAX_LIST = 50_000_000  # largest list of pixels, bytes
PARENTS = 4  # number of parent folders from which GALFIT may have been run
MODES = {1: "a model only", 2: "an image block only", 3: "the components as images"}


def read_feedme_cutout(
    feedme: Feedme, options: ReadOptions = ReadOptions(), id: str = ""
) -> Cutout:
    """Read the image, noise, PSF and mask of an input file as GALFIT would.

    The region is cut out first, and ``origin`` is its first pixel. Pixels are bad if the mask is
    not 0, the image not finite or sigma not positive, which GALFIT cannot use either. The zero
    point is J) + 2.5 log10(EXPTIME), with EXPTIME from the image's header. A missing sigma image
    is made by `made_sigma`. The PSF's centre is pixel N // 2 from 0; a diffusion kernel is
    convolved into it. The convolution box is ignored: the entire region is convolved.

    Args:
        feedme: the input file; other files are looked for beside it, then in its parent folders.
        options: ``zeropoint`` and ``pixel_scale`` override the file's; ``no_psf`` applies.
        id: the galaxy's id; default: the input file's name.

    Raises:
        BadInput: if a file is missing or unusable, or the input file describes anything but a
            fit of one image; the message names the row.
    """
    _check(feedme)
    image, header, part = read_section(locate(feedme, "A", feedme.image), feedme.region)
    draft = _draft(feedme, image, header, part)
    wcs, wcs_note = celestial_wcs(header, part.origin)
    own = math.sqrt(abs(feedme.pixel_scale[0] * feedme.pixel_scale[1]))
    scale = own if own > 0 else pixel_scale(math.nan, None, wcs)
    return assemble_cutout(
        id or feedme.path.name,
        draft,
        _calibration(feedme, options, header),
        _psf(feedme, options),
        psf_includes_pixel=False,
        pixel_scale=options.pixel_scale
        or (scale if scale > 0 else pixel_scale(math.nan, None, wcs)),
        wcs=wcs,
        notes=feedme.notes,
        last_notes=(wcs_note, LINEAR if is_asinh(header) else ""),
    )


def _draft(feedme: Feedme, image: NDArray, header: fits.Header, part: PartOf) -> Draft:
    """Return the region's image, sigma and mask, ready for the fit."""
    x0, y0 = (max(feedme.region[0], 0), max(feedme.region[2], 0)) if feedme.region else (0, 0)
    region = (x0, x0 + image.shape[1], y0, y0 + image.shape[0])
    draft = Draft({"image": image}, np.full(len(START_NAMES), math.nan), (x0, y0))
    if feedme.region and feedme.region != region:
        draft = draft.noted(f"region {feedme.region} extends beyond the image: {region} is fitted")
    mask = _mask(feedme, region, part)
    if mask.all():
        raise BadInput("every pixel of the region is masked: nothing to fit", int(Flag.NO_DATA))
    bad = ~(np.abs(image) < LARGEST)  # NaN too
    draft, sigma = _sigma(feedme, draft, header, ~(mask | bad), region, part)
    bad |= ~np.isfinite(sigma)
    draft = noted_bad_pixels(draft, mask, bad)
    mask = mask | bad
    if mask.all():
        raise BadInput("no pixel of the region has a usable value and sigma", int(Flag.NO_DATA))
    draft = replace(draft, planes={"image": image, "sigma": sigma, "mask": mask})
    hidden = "the first profile starts on masked pixels: does the mask cover the galaxy?"
    return completed(draft, _target(feedme, draft.origin), hidden)


def _target(feedme: Feedme, origin: tuple[int, int]) -> tuple[float, float] | None:
    """Return the first profile's initial position, in pixels of the region; None if unknown."""
    if not feedme.sersics:
        return None
    x, y = (feedme.sersics[0].values[axis].value for axis in ("x", "y"))
    return to_cutout(x, y, origin) if math.isfinite(x + y) else None


def _sigma(
    feedme: Feedme,
    draft: Draft,
    header: fits.Header,
    usable: NDArray[np.bool_],
    region: tuple[int, int, int, int],
    part: PartOf,
) -> tuple[Draft, NDArray[np.floating]]:
    """Return the region's noise map, made from the data if absent; NaN where it is not positive."""
    if feedme.min_sigma:
        text = f"row C) has a minimum sigma of {feedme.min_sigma:g}, which is not applied"
        draft = draft.noted(text)
    if feedme.sigma:
        plane = _same(locate(feedme, "C", feedme.sigma), "sigma", region, part)
        return draft, to_sigma(plane, "sigma")
    try:
        sigma, how = made_sigma(draft.planes["image"], usable, header)
    except ValueError as error:
        raise BadInput(str(error), int(Flag.NO_SIGNAL)) from error
    text = f"sigma made from the data as GALFIT does ({how})"
    return draft.noted(text, Flag.SIGMA_ESTIMATED), sigma


def locate(feedme: Feedme, row: str, name: str) -> str:
    """Return the path of the file named in row ``row``, with its ``[HDU]`` if any.

    Raises:
        BadInput: if it is not beside the input file, nor in a parent folder, from which GALFIT
            may have been run, nor in the working directory.
    """
    address = parse_address(name)
    folder = feedme.path.absolute().parent
    for place in (folder, *list(folder.parents)[:PARENTS], Path.cwd()):
        for ending in ENDINGS:
            path = place / (address.path + ending)
            if os.path.exists(path):
                return f"{path}{address.tail}"
    raise BadInput(f"row {row}) names '{name}', but there is no such file beside '{feedme.path}'")


def named_files(feedme: Feedme) -> list[str]:
    """Return the paths of all files named in an input file; bare names if not found."""
    rows = {"image": "A", "sigma": "C", "psf": "D", "kernel": "D", "mask": "F", "constraints": "G"}
    found = []
    for what, row in rows.items():
        if name := getattr(feedme, what):
            try:
                found.append(locate(feedme, row, name))
            except (BadInput, OSError, ValueError):
                found.append(name)
    return found


def _check(feedme: Feedme) -> None:
    if len(feedme.bands) > 1:
        raise BadInput(
            f"it fits {len(feedme.bands)} bands at once ({', '.join(feedme.bands)}), expected "
            "one image in row A): fit the bands one by one",
            int(Flag.NOT_MODELLED),
        )
    if feedme.mode != 0:
        asked = MODES.get(feedme.mode, "an unknown mode")
        raise BadInput(f"row P) is {feedme.mode}, {asked}, expected 0 (fit)")
    if not feedme.image:
        raise BadInput("row A) names no image, expected a FITS file")
    if feedme.psf_oversampling < 1:
        raise BadInput(f"row E) is {feedme.psf_oversampling}, expected a whole number >= 1")


def _same(
    text: str, role: str, region: tuple[int, int, int, int], image: PartOf
) -> NDArray[np.floating]:
    """Read the region of a plane, which must have the image's shape."""
    plane, _, found = read_section(text, region, image)
    if found.shape != image.shape:
        raise BadInput(
            f"{role} '{text}' has shape {found.shape}, expected {image.shape} as the image"
        )
    return plane


def _mask(feedme: Feedme, region: tuple[int, int, int, int], image: PartOf) -> NDArray[np.bool_]:
    """Return the region's mask (H, W), from a FITS image (nonzero) or a list of x y, from 1."""
    x0, x1, y0, y1 = region
    if not feedme.mask:
        return np.zeros((y1 - y0, x1 - x0), bool)
    text = locate(feedme, "F", feedme.mask)
    if looks_like_fits(parse_address(text).path):
        return ~(_same(text, "mask", region, image) == 0)
    pixels = _numbers(text, "a mask: FITS, or lines of x y", (0, 1)).astype(np.int64)
    shape = image.shape
    mask = np.zeros(shape, bool)
    x, y = pixels[:, 0] - 1, pixels[:, 1] - 1
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    mask[y[inside], x[inside]] = True
    return mask[y0:y1, x0:x1]


def _numbers(
    path: str, expected: str, columns: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    try:
        lines = read_text(path, MAX_LIST).splitlines()
        return np.loadtxt(lines, ndmin=2, comments=("#", ";"), usecols=columns)
    except (ValueError, OSError) as error:
        raise BadInput(f"'{path}' cannot be read, expected {expected}: {error}") from error


def _psf(feedme: Feedme, options: ReadOptions) -> PreparedPsf | None:
    if not feedme.psf or options.no_psf:
        return None
    path = locate(feedme, "D", feedme.psf)
    if not feedme.kernel:
        return read_psf(path, "galfit", feedme.psf_oversampling)
    if feedme.psf_oversampling > 1:
        raise BadInput(
            f"row D) has a diffusion kernel, '{feedme.kernel}', for a PSF that is sampled "
            f"{feedme.psf_oversampling} times finer than the image, expected E) 1: convolve the "
            "kernel in beforehand"
        )
    array = read_plane(path, ("PSF",), limits=False)[0].astype(np.float64)
    kernel = _kernel(locate(feedme, "D", feedme.kernel))
    # padded by half of the kernel on each side, which keeps the centre at N // 2
    array = signal.convolve2d(np.nan_to_num(array), kernel / kernel.sum(), mode="full")
    return checked_psf(array, path, "galfit", 1)


def _kernel(path: str) -> NDArray[np.float64]:
    """Read a diffusion kernel with odd sides: a FITS image, or rows of numbers as in Tiny Tim."""
    if looks_like_fits(parse_address(path).path):
        kernel = read_plane(path, limits=False)[0].astype(np.float64)
    else:
        kernel = _numbers(path, "a diffusion kernel: FITS, or rows of numbers")
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0 or not kernel.sum() > 0:
        raise BadInput(
            f"diffusion kernel '{path}' has shape {kernel.shape} and sum {kernel.sum():g}, "
            "expected odd sides and a positive sum"
        )
    return kernel


def _calibration(feedme: Feedme, options: ReadOptions, header: fits.Header) -> Calibration:
    """Return the zero point of the image's flux unit."""
    if options.zeropoint is not None:
        return Calibration(options.zeropoint, "given", None)
    if math.isnan(feedme.zeropoint):
        raise BadInput("row J) is missing, expected the magnitude zero point")
    try:
        seconds = float(header.get("EXPTIME", 1.0))
    except (TypeError, ValueError):
        seconds = math.nan
    notes: tuple[str, ...] = ()
    if not 0 < seconds < math.inf:
        notes = (f"EXPTIME is {header.get('EXPTIME')!r}, taken as 1",)
        seconds = 1.0
    return Calibration(feedme.zeropoint + 2.5 * math.log10(seconds), "J)", None, notes)
