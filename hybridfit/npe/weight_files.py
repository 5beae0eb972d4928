"""Files of a network's weights: safetensors beside YAML and JSON, so nothing is unpickled."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

from hybridfit.files.regular import check_regular, read_text
from hybridfit.io.writing import atomic, write_text
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.prior import Prior
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.legacy_names import current_options, current_tensors
from hybridfit.npe.network import Estimator
from hybridfit.npe.targets import parse_targets
from hybridfit.options.checks import checked
from hybridfit.options.yaml_options import check_keys, load_yaml, nested, plain

WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.yaml", "card.json"
LARGEST_CARD = 10_000_000  # bytes
CONFIG_KEYS = ("model", "network", "n_scalars", "n_targets", "prior", "simulator", "targets")


def save_weights(
    estimator: Estimator,
    folder: str | Path,
    config: Mapping[str, Any],
    card: Mapping[str, Any] | None = None,
    half: bool = True,
) -> Path:
    """Write an estimator as ``weights.safetensors``, ``config.yaml`` and ``card.json``.

    Args:
        estimator: the network, with its parameters and buffers.
        folder: created if missing.
        config: what `load_weights` builds it from: model (its name and scene; one Sersic profile
            without it), network, n_scalars, n_targets, prior,
            simulator, targets.
        card: how it was trained, for readers.
        half: whether matrices are stored as float16. Vectors and whitening stay float32.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_keys(config, list(CONFIG_KEYS), "the weights' config")
    parameters = {name for name, _ in estimator.named_parameters()}
    tensors = {
        name: _stored(value.detach().cpu(), half and name in parameters)
        for name, value in estimator.state_dict().items()
    }
    text = yaml.safe_dump(plain(config), sort_keys=False)
    write_text(folder / CONFIG, text)
    if card is not None:
        write_text(folder / CARD, json.dumps(_finite(plain(card)), indent=2) + "\n")
    with atomic(folder / WEIGHTS) as file:
        file.write(save(tensors))
    return folder


def _finite(value: Any) -> Any:
    """JSON has no infinity: None instead."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stored(value: Tensor, half: bool) -> Tensor:
    """Return the tensor as it is stored, in a smaller type where the loss does not matter."""
    if value.dtype == torch.float32:
        if half and value.ndim >= 2 and float(value.abs().amax()) < 6e4:
            value = value.half()
        elif value.ndim >= 2 and bool(((value == 0) | (value == 1)).all()):
            value = value.to(torch.uint8)  # a mask
    elif value.dtype == torch.int64 and value.numel() and int(value.abs().amax()) < 2**31:
        value = value.to(torch.int32)  # an index
    return value.contiguous().clone()  # safetensors refuses tensors that share memory


def load_config(folder: str | Path) -> dict[str, Any]:
    """Return the config beside weights, with the options and the prior built.

    Raises:
        FileNotFoundError: without such a file.
        ValueError: if it is not what `save_weights` writes.
    """
    path = Path(folder) / CONFIG
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"no {CONFIG} in '{folder}': expected beside {WEIGHTS}, as hybridfit train leaves it"
        )
    with _of_weights(path):
        config = load_yaml(path)
        check_keys(config, list(CONFIG_KEYS), str(path))
        if missing := [key for key in ("n_scalars", "n_targets") if key not in config]:
            raise ValueError(f"'{path}' has no {missing[0]}, expected a whole number")
        for key in ("n_scalars", "n_targets"):
            checked(f"{key} of '{path}'", config[key], int)
        network = checked(f"network of '{path}'", config.get("network") or {}, Mapping)
        config["network"] = nested(NetworkOptions, current_options(network), f"network of {path}")
        targets = checked(f"targets of '{path}'", list(config.get("targets") or ()), Sequence)
        config["targets"] = parse_targets(targets)
        config["prior"] = Prior.from_mapping(config.get("prior") or {})
        wanted = len(config["targets"]) or coordinates_of(config, path).n
        if config["n_targets"] != wanted:
            raise ValueError(f"n_targets of '{path}' is {config['n_targets']}, expected {wanted}")
    return config


def coordinates_of(config: Mapping[str, Any], path: Path) -> FlowCoordinates:
    """Return the coordinates of the model that a config names."""
    given = config.get("model")
    if given is None:
        return FlowCoordinates()
    content = checked(f"model of '{path}'", given, Mapping)
    check_keys(content, ["name", "scene"], f"model of '{path}'")
    name, scene = (
        checked(f"model.{k} of '{path}'", content.get(k), str) for k in ("name", "scene")
    )
    return FlowCoordinates(GalaxyModel(name, scene))


def load_card(folder: str | Path) -> dict[str, Any]:
    """Return the card beside weights; empty without one.

    Raises:
        ValueError: if it cannot be read.
    """
    path = Path(folder) / CARD
    if not os.path.lexists(path):
        return {}
    with _of_weights(path):
        return dict(checked(f"'{path}'", json.loads(read_text(path, LARGEST_CARD)), Mapping))


def load_weights(folder: str | Path, device: torch.device | str = "cpu") -> Estimator:
    """Build the estimator that `save_weights` wrote, in float32 and evaluation mode.

    Raises:
        FileNotFoundError: if weights or config are missing.
        ValueError: if one of them cannot be read, or the tensors do not fit the network of the
            config.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"no {WEIGHTS} in '{folder}': expected a folder with {WEIGHTS} and {CONFIG}, as "
            "hybridfit train leaves in OUT/weights, and hybridfit finetune in OUT"
        )
    config = load_config(folder)
    # the weights of a hub for the backbone would be overwritten at once
    network = replace(config["network"], pretrained=False)
    with _of_weights(path):
        check_regular(path)
        tensors = current_tensors(load_file(path))
    with _of_weights(folder / CONFIG):
        _check_size(network, config, path)
        sizes = config["n_scalars"], config["n_targets"]
        estimator = Estimator(network, *sizes, coordinates_of(config, folder / CONFIG))
    try:
        estimator.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"'{path}' does not fit the network of its {CONFIG}, perhaps of another "
            f"version of hybridfit: {' '.join(str(error).split())[:300]}"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in estimator.parameters()):
        raise ValueError(f"'{path}' holds weights that are no finite numbers: is it damaged?")
    estimator.target_columns = config["targets"]
    return estimator.to(device).eval()


def _check_size(network: NetworkOptions, config: Mapping[str, Any], path: Path) -> None:
    """Refuse a network that is larger than its weights, before it is built.

    A number takes a byte at least; the small matrices are left out of the count.
    """
    numbers = network.width**2 * (network.blocks + network.corrections)
    numbers += network.flow_hidden**2 * network.flow_layers * network.flow_blocks
    numbers += network.embed**2 * sum(network.depths) if network.backbone == "small" else 0
    numbers += config["n_scalars"] + config["n_targets"]
    size = path.stat().st_size
    if numbers > size or min(config["n_scalars"], config["n_targets"]) < 1:
        raise ValueError(
            f"a network of {numbers:.3g} numbers or more does not fit '{path}', which has {size} "
            "bytes"
        )


@contextmanager
def _of_weights(path: Path) -> Iterator[None]:
    """Turn any error about a file of weights into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # safetensors, JSON and torch raise errors of their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        named = reason if path.name in reason else f"'{path}' cannot be read: {reason}"
        raise ValueError(
            f"{named} (expected a folder of weights, as hybridfit train leaves in OUT/weights)"
        ) from error
