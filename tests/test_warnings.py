"""No warning of astropy, NumPy, torch or matplotlib reaches who runs a command, on any input.

Warnings are switched on for these processes, so that what is told here was mended at its root.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import hybridfit as hf
from hybridfit.io.cutout_files import write_cutouts

SIDE = 40
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - 19.5
RNG = np.random.default_rng(0)
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 20.0,
    "CRPIX2": 20.0,
    "CD1_1": -5e-5,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 5e-5,
}
HEADERS = {
    "old": {**SKY, "RADECSYS": "FK5", "EQUINOX": 2000.0, "DATE-OBS": "12/31/99", "MJD-OBS": 51543},
    "flat": {**SKY, "CD1_1": 0.0, "CD2_2": 0.0},
    "sip": {**SKY, "CTYPE1": "RA---TAN-SIP", "A_ORDER": 2, "A_2_0": 1e-4},
    "unit": {**SKY, "CUNIT1": "bananas"},
    "mixed": {**SKY, "PC1_1": 1.0, "CDELT1": 1e-4, "CROTA2": 3.0},
    "words": {"BUNIT": "erg/s/cm2/foo", "MAGZERO": "abc", "GAIN": "x", "EXPTIME": -1},
    "blank": {"BLANK": -99},
}


def image() -> np.ndarray:
    noise = RNG.normal(0, 1, ROWS.shape)
    return (200 * np.exp(-np.hypot(ROWS, COLUMNS) / 3) + noise).astype("f4")


def psf() -> np.ndarray:
    made = np.exp(-np.add.outer(np.arange(-7, 8) ** 2, np.arange(-7, 8) ** 2) / 4)
    return (made / made.sum()).astype("f4")


def write(folder: Path, name: str, planes: dict[str, np.ndarray] | None = None, header=None):
    whole = {"image": image(), "sigma": np.ones((SIDE, SIDE), "f4"), "psf": psf(), **(planes or {})}
    for role, data in whole.items():
        head = fits.Header(header) if role == "image" and header else None
        hdu = fits.PrimaryHDU(data, head)
        hdu.writeto(folder / f"{name}_{role}.fits", output_verify="ignore")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good galaxy, and every kind of bad file that could be thought of."""
    folder = tmp_path_factory.mktemp("galaxies")
    plane = np.ones((SIDE, SIDE), "f4")
    half, long, narrow = image(), image().astype("f8"), plane.copy()
    half[:20], half[21] = np.nan, np.inf
    long[0, :5], long[1] = 1e300, -1e200
    narrow[5] = 1e-38
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writing
        write(folder, "good")
        write(folder, "nothing", {"image": plane * np.nan})
        write(folder, "half", {"image": half})
        write(folder, "long", {"image": long})
        write(folder, "bright", {"image": image() * 1e30, "sigma": plane * 1e30})
        write(folder, "above", {"image": image().astype("f8") * 1e45, "sigma": plane * 1e45 / 1.0})
        write(folder, "wide", {"image": image().astype("f8"), "sigma": np.full((SIDE, SIDE), 1e45)})
        write(folder, "faint", {"image": image() * 1e-36, "sigma": plane * 1e-36})
        write(folder, "zero", {"image": plane * 0})
        write(folder, "negative", {"image": -image()})
        write(folder, "sigma0", {"sigma": plane * 0})
        write(folder, "sigmanan", {"sigma": plane * np.nan})
        write(folder, "sigmaneg", {"sigma": -plane})
        write(folder, "sigma38", {"sigma": narrow})
        for name, wrong in (("0", 0), ("nan", np.nan), ("neg", -1), ("huge", 1e300)):
            write(folder, f"psf{name}", {"psf": psf().astype("f8") * wrong})
        write(folder, "dot", {"psf": np.ones((1, 1), "f4")})
        write(folder, "covered", {"mask": np.ones((SIDE, SIDE), "u1")})
        write(folder, "masknan", {"mask": plane * np.nan})
        write(folder, "one", {"image": plane[:1, :1], "sigma": plane[:1, :1]})
        write(folder, "cube", {"image": np.zeros((2, SIDE, SIDE), "f4")})
        write(folder, "whole", {"image": (image() * 1e15).astype("i8"), "sigma": plane * 1e15})
        for name, header in HEADERS.items():
            write(folder, name, header=header)
        for name, size in (("cut", 4000), ("header", 2880), ("stub", 100)):
            write(folder, name)
            path = folder / f"{name}_image.fits"
            path.write_bytes(path.read_bytes()[:size])
        write(folder, "card")
        path = folder / "card_image.fits"
        data = bytearray(path.read_bytes())
        end = data.index(b"END  ")
        data[end : end + 80] = b"BAD\xffCARD= what is 'this".ljust(80)
        data[end + 80 : end + 160] = b"END".ljust(80)
        path.write_bytes(bytes(data))
        write(folder, "longer")
        path = folder / "longer_image.fits"
        path.write_bytes(path.read_bytes() + b"junk" * 1000)
    truth = {
        "x": [19.5, np.nan, 1, np.inf],
        "y": [19.5] * 4,
        "mag": [20.0, np.nan, 99.0, -np.inf],
        "r_eff": [5.0, 0.0, -3.0, np.inf],
        "n": [1.0, 0.0, np.nan, 1e300],
        "q": [0.9, 0.0, -1.0, 2.0],
        "pa": [0.0, np.nan, 1e9, -720.0],
    }
    table = Table({"id": ["good", "faint", "nobody", "old"], **truth}, masked=True)
    table["mag"].mask = [False, True, False, False]
    table.write(folder / "truth.fits")
    return folder


