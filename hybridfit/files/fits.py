"""Open FITS files after checking the sizes their headers claim, without reading their data.

Astropy sees the file up to its last complete HDU only: it would search zeros after that for another
header, count axes to 2^31, or unpack far more than any image needs.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from astropy.io import fits

from hybridfit.files.regular import FileProblem, open_regular

BLOCK, CARD = 2880, 80  # bytes
MAX_HDUS = 10_000
MAX_HEADER = 4_000_000  # bytes of one header: 50,000 cards
MAX_AXES = MAX_FIELDS = 999  # limits of the FITS standard
# limits of unpacking a compressed file: this many bytes in any case, or this many times its own
# size, which images with noise do not reach
MAX_UNPACKED, MAX_RATIO = 300_000_000, 50
IN_MEMORY = 16_000_000  # bytes of a file that is read in one piece
CHUNK = 1 << 20
STRUCTURE = re.compile(
    rb"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|GCOUNT|PCOUNT|GROUPS|TFIELDS|ZBITPIX|ZNAXIS\d*|ZTILE\d+)"
    rb"\s*=\s*([^/]*)"
)
INITIALS = b"SXBNGPTZ"  # of these keywords
END = re.compile(rb"END[ \0]{5}")
NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


@contextmanager
def open_fits(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, compressed by gzip, bzip2, xz, zip or not, for reading.

    Raises:
        FileProblem: for sizes that no image has, or if it is not a regular file.
        OSError: if it cannot be read; any of astropy's errors for broken headers.
    """
    with open_regular(path) as file, fits.open(_bounded(file, str(path))) as hdus:
        yield hdus


def check_fits(path: str | Path) -> None:
    """Check the sizes claimed by a plain FITS file that another library will open by name.

    Raises:
        FileProblem: for sizes that no table has, data after the last HDU, or if it is compressed
            or not a regular file.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        if _unpacker(file) is not None:
            raise FileProblem(f"'{path}' is compressed, expected a plain FITS file: unpack it")
        end, size = _end_of(file, str(path))
        if size - end > MAX_HEADER:
            raise FileProblem(f"'{path}' has {size - end} bytes after its last HDU: is it damaged?")


def looks_like_fits(path: str | Path) -> bool:
    """Return whether a regular file begins like FITS or a compressed file.

    Raises:
        FileProblem: if it is not a regular file.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        return _unpacker(file) is not None or file.read(9) == b"SIMPLE  ="


