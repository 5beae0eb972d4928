"""A run that starts from what another one has learned, perhaps with a deeper network.

New gated blocks and layers of the flow are the identity, so a network with more of them begins as
good as the one it was made of, and only has what they add to learn. A network that looks back
begins with the other as its scout and with its context; its flow, in other coordinates, is new.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridfit.npe import weight_files
from hybridfit.npe.network import Estimator, NetworkOptions, make_scout
from hybridfit.npe.refinement_scalars import N_SCALARS
from hybridfit.training import checkpoint
from hybridfit.training.learner import Counters
from hybridfit.training.recipe import Recipe

SCOUT = "scout."
# what may be there more often than before, as the identity
GROWING = re.compile(r"(scout\.)?((blocks|corrections)\.\d+\.|flow\.transform\._transforms\.\d+\.)")
# what has to do with the flow's coordinates, which are others once the network looks back
OF_TARGETS = ("flow.", "head.", "seen_head.", "target_", "context_", "distance_limit")
# what reads the scalars, of which there are more once the network looks back
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


def scout_of(network: NetworkOptions, weights: Weights | None) -> Estimator | None:
    """The scout of a network that looks back: that of ``weights``, or what they are themselves.

    Raises:
        ValueError: if there are no weights to make it of, or they do not fit.
    """
    if not network.look_back:
        return None
    if weights is None:
        raise ValueError(
            "network.look_back is true, but there is no scout to look back from: train without it "
            "first, and give that run with --start"
        )
    own = _scout_in(weights)
    scout = make_scout(network, len(own["scalar_mean"]) + N_SCALARS)
    assert scout is not None
    _load(scout, {name: own[name] for name in scout.state_dict() if name in own})
    return scout


def check_start(recipe: Recipe, folder: str | Path | None, resume: bool) -> None:
    """Raise what the start of a run would, before minutes have gone into simulations."""
    if folder is None:
        if not resume:
            scout_of(recipe.network, None)
        return
    if resume:
        raise ValueError("a run that is resumed has its own network: leave out --start")
    weights, _ = read_start(folder)
    network = replace(recipe.network, pretrained=False)
    n_scalars = len(weights["scalar_mean"])
    if network.look_back:
        n_scalars = len(_scout_in(weights)["scalar_mean"]) + N_SCALARS
    begin_from(Estimator(network, n_scalars, len(weights["target_mean"])), weights)


def begin_from(model: Estimator, weights: Weights) -> None:
    """Load ``weights`` into a network that is theirs, or theirs with more to it.

    Raises:
        ValueError: if the networks differ in more than the number of blocks, corrections and
            layers of the flow, and in looking back.
    """
    if model.scout is not None and not _has_scout(weights):
        weights = _looking_back(model, weights)
    _load(model, _reading_more(model, weights))


def _has_scout(weights: Weights) -> bool:
    return any(name.startswith(SCOUT) for name in weights)


def _scout_in(weights: Weights) -> Weights:
    """What a scout is made of, by its own names."""
    if not _has_scout(weights):
        return weights
    return {k.removeprefix(SCOUT): v for k, v in weights.items() if k.startswith(SCOUT)}


def _looking_back(model: Estimator, weights: Weights) -> Weights:
    """Weights of a network that looks back, of one that does not: it reads nothing new yet."""
    assert model.scout is not None
    own = model.state_dict()
    made = {SCOUT + k: weights[k] for k in model.scout.state_dict() if k in weights}
    for name, value in weights.items():
        made[name] = own[name] if name.startswith(OF_TARGETS) else value
    return made


def _reading_more(model: Estimator, weights: Weights) -> Weights:
    """The same for a network with further scalars at the end: it reads nothing of them yet."""
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
    fresh = {name for name in own if name not in weights and GROWING.match(name)}
    missing = sorted(name for name in own if name not in weights and name not in fresh)
    unknown = sorted(name for name in weights if name not in own)
    shapes = sorted(
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    )
    if missing or unknown or shapes:
        parts = (("lack ", missing), ("have ", unknown), ("have ", shapes))
        told = "; ".join(word + ", ".join(names[:3]) for word, names in parts if names)
        raise ValueError(
            f"the weights to start from do not fit the recipe's network: they {told}. Only blocks, "
            "corrections and flow_layers may be more than they were, and look_back become true"
        )
    model.load_state_dict({**{name: own[name] for name in fresh}, **weights})
