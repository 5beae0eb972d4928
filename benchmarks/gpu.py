"""How fast is it on a GPU, and how far from what the device can do?

    python -m benchmarks.gpu [--device cuda] [--tasks fit posterior predict simulate]
        [--sizes 64 128 256] [--batches 64 256 1024 4096] [--no-compile] [--quick]

It validates first: on the device the renderer's pixels, fits, posteriors and the network's draws
must be those of the CPU, and compiled fits those of eager ones, to a stated fraction of the quoted
errors (only the order of float32 sums may differ). Then it measures the device itself (a copy, a
triad, matrix products, an empty op) and, for every task, cutout size and batch size, the galaxies a
second (wall time including synchronisation, with galaxies in main memory at the start and results
there at the end), the peak memory of the device, and the fraction of the measured bandwidth and
flops. Bytes, flops and ops a galaxy are counted in software, see `gpu_roof.Count`; "bytes at least"
is data, weights and transfer function read once an evaluation, as a perfect kernel would do. A
batch that takes longer than --seconds ends its row. For the fit, compiled kernels are timed too;
the time of compiling is reported apart.

Galaxies are hybridfit's own simulations; neither ../shared nor GalSim is needed. Without CUDA it
says so, checks itself on the CPU (`--device cpu --quick`) and exits with 0. The result goes to
results/gpu_<device>.json; that of a CPU or a quick run only where --name asks for it.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import hybridfit as hf
from benchmarks.gpu_roof import counted, roofs, seconds_of
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.posterior import packaged_estimator, predict_cutouts
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.rendering.grid import grid_of
from hybridfit.rendering.render import render
from hybridfit.simulation.options import FieldOptions
from hybridfit.simulation.simulate import SimulateOptions, simulate, simulate_fields
from validation.common import BENCHMARK_RESULTS, write_result

TASKS = ("fit", "posterior", "predict", "simulate")
DISTINCT = 64  # galaxies drawn; larger batches are these again with new noise
DRAWS = 256  # of the network's posterior
POSTERIOR = ErrorOptions("posterior")
# largest |device - CPU|, of pixels over the peak, of parameters over their errors. The tolerance of
# the fit alone allows .07 sigma; weighted draws have few effective ones.
PIXELS, FITTED, WEIGHTED, DRAWN = 2e-5, 0.1, 0.2, 0.02


def galaxies(n: int, side: int, seed: int = 0) -> hf.Cutouts:
    """Return n noisy galaxies of S/N 20-1000 with different ids, on the CPU."""
    options = SimulateOptions(shape=(side, side), snr=(20, 1000))
    few, _ = simulate(min(n, DISTINCT), seed, options)
    if n <= len(few):
        return few
    rows = [i % len(few) for i in range(n)]
    many = few[rows]
    noise = torch.randn(many.image.shape, generator=torch.Generator().manual_seed(seed))
    image = many.image + many.sigma * noise / 3  # a little more noise, so that no galaxy is a copy
    return replace(many, image=image, sigma=many.sigma * math.hypot(1, 1 / 3), id=list(range(n)))


def fit(cutouts: hf.Cutouts, device: torch.device, compile: bool = False) -> Any:
    """Fits from moments with their covariances."""
    return fit_cutouts(cutouts, FitOptions(), device, compile)


def posterior(cutouts: hf.Cutouts, device: torch.device) -> Any:
    """The default of `hybridfit fit`: network, fit, weighted draws and error budget."""
    return measure(cutouts, FitOptions(), device, False, POSTERIOR, packaged_estimator())


def predict(cutouts: hf.Cutouts, device: torch.device) -> Any:
    """The network's posterior."""
    return predict_cutouts(cutouts, packaged_estimator(), DRAWS, device=device)


def simulated_fields(n: int, side: int, device: torch.device) -> Any:
    """Simulate training fields of one size; they stay on the device."""
    options = FieldOptions(sides=(side,), psf_size=min(61, side - 3 + side % 2))
    return simulate_fields(n, 1, options, device=device)


