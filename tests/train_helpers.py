"""Small galaxies, small networks and sources of data that tests of training share."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hybridfit.model.prior import Prior
from hybridfit.npe.network import Estimator
from hybridfit.simulation.options import FieldOptions
from hybridfit.training.data import Shard, SimulatedSource
from hybridfit.training.learner import Learner, make_optimiser
from hybridfit.training.recipe import Recipe

# clean galaxies on small stamps: quick to simulate, and little to learn
SIMPLE: dict[str, Any] = {
    "sides": [32],
    "psf_size": 21,
    "psf_fwhm": [1.5, 3.0],
    "snr": [20.0, 200.0],
    "neighbour": 0.0,
    "neighbour_masked": 0.0,
    "mask_through": 0.0,
    "structure": 0.0,
    "gradient": 0.0,
    "artefact": 0.0,
}
NETWORK: dict[str, Any] = {
    "backbone": "none",
    "width": 64,
    "blocks": 2,
    "context": 32,
    "flow_layers": 3,
    "flow_hidden": 48,
}
SWIN: dict[str, Any] = {"backbone": "small", "patch": 16, "embed": 8, "depths": [1], "heads": [2]}
TRAIN: dict[str, Any] = {
    "images": 2048,
    "batch": 64,
    "shard": 128,
    "workers": 0,
    "whitening": 256,
    "warm_up": 5,
    "validation": 64,
    "validation_limit": 8,
    "image_share": [0.0, 0.0],
    "epochs_per_image": 4,
    "reuse_max": 8,
    "tensorboard": False,
}


def recipe(network: dict[str, Any] | None = None, **train: Any) -> Recipe:
    """A run of seconds."""
    return Recipe.from_mapping(mapping(network, **train))


def mapping(network: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """The same as YAML holds it."""
    return {
        "simulator": SIMPLE,
        "network": {**NETWORK, **(network or {})},
        "train": {**TRAIN, **train},
    }


def scenes(size: int = 64, seed: int = 0, stream: int = 0, views: bool = False, **simulator: Any):
    """A source of small clean galaxies."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in (SIMPLE | simulator).items()}
    return SimulatedSource(FieldOptions(**values), Prior(), seed, size, "cpu", stream, views)


def numbered(number: int) -> Shard:
    """A shard that says which one it is."""
    ones = torch.ones(8, 3)
    empty = torch.zeros(8, 0, 64, 64).half()
    none = torch.zeros(8)
    return Shard(empty, number * ones, number * ones, ones[:, 0], none.long(), none)


def failing(number: int) -> Shard:
    """Fails at the third shard."""
    if number == 2:
        raise ValueError("no galaxy today")
    return numbered(number)


def dying(number: int) -> Shard:
    """Ends its process at the third shard, as one does that is killed for memory."""
    if number == 2:
        os._exit(9)
    return numbered(number)


class Shuffled:
    """The galaxies of a source with each other's labels."""

    def __init__(self, source: SimulatedSource) -> None:
        self.source = source

    def __call__(self, number: int) -> Shard:
        shard = self.source(number)
        order = torch.randperm(len(shard), generator=torch.Generator().manual_seed(number))
        return replace(shard, targets=shard.targets[order])


def learner_of(recipe: Recipe, shard: Shard) -> Learner:
    """A learner at its start, whitened by the galaxies it will see."""
    torch.manual_seed(0)
    model = Estimator(recipe.network, shard.scalars.shape[1])
    model.set_whitening(shard.scalars, shard.targets)
    ema = Estimator(recipe.network, shard.scalars.shape[1])
    ema.load_state_dict(model.state_dict())
    return Learner(model, ema, make_optimiser(model, 1e-3, 0.01))


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    """What a run told of one kind."""
    told = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]
