"""imfit's results: ``bestfit_parameters_imfit.dat``, or its printed output.

Positions count from 1 in the whole image, PA is counter-clockwise from +y, ell = 1 - b/a, radii
are along the major axis, intensities are in image units per pixel (Erwin 2015, ApJ 799, 226;
imfit's ``func_sersic.cpp``, ``func_exp.cpp``, ``func_gaussian.cpp`` and ``print_results.cpp``).
imfit has neither magnitudes nor zero points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gamma, gammaincinv

from hybridfit.files.regular import FileProblem, peek_text, read_bytes
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array, Catalogue, canonical, grouped
from hybridfit.io.references.options import ReferenceOptions

FILE = "bestfit_parameters"  # prefix of imfit's file name
EXPONENTIAL_RADIUS = 1.678347  # half-light radius of exp(-r / h), in h
GAUSSIAN_RADIUS = math.sqrt(2 * math.log(2))  # of exp(-r^2 / 2 sigma^2), in sigma
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
LINE = re.compile(rf"^\s*(\w+)\s+({NUMBER}|[-+]?nan|[-+]?inf)\b[^#]*(?:#\s*\+/-\s*(\S+))?", re.I)

SERSIC_FAMILY = ("Sersic", "Exponential", "Gaussian")
Pair = tuple[float, float]  # a value and its error
LARGEST = 10_000_000  # largest result file, bytes


@dataclass(frozen=True)
class Function:
    """One function of an imfit model: its name and its parameters with their errors."""

    name: str
    values: Mapping[str, Pair]
    x0: Pair
    y0: Pair


def looks_like_imfit(path: Path) -> bool:
    """Return whether a text contains an imfit model: lines X0, Y0 and FUNCTION."""
    try:
        text = peek_text(path, 100_000)
    except (OSError, FileProblem):
        return False
    return bool(re.search(r"^\s*X0\s", text, re.M) and re.search(r"^\s*FUNCTION\s", text, re.M))


def imfit_files(path: Path) -> list[Path]:
    """Return imfit's result files: the file itself, or those in a directory, recursively."""
    if path.is_file():
        return [path]
    named = sorted(path.rglob(f"{FILE}*"))
    found = named or sorted([*path.rglob("*.dat"), *path.rglob("*.txt")])
    return [file for file in found if file.is_file() and looks_like_imfit(file)]