def work_of(task: str, n: int, side: int, device: torch.device) -> Callable[[], Any]:
    """Return the task as a call without arguments, with its galaxies already made."""
    if task == "simulate":
        return lambda: simulated_fields(n, side, device)
    cutouts = galaxies(n, side)
    call = {"fit": fit, "posterior": posterior, "predict": predict}[task]
    return lambda: call(cutouts, device)


def validate(device: torch.device, n: int, side: int, compile: bool) -> dict[str, Any]:
    """Largest differences between device and CPU; raises SystemExit where one is too large."""
    cutouts, cpu = galaxies(n, side), torch.device("cpu")
    here, there = fit(cutouts, cpu), fit(cutouts, device)
    theta, space = here.theta, ParameterSpace()
    truth = render(theta, cutouts, space)
    there_pixels = render(theta.to(device), cutouts.to(device), space).cpu()
    peak = truth.abs().amax(dim=(1, 2), keepdim=True)
    report = {
        "pixels over the peak": (float(((there_pixels - truth) / peak).abs().max()), PIXELS),
        "fits over their errors": (_apart(there.theta, theta, here.error), FITTED),
        "errors, relative": (float((there.error / here.error - 1).abs().max()), FITTED),
    }
    if compile:
        other = fit(cutouts, device, compile=True)
        report["compiled fits"] = (_apart(other.theta, there.theta, here.error), FITTED)
    one, two = posterior(cutouts, cpu), posterior(cutouts, device)
    assert one.draws is not None
    assert two.draws is not None
    means = [_mean(r.draws.samples, r.draws.weights) for r in (one, two)]
    report["posterior means over their errors"] = (_apart(*means, one.fit.error), WEIGHTED)
    one, two = predict(cutouts, cpu), predict(cutouts, device)
    spread = one.samples.std(dim=1, keepdim=True)
    report["network's draws over their scatter"] = (
        float(_wrapped((two.samples - one.samples), 6).div(spread).abs().quantile(0.99)),
        DRAWN,
    )
    made = simulated_fields(n, side, device).cutouts
    empty = int((~torch.isfinite(made.image)).sum()) + int((made.mask.flatten(1).all(1)).sum())
    report["fields not finite or empty"] = (float(empty), 0.5)
    wrong = [f"{name}: {v:.3g} > {most}" for name, (v, most) in report.items() if not v <= most]
    if wrong:
        sys.exit(f"{device} does not agree with the CPU: {'; '.join(wrong)}")
    return {name: f"{value:.2g} (at most {most})" for name, (value, most) in report.items()}


def _mean(samples: Tensor, weights: Tensor) -> Tensor:
    """Weighted means (B, P); angles about the first draw."""
    about = samples[:, :1]
    offset = _wrapped(samples - about, 6).nan_to_num()
    return about[:, 0] + (weights[..., None] * offset).sum(dim=1) / weights.sum(1, keepdim=True)


def _wrapped(offset: Tensor, column: int) -> Tensor:
    """Offsets (..., P) with the angle's in [-90, 90)."""
    offset = offset.clone()
    offset[..., column] = (offset[..., column] + 90) % 180 - 90
    return offset


def _apart(one: Tensor, two: Tensor, error: Tensor) -> float:
    return float((_wrapped(one - two, 6) / error).abs().max())


def least_bytes(cutouts: hf.Cutouts, evaluations: float) -> float:
    """Bytes a galaxy that a fit cannot do without: its arrays once an evaluation."""
    grid = grid_of(cutouts[:1], torch.float32)
    modes = 2 * grid.kx.shape[0] * grid.ky.shape[1]  # real and imaginary part
    return 4 * evaluations * (2 * cutouts.image[0].numel() + modes)


def demand(task: str, n: int, side: int, device: torch.device) -> dict[str, float]:
    """Bytes, flops and ops of a batch, a galaxy's share."""
    work = work_of(task, n, side, device)
    count = counted(work)
    report = {
        "counted on a batch of": float(n),
        "MB a galaxy": count.bytes / n / 1e6,
        "MFLOP a galaxy": count.flops / n / 1e6,
        "ops a batch": float(count.ops),
    }
    if task == "fit":
        cutouts = galaxies(n, side)
        evaluations = float(fit(cutouts, device).n_iter.double().mean())
        report["evaluations a galaxy"] = evaluations
        report["MB a galaxy at least"] = least_bytes(cutouts, evaluations) / 1e6
    return {name: float(f"{value:.4g}") for name, value in report.items()}


