"""Read image planes from FITS files of any type, compression and order of HDUs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.files.fits import open_fits
from hybridfit.files.regular import FileProblem
from hybridfit.io.address import Address, parse_address
from hybridfit.io.image_header import text_in
from hybridfit.io.inherit import full_header
from hybridfit.io.noise_units import in_unit_of_image
from hybridfit.io.view import PartOf, View, holds_image

LISTED = 40  # HDUs listed in an error
OPTIONAL = ("dq", "weight")  # roles whose HDUs are skipped if they do not fit


@dataclass(frozen=True, eq=False)
class FilePlanes:
    """The planes of one galaxy's file.

    Args:
        planes: (H, W) by role, "image" always among them.
        headers: of the planes, the image's with inherited keywords.
        part: the part of the image that was read.
        unused: names or numbers of the HDUs of the image's shape without a role.
    """

    planes: dict[str, NDArray[np.floating]]
    headers: dict[str, fits.Header]
    part: PartOf
    unused: tuple[str, ...]


@contextmanager
def opened(path: str) -> Iterator[fits.HDUList]:
    """Open a FITS file; turn every error inside the block into a `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of astropy, on headers that it repairs
            with open_fits(path) as hdus:
                yield hdus
    except BadInput:
        raise
    except FileProblem as error:
        raise BadInput(str(error)) from error
    except FileNotFoundError as error:
        raise BadInput(f"file '{path}' does not exist") from error
    except Exception as error:  # broken files raise almost any type
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"'{path}' cannot be read as FITS: {text[:200]}") from error


def read_plane(
    text: str,
    names: Sequence[str] = (),
    limits: bool = True,
    parent: PartOf | None = None,
) -> tuple[NDArray[np.floating], fits.Header]:
    """Return the (H, W) image and header at an address such as ``file.fits[HDU]``.

    Args:
        text: path, optionally with an HDU and a section, see `hybridfit.io.address`.
        names: preferred HDU names; otherwise the first HDU that holds an image is used.
        limits: refuse sides below 5 pixels (an image; a PSF may be smaller).
        parent: of the image that this plane belongs to; a plane of the whole image's shape,
            without its own section, is cropped like the image.

    Raises:
        BadInput: if there is no such file, HDU or image.
    """
    address = parse_address(text)
    with opened(address.path) as hdus:
        hdu = _at(hdus, address) if address.hdu else _by_name(hdus, names, address.path)
        view = _view(hdus, hdu, address, parent)
        return view.read(limits=limits), full_header(hdus, hdu)


@dataclass(frozen=True, eq=False)
class PlaneInFile:
    """One image of a FITS file, and its context.

    Args:
        plane: (H, W).
        header: header of the plane, with inherited keywords.
        primary: header of the primary HDU.
        names: names of all HDUs, in upper case, "" for one without a name.
    """

    plane: NDArray[np.floating]
    header: fits.Header
    primary: fits.Header
    names: tuple[str, ...]


def read_plane_in_file(text: str, names: Sequence[str]) -> PlaneInFile:
    """Return a plane of any size, see `read_plane`, and its context.

    Raises:
        BadInput: if there is no such file, HDU or image.
    """
    address = parse_address(text)
    with opened(address.path) as hdus:
        hdu = _at(hdus, address) if address.hdu else _by_name(hdus, names, address.path)
        plane = _view(hdus, hdu, address).read(limits=False)
        there = tuple(_name(other) for other in hdus)
        return PlaneInFile(plane, full_header(hdus, hdu), hdus[0].header, there)


def read_planes(
    text: str, names: Mapping[str, Sequence[str]], strict_image: bool = False
) -> FilePlanes:
    """Return the planes that one galaxy's file holds.

    Args:
        text: address of the image, see `hybridfit.io.address`.
        names: the HDU names to search for each role.
        strict_image: refuse a file without any of the names requested for the image, instead of
            using its first image.

    Raises:
        BadInput: if there is no image, or a plane cannot be read.
    """
    address = parse_address(text)
    with opened(address.path) as hdus:
        chosen = _chosen(hdus, address, names, strict_image)
        image = chosen["image"]
        view = _view(hdus, image, address)
        planes = {"image": view.read()}
        headers = {"image": full_header(hdus, image)}
        for role, hdu in list(chosen.items())[1:]:
            own = Address(address.path, hdu=_name(hdu), tail=f"[{_name(hdu)}]")
            part = _view(hdus, hdu, own, view.part if role != "psf" else None)
            plane, headers[role] = part.read(limits=role != "psf"), hdu.header
            planes[role] = in_unit_of_image(plane, role, hdu.header, headers["image"])
        unused = _unused(hdus, list(chosen.values()))
        return FilePlanes(planes, headers, view.part, unused)


def _chosen(
    hdus: fits.HDUList, address: Address, names: Mapping[str, Sequence[str]], strict: bool
) -> dict[str, fits.hdu.base._BaseHDU]:
    """Return the HDU of each role, the image's first; see `read_planes`."""
    others = {name for role in names if role != "image" for name in names[role]}
    image = (
        _at(hdus, address)
        if address.hdu
        else _by_name(hdus, names["image"], address.path, others, strict)
    )
    chosen, there = {"image": image}, {_name(hdu) for hdu in hdus}
    for role, wanted in names.items():
        for name in filter(there.__contains__, wanted if role != "image" else ()):
            hdu = _companion(hdus, name, image)
            if hdu is None or not holds_image(hdu) or any(hdu is o for o in chosen.values()):
                continue
            if role in OPTIONAL and _sides(hdu) != _sides(image):
                continue
            chosen[role] = hdu
            break
    return chosen


@dataclass(frozen=True, eq=False)
class LocatedPlanes:
    """Where the planes of an image are, without their pixels.

    Args:
        addresses: by role, "image" always among them, each for `read_section`.
        headers: of the planes, the image's with inherited keywords.
        primary: header of the primary HDU.
        part: the part of the image that the address selects.
        names: of all HDUs, in upper case, "" for one without a name.
    """

    addresses: dict[str, str]
    headers: dict[str, fits.Header]
    primary: fits.Header
    part: PartOf
    names: tuple[str, ...]


def locate_planes(text: str, names: Mapping[str, Sequence[str]]) -> LocatedPlanes:
    """Return the addresses of the planes that an image's file holds; only headers are read.

    Args:
        text: address of the image, see `hybridfit.io.address`.
        names: the HDU names to search for each role.

    Raises:
        BadInput: if there is no image with two axes.
    """
    address = parse_address(text)
    with opened(address.path) as hdus:
        chosen = _chosen(hdus, address, names, strict=False)
        number = {role: [hdu is o for o in hdus].index(True) for role, hdu in chosen.items()}
        addresses = {role: f"{address.path}[{k}]" for role, k in number.items()}
        addresses["image"] += address.section_text
        headers = {role: hdu.header.copy() for role, hdu in chosen.items()}
        headers["image"] = full_header(hdus, chosen["image"]).copy()
        part = _view(hdus, chosen["image"], address).part
        there = tuple(_name(hdu) for hdu in hdus)
        return LocatedPlanes(addresses, headers, hdus[0].header.copy(), part, there)


def _sides(hdu: fits.hdu.base._BaseHDU) -> tuple[int, ...]:
    return tuple(side for side in hdu.shape if side != 1)


def _unused(hdus: fits.HDUList, used: Sequence[fits.hdu.base._BaseHDU]) -> tuple[str, ...]:
    """Return other HDUs of the image's chip with its shape."""
    image = used[0]
    return tuple(
        _name(hdu) or str(i)
        for i, hdu in enumerate(hdus)
        if holds_image(hdu)
        and hdu.ver == image.ver
        and _sides(hdu) == _sides(image)
        and not any(hdu is other for other in used)
    )


def read_section(
    text: str, region: tuple[int, int, int, int] | None, parent: PartOf | None = None
) -> tuple[NDArray[np.floating], fits.Header, PartOf]:
    """Return a part of the (H, W) image at an address, its header, and its place in the whole.

    Only the part's pixels are read: it may be cut from an image of any size.

    Args:
        text: path, optionally with an HDU and a section, see `hybridfit.io.address`.
        region: x0, x1, y0, y1, from 0 in the section, half-open, clipped to the image; None for
            all of it.
        parent: see `read_plane`.

    Raises:
        BadInput: if there is no such file, HDU or image, or the region does not overlap it.
    """
    address = parse_address(text)
    with opened(address.path) as hdus:
        hdu = _at(hdus, address) if address.hdu else _by_name(hdus, (), address.path)
        view = _view(hdus, hdu, address, parent)
        return view.read(region), full_header(hdus, hdu), view.part


def hdu_names(text: str) -> list[str]:
    """Return upper-case names of the HDUs in a FITS file, "" for an unnamed HDU."""
    with opened(parse_address(text).path) as hdus:
        return [_name(hdu) for hdu in hdus]


def _view(
    hdus: fits.HDUList,
    hdu: fits.hdu.base._BaseHDU,
    address: Address,
    parent: PartOf | None = None,
) -> View:
    number = next((i for i, other in enumerate(hdus) if other is hdu), 0)
    return View(hdu, address, address.bracket or f"[{number}]", parent)


def _at(hdus: fits.HDUList, address: Address) -> fits.hdu.base._BaseHDU:
    """Return the HDU of that number, or the first of that name and version."""
    number = int(address.hdu) if re.fullmatch(r"\d{1,6}", address.hdu) else None
    for i, hdu in enumerate(hdus):
        if i == number and not address.version:
            return hdu
        if _name(hdu) == address.hdu.upper() and address.version in (0, hdu.ver):
            return hdu
    version = f" of EXTVER {address.version}" if address.version else ""
    raise BadInput(f"'{address.path}' has no HDU '{address.hdu}'{version}: it has {_listed(hdus)}")


def _name(hdu: fits.hdu.base._BaseHDU) -> str:
    """Return EXTNAME in upper case, or EXTTYPE, which marks image and mask in older HSC files."""
    return hdu.name.upper() or text_in(hdu.header, "EXTTYPE").upper()


def _companion(
    hdus: fits.HDUList, name: str, image: fits.hdu.base._BaseHDU
) -> fits.hdu.base._BaseHDU | None:
    """Return the last HDU of a name, preferring those with the image's EXTVER: its own chip's."""
    named = [hdu for hdu in hdus if _name(hdu) == name]
    same = [hdu for hdu in named if hdu.ver == image.ver]
    return (same or named or [None])[-1]


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
        name = _name(hdu)
        if not holds_image(hdu):
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


def _listed(hdus: fits.HDUList) -> str:
    parts = [
        f"{i} {hdu.name or '(no name)'}{f',{hdu.ver}' if hdu.ver > 1 else ''}"
        f"{'' if holds_image(hdu) else ' (no image)'}"
        for i, hdu in enumerate(hdus[:LISTED])
    ]
    return ", ".join([*parts, *(["..."] if len(hdus) > LISTED else [])]) or "no HDUs"
