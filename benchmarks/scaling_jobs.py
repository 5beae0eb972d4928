"""Make one measurement of `scaling.py` in a process of its own: JSON in, JSON out.

    python -m benchmarks.scaling_jobs '{"kind": "memory", "side": 64, "n": 16, "compiled": false}'

A process of its own has its own peak memory, and one core. Each job fits galaxies of
`hybridfit.simulate`, compares them with the truth, and only then reports their cost.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline.engine import serial as stream
from hybridfit.pipeline.measure import measure, starting_network
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.rendering.render import render
from hybridfit.simulation.simulate import SimulateOptions
from validation.common import NAMES, quality

Array = NDArray[np.float64]
DISTINCT = 200  # different galaxies of a run; its other files are links to these
WORSE = 10.0  # chi2 above the truth's: the fit is in another minimum
# x, y are of the simulated galaxy; mag (of the whole), r_eff, n, q: nucleus, disk and bar
PARTS = ((0.9, 2.2, 3.0, 0.85), (0.0, 7.0, 1.0, 0.7), (1.2, 4.5, 0.5, 0.35))


class CpuClock:
    """Count the CPU seconds of this process stage by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - start


def galaxies(n: int, side: int) -> tuple[hf.Cutouts, Array]:
    """Return n galaxies and their truth (n, 7), the same ones at every side."""
    options = SimulateOptions(
        shape=(side, side), psf_size=25, r_eff=(1.5, 3.5), snr=(20, 500), fwhm=(2.5, 3.0)
    )
    cutouts, table = hf.simulate(n, 1, options)
    return cutouts, truth_of(table)


def truth_of(table: Table) -> Array:
    return np.stack([np.asarray(table[name], float) for name in NAMES], axis=1)


def peak_mib() -> float:
    """Peak resident memory of this process (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def failures_and_pulls(values: Array, errors: Array, truth: Array) -> dict[str, Any]:
    """Return failures, and the robust width of all pulls (1 where errors are right)."""
    whole = quality(values.copy(), errors, truth)
    offset = values - truth
    offset[:, 6] = (offset[:, 6] + 90) % 180 - 90
    pull = offset / errors
    width = 1.4826 * float(np.nanmedian(np.abs(pull)))
    return {"failures": whole["catastrophic"], "pull": round(width, 3)}


def in_memory(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure ``n`` galaxies in memory: network, fit and errors, stage by stage."""
    cutouts, truth = galaxies(job["n"], job["side"])
    errors = ErrorOptions(
        job.get("uncertainty", "posterior"),
        hf.SamplingOptions(**job.get("sampling", {})),
        hf.BootstrapOptions(**job.get("bootstrap", {})),
    )
    network = starting_network("network")
    compiled, device = bool(job["compiled"]), torch.device("cpu")

    def run(part: hf.Cutouts) -> tuple[hf.Result, dict[str, float]]:
        clock = CpuClock()
        result = measure(part, hf.FitOptions(), device, compiled, errors, network, clock)
        return result, clock.seconds

    base = peak_mib()
    # a warm-up must reach all compiled kernels, some of which only retries need
    few = cutouts if compiled else cutouts[: min(job["n"], 16)]
    warm_up, _ = _cpu(lambda: run(few))
    total, (result, stages) = _cpu(lambda: run(cutouts))
    fit = result.fit
    figures = failures_and_pulls(fit.theta[:, :7].numpy(), fit.error[:, :7].numpy(), truth)
    if result.draws is not None:
        count = (result.draws.weights > 0).sum(dim=1).double().mean()
        figures["draws"] = round(float(count), 1)
    return figures | _costs(total, stages, job["n"], warm_up, base)


