"""Select two axes of a FITS image: all of it, a section, or a plane of a cube."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.files.fits import MAX_RATIO, MAX_UNPACKED
from hybridfit.io.address import Address
from hybridfit.io.asinh import linear_pixels

MAX_SIDE = 20_000  # pixels; larger images are not cutouts of a galaxy
MAX_PIXELS = 100_000_000
MIN_SIDE = 5
LARGEST_PIXEL = 8  # bytes
MAX_TILES = 200_000  # of a compressed image: each is unpacked separately


@dataclass(frozen=True)
class PartOf:
    """The part of an image that was read.

    Args:
        whole: H, W of the image in the file.
        origin: x, y of the part's first pixel in it, from 0.
        shape: H, W of the part.
    """

    whole: tuple[int, int]
    origin: tuple[int, int]
    shape: tuple[int, int]


class View:
    """An image HDU and the selected part; inspects the header only, not the data.

    Args:
        hdu: HDU of an image.
        address: as given by the user.
        tail: the HDU in brackets, for errors.
        parent: of the image that it belongs to, see `hybridfit.io.planes.read_plane`.

    Raises:
        BadInput: if it is not an image, or the section is not within it.
    """

    def __init__(
        self,
        hdu: fits.hdu.base._BaseHDU,
        address: Address,
        tail: str,
        parent: PartOf | None = None,
    ) -> None:
        self._hdu = hdu
        self._where = f"'{address.path}{address.tail}'"
        if not holds_image(hdu):
            raise BadInput(f"{self._where} holds no image: expected an image HDU with two axes")
        self._shape = tuple(int(side) for side in hdu.shape)
        self._planes_by = f"'{address.path}{tail}"
        self._slices = self._of_section(address)
        self._sliced = bool(address.section)
        if (
            parent is not None
            and not address.section
            and self._sides == parent.whole != parent.shape
        ):
            x, y = parent.origin
            self._slices = self._narrowed((x, x + parent.shape[1], y, y + parent.shape[0]))
            self._sliced = True

    @property
    def part(self) -> PartOf:
        """The selected part; (H, W) of (H, W).

        Raises:
            BadInput: if it does not have two axes.
        """
        self._check_axes()
        at = [i for i, part in enumerate(self._slices) if part.stop - part.start != 1]
        rows, columns = (self._slices[i] for i in at)
        whole = self._shape[at[0]], self._shape[at[1]]
        shape = rows.stop - rows.start, columns.stop - columns.start
        return PartOf(whole, (columns.start, rows.start), shape)

    def _check_sides(
        self, sides: tuple[int, ...], region: tuple[int, int, int, int] | None, limits: bool
    ) -> None:
        """Raise BadInput for too many pixels, or, with ``limits``, too few."""
        if max(sides) > MAX_SIDE or math.prod(sides) > MAX_PIXELS:
            raise BadInput(
                f"{self._where} has {sides[0]} x {sides[-1]} pixels, expected a cutout of one "
                f"galaxy of at most {MAX_SIDE} a side and {MAX_PIXELS:.0e} in all: cut it out first"
            )
        if limits and min(sides) < MIN_SIDE:
            asked = f": {self._of_region(region)}" if region is not None else ""
            raise BadInput(
                f"{self._where} has {sides[0]} x {sides[-1]} pixels{asked}, expected at least "
                f"{MIN_SIDE} a side"
            )

    def read(
        self, region: tuple[int, int, int, int] | None = None, limits: bool = True
    ) -> NDArray[np.floating]:
        """Return the pixels (H, W) in native byte order, after checking the claimed size.

        Args:
            region: x0, x1, y0, y1, from 0, half-open; clipped to the image.
            limits: refuse sides below 5 pixels, and rows instead of planes.

        Raises:
            BadInput: if there are not two axes, or too many or too few pixels.
        """
        if limits or len(self._sides) > 2:
            self._check_axes()
        slices = self._slices
        if region is not None:
            slices = self._narrowed(region)
        shape = tuple(part.stop - part.start for part in slices)
        if region is not None and min(shape) < 1:
            raise BadInput(
                f"{self._where}: {self._of_region(region)}, which is nothing of it: expected "
                f"{MIN_SIDE} to {MAX_SIDE} pixels a side"
            )
        sides = tuple(side for side in shape if side != 1)
        if len(sides) != 2:
            sides = shape[-2:]
        self._check_sides(sides, region, limits)
        in_part = self._sliced or region is not None
        self._check_unpacked(slices if in_part else None)
        data = self._hdu.section[tuple(slices)] if in_part else self._hdu.data
        if data is None:
            raise BadInput(f"{self._where} holds no image: its data are missing")
        return _floats(np.asarray(data).reshape(sides), self._where, self._hdu.header)

    @property
    def _sides(self) -> tuple[int, ...]:
        """Lengths of the selected axes that are longer than one pixel."""
        lengths = (part.stop - part.start for part in self._slices)
        return tuple(length for length in lengths if length != 1)

    def _of_section(self, address: Address) -> list[slice]:
        """Return the slice of each axis, the slowest first."""
        slices = [slice(0, side) for side in self._shape]
        given = len(address.section)
        if given and (
            given > len(slices)
            or (given < len(slices) and sum(side != 1 for side in self._shape) > 2)
        ):
            raise BadInput(
                f"{self._where} has {given} axes in its section, but the image has "
                f"{len(slices)}, {self._shape[::-1]} pixels: expected one entry for each"
            )
        for axis, wanted in enumerate(address.section):
            side = self._shape[-1 - axis]
            if wanted is None:
                continue
            if wanted[1] > side:
                raise BadInput(
                    f"{self._where} asks for pixels {wanted[0]} to {wanted[1]} of axis {axis + 1}, "
                    f"which has {side}"
                )
            slices[-1 - axis] = slice(wanted[0] - 1, wanted[1])
        return slices

    def _narrowed(self, region: tuple[int, int, int, int]) -> list[slice]:
        """Return the slices of a region x0, x1, y0, y1 of the selected part."""
        x0, x1, y0, y1 = region
        slices = list(self._slices)
        at = [i for i, part in enumerate(slices) if part.stop - part.start != 1]
        for i, low, high in zip(at, (y0, x0), (y1, x1), strict=True):
            start, stop = slices[i].start, slices[i].stop
            slices[i] = slice(start + max(low, 0), min(start + max(high, 0), stop))
        return slices

    def _check_axes(self) -> None:
        sides = self._sides
        if len(sides) == 2:
            return
        shape = tuple(part.stop - part.start for part in self._slices)
        hint = ""
        if len(sides) > 2:
            plane = ",".join(["*", "*", *("1" for _ in shape[2:])])
            hint = f"; choose a plane of it, e.g. {self._planes_by}[{plane}]' for the first"
        raise BadInput(f"{self._where} has shape {shape}, expected two axes (H, W){hint}")

    def _check_unpacked(self, part: list[slice] | None) -> None:
        """Refuse a tile-compressed image that claims far more than its file holds.

        Args:
            part: of each axis, the slowest first; None for all of the image.
        """
        if not isinstance(self._hdu, fits.CompImageHDU):
            return
        # until astropy 7 the HDU was the table itself
        header = getattr(self._hdu, "_bintable", self._hdu)._header
        axes = range(1, int(header["ZNAXIS"]) + 1)
        sides = [int(header[f"ZNAXIS{axis}"]) for axis in axes]
        # rows, if no tile is given
        tile = [int(header.get(f"ZTILE{axis}", sides[0] if axis == 1 else 1)) for axis in axes]
        count = math.prod(math.ceil(a / max(b, 1)) for a, b in zip(sides, tile, strict=True))
        size = math.prod(sides if part is None else tile) * abs(int(header["ZBITPIX"])) // 8
        packed = (self._hdu.fileinfo() or {}).get("datSpan", 0)
        if size > max(MAX_UNPACKED, packed * MAX_RATIO) or count > MAX_TILES:
            raise BadInput(
                f"{self._where} unpacks to {size / 1e6:.3g} MB in {count} tiles, expected "
                f"{MAX_UNPACKED / 1e6:g} MB and {MAX_TILES} tiles at most: unpack it first"
            )
        rows = None if part is None else _tiles_in(part, sides, tile)
        self._check_tiles(header, math.prod(tile), rows)

    def _check_tiles(
        self, header: fits.Header, pixels: int, rows: NDArray[np.integer] | None
    ) -> None:
        """Refuse a gzipped tile that unpacks to more bytes than its pixels: astropy unpacks all.

        Args:
            header: of the table of tiles.
            pixels: of a tile.
            rows: of the table, those that are to be read; None for all of them.
        """
        # as a plain array, whose entries locate the tiles in the file
        table, info = np.asarray(self._hdu.compressed_data), self._hdu.fileinfo()
        if info is None:
            return
        heap = info["datLoc"] + int(header.get("THEAP", header["NAXIS1"] * header["NAXIS2"]))
        limit = LARGEST_PIXEL * pixels
        for name in {"COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"} & set(table.dtype.names or ()):
            entries = table[name].reshape(-1, 2)
            for count, offset in entries[slice(None) if rows is None else rows].tolist():
                info["file"].seek(heap + offset)
                packed = info["file"].read(min(max(count, 0), 2))
                if packed != b"\x1f\x8b":
                    continue
                packed += info["file"].read(count - 2)
                stream = zlib.decompressobj(wbits=31)
                stream.decompress(packed, limit + 1)
                if stream.unconsumed_tail:
                    raise BadInput(
                        f"{self._where} has a tile that unpacks to more than the {limit} bytes "
                        f"that {pixels} pixels may have: is it damaged?"
                    )

    def _of_region(self, region: tuple[int, int, int, int]) -> str:
        x0, x1, y0, y1 = region
        sides = " x ".join(str(side) for side in self._sides)
        return f"x {x0} to {x1}, y {y0} to {y1} (from 0) of {sides}"


def _tiles_in(part: list[slice], sides: list[int], tile: list[int]) -> NDArray[np.integer]:
    """Return the numbers of the tiles that overlap a part of an image.

    Args:
        part: of each axis, the slowest first.
        sides, tile: of the image and of its tiles along each axis, the fastest first.
    """
    numbers = np.zeros(1, dtype=np.int64)
    for cut, side, step in zip(part, sides[::-1], tile[::-1], strict=True):
        along = np.arange(cut.start // step, -(-cut.stop // step))
        numbers = (numbers[:, None] * -(-side // step) + along).ravel()
    return numbers


def holds_image(hdu: fits.hdu.base._BaseHDU) -> bool:
    """Return whether an HDU is an image with pixels."""
    return bool(hdu.is_image) and len(hdu.shape) > 0 and 0 not in hdu.shape


def _floats(data: NDArray, where: str, header: fits.Header) -> NDArray[np.floating]:
    if data.dtype.kind not in "fiub":
        raise BadInput(f"{where} holds {data.dtype}, expected real numbers")
    # floats keep their width here: squares of faint images (1e-25) need float64 later on
    kind = np.float64 if data.dtype.itemsize > 4 or data.dtype.kind in "iu" else np.float32
    if data.dtype.kind != "f":  # a mask may carry its image's keywords
        return data.astype(kind)
    return linear_pixels(data.astype(kind), header, where)
