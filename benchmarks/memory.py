"""Is memory flat over many cutouts, and does a killed run end with the same table?

    python -m benchmarks.memory [--n 100000] [--folder DIR] [--kills 3]

A few hundred simulated galaxies of 32 x 32 pixels are linked into a folder under many ids. One run
fits 100 of them, one all, and one all but is killed (kill -9) several times. Printed are the peak
memory of each process, the rates, and whether the tables are identical.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import hybridfit as hf
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.simulation.simulate import SimulateOptions

DISTINCT = 200
SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(20, 500))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="galaxies")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for cutouts and results; default a new one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("options", nargs="*", help="for hybridfit fit, behind --")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="hybridfit-memory-"))
    inputs = make_inputs(folder, args.n)
    if "--compile" not in args.options:  # the compiler needs 200 MiB: in all runs or in none
        args.options += ["--compile", "on" if args.n >= 2000 else "off"]

    few = run(inputs, folder / "few", [*args.options, "--limit", "100"])
    report("100 galaxies", few, 100)
    whole = run(inputs, folder / "whole", args.options)
    report(f"{args.n} galaxies", whole, args.n)
    killed = run(inputs, folder / "killed", args.options, args.kills, whole["seconds"])
    report(f"{args.n} with {killed['kills']} kills", killed, args.n)
    same = filecmp.cmp(folder / "whole/results.fits", folder / "killed/results.fits", False)
    growth = whole["peak_mib"] - few["peak_mib"]
    print(f"identical tables: {same}; memory grew by {growth:.0f} MiB")
    if args.json:
        figures = {"n": args.n, "few": few, "whole": whole, "killed": killed, "same": same}
        figures["environment"] = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "hybridfit": hf.__version__,
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if not same:
        raise SystemExit(1)


def make_inputs(folder: Path, n: int) -> Path:
    """Return a directory of n galaxies: a few simulated ones, the others links to them."""
    base, inputs = folder / "base", folder / "cutouts"
    write_cutouts(hf.simulate(DISTINCT, 1, SMALL)[0], base)
    inputs.mkdir(parents=True, exist_ok=True)
    names = sorted(file.name.removesuffix("_image.fits") for file in base.glob("*_image.fits"))
    for i in range(n):
        for kind in ("image", "sigma", "psf"):
            link = inputs / f"g{i:07d}_{kind}.fits"
            if not link.exists():
                os.link(base / f"{names[i % DISTINCT]}_{kind}.fits", link)
    return inputs


def run(
    inputs: Path, out: Path, options: list[str], kills: int = 0, expected: float = 0.0
) -> dict[str, float]:
    """Run the command, kill it ``kills`` times at random moments; return time and peak memory."""
    command = [sys.executable, "-m", "hybridfit", "fit", str(inputs), "-o", str(out)]
    # the fastest way to errors; a later option overrides it
    command += ["--uncertainty", "covariance", *options]
    chance, done, peak, start = random.Random(1), 0, 0.0, time.monotonic()
    while True:
        process = subprocess.Popen(command)
        left = chance.uniform(0.1, 0.2) * expected if done < kills else float("inf")
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid) or peak)
            time.sleep(min(0.2, max(left, 0.01)))
            left -= 0.2
            if left < 0:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                break
        if process.returncode == 0:
            return {"seconds": time.monotonic() - start, "peak_mib": peak, "kills": done}
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run failed with status {process.returncode}")


def peak_mib(pid: int) -> float:
    """Peak resident memory of a running process, 0 where it is not known (Linux only)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), 0.0)


def report(name: str, figures: dict[str, float], n: int) -> None:
    rate = n / figures["seconds"]
    peak = figures["peak_mib"]
    print(f"{name}: {figures['seconds']:.1f} s, {rate:.1f} a second, peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
