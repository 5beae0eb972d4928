"""Weights: they come back, are exported from a run, and say what is missing or wrong."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_helpers import NETWORK, mapping, recipe, scenes

from hybridfit.data.errors import UsageError
from hybridfit.npe import posterior, weight_files
from hybridfit.training import checkpoint
from hybridfit.training.data import VALIDATION
from hybridfit.training.export import export_checkpoint
from hybridfit.training.finetune_files import finetune_network
from hybridfit.training.loop import train
from hybridfit.training.recipe import Recipe
from hybridfit.training.train import train_network
from hybridfit.training.validation import nll_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seconds."""
    out = tmp_path_factory.mktemp("run")
    assert train(recipe(), out, quiet=True) is not None
    return out


def test_weights_come_back(run, tmp_path):
    estimator = weight_files.load_weights(run / "weights")
    shard = scenes(64, stream=VALIDATION)(0)
    config = weight_files.load_config(run / "weights")
    weight_files.save_weights(estimator, tmp_path / "exact", config, half=False)
    exact = weight_files.load_weights(tmp_path / "exact")
    assert not exact.training
    before = nll_of(estimator, shard, use_views=False)
    assert torch.equal(nll_of(exact, shard, use_views=False), before)
    half = weight_files.save_weights(exact, tmp_path / "half", config, {"limit": math.inf})
    after = nll_of(weight_files.load_weights(half), shard, use_views=False)
    # float16 keeps 11 bits of each weight: 1e-3 nat in the mean is far below what matters
    assert float((after - before).mean().abs()) < 1e-3
    sizes = [(tmp_path / name / weight_files.WEIGHTS).stat().st_size for name in ("half", "exact")]
    assert sizes[0] < 0.6 * sizes[1]
    assert json.loads((half / weight_files.CARD).read_text()) == {"limit": None}


def test_export_of_a_checkpoint(run, tmp_path):
    export_checkpoint(run, tmp_path)
    averaged = checkpoint.load_checkpoint(run)["ema"]
    for name, value in weight_files.load_weights(tmp_path).named_parameters():
        assert torch.allclose(value, averaged[name], rtol=1e-3, atol=1e-6), name


def test_an_export_is_of_the_runs_own_recipe(run, tmp_path):
    now = tmp_path / "now.yaml"
    now.write_text(yaml.safe_dump(mapping({"width": 32}, seed=7)))
    assert train_network(now, run, export=tmp_path / "weights", quiet=True)
    assert weight_files.load_config(tmp_path / "weights")["network"].width == NETWORK["width"]
    card = json.loads((tmp_path / "weights" / weight_files.CARD).read_text())
    assert card["train"]["seed"] == 0
    assert card["validation_nll"]["all"] < card["validation_nll"]["prior"]


def test_what_cannot_be_exported_says_so(run, tmp_path):
    config, out = tmp_path / "any.yaml", tmp_path / "out"
    with pytest.raises(UsageError, match="no checkpoint in"):
        train_network(config, tmp_path, export=out)
    shutil.copy(checkpoint.checkpoints(run)[-1], tmp_path)
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        train_network(config, tmp_path, export=out)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(mapping({"width": 32})))
    with pytest.raises(UsageError, match="does not fit the network"):
        train_network(config, tmp_path, export=out)
    assert not out.exists()


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(posterior, "PACKAGED", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match=r"no weights .*--initial-values moments"):
        posterior.load_estimator()
    with pytest.raises(FileNotFoundError, match=r"expected a folder with .* and config\.yaml"):
        posterior.load_estimator(tmp_path)
    with pytest.raises(UsageError, match="this installation has no weights"):
        finetune_network(tmp_path, tmp_path / "out", quiet=True)


def test_wrong_weights_say_so(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors"):
        weight_files.load_weights(tmp_path)
    config = weight_files.load_config(run / "weights")
    estimator = weight_files.load_weights(run / "weights")
    other = config | {"network": replace(config["network"], width=32)}
    weight_files.save_weights(estimator, tmp_path, other)
    with pytest.raises(ValueError, match="does not fit the network"):
        weight_files.load_weights(tmp_path)
    with pytest.raises(ValueError, match="unknown option 'seed'"):
        weight_files.save_weights(estimator, tmp_path, config | {"seed": 1})


def test_weights_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """The shipped tensors carry names of an earlier version; its options had others too."""
    folder = tmp_path / "old"
    shutil.copytree(posterior.PACKAGED, folder)
    config = (folder / weight_files.CONFIG).read_text()
    (folder / weight_files.CONFIG).write_text(config.replace("refinement: true", "look_back: true"))
    assert "look_back: true" in (folder / weight_files.CONFIG).read_text()
    assert any(name.startswith("scout.") for name in load_file(folder / weight_files.WEIGHTS))
    loaded, expected = (weight_files.load_weights(at) for at in (folder, posterior.PACKAGED))
    assert loaded.initial_estimator is not None
    assert loaded.options == expected.options
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_checkpoints_and_recipes_of_earlier_versions_are_read(tmp_path: Path) -> None:
    names = ("scout.entry.weight", "entry.weight", "optimiser.scout")
    state = {"ema": {name: torch.ones(1) for name in names}, "counters": {"scout.": 1}}
    checkpoint.save_checkpoint(tmp_path, 1, state)
    read = checkpoint.load_checkpoint(tmp_path)
    assert list(read["ema"]) == ["initial_estimator.entry.weight", *names[1:]]
    assert read["counters"] == {"scout.": 1}
    assert Recipe.from_mapping({"network": {"look_back": True}}).network.refinement
