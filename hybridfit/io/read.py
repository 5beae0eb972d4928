"""Read galaxies from FITS files: find them, read one, stack many into `Cutouts`.

>>> sources = find_sources("cutouts/")
>>> found = [read_cutout(source) for source in sources[:8]]
>>> cutouts = stack(found)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.data.exposure import Exposure
from hybridfit.data.names import START_NAMES
from hybridfit.io.options import ReadKeywords, ReadOptions
from hybridfit.io.read_cutout import Cutout, read_cutout
from hybridfit.io.sources import Source, find_sources
from hybridfit.model.declaration import declared_scene
from hybridfit.model.value_columns import ValueColumns, value_columns
from hybridfit.options.keywords import with_keywords
from hybridfit.options.yaml_options import make

Shape = tuple[int, int]
SIDES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
PSF_STEP = 16  # pixels that sides of PSFs are rounded up to


def padded_shape(height: int, width: int) -> Shape:
    """Return the shape to which a cutout is padded; few shapes need few compiled kernels."""
    return _padded_side(height), _padded_side(width)


def padded_psf(psf: NDArray) -> Shape:
    """Return the odd sides that PSFs are padded to: few of them, as of `padded_shape`."""
    height, width = (PSF_STEP * math.ceil((side - 1) / PSF_STEP) + 1 for side in psf.shape)
    return height, width


def _padded_side(side: int) -> int:
    for larger in SIDES:
        if side <= larger:
            return larger
    return 128 * math.ceil(side / 128)


def blank_cutout(id: str, error: BadInput, shape: Shape = (32, 32)) -> Cutout:
    """Return a cutout without data, with the flags and message of a `BadInput`."""
    return Cutout(
        id=id,
        image=np.zeros(shape, np.float32),
        sigma=np.ones(shape, np.float32),
        mask=np.ones(shape, bool),
        psf=None,
        psf_oversampling=1,
        psf_includes_pixel=False,
        zeropoint=0.0,
        zeropoint_from="",
        pixel_scale=math.nan,
        origin=(0, 0),
        start=np.full(len(START_NAMES), math.nan),
        flags=error.flags,
        wcs=None,
        message=str(error),
    )


def read_or_blank(source: Source, read: Callable[[Source], Cutout] = read_cutout) -> Cutout:
    """Read a galaxy; if that fails, return a cutout without data, and the reason as its message.

    Args:
        source: the files of the galaxy.
        read: options of reading.
    """
    try:
        return read(source)
    except BadInput as error:
        return blank_cutout(source.id, error)
    except Exception as error:  # a damaged file can raise almost any exception
        text = f"{type(error).__name__} while reading '{source.image}': {error}"
        return blank_cutout(source.id, BadInput(text))


def stack(
    cutouts: Sequence[Cutout], shape: Shape | None = None, psf_shape: Shape | None = None
) -> Cutouts:
    """Stack cutouts into one batch.

    Smaller cutouts are padded with masked pixels after their last row and column, which leaves
    x, y and ``origin`` unchanged; smaller PSFs are padded with zeros on all sides.

    Args:
        cutouts: at least one; either all have a PSF or none (cutouts without data do not count).
        shape: H, W of the batch; default: `padded_shape` of the largest cutout.
        psf_shape: h, w of the PSFs, odd; default: the shape of the largest PSF.

    Raises:
        ValueError: if a cutout or PSF is larger than the shape, or only some have a PSF.
    """
    if not cutouts:
        raise ValueError("no cutouts to stack, expected at least one")
    sizes = [cutout.image.shape for cutout in cutouts]
    shape = shape or padded_shape(max(h for h, _ in sizes), max(w for _, w in sizes))
    image, sigma, mask = _stacked_planes(cutouts, shape)
    return Cutouts(
        image=image,
        sigma=sigma,
        psf=_stacked_psfs(cutouts, psf_shape),
        mask=mask,
        id=[cutout.id for cutout in cutouts],
        psf_oversampling=torch.tensor([cutout.psf_oversampling for cutout in cutouts]),
        psf_includes_pixel=torch.tensor([cutout.psf_includes_pixel for cutout in cutouts]),
        zeropoint=torch.tensor([cutout.zeropoint for cutout in cutouts], dtype=torch.float64),
        zeropoint_from=[cutout.zeropoint_from for cutout in cutouts],
        pixel_scale=torch.tensor([cutout.pixel_scale for cutout in cutouts], dtype=torch.float64),
        origin=torch.tensor([cutout.origin for cutout in cutouts], dtype=torch.float64),
        start=torch.from_numpy(np.stack([cutout.start for cutout in cutouts])),
        flags=torch.tensor([cutout.flags for cutout in cutouts], dtype=torch.int64),
        size=torch.tensor(sizes, dtype=torch.int64),
        wcs=[cutout.wcs for cutout in cutouts],
        messages=[cutout.message for cutout in cutouts],
        parameters=_stacked_parameters(cutouts),
        exposures=_stacked_exposures(cutouts),
    )


def _stacked_exposures(cutouts: Sequence[Cutout]) -> list[Exposure]:
    """Return the further images of galaxies, masked where a galaxy lacks one."""
    count = max(len(cutout.exposures) for cutout in cutouts)
    columns = [[(*c.exposures, *(None,) * count)[k] for c in cutouts] for k in range(count)]
    psfs = [cutout.psf for cutout in cutouts if cutout.psf is not None]
    return [_stacked_exposure(column, psfs[0] if psfs else None) for column in columns]


def _stacked_exposure(column: Sequence[Cutout | None], psf: NDArray | None) -> Exposure:
    """Return one further image of each galaxy.

    Args:
        column: of each, None where there is none.
        psf: of a first image, in the place of that of an exposure which no galaxy has.
    """
    blank = replace(blank_cutout("", BadInput("")), to_pixels=np.eye(2, 3), flags=0)
    images = [blank if one is None else one for one in column]
    sizes = [one.image.shape for one in images]
    shape = padded_shape(max(h for h, _ in sizes), max(w for _, w in sizes))
    sides = [padded_psf(one.psf) for one in images if one.psf is not None]
    if not sides and psf is not None:
        images = [replace(one, psf=psf) for one in images]
        sides = [padded_psf(psf)]
    largest = (max(h for h, _ in sides), max(w for _, w in sides)) if sides else None
    image, sigma, mask = _stacked_planes(images, shape)
    return Exposure(
        image,
        sigma,
        _stacked_psfs(images, largest),
        mask,
        torch.tensor([one.psf_oversampling for one in images]),
        torch.tensor([one.psf_includes_pixel for one in images]),
        [one.zeropoint if one.zeropoint_from else math.nan for one in images],
        np.stack([one.to_pixels for one in images if one.to_pixels is not None]),
        torch.tensor([one.flags for one in images], dtype=torch.int64),
        torch.tensor(sizes, dtype=torch.int64),
    )


def _stacked_parameters(cutouts: Sequence[Cutout]) -> dict[str, list[float]]:
    """Return the values (B,) of each parameter, NaN where a cutout has none."""
    names = dict.fromkeys(name for cutout in cutouts for name in cutout.parameters)
    return {name: [c.parameters.get(name, math.nan) for c in cutouts] for name in names}


def _stacked_planes(cutouts: Sequence[Cutout], shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, noise maps and masks (B, H, W), padded with masked pixels."""
    batch = len(cutouts)
    image = np.zeros((batch, *shape), np.float32)
    sigma = np.ones((batch, *shape), np.float32)
    mask = np.ones((batch, *shape), bool)
    for i, cutout in enumerate(cutouts):
        h, w = cutout.image.shape
        if h > shape[0] or w > shape[1]:
            raise ValueError(f"cutout of '{cutout.id}' is {h} x {w}, expected at most {shape}")
        image[i, :h, :w] = cutout.image
        sigma[i, :h, :w] = cutout.sigma
        mask[i, :h, :w] = cutout.mask
    return torch.from_numpy(image), torch.from_numpy(sigma), torch.from_numpy(mask)


