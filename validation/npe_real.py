"""Does the network's posterior of real galaxies contain GALFIT's good fits, or carry a flag?

    OMP_NUM_THREADS=1 python -m validation.npe_real [--weights FOLDER] [--data ../shared/data/real]

For each saved GALFIT run of mode single and verdict good, the network's posterior (`hybridfit
predict`) and the fit that starts from it (`hybridfit fit`) are made of the same pixels. Printed is
the posterior's median minus GALFIT's value over the posterior's own sigma (half of p84 - p16). A
row passes if it lies within 3 sigma in all of x, y, mag, r_eff, n, q and pa, or if posterior or fit
carry a flag that questions the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridfit.data.flags import Flag
from hybridfit.fitting.options import FitOptions
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.predict import predict
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from validation.common import NAMES, write_result
from validation.galfit_real import DATA, Case, read_cases

TRUST = Flag.UNFAMILIAR | Flag.DISAGREES | Flag.POOR_FIT | Flag.UNCERTAIN | Flag.FEW_DRAWS
WITHIN = 3.0


def names_of(flags: int) -> list[str]:
    return [str(flag.name) for flag in Flag if flags & flag]


def compare(case: Case, estimator: Estimator) -> dict[str, Any]:
    """Compare the posterior of one galaxy with GALFIT's fit, and return its row."""
    table = predict(case.cutouts, estimator=estimator, samples=512)[0]
    options, errors = FitOptions(compile="off"), ErrorOptions("covariance")
    cpu = torch.device("cpu")
    fit = measure(case.cutouts, options, cpu, errors=errors, estimator=estimator).fit
    offset = np.array([table[f"{name}_p50"] for name in NAMES]) - case.found[0]
    offset[6] = (offset[6] + 90) % 180 - 90
    sigma = np.array([(table[f"{name}_p84"] - table[f"{name}_p16"]) / 2 for name in NAMES])
    own, of_fit = int(table["flags"]), int(fit.flags[0])
    near = bool((np.abs(offset / sigma) <= WITHIN).all())
    return {
        "id": case.id,
        "offset over sigma": dict(zip(NAMES, (offset / sigma).round(2).tolist(), strict=True)),
        "within": near,
        "flags of the posterior": names_of(own),
        "flags of the fit": names_of(of_fit),
        "passes": near or bool((own | of_fit) & TRUST),
        "passes by the posterior's own flags": near or bool(own & TRUST),
    }


def show(row: dict[str, Any]) -> None:
    verdict = "within" if row["within"] else "flagged" if row["passes"] else "NEITHER"
    flags = " | ".join(" ".join(row[f"flags of the {part}"]) for part in ("posterior", "fit"))
    offsets = "".join(f"{value:8.2f}" for value in row["offset over sigma"].values())
    print(f"{row['id']:26}{offsets}  {verdict:8}{flags}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with galfit3/ and cases/")
    parser.add_argument("--weights", help="folder of the network; default the package's")
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"the real galaxies are not there: {given.data}")
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    rows: list[dict[str, Any]] = []
    print(f"{'':26}" + "".join(f"{name:>8}" for name in NAMES))
    for case in read_cases(given.data, "single", "good"):
        rows.append(compare(case, estimator))
        show(rows[-1])
    passed, own, near = (
        sum(row[key] for row in rows)
        for key in ("passes", "passes by the posterior's own flags", "within")
    )
    print(f"{passed} of {len(rows)} pass, {near} within {WITHIN:g} sigma, {own} without the fit")
    figures = {"passed": passed, "of": len(rows), "within": near, "rows": rows}
    print(write_result("npe_real", figures))


if __name__ == "__main__":
    main()
