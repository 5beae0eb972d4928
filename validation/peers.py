"""How do other fitters do on the same galaxies, initial values and core?

    OMP_NUM_THREADS=1 python -m validation.peers --core 1 [--rows hybridfit scipy ...]
        [--python astrophot=/path/to/its/bin/python ...] [--n main=200 hard=200]

Each tool is driven by a file in `adapters/`, run by the interpreter that has the tool (this one, or
that of --python); a missing tool is named and left out. The galaxies are main.npz and hard.npz of
../shared/data/sims, or simulated ones where these are missing. Initial values are hybridfit's
moments, an index of 1.8, and flux and sky solved for that shape, the same numbers for all; rows
marked "own" use those of the tool itself. Every tool fits a Sersic profile and a flat sky to all
pixels with the true noise map; hybridfit and pysersic also use a prior.

The script validates first: each tool renders four known models, which must be within a stated
distance of hybridfit's renderer (itself within 1e-3 of GalSim, `rendering.py`); half a pixel of the
centre is .13 away, a mirrored angle .5. Then it measures CPU seconds a galaxy of one process pinned
to one core and thread, including errors, without start-up and one warm-up fit, which are reported
apart. Catastrophic means off by .5 mag or a factor 2 in size, or no value. Slow tools get only the
first galaxies, whose number is reported. GALFIT's rows are its saved results (3.0.5, same galaxies,
other initial values, CPU seconds of another machine).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.moments import moment_start
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.measure import model_images
from hybridfit.simulation.simulate import SimulateOptions, simulate
from validation.adapters.exchange import CONVERGED, FAILED, UNKNOWN, Answer, Task, load_answer, save
from validation.common import (
    NAMES,
    RESULTS,
    SIMS,
    environment,
    is_catastrophic,
    load_sims,
    write_result,
)

Array = NDArray[np.float64]

ADAPTERS = Path(__file__).resolve().parent / "adapters"
ONE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    ),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "MPLBACKEND": "Agg",
}
# x, y, mag, r_eff, n, q, pa, sky, without a symmetry that could hide a wrong convention
KNOWN = np.array(
    [
        [63.7, 64.4, 17.0, 6.0, 1.0, 0.6, 30.0, 0.0],
        [60.2, 66.6, 17.0, 5.0, 2.0, 0.8, 110.0, 0.01],
        [64.1, 62.9, 17.0, 9.0, 1.3, 0.4, 75.0, -0.01],
        [62.5, 63.0, 17.0, 8.0, 3.0, 0.7, 160.0, 0.0],
    ]
)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        tool: name of its adapter's file and for --python.
        variant: of the adapter.
        own: whether it finds its initial values itself.
        most: largest number of galaxies of a set; 0 for all.
        tolerance: for the known models, of max|d| / peak and of sum|d| / flux.
        install: command that installs it.
    """

    tool: str
    variant: str
    own: bool = False
    most: int = 0
    tolerance: float = 0.02
    install: str = ""

    @property
    def name(self) -> str:
        return f"{self.tool} {self.variant}{', own start' if self.own else ''}"


ROWS = (
    Row("hybridfit", "covariance compiled", tolerance=1e-6),
    Row("hybridfit", "covariance eager", tolerance=1e-6),
    Row("hybridfit", "covariance eager ml", tolerance=1e-6),
    Row("hybridfit", "covariance compiled", own=True, tolerance=1e-6),
    Row("hybridfit", "posterior compiled", own=True, tolerance=1e-6),
    Row("hybridfit", "posterior eager", own=True, tolerance=1e-6),
    Row("scipy", "native"),
    Row("scipy", "fine", most=40),
    Row("pyimfit", "LM", most=100, install="pip install pyimfit"),
    Row("astrophot", "LM", install="pip install astrophot"),
    Row("astrophot", "LM", own=True, most=100, install="pip install astrophot"),
    Row("petrofit", "TRF", tolerance=0.03, install="pip install petrofit"),
    Row("pysersic", "MAP", tolerance=0.03, most=10, install="pip install pysersic"),
    Row("pysersic", "MAP", own=True, tolerance=0.03, most=10, install="pip install pysersic"),
    Row("pysersic", "laplace", tolerance=0.03, most=10, install="pip install pysersic"),
    Row(
        "galmoss",
        "1000 iterations",
        most=4,
        tolerance=0.06,
        install="pip install galmoss torch_optimizer h5py",
    ),
)