def from_files(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure ``n`` cutouts from FITS files to the table, as the command line does."""
    n = job["n"]
    cutouts, truth = galaxies(min(n, DISTINCT), job["side"])
    run = hf.RunOptions(uncertainty=job.get("uncertainty", "covariance"))
    options = hf.FitOptions(compile="on" if job["compiled"] else "off")
    # the run's own clock counts wall time, which includes the work of others
    cpu = SimpleNamespace(perf_counter=time.process_time)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(stream, "time", cpu):
        inputs = linked(cutouts, Path(folder), n)
        # a few hundred galaxies reach every kernel, that of retries too
        few = replace(run, limit=min(n, 300 if job["compiled"] else 16))
        base = peak_mib()
        warm_up, _ = _cpu(lambda: hf.fit_files(inputs, f"{folder}/few", fit=options, run=few))
        total, summary = _cpu(lambda: hf.fit_files(inputs, f"{folder}/out", fit=options, run=run))
        table = Table.read(summary.results)
    values, quoted = (
        np.stack([np.asarray(table[name + end], float) for name in NAMES], axis=1)
        for end in ("", "_err")
    )
    figures = failures_and_pulls(values, quoted, truth[np.arange(n) % len(truth)])
    figures["seconds_in_all"] = round(total, 3)
    return figures | _costs(total, summary.seconds, n, warm_up, base)


def linked(cutouts: hf.Cutouts, folder: Path, n: int) -> Path:
    """Return a directory of n cutouts: those given, linked repeatedly under new ids."""
    write_cutouts(cutouts, folder / "base")
    inputs = folder / "in"
    inputs.mkdir()
    for i in range(n):
        name = cutouts.id[i % len(cutouts)]
        for kind in ("image", "sigma", "psf"):
            os.link(folder / "base" / f"{name}_{kind}.fits", inputs / f"g{i:07d}_{kind}.fits")
    return inputs


def of_components(job: Mapping[str, Any]) -> dict[str, Any]:
    """Fit galaxies of several Sersic components with as many, from moments.

    A fit fails if its chi2 is more than WORSE above that of the truth: another minimum.
    """
    count, options = job["components"], hf.FitOptions(("sersic",) * job["components"])
    cutouts, theta = composed(job["n"], job["side"], options)
    base = peak_mib()
    compiled = bool(job["compiled"])
    few = cutouts if compiled else cutouts[: min(job["n"], 16)]
    warm_up, _ = _cpu(lambda: hf.fit_cutouts(few, options, compile=compiled))
    total, fit = _cpu(lambda: hf.fit_cutouts(cutouts, options, compile=compiled))
    best = render(theta, cutouts, options.space, options.profiles)
    chi2 = (((cutouts.image - best) / cutouts.sigma) ** 2).flatten(1).sum(dim=1)
    worse = ~(fit.chi2 <= chi2 + WORSE)  # NaN counts as worse
    columns = [k for k, name in enumerate(fit.space.names) if name.split("_")[-1] == "mag"]
    flux, true = ((10 ** (-0.4 * v[:, columns])).sum(dim=1) for v in (fit.theta, theta))
    off = -2.5 * torch.log10(flux / true)
    figures = {
        "failures": int(worse.sum()),
        "mag_off": round(float(off.abs().nanmedian()), 4),
        "parameters": len(options.space.names),
        "evaluations": round(float(fit.n_iter.double().mean()), 1),
    }
    return (
        figures | {"components": count} | _costs(total, {"fitting": total}, len(fit), warm_up, base)
    )


def composed(n: int, side: int, options: hf.FitOptions) -> tuple[hf.Cutouts, torch.Tensor]:
    """Simulate n noisy galaxies of several components; return their parameters (n, Q) too."""
    cutouts, single = galaxies(n, side)
    rng = np.random.default_rng(2)
    space = options.space
    theta = np.zeros((n, len(space.names)))
    for k, (fainter, size, index, ratio) in enumerate(PARTS[: space.n_components]):
        vary = np.exp(rng.uniform(-0.15, 0.15, (3, n)))
        columns = {
            "x": single[:, 0],
            "y": single[:, 1],
            "mag": 20.0 + fainter,  # with the sky's noise below, S/N of some hundred
            "r_eff": size * vary[0],
            "n": index * vary[1],
            "q": ratio * vary[2],
            "pa": rng.uniform(0, 180, n),
        }
        for name in space.components[k].parameters:
            theta[:, space.column(k, name)] = columns[name]
    values = torch.from_numpy(theta)
    image = render(values, cutouts, space, options.profiles)
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape)).astype(np.float32))
    return replace(cutouts, image=image + noise * cutouts.sigma), values


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


def _costs(
    total: float, stages: Mapping[str, float], n: int, warm_up: float, base: float
) -> dict[str, Any]:
    peak = peak_mib()
    return {
        "seconds": total / n,
        "stages": {name: spent / n for name, spent in stages.items()},
        "warm_up": round(warm_up, 2),
        "peak_mib": round(peak, 1),
        "above_start_mib": round(peak - base, 1),
    }


KINDS = {"memory": in_memory, "files": from_files, "components": of_components}


def run_here(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job in this process; return its own keys and its results."""
    if job.get("kind") not in KINDS:
        raise ValueError(f"kind is {job.get('kind')!r}, expected one of {', '.join(KINDS)}")
    return {**job, **KINDS[job["kind"]](job)}


def main() -> None:
    job = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity") and "core" in job:
        os.sched_setaffinity(0, {job["core"]})
    torch.set_num_threads(1)
    print(json.dumps(run_here(job)))


if __name__ == "__main__":
    main()
