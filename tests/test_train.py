"""Training: options and schedules, runs that are killed and go on, weights that come back."""

from __future__ import annotations

import json
import math
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
from train_helpers import SWIN, Shuffled, mapping, recipe, scenes
from typer.testing import CliRunner, Result

from hybridfit.cli import make_app
from hybridfit.model.render import render
from hybridfit.npe import checkpoint as files
from hybridfit.npe.data import VALIDATION, Shard
from hybridfit.npe.export import export_checkpoint
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.recipe import (
    Recipe,
    TrainOptions,
    ema_decay,
    head_weight,
    image_share,
    learning_rate,
    progress_of,
)
from hybridfit.npe.session import Session, make_optimiser, soft_clip, step
from hybridfit.npe.store import ReplayStore
from hybridfit.npe.train import Counters, claim, train
from hybridfit.npe.validation import laplace_limit, nll_of, prior_nll
from hybridfit.parameters import ParameterSpace
from hybridfit.pipeline import UsageError
from hybridfit.pipeline.training import train_network

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seconds."""
    out = tmp_path_factory.mktemp("run")
    assert train(recipe(), out, quiet=True) is not None
    return out


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    told = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


# ---------------------------------------------------------------- options and schedules


@pytest.mark.parametrize("name", ["train.yaml", "train_gpu.yaml"])
def test_shipped_recipes_are_understood(name):
    assert Recipe.read(CONFIGS / name).train.images > 1e6


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tran": {}}, "unknown option 'tran'.*did you mean 'train'"),
        ({"train": {"batches": 3}}, "unknown option 'batches' in section 'train'"),
        ({"network": {"bakbone": "none"}}, "did you mean 'backbone'"),
        ({"simulator": {"sidess": [32]}}, "did you mean 'sides'"),
        ({"prior": {"nn": {}}}, "unknown option 'nn' in prior"),
        ({"train": 3}, "section 'train' of .* is 3"),
        ({"train": {"batch": 0}}, "train.batch is 0"),
        ({"train": {"epochs_per_image": 8, "reuse_max": 2}}, "epochs_per_image <= reuse_max"),
        ({"train": {"decay_form": "step"}}, "decay_form is 'step'"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path, sections, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    with pytest.raises(ValueError, match=words):
        Recipe.read(path)
    with pytest.raises(UsageError, match=words):
        train_network(path, tmp_path / "out")


def test_recipe_survives_yaml():
    made = recipe(network=SWIN, minutes=3.0)
    text = yaml.safe_dump(made.to_mapping())
    assert Recipe.from_mapping(yaml.safe_load(text)) == made


def test_schedules():
    options = TrainOptions(images=1000, warm_up=10, decay=0.4, image_share=(0.2, 1.0))
    rates = [learning_rate(100, p, options) for p in (0.0, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([1.5e-3, 1.5e-3, 0.75e-3, 0.0])
    assert learning_rate(0, 0.0, options) == pytest.approx(1.5e-4)
    cosine = replace(options, decay_form="cosine")
    assert learning_rate(100, 0.8, cosine) == pytest.approx(0.75e-3)
    assert learning_rate(100, 0.7, cosine) > learning_rate(100, 0.7, options)
    assert [head_weight(p, options) for p in (0, 0.25, 0.5, 1)] == pytest.approx([0.3, 0.15, 0, 0])
    assert [image_share(p, options) for p in (0, 0.5, 0.75, 1)] == pytest.approx([0.2, 0.2, 0.6, 1])
    assert ema_decay(0, 0.0, options) == pytest.approx(0.1)
    assert ema_decay(10**6, 1.0, options) == pytest.approx(0.9995)


def test_progress_is_by_images_or_by_time():
    options = TrainOptions(images=1000, minutes=10.0)
    assert progress_of(100, 4.0, options) == pytest.approx(0.4)
    assert progress_of(700, 4.0, options) == pytest.approx(0.7)
    assert progress_of(2000, 4.0, options) == 1.0
    assert progress_of(100, 1e9, replace(options, minutes=math.inf)) == pytest.approx(0.1)


def test_soft_clip_bounds_one_galaxy():
    nll = torch.tensor([-20.0, 29.9, 30.0, 130.0], requires_grad=True)
    clipped = soft_clip(nll, 30.0)
    clipped.sum().backward()
    assert clipped[:3].tolist() == pytest.approx(nll[:3].tolist())
    assert float(clipped.detach()[3]) == pytest.approx(30 + math.log(101))
    assert nll.grad.tolist() == pytest.approx([1, 1, 1, 1 / 101], abs=1e-6)


# ---------------------------------------------------------------- one batch


def session_of(recipe: Recipe, shard: Shard) -> Session:
    torch.manual_seed(0)
    model = Estimator(recipe.network, shard.scalars.shape[1])
    model.set_whitening(shard.scalars, shard.targets)
    ema = Estimator(recipe.network, shard.scalars.shape[1])
    ema.load_state_dict(model.state_dict())
    return Session(model, ema, make_optimiser(model, 1e-3, 0.01))


def test_galaxies_without_a_finite_loss_are_dropped_and_counted():
    made, shard = recipe(), scenes(128)(0)
    session, store = session_of(made, shard), ReplayStore(1.0)
    shard.targets[5:9] = math.nan
    store.add(shard)
    for _ in range(4):  # two passes
        usable, sums = step(session, store, made.train, 0.0)
        assert usable
        assert torch.isfinite(sums).all()
    assert 4 <= session.counters.dropped <= 16  # each is used about twice
    assert all(torch.isfinite(p).all() for p in session.model.parameters())


def test_a_batch_without_any_finite_loss_changes_nothing():
    made, shard = recipe(), scenes(128)(0)
    session, store = session_of(made, shard), ReplayStore(1.0)
    shard.targets[:] = math.nan
    store.add(shard)
    before = {k: v.clone() for k, v in session.model.state_dict().items()}
    usable, _ = step(session, store, made.train, 0.0)
    assert not usable
    assert session.counters.skipped == 1
    assert session.counters.step == 1
    for name, value in session.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_views_are_read_in_their_share_of_the_batches():
    made = recipe(network=SWIN, image_share=[0.5, 0.5])
    shard = scenes(64, views=True)(0)
    session, store = session_of(made, shard), ReplayStore(1.0)
    store.add(shard)
    for _ in range(10):
        step(session, store, made.train, 0.0)
    assert session.counters.images == 640
    assert session.counters.with_views == 320


# ---------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip_is_exact(tmp_path):
    made, shard = recipe(), scenes(64)(0)
    session, store = session_of(made, shard), ReplayStore(1.0)
    store.add(shard)
    for _ in range(3):
        step(session, store, made.train, 0.1)
    files.save_checkpoint(tmp_path, 3, session.state())
    other = session_of(made, shard)
    other.restore(files.load_checkpoint(tmp_path))
    assert other.counters == session.counters
    for _ in range(2):  # optimiser and averages included: both go the same way from here
        step(session, store, made.train, 0.1)
    again = ReplayStore(1.0)
    again.add(shard)
    for k in range(3):
        again.draw(made.train.batch, [made.train.seed, 2, k])
    for _ in range(2):
        step(other, again, made.train, 0.1)
    for mine, theirs in ((session.model, other.model), (session.ema, other.ema)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for k in (1, 2, 3):
        files.save_checkpoint(tmp_path, k, {"counters": {"step": k}})
    assert [p.name for p in files.checkpoints(tmp_path)] == [
        "checkpoint-000000002.pt",
        "checkpoint-000000003.pt",
    ]
    assert files.load_checkpoint(tmp_path)["counters"]["step"] == 3
    last = files.checkpoints(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:100])
    assert files.load_checkpoint(tmp_path)["counters"]["step"] == 2
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
        files.load_checkpoint(tmp_path)
    assert not mark.exists()
    torch.load(tmp_path / "checkpoint-000000001.pt", weights_only=False)
    assert mark.exists()  # it would have done harm


# ---------------------------------------------------------------- runs


def test_a_run_leaves_log_weights_and_card(run):
    values = lines(run, "validation")[-1]
    assert values["images"] == 2048
    assert math.isfinite(values["limit"])
    assert values["all"] < values["prior"]
    card = json.loads((run / "weights" / "card.json").read_text())
    assert card["images"] == 2048
    assert card["distinct"] == 512
    assert {"cpu", "torch", "commit", "date"} <= set(card)
    assert torch.isfinite(files.load_weights(run / "weights").distance_limit)


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
    before = files.load_checkpoint(run)["counters"]
    weights = files.load_weights(run / "weights").state_dict()
    assert train(recipe(), run, resume=True, quiet=True) is not None
    assert files.load_checkpoint(run)["counters"] == before
    for name, value in files.load_weights(run / "weights").state_dict().items():
        if not name.startswith(("context_", "distance_")):  # set on other galaxies
            assert torch.equal(value, weights[name])


def test_a_run_goes_on_with_more_images(tmp_path):
    train(recipe(images=1024), tmp_path, quiet=True)
    first = files.load_checkpoint(tmp_path)["counters"]
    train(recipe(images=2048), tmp_path, resume=True, quiet=True)
    second = files.load_checkpoint(tmp_path)["counters"]
    assert (first["images"], second["images"]) == (1024, 2048)
    assert second["step"] == 2 * first["step"]
    assert second["distinct"] > first["distinct"]
    assert second["minutes"] > first["minutes"]
    steps = [line["step"] for line in lines(tmp_path, "validation")]
    assert steps == sorted(steps)


def test_time_ends_a_run_with_its_learning_rate_at_zero(tmp_path):
    train(recipe(images=10**9, minutes=0.1), tmp_path, quiet=True)
    counters = Counters(**files.load_checkpoint(tmp_path)["counters"])
    # the last batches may take a little longer than the limit, on a busy machine
    assert 0.1 <= counters.minutes < 0.2
    lr = files.load_checkpoint(tmp_path)["optimiser"]["param_groups"][0]["lr"]
    assert lr < 0.3 * 1.5e-3


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
    assert files.load_weights(tmp_path / "weights").n_targets == 8
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
        assert wait_for(lambda: len(files.checkpoints(out)) == files.KEEP, 150)
        workers = children(started.pid)
        os.kill(started.pid, number)
        status = started.wait(60)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    finally:
        started.kill()
    assert workers
    assert wait_for(lambda: not any(alive(w) for w in workers), 30)
    held = files.load_checkpoint(out)["counters"]
    assert held["images"] > 0
    more = held["images"] + 640
    assert train_network(config, out, resume=True, images=more, quiet=True)
    after = files.load_checkpoint(out)["counters"]
    assert after["images"] >= more
    assert after["step"] == after["images"] // 64
    assert after["minutes"] > held["minutes"]
    assert after["distinct"] > held["distinct"]


# ---------------------------------------------------------------- weights


def test_weights_come_back(run, tmp_path):
    estimator = files.load_weights(run / "weights")
    shard = scenes(64, stream=VALIDATION)(0)
    config = files.load_config(run / "weights")
    files.save_weights(estimator, tmp_path / "exact", config, half=False)
    exact = files.load_weights(tmp_path / "exact")
    assert not exact.training
    before = nll_of(estimator, shard, use_views=False)
    assert torch.equal(nll_of(exact, shard, use_views=False), before)
    half = files.save_weights(exact, tmp_path / "half", config, {"limit": math.inf})
    after = nll_of(files.load_weights(half), shard, use_views=False)
    # float16 keeps 11 bits of each weight: 1e-3 nat in the mean is far below what matters
    assert float((after - before).mean().abs()) < 1e-3
    sizes = [(tmp_path / name / files.WEIGHTS).stat().st_size for name in ("half", "exact")]
    assert sizes[0] < 0.6 * sizes[1]
    assert json.loads((half / files.CARD).read_text()) == {"limit": None}


def test_export_of_a_checkpoint(run, tmp_path):
    export_checkpoint(recipe(), run, tmp_path)
    averaged = files.load_checkpoint(run)["ema"]
    for name, value in files.load_weights(tmp_path).named_parameters():
        assert torch.allclose(value, averaged[name], rtol=1e-3, atol=1e-6), name


def test_wrong_weights_say_so(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors"):
        files.load_weights(tmp_path)
    config = files.load_config(run / "weights")
    estimator = files.load_weights(run / "weights")
    other = config | {"network": replace(config["network"], width=32)}
    files.save_weights(estimator, tmp_path, other)
    with pytest.raises(ValueError, match="does not fit the network"):
        files.load_weights(tmp_path)
    with pytest.raises(ValueError, match="unknown option 'seed'"):
        files.save_weights(estimator, tmp_path, config | {"seed": 1})


# ---------------------------------------------------------------- what it is measured by


def test_laplace_limit_against_finite_differences():
    source = scenes(6)
    from hybridfit.model.simulate import simulate_scenes

    made = simulate_scenes(6, 3, source.simulator)
    cutouts, theta = made.cutouts, made.theta.double()
    frame = make_inputs(cutouts, with_views=False).frame
    space = ParameterSpace()

    def free(values: torch.Tensor) -> torch.Tensor:
        raw, _ = space.from_physical(values, cutouts.zeropoint)
        return space.to_free(raw, frame.box)

    by_t, by_u, by_pixel = [], [], []
    for k in range(8):
        unit = frame.noise if k == 7 else torch.ones(6).double()
        small = torch.zeros(6, 8).double()
        small[:, k] = 1e-5 * unit

        def slope(f, h):
            width = (2 * h.norm(dim=1)).reshape(-1, *[1] * (f(theta).ndim - 1))
            return (f(theta + h) - f(theta - h)) / width

        by_t.append(slope(lambda v: encode(v, cutouts.zeropoint, frame), small))
        by_u.append(slope(free, small))
        image = slope(lambda v: render(v, cutouts, dtype=torch.float64), 200 * small)
        by_pixel.append(torch.where(cutouts.mask, 0.0, image / cutouts.sigma).flatten(1))
    t, u, pixel = (torch.stack(columns, dim=2) for columns in (by_t, by_u, by_pixel))
    information = pixel.transpose(1, 2) @ pixel + u.transpose(1, 2) @ u
    covariance = t @ torch.linalg.inv(information) @ t.transpose(1, 2)
    expected = 0.5 * torch.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    # the renderer forgets the aliasing of a well sampled PSF when it fits, not when it renders
    assert torch.allclose(laplace_limit(theta, cutouts, space), expected, atol=0.01)


@pytest.mark.slow
def test_a_minute_of_training_beats_the_prior_and_shuffled_labels_do_not(tmp_path):
    made = recipe(
        SWIN | {"width": 128, "context": 64},
        images=80_000,
        shard=1024,
        whitening=4096,
        warm_up=100,
        validation=512,
        image_share=[0.05, 0.1],
        epochs_per_image=8,
        reuse_max=20,
    )
    source = scenes(1024, views=True)
    values = train(made, tmp_path / "right", quiet=True)
    wrong = train(made, tmp_path / "wrong", quiet=True, source=Shuffled(source))
    assert values is not None
    assert wrong is not None
    held = scenes(512, stream=VALIDATION)(0)
    assert values["prior"] == pytest.approx(prior_nll(held))
    # eight coordinates, each some three times narrower than before a pixel was read
    assert values["all"] < values["prior"] - 8
    # nothing can be learned from other galaxies' labels but how they are distributed
    assert wrong["all"] > values["prior"] - 1.5
