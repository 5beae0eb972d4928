"""Fine-tuning: to other galaxies in stages, from files with labels, to other parameters."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from astropy.table import Table
from tolerances import NETWORK, SINGLE, TEXT
from train_helpers import SIMPLE, SWIN, recipe, scenes

import hybridfit as hf
from hybridfit.data.errors import UsageError
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import predict_cutouts
from hybridfit.npe.predict_targets import predict_targets
from hybridfit.npe.targets import TargetColumn, decode_targets, encode_targets, parse_targets
from hybridfit.npe.weight_files import load_config, load_weights, save_weights
from hybridfit.pipeline.options import FileRunOptions, PredictOptions
from hybridfit.simulation.simulate import simulate_fields
from hybridfit.training.data import Shard
from hybridfit.training.finetune import STAGES, FinetuneOptions, finetune
from hybridfit.training.finetune_files import finetune_network, joined
from hybridfit.training.labelled_data import labelled_shard, with_sky
from hybridfit.training.loop import train
from hybridfit.training.validation import contexts_of, nll_of

NAMES = ParameterSpace().names


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little network that has seen sharp PSFs alone."""
    out = tmp_path_factory.mktemp("trained")
    made = recipe(images=60_000, shard=1024, whitening=2048, epochs_per_image=12, reuse_max=20)
    train(made, out, quiet=True)
    return out / "weights"


def other_scenes(n: int, seed: int):
    """A survey with a PSF three times as wide, and faint galaxies."""
    source = scenes(n, psf_fwhm=[5.0, 7.0], snr=[10.0, 60.0], reuse=1)
    return simulate_fields(n, seed, source.simulator)


def write(made, folder: Path, sky: bool = True, **more: np.ndarray) -> Path:
    table = Table(made.theta.numpy(), names=NAMES)
    table["id"] = list(made.cutouts.id)
    if not sky:
        table.remove_column("sky")
    for name, values in more.items():
        table[name] = values
    write_cutouts(made.cutouts, folder, table)
    return folder


def test_a_thousand_labelled_galaxies_improve_what_was_held_out(weights):
    made, judge = other_scenes(1000, 1), other_scenes(600, 2)
    data = labelled_shard(made.cutouts, made.theta)
    others = labelled_shard(judge.cutouts, judge.theta)
    estimator = load_weights(weights)
    before = nll_of(estimator, others, use_views=False)
    told: list[str] = []
    tuned = finetune(
        estimator, data[0:900], data[900:1000], FinetuneOptions(images=20_000), told.append
    )
    assert tuned.after < tuned.before
    assert list(tuned.stages) == ["flow", "head", "all"]
    assert list(tuned.stages.values()) == sorted(tuned.stages.values(), reverse=True)
    assert len(told) == 4
    # on galaxies that decided nothing: far more than the scatter of the mean
    gain = before - nll_of(tuned.estimator, others, use_views=False)
    assert float(gain.mean()) > max(0.3, 5 * float(gain.std()) / math.sqrt(len(gain)))
    # the given network is as it was
    assert torch.equal(nll_of(estimator, others, use_views=False), before)


def test_wrong_labels_gain_nothing(weights):
    """The twin: with each other's labels there is nothing to learn, and the best stays first."""
    data = joined([scenes(400, seed=s)(0) for s in (1, 2)])
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    wrong = dataclasses.replace(data, targets=data.targets.clone())
    wrong.targets[:400] = wrong.targets[:400][order]
    estimator = load_weights(weights)
    tuned = finetune(estimator, wrong[0:400], wrong[400:800], FinetuneOptions(images=6000))
    assert tuned.after > tuned.before - 0.05


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_changes_its_own_modules_alone(stage):
    made, shard = recipe(network=SWIN), scenes(160, views=True)(0)
    torch.manual_seed(0)
    estimator = Estimator(made.network, shard.scalars.shape[1])
    estimator.set_whitening(shard.scalars, shard.targets)
    options = FinetuneOptions(
        stages=(stage,), shares=(1.0,), learning_rates=(1e-2,), images=640, batch=32, warm_up=1
    )
    tuned = finetune(estimator, shard[0:128], shard[128:160], options)
    assert tuned.after < tuned.before
    old = dict(estimator.named_parameters())
    changed = {
        name.split(".")[0]
        for name, value in tuned.estimator.named_parameters()
        if not torch.equal(value, old[name])
    }
    assert changed == set(STAGES[stage])
    assert all(p.requires_grad for p in tuned.estimator.parameters())