def read_imfit(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read imfit's results for one galaxy, or for a directory with one file per galaxy.

    A galaxy is named after its folder if the file has imfit's default name, else after the file.

    Raises:
        ValueError: if there is no result file, or a line is not understood.
    """
    files = imfit_files(path)
    if not files:
        raise ValueError(f"'{path}' has no imfit results: expected lines X0, Y0 and FUNCTION")
    models = [_read_model(file) for file in files]
    # imfit writes +/- 0 for fixed values; the n of a disc has error 0 too
    fixed = grouped([model.errors for model in models]) == 0
    values, errors = canonical(
        grouped([model.values for model in models]), grouped([model.errors for model in models])
    )
    values[..., COLUMN["mag"]] += (options.zeropoint or 0.0) + options.zeropoint_offset
    return Catalogue(
        name=options.name or path.name,
        kind="imfit",
        id=[options.as_ours(_name(file, path)) for file in files],
        values=values,
        errors=errors,
        fixed=fixed,
        sky=np.array([(*model.sky, 0.0, 0.0) for model in models]),
        chi2_dof=np.array([model.statistic for model in models]),
        complete=np.array([len(model.values) > 0 and not model.others for model in models]),
        counts=options.zeropoint is None,
        notes=_notes(files, models),
    )


@dataclass(frozen=True)
class _Model:
    """One galaxy's model: K components of the Sersic family, sky and other functions.

    Args:
        values, errors: (K, 7) in the order of `NAMES`, positions from 0.
        sky: level and its error, NaN if absent.
        statistic: fit statistic and degrees of freedom.
        others: names of functions that are not compared.
    """

    values: Array
    errors: Array
    sky: Pair
    statistic: Pair
    others: tuple[str, ...]


def _read_model(file: Path) -> _Model:
    functions, statistic = read_file(file)
    try:
        rows = [row for f in functions if (row := _sersic(f)) is not None]
    except KeyError as missing:
        raise ValueError(
            f"'{file}': a function lacks its parameter {missing}: expected imfit's complete output"
        ) from missing
    numbers = np.array(rows, dtype=np.float64).reshape(-1, len(NAMES), 2)
    levels = [f.values["I_sky"] for f in functions if f.name == "FlatSky"]
    others = {f.name for f in functions} - {*SERSIC_FAMILY, "FlatSky"}
    sky = levels[0] if levels else (math.nan, math.nan)
    return _Model(numbers[..., 0], numbers[..., 1], sky, statistic, tuple(sorted(others)))


def _notes(files: Sequence[Path], models: Sequence[_Model]) -> tuple[str, ...]:
    """Return notes for the report."""
    skipped = {
        f"functions not compared: {', '.join(model.others)} in {file.name}"
        for file, model in zip(files, models, strict=True)
        if model.others
    }
    return (
        "imfit has no magnitudes: they are computed from intensity, size and axis ratio, and have "
        "no error",
        *sorted(skipped)[:5],
    )


def _lines(path: Path) -> list[str]:
    return read_bytes(path, LARGEST).decode("utf-8", errors="replace").splitlines()


def read_file(path: Path) -> tuple[list[Function], Pair]:
    """Return the functions of one model, and its fit statistic and degrees of freedom (NaN).

    Raises:
        ValueError: for a line that is not understood, with its number.
    """
    functions: list[Function] = []
    x0 = y0 = (math.nan, math.nan)
    current: dict[str, Pair] | None = None
    statistic, reduced = math.nan, math.nan
    for number, line in enumerate(_lines(path), start=1):
        if found := re.search(rf"(?:Best-fit value:|CHI-SQUARE =)\s*({NUMBER})", line):
            statistic = float(found[1])
        if found := re.search(rf"Reduced (?:value:|Chi\^2 =)\s*({NUMBER})", line):
            reduced = float(found[1])
        if found := re.match(r"\s*FUNCTION\s+(\w+)", line):
            current = {}
            functions.append(Function(found[1], current, x0, y0))
            continue
        match = LINE.match(line)
        if match is None:
            if current is not None and re.match(r"\s*[A-Za-z_]\w*\s", line) and "#" in line:
                raise ValueError(
                    f"'{path}', line {number}: expected a parameter's name and value, got '{line}'"
                )
            continue
        pair = (_float(match[2]), _float(match[3]))
        if match[1] in ("X0", "Y0"):  # a new set of functions with this centre
            x0, y0 = (pair, y0) if match[1] == "X0" else (x0, pair)
            current = None
        elif current is not None:
            current[match[1]] = pair
    dof = statistic / reduced if reduced > 0 else math.nan
    return functions, (statistic, round(dof) if math.isfinite(dof) else math.nan)


def _sersic(function: Function) -> Sequence[Pair] | None:
    """Return x, y, mag, r_eff, n, q, pa of a function of the Sersic family, else None."""
    own, exact = function.values, 0.0  # an error of 0: the profile defines the index
    if function.name == "Sersic":
        n, radius, (peak, _) = own["n"], own["r_e"], own["I_e"]
        b = float(gammaincinv(2 * n[0], 0.5))
        per_area = 2 * math.pi * n[0] * math.exp(b) * b ** (-2 * n[0]) * float(gamma(2 * n[0]))
        flux = peak * radius[0] ** 2 * per_area
    elif function.name == "Exponential":
        (h, e), (peak, _), n = own["h"], own["I_0"], (1.0, exact)
        radius, flux = (EXPONENTIAL_RADIUS * h, EXPONENTIAL_RADIUS * e), 2 * math.pi * h**2 * peak
    elif function.name == "Gaussian":
        (s, e), (peak, _), n = own["sigma"], own["I_0"], (0.5, exact)
        radius, flux = (GAUSSIAN_RADIUS * s, GAUSSIAN_RADIUS * e), 2 * math.pi * s**2 * peak
    else:
        return None
    q = (1 - own["ell"][0], own["ell"][1])
    flux *= q[0]
    mag = (-2.5 * math.log10(flux) if flux > 0 else math.nan, math.nan)
    x, y = ((v - 1, e) for v, e in (function.x0, function.y0))
    return [x, y, mag, radius, n, q, own["PA"]]


def _name(file: Path, root: Path) -> str:
    if file.name.startswith(FILE) and file.parent != root and file != root:
        return file.parent.name
    if file.name.startswith(FILE):
        return file.resolve().parent.name
    return file.stem


def _float(text: str | None) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan
