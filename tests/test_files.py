"""Files are opened with bounds: absurd claims, bombs, devices and pipes end at once, in a row."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import hybridfit as hf
from hybridfit.data.errors import BadInput
from hybridfit.files.fits import check_fits, open_fits
from hybridfit.files.regular import FileProblem, open_regular, read_text
from hybridfit.io.options import ReadOptions
from hybridfit.io.planes import read_plane, read_section
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

AT_ONCE = 10.0  # seconds on a busy machine: milliseconds are right, minutes are wrong
NO_PSF = ReadOptions(no_psf=True, mask_neighbours=False)


def image(side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side / 2
    noise = np.random.default_rng(3).normal(0, 1, (side, side))
    return (500 * np.exp(-np.hypot(x, y) / 4) + noise).astype(np.float32)


def whole() -> bytes:
    hdus = [
        fits.PrimaryHDU(image()),
        fits.ImageHDU(np.ones((64, 64), np.float32), name="SIGMA"),
        fits.CompImageHDU(np.ones((64, 64), np.float32), name="OTHER"),
    ]
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def card(key: str, value: object) -> bytes:
    return f"{key:8}= {value!s:>20}".encode()


def written(path: Path, data: bytes) -> str:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
@pytest.mark.parametrize(
    ("hdu", "key", "value"),
    [
        *[(hdu, "NAXIS", value) for hdu in range(3) for value in (2**31, 2**63, 1000)],
        *[(hdu, "NAXIS1", -64) for hdu in range(3)],
        *[(hdu, key, -99_999_999) for hdu in (1, 2) for key in ("PCOUNT", "GCOUNT")],
        *[(2, key, 2**31) for key in ("ZNAXIS", "TFIELDS")],
    ],
)
def test_absurd_claims_are_refused_at_once(
    tmp_path: Path, ending: str, hdu: int, key: str, value: int
):
    blocks = whole()
    starts = [0, blocks.index(b"XTENSION"), blocks.rindex(b"XTENSION")]
    i = blocks.index(f"{key:8}=".encode(), starts[hdu])
    path = written(tmp_path / f"a{ending}", blocks[:i] + card(key, value) + blocks[i + 30 :])
    began = time.monotonic()
    with pytest.raises(BadInput, match=f"HDU {hdu} of .* says {key} = {value}"):
        read_plane(path)
    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("key", ["NAXIS1", "NAXIS2", "PCOUNT", "BITPIX"])
def test_claims_beyond_the_file_are_no_memory(tmp_path: Path, key: str):
    data = whole()
    i = data.index(f"{key:8}=".encode(), 2880 * 7)  # of the second HDU
    data = data[:i] + card(key, 10**12) + data[i + 30 :]
    began = time.monotonic()
    plain, packed = (written(tmp_path / f"a{ending}", data) for ending in (".fits", ".fits.gz"))
    assert np.array_equal(read_plane(plain)[0], image())  # the first HDU is whole
    with pytest.raises(BadInput, match="unpacks to"):
        read_plane(packed)
    if key != "PCOUNT":  # of an image it is not looked at, and all its pixels are there
        with pytest.raises(BadInput):
            read_plane(f"{plain}[1]")
    assert time.monotonic() - began < AT_ONCE


def test_a_header_without_an_end(tmp_path: Path):
    data = whole()
    end = data.index(b"END     ")
    long = data[:end] + b"".join(card(f"K{i}", i).ljust(80) for i in range(60_000))
    for ending in (".fits", ".fits.gz"):
        with pytest.raises(BadInput, match="does not end within 4 MB"):
            read_plane(written(tmp_path / f"a{ending}", long))


def test_millions_of_hdus(tmp_path: Path):
    empty = b"".join(
        text.ljust(80)
        for text in (b"XTENSION= 'IMAGE   '", card("BITPIX", 8), card("NAXIS", 0), b"END")
    ).ljust(2880)
    with pytest.raises(BadInput, match="more than 10000 HDUs"):
        read_plane(written(tmp_path / "a.fits.gz", whole() + empty * 20_000))


def test_zeros_behind_the_image_are_not_searched(tmp_path: Path):
    """4 GB of them took 4.6 GB and over 90 s."""
    plain, packed = tmp_path / "a.fits", tmp_path / "b.fits.gz"
    plain.write_bytes(whole())
    with plain.open("rb+") as file:
        file.truncate(50_000_000_000)
    with packed.open("wb") as file:
        file.write(gzip.compress(whole()))
        zeros = gzip.compress(b"\0" * 10_000_000)  # members follow one another: 4 GB of zeros
        for _ in range(400):
            file.write(zeros)
    for path in (plain, packed):
        began = time.monotonic()
        assert np.array_equal(read_plane(str(path))[0], image())
        assert time.monotonic() - began < AT_ONCE


def tiles_of(path: Path, side: int) -> Path:
    """A compressed image of a few kB that says it has so many pixels a side."""
    packed = fits.CompImageHDU(np.zeros((64, 64), np.float32), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    data = path.read_bytes()
    for key in ("ZNAXIS1", "ZNAXIS2", "ZTILE1"):
        i = data.index(f"{key:8}=".encode())
        data = data[:i] + card(key, side) + data[i + 30 :]
    path.write_bytes(data)
    return path


def zeros_of(path: Path, before: bytes) -> Path:
    """Some MB that unpack to an image of 6.4 GB, in the first HDU or behind others."""
    header = fits.PrimaryHDU(np.zeros((2, 2), np.float32)).header
    header["NAXIS1"] = header["NAXIS2"] = 40_000
    text = header.tostring().encode()
    if before:
        text = text.replace(card("SIMPLE", "T"), b"XTENSION= 'IMAGE   '          ")
    with path.open("wb") as file:
        file.write(gzip.compress(before + text))
        zeros = gzip.compress(b"\0" * 10_000_000)
        for _ in range(640):
            file.write(zeros)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_what_a_small_file_unpacks_to_is_bounded(tmp_path: Path):
    """1 GB is enough for a process that is asked for 6.4 GB by a file of some MB."""
    paths = [
        tiles_of(tmp_path / "a.fits", 9_999),
        zeros_of(tmp_path / "b.fits.gz", b""),
        zeros_of(tmp_path / "c.fits.gz", whole()),
    ]
    code = f"""
        import resource
        from hybridfit.data.errors import BadInput
        from hybridfit.io.planes import read_plane
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000,) * 2)
        for path in {[str(path) for path in paths]}:
            for text in (path, path + "[1]"):
                try:
                    read_plane(text)
                except BadInput as error:
                    assert "unpacks to" in str(error) or "cut it out" in str(error), error
                else:
                    raise AssertionError(text)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", ["bz2", "xz", "zip", "gz"])
