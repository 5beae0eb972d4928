"""What the scripts share: the environment they ran in, result files, the simulated sets."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

import hybridfit as hf

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "validation" / "results"
BENCHMARK_RESULTS = ROOT / "benchmarks" / "results"
SIMS = ROOT.parent / "shared" / "data" / "sims"
NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")


def environment() -> dict[str, str]:
    """Return versions, processor and commit, which are saved with every figure."""
    packages = ("hybridfit", "torch", "numpy", "scipy", "astropy")
    found = {name: version(name) for name in packages}
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        **found,
        "python": platform.python_version(),
        "cpu": cpu[0] if cpu else platform.processor(),
        "commit": commit.stdout.strip() or "unknown",
    }


def write_result(name: str, figures: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``<name>.json`` with the figures and the environment into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"figures": figures, "environment": environment()}
    path.write_text(json.dumps(content, indent=1, default=float) + "\n")
    return path


def add_run(name: str, run: str, figures: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write the figures and the environment of one run into ``<name>.json``; keep the other runs.

    Args:
        name: of the file.
        run: name of the run, under "runs" in the file; an earlier run of that name is replaced.
        figures: what was measured.
        folder: of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    content["runs"][run] = {"figures": figures, "environment": environment()}
    path.write_text(json.dumps(content, indent=1, default=float) + "\n")
    return path


def load_sims(name: str, rows: slice = slice(None)) -> tuple[hf.Cutouts, NDArray[np.float64], Any]:
    """Return cutouts, truth (B, 7) in the project's conventions, and S/N of ``sims/<name>.npz``."""
    with np.load(SIMS / f"{name}.npz") as data:
        sims = {key: data[key][rows] for key in data.files}
    psf = sims["psf"] / sims["psf"].sum(axis=(1, 2), keepdims=True)
    cutouts = hf.Cutouts(
        image=sims["data"], sigma=sims["sigma"], psf=psf, zeropoint=np.full(len(psf), 22.5)
    )
    columns = [sims[f"t_{k}"] for k in ("x", "y", "mag", "re", "n", "q")]
    truth = np.stack([*columns, (sims["t_pa"] - 90) % 180], axis=1)
    return cutouts, truth, sims["t_snr"]


def load_galfit(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return GALFIT's saved values and errors (B, 7) on ``sims/<name>.npz``, and its doubts.

    The table counts x and y from 0 and angles from +x, like the truth of the sets.
    """
    saved = Table.read(SIMS / f"galfit_{name}.csv", format="ascii.csv")
    columns = ("x", "y", "mag", "re", "n", "q", "pa")
    values, errors = (
        np.stack([np.ma.filled(saved[p + c].astype(float), np.nan) for c in columns], axis=1)
        for p in ("", "e_")
    )
    values[:, 6] = (values[:, 6] - 90) % 180
    problem = np.array([bool(text) for text in np.ma.filled(saved["problem"], "")])
    return values, errors, problem


def is_catastrophic(
    mag: NDArray[np.float64], r_eff: NDArray[np.float64], truth: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return whether fits are off by more than .5 mag or a factor 2 in size, or have no value.

    Args:
        mag, r_eff: (B,) fitted.
        truth: (B, 4 or more) in the order of `NAMES`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.abs(mag - truth[:, 2]) <= 0.5
        return np.asarray(~(near & (np.abs(np.log(r_eff / truth[:, 3])) < np.log(2))))


def quality(
    values: NDArray[np.float64], errors: NDArray[np.float64], truth: NDArray[np.float64]
) -> dict[str, Any]:
    """Count catastrophic failures (mag off by .5 or size by 2); return pulls of the others."""
    offset = values - truth
    offset[:, 6] = (offset[:, 6] + 90) % 180 - 90
    good = ~is_catastrophic(values[:, 2], values[:, 3], truth)
    pull = offset[good] / errors[good]
    return {
        "galaxies": len(values),
        "catastrophic": int((~good).sum()),
        "pull_std": dict(zip(NAMES, np.std(pull, axis=0).round(3).tolist(), strict=True)),
        "pull_mean": dict(zip(NAMES, np.mean(pull, axis=0).round(3).tolist(), strict=True)),
    }


def interval_coverage(
    values: NDArray[np.float64], errors: NDArray[np.float64], truth: NDArray[np.float64]
) -> dict[str, list[float]]:
    """Return the fraction of truths in Gaussian intervals of 68 and 95 %; NaN is outside."""
    offset = values - truth
    offset[:, 6] = (offset[:, 6] + 90) % 180 - 90
    with np.errstate(invalid="ignore"):
        inside = [
            (np.abs(offset) <= k * errors).mean(axis=0).round(3) for k in (0.994458, 1.959964)
        ]
    return {name: [float(share[j]) for share in inside] for j, name in enumerate(NAMES)}
