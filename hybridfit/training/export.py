"""Export of weights from a training run, with a card on how they were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.npe import weight_files
from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.network import Estimator
from hybridfit.training import checkpoint
from hybridfit.training.learner import Counters
from hybridfit.training.recipe import RECIPE, Recipe
from hybridfit.training.training_log import last_validation, provenance
from hybridfit.training.validation import read_validation, set_contexts

VALIDATION_FILE = "validation.safetensors"


def export(
    recipe: Recipe,
    estimator: Estimator,
    counters: Counters,
    values: Mapping[str, float],
    folder: str | Path,
    before: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write weights with their config, and a card on how they were trained.

    ``before`` holds the counters of the runs that this one started from.
    """
    card = {
        "validation_nll": {name: round(value, 4) for name, value in values.items()},
        **asdict(counters),
        "before": list(before),
        "train": recipe.train,
        **provenance(),
    }
    model = estimator.coordinates.model
    config = {
        **(
            {}
            if model.is_one_sersic
            else {"model": {"name": model.name, "scene": model.declaration}}
        ),
        "network": recipe.network,
        "n_scalars": estimator.n_scalars,
        "n_targets": estimator.n_targets,
        "prior": recipe.prior,
        "simulator": recipe.simulator,
    }
    return weight_files.save_weights(estimator, folder, config, card)


def export_checkpoint(run: str | Path, folder: str | Path) -> Path:
    """Write the averaged weights of the last checkpoint in ``run``.

    Raises:
        FileNotFoundError: if ``run`` has no checkpoint or no recipe.
        ValueError: if they cannot be read, or do not fit each other.
    """
    state = checkpoint.load_checkpoint(Path(run))
    recipe = Recipe.read(Path(run) / RECIPE)
    averaged = state["ema"]
    n_scalars, n_targets = (len(averaged[f"{name}_mean"]) for name in ("scalar", "target"))
    network = replace(recipe.network, pretrained=False)
    coordinates = FlowCoordinates(GalaxyModel.named(recipe.model))
    estimator = Estimator(network, n_scalars, n_targets, coordinates)
    try:
        estimator.load_state_dict(averaged)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint in '{run}' does not fit the network of its {RECIPE}, perhaps of "
            f"another version of hybridfit: {' '.join(str(error).split())[:300]}"
        ) from error
    held = Path(run) / VALIDATION_FILE
    if held.is_file():
        estimator.eval()
        set_contexts(estimator, read_validation(held).galaxies)
    counters = Counters(**state["counters"])
    values = last_validation(Path(run), counters.step)
    return export(recipe, estimator, counters, values, folder, state.get("before", ()))