def run(*arguments: object) -> str:
    """Run a command with all warnings shown; return its stderr."""
    command = [sys.executable, "-W", "always", "-m", "hybridfit", *(str(a) for a in arguments)]
    kept = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    told = [line for line in lines if "Warning" in line or line.startswith("WARNING")]
    assert not told, "\n".join(lines)
    return done.stderr


def test_fit_plot_and_compare_warn_of_nothing(inputs: Path, tmp_path: Path):
    quick = ("--uncertainty", "covariance", "--initial-values", "moments", "--save-models")
    run("fit", inputs, "-o", tmp_path / "out", *quick)
    table = Table.read(tmp_path / "out" / "results.fits")
    names = {path.name.removesuffix("_image.fits") for path in inputs.glob("*_image.fits")}
    assert set(table["id"]) == names  # every id is a row
    assert "galaxies drawn" in run("plot", tmp_path / "out", "--input", inputs, "--limit", 100)
    run("compare", tmp_path / "out", inputs / "truth.fits", "--out", tmp_path / "compare")


def test_predict_and_plot_warn_of_nothing(inputs: Path, tmp_path: Path):
    run("predict", inputs, "-o", tmp_path / "out", "--samples", 32, "--save-samples")
    run("plot", tmp_path / "out", "--input", inputs, "--id", "good", "--id", "old")


@pytest.mark.parametrize("format", ["ecsv", "parquet"])  # FITS: above
def test_tables_are_written_without_a_warning(format: str, tmp_path: Path):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    cutouts, _ = hf.simulate(2)
    write_cutouts(cutouts, tmp_path / "in")
    quick = ("--uncertainty", "covariance", "--initial-values", "moments", "--format", format)
    run("fit", tmp_path / "in", "-o", tmp_path / "out", *quick)


def test_the_command_line_keeps_libraries_quiet_and_debug_shows_them():
    from hybridfit.cli.exit_status import errors

    for debug, shown in ((False, 0), (True, 1)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with errors(debug):
                warnings.warn("of a library", RuntimeWarning, stacklevel=1)
        assert len(seen) == (shown if not sys.warnoptions else 1)
