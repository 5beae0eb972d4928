"""Does a single-Sersic fit give what GALFIT 3.0.5 gave, on the same pixels of real galaxies?

    python benchmarks/galfit_real.py [--data ../shared/data/real] [--only ID ...]
                                     [--convolution continuous galfit]

For each saved GALFIT run of mode single and verdict good: the same image, sigma, mask, PSF and
region as its feedme names, no cropping. Printed are differences in GALFIT's own errors, its chi2
less ours, and by how much GALFIT's printed parameters lie above ours in our own renderer (flux and
sky solved for; below 0 our fit would have missed the minimum). A row passes within 1 GALFIT error
in mag, r_eff, n, q and pa and 0.05 pixels in x and y, or with a lower chi2.

GALFIT multiplies its errors by sqrt(chi2 / dof). Where that is far from 1 (a noise-free image with
a nominal sigma: 0.09) "largest" tells the largest of the differences in errors without that factor.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from common import NAMES, ROOT, write_result
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit import FitOptions
from hybridfit.model.render import render

DATA = ROOT.parent / "shared" / "data" / "real"
COLUMNS = ("x", "y", "mag", "re_pix", "n", "q", "pa_deg")  # GALFIT's names for NAMES
CENTRE = 0.05  # pixels
PRINTED = 5e-5  # half of the last digit of GALFIT's block headers: nothing is known better


@dataclass(frozen=True)
class Case:
    """One saved GALFIT run: what it was given, and what it found (x, y counted from 0)."""

    id: str
    cutouts: hf.Cutouts
    found: NDArray[np.float64]
    error: NDArray[np.float64]
    chi2: float
    dof: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with galfit3/ and cases/")
    parser.add_argument("--only", nargs="*", default=[], help="ids")
    parser.add_argument("--convolution", nargs="*", default=["continuous", "galfit"])
    parser.add_argument("--estimator", default="map", help="map | ml")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = read_cases(args.data, args.only)
    figures: dict[str, Any] = {"estimator": args.estimator}
    for convolution in args.convolution:
        options = FitOptions(estimator=args.estimator, convolution=convolution, compile="off")
        print(f"convolution {convolution}, estimator {args.estimator}; (ours - GALFIT) / error")
        print_head()
        rows = []
        for case in cases:
            rows.append(compare(case, options))
            print_row(rows[-1])
        passed = sum(row["passes"] for row in rows)
        print(f"{passed} of {len(rows)} reproduced\n")
        figures[convolution] = {"reproduced": passed, "of": len(rows), "rows": rows}
    if not args.only:
        print(f"written: {write_result('galfit_real', figures)}")


def read_cases(data: Path, only: Sequence[str] = ()) -> list[Case]:
    """The runs of mode single and verdict good."""
    with (data / "galfit3" / "galfit3.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["mode"] == "single" and r["verdict"] == "good"]
    return [read_case(data, row) for row in rows if not only or row["id"] in only]


def read_case(data: Path, row: Mapping[str, str]) -> Case:
    folder = data / "galfit3" / row["id"] / row["mode"]
    feedme = read_feedme(folder / "galfit.feedme")
    x0, x1, y0, y1 = (int(v) for v in feedme["H"].split())
    region = slice(y0 - 1, y1), slice(x0 - 1, x1)
    image, sigma = (plane(folder / feedme[key])[region] for key in "AC")
    mask = np.zeros(image.shape, bool)
    if feedme["F"] != "none":
        mask = plane(folder / feedme["F"])[region] != 0
    psf, _ = hf.prepare_psf(plane(folder / feedme["D"]), oversampling=int(feedme["E"]))
    cutouts = hf.Cutouts(
        id=[row["id"]],
        image=image[None],
        sigma=sigma[None],
        mask=mask[None],
        psf=psf[None],
        psf_oversampling=torch.tensor([int(feedme["E"])]),
        zeropoint=torch.tensor([float(feedme["J"])]),
        origin=torch.tensor([[x0 - 1.0, y0 - 1.0]]),
    )
    found = np.array([float(row[name]) for name in COLUMNS])
    found[:2] -= 1  # GALFIT counts from 1
    error = np.array([float(row[f"{name}_err"]) for name in COLUMNS])
    error = np.maximum(error, PRINTED)
    return Case(row["id"], cutouts, found, error, float(row["chi2"]), int(row["ndof"]))


def read_feedme(path: Path) -> dict[str, str]:
    """The control items A) to P) of a GALFIT input file."""
    items: dict[str, str] = {}
    for line in path.read_text().splitlines():
        match = re.match(r"\s*([A-P])\)\s*(.*)", line)
        if match:
            items.setdefault(match[1], match[2].split("#")[0].strip())
    return items


def plane(path: Path) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old headers
        with fits.open(path, memmap=False) as hdus:
            data = next(hdu.data for hdu in hdus if hdu.data is not None)
    return np.squeeze(np.asarray(data, dtype=np.float64))


def compare(case: Case, options: FitOptions) -> dict[str, Any]:
    """Fit one case and set it beside GALFIT's answer."""
    start = time.process_time()
    fit = hf.fit_cutouts(case.cutouts, options)
    seconds = time.process_time() - start
    ours = fit.theta[0, :7].numpy().copy()
    ours[:2] += case.cutouts.origin[0].numpy()
    off = ours - case.found
    off[6] = (off[6] + 90) % 180 - 90
    chi2 = float(fit.chi2[0])
    galfit = options.convolution == "galfit"
    close = bool((abs(off[2:]) <= case.error[2:]).all() and (abs(off[:2]) <= CENTRE).all())
    return {
        "id": case.id,
        "offsets": dict(zip(NAMES, off.tolist(), strict=True)),
        "offsets_in_errors": dict(zip(NAMES, (off / case.error).tolist(), strict=True)),
        "chi2": chi2,
        "chi2_galfit": case.chi2,
        "above_minimum": chi2_here(case, case.found, galfit) - chi2_here(case, ours, galfit),
        "largest_unscaled": float(abs(off[2:] / case.error[2:]).max())
        * math.sqrt(case.chi2 / case.dof),
        "passes": close or chi2 < case.chi2,
        "close": close,
        "flags": [str(flag.name) for flag in hf.Flag if int(fit.flags[0]) & flag],
        "seconds": round(seconds, 3),
    }


