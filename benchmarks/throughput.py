"""How fast is the fit, compared with pyimfit and a plain scipy fitter?

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.throughput [--others 20] [--no-compile]

All fit the galaxies of ../shared/data/sims/main.npz, or simulated ones (128 x 128, S/N 20-1000)
where it is missing, from the same initial values on the same core. The script validates first
(failures, pulls), then gives CPU seconds a galaxy of the fit alone, without the start of Python,
compiling and reading files. pyimfit (its default Levenberg-Marquardt) and scipy get our initial
values at no cost; their cost is measured on the first OTHERS galaxies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pyimfit
import torch
from numpy.typing import NDArray
from scipy import fft, optimize, special

import hybridfit as hf
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.moments import moment_start
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.simulation.simulate import SimulateOptions, simulate
from validation.common import BENCHMARK_RESULTS, NAMES, SIMS, load_sims, quality, write_result

Array = NDArray[np.float64]


def galaxies(n: int) -> tuple[hf.Cutouts, Array, str]:
    """Cutouts and truth (B, 7), and where they are from."""
    if SIMS.is_dir():
        cutouts, truth, _ = load_sims("main", slice(0, n))
        return cutouts, truth, "sims/main.npz"
    cutouts, table = simulate(n, options=SimulateOptions(shape=(128, 128), snr=(20, 1000)))
    return cutouts, np.stack([np.asarray(table[k], float) for k in NAMES], axis=1), "own simulator"


def starts(cutouts: hf.Cutouts) -> Array:
    """Our starting values (B, 7) in physical parameters; the magnitude from nothing better."""
    sky = sky_level(cutouts)
    reach = torch.full((len(cutouts),), 30.0, dtype=torch.float64)
    coords = moment_start(cutouts, sky, nominal_centre(cutouts), reach)
    linear = torch.ones(len(cutouts), 2, dtype=torch.float64)
    theta, _ = ParameterSpace().to_physical(coords, linear, cutouts.zeropoint)
    return theta[:, :7].numpy()


def fit_pyimfit(image: Array, sigma: Array, psf: Array, start: Array) -> Array:
    """One galaxy by pyimfit's default: best x, y, mag (nan), r_eff, n, q, pa."""
    x, y, _, r_eff, n, q, pa = start
    model = pyimfit.SimpleModelDescription()
    model.x0.setValue(x + 1, [x - 15, x + 17])
    model.y0.setValue(y + 1, [y - 15, y + 17])
    sersic = pyimfit.make_imfit_function("Sersic")
    sersic.PA.setValue(pa, [-180, 360])
    sersic.ell.setValue(1 - q, [0, 0.98])
    sersic.n.setValue(n, [0.2, 10])
    sersic.r_e.setValue(r_eff, [0.05, 100])
    sersic.I_e.setValue(max(float(image.max()) / 5, 1e-9), [0, 1e9])
    sky = pyimfit.make_imfit_function("FlatSky")
    sky.I_sky.setValue(0.0, [-1e6, 1e6])
    model.addFunction(sersic)
    model.addFunction(sky)
    fitter = pyimfit.Imfit(model, psf=psf)
    fitter.maxThreads = 1
    fitter.fit(image, error=sigma, error_type="sigma", verbose=-1)
    x1, y1, angle, ell, index, _, size, _ = fitter.getRawParameters()
    return np.array([x1 - 1, y1 - 1, np.nan, size, index, 1 - ell, angle])


