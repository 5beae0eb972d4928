"""Training: options and schedules, single batches, runs of seconds, and what they are held to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from train_helpers import SWIN, Shuffled, learner_of, lines, recipe, scenes

from hybridfit.data.errors import UsageError
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe import weight_files
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.rendering.render import render
from hybridfit.training import checkpoint
from hybridfit.training.data import VALIDATION
from hybridfit.training.learner import Counters, soft_clip, step
from hybridfit.training.loop import train
from hybridfit.training.recipe import (
    Recipe,
    TrainOptions,
    ema_decay,
    head_weight,
    image_share,
    learning_rate,
    progress_of,
)
from hybridfit.training.replay_buffer import ReplayBuffer
from hybridfit.training.train import train_network
from hybridfit.training.validation import gaussian_nll, laplace_limit

CONFIGS = Path(__file__).parents[1] / "configs"

# ---------------------------------------------------------------- options and schedules


@pytest.mark.parametrize("machine", ["", "_gpu"])
def test_shipped_recipes_are_understood(machine):
    first, second = (Recipe.read(CONFIGS / f"train{s}{machine}.yaml") for s in ("", "_refinement"))
    assert first.train.images > 1e6
    # the second stage refines the estimates of a network like the first, on other galaxies
    assert second.network.refinement
    assert second.train.seed != first.train.seed
    names = ("backbone", "embed", "depths", "heads", "width", "context", "flow_hidden")
    for name in names:
        assert getattr(first.network, name) == getattr(second.network, name), name
    for name in ("blocks", "corrections", "flow_layers"):
        assert getattr(first.network, name) <= getattr(second.network, name), name


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


def test_galaxies_without_a_finite_loss_are_dropped_and_counted():
    made, shard = recipe(), scenes(128)(0)
    learner, buffer = learner_of(made, shard), ReplayBuffer(1.0)
    shard.targets[5:9] = math.nan
    buffer.add(shard)
    for _ in range(4):  # two passes
        usable, sums = step(learner, buffer, made.train, 0.0)
        assert usable
        assert torch.isfinite(sums).all()
    assert 4 <= learner.counters.dropped <= 16  # each is used about twice
    assert all(torch.isfinite(p).all() for p in learner.model.parameters())


def test_a_batch_without_any_finite_loss_changes_nothing():
    made, shard = recipe(), scenes(128)(0)
    learner, buffer = learner_of(made, shard), ReplayBuffer(1.0)
    shard.targets[:] = math.nan
    buffer.add(shard)
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    usable, _ = step(learner, buffer, made.train, 0.0)
    assert not usable
    assert learner.counters.skipped == 1
    assert learner.counters.step == 1
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_views_are_read_in_their_share_of_the_batches():
    made = recipe(network=SWIN, image_share=[0.5, 0.5])
    shard = scenes(64, views=True)(0)
    learner, buffer = learner_of(made, shard), ReplayBuffer(1.0)
    buffer.add(shard)
    for _ in range(10):
        step(learner, buffer, made.train, 0.0)
    assert learner.counters.images == 640
    assert learner.counters.with_views == 320


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seconds."""
    out = tmp_path_factory.mktemp("run")
    assert train(recipe(), out, quiet=True) is not None
    return out


def test_a_run_leaves_log_weights_and_card(run):
    values = lines(run, "validation")[-1]
    assert values["images"] == 2048
    assert math.isfinite(values["limit"])
    assert values["all"] < values["prior"]
    card = json.loads((run / "weights" / "card.json").read_text())
    assert card["images"] == 2048
    assert card["distinct"] == 512
    assert {"cpu", "torch", "commit", "date"} <= set(card)
    assert torch.isfinite(weight_files.load_weights(run / "weights").distance_limit)


def test_time_ends_a_run_with_its_learning_rate_at_zero(tmp_path):
    train(recipe(images=10**9, minutes=0.1), tmp_path, quiet=True)
    counters = Counters(**checkpoint.load_checkpoint(tmp_path)["counters"])
    # the last batches may take a little longer than the limit, on a busy machine
    assert 0.1 <= counters.minutes < 0.2
    lr = checkpoint.load_checkpoint(tmp_path)["optimiser"]["param_groups"][0]["lr"]
    assert lr < 0.3 * 1.5e-3


# ---------------------------------------------------------------- what it is measured by


def test_laplace_limit_against_finite_differences():
    source = scenes(6)
    from hybridfit.simulation.simulate import simulate_fields

    made = simulate_fields(6, 3, source.simulator)
    cutouts, theta = made.cutouts, made.theta.double()
    frame = make_inputs(cutouts, with_views=False).frame
    space = ParameterSpace()

    def whitened(values: torch.Tensor) -> torch.Tensor:
        coords, _ = space.from_physical(values, cutouts.zeropoint)
        return space.to_whitened(coords, space.constants(frame.position_bounds))

    by_t, by_u, by_pixel = [], [], []
    for k in range(8):
        unit = frame.noise if k == 7 else torch.ones(6).double()
        small = torch.zeros(6, 8).double()
        small[:, k] = 1e-5 * unit

        def slope(f, h):
            width = (2 * h.norm(dim=1)).reshape(-1, *[1] * (f(theta).ndim - 1))
            return (f(theta + h) - f(theta - h)) / width

        by_t.append(slope(lambda v: encode(v, cutouts.zeropoint, frame), small))
        by_u.append(slope(whitened, small))
        image = slope(lambda v: render(v, cutouts, dtype=torch.float64), 200 * small)
        by_pixel.append(torch.where(cutouts.mask, 0.0, image / cutouts.sigma).flatten(1))
    t, u, pixel = (torch.stack(columns, dim=2) for columns in (by_t, by_u, by_pixel))
    information = pixel.transpose(1, 2) @ pixel + u.transpose(1, 2) @ u
    covariance = t @ torch.linalg.inv(information) @ t.transpose(1, 2)
    expected = 0.5 * torch.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    # the renderer forgets the aliasing of a well sampled PSF when it fits, not when it renders
    assert torch.allclose(laplace_limit(theta, cutouts), expected, atol=0.01)


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
    assert values["prior"] == pytest.approx(gaussian_nll(held.targets))
    # eight coordinates, each some three times narrower than before a pixel was read
    assert values["all"] < values["prior"] - 8
    # nothing can be learned from other galaxies' labels but how they are distributed
    assert wrong["all"] > values["prior"] - 1.5
