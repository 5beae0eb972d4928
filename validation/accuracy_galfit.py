"""Does hybridfit agree with GALFIT 3.0.5, and where not, who is right?

    OMP_NUM_THREADS=1 python -m validation.accuracy_galfit [sims] [bd] [real] [--out FOLDER]

GALFIT's saved answers of ../shared/data on the same pixels, in three parts (all by default):

sims    200 ordinary and 200 hard simulated galaxies: bias, scatter, pulls and coverage of both,
        failures, chi2 by one renderer, and whose noise-free model is nearer the true one.
bd      100 galaxies of bulge and disk, fitted with two components from several starts.
real    every run kept of real galaxies, read from its feedme: chi2 and parameters of both, what
        our flags say where GALFIT failed, and fits of other tools.

Figures go to accuracy_<part>.json and pictures beside them, in results/ or FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from validation.common import RESULTS, SIMS, write_result
from validation.galfit_plots import draw_bd, draw_sims
from validation.saved_results import table

PARTS = ("sims", "bd", "real")


def sims(out: Path) -> dict[str, Any]:
    """Simulated galaxies against the truth."""
    import galfit_sims

    figures = {}
    for name in ("main", "hard"):
        figures[name], answers, truth, snr = galfit_sims.run(name)
        print_sims(name, figures[name])
        draw_sims(answers, truth, snr, out / f"accuracy_{name}.png")
    return figures


def print_sims(name: str, figures: Mapping[str, Any]) -> None:
    for label, told in figures.items():
        if label == "flags":
            continue
        fitters = told["fitters"]
        count = next(iter(fitters.values()))["galaxies"]
        print(f"\n{name}, {label}: {count} galaxies; sizes and indices in ln")
        for key in ("bias", "scatter", "pull_std", "cover_68", "cover_95"):
            print(table(fitters, key))
        for who, figure in fitters.items():
            print(
                f"  {who:32} catastrophic {figure['catastrophic']:3}, chi2 {figure['chi2']}, from "
                f"the true pixels {figure['pixels']}"
            )
        print(f"  hybridfit against GALFIT: {told['against GALFIT']}")
        for who, apart in told["apart from GALFIT"].items():
            print(f"  largest difference in GALFIT's errors, {who}: {apart}")
    for who, flags in figures["flags"].items():
        print(f"  {who}: {flags}")


def bd(out: Path) -> dict[str, Any]:
    """Bulge and disk."""
    import galfit_bd

    figures, points = galfit_bd.run()
    print(f"\nbd, one Sersic profile: {figures['one Sersic']}")
    for model, told in figures.items():
        if model == "one Sersic":
            continue
        print(f"\nbd, {model}: {told['galaxies']} galaxies")
        for name, start in told["starts"].items():
            print(f"  {name:16} {start}")
        for name in (galfit_bd.OWN, "best of all"):
            print(f"  {name}")
            for key, value in told[name].items():
                print(f"      {key}: {value}")
        for name, value in told["pulls"].items():
            print(f"  pull of {name:8} {value}")
    draw_bd(points, out / "accuracy_bd.png")
    return figures


def real(out: Path) -> dict[str, Any]:
    """Real galaxies."""
    import galfit_real
    import other_tools

    return {"GALFIT": galfit_real.run(out), "other tools": other_tools.run(galfit_real.DATA)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="sims|bd|real")
    parser.add_argument("--out", type=Path, help="folder for all of it; default results/")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no part '{unknown[0]}': expected some of {', '.join(PARTS)}")
    if not SIMS.is_dir():
        sys.exit(f"GALFIT's answers are not there: {SIMS.parent}")
    torch.set_num_threads(1)
    out = args.out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    for part in args.parts or PARTS:
        figures = {"sims": sims, "bd": bd, "real": real}[part](out)
        print(f"written: {write_result(f'accuracy_{part}', figures, out)}")


if __name__ == "__main__":
    main()
