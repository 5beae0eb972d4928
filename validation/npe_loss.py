"""Where does the posterior network lose against the Laplace limit?

    OMP_NUM_THREADS=1 python -m validation.npe_loss [--weights NAME=FOLDER ...] [--n 8192]

It simulates fields that no training run has seen. For each network it gives the mean NLL of the
true parameters, with and without the views, by kind of contaminant, and for fields whose only
contaminant is a mask the gap to the Laplace limit in nats (`laplace_limit`: 1/2 ln det 2 pi e C at
the truth, for 8 parameters), by signal to noise, size, index, axis ratio, PSF, cutout and sky. One
galaxy's gap scatters by 2 nats even for a perfect network, so differences between networks are
taken galaxy by galaxy and given with their errors. Below S/N 30 posteriors are not Gaussian and the
limit is not a bound.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.simulation.options import Kind, SimulatedFields
from hybridfit.simulation.simulate import simulate_fields
from hybridfit.training.data import in_parts, shard_of
from hybridfit.training.recipe import Recipe
from hybridfit.training.validation import LIMITED_AT_ONCE, laplace_limit, nll_of
from validation.common import ROOT, write_result

SEED = 91_000  # of the fields; no training run has these
AT_ONCE = 1024
ONLY_MASKED = int(Kind.MASK_THROUGH)
EDGES: dict[str, tuple[float, ...]] = {
    "S/N": (0, 10, 30, 100, 300, math.inf),
    "r_eff [pix]": (0, 0.7, 1.5, 3, 6, 12, math.inf),
    "r_eff / PSF FWHM": (0, 0.2, 0.5, 1, 2, math.inf),
    "n": (0, 0.5, 1, 2, 4, math.inf),
    "q": (0, 0.2, 0.4, 0.6, 0.8, 1.01),
    "PSF FWHM [pix]": (0, 2, 3, 4.5, 6, math.inf),
    "cutout [pix]": (32, 48, 64, 96, 128, math.inf),
    "cutout / r_eff": (0, 4, 6, 9, 13, math.inf),
    "|sky| [sigma]": (0, 0.01, 10, 100, math.inf),
}


def properties(simulated: SimulatedFields) -> dict[str, Tensor]:
    """Return the properties by which the galaxies are binned."""
    r_eff, side = simulated.theta[:, 3], simulated.cutouts.size.amin(dim=1).double()
    sigma = simulated.cutouts.sigma.masked_fill(simulated.cutouts.mask, torch.inf)
    return {
        "S/N": simulated.snr,
        "r_eff [pix]": r_eff,
        "r_eff / PSF FWHM": r_eff / simulated.psf_fwhm,
        "n": simulated.theta[:, 4],
        "q": simulated.theta[:, 5],
        "PSF FWHM [pix]": simulated.psf_fwhm,
        "cutout [pix]": side,
        "cutout / r_eff": side / r_eff,
        "|sky| [sigma]": simulated.theta[:, 7].abs() / sigma.flatten(1).amin(dim=1).double(),
    }


def measured(
    networks: dict[str, Estimator], n: int, limited: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return NLL with and without ("NAME, scalars") views; properties and limits."""
    recipe = Recipe.read(ROOT / "configs" / "train.yaml")
    nll: dict[str, list[Tensor]] = {}
    known: dict[str, list[Tensor]] = {}
    for k in range(-(-n // AT_ONCE)):
        simulated = simulate_fields(AT_ONCE, SEED + k, recipe.simulator, recipe.prior)
        for name, network in networks.items():
            shard = shard_of(simulated, initial_estimator=network.initial_estimator)
            for label, views in ((name, True), (f"{name}, scalars", False)):
                nll.setdefault(label, []).append(nll_of(network, shard, views).double())
        limit = torch.full((len(simulated),), math.nan, dtype=torch.float64)
        clean = ((simulated.kind & ~ONLY_MASKED) == 0).nonzero()[:, 0]
        model = GalaxyModel(prior=recipe.prior)
        for part in in_parts(len(clean) if limited else 0, LIMITED_AT_ONCE):
            some = simulated[clean[part].tolist()]
            limit[clean[part]] = laplace_limit(some.theta, some.cutouts, model)
        found = {**properties(simulated), "kind": simulated.kind, "limit": limit}
        for label, value in found.items():
            known.setdefault(label, []).append(value)
    return (
        {name: torch.cat(v) for name, v in nll.items()},
        {name: torch.cat(v) for name, v in known.items()},
    )


def mean_and_error(values: Tensor, per: int = 4) -> tuple[float, float]:
    """Return mean and error; galaxies come in groups of four exposures of one."""
    return float(values.mean()), float(values.std() * (per / max(len(values), 2)) ** 0.5)


def line(nll: dict[str, Tensor], rows: Tensor, limit: Tensor | None) -> dict[str, Any]:
    """Return one line: NLL, or gap to the limit, of each network, and their differences."""
    found: dict[str, Any] = {"galaxies": int(rows.sum())}
    names = list(nll)
    for name in names:
        value = nll[name][rows] - (0.0 if limit is None else limit[rows])
        mean, error = mean_and_error(value)
        found[name] = round(mean, 3)
        found[f"{name}, error"] = round(error, 3)
        if name != names[0]:
            gain, error = mean_and_error((nll[names[0]] - nll[name])[rows])
            found[f"{name} gains"] = [round(gain, 3), round(error, 3)]
    return found


def tables(nll: dict[str, Tensor], known: dict[str, Tensor]) -> dict[str, Any]:
    """Return the NLL by kind of field, and the gap to the limit by property of clean galaxies."""
    kind, limit = known["kind"], known["limit"]
    kinds = {"all": torch.ones_like(kind, dtype=torch.bool), "clean": kind == 0}
    kinds["difficult"] = ~kinds["clean"]
    kinds |= {k.name.lower(): (kind & int(k)) != 0 for k in Kind if k and k.name}
    found: dict[str, Any] = {"NLL": {name: line(nll, rows, None) for name, rows in kinds.items()}}
    bright = kinds["difficult"] & (known["S/N"] > 300)
    found["NLL"]["difficult, S/N > 300"] = line(nll, bright, None)
    usable = torch.isfinite(limit)
    gaps = {"all": line(nll, usable, limit)}
    for label, edges in EDGES.items():
        for low, high in pairwise(edges):
            rows = usable & (known[label] >= low) & (known[label] < high)
            if rows.sum() >= 8:
                gaps[f"{label} {low:g}-{high:g}"] = line(nll, rows, limit)
    found["gap to the limit"] = gaps
    return found


def show(found: dict[str, Any]) -> None:
    for title, lines in found.items():
        names = [k for k in next(iter(lines.values())) if k != "galaxies" and "error" not in k]
        print(f"\n{title}\n{'':28s}{'galaxies':>9s}" + "".join(f"{n:>26s}" for n in names))
        for label, values in lines.items():
            cells = []
            for name in names:
                value = values[name]
                text = "{:+.3f} +- {:.3f}".format(*value) if isinstance(value, list) else value
                cells.append(f"{text:>26}")
            print(f"{label:28s}{values['galaxies']:9d}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--weights",
        nargs="*",
        default=[],
        metavar="NAME=FOLDER",
        help="networks to compare",
    )
    parser.add_argument("--n", type=int, default=8192, help="fields")
    parser.add_argument("--name", default="npe_loss", help="of the result file")
    parser.add_argument("--out", type=Path, help="folder of the result file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folders = dict(pair.split("=", 1) for pair in given.weights)
    networks = {name: load_estimator(folder) for name, folder in folders.items()}
    networks["shipped"] = load_estimator()
    nll, known = measured(networks, given.n)
    found = tables(nll, known)
    show(found)
    places = [given.out] if given.out else []
    print(write_result(given.name, found, *places))


if __name__ == "__main__":
    main()