def _bounded(file: BinaryIO, path: str) -> BinaryIO:
    """The part of a file that astropy may read: its complete HDUs."""
    unpack = _unpacker(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if unpack is not None:
        return _unpacked(unpack(file), path, max(MAX_UNPACKED, MAX_RATIO * size))
    if size <= IN_MEMORY:
        file = io.BytesIO(file.read(size))
    end, size = _end_of(file, path)
    if end == size:
        file.seek(0)
        return file
    return cast(BinaryIO, io.BufferedReader(_Window(file, end)))


class _Window(io.RawIOBase):
    """Return the first bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence, self._size)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _unpacker(file: BinaryIO) -> Callable[[BinaryIO], BinaryIO] | None:
    """Return the decompressor for a file from its first bytes; None for a plain one."""
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return lambda packed: cast(BinaryIO, gzip.GzipFile(fileobj=packed))
    if start[:3] == b"BZh":
        return lambda packed: cast(BinaryIO, bz2.BZ2File(packed))
    if start == b"\xfd7zXZ\x00":
        return lambda packed: cast(BinaryIO, lzma.LZMAFile(packed))
    return _member if start[:4] == b"PK\x03\x04" else None


def _member(file: BinaryIO) -> BinaryIO:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if len(names) != 1:
        raise FileProblem(f"a zip archive with {len(names)} files came, expected one FITS file")
    return cast(BinaryIO, archive.open(names[0]))


def _unpacked(stream: BinaryIO, path: str, limit: int) -> BinaryIO:
    """Return the complete HDUs of a compressed file, unpacked into memory."""
    kept = io.BytesIO()

    def read(count: int) -> bytes:
        data = stream.read(count)
        kept.write(data)
        return data

    def skip(count: int) -> int:
        if kept.tell() + count > limit:
            raise FileProblem(
                f"'{path}' unpacks to {(kept.tell() + count) / 1e6:.3g} MB and more, expected "
                f"{limit / 1e6:.3g} MB at most of a compressed file of its size: unpack it first"
            )
        left = count
        while left > 0 and (data := read(min(left, CHUNK))):
            left -= len(data)
        return count - left

    kept.truncate(_walk(read, skip, path))
    kept.seek(0)
    return kept


def _end_of(file: BinaryIO, path: str) -> tuple[int, int]:
    """Return the end of the last HDU of a plain file, and the file's size."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)

    def skip(count: int) -> int:
        before = file.tell()
        return file.seek(min(before + count, size)) - before

    return _walk(file.read, skip, path), size


def _walk(read: Callable[[int], bytes], skip: Callable[[int], int], path: str) -> int:
    """Step through the headers and return the end of the last HDU; raise for absurd sizes."""
    end = 0
    for number in range(MAX_HDUS):
        header = b""
        while not (header and _is_last(header)):
            block = read(BLOCK)
            if number and not header and not block.startswith(b"XTENSION"):
                return end  # empty, or not an HDU: astropy would search it for one
            header += block
            if len(block) < BLOCK or (not number and not header.startswith(b"SIMPLE")):
                return end + len(header)  # astropy reports what is wrong
            if len(header) > MAX_HEADER:
                raise FileProblem(
                    f"header {number} of '{path}' does not end within {MAX_HEADER / 1e6:g} MB"
                )
        claimed = _data_size(header, f"HDU {number} of '{path}'")
        claimed += -claimed % BLOCK
        end += len(header) + (skipped := skip(claimed))
        if skipped < claimed:
            return end
    raise FileProblem(f"'{path}' has more than {MAX_HDUS} HDUs, expected fewer")


def _is_last(header: bytes) -> bool:
    """Return whether the last block of a header has an END card."""
    found = END.finditer(header, len(header) - BLOCK)
    return any(card.start() % CARD == 0 for card in found)


def _data_size(header: bytes, where: str) -> int:
    """Return the number of data bytes that a header claims.

    Raises:
        FileProblem: for axes, sides or counts that are absurdly large or negative.
    """
    found: dict[str, list[int]] = {}
    for i in range(0, len(header), CARD):
        if header[i] not in INITIALS:  # most cards: saves the regular expression
            continue
        card = STRUCTURE.match(header, i, i + CARD)
        if card is not None:
            text = card[2].decode("latin-1").strip()
            if NUMBER.fullmatch(text):
                value = int(text.split(".")[0][:40])  # int() raises for 4,300 digits
                found.setdefault(card[1].decode(), []).append(value)
    for key, limit in (("NAXIS", MAX_AXES), ("ZNAXIS", MAX_AXES), ("TFIELDS", MAX_FIELDS)):
        for value in found.get(key, ()):
            if not 0 <= value <= limit:
                raise FileProblem(f"{where} says {key} = {value}, expected 0 to {limit}")
    for key, values in found.items():
        if min(values) < 0 and not key.endswith("BITPIX"):
            raise FileProblem(f"{where} says {key} = {min(values)}, expected 0 or more")
    sides = [found.get(f"NAXIS{n}", [0])[0] for n in range(1, found.get("NAXIS", [0])[0] + 1)]
    if b"GROUPS  =                    T" in header and sides[:1] == [0]:
        sides = sides[1:]
    pixels = math.prod(sides) if sides else 0
    counts = [found.get(key, [default])[0] for key, default in (("GCOUNT", 1), ("PCOUNT", 0))]
    return abs(found.get("BITPIX", [0])[0]) * counts[0] * (counts[1] + pixels) // 8
