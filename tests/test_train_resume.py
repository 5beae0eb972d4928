"""Runs that end early and go on: checkpoints, resuming, wrong uses, processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from train_helpers import SWIN, learner_of, lines, mapping, recipe, scenes

from hybridfit.cli.app import make_app
from hybridfit.data.errors import UsageError
from hybridfit.npe import network, weight_files
from hybridfit.npe.network import Estimator
from hybridfit.npe.weight_files import load_weights
from hybridfit.pipeline.measure import starting_part
from hybridfit.training import checkpoint
from hybridfit.training.learner import step
from hybridfit.training.loop import claim, train
from hybridfit.training.recipe import Recipe
from hybridfit.training.replay_buffer import ReplayBuffer
from hybridfit.training.train import train_network
from hybridfit.training.training_log import LOG, last_validation
from hybridfit.training.validation import nll_of
from hybridfit.training.warm_start import load_start, read_start


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seconds."""
    out = tmp_path_factory.mktemp("run")
    assert train(recipe(), out, quiet=True) is not None
    return out


# ---------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip_is_exact(tmp_path):
    made, shard = recipe(), scenes(64)(0)
    learner, buffer = learner_of(made, shard), ReplayBuffer(1.0)
    buffer.add(shard)
    for _ in range(3):
        step(learner, buffer, made.train, 0.1)
    checkpoint.save_checkpoint(tmp_path, 3, learner.state())
    other = learner_of(made, shard)
    other.restore(checkpoint.load_checkpoint(tmp_path))
    assert other.counters == learner.counters
    for _ in range(2):  # optimiser and averages included: both go the same way from here
        step(learner, buffer, made.train, 0.1)
    again = ReplayBuffer(1.0)
    again.add(shard)
    for k in range(3):
        again.draw(made.train.batch, [made.train.seed, 2, k])
    for _ in range(2):
        step(other, again, made.train, 0.1)
    for mine, theirs in ((learner.model, other.model), (learner.ema, other.ema)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for k in (1, 2, 3):
        checkpoint.save_checkpoint(tmp_path, k, {"counters": {"step": k}})
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-000000002.pt",
        "checkpoint-000000003.pt",
    ]
    assert checkpoint.load_checkpoint(tmp_path)["counters"]["step"] == 3
    last = checkpoint.checkpoints(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:100])
    assert checkpoint.load_checkpoint(tmp_path)["counters"]["step"] == 2
    assert not list(tmp_path.glob(".*"))  # no temporary file stays


class Intruder:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"model": Intruder(mark)}, tmp_path / "checkpoint-000000001.pt")
    with pytest.raises(ValueError, match="can be read"):
        checkpoint.load_checkpoint(tmp_path)
    assert not mark.exists()
    torch.load(tmp_path / "checkpoint-000000001.pt", weights_only=False)
    assert mark.exists()  # it would have done harm


def test_a_log_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    assert last_validation(tmp_path, 9) == {}
    whole = [{"kind": "validation", "step": k, "all": -k} for k in (3, 6, 12)]
    text = "".join(json.dumps(line) + "\n" for line in whole)
    (tmp_path / LOG).write_text(text + '{"kind": "valid')
    assert last_validation(tmp_path, 9) == {"step": 6, "all": -6}
    (tmp_path / LOG).write_text(text + "12")  # of a line, what is JSON by itself
    assert last_validation(tmp_path, 99) == {"step": 12, "all": -12}


# ---------------------------------------------------------------- runs


def test_wrong_uses_of_a_run_folder(run, tmp_path):
    with pytest.raises(ValueError, match="give --resume"):
        train(recipe(), run, quiet=True)
    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        train(recipe(), tmp_path, resume=True, quiet=True)
    with pytest.raises(ValueError, match="'network' differs"):
        train(recipe({"width": 32}), run, resume=True, quiet=True)
    with pytest.raises(ValueError, match=r"train\.seed"):
        train(recipe(seed=3), run, resume=True, quiet=True)


