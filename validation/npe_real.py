"""Is the posterior of real galaxies where GALFIT's good fits are, or does it carry a flag?

    OMP_NUM_THREADS=1 python -m validation.npe_real [--weights FOLDER] [--data ../shared/data/real]

For each saved GALFIT run of mode single and verdict good, the posterior alone (`hybridfit
predict`) and the fit that starts from it (`hybridfit fit`) of the same pixels. Printed is the
posterior's median less GALFIT's value in the posterior's own sigma (half of p84 - p16). A row
passes within 3 sigma in all of x, y, mag, r_eff, n, q and pa, or with a flag that speaks of
trust: of the posterior's own, or of the fit's.
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
from hybridfit.npe.posterior import load_estimator
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.options import PredictOptions
from hybridfit.pipeline.predict import predict
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from validation.common import NAMES, write_result
from validation.galfit_real import DATA, read_cases

TRUST = Flag.UNFAMILIAR | Flag.DISAGREES | Flag.POOR_FIT | Flag.UNCERTAIN | Flag.FEW_DRAWS
WITHIN = 3.0


def names_of(flags: int) -> list[str]:
    return [str(flag.name) for flag in Flag if flags & flag]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with galfit3/ and cases/")
    parser.add_argument("--weights", help="instead of the package's")
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"the real galaxies are not there: {given.data}")
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    rows: list[dict[str, Any]] = []
    print(f"{'':26}" + "".join(f"{name:>8}" for name in NAMES))
    for case in read_cases(given.data, "single", "good"):
        table = predict(case.cutouts, estimator=estimator, options=PredictOptions(samples=512))[0]
        options, cpu = FitOptions(compile="off"), torch.device("cpu")
        errors = ErrorOptions("covariance")
        fit = measure(case.cutouts, options, cpu, errors=errors, estimator=estimator).fit
        off = np.array([table[f"{name}_p50"] for name in NAMES]) - case.found[0]
        off[6] = (off[6] + 90) % 180 - 90
        width = np.array([(table[f"{name}_p84"] - table[f"{name}_p16"]) / 2 for name in NAMES])
        flags = int(table["flags"]), int(fit.flags[0])
        near = bool((np.abs(off / width) <= WITHIN).all())
        flagged = bool((flags[0] | flags[1]) & TRUST)
        rows.append(
            {
                "id": case.id,
                "offset over sigma": dict(zip(NAMES, (off / width).round(2).tolist(), strict=True)),
                "within": near,
                "flags of the posterior": names_of(flags[0]),
                "flags of the fit": names_of(flags[1]),
                "passes": near or flagged,
                "passes by the posterior's own flags": near or bool(flags[0] & TRUST),
            }
        )
        verdict = "within" if near else "flagged" if flagged else "NEITHER"
        print(
            f"{case.id:26}"
            + "".join(f"{v:8.2f}" for v in off / width)
            + f"  {verdict:8}{' '.join(names_of(flags[0]))} | {' '.join(names_of(flags[1]))}"
        )
    passed = sum(row["passes"] for row in rows)
    own = sum(row["passes by the posterior's own flags"] for row in rows)
    near = sum(row["within"] for row in rows)
    print(f"{passed} of {len(rows)} pass, {near} within {WITHIN:g} sigma, {own} without the fit")
    figures = {"passed": passed, "of": len(rows), "within": near, "rows": rows}
    print(write_result("npe_real", figures))


if __name__ == "__main__":
    main()
