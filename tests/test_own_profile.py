"""A user's profile in a file beside the data, from the command line to pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from model_helpers import galaxies, write_manifest

PROFILE = '''
import math
import torch
import hybridfit as hf

class Plummer(hf.Profile):
    """(1 + c rho^2)^-p with half of the light within rho = 1."""

    shape_parameters = (
        hf.ShapeParameter("p", "", "power of the wings", hf.LogNormal(2.0, 0.5, 1.1, 10.0)),
    )

    def evaluate(self, rho, p):
        c = torch.expm1(math.log(2) / (p - 1))
        return (p - 1) * c / math.pi * (1 + c * rho**2) ** -p
'''
TRUTH = [31.3, 31.8, 19.0, 5.0, 0.7, 40.0, 0.1]  # a Gaussian


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybridfit", *arguments, "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("uncertainty", ["covariance", "posterior"])
def test_a_profile_beside_the_data(tmp_path: Path, uncertainty: str):
    (tmp_path / "my_profiles.py").write_text(PROFILE)
    cutouts = galaxies("exponential", [TRUTH])
    write_manifest(cutouts, tmp_path / "data", q_fixed=[0.7])
    allowed = ("--allow-import", "my_profiles")
    options = ("--model", "my_profiles:Plummer", "--uncertainty", uncertainty, "--save-models")
    draws = () if uncertainty == "covariance" else ("--save-samples",)
    run(tmp_path, "fit", "data/manifest.csv", "-o", "out", *options, *draws, *allowed)
    row = Table.read(tmp_path / "out" / "results.fits")[0]
    assert row["p_err"] > 0
    assert (row["q"], row["q_err"]) == (pytest.approx(0.7, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert abs(row["mag"] - 19.0) < 0.2
    if draws:
        assert row["p_p16"] < row["p_p50"] < row["p_p84"]
    with fits.open(tmp_path / "out" / "models" / "g0_block.fits") as hdus:
        residual = (hdus[1].data - hdus[2].data) / 0.1
    assert np.mean(residual**2) < 1.5
    run(tmp_path, "plot", "out", "--input", "data/manifest.csv", *allowed)
    pictures = {path.name for path in (tmp_path / "out" / "plots").glob("*.png")}
    assert pictures == ({"g0_fit.png", "g0_corner.png"} if draws else {"g0_fit.png"})