def point(
    task: str, n: int, side: int, device: torch.device, roof: dict[str, float]
) -> dict[str, float]:
    """Return one line: time, memory, and fractions of what the device can do."""
    work = work_of(task, n, side, device)
    needed = demand(task, n, side, device)  # warms up, too
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of(work, device)
    rates = {
        "GB/s as counted": needed["MB a galaxy"] * n / seconds / 1e3,
        "GFLOP/s as counted": needed["MFLOP a galaxy"] * n / seconds / 1e3,
    }
    return {
        "galaxies/s": float(f"{n / seconds:.4g}"),
        "ms": float(f"{1e3 * seconds:.4g}"),
        "peak MiB": _peak(device),
        **needed,
        "us an op": float(f"{1e6 * seconds / needed['ops a batch']:.3g}"),
        "share of copy bandwidth": float(f"{rates['GB/s as counted'] / roof['copy GB/s']:.3g}"),
        "share of float32 product": float(
            f"{rates['GFLOP/s as counted'] / roof['matrix product float32 GFLOP/s']:.3g}"
        ),
    }


def _peak(device: torch.device) -> int:
    """MiB: of the device's allocator, or on a CPU the whole process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def compiled_fit(n: int, side: int, device: torch.device) -> dict[str, float]:
    """The compiled fit, its first call apart."""
    cutouts = galaxies(n, side)
    first = seconds_of(lambda: fit(cutouts, device, compile=True), device)
    seconds = seconds_of(lambda: fit(cutouts, device, compile=True), device, 2)
    return {
        "galaxies/s": float(f"{n / seconds:.4g}"),
        "first call s": round(first, 1),
        "peak MiB": _peak(device),
    }


def name_of(device: torch.device) -> str:
    """Return the device's name, for print and file names."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 1024, 4096])
    parser.add_argument("--seconds", type=float, default=20, help="a batch ends its row")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one small size, to see it work")
    parser.add_argument("--name", help="of the file in results/; default gpu_<device>")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: a quick check on the CPU instead, nothing is recorded")
        given.device, given.quick = "cpu", True
    if given.quick:
        given.sizes, given.batches, given.no_compile = [32], [4, 16], True
    return given


def main() -> None:
    given = parsed()
    device = torch.device(given.device)
    torch.set_num_threads(1)
    compile = not given.no_compile
    figures: dict[str, Any] = {"device": name_of(device), "torch CUDA": torch.version.cuda or "-"}
    figures["agreement"] = validate(device, 8 if given.quick else 64, given.sizes[0], compile)
    roof = figures["roofs"] = roofs(device, given.quick)
    print({key: figures[key] for key in ("device", "agreement", "roofs")}, flush=True)
    for task in given.tasks:
        for side in given.sizes:
            rows = figures.setdefault(task, {}).setdefault(f"{side} pixels", {})
            for n in given.batches:
                found = try_point(lambda t=task, b=n, s=side: point(t, b, s, device, roof))
                rows[f"batch {n}"] = found
                print(task, side, n, found, flush=True)
                if isinstance(found, str) or found["ms"] > 1e3 * given.seconds:
                    break
                if task == "fit" and compile:
                    also = try_point(lambda b=n, s=side: compiled_fit(b, s, device))
                    rows[f"batch {n}, compiled"] = also
                    print(task, side, n, "compiled", also, flush=True)
        if given.name or (device.type == "cuda" and not given.quick):
            # written after each task: a time limit later loses nothing
            safe = "".join(c if c.isalnum() else "_" for c in name_of(device)).lower()
            name = given.name or f"gpu_{safe}"
            print(write_result(name, figures, BENCHMARK_RESULTS), flush=True)


def try_point(measure: Callable[[], dict[str, float]]) -> dict[str, float] | str:
    """Return a line, or "out of memory" where the batch does not fit."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"


if __name__ == "__main__":
    main()