def test_a_new_run_keeps_no_validation_of_an_earlier_one(tmp_path):
    # a run killed before its first checkpoint leaves one, and the next may be of another recipe
    stale = tmp_path / "validation.safetensors"
    stale.write_bytes(b"of another simulator")
    claim(tmp_path, Recipe(), resume=False)
    assert not stale.exists()


def test_resuming_a_whole_run_changes_nothing(run):
    before = checkpoint.load_checkpoint(run)["counters"]
    weights = weight_files.load_weights(run / "weights").state_dict()
    assert train(recipe(), run, resume=True, quiet=True) is not None
    assert checkpoint.load_checkpoint(run)["counters"] == before
    for name, value in weight_files.load_weights(run / "weights").state_dict().items():
        if not name.startswith(("context_", "distance_")):  # set on other galaxies
            assert torch.equal(value, weights[name])


def test_resuming_asks_no_hub_for_weights(tmp_path, monkeypatch):
    asked: list[bool] = []
    make = network.make_backbone

    def noted(options):
        asked.append(options.pretrained)
        return make(options)

    monkeypatch.setattr(network, "make_backbone", noted)
    wanted = SWIN | {"pretrained": True}
    train(recipe(wanted, images=64), tmp_path, quiet=True)
    train(recipe(wanted, images=128), tmp_path, resume=True, quiet=True)
    assert asked == [True, False]
    assert weight_files.load_config(tmp_path / "weights")["network"].pretrained


def test_a_run_goes_on_with_more_images(tmp_path):
    train(recipe(images=1024), tmp_path, quiet=True)
    first = checkpoint.load_checkpoint(tmp_path)["counters"]
    train(recipe(images=2048), tmp_path, resume=True, quiet=True)
    second = checkpoint.load_checkpoint(tmp_path)["counters"]
    assert (first["images"], second["images"]) == (1024, 2048)
    assert second["step"] == 2 * first["step"]
    assert second["distinct"] > first["distinct"]
    assert second["minutes"] > first["minutes"]
    steps = [line["step"] for line in lines(tmp_path, "validation")]
    assert steps == sorted(steps)


def test_commands_tell_wrong_use_from_failure(run, tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe().to_mapping()))

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(make_app(), [str(a) for a in arguments])

    held = call("train", config, "-o", run, "--quiet")
    assert held.exit_code == 2
    assert "give --resume" in held.output
    whole = call("train", config, "-o", run, "--resume", "--quiet")
    assert (whole.exit_code, whole.output) == (0, "")
    exported = call("train", config, "-o", run, "--export", tmp_path / "weights")
    assert exported.exit_code == 0
    assert weight_files.load_weights(tmp_path / "weights").n_targets == 8
    assert call("train", tmp_path / "none.yaml", "-o", run).exit_code == 2
    other = call("finetune", tmp_path, "-o", tmp_path / "tuned", "--weights", tmp_path)
    assert other.exit_code == 2
    assert "no weights.safetensors" in other.output


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hybridfit", "train", *(str(a) for a in arguments)]


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path, number):
    out, config = tmp_path / "out", tmp_path / "recipe.yaml"
    options = {"workers": 1, "images": 10**7, "checkpoint_minutes": 0.02}
    config.write_text(yaml.safe_dump(mapping(**options)))
    started = subprocess.Popen(command(config, "-o", out, "--quiet"))
    try:
        # a minute and more on a machine with much else to do
        assert wait_for(lambda: len(checkpoint.checkpoints(out)) == checkpoint.KEEP, 150)
        workers = children(started.pid)
        os.kill(started.pid, number)
        status = started.wait(60)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    finally:
        started.kill()
    assert workers
    assert wait_for(lambda: not any(alive(w) for w in workers), 30)
    held = checkpoint.load_checkpoint(out)["counters"]
    assert held["images"] > 0
    more = held["images"] + 640
    assert train_network(config, out, resume=True, images=more, quiet=True)
    after = checkpoint.load_checkpoint(out)["counters"]
    assert after["images"] >= more
    assert after["step"] == after["images"] // 64
    assert after["minutes"] > held["minutes"]
    assert after["distinct"] > held["distinct"]


