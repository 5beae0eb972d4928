"""The files that `peers.py` and its adapters exchange: a task and an answer, as npz.

An adapter runs in the environment of the tool that it drives, ``PYTHON fit_<tool>.py task.npz
answer.npz``, so this file needs only numpy and scipy. Parameters are in hybridfit's conventions
on both sides: x, y counted from 0 [pix], mag, r_eff the semi-major half-light radius [pix], n, q,
pa from +y towards -x [deg], sky [flux/pix].
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, gammaincinv

Array = NDArray[np.float64]

NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky")
WARM_UP = 16  # galaxies of a warm-up fit, where batches are fitted
UNKNOWN, FAILED, CONVERGED = -1, 0, 1  # as a tool says of its own fit


@dataclass(frozen=True)
class Task:
    """What an adapter is given; this never includes the truth.

    Args:
        variant: of the tool's methods.
        own_start: whether the tool must find its own initial values and ignore ``start``.
        image, sigma: (B, H, W) flux units.
        psf: (B, h, w) sum 1, without the pixel's response.
        zeropoint: (B,) mag of one flux unit.
        start: (B, 8) initial values, all finite.
        check_theta: (K, 8) known models to render without noise before timing.
        check_psf: (K, h, w) their PSFs; they have the zero point of the first galaxy.
    """

    variant: str
    own_start: bool
    image: Array
    sigma: Array
    psf: Array
    zeropoint: Array
    start: Array
    check_theta: Array
    check_psf: Array

    def __post_init__(self) -> None:
        batch = len(self.image)
        for name, shape in (
            ("sigma", self.image.shape),
            ("zeropoint", (batch,)),
            ("start", (batch, len(NAMES))),
            ("check_theta", (len(self.check_psf), len(NAMES))),
        ):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if not np.isfinite(self.start).all():
            raise ValueError("start is not finite: expected values for every galaxy")

    def __len__(self) -> int:
        return len(self.image)

    def galaxies(self) -> Iterator[Galaxy]:
        """Yield the galaxies one by one with their initial values."""
        for i in range(len(self)):
            pixels = (np.ascontiguousarray(a[i]) for a in (self.image, self.sigma, self.psf))
            start = None if self.own_start else self.start[i]
            yield Galaxy(*pixels, float(self.zeropoint[i]), start)


@dataclass(frozen=True)
class Galaxy:
    """One galaxy of a task; ``start`` (8,) is None where the tool must find its own."""

    image: Array
    sigma: Array
    psf: Array
    zeropoint: float
    start: Array | None


@dataclass(frozen=True)
class Fitted:
    """One fit.

    Args:
        values, errors: (8,) in the order of `NAMES`, NaN where the tool gives none.
        converged: `CONVERGED`, `FAILED` or, where a tool does not say, `UNKNOWN`.
        low, high: (8,) of its 68 % interval, where the tool gives one in addition to errors.
        seconds_of_errors: CPU seconds of errors, where the tool computes them in a separate step;
            else NaN.
        message: of the tool.
    """

    values: Array
    errors: Array
    converged: int
    low: Array | None = None
    high: Array | None = None
    seconds_of_errors: float = np.nan
    message: str = ""

    @property
    def interval(self) -> Array:
        """(2, 8) interval of 68 %: value -+ error, unless the tool gives one."""
        if self.low is None or self.high is None:
            return np.stack([self.values - self.errors, self.values + self.errors])
        return np.stack([self.low, self.high])


@dataclass(frozen=True)
class Answer:
    """The results of an adapter: arrays over the galaxies, and costs.

    Args:
        values, errors: (B, 8).
        interval: (B, 2, 8), see `Fitted.interval`.
        converged: (B,).
        seconds: (B,) CPU seconds of each fit with its errors; their mean for a tool that fits
            batches.
        seconds_of_errors: (B,), see `Fitted`.
        messages: (B,) text.
        check_image: (K, H, W) the known models rendered by the tool.
        start_up: CPU seconds before the first fit: the interpreter, imports, the known models.
        warm_up: CPU seconds of a first fit that is discarded (compiling, caches).
        version, python: of the tool and of the interpreter.
    """

    values: Array
    errors: Array
    interval: Array
    converged: NDArray[np.int64]
    seconds: Array
    seconds_of_errors: Array
    messages: NDArray[np.str_]
    check_image: Array
    start_up: float
    warm_up: float
    version: str
    python: str


class Adapter(Protocol):
    """The interface of an adapter."""

    version: str
    batched: bool  # whether all galaxies are fitted in one call, and seconds are a mean
    warms_up: bool  # whether a first fit is discarded

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        """The image (H, W) of one known model (8,)."""

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        """Fit galaxies: one at a time, or all of them if ``batched``."""


def save(path: str | Path, content: Task | Answer) -> None:
    """Write a task or an answer."""
    np.savez(path, **{f.name: np.asarray(getattr(content, f.name)) for f in fields(content)})


def load_task(path: str | Path) -> Task:
    """Read a task; raises KeyError where an entry is missing."""
    return Task(**_read(path, Task))


def load_answer(path: str | Path) -> Answer:
    """Read an answer; raises KeyError where an entry is missing."""
    return Answer(**_read(path, Answer))


def _read(path: str | Path, kind: type) -> dict[str, Any]:
    with np.load(path) as data:
        found = {f.name: data[f.name] for f in fields(kind)}
    return {name: value.item() if value.ndim == 0 else value for name, value in found.items()}


def serve(adapter: Adapter) -> None:
    """Answer the task named on the command line: render the known models, warm up, fit."""
    task = load_task(sys.argv[1])
    save(sys.argv[2], answer(adapter, task))


def answer(adapter: Adapter, task: Task) -> Answer:
    """Render the known models, warm up, and fit; where the tool raises, values are NaN."""
    zeropoint, shape = float(task.zeropoint[0]), task.image.shape[1:]
    check = [
        adapter.render(theta, psf, zeropoint, shape)
        for theta, psf in zip(task.check_theta, task.check_psf, strict=True)
    ]
    start_up = time.process_time()
    galaxies = list(task.galaxies())
    first = galaxies[: WARM_UP if adapter.batched else 1]
    warm_up = _timed(adapter, first, task.variant)[1] if adapter.warms_up else 0.0
    parts = [galaxies] if adapter.batched else [[galaxy] for galaxy in galaxies]
    fits, seconds = [], []
    for part in parts:
        found, spent = _timed(adapter, part, task.variant)
        fits += found
        seconds += [spent / len(part)] * len(part)
    return Answer(
        np.array([fit.values for fit in fits]),
        np.array([fit.errors for fit in fits]),
        np.array([fit.interval for fit in fits]),
        np.array([fit.converged for fit in fits]),
        np.array(seconds),
        np.array([fit.seconds_of_errors for fit in fits]),
        np.array([fit.message[:200] for fit in fits]),
        np.array(check),
        start_up,
        warm_up,
        adapter.version,
        sys.version.split()[0],
    )


def _timed(adapter: Adapter, part: list[Galaxy], variant: str) -> tuple[list[Fitted], float]:
    begin = time.process_time()
    try:
        found = adapter.fit(part, variant)
    except Exception:
        nothing = np.full(len(NAMES), np.nan)
        said = traceback.format_exc().strip().splitlines()[-1]
        found = [Fitted(nothing, nothing, FAILED, message=said)] * len(part)
    return found, time.process_time() - begin


def flux_over_amplitude(r_eff: float, n: float, q: float) -> float:
    """Total flux of a Sersic profile over its surface brightness at r_eff.

    2 pi n q r_eff^2 exp(b) b^(-2n) Gamma(2n) (Graham & Driver 2005, eq. 4).
    """
    b = gammaincinv(2 * n, 0.5)
    return float(2 * np.pi * n * q * r_eff**2 * np.exp(b) * b ** (-2 * n) * gamma(2 * n))


def magnitude(amplitude: float, r_eff: float, n: float, q: float, zeropoint: float) -> float:
    """Magnitude of a profile; NaN for one without light."""
    flux = amplitude * flux_over_amplitude(r_eff, n, q)
    return float(zeropoint - 2.5 * np.log10(flux)) if flux > 0 else np.nan


def amplitude(theta: Array, zeropoint: float) -> float:
    """Surface brightness at r_eff of parameters (8,)."""
    _, _, mag, r_eff, n, q, _, _ = theta
    return float(10 ** (-0.4 * (mag - zeropoint)) / flux_over_amplitude(r_eff, n, q))


def magnitude_gradient(r_eff: float, n: float, q: float) -> Array:
    """Derivatives of the magnitude by ln amplitude, ln r_eff, ln n and ln q (4,)."""
    step = 1e-4
    high, low = (np.log(flux_over_amplitude(r_eff, n * np.exp(s), q)) for s in (step, -step))
    return -2.5 / np.log(10) * np.array([1.0, 2.0, (high - low) / (2 * step), 1.0])


def sampled_sersic(theta: Array, zeropoint: float, shape: tuple[int, int], fine: int = 1) -> Array:
    """Surface brightness (H fine, W fine) without sky at the middle of (sub-)pixels."""
    x0, y0, _, r_eff, n, q, pa, _ = theta
    y, x = ((np.arange(side * fine) + 0.5) / fine - 0.5 for side in shape)
    angle = np.deg2rad(pa)
    along = -(x - x0) * np.sin(angle) + (y[:, None] - y0) * np.cos(angle)
    across = (x - x0) * np.cos(angle) + (y[:, None] - y0) * np.sin(angle)
    radius = np.hypot(along, across / q) / r_eff
    b = gammaincinv(2 * n, 0.5)
    return amplitude(theta, zeropoint) * np.exp(-b * (radius ** (1 / n) - 1))
