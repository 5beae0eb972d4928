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
from train_helpers import NETWORK, mapping, recipe, scenes

from hybridfit.data.errors import UsageError
from hybridfit.npe import posterior, weight_files
from hybridfit.training import checkpoint
from hybridfit.training.data import VALIDATION
from hybridfit.training.export import export_checkpoint
from hybridfit.training.finetune_files import finetune_network
from hybridfit.training.loop import train
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
    with pytest.raises(FileNotFoundError, match=r"no weights at .*package.*--start moments"):
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