# ---------------------------------------------------------------- from what another run learned


def test_a_deeper_network_starts_as_good_as_the_one_it_is_made_of(run, tmp_path):
    weights, before = read_start(run)
    assert before[-1]["images"] >= recipe().train.images
    deeper = replace(recipe().network, blocks=4, flow_layers=5)
    model = Estimator(deeper, len(weights["scalar_mean"]))
    load_start(model, weights)
    was = load_weights(run / "weights")
    shard = scenes(64, seed=9)(0)
    # exported matrices are float16
    assert torch.allclose(nll_of(model, shard), nll_of(was, shard), atol=0.05)
    again, _ = read_start(run / "weights")
    assert set(again) == set(weights)


def test_a_network_that_looks_back_starts_from_one_that_does_not(run, tmp_path):
    looking = recipe({"refinement": True}, images=256)
    with pytest.raises(ValueError, match="--initial-weights"):
        train(looking, tmp_path / "none", quiet=True)
    out = tmp_path / "second"
    values = train(looking, out, quiet=True, start=run)
    assert values is not None
    card = weight_files.load_card(out / "weights")
    assert card["images"] == 256
    assert card["before"][-1]["images"] == recipe().train.images
    made = load_weights(out / "weights")
    assert made.initial_estimator is not None
    initial_estimator = checkpoint.load_checkpoint(run)["ema"]
    for (
        name,
        value,
    ) in made.initial_estimator.named_parameters():  # left as it was, but for being float16
        assert torch.allclose(value, initial_estimator[name], atol=2e-3, rtol=1e-3), name
    assert torch.isfinite(made.distance_limit)
    assert torch.isfinite(
        made.initial_estimator.distance_limit
    )  # fits without a posterior ask it alone
    assert starting_part(made, "covariance") is made.initial_estimator
    assert starting_part(made, "posterior") is made
    # it goes on with more images, from its own initial estimator
    assert train(recipe({"refinement": True}, images=384), out, resume=True, quiet=True) is not None
    # and another one may start from it
    weights, before = read_start(out)
    assert before[0]["images"] == recipe().train.images
    # also one that tells its network less of the steps: nothing is read of what is new
    names = ("entry.weight", "blocks.0.gate.weight", "scalar_mean", "scalar_std")
    fewer = {k: v[..., :-4] if k in names else v for k, v in weights.items()}
    model = Estimator(looking.network, len(weights["scalar_mean"]))
    load_start(model, fewer)
    for name in names[:2]:
        assert torch.equal(model.state_dict()[name][..., :-4], fewer[name]), name
        assert (model.state_dict()[name][..., -4:] == 0).all(), name


@pytest.mark.parametrize(
    ("network", "words"),
    [({"width": 32}, "instead of"), ({"blocks": 1}, "have blocks.1"), (SWIN, "lack backbone")],
)
def test_what_does_not_fit_is_said_before_anything_is_simulated(run, tmp_path, network, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(mapping(network)))
    with pytest.raises(UsageError, match=words):
        train_network(path, tmp_path / "out", start=run, quiet=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--initial-weights"):
        train_network(path, run, resume=True, start=run, quiet=True)


def test_compiled_backbone_gives_the_same_losses():
    made = recipe(SWIN)
    shard = scenes(8, views=True)(0)
    learner = learner_of(made, shard)
    plain = learner.model.losses(shard.views.float(), shard.scalars, shard.targets)["nll"]
    learner.model.compile_backbone()
    compiled = learner.model.losses(shard.views.float(), shard.scalars, shard.targets)["nll"]
    assert torch.allclose(plain, compiled, rtol=1e-3, atol=1e-3)
    assert set(learner.model.state_dict()) == set(learner.ema.state_dict())