def galaxies(name: str, n: int) -> tuple[hf.Cutouts, Array, str] | None:
    """Return cutouts, truth (B, 7) and their source; None where the set is missing."""
    if SIMS.is_dir():
        cutouts, truth, _ = load_sims(name, slice(0, n))
        return cutouts, truth, f"sims/{name}.npz"
    if name != "main":
        return None
    cutouts, table = simulate(n, options=SimulateOptions(shape=(128, 128), snr=(20, 1000)))
    truth = np.stack([np.asarray(table[k], float) for k in NAMES], axis=1)
    return cutouts, truth, "hybridfit simulate, 128 x 128, S/N 20-1000"


def starts(cutouts: hf.Cutouts) -> Array:
    """Return initial values (B, 8): shape from moments, flux and sky solved for that shape."""
    reach = torch.full((len(cutouts),), 30.0, dtype=torch.float64)
    coords = moment_start(cutouts, sky_level(cutouts), nominal_centre(cutouts), reach)
    linear = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(cutouts), 2)
    theta, _ = ParameterSpace().to_physical(coords, linear, cutouts.zeropoint)
    unit = torch.from_numpy(model_images(theta, cutouts, FitOptions().space)).double()
    weight = torch.where(cutouts.mask, 0.0, cutouts.sigma.double() ** -2)
    columns = torch.stack([unit, torch.ones_like(unit)], dim=1).flatten(2)  # (B, 2, pixels)
    gram = columns * weight.flatten(1)[:, None] @ columns.mT
    moment = columns * weight.flatten(1)[:, None] @ cutouts.image.double().flatten(1)[..., None]
    flux, sky = torch.linalg.solve(gram, moment)[..., 0].unbind(1)
    # the flux of a faint galaxy may come out negative: then take three sigma
    least = 3 * gram[:, 0, 0] ** -0.5
    theta[:, 2] = cutouts.zeropoint - 2.5 * torch.log10(torch.maximum(flux, least))
    theta[:, 7] = sky
    return theta.numpy()


def known_models(cutouts: hf.Cutouts) -> tuple[Array, Array]:
    """Return the known models rendered by hybridfit (K, H, W), and their PSFs (K, h, w)."""
    first = cutouts[[0] * len(KNOWN)]
    assert first.psf is not None
    images = model_images(torch.from_numpy(KNOWN), first, FitOptions().space)
    return images.astype(np.float64), first.psf.double().numpy()


def task_of(row: Row, cutouts: hf.Cutouts, first: Array) -> Task:
    """Return the task of the row's adapter."""
    rows = slice(0, min(row.most or len(cutouts), len(cutouts)))
    part = cutouts[rows]
    assert part.psf is not None
    arrays = (a.double().numpy() for a in (part.image, part.sigma, part.psf, part.zeropoint))
    return Task(row.variant, row.own, *arrays, first[rows], KNOWN, known_models(cutouts)[1])


