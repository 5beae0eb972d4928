"""Mutations of what users give: files broken in the ways that files are, and worse, by a seed."""

from __future__ import annotations

import gzip
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

SECONDS = 5  # of CPU time that one input may take
WALL_SECONDS = 120  # what waits for a pipe takes no CPU time; other work may share the machine
MEMORY = 1 << 30  # bytes that one input may take
CARD, BLOCK = 80, 2880  # bytes of a header's card, of a block

NUMBERS = (
    np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 1e-45, 1e-38, -1e-38, 1e-20, 1e12, 1e20, 1e36, -1e36,
    3.4e38, 32768.0, 65535.0, -999.0, -2147483648.0,
)  # fmt: skip
VALUES = (
    "'abc'", "''", "0", "-1", "1", "2", "3", "8", "16", "-32", "-64", "64", "999", "1000", "2880",
    "2147483647", "2147483648", "99999999999999999999", "1E400", "NaN", "-0.0", "T", "F", "1.5",
    "(1.0, 2.0)", "'" + "x" * 67 + "'", "'x&'", "/ nothing", "=", "'unbalanced", "\x00", "1 2 3",
)  # fmt: skip
KEYWORDS = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT",
    "TFIELDS", "BSCALE", "BZERO", "BLANK", "EXTNAME", "EXTVER", "INHERIT", "ZIMAGE", "ZCMPTYPE",
    "ZNAXIS1", "CTYPE1", "CTYPE2", "CRVAL1", "CRPIX1", "CD1_1", "CDELT1", "CUNIT1", "RADESYS",
    "EQUINOX", "A_ORDER", "BUNIT", "MAGZERO", "MAGZPT", "PHOTFLAM", "PHOTPLAM", "PIXAR_SR",
    "FLUXMAG0", "EXPTIME", "GAIN", "OVERSAMP", "DET_SAMP", "PIXELSCL", "BOFFSET", "BSOFTEN",
    "MP_SAT", "INSTRUME", "TELESCOP", "HIERARCH", "CONTINUE", "COMMENT", "END", "",
)  # fmt: skip
WORDS = (
    "", " ", "nan", "NaN", "inf", "-inf", "1e400", "-1", "0", "abc", "true", "null", "None", "~",
    "[", "]", "{", "}", "[]", "{}", "[1, 2]", "{a: 1}", "!!python/object/apply:os.getcwd []",
    "&a [*a]", "*a", "2026-12-01", "0x1F", "1_000", "'", '"', "\\", "\x00", "\t", "é", "𝑛",
    "\ufeff", "9" * 400, "x" * 4000, "a.fits[", "a.fits[0]", "a.fits[sci,1]", "a.fits[9]",
    "a.fits[*,2]", "a.fits+7", ".", "..", "none", "/dev/null", "-", "=1+1", "1,5", "1;5", "%s",
    "{id}", "none.fits",
)  # fmt: skip


class OverBounds(BaseException):
    """An input took too long; no handler of `Exception` takes it for a fault of a galaxy."""


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `OverBounds` if the block takes more CPU time, or memory, than an input may."""

    def stop(number: int, frame: object) -> None:
        raise OverBounds(f"more than {seconds} s of CPU time, or {WALL_SECONDS} s in all")

    before = {which: signal.signal(which, stop) for which in (signal.SIGPROF, signal.SIGALRM)}
    base = _forget_peak()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for which, handler in before.items():
            signal.signal(which, handler)
    if _memory("VmHWM") - base > MEMORY:
        raise OverBounds(f"{(_memory('VmHWM') - base) / 2**30:.1f} GiB, expected 1 at most")


def _forget_peak() -> int:
    """Begin the count of the process's peak anew; bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def pick(rng: np.random.Generator, of: tuple) -> object:
    """One of a few things that need not be of a kind."""
    return of[int(rng.integers(len(of)))]


