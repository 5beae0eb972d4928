"""What do several components cost, compared with one, and is it evaluations or their number?

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.components
        [--n 48] [--side 64] [--runs 3] [--kernels eager compiled] [--no-posterior]

Simulated galaxies of one, two and three Sersic profiles and of a bulge and a disk (Sersic and
exponential, one centre) are fitted with the model they were made from, on one core, as users do:
with the search for several minima. A fit fails if its chi2 is more than 10 above that of the truth.
Only if few do, the models are timed in turns: CPU seconds a galaxy are the least of all runs, for
the fit alone and with posteriors. Evaluations are of whole cutouts, in all tries.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hybridfit as hf
from benchmarks.scaling_jobs import WORSE, composed
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.rendering.render import render
from validation.common import BENCHMARK_RESULTS, write_result

MODELS = ("sersic", "sersic+sersic", "sersic+sersic+sersic", "bulge+disk")
KERNELS = ("eager", "compiled")
MOST_FAILURES = 0.1
TARGETS = {"sersic+sersic": 2.5, "sersic+sersic+sersic": 5.0, "bulge+disk": 2.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=48, help="galaxies of each model")
    parser.add_argument("--side", type=int, default=64, help="of the cutouts, pixels")
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--no-posterior", action="store_true", help="time the fits alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"pixels": given.side, "galaxies": given.n}
    for kernels in given.kernels:
        compiled, posterior = kernels == "compiled", not given.no_posterior
        figures[kernels] = costs(given.n, given.side, given.runs, compiled, posterior)
        for model, row in figures[kernels].items():
            print(f"{kernels}, {model}: {row}", flush=True)
        print(write_result("components", figures, BENCHMARK_RESULTS))


def costs(
    n: int, side: int, runs: int, compiled: bool, posterior: bool
) -> dict[str, dict[str, Any]]:
    """Return the figures of each model; stop if more than a few of its fits fail."""
    options = {m: hf.FitOptions(m, compile="on" if compiled else "off") for m in MODELS}
    sets = {m: composed(n, side, options[m]) for m in MODELS}
    figures = {m: validated(*sets[m], options[m], compiled) for m in MODELS}
    for what in ("fit", "posterior") if posterior else ("fit",):
        work = {m: _work(what, sets[m][0], options[m], compiled) for m in MODELS}
        if what == "posterior":
            for m in MODELS:
                work[m]()  # warms up
        seconds = {m: float("inf") for m in MODELS}
        for _ in range(runs):
            for m in MODELS:
                seconds[m] = min(seconds[m], _cpu(work[m]))
        for m in MODELS:
            figures[m][f"{what}, ms"] = round(1e3 * seconds[m] / n, 2)
            figures[m][f"{what}, times one Sersic"] = round(seconds[m] / seconds["sersic"], 2)
    for m in MODELS:
        figures[m]["target"] = TARGETS.get(m, 1.0)
    return figures


def validated(
    cutouts: hf.Cutouts, theta: torch.Tensor, options: hf.FitOptions, compiled: bool
) -> dict[str, Any]:
    """Fit once, which also warms up, and return failures and evaluations a galaxy."""
    start = time.process_time()
    fit = hf.fit_cutouts(cutouts, options, compile=compiled)
    first = time.process_time() - start
    best = render(theta, cutouts, options.space, options.profiles)
    chi2 = (((cutouts.image - best) / cutouts.sigma) ** 2).flatten(1).sum(dim=1)
    failures = int((~(fit.chi2 <= chi2 + WORSE)).sum())  # NaN counts as worse
    if failures > MOST_FAILURES * len(fit):
        sys.exit(f"{options.model}: {failures} of {len(fit)} fits failed, so times mean nothing")
    return {
        "failures": failures,
        "evaluations": round(float(fit.n_iter.double().mean()), 2),
        "first run, s": round(first, 1),  # with the compilation
    }


def _work(
    what: str, cutouts: hf.Cutouts, options: hf.FitOptions, compiled: bool
) -> Callable[[], Any]:
    if what == "fit":
        return lambda: hf.fit_cutouts(cutouts, options, compile=compiled)
    errors = ErrorOptions("posterior")
    return lambda: measure(cutouts, options, torch.device("cpu"), compiled, errors)


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
