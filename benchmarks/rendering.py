"""How accurate are the model's pixels compared with GalSim, and what do they cost?

    python -m benchmarks.rendering [--n 200]

PSF-convolved, pixel-integrated Sersic galaxies, n .3-6.2, r_eff .3-40 pix, q .1-1, random
sub-pixel centres and position angles, Moffat PSFs of FWHM 2.5-5 pix given as images. GalSim
interpolates the same images with Lanczos(30), as its default, a quintic, is itself off by 3e-3.
Cases with r_eff > 30 pix and n < .6 are excluded and counted: there GalSim is off by up to 4e-3 in
the central pixel, as brute-force quadrature shows.
"""

from __future__ import annotations

import argparse
import time

import galsim
import numpy as np
import torch

import hybridfit as hf
from hybridfit.rendering.render import render
from validation.common import BENCHMARK_RESULTS, write_result

SIZE = 128


def truth(case: dict[str, float], psf: np.ndarray, oversampling: int) -> np.ndarray:
    """GalSim's image of unit flux."""
    fine = galsim.GSParams(
        maximum_fft_size=32768, folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6
    )
    image = galsim.Image(psf.astype(np.float64), scale=1 / oversampling)
    response = galsim.InterpolatedImage(image, x_interpolant=galsim.Lanczos(30), flux=1)
    galaxy = galsim.Sersic(
        n=case["n"], half_light_radius=case["r_eff"] * np.sqrt(case["q"]), gsparams=fine
    ).shear(q=case["q"], beta=(case["pa"] + 90) * galsim.degrees)
    middle = (SIZE - 1) / 2
    both = galsim.Convolve(galaxy, response, gsparams=fine)
    shifted = both.shift(case["x"] - middle, case["y"] - middle)
    return np.asarray(shifted.drawImage(nx=SIZE, ny=SIZE, scale=1, method="auto").array)


def draw(rng: np.random.Generator, oversampling: int) -> tuple[dict[str, float], np.ndarray]:
    """Random galaxy and PSF image."""
    case = {
        "x": 64 + rng.uniform(-0.5, 0.5),
        "y": 64 + rng.uniform(-0.5, 0.5),
        "r_eff": float(np.exp(rng.uniform(np.log(0.3), np.log(40)))),
        "n": float(np.exp(rng.uniform(np.log(0.3), np.log(6.2)))),
        "q": rng.uniform(0.1, 1),
        "pa": rng.uniform(0, 180),
    }
    fwhm = rng.uniform(2.5, 5) if oversampling == 1 else rng.uniform(1.0, 2.0)
    side = 41 * oversampling + 1 - oversampling % 2
    moffat = galsim.Moffat(beta=rng.uniform(2.5, 5), fwhm=fwhm)
    psf = moffat.drawImage(nx=side, ny=side, scale=1 / oversampling, method="no_pixel").array
    return case, psf / psf.sum()


def ours(case: dict[str, float], psf: np.ndarray, oversampling: int) -> np.ndarray:
    """Our image of unit flux, in float32."""
    cutouts = hf.Cutouts(
        image=np.zeros((1, SIZE, SIZE)),
        sigma=np.ones((1, SIZE, SIZE)),
        psf=psf,
        psf_oversampling=oversampling,
    )
    values = [case["x"], case["y"], 0.0, *(case[k] for k in ("r_eff", "n", "q", "pa")), 0.0]
    return render(torch.tensor([values], dtype=torch.float64), cutouts)[0].numpy()


def accuracy(n: int, oversampling: int) -> dict[str, float]:
    """Errors over n random cases."""
    rng = np.random.default_rng(oversampling)
    rows = []
    for _ in range(n):
        case, psf = draw(rng, oversampling)
        if case["n"] < 0.6 and case["r_eff"] > 30:
            continue
        expected = truth(case, psf, oversampling)
        error = np.abs(ours(case, psf, oversampling) - expected)
        rows.append((error.max() / expected.max(), error.sum()))
    peak, total = np.array(rows).T
    limit = 1e-3 if oversampling == 1 else 2e-3
    return {
        "cases": len(rows),
        "excluded, see above": n - len(rows),
        "median peak error": float(np.median(peak)),
        "largest peak error": peak.max(),
        "median sum error": float(np.median(total)),
        "largest sum error": total.max(),
        f"share with both <= {limit}": float(np.mean((peak <= limit) & (total <= limit))),
    }


def cost() -> dict[str, float]:
    """CPU milliseconds of one eager 128 x 128 model, batches of 8."""
    rng = np.random.default_rng(0)
    _, psf = draw(rng, 1)
    cutouts = hf.Cutouts(
        image=np.zeros((8, SIZE, SIZE)), sigma=np.ones((8, SIZE, SIZE)), psf=psf[None]
    )
    theta = torch.tensor([[64.2, 63.7, 0, 6.0, 2.0, 0.6, 40.0, 0.0]], dtype=torch.float64)
    render(theta.expand(8, -1), cutouts)
    start = time.process_time()
    for _ in range(20):
        render(theta.expand(8, -1), cutouts)
    return {"render, eager, ms a galaxy": (time.process_time() - start) / 160 * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="random galaxies a table")
    n = parser.parse_args().n
    torch.set_num_threads(1)
    figures = {
        "well sampled PSF": accuracy(n, 1),
        "undersampled data, PSF oversampled 2x": accuracy(n // 2, 2),
        "undersampled data, PSF oversampled 4x": accuracy(n // 2, 4),
        "cost": cost(),
    }
    for name, table in figures.items():
        print(name)
        for key, value in table.items():
            print(f"    {key:32s} {value:.3g}")
    print(write_result("rendering", figures, BENCHMARK_RESULTS))


if __name__ == "__main__":
    main()
