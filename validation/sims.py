"""How often does the command line fail on simulated galaxies, and are the errors right?

    python -m validation.sims [--compile on] [--uncertainty posterior] [--keep FOLDER]

Every galaxy of ../shared/data/sims main.npz and hard.npz is written as <id>_image.fits, _sigma.fits
and _psf.fits, together with truth.fits; `hybridfit fit` runs over them as a user would, and its
table is compared with the truth. Catastrophic means that the magnitude is off by more than 0.5 or
the size by a factor 2. `hybridfit compare` must give exactly the same pulls, or this script fails.
With --keep all files stay, and the comparison can be repeated:

    hybridfit compare FOLDER/main/out FOLDER/main/in/truth.fits

Pulls of the draws' mean and standard deviation need the draws:

    hybridfit fit FOLDER/main/in -o post --zeropoint 22.5 --save-samples
    hybridfit compare post FOLDER/main/in/truth.fits --point mean
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from validation.common import NAMES, SIMS, is_catastrophic, load_sims, quality, write_result


def write_fits(name: str, folder: Path) -> None:
    """Write the set's images, noise maps and PSFs, and the truth as truth.fits."""
    folder.mkdir(parents=True)
    _, values, snr = load_sims(name)
    truth = Table({"id": [f"g{i:03d}" for i in range(len(values))]})
    for k, column in enumerate(NAMES):
        truth[column] = values[:, k]
    truth["snr"] = snr
    truth.write(folder / "truth.fits")
    with np.load(SIMS / f"{name}.npz") as sims:
        for key, kind in (("data", "image"), ("sigma", "sigma"), ("psf", "psf")):
            for i, pixels in enumerate(sims[key]):
                fits.writeto(folder / f"g{i:03d}_{kind}.fits", pixels.astype(np.float32))


@contextmanager
def folder_for(name: str, keep: Path | None) -> Iterator[Path]:
    """Yield a folder for one set, in ``keep`` or temporary."""
    if keep is not None:
        yield keep / name
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


def measure(name: str, options: Sequence[str], keep: Path | None = None) -> dict[str, Any]:
    """Fit one set and compare it with the truth."""
    _, truth, snr = load_sims(name)
    with folder_for(name, keep) as folder:
        write_fits(name, folder / "in")
        command = [sys.executable, "-m", "hybridfit", "fit", str(folder / "in")]
        command += ["-o", str(folder / "out"), "--zeropoint", "22.5", *options, "--quiet"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        table = Table.read(folder / "out" / "results.fits")
        compared = compare(folder)
    values, errors = (
        np.stack([np.asarray(table[k + end], float) for k in NAMES], axis=1) for end in ("", "_err")
    )
    flags = np.asarray(table["flags"])
    bad = is_catastrophic(values[:, 2], values[:, 3], truth)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    bright = snr > 150
    everyone = quality(values, errors, truth)
    check_same(compared, everyone)
    return {
        "all": everyone,
        "S/N > 150": quality(values[bright], errors[bright], truth[bright]),
        "catastrophic without a flag": int((bad & (flags == 0)).sum()),
        "flagged": int((flags != 0).sum()),
        "CPU seconds of the command, start-up included": round(seconds, 2),
    }


def compare(folder: Path) -> Table:
    """Return the summary of `hybridfit compare` of one set with its truth."""
    command = [sys.executable, "-m", "hybridfit", "compare", str(folder / "out")]
    subprocess.run([*command, str(folder / "in" / "truth.fits"), "--quiet"], check=True)
    summary = Table.read(folder / "out" / "compare" / "summary.ecsv")
    return summary[summary["group"] == "all"]


def check_same(compared: Table, figures: dict[str, Any]) -> None:
    """Raise if failures or pulls of `hybridfit compare` differ from those of this script."""
    for row, name in zip(compared, NAMES, strict=False):
        report = (row["catastrophic"], round(row["pull_std"], 3), round(row["pull_mean"], 3))
        own = (figures["catastrophic"], figures["pull_std"][name], figures["pull_mean"][name])
        if row["parameter"].removeprefix("ln ") != name or report != own:
            raise AssertionError(f"compare gives {report} for {name}, expected {own}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", default="off", choices=("auto", "on", "off"))
    # errors from the curvature at the fit, as of other tools
    parser.add_argument("--uncertainty", default="covariance")
    parser.add_argument("--keep", type=Path, help="folder for inputs, results and comparisons")
    args = parser.parse_args()
    options = ["--compile", args.compile, "--uncertainty", args.uncertainty]
    if not SIMS.is_dir():
        sys.exit(f"the simulated sets are missing: {SIMS}")
    figures = {name: measure(name, options, args.keep) for name in ("main", "hard")}
    for name, table in figures.items():
        print(name)
        for key, value in table.items():
            print(f"    {key}: {value}")
    name = "sims" if args.uncertainty == "covariance" else f"sims_{args.uncertainty}"
    print(write_result(name, figures))


if __name__ == "__main__":
    main()
