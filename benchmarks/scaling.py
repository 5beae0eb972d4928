"""What does a galaxy cost, stage by stage, and how does the cost grow?

    python -m benchmarks.scaling [--core 1] [--repeats 2] [--out FOLDER] [--quick] [--only ...]

Varied are the number of galaxies, the side of the cutout, the number of components and of draws.
Galaxies are of `hybridfit.simulate` (S/N 20-500), the same ones at every side. Each measurement is
a process of its own on one core (`scaling_jobs.py`): it fits, compares the fits with the truth, and
returns CPU seconds and peak memory. Other work on the machine costs CPU seconds too (shared caches
and hardware threads), so the fastest of several repeats counts. Wrong fits are not timed: the run
ends there. Each dependence is described by a power law, and the number of galaxies also by a
straight line through runs of up to 1,000, which must predict a run of ten times as many. A fit
fails if its magnitude is off by .5 or its size by a factor 2; with several components, if its chi2
is more than 10 above that of the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.scaling_laws import power_law, straight_line
from validation.common import BENCHMARK_RESULTS, ROOT, environment, write_result

MOST_FAILURES = 0.1  # largest fraction of failures
PULLS = (0.6, 1.5)  # allowed width of all pulls together; of few galaxies it scatters by a tenth
HOLDS = 0.15  # largest relative error of the line's prediction
LARGE = 128  # pixels a side
PATHS = {False: "eager", True: "compiled"}

Job = dict[str, Any]


def plan(quick: bool, compiled: Sequence[bool]) -> dict[str, list[Job]]:
    """The jobs by what is varied."""
    sides = {32: 8, 48: 8} if quick else {32: 64, 64: 64, 128: 32, 256: 12, 512: 4}
    numbers = (8, 16, 32) if quick else (100, 300, 1000, 10_000)
    counts, some = ((1, 2), 8) if quick else ((1, 2, 3), 48)
    enough = (120, 480) if quick else (60, 120, 240, 480, 960)
    replicas = (4, 8) if quick else (10, 30, 100, 300)
    few = 4 if quick else 8
    jobs: dict[str, list[Job]] = {}
    jobs["side"] = [_job("memory", s, n, c) for c in compiled for s, n in sides.items()]
    jobs["number"] = [_job("files", 32, n, c) for c in compiled for n in numbers]
    jobs["components"] = [
        _job("components", 64, some, c, components=k) for c in compiled for k in counts
    ]
    jobs["draws"] = [
        _job("memory", 64, some // 2, False, sampling={"target_ess": ess, "max_draws": 8192})
        for ess in enough
    ]
    for refit, name in ((True, "replicas, fitted"), (False, "replicas, one step")):
        jobs[name] = [
            _job(
                "memory",
                64,
                few if refit else 4 * few,
                False,
                uncertainty="bootstrap",
                bootstrap={"replicas": r, "refit": refit},
            )
            for r in replicas
        ]
    return jobs


def _job(kind: str, side: int, n: int, compiled: bool, **more: Any) -> Job:
    return {"kind": kind, "side": side, "n": n, "compiled": compiled, **more}


def run_job(job: Job, core: int) -> Job:
    """Run a job in a process of its own on one core."""
    # the checkout that holds this file, not the one installed in the environment
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling_jobs", json.dumps({**job, "core": core})],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(f"job {job} failed with status {done.returncode}:\n{done.stderr}")
    row: Job = json.loads(done.stdout.splitlines()[-1])
    return row


def check(row: Mapping[str, Any]) -> None:
    """Stop where fits are wrong, as their time means nothing.

    Raises:
        SystemExit: saying what was expected and what was found.
    """
    share = row["failures"] / row["n"]
    if share > MOST_FAILURES:
        raise SystemExit(f"{row['failures']} of {row['n']} fits failed, expected at most a tenth")
    # few replicas give no error, and few galaxies no width
    known = row.get("bootstrap", {}).get("replicas", 100) >= 30 and row["n"] >= 16
    if "pull" in row and known and not PULLS[0] < row["pull"] < PULLS[1]:
        raise SystemExit(f"pulls are {row['pull']} wide, expected {PULLS[0]} to {PULLS[1]}: {row}")


# of each dependence: the quantity that is varied, the cost, and the axis label
OVER: dict[str, tuple[Callable[[Job], float], Callable[[Job], float], str]] = {
    "side": (lambda r: r["side"], lambda r: r["seconds"], "side of the cutout [pix]"),
    "number": (lambda r: r["n"], lambda r: r["seconds_in_all"], "galaxies"),
    "components": (lambda r: r["components"], lambda r: r["seconds"], "Sersic components"),
    "draws": (lambda r: r["draws"], lambda r: r["stages"]["posterior"], "draws of the posterior"),
    "replicas, fitted": (
        lambda r: r["bootstrap"]["replicas"],
        lambda r: r["stages"]["bootstrap"],
        "replicas of the bootstrap",
    ),
    "replicas, one step": (
        lambda r: r["bootstrap"]["replicas"],
        lambda r: r["stages"]["bootstrap"],
        "replicas of the bootstrap",
    ),
}


def laws(name: str, rows: Sequence[Job]) -> dict[str, Any]:
    """Fit power laws to the cost; over the side of cutouts, to that of each stage too."""
    x, cost, _ = OVER[name]
    found: dict[str, Any] = {}
    for compiled, path in PATHS.items():
        part = [row for row in rows if row["compiled"] == compiled]
        if len(part) < 2:
            continue
        places = [x(row) for row in part]
        found[path] = asdict(power_law(places, [cost(row) for row in part]))
        if name == "side":
            large = [row for row in part if row["side"] >= LARGE]
            if len(large) > 1:  # fixed costs of a batch flatten the law of small cutouts
                sides, spent = [x(row) for row in large], [cost(row) for row in large]
                found[f"{path}, from {LARGE} on"] = asdict(power_law(sides, spent))
            for stage in part[0]["stages"]:
                spent = [row["stages"][stage] for row in part]
                found[f"{path}, {stage}"] = asdict(power_law(places, spent))
        if name == "number":
            found[f"{path}, extrapolated"] = extrapolated(places, [cost(r) for r in part])
    return found


def extrapolated(numbers: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """Fit a line to all runs but the largest, and compare its prediction with that one."""
    line = straight_line(numbers[:-1], seconds[:-1])
    ratio = seconds[-1] / line.at(numbers[-1])
    return {
        **asdict(line),
        "measured over predicted": round(ratio, 3),
        "at": numbers[-1],
        "holds": abs(ratio - 1) <= HOLDS,
        "hours for a million": round(line.at(1e6) / 3600, 2),
    }


def print_rows(name: str, rows: Sequence[Job]) -> None:
    x, _, label = OVER[name]
    print(f"\n{name}: CPU ms a galaxy by {label}")
    for row in rows:
        stages = " ".join(f"{k} {1e3 * v:.2f}" for k, v in row["stages"].items())
        path = PATHS[row["compiled"]]
        print(
            f"  {x(row):8.0f} {path:9}{1e3 * row['seconds']:9.2f}  ({stages}); peak "
            f"{row['peak_mib']:.0f} MiB, {row['above_start_mib']:.0f} above the start; "
            f"{row['failures']} of {row['n']} failed"
            + (f", pull {row['pull']}" if "pull" in row else ""),
            flush=True,
        )


def print_laws(name: str, found: Mapping[str, Any]) -> None:
    for path, law in found.items():
        if "exponent" in law:
            power = f"{law['scale']:.3g} s x^{law['exponent']:.2f}, scatter {law['scatter']:.2f}"
            print(f"  {name}, {path}: {power}")
        else:
            print(
                f"  {name}, {path}: {law['fixed']:.2f} s + {1e3 * law['each']:.2f} ms a galaxy; "
                f"{law['at']} galaxies take {law['measured over predicted']} of that "
                f"({'holds' if law['holds'] else 'DOES NOT HOLD'})"
            )


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """One panel for each dependence: points, and their power laws as lines."""
    names = [name for name in OVER if name in figures]
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        x, cost, label = OVER[name]
        for colour, (compiled, way) in zip(("C0", "C1"), PATHS.items(), strict=True):
            rows = [row for row in figures[name]["rows"] if row["compiled"] == compiled]
            if not rows:
                continue
            places = [x(row) for row in rows]
            axis.plot(places, [cost(row) for row in rows], "o", color=colour, ms=5)
            law = figures[name]["laws"].get(way)
            if law:
                values = [law["scale"] * p ** law["exponent"] for p in places]
                text = f"{way}, $\\propto x^{{{law['exponent']:.2f}}}$"
                axis.plot(places, values, "-", color=colour, lw=1, label=text)
                axis.legend(frameon=False)
        axis.set(xscale="log", yscale="log", xlabel=label, title=name)
        all_of_it = name == "number"
        axis.set_ylabel("CPU seconds in all" if all_of_it else "CPU seconds a galaxy")
        ticks = sorted({x(row) for row in figures[name]["rows"]})
        if len(ticks) <= 6:
            axis.set_xticks(ticks, [f"{t:.0f}" for t in ticks])
            axis.minorticks_off()
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    parser.add_argument(
        "--only", nargs="*", choices=list(OVER), help="dependences to measure; the others are kept"
    )
    parser.add_argument("--core", type=int, default=0, help="the core that all jobs run on")
    parser.add_argument("--repeats", type=int, default=1, help="of each job; the fastest counts")
    parser.add_argument("--out", type=Path, help="folder for figures; default results/")
    args = parser.parse_args()
    paths = (False,) if args.quick or args.no_compile else (False, True)
    folder = args.out or BENCHMARK_RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    file = "scaling_quick" if args.quick else "scaling"
    figures = kept(folder / f"{file}.json") if args.only else {}
    for name, jobs in plan(args.quick, paths).items():
        if args.only and name not in args.only:
            continue
        rows = []
        for job in jobs:
            again = [run_job(job, args.core) for _ in range(args.repeats)]
            rows.append(min(again, key=lambda row: row["seconds"]))
            check(rows[-1])
        print_rows(name, rows)
        figures[name] = {"rows": rows, "laws": laws(name, rows), "commit": environment()["commit"]}
        print_laws(name, figures[name]["laws"])
        # written after each, so that an interrupted run loses nothing
        path = write_result(file, figures, folder)
    draw(figures, folder / f"{file}.png")
    print(f"written: {path} and {file}.png")


def kept(path: Path) -> dict[str, Any]:
    """Return the figures of an earlier run, some of which will be measured again."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text())["figures"]
    return figures


if __name__ == "__main__":
    main()
