"""Training from the command line: a recipe file in, a folder of weights out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hybridfit.data.errors import usage_errors
from hybridfit.pipeline.devices import check_threads
from hybridfit.training.export import export_checkpoint
from hybridfit.training.loop import claim, train
from hybridfit.training.recipe import Recipe
from hybridfit.training.warm_start import check_start


def train_network(
    config: Path,
    out: Path,
    resume: bool = False,
    minutes: float | None = None,
    images: int | None = None,
    device: str = "cpu",
    threads: int = 0,
    export: Path | None = None,
    quiet: bool = False,
    start: Path | None = None,
) -> bool:
    """Train by the recipe in a YAML file; return False if a signal stopped it before its end.

    Args:
        config: YAML file with the sections simulator, prior, network and train; not read with
            ``export``, where the run's own recipe counts.
        out: folder of the run.
        resume: go on from the last checkpoint in it.
        minutes, images: instead of the file's, where given.
        device: of the network.
        threads: CPU threads of the network; 0 leaves torch's choice.
        export: only write the weights of the last checkpoint to this folder.
        quiet: no progress bar.
        start: folder of a run, or of weights, whose network a new run begins with.

    Raises:
        UsageError: if the recipe is wrong, ``out`` holds a run and ``resume`` is False, there is
            nothing to export, or what is in ``start`` does not fit the recipe.
    """
    with usage_errors():
        if export is not None:
            export_checkpoint(out, export)
            return True
        _use_threads(threads)
        recipe = _recipe(config, minutes, images)
        _check_device(device)
        check_start(recipe, start, resume)
        claim(out, recipe, resume)
    return train(recipe, out, resume, device, quiet, start=start) is not None


def _recipe(config: Path, minutes: float | None, images: int | None) -> Recipe:
    """Read a recipe, with other minutes and images where they are given."""
    recipe = Recipe.read(config)
    given: dict[str, Any] = {"minutes": minutes, "images": images}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(recipe, train=replace(recipe.train, **changed))


def _use_threads(threads: int) -> None:
    """Set the CPU threads; 0 leaves torch's choice."""
    check_threads(threads, 0)
    if threads:
        torch.set_num_threads(threads)


def _check_device(device: str) -> None:
    """Raise ValueError for a GPU where torch finds none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is '{device}', but torch finds no GPU: use --device cpu")
