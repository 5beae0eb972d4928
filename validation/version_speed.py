"""Time two checkouts in turn, CPU seconds on one core; one turn is one process.

A turn imports the checkout, measures a few galaxies to warm up, then measures all of them once
and prints the CPU seconds of that alone.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from version_tables import environment_of, write_set

TASKS = (
    "covariance-memory",
    "posterior-memory",
    "predict-memory",
    "covariance-files",
    "posterior-files",
    "predict-files",
)
WARM = 8  # galaxies


def paired_ratios(
    task: str, old: Path, new: Path, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Return the ratios of new over old CPU seconds, pair by pair, and their median.

    Args:
        task: of `TASKS`.
        old, new: checkouts.
        args: with data, n, pairs and core.
        folder: for FITS files.
    """
    source = args.data / "sims" / "main.npz"
    if task.endswith("files"):
        source = write_set("main", folder / "inputs", args.data, args.n)
    roots = {"old": old, "new": new}
    seconds: dict[str, list[float]] = {"old": [], "new": []}
    for k in range(args.pairs):
        for side in ("old", "new") if k % 2 == 0 else ("new", "old"):
            seconds[side].append(_turn(task, roots[side], source, args.n, args.core, folder))
    ratios = [b / a for a, b in zip(seconds["old"], seconds["new"], strict=True)]
    count = args.n or 200
    return {
        "ratio": round(float(np.median(ratios)), 4),
        "ratios": [round(r, 3) for r in ratios],
        "old_ms": round(1e3 * float(np.median(seconds["old"])) / count, 3),
        "new_ms": round(1e3 * float(np.median(seconds["new"])) / count, 3),
    }


def _turn(task: str, root: Path, source: Path, n: int, core: int, folder: Path) -> float:
    """CPU seconds of one turn."""
    words = [sys.executable, __file__, task, str(source.resolve()), str(n)]
    done = subprocess.run(
        ["taskset", "-c", str(core), *words],
        cwd=folder,
        env=environment_of(root),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{task} of {root} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def measure(task: str, source: Path, n: int) -> float:
    """Return the CPU seconds that ``task`` takes with the hybridfit that Python imports here."""
    import torch

    torch.set_num_threads(1)
    way, where = task.split("-")
    run = _in_memory(way, source, n) if where == "memory" else _of_files(way, source)
    run(True)
    begin = time.process_time()
    run(False)
    return time.process_time() - begin


def _in_memory(way: str, source: Path, n: int) -> Any:
    """A function that measures the galaxies, or the first few."""
    import hybridfit as hf

    with np.load(source) as data:
        sims = {key: data[key][: n or None] for key in ("data", "sigma", "psf")}
    psf = sims["psf"] / sims["psf"].sum(axis=(1, 2), keepdims=True)
    cutouts = hf.Cutouts(
        image=sims["data"], sigma=sims["sigma"], psf=psf, zeropoint=np.full(len(psf), 22.5)
    )

    def run(warm: bool) -> None:
        some = cutouts[:WARM] if warm else cutouts
        if way == "predict":
            hf.predict(some)
        else:
            hf.fit(some, uncertainty=way, compile="off")

    return run


def _of_files(way: str, source: Path) -> Any:
    """A function that measures files into a temporary folder, by the command line."""
    words = ["predict"] if way == "predict" else ["fit", "--uncertainty", way, "--compile", "off"]

    def run(warm: bool) -> None:
        with tempfile.TemporaryDirectory() as out:
            sys.argv = ["hybridfit", *words, str(source), "-o", out, "--zeropoint", "22.5"]
            sys.argv += ["--quiet", *(["--limit", str(WARM)] if warm else [])]
            try:
                runpy.run_module("hybridfit", run_name="__main__")
            except SystemExit as ended:
                if ended.code:
                    raise RuntimeError(f"{sys.argv} ended with status {ended.code}") from None

    return run


if __name__ == "__main__":
    print(json.dumps({"seconds": measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))}))