def chi2_here(case: Case, values: NDArray[np.float64], galfit: bool) -> float:
    """Chi2 of parameters (7,) in our renderer, in float64; flux and sky solved for.

    GALFIT prints flux to 1e-4 mag, which alone would cost a bright galaxy some chi2.
    """
    theta = np.concatenate([values, [0.0]])
    theta[:2] -= case.cutouts.origin[0].numpy()
    model = render(torch.tensor(theta)[None], case.cutouts, dtype=torch.float64, galfit=galfit)[
        0
    ].numpy()
    used = ~case.cutouts.mask[0].numpy()
    image, sigma = (v[0].double().numpy()[used] for v in (case.cutouts.image, case.cutouts.sigma))
    design = np.stack([model[used] / sigma, 1 / sigma], axis=1)
    solution, *_ = np.linalg.lstsq(design, image / sigma, rcond=None)
    return float((((image / sigma) - design @ solution) ** 2).sum())


def print_head() -> None:
    columns = "".join(f"{name:>7}" for name in NAMES[2:])
    print(
        f"{'':24}{columns}{'largest':>9}{'dx':>8}{'dy':>8}{'chi2 GALFIT':>13}{'- ours':>9}"
        f"{'its here - ours':>17}{'s':>7}"
    )


def print_row(row: Mapping[str, Any]) -> None:
    values = "".join(f"{row['offsets_in_errors'][name]:7.2f}" for name in NAMES[2:])
    centre = "".join(f"{row['offsets'][name]:8.4f}" for name in ("x", "y"))
    gain, above = row["chi2_galfit"] - row["chi2"], row["above_minimum"]
    verdict = "close" if row["close"] else "lower chi2" if row["passes"] else "NOT REPRODUCED"
    print(
        f"{row['id']:24}{values}{row['largest_unscaled']:9.2f}{centre}{row['chi2_galfit']:13.2f}{gain:9.2f}{above:17.2f}"
        f"{row['seconds']:7.1f}  {verdict} {' '.join(row['flags'])}",
        flush=True,
    )
    if not math.isfinite(row["chi2"]):
        print(f"{'':24}no fit")


if __name__ == "__main__":
    main()
