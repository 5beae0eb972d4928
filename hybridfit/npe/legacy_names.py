"""Names that earlier versions wrote into weights, checkpoints and configs, as they are now called.

This is the only place that knows them: everything is translated when it is read, so that files of
earlier versions keep working and nothing else has to care.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
MODULES = {"scout.": "initial_estimator."}  # beginnings of the names of tensors
NETWORK_OPTIONS = {"look_back": "refinement"}


def current_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return tensors by the names that `Estimator.state_dict` gives them now."""
    return {_renamed(name): value for name, value in tensors.items()}


def _renamed(name: str) -> str:
    for old, new in MODULES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def current_options(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the network by the names that `NetworkOptions` gives them now."""
    return {NETWORK_OPTIONS.get(name, name): value for name, value in network.items()}