def test_compressed_files_are_read(tmp_path: Path, way: str):
    data, path = whole(), tmp_path / f"a.fits.{way}"
    if way == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.fits", data)
    else:
        pack = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}[way]
        path.write_bytes(pack(data))
    assert np.array_equal(read_plane(str(path))[0], image())
    assert (read_plane(f"{path}[OTHER]")[0] == 1).all()


def test_a_large_file_is_read_in_place(tmp_path: Path):
    """Beyond 16 MB, where the file is not read at once, with bytes after its last HDU."""
    path, big = tmp_path / "a.fits", np.random.default_rng(0).normal(size=(2100, 2100))
    fits.HDUList([fits.PrimaryHDU(big), fits.ImageHDU(image(), name="SMALL")]).writeto(path)
    for tail in (b"", b"\0" * 5000):
        with path.open("ab") as file:
            file.write(tail)
        assert np.array_equal(read_plane(str(path))[0], big)
        assert np.array_equal(read_plane(f"{path}[11:40,21:60]")[0], big[20:60, 10:40])
        assert np.array_equal(read_plane(f"{path}[small]")[0], image())


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    """A pipe, a circle of links, a device, a folder."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    return {name: tmp_path / name for name in ("pipe", "circle", "device", "folder")}


KINDS = {
    "pipe": "is a named pipe",
    "circle": "leads back to itself",
    "device": "is a device",
    "folder": "is a directory",
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(odd: dict[str, Path], kind: str):
    for call in (open_regular, check_fits, lambda path: read_text(path, 100)):
        with pytest.raises(FileProblem, match=KINDS[kind]):
            call(odd[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_a_row(odd: dict[str, Path], kind: str):
    folder = odd[kind].parent
    fits.writeto(folder / "good.fits", image())
    (folder / "list.csv").write_text(
        f"id,image,sigma,mask,psf\na,{kind},,,\nb,good.fits,{kind},,\nc,good.fits,,{kind},\n"
        f"d,good.fits,,,{kind}\ne,good.fits,,,good.fits\n"
    )
    cutouts = hf.read(folder / "list.csv")
    for i in range(4):
        assert KINDS[kind] in cutouts.messages[i] or "PSF file" in cutouts.messages[i]
    assert not cutouts.mask[4].all()


@pytest.mark.parametrize("kind", ["pipe", "circle", "device"])
def test_what_is_no_file_in_a_directory_is_a_row(odd: dict[str, Path], kind: str):
    folder = odd["folder"]
    fits.writeto(folder / "good_image.fits", image())
    odd[kind].rename(folder / "a_image.fits")
    if kind == "circle":
        (folder / "a_image.fits").unlink()
        (folder / "a_image.fits").symlink_to(folder / "a_image.fits")
    sources = find_sources(folder, NO_PSF)
    assert [source.id for source in sources] == ["a", "good"]
    with pytest.raises(BadInput, match=KINDS[kind]):
        read_cutout(sources[0], NO_PSF)


@pytest.mark.parametrize("kind", KINDS)
def test_no_device_serves_as_table_or_settings(odd: dict[str, Path], kind: str):
    from hybridfit.io.galfit.feedme import read_feedme
    from hybridfit.io.references.read import read_reference
    from hybridfit.options.yaml_options import load_yaml

    for ending in (".csv", ".ecsv", ".fits", ".yaml", ".txt"):
        path = odd[kind].with_suffix(ending)
        path.symlink_to(odd[kind])
        began = time.monotonic()
        if kind != "folder":
            with pytest.raises((ValueError, OSError)):
                find_sources(path, NO_PSF)
            with pytest.raises((ValueError, OSError)):
                read_reference(path)
        for read in (load_yaml, read_feedme):
            with pytest.raises((ValueError, OSError)):
                read(path)
        assert time.monotonic() - began < AT_ONCE


def test_open_fits_gives_what_astropy_gives(tmp_path: Path):
    path = written(tmp_path / "a.fits", whole())
    with open_fits(path) as ours, fits.open(path) as theirs:
        assert [hdu.name for hdu in ours] == [hdu.name for hdu in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.data, other.data)


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.txt", "a.dat", "a.yaml", "a.feedme"])
def test_large_files_of_zeros_are_not_read(tmp_path: Path, name: str):
    from hybridfit.io.galfit.feedme import read_feedme
    from hybridfit.io.references.read import read_reference
    from hybridfit.options.yaml_options import load_yaml

    path = tmp_path / name
    path.touch()
    os.truncate(path, 100_000_000_000)
    began = time.monotonic()
    for read in (read_reference, lambda p: find_sources(p, NO_PSF), load_yaml, read_feedme):
        with pytest.raises((ValueError, OSError)):
            read(path)
    assert time.monotonic() - began < AT_ONCE


def test_a_gzipped_tile_is_no_bomb(tmp_path: Path):
    """A tile of 4096 pixels that is 200 MB once it is unpacked."""
    path = tmp_path / "a.fits"
    zeros = gzip.compress(b"\0" * 200_000_000)
    row = np.empty(1, object)
    row[0] = np.frombuffer(zeros, "u1")
    tile = fits.Column("COMPRESSED_DATA", "PB()", array=row)
    table = fits.BinTableHDU.from_columns([tile])
    for key, value in {
        "ZIMAGE": True, "ZCMPTYPE": "GZIP_1", "ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": 64,
        "ZNAXIS2": 64, "ZTILE1": 64, "ZTILE2": 64,
    }.items():  # fmt: skip
        table.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    began = time.monotonic()
    with pytest.raises(BadInput, match="unpacks to more than the 32768 bytes that 4096 pixels"):
        read_plane(str(path))
    assert time.monotonic() - began < AT_ONCE


def test_only_the_tiles_of_a_section_are_examined(tmp_path: Path):
    """Of four tiles the last is a bomb: sections without it are read, those with it are refused."""
    path = tmp_path / "a.fits"
    honest = [np.full((64, 64), k, ">i4").tobytes() for k in range(3)]
    packed = [gzip.compress(data) for data in (*honest, b"\0" * 200_000_000)]
    rows = np.empty(4, object)
    rows[:] = [np.frombuffer(data, "u1") for data in packed]
    table = fits.BinTableHDU.from_columns([fits.Column("COMPRESSED_DATA", "PB()", array=rows)])
    for key, value in {
        "ZIMAGE": True, "ZCMPTYPE": "GZIP_1", "ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": 128,
        "ZNAXIS2": 128, "ZTILE1": 64, "ZTILE2": 64,
    }.items():  # fmt: skip
        table.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    assert read_section(str(path), (70, 100, 10, 20))[0].max() == 1
    assert read_section(str(path), (10, 40, 50, 80))[0].tolist()[-1] == [2.0] * 30
    with pytest.raises(BadInput, match="unpacks to more than the 32768 bytes"):
        read_section(str(path), (60, 70, 60, 70))


@pytest.mark.parametrize("kind", ["GZIP_1", "GZIP_2", "RICE_1", "HCOMPRESS_1"])
def test_compressed_tiles_are_read(tmp_path: Path, kind: str):
    plane = np.round(image() * 4).astype(np.int32)
    packed = fits.CompImageHDU(plane, compression_type=kind)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "a.fits")
    assert np.array_equal(read_plane(str(tmp_path / "a.fits"))[0], plane)


def test_absurd_noise_is_no_exception():
    """Pixels at 1e30 sigma overflow float32 where they are smoothed."""
    from hybridfit.detection.detect import detect_objects

    values, sigma = image(), np.full((64, 64), 1.0, np.float32)
    values[5, 5], sigma[10:12] = 1e36, 1e-38
    scene = detect_objects(values, sigma, np.zeros((64, 64), bool), (32, 32))
    assert np.isfinite([scene.sky, scene.rms]).all()
