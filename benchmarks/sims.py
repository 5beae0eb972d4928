"""Failures and pulls on the simulated sets, written as FITS and fitted by the command line.

    python benchmarks/sims.py [--compile on] [--uncertainty posterior]

Every galaxy of ../shared/data/sims main.npz and hard.npz becomes <id>_image.fits, _sigma.fits and
_psf.fits; `hybridfit fit` runs over them as a user would run it, and its table is held against the
truth. Catastrophic: magnitude off by more than 0.5 or size by a factor 2.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from common import NAMES, SIMS, load_sims, quality, write_result


def write_fits(name: str, folder: Path) -> None:
    """Write the set's images, noise maps and PSFs."""
    folder.mkdir()
    with np.load(SIMS / f"{name}.npz") as sims:
        for key, kind in (("data", "image"), ("sigma", "sigma"), ("psf", "psf")):
            for i, pixels in enumerate(sims[key]):
                fits.writeto(folder / f"g{i:03d}_{kind}.fits", pixels.astype(np.float32))


def measure(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Fit one set and compare it with the truth."""
    _, truth, snr = load_sims(name)
    with tempfile.TemporaryDirectory() as folder:
        write_fits(name, Path(folder) / "in")
        command = [sys.executable, "-m", "hybridfit", "fit", f"{folder}/in", "-o", f"{folder}/out"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--zeropoint", "22.5", *options, "--quiet"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        table = Table.read(f"{folder}/out/results.fits")
    values, errors = (
        np.stack([np.asarray(table[k + end], float) for k in NAMES], axis=1) for end in ("", "_err")
    )
    flags = np.asarray(table["flags"])
    with np.errstate(invalid="ignore"):
        near = np.abs(values[:, 2] - truth[:, 2]) <= 0.5
        near &= np.abs(np.log(values[:, 3] / truth[:, 3])) < np.log(2)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    bright = snr > 150
    return {
        "all": quality(values, errors, truth),
        "S/N > 150": quality(values[bright], errors[bright], truth[bright]),
        "catastrophic without a flag": int((~near & (flags == 0)).sum()),
        "flagged": int((flags != 0).sum()),
        "CPU seconds of the command, start-up included": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", default="off", choices=("auto", "on", "off"))
    # errors as other tools have them, of the curvature at the fit
    parser.add_argument("--uncertainty", default="covariance")
    args = parser.parse_args()
    options = ["--compile", args.compile, "--uncertainty", args.uncertainty]
    if not SIMS.is_dir():
        sys.exit(f"the simulated sets are not there: {SIMS}")
    figures = {name: measure(name, options) for name in ("main", "hard")}
    for name, table in figures.items():
        print(name)
        for key, value in table.items():
            print(f"    {key}: {value}")
    name = "sims" if args.uncertainty == "covariance" else f"sims_{args.uncertainty}"
    print(write_result(name, figures))


if __name__ == "__main__":
    main()
