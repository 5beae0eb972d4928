"""Training data: shards depend on seed and number alone, whoever makes them and whoever waits."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from train_helpers import dying, failing, numbered, scenes

from hybridfit.training.data import TRAINING, VALIDATION, Producer, Shard, seed_of
from hybridfit.training.replay_buffer import ReplayBuffer, Supply, batches_with_views


def same(a: Shard, b: Shard) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Shard))


def test_shard_depends_on_seed_and_number_alone():
    source = scenes(24, views=True)
    first, again = source(3), scenes(24, views=True)(3)
    assert same(first, again)
    assert first.views.shape == (24, 5, 64, 64)
    assert first.views.dtype == torch.float16
    assert not torch.equal(first.targets, source(4).targets)
    assert not torch.equal(first.targets, scenes(24, seed=1)(3).targets)
    assert torch.equal(first.targets, scenes(24)(3).targets)  # with or without views


def test_streams_and_numbers_have_seeds_of_their_own():
    seeds = {
        seed_of(run, stream, k)
        for run in range(5)
        for stream in (TRAINING, VALIDATION)
        for k in range(200)
    }
    assert len(seeds) == 2000


@pytest.mark.parametrize("first", [0, 5])
def test_workers_give_the_same_shards_in_the_same_order(first):
    with Producer(numbered, first, workers=2) as producer:
        numbers = [int(producer.get().targets[0, 0]) for _ in range(6)]
    assert numbers == list(range(first, first + 6))


def test_simulation_in_a_worker_equals_simulation_at_home():
    source = scenes(16)
    with Producer(source, 2, workers=1) as away, Producer(source, 2) as home:
        assert same(away.get(), home.get())


def test_a_failing_worker_is_an_error():
    with Producer(failing, 0, workers=1) as producer:
        assert [int(producer.get().targets[0, 0]) for _ in range(2)] == [0, 1]
        with pytest.raises(RuntimeError, match="no galaxy today"):
            producer.get()


def test_a_killed_worker_is_an_error_and_no_hang():
    with (
        Producer(dying, 2, workers=1) as producer,
        pytest.raises(RuntimeError, match="ended with status 9 while making shard 2"),
    ):
        producer.get()


def test_leaving_a_producer_ends_its_processes():
    with Producer(numbered, 0, workers=2) as producer:
        producer.get()
        processes = producer._processes
    assert not any(p.is_alive() for p in processes)


def test_store_holds_the_last_shards_and_uses_them_evenly():
    one = numbered(0)
    buffer = ReplayBuffer(memory_gb=3.5 * one.n_bytes / 1e9)  # room for three
    for k in range(5):
        buffer.add(numbered(k))
    assert len(buffer) == 24
    assert sorted(set(buffer.contents().targets[:, 0].tolist())) == [2.0, 3.0, 4.0]
    count = np.zeros(24)
    for step in range(300):
        rows = buffer.draw(8, [0, step])
        count[rows.numpy()] += 1
        _, scalars, targets = buffer.batch(rows, with_views=False)
        assert torch.equal(scalars, targets)
    # independent draws would scatter by 10 about the mean 100
    assert count.std() < 5
    with pytest.raises(ValueError, match="expected 8"):
        buffer.add(one[0:4])


def test_draws_depend_on_their_seed_alone():
    def rows() -> list[list[int]]:
        buffer = ReplayBuffer(1.0)
        buffer.add(numbered(0))
        return [buffer.draw(4, [7, step]).tolist() for step in range(20)]

    assert rows() == rows()


class Late:
    """A producer whose shards are there only when one waits for them."""

    def __init__(self) -> None:
        self.made = 0

    def get(self, wait: bool = True) -> Shard | None:
        if not wait:
            return None
        self.made += 1
        return numbered(self.made)


def test_training_waits_only_where_galaxies_were_used_too_often():
    late = Late()
    supply = Supply(late, ReplayBuffer(1.0), uses=2, uses_max=5)
    supply.refill(0)
    assert (late.made, supply.distinct) == (1, 8)  # nothing to train with: waits
    supply.refill(16)
    assert late.made == 1  # due, but late: goes on with what there is
    supply.refill(39)
    assert late.made == 1
    supply.refill(40)  # each was used five times
    assert late.made == 2


def test_new_shards_come_at_the_pace_of_their_use():
    with Producer(numbered) as producer:
        supply = Supply(producer, ReplayBuffer(1.0), uses=4, uses_max=8)
        for images in range(0, 1600, 8):
            supply.refill(images)
        assert supply.distinct == pytest.approx(1600 / 4, abs=8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_share_of_batches_with_views(share):
    chosen = [batches_with_views(step, share) for step in range(2000)]
    assert np.mean(chosen) == pytest.approx(share, abs=0.002)
    for start in range(0, 2000, 100):  # and evenly: drawn at random they would scatter by .05
        assert np.mean(chosen[start : start + 100]) == pytest.approx(share, abs=0.03)
