"""Make tables of results with one checkout of hybridfit, on its command line, and read them.

hybridfit is not imported here: each checkout runs in its own process, first on PYTHONPATH. Draws
are read from columns of the table (as in version 0.1) or from a file of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

WAYS = {
    "posterior": ("fit", "--compile", "off", "--save-samples", "--covariance"),
    "covariance": ("fit", "--compile", "off", "--uncertainty", "covariance", "--covariance"),
    "bootstrap": ("fit", "--compile", "off", "--uncertainty", "bootstrap"),
    "predict": ("predict", "--save-samples"),
}
GALFIT_WAYS = {
    "posterior": ("--convolution", "continuous", "--uncertainty", "posterior"),
    "covariance": ("--covariance",),
}
SETS = ("main", "hard")
DEFAULT_CASES = (
    *(f"{name}-{way}" for name in SETS for way in ("posterior", "covariance", "predict")),
    "galfit-covariance",
    "galfit-posterior",
    "demo-posterior",
    "demo-predict",
)
ALL_CASES = (*DEFAULT_CASES, *(f"{name}-bootstrap" for name in (*SETS, "demo")))
DRAW_COLUMNS = ("weight", "log_prob")
Draws = dict[str, list[NDArray[np.float64]]]  # of each parameter, (S,) of each galaxy


@dataclass(frozen=True)
class Checkout:
    """A checkout of hybridfit and the folder for what it makes."""

    root: Path
    folder: Path

    @property
    def commit(self) -> str:
        """Its commit, with "-dirty" where files differ from it."""
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"

    def run(self, words: Sequence[str]) -> None:
        """Run ``hybridfit WORDS`` with this checkout on one thread; RuntimeError if it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "hybridfit", *words]
        # a folder without a hybridfit in it, for the current one goes before PYTHONPATH
        done = subprocess.run(
            command, cwd=self.folder, env=environment_of(self.root), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\nfailed: {done.stderr[-2000:]}")


def environment_of(root: Path) -> dict[str, str]:
    """Return environment variables with which Python imports the checkout at ``root``."""
    return {**os.environ, "PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}


def make_table(case: str, checkout: Checkout, inputs: Path, data: Path, n: int) -> Path:
    """Return the folder with the results of ``case``, made if it is not there yet.

    Args:
        case: "<set>-<way>", of `ALL_CASES`.
        checkout: that measures.
        inputs: folder for FITS files of the sets, shared by all checkouts.
        data: folder of the truth data.
        n: number of galaxies; 0: all.
    """
    name, way = case.split("-")
    out = checkout.folder / f"{case}-{n or 'all'}"
    if (out / "results.fits").exists():
        return out
    if name == "galfit":
        files = galfit_files(data, n)
        words = ["fit", "--galfit", *map(str, files), *GALFIT_WAYS[way], "--compile", "off"]
    else:
        folder = _demo(checkout, n) if name == "demo" else write_set(name, inputs, data, n)
        zeropoint = () if name == "demo" else ("--zeropoint", "22.5")
        first, *options = WAYS[way]
        words = [first, str(folder), *zeropoint, *options]
    part = out.with_name(f"{out.name}.part{os.getpid()}")  # others may make the same
    checkout.run([*words, "-o", str(part), "--quiet"])
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return out


def write_set(name: str, inputs: Path, data: Path, n: int) -> Path:
    """Write images, noise maps and PSFs of ``sims/<name>.npz`` as FITS; return their folder."""
    folder = inputs.resolve() / f"{name}-{n or 'all'}"
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part{os.getpid()}")
    part.mkdir(parents=True)
    with np.load(data / "sims" / f"{name}.npz") as sims:
        for key, kind in (("data", "image"), ("sigma", "sigma"), ("psf", "psf")):
            for i, pixels in enumerate(sims[key][: n or None]):
                fits.writeto(part / f"g{i:03d}_{kind}.fits", pixels.astype(np.float32))
    part.rename(folder)
    return folder


def galfit_files(data: Path, n: int) -> list[Path]:
    """Return the input files of the saved GALFIT runs."""
    found = sorted((data / "real" / "galfit3").resolve().glob("*/*/galfit.feedme"))
    return found[: n or None]


def _demo(checkout: Checkout, n: int) -> Path:
    """Let the checkout simulate galaxies as the demonstration does."""
    folder = checkout.folder / f"demo-{n or 64}-cutouts"
    if not folder.is_dir():
        checkout.run(["simulate", "--n", str(n or 64), "--seed", "1", "-o", str(folder)])
    return folder


def read_columns(folder: Path) -> tuple[dict[str, NDArray[Any]], Draws]:
    """Return the columns of a run's table but the draws, and the draws that carry weight."""
    table = Table.read(folder / "results.fits", mask_invalid=False)
    columns = {name: np.asarray(table[name]) for name in table.colnames}
    for name, values in columns.items():
        if values.dtype.kind == "S":
            columns[name] = np.char.decode(values)
    drawn = {name: v for name, v in columns.items() if is_draws(name)}
    rest = {name: v for name, v in columns.items() if name not in drawn}
    for path in _draws_files(folder):
        drawn |= _read_draws(path, rest["id"])
    return rest, _with_weight(drawn, len(rest["id"]))


def is_draws(name: str) -> bool:
    """Return whether a column of a table contains draws."""
    return name.endswith("_samples") or name in DRAW_COLUMNS


def _draws_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*draws*.fits", "*samples*.fits"):
        yield from sorted(folder.glob(pattern))


def _read_draws(path: Path, ids: NDArray[Any]) -> dict[str, Any]:
    """Read draws from a file of their own: one row a galaxy, or one row a draw."""
    table = Table.read(path, mask_invalid=False)
    names = [str(name) for name in table["id"]]
    columns = {n: np.asarray(table[n]) for n in table.colnames if n not in ("id", "draw", "row")}
    rows: dict[str, list[int]] = {str(name): [] for name in ids}
    for i, name in enumerate(names):
        rows[name].append(i)
    if all(values.ndim > 1 for values in columns.values()):
        return {n: [v[rows[str(i)][0]] for i in ids] for n, v in columns.items()}
    return {n: [v[rows[str(i)]] for i in ids] for n, v in columns.items()}


def _with_weight(drawn: dict[str, Any], count: int) -> Draws:
    """Return draws under their parameters' names, without padding of zero weight."""
    weight = drawn.get("weight")
    found: Draws = {}
    for name, values in drawn.items():
        plain = name.removesuffix("_samples")
        found[plain] = [
            np.asarray(values[i], np.float64)[slice(None) if weight is None else weight[i] > 0]
            for i in range(count)
        ]
    return found


def draw_columns(draws: Draws) -> dict[str, NDArray[np.float64]]:
    """Return draws as columns (B, S), each galaxy's filled up with NaN, to be compared."""
    longest = max((len(v) for values in draws.values() for v in values), default=0)
    columns = {}
    for name, values in draws.items():
        columns[name] = np.full((len(values), longest), np.nan)
        for i, own in enumerate(values):
            columns[name][i, : len(own)] = own
    return columns
