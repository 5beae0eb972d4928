"""Time two checkouts in turn, CPU seconds on one core; one turn is one process.

A turn is `speed_worker.py` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from validation.version_tables import environment_of, write_set

WORKER = Path(__file__).with_name("speed_worker.py")
TASKS = (
    "covariance-memory",
    "posterior-memory",
    "predict-memory",
    "covariance-files",
    "posterior-files",
    "predict-files",
)


def paired_ratios(
    task: str, old: Path, new: Path, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Return the ratios of new over old CPU seconds, pair by pair, and their median.

    Args:
        task: of `TASKS`.
        old, new: checkouts.
        args: with data, n, pairs, passes and core.
        folder: for FITS files.
    """
    source = args.data / "sims" / "main.npz"
    if task.endswith("files"):
        source = write_set("main", folder / "inputs", args.data, args.n)
    roots = {"old": old, "new": new}
    seconds: dict[str, list[float]] = {"old": [], "new": []}
    for k in range(args.pairs):
        for side in ("old", "new") if k % 2 == 0 else ("new", "old"):
            seconds[side].append(_turn(task, roots[side], source, args, folder))
    ratios = [b / a for a, b in zip(seconds["old"], seconds["new"], strict=True)]
    count = args.n or 200
    return {
        "ratio": round(float(np.median(ratios)), 4),
        "ratios": [round(r, 3) for r in ratios],
        "old_ms": round(1e3 * float(np.median(seconds["old"])) / count, 3),
        "new_ms": round(1e3 * float(np.median(seconds["new"])) / count, 3),
    }


def _turn(task: str, root: Path, source: Path, args: argparse.Namespace, folder: Path) -> float:
    """CPU seconds of one turn."""
    words = [
        sys.executable,
        str(WORKER),
        task,
        str(source.resolve()),
        str(args.n),
        str(args.passes),
    ]
    done = subprocess.run(
        ["taskset", "-c", str(args.core), *words],
        cwd=folder,
        env=environment_of(root),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{task} of {root} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])
