"""Does hybridfit agree with GALFIT 3.0.5, and where not, which of the two is right?

    OMP_NUM_THREADS=1 python -m validation.accuracy_galfit [sims] [bd] [real] [--out FOLDER]

It is compared with GALFIT's saved results in ../shared/data on the same pixels, in three parts (all
by default):

sims    200 ordinary and 200 hard simulated galaxies: bias, scatter, pulls and coverage of both,
        failures, chi2 by one renderer, and which noise-free model is nearer the true one.
bd      100 galaxies of bulge and disk, fitted with two components from several starts.
real    every saved run on real galaxies, read from its input file: chi2 and parameters of both,
        our flags where GALFIT failed, and fits of other tools.

Figures and pictures are written to accuracy_<part>.json and .png in results/ or FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from validation import galfit_bd, galfit_real, galfit_sims, reference_table
from validation.common import RESULTS, SIMS, write_result
from validation.galfit_plots import draw_bd, draw_sims
from validation.saved_results import table

PARTS = ("sims", "bd", "real")


def sims(out: Path) -> dict[str, Any]:
    """Compare fits of simulated galaxies with the truth."""
    figures = {}
    for name in ("main", "hard"):
        figures[name], results, truth, snr = galfit_sims.run(name)
        print_sims(name, figures[name])
        draw_sims(results, truth, snr, out / f"accuracy_{name}.png")
    return figures


def print_sims(name: str, figures: Mapping[str, Any]) -> None:
    for label, report in figures.items():
        if label == "flags":
            continue
        fitters = report["fitters"]
        count = next(iter(fitters.values()))["galaxies"]
        print(f"\n{name}, {label}: {count} galaxies; sizes and indices in ln")
        for key in ("bias", "scatter", "pull_std", "cover_68", "cover_95"):
            print(table(fitters, key))
        for fitter, figure in fitters.items():
            print(
                f"  {fitter:32} catastrophic {figure['catastrophic']:3}, chi2 {figure['chi2']}, "
                f"from the true pixels {figure['pixels']}"
            )
        print(f"  hybridfit against GALFIT: {report['against GALFIT']}")
        for fitter, apart in report["apart from GALFIT"].items():
            print(f"  largest difference in GALFIT's errors, {fitter}: {apart}")
    for fitter, flags in figures["flags"].items():
        print(f"  {fitter}: {flags}")


def bd(out: Path) -> dict[str, Any]:
    """Compare fits of bulge and disk with the truth."""
    figures, points = galfit_bd.run()
    print(f"\nbd, one Sersic profile: {figures['one Sersic']}")
    for model, report in figures.items():
        if model == "one Sersic":
            continue
        print(f"\nbd, {model}: {report['galaxies']} galaxies")
        for name, start in report["starts"].items():
            print(f"  {name:16} {start}")
        for name in (galfit_bd.OWN, "best of all"):
            print(f"  {name}")
            for key, value in report[name].items():
                print(f"      {key}: {value}")
        for name, value in report["pulls"].items():
            print(f"  pull of {name:8} {value}")
    draw_bd(points, out / "accuracy_bd.png")
    return figures


def real(out: Path) -> dict[str, Any]:
    """Compare fits of real galaxies with GALFIT's and other tools'."""
    return {"GALFIT": galfit_real.run(out), "other tools": reference_table.run(galfit_real.DATA)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="sims|bd|real")
    parser.add_argument(
        "--out", type=Path, help="folder for figures and pictures; default results/"
    )
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no part '{unknown[0]}': expected some of {', '.join(PARTS)}")
    if not SIMS.is_dir():
        sys.exit(f"GALFIT's results are missing: {SIMS.parent}")
    torch.set_num_threads(1)
    out = args.out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    for part in args.parts or PARTS:
        figures = {"sims": sims, "bd": bd, "real": real}[part](out)
        print(f"written: {write_result(f'accuracy_{part}', figures, out)}")


if __name__ == "__main__":
    main()