def run(row: Row, task: Task, python: str, core: int | None) -> Answer | str:
    """Run the row's adapter; return its answer, or its error message."""
    with tempfile.TemporaryDirectory() as folder:
        task_file, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        save(task_file, task)
        done = subprocess.run(
            [python, str(ADAPTERS / f"fit_{row.tool}.py"), str(task_file), str(answer)],
            env={**os.environ, **ONE_THREAD},
            cwd=folder,  # where a tool may leave its log
            capture_output=True,
            text=True,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        if done.returncode == 0 and answer.exists():
            return load_answer(answer)
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer"


def distance(images: Array, known: Array) -> float:
    """Return the larger of max|d| / peak and sum|d| / flux over the known models."""
    sky = KNOWN[:, 7, None, None]
    off, light = np.abs(images - known), known - sky
    peak = off.max(axis=(1, 2)) / light.max(axis=(1, 2))
    total = off.sum(axis=(1, 2)) / light.sum(axis=(1, 2))
    return float(np.maximum(peak, total).max())


def summary(answer: Answer, truth: Array) -> dict[str, Any]:
    """Return failures, pulls, coverage and costs."""
    report = {
        **accuracy(
            answer.values[:, :7],
            answer.errors[:, :7],
            truth,
            answer.converged,
            answer.interval[..., :7],
        ),
        "CPU s a galaxy": float(answer.seconds.mean()),
        "CPU s, median": float(np.median(answer.seconds)),
        "start-up CPU s": answer.start_up,
        "first fit CPU s": answer.warm_up,
        "version": answer.version,
        "python": answer.python,
    }
    if np.isfinite(answer.seconds_of_errors).any():
        report["of that, errors"] = float(np.nanmean(answer.seconds_of_errors))
    raised = [m for m, v in zip(answer.messages, answer.values, strict=True) if np.isnan(v).all()]
    return report | ({"said where it failed": raised[0]} if raised else {})


def accuracy(
    values: Array,
    errors: Array,
    truth: Array,
    converged: NDArray[np.int64],
    interval: Array | None = None,
) -> dict[str, Any]:
    """Return failures, pulls and coverage of fits (B, 7).

    Args:
        values, errors: NaN where a tool gives none.
        truth: (B, 7).
        converged: (B,) as the tool says.
        interval: (B, 2, 7) of 68 %; default value -+ error. A failed fit is outside.
    """
    offset = values - truth
    offset[:, 6] = (offset[:, 6] + 90) % 180 - 90
    catastrophic = is_catastrophic(values[:, 2], values[:, 3], truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = np.where(errors > 0, offset / errors, np.nan)
    report: dict[str, Any] = {
        "galaxies": len(values),
        "catastrophic": int(catastrophic.sum()),
        "of them said to be good": int((catastrophic & (converged == CONVERGED)).sum()),
        "said to be good": int((converged == CONVERGED).sum()),
        "said to be bad": int((converged == FAILED).sum()),
    }
    if (converged == UNKNOWN).all():
        report |= dict.fromkeys(("of them said to be good", "said to be good", "said to be bad"))
    columns = list(zip(NAMES, pull.T, strict=True))
    # a galaxy at a limit often has no error, so the fraction with one is given too; pulls are
    # those of the galaxies that are not catastrophic
    have = {k: np.isfinite(p) & ~catastrophic for k, p in columns}
    some = {k: p[have[k]] for k, p in columns if have[k].sum() > 1}
    report["pull std"] = {k: round(float(p.std()), 3) for k, p in some.items()}
    report["pull mean"] = {k: round(float(p.mean()), 3) for k, p in some.items()}
    if interval is None:
        interval = np.stack([values - errors, values + errors], axis=1)
    inside = covered(interval, truth).mean(axis=0).round(3).tolist()
    report["68 % cover"] = {k: h for k, h in zip(NAMES, inside, strict=True) if k in some}
    report["share with an error"] = {k: round(float(np.isfinite(p).mean()), 3) for k, p in columns}
    return report


def covered(interval: Array, truth: Array) -> NDArray[np.bool_]:
    """Return (B, 7) whether the truth lies in the interval (B, 2, 7); False for NaN."""
    width, above = interval[:, 1] - interval[:, 0], truth - interval[:, 0]
    above[:, 6] %= 180
    return np.asarray((above >= 0) & (above <= width))


def saved_galfit(name: str, truth: Array) -> dict[str, Any]:
    """Return figures of GALFIT's saved results, in the project's conventions."""
    table = np.genfromtxt(
        SIMS / f"galfit_{name}.csv", delimiter=",", names=True, dtype=None, encoding="utf8"
    )[: len(truth)]
    keys = ("x", "y", "mag", "re", "n", "q", "pa")
    values = np.stack([np.asarray(table[k], float) for k in keys], axis=1)
    values[:, 6] -= 90  # the file counts angles from +x
    errors = np.stack([np.asarray(table[f"e_{k}"], float) for k in keys], axis=1)
    # a problem named in the header, or flag 2 (numerical convergence in doubt)
    doubted = [
        bool(p.strip()) or "2" in f.split()
        for p, f in zip(table["problem"], table["flags"], strict=True)
    ]
    converged = np.where(doubted, FAILED, CONVERGED)
    return {
        **accuracy(values, errors, truth, converged),
        "CPU s a galaxy": float(np.mean(table["cpu_seconds"])),
        "version": "3.0.5, saved results, timed on another day",
    }


def measure(
    name: str, n: int, rows: list[Row], pythons: dict[str, str], core: int | None
) -> dict[str, Any]:
    """Measure all rows on one set."""
    found = galaxies(name, n)
    if found is None:
        return {"left out": f"the set is missing: {SIMS}"}
    cutouts, truth, source = found
    first, (known, _) = starts(cutouts), known_models(cutouts)
    report: dict[str, Any] = {
        "galaxies": f"the first {len(cutouts)} of {source}",
        "the starts themselves": accuracy(
            first[:, :7], np.full_like(truth, np.nan), truth, np.full(len(truth), UNKNOWN)
        )["catastrophic"],
    }
    for row in rows:
        answer = run(row, task_of(row, cutouts, first), pythons.get(row.tool, sys.executable), core)
        if isinstance(answer, str):
            report[row.name] = {"left out": f"{answer} ({row.install or 'part of this project'})"}
        elif (off := distance(answer.check_image, known)) > row.tolerance:
            report[row.name] = {
                "left out": f"its known models are off by {off:.3g}, expected {row.tolerance}"
            }
        else:
            report[row.name] = {
                **summary(answer, truth[: len(answer.values)]),
                "measured at": environment()["commit"],
                "known models off by": off,
            }
        show(f"{name}: {row.name}", report[row.name])
    if source.startswith("sims"):
        report["GALFIT"] = saved_galfit(name, truth)
        show(f"{name}: GALFIT", report["GALFIT"])
    return report


def show(title: str, report: dict[str, Any]) -> None:
    print(f"\n{title}")
    for key, value in report.items():
        print(f"    {key}: {value}")
    sys.stdout.flush()


def _least(one: int, two: int) -> int:
    """Return the smaller of two limits, where 0 means none."""
    return min(one, two) if one and two else one or two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tools = list(dict.fromkeys(row.tool for row in ROWS))
    parser.add_argument("--rows", nargs="+", choices=tools, default=tools)
    parser.add_argument("--python", nargs="+", default=[], metavar="TOOL=PATH")
    parser.add_argument("--n", nargs="+", default=["main=200", "hard=200"], metavar="SET=N")
    parser.add_argument("--most", type=int, default=0, help="galaxies of a set for any tool")
    parser.add_argument("--core", type=int, help="pin the adapters to this core")
    parser.add_argument("--add", action="store_true", help="keep the rows that the file has")
    parser.add_argument("--name", default="peers", help="of the file in results/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pythons = dict(text.split("=", 1) for text in given.python)
    if unknown := set(pythons) - set(tools):
        parser.error(f"--python {unknown.pop()}: expected one of {', '.join(tools)}")
    rows = [replace(row, most=_least(row.most, given.most)) for row in ROWS]
    rows = [row for row in rows if row.tool in given.rows]
    figures = {
        name: measure(name, int(n), rows, pythons, given.core)
        for name, n in (text.split("=", 1) for text in given.n)
    }
    before = RESULTS / f"{given.name}.json"
    if given.add and before.exists():
        old = json.loads(before.read_text())["figures"]
        figures = old | {name: old.get(name, {}) | new for name, new in figures.items()}
    print(write_result(given.name, figures))


if __name__ == "__main__":
    main()
