"""What does the Swin Transformer add to moments, on clean cutouts and on difficult ones?

    OMP_NUM_THREADS=1 python -m validation.ablation --runs FOLDER [--images 250000] [--only both]
    OMP_NUM_THREADS=1 python -m validation.ablation --shipped [--weights FOLDER]

Three networks are trained on the same galaxies in the same order, by the same schedule: moments and
flow, Swin and flow, both. They are compared on simulated fields that none of them saw, galaxy by
galaxy, by kind of contaminant; differences of the mean NLL have their standard errors. With
``--shipped`` the package's network is compared with itself without its views, as it was used in
part of its training. A run that was stopped is resumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.simulation.options import Kind
from hybridfit.training.checkpoint import checkpoints
from hybridfit.training.data import VALIDATION, Shard, SimulatedSource
from hybridfit.training.loop import train
from hybridfit.training.recipe import Recipe
from hybridfit.training.validation import nll_of
from validation.common import ROOT, write_result

VARIANTS: dict[str, dict[str, Any]] = {
    "moments": {"backbone": "none"},
    "swin": {"moments": False},
    "both": {},
}
SEED = 77_000  # of the compared fields; training runs have others
BRIGHT = 30.0


def variant(recipe: Recipe, name: str, images: int) -> Recipe:
    """Return the recipe of one network; those with a backbone see the pixels in every batch."""
    share = (0.0, 0.0) if name == "moments" else (1.0, 1.0)
    network = replace(recipe.network, **VARIANTS[name])
    settings = replace(recipe.train, images=images, image_share=share, tensorboard=False)
    return replace(recipe, network=network, train=settings)


def groups(simulated: Shard) -> dict[str, torch.Tensor]:
    """Return the rows of each kind of field; one with two contaminants is in both."""
    found = {"all": torch.ones(len(simulated), dtype=torch.bool), "clean": simulated.kind == 0}
    found["difficult"] = ~found["clean"]
    for kind in Kind:
        if kind:
            found[kind.name.lower()] = (simulated.kind & int(kind)) != 0
    for name in ("clean", "difficult"):
        found[f"{name}, S/N > {BRIGHT:g}"] = found[name] & (simulated.snr > BRIGHT)
    return found


def compared_fields(recipe: Recipe, n: int, initial_estimator: Estimator | None = None) -> Shard:
    """Simulate fields that no run has seen, as a network with this initial estimator reads them."""
    parts = [
        SimulatedSource(
            recipe.simulator,
            recipe.prior,
            SEED + i,
            2048,
            stream=VALIDATION,
            initial_estimator=initial_estimator,
        )(0)
        for i in range(max(1, n // 2048))
    ]
    return Shard(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Shard)))


def compared(nll: dict[str, torch.Tensor], simulated: Shard, against: str) -> dict[str, Any]:
    """Return the mean NLL of each network and kind, and its gain over ``against``."""
    table: dict[str, Any] = {}
    for group, rows in groups(simulated).items():
        line: dict[str, Any] = {"fields": int(rows.sum())}
        for name, values in nll.items():
            line[name] = round(float(values[rows].mean()), 3)
            if name != against:
                gain = (nll[against] - values)[rows]
                error = float(gain.std() / len(gain) ** 0.5)
                line[f"{name} gains"] = round(float(gain.mean()), 3)
                line[f"{name} gains, error"] = round(error, 3)
        table[group] = line
    return table


def show(table: dict[str, Any]) -> None:
    columns = list(next(iter(table.values())))
    print(f"{'fields':24s}" + "".join(f"{c:>22s}" for c in columns))
    for group, line in table.items():
        print(f"{group:24s}" + "".join(f"{line[c]:22}" for c in columns))


def trained(runs: Path, names: Sequence[str], recipe: Recipe, images: int) -> dict[str, Estimator]:
    """Return the networks of these names, training those that are not trained yet."""
    networks = {}
    for name in names:
        out = runs / name
        if not (out / "weights").is_dir():
            resume = bool(out.is_dir() and checkpoints(out))
            if train(variant(recipe, name, images), out, resume) is None:
                sys.exit("stopped: the same command continues")
        networks[name] = load_estimator(out / "weights")
    return networks


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="folder for the training runs")
    parser.add_argument("--images", type=int, default=250_000)
    parser.add_argument("--only", choices=list(VARIANTS), help="train this one and stop")
    parser.add_argument("--shipped", action="store_true")
    parser.add_argument("--weights", type=Path, help="folder of the network; default the package's")
    parser.add_argument("--fields", type=int, default=6144)
    given = parser.parse_args()
    if not given.shipped and given.runs is None:
        parser.error("expected --runs FOLDER, --shipped or both")
    return given


def main() -> None:
    given = parsed()
    recipe = Recipe.read(ROOT / "configs" / "train.yaml")
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if given.runs is not None:
        names = [given.only] if given.only else list(VARIANTS)
        networks = trained(given.runs, names, recipe, given.images)
        if given.only:
            return
        simulated = compared_fields(recipe, given.fields)
        nll = {name: nll_of(network, simulated) for name, network in networks.items()}
        figures["trained alike"] = {"images": given.images, **compared(nll, simulated, "moments")}
        show({k: v for k, v in figures["trained alike"].items() if k != "images"})
    if given.shipped:
        network = load_estimator(given.weights)
        simulated = compared_fields(recipe, given.fields, network.initial_estimator)
        nll = {
            "views withheld": nll_of(network, simulated, use_views=False),
            "shipped": nll_of(network, simulated),
        }
        figures["shipped"] = compared(nll, simulated, "views withheld")
        show(figures["shipped"])
    print(write_result("ablation", figures))


if __name__ == "__main__":
    main()
