"""Compare the tables, draws and speed of two checkouts of hybridfit.

    python -m validation.compare_versions --old OLD --new . [--n 20] [--only main] [--cache FOLDER]
    python -m validation.compare_versions --old OLD --new . --speed [--n 200] [--pairs 5]

Both measure the same galaxies: the simulated sets main and hard, the GALFIT runs of real galaxies,
and what the demonstration simulates, in several ways (a posterior, a covariance, the network
alone). Of every column the largest relative difference is reported; columns may have new names
(`RENAMED_COLUMNS` in table_differences.py). Draws for the same seed must be the same. The status is
1 if anything differs by more than the tolerance or a column is lost. What each checkout made is
kept in FOLDER under its commit, and used again unless files differ from that commit.

--only takes words of the names of cases, with commas: "main" (three cases), "predict" (three),
"main,predict" (one), "galfit,posterior".

--speed takes turns: old and new measure the same galaxies on one core, each turn a process of its
own, and the ratio is the median over pairs of turns of new CPU seconds over old.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from validation.table_differences import Comparison, Difference, compare_tables
from validation.version_speed import TASKS, paired_ratios
from validation.version_tables import (
    ALL_CASES,
    DEFAULT_CASES,
    Checkout,
    draw_columns,
    make_table,
    read_columns,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    args = parsed()
    with tempfile.TemporaryDirectory() as kept:
        folder = (args.cache or Path(kept)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        figures = speeds(args, folder) if args.speed else differences(args, folder, Path(kept))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")
    if not figures.get("same", True):
        sys.exit(1)


def parsed() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--new", type=Path, required=True, help="checkout that has changed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with sims/ and real/")
    parser.add_argument("--n", type=int, default=0, help="galaxies of each set; 0: all")
    parser.add_argument("--only", default="", help="words of cases or tasks, with commas")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="relative difference")
    parser.add_argument("--cache", type=Path, help="folder that keeps tables for the next time")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--speed", action="store_true", help="time both instead of comparing")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each with --speed")
    parser.add_argument(
        "--passes", type=int, default=1, help="passes of a turn; the fastest counts"
    )
    parser.add_argument("--core", type=int, default=0, help="core that runs what is timed")
    return parser.parse_args()


def chosen(only: str, cases: Sequence[str] = DEFAULT_CASES) -> list[str]:
    """Return the cases that have a word of ``only`` for each of their two parts.

    Raises:
        ValueError: for a word that no case has.
    """
    words = [word for word in only.split(",") if word]
    parts = [{case.split("-")[k] for case in ALL_CASES} for k in (0, 1)]
    if unknown := [word for word in words if word not in parts[0] | parts[1]]:
        raise ValueError(
            f"no case is called {unknown[0]}: expected words of {', '.join(ALL_CASES)}"
        )
    wanted = [{word for word in words if word in part} for part in parts]
    among = ALL_CASES if wanted[1] else cases
    return [
        case
        for case in among
        if all(not w or p in w for w, p in zip(wanted, case.split("-"), strict=True))
    ]


def differences(args: argparse.Namespace, folder: Path, passing: Path) -> dict[str, Any]:
    """Make and compare the tables of all chosen cases; return the figures."""
    sides = [checkout(args.old, folder, passing / "old")]
    sides.append(checkout(args.new, folder, passing / "new"))
    figures: dict[str, Any] = {"old": sides[0].commit, "new": sides[1].commit}
    figures |= {"galaxies": args.n or "all", "tolerance": args.tolerance, "cases": {}}
    for case in chosen(args.only):
        made = [make_table(case, side, folder / "inputs", args.data, args.n) for side in sides]
        (old, old_draws), (new, new_draws) = map(read_columns, made)
        compared = {"table": compare_tables(old, new, tolerance=args.tolerance)}
        if old_draws:
            pair = [{"id": old["id"], **draw_columns(d)} for d in (old_draws, new_draws)]
            compared["draws"] = compare_tables(*pair, tolerance=args.tolerance)
        figures["cases"][case] = {key: summary(one) for key, one in compared.items()}
        for key, one in compared.items():
            print_comparison(f"{case}, {len(old['id'])} galaxies, {key}", one)
    figures["same"] = all(
        one["same"] for case in figures["cases"].values() for one in case.values()
    )
    print("all the same" if figures["same"] else "DIFFERENT")
    return figures


def checkout(root: Path, folder: Path, passing: Path) -> Checkout:
    """Return a checkout that keeps tables under its commit, or in ``passing`` if files changed."""
    commit = Checkout(root.resolve(), passing).commit
    changed = commit.endswith("-dirty") or commit == "unknown"
    return Checkout(root.resolve(), passing if changed else folder / commit)


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as it is written to JSON."""
    return {
        "same": comparison.same,
        "lost": list(comparison.lost),
        "added": list(comparison.added),
        "largest": {d.column: float(f"{d.largest:.3g}") for d in comparison.columns},
        "differing": [asdict(d) for d in comparison.columns if d.differing],
    }


def print_comparison(title: str, comparison: Comparison) -> None:
    """Print what differs, and how near the rest is."""
    verdict = "same" if comparison.same else "DIFFERENT"
    numbers = [d.largest for d in comparison.columns if not d.differing]
    close = f"largest difference of {len(numbers)} columns {max(numbers, default=0):.1e}"
    print(f"{title}: {verdict}; {close}", flush=True)
    for name in comparison.lost:
        print(f"    LOST    {name}")
    for name in comparison.added:
        print(f"    added   {name}")
    for difference in sorted(comparison.columns, key=lambda d: -d.largest):
        if difference.differing:
            print_difference(difference)


def print_difference(difference: Difference) -> None:
    kind = "DIFFERS" if difference.counts else "reworded"
    size = f"{difference.largest:.2e}" if difference.counts else ""
    print(
        f"    {kind} {difference.column} {size} in {difference.differing} rows,"
        f" {difference.example[:150]}"
    )


def speeds(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the chosen tasks in pairs; return the figures."""
    words = [word for word in args.only.split(",") if word]
    tasks = [task for task in TASKS if all(word in task for word in words)]
    figures: dict[str, Any] = {"galaxies": args.n or "all", "pairs": args.pairs, "tasks": {}}
    for task in tasks:
        timed = paired_ratios(task, args.old, args.new, args, folder)
        figures["tasks"][task] = timed
        print(
            f"{task:18} new / old {timed['ratio']:.3f} (pairs {timed['ratios']}); CPU ms a galaxy"
            f" old {timed['old_ms']:.2f}, new {timed['new_ms']:.2f}",
            flush=True,
        )
    return figures


if __name__ == "__main__":
    main()