def fit_scipy(image: Array, sigma: Array, psf: Array, start: Array) -> Array:
    """One galaxy by scipy.optimize.least_squares: the usual script, pixel centres but for the
    middle 11 x 11 at 5 x 5, convolved by FFT on the image's own grid."""
    height, width = image.shape
    sides = zip(image.shape, psf.shape, strict=True)
    shape = [fft.next_fast_len(side + other - 1, real=True) for side, other in sides]
    kernel = fft.rfft2(psf, shape)
    half = psf.shape[0] // 2
    yy, xx = np.mgrid[:height, :width].astype(float)
    fine = (np.arange(5) - 2) / 5

    def profile(p: Array, x: Array, y: Array) -> Array:
        x0, y0, _, log_r, log_n, ell, angle, _ = p
        n, q, pa = np.exp(log_n), 1 - ell, np.deg2rad(angle)
        b = special.gammaincinv(2 * n, 0.5)
        u = -(x - x0) * np.sin(pa) + (y - y0) * np.cos(pa)
        v = (x - x0) * np.cos(pa) + (y - y0) * np.sin(pa)
        r = np.sqrt(u**2 + (v / q) ** 2) / np.exp(log_r)
        return np.exp(-b * (r ** (1 / n) - 1))

    def residual(p: Array) -> Array:
        model = profile(p, xx, yy)
        cx, cy = int(np.clip(p[0], 6, width - 7)), int(np.clip(p[1], 6, height - 7))
        box = np.s_[cy - 5 : cy + 6, cx - 5 : cx + 6]
        x = xx[box][..., None, None] + fine
        y = yy[box][..., None, None] + fine[:, None]
        model[box] = profile(p, x, y).mean(axis=(2, 3))
        full = fft.irfft2(fft.rfft2(model * np.exp(p[2]), shape) * kernel, shape)
        model = full[half : half + height, half : half + width] + p[7]
        return ((image - model) / sigma).ravel()

    x, y, _, r_eff, n, q, pa = start
    level = np.log(max(float(image.max()) / 5, 1e-9))
    first = np.array([x, y, level, np.log(r_eff), np.log(n), min(1 - q, 0.9), pa, 0.0])
    low = np.array([0, 0, -50, np.log(0.05), np.log(0.2), 0.0, -720, -np.inf])
    high = np.array([width, height, 50, np.log(100), np.log(10), 0.98, 720, np.inf])
    best = optimize.least_squares(residual, first, bounds=(low, high), x_scale="jac").x
    x0, y0, _, log_r, log_n, ell, angle, _ = best
    return np.array([x0, y0, np.nan, np.exp(log_r), np.exp(log_n), 1 - ell, angle])


def time_one_by_one(
    fit: Callable[..., Array], cutouts: hf.Cutouts, first: Array, n: int
) -> tuple[float, Array]:
    """CPU seconds a galaxy over the first n, and the results."""
    assert cutouts.psf is not None
    arrays = [a.double().numpy() for a in (cutouts.image, cutouts.sigma, cutouts.psf)]
    results = []
    begin = time.process_time()
    for i in range(n):
        results.append(fit(*(np.ascontiguousarray(a[i]) for a in arrays), first[i]))
    return (time.process_time() - begin) / n, np.array(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="galaxies for hybridfit")
    parser.add_argument("--others", type=int, default=20, help="galaxies for the other tools")
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cutouts, truth, source = galaxies(args.n)
    first = starts(cutouts)
    figures: dict[str, object] = {"galaxies": f"{len(cutouts)} of {source}, 128 x 128, one core"}
    seconds: dict[str, float] = {}
    for name, compiled in (("hybridfit eager", False), ("hybridfit compiled", True)):
        if compiled and args.no_compile:
            continue
        fit_cutouts(cutouts[:8], FitOptions(), compile=compiled)  # compiles, warms up
        begin = time.process_time()
        fit = fit_cutouts(cutouts, FitOptions(), compile=compiled)
        seconds[name] = (time.process_time() - begin) / len(cutouts)
        figures[f"{name}: quality"] = quality(
            fit.theta[:, :7].numpy(), fit.error[:, :7].numpy(), truth
        )
    for name, tool in (("pyimfit", fit_pyimfit), ("scipy", fit_scipy)):
        n = min(args.others, len(cutouts))
        seconds[name], values = time_one_by_one(tool, cutouts, first, n)
        off = np.abs(np.log(values[:, 3] / truth[:n, 3])) > np.log(2)
        figures[f"{name}: size off by 2x"] = f"{int(off.sum())} of {n}"
    figures["CPU seconds a galaxy"] = {k: round(v, 5) for k, v in seconds.items()}
    figures["ratios"] = {
        f"{other} / {mine}": round(seconds[other] / seconds[mine], 1)
        for mine in seconds
        if mine.startswith("hybridfit")
        for other in ("pyimfit", "scipy")
    }
    for key, value in figures.items():
        print(f"{key}: {value}")
    print(write_result("throughput", figures, BENCHMARK_RESULTS))


if __name__ == "__main__":
    main()
