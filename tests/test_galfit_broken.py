"""Files of GALFIT's that something damaged: an answer or a `GalfitError`, never anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from hybridfit.io.galfit import (
    GalfitError,
    read_block,
    read_constraints,
    read_feedme,
    read_log,
    read_outcomes,
)

FEEDME = """#  Chi^2/nu = 1.096,  Chi^2 = 9470.050,  Ndof = 8641
A) gal.fits
A1) r
A2) 6231
C) none 0.0
D) psf.fits kernel
E) 1
H) 11 93 21 88
I) 100 100
J) 26.5
K) 0.04 0.04
P) 0
 0) sersic
 1) 46.5274 48.2557 1 1
 3) 23.0112 1
 4) 2.4795 1
 5) 3.9379 1
 9) 0.8523 1
10) -70.7975 1
F1) 0.1 20 1 1
 Z) 0
 0) sky
 1) 0.7854 1
 2) 0.0 0
 3) 0.001 1
"""
LOG = """Input image     : gal.fits[1:93,1:93]
Init. par. file : galfit.feedme
Restart file    : galfit.01
Output image    : imgblock.fits

 sersic    : (   46.53,    48.27)   23.01      2.48    3.94    0.85   -70.80
             (    0.02,     0.02)    0.02      0.08    0.26    0.02     4.75
 sky       : [ 47.00,  47.00]  7.85e-01  [0.00e+00]  [0.00e+00]
                                9.40e-02  [0.00e+00]  [0.00e+00]
 Chi^2 = 9470.05020,  ndof = 8641
 Chi^2/nu = 1.096
"""
CONSTRAINTS = "3_2_1 x offset\n1 n 0.7 to 5\n2 x -1 0.5 # soft\n3/5 re 1 3\n1 re factor 3\n"
SNIPPETS = (b"*", b"[", b")", b",", b"-", b"1e", b"nan ", b"\n", b" ", b"#", b"0)", b"\xff")


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes dropped, put in or repeated, or the end cut off."""
    for _ in range(int(rng.integers(1, 6))):
        at, kind = int(rng.integers(0, max(len(data), 1))), rng.random()
        if kind < 0.4:
            data = data[:at] + data[at + int(rng.integers(1, 12)) :]
        elif kind < 0.8:
            data = data[:at] + SNIPPETS[int(rng.integers(len(SNIPPETS)))] + data[at:]
        elif kind < 0.9:
            data = data[:at]
        else:
            data = data[:at] + data[at // 2 : at // 2 + 50] + data[at:]
    return data


@pytest.mark.parametrize(
    ("reader", "text"),
    [(read_feedme, FEEDME), (read_log, LOG), (read_constraints, CONSTRAINTS)],
)
def test_damaged_text(tmp_path: Path, reader, text: str):
    rng = np.random.default_rng(5)
    path, refused = tmp_path / "file", []
    for _ in range(400):
        path.write_bytes(damaged(text.encode(), rng))
        for read in (reader, read_outcomes):
            try:
                read(path)
            except GalfitError as error:
                refused.append(str(error))
    assert 100 < len(refused) < 800
    assert all("file'" in text for text in refused)


def test_damaged_blocks(tmp_path: Path):
    header = fits.Header()
    for key, text in (("COMP_1", "sersic"), ("1_XC", "1.0 +/- 0.1"), ("1_MAG", "20.0 +/- 0.1")):
        header[key] = text
    header["CHISQ"], header["NDOF"], header["FITSECT"] = 9.5, 8, "[1:9,1:9]"
    image = np.zeros((9, 9), np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header)]).writeto(tmp_path / "b.fits")
    data = (tmp_path / "b.fits").read_bytes()
    rng, path, refused = np.random.default_rng(6), tmp_path / "damaged.fits", 0
    for _ in range(150):
        path.write_bytes(damaged(data, rng))
        try:
            read_block(path)
        except GalfitError:
            refused += 1
        assert len(read_outcomes(tmp_path)) >= 1  # the good one is read in any case
    assert refused > 30