def test_fine_tuning_reads_the_views():
    """With each other's pixels beside their own scalars the network learns something else."""
    made, shard = recipe(network=SWIN), scenes(160, views=True)(0)
    torch.manual_seed(0)
    estimator = Estimator(made.network, shard.scalars.shape[1])
    estimator.set_whitening(shard.scalars, shard.targets)
    options = FinetuneOptions(
        stages=("all",), shares=(1.0,), learning_rates=(1e-2,), images=640, batch=32, warm_up=1
    )

    def reached(views: torch.Tensor) -> float:
        training = dataclasses.replace(shard, views=views)[0:128]
        return finetune(estimator, training, shard[128:160], options).after

    assert reached(shard.views) == reached(shard.views)
    assert reached(shard.views.roll(1, dims=0)) != reached(shard.views)


def test_held_out_galaxies_say_what_is_far(weights):
    """A context of 32 numbers from 100 galaxies: these lie nearer to themselves than others do."""
    shard, others = (scenes(700, seed=s)(0) for s in (1, 2))
    few = FinetuneOptions(stages=("flow",), shares=(1.0,), learning_rates=(1e-5,), images=64)
    tuned = finetune(load_weights(weights), shard[0:100], shard[100:700], few).estimator
    far = tuned.distance(contexts_of(tuned, others)) > tuned.distance_limit
    # of 700 some 0.7 lie beyond what 1 of 600 does: more than 6 have a probability of 1e-3
    assert far.sum() <= 6
    in_sample = tuned.distance(contexts_of(tuned, shard[0:100])).quantile(0.999)
    missed = tuned.distance(contexts_of(tuned, others)) > in_sample
    assert missed.float().mean() > 0.05  # what the twin without held-out galaxies would flag


def test_too_few_galaxies_say_so(weights):
    shard = scenes(64)(0)
    with pytest.raises(ValueError, match="expected 64 and 10 or more"):
        finetune(load_weights(weights), shard[0:32], shard[32:64])
    shard.targets[:] = math.nan
    with pytest.raises(ValueError, match="0 galaxies to train with"):
        finetune(load_weights(weights), shard, shard)


@pytest.mark.parametrize("values", [{"stages": ("flow",)}, {"held_out": 1.0}])
def test_wrong_options_say_so(values):
    with pytest.raises(ValueError, match="expected"):
        FinetuneOptions(**values)
    with pytest.raises(ValueError, match="unknown stage 'flows'"):
        FinetuneOptions(stages=("flows",), shares=(1.0,), learning_rates=(1.0,))


def test_a_missing_sky_is_drawn_as_the_pixels_have_it():
    made = simulate_fields(300, 5, scenes(300, reuse=1).simulator)
    theta = made.theta.clone()
    theta[::2, 7] = math.nan
    drawn = with_sky(theta, made.cutouts, seed=1)
    assert torch.equal(drawn[1::2], made.theta[1::2])
    assert torch.equal(drawn[:, :7], made.theta[:, :7])
    rows = torch.arange(0, 300, 2)
    weight = torch.where(made.cutouts.mask, 0.0, 1 / made.cutouts.sigma**2).double()
    error = weight.flatten(1).sum(dim=1)[rows].rsqrt()
    pull = (drawn - made.theta)[rows, 7] / (math.sqrt(2) * error)
    # the pixels' error and the draw's own: 150 pulls of a unit normal, three sigma wide
    assert float(pull.mean().abs()) < 3 / math.sqrt(150)
    assert float(pull.std()) == pytest.approx(1, abs=3 / math.sqrt(300))


# ---------------------------------------------------------------- from files


def test_labelled_cutouts_from_files(weights, tmp_path):
    made = other_scenes(300, 3)
    folder = write(made, tmp_path / "labelled", sky=False)
    config = tmp_path / "options.yaml"
    config.write_text(
        yaml.safe_dump({"finetune": {"images": 8000}, "read": {"mask_neighbours": False}})
    )
    out = tmp_path / "out"
    tuned = finetune_network(folder, out, weights, config, quiet=True)
    assert tuned.after < tuned.before
    card = json.loads((out / "card.json").read_text())
    assert card["galaxies"] == {"training": 270, "held_out": 30}
    assert card["held_out_nll"]["after"] == pytest.approx(tuned.after)
    assert card["from"]["images"] == 60_032
    data = labelled_shard(made.cutouts, made.theta)
    loaded = nll_of(load_weights(out), data, use_views=False).mean()
    original = nll_of(load_weights(weights), data, use_views=False).mean()
    assert float(loaded) < float(original) - 0.1
    with pytest.raises(UsageError, match="holds weights already"):
        finetune_network(folder, out, weights, config, quiet=True)


