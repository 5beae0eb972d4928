"""Does every real case run, and are known faults of the inputs flagged?

    python -m validation.real_galaxies [--data ../shared/data/real] [--out DIR] [--pictures]

Each case of the folder becomes a row of a manifest, as a user would write it, and is fitted by
`hybridfit fit`: those with a PSF in one run, those without in a second one with --no-psf. One row
is printed for each case, then the checks of known faults; the exit status is 1 if one fails.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

import hybridfit as hf
from hybridfit import Flag
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
FILES = ("image", "sigma", "psf", "mask", "segmap")
COLUMNS = ("id", *FILES, "zeropoint", "pixel_scale", "psf_oversampling", "gain", "x", "y")
SHOWN = ("x", "y", "mag", "r_eff", "n", "q", "pa")
MASK_FLAGS = Flag.SUSPECT_MASK | Flag.MASKED_CENTRE
# known faults of the inputs: each case must have at least one of these flags
KNOWN_FAULTS = {
    **dict.fromkeys(
        [f"gama{n}_kids" for n in (265911, 266033, 266662, 267489, 278109)], Flag.BAD_PSF
    ),
    **dict.fromkeys([f"sim_autolens{n}" for n in (66, 1085, 3600)], MASK_FLAGS),
    "sdss_J092800": MASK_FLAGS,
    "jwst_2114_f356w": Flag.BAD_SIGMA,  # four times the scatter of its sky
    "render_galfit_n4_psf1": Flag.PSF_OFF_CENTRE,  # one pixel off GALFIT's centre
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with cases/")
    parser.add_argument("--out", type=Path, help="for the results; default a temporary folder")
    parser.add_argument("--pictures", action="store_true", help="data, model and residual as PNG")
    parser.add_argument("options", nargs="*", help="for hybridfit fit, behind --")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="hybridfit-real-"))
    table = fit_cases(args.data, out, args.options)
    print_rows(table)
    problems = faults(table, [c["id"] for c in read_cases(args.data)])
    print("\n".join(["", *problems]) if problems else "\nevery known fault is flagged")
    print(f"tables in {out}")
    if args.pictures:
        draw(args.data, out, table)
    raise SystemExit(bool(problems))


def read_cases(data: Path) -> list[dict[str, Any]]:
    """Return manifest rows of all cases, paths absolute; "" for missing entries."""
    with (data / "reference.csv").open(newline="") as file:
        targets = {row["id"]: row for row in csv.DictReader(file) if row["target"] == "1"}
    paths = sorted((data / "cases").glob("*/meta.json"))
    return [_row(path, json.loads(path.read_text()), targets) for path in paths]


def _row(path: Path, meta: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"id": meta["id"]}
    for role in FILES:
        if role in meta["files"]:
            row[role] = str((path.parent / meta["files"][role]).resolve())
    # magnitudes are of counts per second, images are counts
    row["zeropoint"] = meta["zeropoint"] + 2.5 * math.log10(meta["exptime"] or 1)
    row["pixel_scale"] = meta.get("pixscale_arcsec") or ""
    row["psf_oversampling"] = meta.get("psf_sampling") or 1
    if meta["id"] == "ground_ngc777_R":  # the only frame whose target is not in its middle
        target = targets[meta["id"]]
        row["x"], row["y"] = float(target["x"]) - 1, float(target["y"]) - 1
    return row


def fit_cases(
    data: Path,
    out: Path,
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> Table:
    """Fit the cases (``only`` some, or ``rows``) by the command line; return both runs' rows."""
    if rows is None:
        rows = [row for row in read_cases(data) if not only or row["id"] in only]
    tables = []
    for name, some, extra in (
        ("psf", [r for r in rows if r["psf"]], []),
        # without a PSF an image needs modes up to six times the sampling frequency, and a
        # posterior hundreds of images: minutes a galaxy
        (
            "no_psf",
            [r for r in rows if not r["psf"]],
            ["--no-psf", "--uncertainty", "covariance"],
        ),
    ):
        if not some:
            continue
        out.mkdir(parents=True, exist_ok=True)
        manifest = write_manifest(out / f"{name}.csv", some)
        command = [sys.executable, "-m", "hybridfit", "fit", str(manifest), "-o", str(out / name)]
        subprocess.run([*command, "--overwrite", "--quiet", *extra, *options], check=True)
        table = Table.read(out / name / "results.fits", mask_invalid=False)
        table.meta.clear()
        tables.append(table)
    return vstack(tables)


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def print_rows(table: Table) -> None:
    head = "".join(f"{name:>9}" for name in SHOWN)
    print(f"{'id':24}{head}{'chi2/dof':>10}  flags: message")
    for row in table:
        values = "".join(f"{row[name]:9.3f}" for name in SHOWN)
        reduced = row["chi2"] / row["dof"] if row["dof"] > 0 else math.nan
        said = f": {row['notes']}" if row["notes"] else ""
        print(f"{row['id']:24}{values}{reduced:10.3f}  {names(row['flags'])}{said}")


def names(flags: int) -> str:
    """Return the names of the bits that are set."""
    return " ".join(str(flag.name) for flag in Flag if flag & int(flags)) or "-"


def faults(table: Table, expected: Sequence[str]) -> list[str]:
    """Return problems of the table: missing rows, NaN without a flag, unflagged known faults."""
    flags = {str(row["id"]): Flag(int(row["flags"])) for row in table}
    problems = [f"{name}: its row is missing" for name in expected if name not in flags]
    for name, wanted in KNOWN_FAULTS.items():
        if name in flags and not flags[name] & wanted:
            found = names(flags[name])
            problems.append(f"{name}: expected one of {names(wanted)}, its flags are {found}")
    for row in table:
        if not all(math.isfinite(row[name]) for name in SHOWN) and not row["flags"]:
            problems.append(f"{row['id']}: no values and no flag")
    return problems


def draw(data: Path, out: Path, table: Table) -> None:
    """Draw data, model and residual of each case; masked pixels are grey."""
    for name in ("psf", "no_psf"):
        options = ReadOptions(no_psf=name == "no_psf")
        for source in find_sources(out / f"{name}.csv", options):
            row = table[list(table["id"]).index(source.id)]
            if not math.isfinite(row["mag"]):
                continue
            cutouts = stack([read_cutout(source, options)])
            one = Table(row)
            model = hf.render(one, cutouts)
            height, width = (int(v) for v in cutouts.size[0])
            planes = [
                np.asarray(p)[:, :height, :width]
                for p in (cutouts.image, model, cutouts.sigma, cutouts.mask)
            ]
            title = "  ".join(f"{k} {row[k]:.2f}" for k in ("mag", "r_eff", "n", "q"))
            title = f"{source.id}  {title}"
            hf.plot_residuals(*planes, titles=[title]).savefig(out / f"{source.id}.png", dpi=90)


if __name__ == "__main__":
    main()
