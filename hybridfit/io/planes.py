"""Image planes out of FITS files, whatever their type, compression and order of HDUs."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.io.options import BadInput

MAX_SIDE = 20_000  # pixels; what is larger is not a cutout of a galaxy
MAX_PIXELS = 100_000_000
MIN_SIDE = 5


@contextmanager
def opened(path: str) -> Iterator[fits.HDUList]:
    """Open a FITS file; whatever goes wrong with it inside the block is a `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of astropy, on headers that it mends
            with fits.open(path, memmap=False) as hdus:
                yield hdus
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"file '{path}' does not exist") from error
    except Exception as error:  # broken files raise nearly every type there is
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"'{path}' cannot be read as FITS: {text[:200]}") from error


def split_hdu(text: str) -> tuple[str, str | None]:
    """Split ``file.fits[HDU]`` into the file and the HDU's name or number."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    if match and not os.path.exists(text):
        return match[1], match[2].strip()
    return text, None


def read_plane(
    text: str, names: Sequence[str] = (), limits: bool = True
) -> tuple[NDArray[np.floating], fits.Header]:
    """Return the (H, W) image and header at ``file.fits`` or ``file.fits[HDU]``.

    Args:
        text: path, with an HDU's name or number in brackets where wanted.
        names: HDU names to prefer; else the first HDU that holds an image is taken.
        limits: refuse sides below 5 pixels (an image; a PSF may be smaller).

    Raises:
        BadInput: if there is no such file, HDU or image.
    """
    path, key = split_hdu(text)
    with opened(path) as hdus:
        hdu = _by_key(hdus, key, path) if key is not None else _by_name(hdus, names, path)
        return _plane(hdu, f"'{text}'", limits), hdu.header


def read_planes(
    text: str, names: Mapping[str, Sequence[str]], strict_image: bool = False
) -> tuple[dict[str, NDArray[np.floating]], fits.Header]:
    """Return the planes that one galaxy's file holds, and the image's header.

    Args:
        text: path of the image, with an HDU in brackets where wanted.
        names: for each role the HDU names under which it is looked for.
        strict_image: refuse a file without any of the names asked for the image, rather than
            take its first image.

    Returns:
        Planes (H, W) by role, "image" always among them, and the header of the image.
    """
    path, key = split_hdu(text)
    with opened(path) as hdus:
        others = {name for role in names if role != "image" for name in names[role]}
        image = (
            _by_key(hdus, key, path)
            if key is not None
            else _by_name(hdus, names["image"], path, others, strict_image)
        )
        planes = {"image": _plane(image, f"'{text}'", True)}
        by_name = {hdu.name.upper(): hdu for hdu in hdus}  # of each name the last
        for role, wanted in names.items():
            for name in wanted if role != "image" else ():
                hdu = by_name.get(name)
                if hdu is not None and hdu is not image and _holds_image(hdu):
                    planes[role] = _plane(hdu, f"'{path}[{name}]'", role != "psf")
                    break
        return planes, image.header


def read_section(
    text: str, region: tuple[int, int, int, int] | None
) -> tuple[NDArray[np.floating], fits.Header, tuple[int, int]]:
    """Return a part of the (H, W) image at ``file.fits[HDU]``, its header, and H, W.

    Only the part's pixels are looked at: it may be cut out of an image of any size.

    Args:
        text: path, with an HDU's name or number in brackets where wanted.
        region: x0, x1, y0, y1, from 0, half-open; what lies outside the image is left out. None
            for all of it.

    Raises:
        BadInput: if there is no such file, HDU or image, or nothing of it is in the region.
    """
    path, key = split_hdu(text)
    with opened(path) as hdus:
        hdu = _by_key(hdus, key, path) if key is not None else _by_name(hdus, (), path)
        if not _holds_image(hdu) or sum(side != 1 for side in hdu.shape) != 2:
            raise BadInput(f"'{text}' has shape {tuple(hdu.shape)}, expected two axes (H, W)")
        height, width = (side for side in hdu.shape if side != 1)
        x0, x1, y0, y1 = region or (0, width, 0, height)
        box = slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width))
        sides = tuple(part.stop - part.start for part in box)
        if min(sides) < MIN_SIDE or max(sides) > MAX_SIDE or sides[0] * sides[1] > MAX_PIXELS:
            raise BadInput(
                f"'{text}' has {height} x {width} pixels, of which x {x0} to {x1}, y {y0} to {y1} "
                f"(from 0) is {max(sides[0], 0)} x {max(sides[1], 0)}: expected {MIN_SIDE} to "
                f"{MAX_SIDE} a side, {MAX_PIXELS:.0e} at most in all"
            )
        data = hdu.section[box] if len(hdu.shape) == 2 else hdu.data.reshape(height, width)[box]
        return _floats(np.asarray(data), f"'{text}'"), hdu.header, (height, width)


def hdu_names(text: str) -> list[str]:
    """Upper-case names of the HDUs in a FITS file, "" for an HDU without one."""
    with opened(split_hdu(text)[0]) as hdus:
        return [hdu.name.upper() for hdu in hdus]


def _by_key(hdus: fits.HDUList, key: str, path: str) -> fits.hdu.base._BaseHDU:
    number = int(key) if re.fullmatch(r"\d+", key) else None
    for i, hdu in enumerate(hdus):
        if i == number or hdu.name.upper() == key.upper():
            return hdu
    raise BadInput(f"'{path}' has no HDU '{key}': it has {_listed(hdus)}")


def _by_name(
    hdus: fits.HDUList,
    names: Sequence[str],
    path: str,
    others: set[str] | None = None,
    strict: bool = False,
) -> fits.hdu.base._BaseHDU:
    found: dict[str, fits.hdu.base._BaseHDU] = {}
    first = None
    for hdu in hdus:
        name = hdu.name.upper()
        if not _holds_image(hdu):
            continue
        if name in names:
            found.setdefault(name, hdu)
        elif first is None and name not in (others or ()):
            first = hdu
    for name in names:
        if name in found:
            return found[name]
    if first is None or strict:
        wanted = f"an image HDU named {' or '.join(names)}" if strict else "an HDU with an image"
        raise BadInput(f"'{path}' has no image: expected {wanted}, it has {_listed(hdus)}")
    return first


def _holds_image(hdu: fits.hdu.base._BaseHDU) -> bool:
    return bool(hdu.is_image) and len(hdu.shape) > 0 and 0 not in hdu.shape


def _listed(hdus: fits.HDUList) -> str:
    parts = [
        f"{i} {hdu.name or '(no name)'}{'' if _holds_image(hdu) else ' (no image)'}"
        for i, hdu in enumerate(hdus)
    ]
    return ", ".join(parts) or "no HDUs"


def _plane(hdu: fits.hdu.base._BaseHDU, where: str, limits: bool) -> NDArray[np.floating]:
    """The HDU's pixels, native byte order, two axes; the header's size is looked at first."""
    if not _holds_image(hdu):
        raise BadInput(f"{where} holds no image: expected an image HDU with two axes")
    sides = tuple(side for side in hdu.shape if side != 1)
    if len(sides) > 2 or (len(sides) < 2 and limits):
        raise BadInput(f"{where} has shape {tuple(hdu.shape)}, expected two axes (H, W)")
    if len(sides) < 2:
        sides = hdu.shape[-2:]
    if max(sides) > MAX_SIDE or int(sides[0]) * int(sides[-1]) > MAX_PIXELS:
        raise BadInput(
            f"{where} has {sides[0]} x {sides[-1]} pixels, expected a cutout of one galaxy of at "
            f"most {MAX_SIDE} a side and {MAX_PIXELS:.0e} in all: cut it out first"
        )
    if limits and min(sides) < MIN_SIDE:
        raise BadInput(
            f"{where} has {sides[0]} x {sides[-1]} pixels, expected at least {MIN_SIDE} a side"
        )
    return _floats(np.asarray(hdu.data).reshape(sides), where)


def _floats(data: NDArray, where: str) -> NDArray[np.floating]:
    if data.dtype.kind not in "fiub":
        raise BadInput(f"{where} holds {data.dtype}, expected real numbers")
    # floats keep their width here: squares of faint images (1e-25) need float64 later on
    kind = np.float64 if data.dtype.itemsize > 4 or data.dtype.kind in "iu" else np.float32
    return data.astype(kind)