def _stacked_psfs(cutouts: Sequence[Cutout], psf_shape: Shape | None) -> Tensor | None:
    psfs = [cutout.psf for cutout in cutouts]
    given = [psf.shape for psf in psfs if psf is not None]
    if not given:
        return None
    h, w = psf_shape or (max(s[0] for s in given), max(s[1] for s in given))
    stacked = np.zeros((len(cutouts), h, w), np.float32)
    for row, cutout, psf in zip(stacked, cutouts, psfs, strict=True):
        if psf is None:
            if not cutout.mask.all():
                raise ValueError(f"'{cutout.id}' has no PSF, but others in the batch have one")
            row[h // 2, w // 2] = 1.0  # without data nothing is fitted: any PSF will do
            continue
        top, left = (h - psf.shape[0]) // 2, (w - psf.shape[1]) // 2
        if top < 0 or left < 0:
            raise ValueError(f"PSF of '{cutout.id}' is {psf.shape}, expected at most {(h, w)}")
        row[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return torch.from_numpy(stacked)


@with_keywords(ReadKeywords, ReadOptions)
def read(input: str | Path, model: Any = None, **options: Unpack[ReadKeywords]) -> Cutouts:
    """Read all galaxies of a directory, manifest or multi-extension file into memory.

    A galaxy that cannot be read becomes a row without data, with flags and a message.

    Args:
        input: see `find_sources`.
        model: that the galaxies will be fitted with, see `hybridfit.fit`; of its parameters a
            manifest may have initial and fixed values. Default one Sersic profile.
        options: fields of `ReadOptions`, e.g. ``psf="psf.fits"`` or ``zeropoint=25.0``.

    Raises:
        ValueError, FileNotFoundError: if the entire input is unusable, or an option is unknown.
    """
    scene = declared_scene("sersic" if model is None else model)
    return read_all(input, make(ReadOptions, options, "read"), value_columns(scene))


def read_all(input: str | Path, options: ReadOptions, columns: ValueColumns) -> Cutouts:
    """Read all galaxies, see `read`, with the values of a manifest's ``columns``."""
    one = partial(read_cutout, options=options)
    return stack([read_or_blank(source, one) for source in find_sources(input, options, columns)])
