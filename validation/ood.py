"""Which diagnostics notice galaxies unlike those that the network was trained on?

    OMP_NUM_THREADS=1 python -m validation.ood [--weights FOLDER] [--n 400]

Clean simulated galaxies are corrupted in one way at a time: an unmasked bright neighbour, a noise
map off by a factor, a PSF too narrow, a tilted sky, correlated noise, a companion on the galaxy
itself, a hole in its centre. For each corruption it gives the area under the ROC curve of each
diagnostic (distance of the context, reduced chi2 of the fit, distance of fit and flow) against the
same galaxies uncorrupted, the fraction that each flag marks, and the fraction of fits harmed: off
by more than 5 of their own errors in mag, r_eff, n or q, and of those the fraction without a flag.
The first line, of uncorrupted galaxies, shows how often a flag is raised without cause; the limits
of context and disagreement were set there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import hybridfit as hf
from hybridfit.data.flags import Flag
from hybridfit.data.result import Quality
from hybridfit.fitting.options import FitOptions
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.pipeline.measure import measure, starting_part
from hybridfit.pipeline.network_start import expectation
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.simulation.options import CLEAN, SimulatedFields
from hybridfit.simulation.simulate import simulate_fields
from hybridfit.uncertainty.consistency import MAX_DISAGREEMENT, disagreement
from validation.common import write_result

NETWORK_FLAGS = Flag.UNFAMILIAR | Flag.DISAGREES | Flag.POOR_FIT
BUDGET = Flag.MISFIT | Flag.PSF_DOUBTFUL  # raised by the posterior's error budget
TRUST = NETWORK_FLAGS | BUDGET | Flag.UNCERTAIN
NAMED = (
    Flag.UNFAMILIAR,
    Flag.POOR_FIT,
    Flag.DISAGREES,
    Flag.UNCERTAIN,
    Flag.MISFIT,
    Flag.PSF_DOUBTFUL,
)
HARMED = 5.0
OPTIONS = FitOptions(compile="off")
Corruption = Callable[[SimulatedFields], hf.Cutouts]


def noise_of(simulated: SimulatedFields) -> torch.Tensor:
    return simulated.cutouts.sigma.flatten(1).median(dim=1).values[:, None, None]


def grid(simulated: SimulatedFields) -> tuple[torch.Tensor, torch.Tensor]:
    side = simulated.cutouts.image.shape[-1]
    line = torch.arange(side, dtype=torch.float32)
    return line[None, None, :], line[None, :, None]


def with_image(simulated: SimulatedFields, image: torch.Tensor) -> hf.Cutouts:
    return replace(simulated.cutouts, image=image)


def as_they_are(simulated: SimulatedFields) -> hf.Cutouts:
    return simulated.cutouts


def neighbour(simulated: SimulatedFields, distance: float = 14.0, share: float = 1.0) -> hf.Cutouts:
    """Add another galaxy of the set at ``distance`` pixels, as bright, with its sky subtracted."""
    other = (
        simulated.cutouts.image.roll(1, 0) - simulated.theta[:, 7].float().roll(1)[:, None, None]
    )
    scale = noise_of(simulated) / noise_of(simulated).roll(1, 0)
    scale = scale * share * (simulated.snr / simulated.snr.roll(1)).float()[:, None, None]
    # blurred a little, so that its noise is not what is noticed
    kernel = torch.ones(1, 1, 3, 3) / 9
    smooth = functional.conv2d(other[:, None], kernel, padding=1)[:, 0]
    shift = round(distance / 2**0.5)
    return with_image(
        simulated, simulated.cutouts.image + scale * smooth.roll((shift, shift), (1, 2))
    )


def companion(simulated: SimulatedFields) -> hf.Cutouts:
    return neighbour(simulated, 4.0, 0.4)


def noise_times(factor: float) -> Corruption:
    """Return a corruption that multiplies the noise map by ``factor``."""
    return lambda simulated: replace(simulated.cutouts, sigma=simulated.cutouts.sigma * factor)


def psf_narrower(by: float) -> Corruption:
    """Return a corruption that makes the PSF narrower by the fraction ``by``."""

    def corrupt(simulated: SimulatedFields) -> hf.Cutouts:
        psf = simulated.cutouts.psf
        assert psf is not None
        affine = torch.tensor([[1 / (1 - by), 0.0, 0.0], [0.0, 1 / (1 - by), 0.0]])
        where = functional.affine_grid(
            affine.expand(len(psf), 2, 3), [len(psf), 1, *psf.shape[1:]], align_corners=True
        )
        narrow = functional.grid_sample(psf[:, None], where, mode="bicubic", align_corners=True)
        narrow = narrow[:, 0]
        return replace(simulated.cutouts, psf=narrow / narrow.sum(dim=(1, 2), keepdim=True))

    return corrupt


def tilted_sky(simulated: SimulatedFields) -> hf.Cutouts:
    """Add a slope of 4 sigma over the cutout."""
    x, _ = grid(simulated)
    return with_image(
        simulated, simulated.cutouts.image + 4 * noise_of(simulated) * (x / x.amax() - 0.5)
    )


def correlated(simulated: SimulatedFields) -> hf.Cutouts:
    """Add as much noise again, correlated between neighbouring pixels as by drizzling."""
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(simulated.cutouts.image.shape, generator=generator)
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel)[None, None]
    noise = functional.conv2d(white[:, None], kernel / kernel.norm(), padding=1)[:, 0]
    image = simulated.cutouts.image + noise * simulated.cutouts.sigma
    return replace(simulated.cutouts, image=image, sigma=simulated.cutouts.sigma * 2**0.5)


def hollow(simulated: SimulatedFields) -> hf.Cutouts:
    """Halve the light within 2.5 pixels of the centre, as by dust or saturation."""
    x, y = grid(simulated)
    centre = simulated.theta[:, :2].float()
    distance = (x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2
    sky = simulated.theta[:, 7].float()[:, None, None]
    dimmed = sky + (simulated.cutouts.image - sky) / 2
    return with_image(simulated, torch.where(distance < 2.5**2, dimmed, simulated.cutouts.image))


CORRUPTIONS: dict[str, Corruption] = {
    "as they are": as_they_are,
    "neighbour as bright, 14 pix": neighbour,
    "companion of .4, 4 pix": companion,
    "noise map x 1.5": noise_times(1.5),
    "noise map x .67": noise_times(0.67),
    "PSF 5 % too narrow": psf_narrower(0.05),
    "PSF 15 % too narrow": psf_narrower(0.15),
    "PSF 30 % too narrow": psf_narrower(0.30),
    "tilted sky": tilted_sky,
    "correlated noise": correlated,
    "dark centre": hollow,
}


def area(corrupted: np.ndarray, plain: np.ndarray) -> float:
    """Return the area under the ROC curve: chance that a corrupted galaxy has the larger value."""
    one, other = (v[np.isfinite(v)] for v in (corrupted, plain))
    above = (one[:, None] > other[None]).mean() + 0.5 * (one[:, None] == other[None]).mean()
    return round(float(above), 3)


def measured(
    cutouts: hf.Cutouts, simulated: SimulatedFields, estimator: Estimator, uncertainty: str
) -> dict[str, np.ndarray]:
    draws = expectation(cutouts, starting_part(estimator, uncertainty))
    errors = ErrorOptions(uncertainty)
    result = measure(cutouts, OPTIONS, torch.device("cpu"), errors=errors, estimator=estimator)
    fit = result.fit
    pull = ((fit.theta - simulated.theta) / fit.error)[:, 2:6].abs().amax(dim=1)
    return {
        "context": draws.diagnostics.distance.numpy(),
        "chi2": (fit.chi2 / fit.dof).numpy(),
        "disagreement": disagreement(fit, draws.coords, draws.linear, cutouts.zeropoint).numpy(),
        "pull": pull.nan_to_num(np.inf).numpy(),
        "flags": fit.flags.numpy(),
        "quality": result.quality.numpy(),
    }


def summary(here: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> dict[str, Any]:
    diagnostics = ("context", "chi2", "disagreement")
    harmed = here["pull"] > HARMED
    flagged = (here["flags"] & int(TRUST)) != 0
    return {
        **{f"AUC {name}": area(here[name], plain[name]) for name in diagnostics},
        **{
            str(flag.name): round(float(((here["flags"] & int(flag)) != 0).mean()), 3)
            for flag in NAMED
        },
        "any of the three": round(float(((here["flags"] & int(NETWORK_FLAGS)) != 0).mean()), 3),
        "flagged": round(float(flagged.mean()), 3),
        "harmed": round(float(harmed.mean()), 3),
        "certified": round(float((here["quality"] == int(Quality.CERTIFIED)).mean()), 3),
        "harmed, certified": round(
            float((harmed & (here["quality"] == int(Quality.CERTIFIED))).mean()), 3
        ),
        "harmed, no flag": round(float((harmed & ~flagged).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="instead of the package's")
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--uncertainty", default="posterior", help="or covariance, bootstrap")
    given = parser.parse_args()
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    simulated = simulate_fields(
        given.n, 991, replace(CLEAN, sides=(64,), reuse=1, snr=(20.0, 500.0))
    )
    plain = measured(simulated.cutouts, simulated, estimator, given.uncertainty)
    for name in ("context", "disagreement"):
        levels = np.nanquantile(plain[name], [0.5, 0.9, 0.99, 0.995])
        print(f"{name}: quantiles .5 .9 .99 .995 of galaxies as they are: {levels.round(2)}")
    print(f"limits: context {float(estimator.distance_limit):.2f}, fit-flow {MAX_DISAGREEMENT}")
    figures: dict[str, Any] = {"errors": given.uncertainty, "galaxies": given.n, "S/N": [20, 500]}
    for name, corrupt in CORRUPTIONS.items():
        here = (
            plain
            if name == "as they are"
            else measured(corrupt(simulated), simulated, estimator, given.uncertainty)
        )
        figures[name] = summary(here, plain)
        print(f"{name:28}" + "  ".join(f"{k} {v:.2f}" for k, v in figures[name].items()))
    print(write_result("ood", figures))


if __name__ == "__main__":
    main()