def test_read_positions_are_those_of_the_files(weights, tmp_path, monkeypatch):
    """What reaches the network is the shard that the cutouts in memory make."""
    made = other_scenes(80, 4)
    folder = write(made, tmp_path / "labelled")
    seen: dict[str, Shard] = {}

    def keep(estimator, training, held_out, options, say):
        seen.update(training=training, held_out=held_out)
        raise ValueError("seen enough")

    monkeypatch.setattr("hybridfit.training.finetune_files.finetune", keep)
    with pytest.raises(UsageError, match="seen enough"):
        finetune_network(folder, tmp_path / "out", weights, quiet=True)
    read = joined([seen["training"], seen["held_out"]])
    expected = labelled_shard(made.cutouts, made.theta)
    assert len(seen["held_out"]) == 8
    order, mine = (np.lexsort(s.scalars.numpy().T[:4].round(2)) for s in (read, expected))
    # float32 sums over stamps of another padded size
    assert torch.allclose(read.targets[order], expected.targets[mine], atol=2e-2)


def test_skies_are_drawn_anew_in_each_chunk(weights, tmp_path, monkeypatch):
    """One galaxy many times, its sky unknown: no two of the skies it is taught are the same."""
    made = other_scenes(40, 4)
    same = dataclasses.replace(made[[0] * 40].cutouts, id=made.cutouts.id)
    table = Table(made.theta[[0] * 40, :7].numpy(), names=NAMES[:7])
    table["id"] = list(same.id)
    write_cutouts(same, tmp_path / "labelled", table)
    seen: list[torch.Tensor] = []

    def keep(estimator, training, held_out, options, say):
        seen.extend((training.targets[:, 7], held_out.targets[:, 7]))
        raise ValueError("seen enough")

    monkeypatch.setattr("hybridfit.training.finetune_files.finetune", keep)
    monkeypatch.setattr("hybridfit.training.finetune_files.AT_ONCE", 4)
    with pytest.raises(UsageError, match="seen enough"):
        finetune_network(tmp_path / "labelled", tmp_path / "out", weights, quiet=True)
    assert len(torch.cat(seen).unique()) == 40


def test_a_simulators_recipe(weights, tmp_path):
    config = tmp_path / "survey.yaml"
    sections = {
        "simulator": SIMPLE | {"psf_fwhm": [5.0, 7.0]},
        "finetune": {"images": 6000, "galaxies": 1000},
    }
    config.write_text(yaml.safe_dump(sections))
    tuned = finetune_network(config, tmp_path / "out", weights, quiet=True)
    assert tuned.after < tuned.before
    assert load_config(tmp_path / "out")["simulator"]["psf_fwhm"] == [5.0, 7.0]


def test_wrong_input_says_so(weights, tmp_path):
    folder = write(other_scenes(12, 4), tmp_path / "labelled")
    table = Table.read(folder / "truth.fits")
    table.remove_column("n")
    table.write(tmp_path / "less.ecsv")
    call = [folder, tmp_path / "out", weights]
    with pytest.raises(UsageError, match="lacks the column 'n'"):
        finetune_network(*call, truth=tmp_path / "less.ecsv", quiet=True)
    with pytest.raises(UsageError, match="no truth table"):
        finetune_network(*call, truth=tmp_path / "none.fits", quiet=True)
    table["id"] = [f"other{i}" for i in range(12)]
    table["n"] = 1.0
    table.write(tmp_path / "others.ecsv")
    with pytest.raises(UsageError, match="none of the ids"):
        finetune_network(*call, truth=tmp_path / "others.ecsv", quiet=True)
    bad = tmp_path / "bad.yaml"
    bad.write_text("finetune: {image: 3}\n")
    with pytest.raises(UsageError, match="did you mean 'images'"):
        finetune_network(*call, config=bad, quiet=True)


# ---------------------------------------------------------------- other parameters


