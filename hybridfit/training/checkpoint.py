"""Checkpoints of a training run, from which it goes on.

Nothing is unpickled: checkpoints are read with torch's ``weights_only`` (tensors, numbers, lists
and dictionaries).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybridfit.io.writing import atomic
from hybridfit.npe.legacy_names import current_tensors

NETWORKS = ("model", "ema")  # parts of a state that hold tensors by name
KEEP = 2  # checkpoints: the one before the last is there if the last one cannot be read


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state after batch ``step`` and remove all but the last two checkpoints."""
    path = folder / f"checkpoint-{step:09d}.pt"
    with atomic(path) as file:
        torch.save(dict(state), file)
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink()
    return path


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the newest state that can be read.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if none can be read.
    """
    found = checkpoints(folder)
    if not found:
        raise FileNotFoundError(
            f"no checkpoint in '{folder}': leave out --resume to start a run there"
        )
    errors = []
    for path in reversed(found):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            errors.append(f"{path.name}: {str(error).splitlines()[0]}")
        else:
            named = {name: current_tensors(state[name]) for name in NETWORKS if name in state}
            return {**state, **named}
    raise ValueError(f"no checkpoint in '{folder}' can be read ({'; '.join(errors)})")
