"""Reading galaxies from FITS: find them, read one, stack many into `Cutouts`.

>>> sources = find_sources("cutouts/")
>>> stamps = [read_stamp(source) for source in sources[:8]]
>>> cutouts = stack(stamps)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridfit.data.cutouts import START_NAMES, Cutouts
from hybridfit.data.errors import BadInput
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import Stamp, read_stamp
from hybridfit.io.sources import Source, find_sources
from hybridfit.options.yaml_options import make

SIDES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)


def padded_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape that a stamp is padded to: few shapes, so that few kernels are compiled."""
    return _padded_side(height), _padded_side(width)


def _padded_side(side: int) -> int:
    for larger in SIDES:
        if side <= larger:
            return larger
    return 128 * math.ceil(side / 128)


def bad_stamp(id: str, error: BadInput, shape: tuple[int, int] = (32, 32)) -> Stamp:
    """Return a stamp without any data that carries a `BadInput`'s flags and text."""
    return Stamp(
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


def readable_stamp(
    source: Source,
    options: ReadOptions = ReadOptions(),
    read: Callable[[Source, ReadOptions], Stamp] = read_stamp,
) -> Stamp:
    """Read a galaxy; whatever is wrong with it becomes a stamp without data, and its message.

    Args:
        source: its files.
        options: see `ReadOptions`.
        read: how.
    """
    try:
        return read(source, options)
    except BadInput as error:
        return bad_stamp(source.id, error)
    except Exception as error:  # what readers of broken files raise has no end
        text = f"{type(error).__name__} while reading '{source.image}': {error}"
        return bad_stamp(source.id, BadInput(text))


def stack(
    stamps: Sequence[Stamp],
    shape: tuple[int, int] | None = None,
    psf_shape: tuple[int, int] | None = None,
) -> Cutouts:
    """Stack stamps into one batch.

    Smaller stamps are padded with masked pixels behind their last row and column, so that x, y
    and ``origin`` stay; smaller PSFs with zeros around their middle pixel.

    Args:
        stamps: at least one; all with a PSF or all without (those without any data aside).
        shape: H, W of the batch; default the `padded_shape` of the largest stamp.
        psf_shape: h, w of the PSFs, odd; default that of the largest PSF.

    Raises:
        ValueError: if a stamp or PSF is larger than the shape, or only some have a PSF.
    """
    if not stamps:
        raise ValueError("no stamps to stack, expected at least one")
    sizes = [stamp.image.shape for stamp in stamps]
    shape = shape or padded_shape(max(h for h, _ in sizes), max(w for _, w in sizes))
    batch = len(stamps)
    image = np.zeros((batch, *shape), np.float32)
    sigma = np.ones((batch, *shape), np.float32)
    mask = np.ones((batch, *shape), bool)
    for i, (stamp, (h, w)) in enumerate(zip(stamps, sizes, strict=True)):
        if h > shape[0] or w > shape[1]:
            raise ValueError(f"stamp of '{stamp.id}' is {h} x {w}, expected at most {shape}")
        image[i, :h, :w] = stamp.image
        sigma[i, :h, :w] = stamp.sigma
        mask[i, :h, :w] = stamp.mask
    psf = _stacked_psfs(stamps, psf_shape)
    return Cutouts(
        image=torch.from_numpy(image),
        sigma=torch.from_numpy(sigma),
        psf=None if psf is None else torch.from_numpy(psf),
        mask=torch.from_numpy(mask),
        id=[stamp.id for stamp in stamps],
        psf_oversampling=torch.tensor([stamp.psf_oversampling for stamp in stamps]),
        psf_includes_pixel=torch.tensor([stamp.psf_includes_pixel for stamp in stamps]),
        zeropoint=torch.tensor([stamp.zeropoint for stamp in stamps], dtype=torch.float64),
        zeropoint_from=[stamp.zeropoint_from for stamp in stamps],
        pixel_scale=torch.tensor([stamp.pixel_scale for stamp in stamps], dtype=torch.float64),
        origin=torch.tensor([stamp.origin for stamp in stamps], dtype=torch.float64),
        start=torch.from_numpy(np.stack([stamp.start for stamp in stamps])),
        flags=torch.tensor([stamp.flags for stamp in stamps], dtype=torch.int64),
        size=torch.tensor(sizes, dtype=torch.int64),
        wcs=[stamp.wcs for stamp in stamps],
        messages=[stamp.message for stamp in stamps],
    )


def _stacked_psfs(stamps: Sequence[Stamp], psf_shape: tuple[int, int] | None) -> np.ndarray | None:
    psfs = [stamp.psf for stamp in stamps]
    given = [psf.shape for psf in psfs if psf is not None]
    if not given:
        return None
    h, w = psf_shape or (max(s[0] for s in given), max(s[1] for s in given))
    stacked = np.zeros((len(stamps), h, w), np.float32)
    for row, stamp, psf in zip(stacked, stamps, psfs, strict=True):
        if psf is None:
            if not stamp.mask.all():
                raise ValueError(f"'{stamp.id}' has no PSF, but others in the batch have one")
            row[h // 2, w // 2] = 1.0  # there is nothing to fit: any PSF will do
            continue
        top, left = (h - psf.shape[0]) // 2, (w - psf.shape[1]) // 2
        if top < 0 or left < 0:
            raise ValueError(f"PSF of '{stamp.id}' is {psf.shape}, expected at most {(h, w)}")
        row[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return stacked


def read(input: str | Path, **options: Any) -> Cutouts:
    """Read all galaxies of a directory, manifest or multi-extension file into memory.

    A galaxy that cannot be read is a row without data, with its flags and message.

    Args:
        input: see `find_sources`.
        options: fields of `ReadOptions`, e.g. ``psf="psf.fits"`` or ``zeropoint=25.0``.

    Raises:
        ValueError, FileNotFoundError: if the whole input is unusable, or an option is unknown.
    """
    chosen = make(ReadOptions, options, "read")
    return stack([readable_stamp(source, chosen) for source in find_sources(input, chosen)])
