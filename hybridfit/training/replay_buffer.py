"""Galaxies held in memory and used several times, while workers simulate the next ones."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from hybridfit.training.data import Producer, Shard


class ReplayBuffer:
    """Holds the last shards in memory and draws batches from them.

    The memory is allocated once, with the first shard; a new shard takes the oldest one's place.
    """

    def __init__(self, memory_gb: float, device: torch.device | str = "cpu") -> None:
        self._limit = memory_gb * 1e9
        self._device = device
        self._rows: Shard | None = None
        self._size = 0  # galaxies a shard
        self._slots = 0  # shards that fit
        self._count = 0  # shards seen
        self._uses = np.zeros(0, np.int32)  # of each galaxy in the buffer

    def __len__(self) -> int:
        return min(self._count, self._slots) * self._size

    def add(self, shard: Shard) -> None:
        """Take a shard in; all must have the same number of galaxies."""
        if self._rows is None:
            self._size = len(shard)
            self._slots = max(1, int(self._limit // shard.n_bytes))
            total = self._slots * self._size
            self._rows = Shard(
                *(
                    torch.empty(total, *value.shape[1:], dtype=value.dtype, device=self._device)
                    for value in (getattr(shard, f.name) for f in fields(shard))
                )
            )
            self._uses = np.zeros(total, np.int32)
        if len(shard) != self._size:
            raise ValueError(f"shard of {len(shard)} galaxies, expected {self._size} as before")
        start = (self._count % self._slots) * self._size
        for f in fields(shard):
            getattr(self._rows, f.name)[start : start + self._size] = getattr(shard, f.name)
        self._uses[start : start + self._size] = 0
        self._count += 1

    def contents(self) -> Shard:
        """Return all galaxies in the buffer (views of its memory)."""
        return self._galaxies()[slice(0, len(self))]

    def _galaxies(self) -> Shard:
        if self._rows is None:
            raise RuntimeError("the buffer is empty: add a shard before reading from it")
        return self._rows

    def draw(self, n: int, seed: list[int]) -> Tensor:
        """Choose ``n`` galaxies at random, the less used ones first; their rows (n,)."""
        rng = np.random.default_rng(seed)
        tried = rng.integers(0, len(self), 2 * n)
        # of twice as many candidates the less used half: uses stay even without book-keeping
        chosen = tried[np.argsort(self._uses[tried], kind="stable")[:n]]
        self._uses[chosen] += 1
        return torch.from_numpy(chosen).to(self._device)

    def batch(self, rows: Tensor, with_views: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Views (b, C, 64, 64), or (b, 0, 64, 64) without, scalars and targets, in float32."""
        galaxies = self._galaxies()
        views = galaxies.views[rows].float() if with_views else galaxies.views[rows, :0].float()
        return views, galaxies.scalars[rows], galaxies.targets[rows]


@dataclass
class Supply:
    """Refills a buffer from a producer at the pace of its use.

    Args:
        producer, buffer: see there.
        uses: intended number of uses of each galaxy.
        uses_max: its limit where simulation is slow; then training waits.
        distinct: galaxies taken from the producer, in all sessions of the run.
    """

    producer: Producer
    buffer: ReplayBuffer
    uses: float
    uses_max: float
    distinct: int = 0

    def refill(self, images: int) -> None:
        """Take the shards that are due after ``images`` uses; wait for one only if necessary."""
        while images >= self.uses * self.distinct or not len(self.buffer):
            must = not len(self.buffer) or images >= self.uses_max * self.distinct
            shard = self.producer.get(wait=must)
            if shard is None:
                return
            self.buffer.add(shard)
            self.distinct += len(shard)

    def fill(self, n: int) -> None:
        """Take shards until the buffer holds ``n`` galaxies, or is full."""
        before = -1
        while len(self.buffer) < n and len(self.buffer) != before:
            before = len(self.buffer)
            shard = self.producer.get()
            if shard is None:
                raise RuntimeError("the producer gave no shard although it was asked to wait")
            self.buffer.add(shard)
            self.distinct += len(shard)


def batches_with_views(step: int, share: float) -> bool:
    """Whether batch ``step`` reads the images: evenly spread, decided by its number alone."""
    golden = 0.6180339887498949
    return (step * golden) % 1.0 < share
