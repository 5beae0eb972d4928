"""Simulate noisy galaxies as FITS, fit them on the command line, and show how good the fits are.

python -m benchmarks.demo [--n 64] [--out demo-out] [--seed 1]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

import hybridfit as hf
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.plots import LABELS, matched, offsets

SHOWN = ("id", "quality", "flags", "x", "y", "mag", "mag_err", "r_eff", "n", "q", "pa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="galaxies")
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    inputs = args.out / "cutouts"
    shutil.rmtree(inputs, ignore_errors=True)
    cutouts, truth = hf.simulate(args.n, args.seed)
    write_cutouts(cutouts, inputs, truth)
    print(f"simulated {args.n} galaxies, {cutouts.image.shape[-1]} pixels a side, in {inputs}")

    command = ["-m", "hybridfit", "fit", str(inputs), "-o", str(args.out), "--overwrite"]
    print("$ python", *command, flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)
    print(f"the command took {time.perf_counter() - start:.1f} s, Python's start included\n")

    table = Table.read(args.out / "results.fits")
    print_head(table)
    compare(table, truth)
    draw(table, truth, args.out)
    print(f"\nin {args.out}: results.fits, residuals.png, truth.png")


def print_head(table: Table, rows: int = 8) -> None:
    """Print the first rows and main columns."""
    head = table[list(SHOWN)][:rows]
    for name in SHOWN[3:]:
        head[name].format = ".3f"
    print("\n".join(head.pformat(max_width=-1)), "\n...\n")


def compare(table: Table, truth: Table) -> None:
    """Print how far fits are from the truth, those with flags counted apart."""
    fitted, true = matched(table, truth)
    clean = np.asarray(fitted["flags"]) == 0
    print(f"{len(fitted)} of {len(truth)} galaxies, {int((~clean).sum())} with flags:")
    for value in np.unique(np.asarray(fitted["flags"])[~clean]):
        number = int((fitted["flags"] == value).sum())
        print(f"  {number} x {'; '.join(hf.describe_flags(int(value)))}")
    print("\nfit - truth, all galaxies   (pull = offset over quoted error: its spread should be 1)")
    print(f"{'':12}{'median':>10}{'scatter':>10}{'pull':>8}")
    for name, label in LABELS.items():
        off = offsets(fitted, true, name)
        pull = off / np.asarray(fitted[f"{name}_err"])
        scatter = 1.4826 * np.median(np.abs(off - np.median(off)))
        print(f"{label:12}{np.median(off):>10.4f}{scatter:>10.4f}{np.std(pull):>8.2f}")
    catastrophic = (np.abs(offsets(fitted, true, "mag")) > 0.5) | (
        np.abs(np.log2(fitted["r_eff"] / true["r_eff"])) > 1
    )
    print(
        f"off by 0.5 mag or a factor 2 in size: {int(catastrophic.sum())}, "
        f"{int((catastrophic & clean).sum())} of them without a flag"
    )


def draw(table: Table, truth: Table, out: Path) -> None:
    """Write the pictures: galaxies from the faintest to the brightest, and truth against fit."""
    cutouts = hf.read(out / "cutouts")
    models = hf.render(table, cutouts)
    order = np.argsort(truth["snr"])
    rows = [int(order[k]) for k in np.linspace(2, len(order) - 1, 6).astype(int)]
    names = [list(cutouts.id).index(str(truth["id"][k])) for k in rows]
    titles = [title(table[i], float(truth["snr"][k])) for i, k in zip(names, rows, strict=True)]
    planes = [np.asarray(p)[names] for p in (cutouts.image, models, cutouts.sigma, cutouts.mask)]
    sky = {"pixel_scale": cutouts.pixel_scale[names], "wcs": [cutouts.wcs[i] for i in names]}
    hf.plot_residuals(*planes, titles=titles, **sky).savefig(out / "residuals.png", dpi=130)
    hf.plot_truth(table, truth).savefig(out / "truth.png", dpi=110)


def title(row: Table.Row, snr: float) -> str:
    """One line that says what was fitted."""
    numbers = f"mag {row['mag']:.2f}  r_eff {row['r_eff']:.2f} pix  n {row['n']:.2f}"
    return f"{row['id']}   S/N {snr:.0f}   {numbers}  q {row['q']:.2f}  chi2/dof " + (
        f"{row['chi2'] / row['dof']:.2f}"
    )


if __name__ == "__main__":
    main()