def test_columns_and_their_coordinates():
    columns = parse_targets(["bulge", {"name": "mass", "transform": "log"}])
    assert columns == (TargetColumn("bulge"), TargetColumn("mass", "log"))
    values = torch.tensor([[0.5, 1e10], [math.nan, 1e9], [0.1, -1.0]]).double()
    t = encode_targets(values, columns)
    assert torch.allclose(decode_targets(t, columns)[0], values[0], atol=SINGLE)
    assert torch.isfinite(t).all(dim=1).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="given twice"):
        parse_targets(["a", "a"])
    with pytest.raises(ValueError, match="expected one of identity, log"):
        parse_targets([{"name": "a", "transform": "sqrt"}])


def test_other_parameters_on_the_same_network(weights, tmp_path):
    made = simulate_fields(800, 6, scenes(800, reuse=1).simulator)
    theta = made.theta
    rng = np.random.default_rng(0)
    size, n = np.log(theta[:, 3].numpy()), np.log(theta[:, 4].numpy())
    # a mass that goes with size, with a scatter of .3 that no pixel shows, and a concentration
    mass = np.exp(20 + 2 * size + rng.normal(0, 0.3, 800))
    folder = write(made, tmp_path / "labelled", mass=mass, concentration=n)
    config = tmp_path / "options.yaml"
    targets = [{"name": "mass", "transform": "log"}, "concentration"]
    config.write_text(yaml.safe_dump({"finetune": {"images": 16_000, "targets": targets}}))
    tuned = finetune_network(folder, tmp_path / "out", weights, config, quiet=True)
    assert tuned.before is None
    estimator = load_weights(tmp_path / "out")
    assert [c.name for c in estimator.target_columns] == ["mass", "concentration"]
    draws, _ = predict_targets(made.cutouts[:400], estimator, n_samples=64)
    assert draws.shape == (400, 64, 2)
    middle = draws.nanmedian(dim=1).values
    residual = torch.log(middle[:, 0]) - torch.from_numpy(np.log(mass[:400]))
    assert float(residual.std()) < 0.5 * np.log(mass).std()
    width = torch.log(draws[..., 0]).nan_to_num().std(dim=1).median()
    assert float(width) > 0.2  # the scatter that no pixel shows is in the posterior
    one, _ = predict_targets(made.cutouts[[7]], estimator, n_samples=64)
    # of the galaxy, not of its batch
    assert torch.allclose(draws[[7]], one, rtol=1e-4, atol=NETWORK)
    with pytest.raises(ValueError, match="use predict_cutouts"):
        predict_targets(made.cutouts[:2], load_weights(weights))
    with pytest.raises(ValueError, match="these weights predict mass, concentration"):
        predict_cutouts(made.cutouts[:2], estimator)
    table = hf.predict(made.cutouts[:400], estimator=estimator, samples=64, save_samples=True)
    assert np.allclose(table["mass_p50"], np.nanquantile(draws[..., 0], 0.5, axis=1), atol=TEXT)
    assert np.allclose(table["concentration_err"], np.nanstd(draws[..., 1], axis=1), atol=TEXT)
    assert table["mass_samples"].shape == (400, 64)
    # written and read by the command's own way
    predict = PredictOptions(weights=str(tmp_path / "out"), samples=64)
    hf.predict_files(folder, tmp_path / "predicted", predict=predict, run=FileRunOptions(limit=10))
    read = Table.read(tmp_path / "predicted" / "results.fits")
    assert {"mass_p16", "concentration_p975", "training_distance"} <= set(read.colnames)
    assert "x" not in read.colnames


def test_targets_need_labels(weights, tmp_path):
    config = tmp_path / "survey.yaml"
    config.write_text(yaml.safe_dump({"simulator": SIMPLE, "finetune": {"targets": ["mass"]}}))
    with pytest.raises(UsageError, match="need labelled cutouts"):
        finetune_network(config, tmp_path / "out", weights, quiet=True)


def test_weights_remember_their_columns(weights, tmp_path):
    estimator = load_weights(weights)
    assert estimator.target_columns == ()
    columns = [TargetColumn(f"a{k}", "log") for k in range(8)]
    save_weights(estimator, tmp_path, load_config(weights) | {"targets": columns, "n_targets": 8})
    assert load_weights(tmp_path).target_columns == tuple(columns)


def test_the_shipped_options_are_understood(weights, tmp_path):
    config = Path(__file__).parents[1] / "configs" / "finetune.yaml"
    with pytest.raises(UsageError, match="no truth table"):
        finetune_network(tmp_path, tmp_path / "out", weights, config, quiet=True)
