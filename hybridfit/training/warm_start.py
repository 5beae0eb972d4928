"""A warm start: a run that begins with the weights of another, perhaps with a deeper network.

New gated blocks and layers of the flow are the identity, so a network with more of them begins as
good as the one it was made of, and only has to learn what they add. A network with refinement
begins with the other one as its initial estimator and with its context; its flow works in other
coordinates and is new.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.npe import weight_files
from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.network import Estimator, make_initial_estimator
from hybridfit.npe.refinement_scalars import n_step_scalars
from hybridfit.training import checkpoint
from hybridfit.training.learner import Counters
from hybridfit.training.recipe import Recipe

# readers and flows of further members, which begin at random
OTHERS = re.compile(r"others\.\d+\.")
INITIAL = "initial_estimator."
# parts that may be more numerous than before; new ones are the identity
GROWING = re.compile(
    r"(initial_estimator\.)?((blocks|corrections)\.\d+\.|flow\.transform\._transforms\.\d+\.)"
)
# what belongs to the flow's coordinates, which change with refinement
OF_TARGETS = ("flow.", "head.", "seen_head.", "target_", "context_", "distance_limit")
# what reads the scalars, of which there are more with refinement
READERS = re.compile(r"entry\.weight|blocks\.\d+\.gate\.weight|scalar_(mean|std)")

Weights = dict[str, Tensor]


def read_start(folder: str | Path) -> tuple[Weights, list[dict[str, Any]]]:
    """Averaged weights of a run's last checkpoint, or exported weights, and what went into them.

    Args:
        folder: of a run, or with weights as `hybridfit train` leaves them.

    Returns:
        The tensors by name, and the counters of all runs behind them, the oldest first.

    Raises:
        FileNotFoundError: if there is neither a checkpoint nor weights in ``folder``.
        ValueError: if they cannot be read.
    """
    folder = Path(folder)
    if checkpoint.checkpoints(folder):
        state = checkpoint.load_checkpoint(folder)
        return state["ema"], [*state.get("before", []), state["counters"]]
    if not (folder / weight_files.WEIGHTS).is_file():
        raise FileNotFoundError(
            f"no checkpoint and no {weight_files.WEIGHTS} in '{folder}': expected a run's folder "
            "or one with weights, as hybridfit train leaves in OUT/weights"
        )
    card = weight_files.load_card(folder)
    counters = {f.name: card[f.name] for f in fields(Counters) if f.name in card}
    return weight_files.load_weights(folder).state_dict(), [*card.get("before", []), counters]


def initial_estimator_of(recipe: Recipe, weights: Weights | None) -> Estimator | None:
    """Return the initial estimator in ``weights``, or ``weights`` itself; None without refinement.

    Raises:
        ValueError: if there are no weights to make it of, or they do not fit.
    """
    network = recipe.network
    if not network.refinement:
        return None
    if weights is None:
        raise ValueError(
            "network.refinement is true, but there is no initial estimator: train a network "
            "without refinement first, and give that run with --initial-weights"
        )
    own = _initial_in(weights)
    coordinates = FlowCoordinates(GalaxyModel.named(recipe.model))
    if (known := len(own["target_mean"])) != coordinates.n:
        raise ValueError(
            f"the initial estimator knows {known} coordinates, expected the {coordinates.n} of "
            f"model {recipe.model}: start from a network of the same model"
        )
    n_scalars = len(own["scalar_mean"]) + n_step_scalars(coordinates.n)
    initial_estimator = make_initial_estimator(network, n_scalars, coordinates)
    if initial_estimator is None:
        raise ValueError("network.refinement is false, expected a network with refinement")
    _load(
        initial_estimator,
        {name: own[name] for name in initial_estimator.state_dict() if name in own},
    )
    return initial_estimator


def check_start(recipe: Recipe, folder: str | Path | None, resume: bool) -> None:
    """Validate the weights of a warm start before simulating for minutes.

    Raises:
        ValueError: if they do not fit the recipe, or are missing.
    """
    if folder is None:
        if not resume:
            initial_estimator_of(recipe, None)
        return
    if resume:
        raise ValueError("a run that is resumed has its own network: leave out --initial-weights")
    weights, _ = read_start(folder)
    network = replace(recipe.network, pretrained=False)
    coordinates = FlowCoordinates(GalaxyModel.named(recipe.model))
    n_scalars = len(weights["scalar_mean"])
    if network.refinement:
        n_scalars = len(_initial_in(weights)["scalar_mean"]) + n_step_scalars(coordinates.n)
    load_start(Estimator(network, n_scalars, coordinates=coordinates), weights)


def load_start(model: Estimator, weights: Weights) -> None:
    """Load ``weights`` into a network that is theirs, or theirs with more to it.

    Raises:
        ValueError: if the networks differ in more than the number of blocks, corrections and
            layers of the flow, and in refinement.
    """
    if model.initial_estimator is not None and not _has_initial(weights):
        weights = _with_refinement(model.state_dict(), weights)
    _load(model, _reading_more(model, weights))


def _has_initial(weights: Weights) -> bool:
    return any(name.startswith(INITIAL) for name in weights)


def _initial_in(weights: Weights) -> Weights:
    """Weights of the initial estimator, by its own names."""
    if not _has_initial(weights):
        return weights
    return {k.removeprefix(INITIAL): v for k, v in weights.items() if k.startswith(INITIAL)}


def _with_refinement(own: Weights, weights: Weights) -> Weights:
    """Weights of a network with refinement, of one without; ``own`` is its state before.

    New scalars are not read yet.
    """
    names = (name.removeprefix(INITIAL) for name in own if name.startswith(INITIAL))
    made = {INITIAL + name: weights[name] for name in names if name in weights}
    made |= {name: v for name, v in weights.items() if not name.startswith(OF_TARGETS)}
    return made | {name: v for name, v in own.items() if name.startswith(OF_TARGETS)}


def _reading_more(model: Estimator, weights: Weights) -> Weights:
    """The same for a network with further scalars at the end, which it does not read yet."""
    own = model.state_dict()
    made = dict(weights)
    for name in filter(READERS.fullmatch, weights.keys() & own.keys()):
        value, wider = weights[name], own[name].clone()
        read = value.shape[-1]
        if read < wider.shape[-1] and value.shape[:-1] == wider.shape[:-1]:
            if name.endswith("weight"):
                wider[..., read:] = 0.0
            wider[..., :read] = value
            made[name] = wider
    return made


def _load(model: torch.nn.Module, weights: Weights) -> None:
    own = model.state_dict()
    new = [name for name in own if name not in weights]
    fresh = {name for name in new if GROWING.match(name)}
    if not any(OTHERS.match(name) for name in weights):
        fresh |= {name for name in new if OTHERS.match(name)}
    missing = sorted(name for name in own if name not in weights and name not in fresh)
    unknown = sorted(name for name in weights if name not in own)
    shapes = sorted(
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    )
    if missing or unknown or shapes:
        parts = (("lack ", missing), ("have ", unknown), ("have ", shapes))
        differences = "; ".join(word + ", ".join(names[:3]) for word, names in parts if names)
        raise ValueError(
            f"the weights to start from do not fit the recipe's network: they {differences}. Only "
            "blocks, corrections and flow_layers may grow, and refinement may become true; with "
            "it members may grow too"
        )
    model.load_state_dict({**{name: own[name] for name in fresh}, **weights})