# bytes of any file


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes are others."""
    data = bytearray(content)
    for i in rng.integers(len(data), size=int(rng.integers(1, 9))) if data else ():
        data[i] = int(rng.integers(256))
    return bytes(data)


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return content[: int(rng.integers(len(content) + 1))]


def shuffled(content: bytes, rng: np.random.Generator) -> bytes:
    """A part stands twice, elsewhere, or is zero or noise."""
    size = max(1, min(BLOCK, len(content) // 4))
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    i, j = rng.integers(len(parts), size=2)
    match int(rng.integers(5)):
        case 0:
            parts[i], parts[j] = parts[j], parts[i]
        case 1:
            parts.insert(int(i), parts[j])
        case 2:
            del parts[i]
        case 3:
            parts[i] = bytes(len(parts[i]))
        case _:
            parts[i] = rng.bytes(len(parts[i]))
    return b"".join(parts)


BYTES = (flipped, truncated, shuffled)


# FITS files


def recarded(content: bytes, rng: np.random.Generator) -> bytes:
    """Some cards of the header have another value or keyword, or are missing."""
    data = bytearray(content)
    end = max(content.find(b"END" + b" " * 77), 0) // CARD
    for _ in range(int(rng.integers(1, 4))):
        at = CARD * int(rng.integers(end + 1))
        keyword = str(pick(rng, KEYWORDS))
        if rng.random() < 0.5:
            keyword = data[at : at + 8].decode("latin-1")
        card = f"{keyword:8.8}= {pick(rng, VALUES)!s:>20}"
        data[at : at + CARD] = f"{card:80.80}".encode("latin-1", "replace")
    return bytes(data)


def with_cards(content: bytes, rng: np.random.Generator) -> bytes:
    """The header has more cards: sensible keywords, any values."""
    at = max(content.find(b"END" + b" " * 77), 0)
    cards = [
        f"{pick(rng, KEYWORDS[10:-3])!s:8.8}= {pick(rng, VALUES)!s:>20}"
        for _ in range(int(rng.integers(1, 6)))
    ]
    added = "".join(f"{card:80.80}" for card in (*cards, "END")).encode("latin-1")
    header = content[:at] + added
    header += b" " * (-len(header) % BLOCK)
    return header + content[BLOCK * (at // BLOCK + 1) :]


def with_pixels(path: Path, rng: np.random.Generator) -> None:
    """The pixels are others, or of another type or shape."""
    data, header = fits.getdata(path, header=True)
    data = np.array(data, dtype=np.float64)
    height, width = data.shape
    value = float(pick(rng, NUMBERS))  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        match int(rng.integers(12)):
            case 0:
                data[:] = value
            case 1:
                y, x = int(rng.integers(height)), int(rng.integers(width))
                data[y : y + int(rng.integers(1, 40)), x : x + int(rng.integers(1, 40))] = value
            case 2:
                data[int(rng.integers(height))] = value
            case 3:
                data[rng.integers(height), rng.integers(width)] = value
            case 4:
                data *= 10.0 ** rng.uniform(-44, 38)
            case 5:
                data += 10.0 ** rng.uniform(-3, 38)
            case 6:
                data = -data
            case 7:
                data = data[: int(rng.integers(1, height)), : int(rng.integers(1, width))]
            case 8:
                data = data[None] if rng.random() < 0.5 else np.stack([data, data])
            case 9:
                data = data.ravel()
            case 10:
                data[rng.random(data.shape) < rng.uniform(0, 1)] = value
            case _:
                data = np.tril(data) + value * np.triu(np.ones_like(data), 1)
        kind = pick(rng, ("f4", "f8", "f4", "f4", "i2", "i4", "i8", "u1", "u2"))
        data = data.astype(str(kind))
    header.pop("BSCALE", None)
    header.pop("BZERO", None)
    fits.writeto(path, data, header, overwrite=True, output_verify="silentfix")


def zipped(path: Path, rng: np.random.Generator) -> None:
    """The file is compressed, and perhaps cut, under the name that it had."""
    content = gzip.compress(path.read_bytes())
    path.write_bytes(content if rng.random() < 0.3 else BYTES[int(rng.integers(3))](content, rng))


def replaced(path: Path, rng: np.random.Generator) -> None:
    """No regular file of its own kind stands there."""
    path.unlink()
    match int(rng.integers(6)):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path.name)  # to itself
        case 4:
            path.write_bytes(rng.bytes(int(rng.integers(20_000))))
        case _:
            path.write_bytes(b"")


def mutate_fits(path: Path, rng: np.random.Generator) -> None:
    """Break a FITS file in one way, sometimes in two."""

    def rewrite(change: Callable[[bytes, np.random.Generator], bytes]) -> None:
        path.write_bytes(change(path.read_bytes(), rng))

    choice = rng.random()
    if choice < 0.35:
        with_pixels(path, rng)
        if rng.random() < 0.3:
            rewrite(recarded)
    elif choice < 0.6:
        rewrite(recarded)
    elif choice < 0.75:
        rewrite(with_cards)
    elif choice < 0.9:
        rewrite(BYTES[int(rng.integers(len(BYTES)))])
    elif choice < 0.95:
        zipped(path, rng)
    else:
        replaced(path, rng)


# text


def reworded(text: str, rng: np.random.Generator) -> str:
    """Some words are others; the lines stay."""
    pieces = re.split(r"([\s,:;=\[\]{}]+)", text)
    for _ in range(int(rng.integers(1, 4))):
        pieces[2 * int(rng.integers((len(pieces) + 1) // 2))] = str(pick(rng, WORDS))
    return "".join(pieces)


def relined(text: str, rng: np.random.Generator) -> str:
    """A line is missing, stands twice, or elsewhere."""
    lines = text.split("\n")
    i, j = rng.integers(len(lines), size=2)
    line = lines.pop(i) if rng.random() < 0.6 else lines[i]
    if rng.random() < 0.7:
        lines.insert(int(j), line if rng.random() < 0.7 else " " * int(rng.integers(9)) + line)
    return "\n".join(lines)


def mutate_text(path: Path, rng: np.random.Generator) -> None:
    """Break a text file in one way; its encoding may be another."""
    content = path.read_bytes()
    choice = rng.random()
    if choice < 0.6:
        text = content.decode()
        text = reworded(text, rng) if choice < 0.45 else relined(text, rng)
        encoding = str(pick(rng, ("utf-8",) * 8 + ("latin-1", "utf-16", "utf-8-sig")))
        content = text.encode(encoding, "replace")
    elif choice < 0.95:
        content = BYTES[int(rng.integers(len(BYTES)))](content, rng)
    else:
        return replaced(path, rng)
    path.write_bytes(content)
