"""Batches with draws of each galaxy, of which some may have fewer than others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from hybridfit.batch import Batch

FILL = "fill"  # key in the metadata of fields with an entry for each draw


def per_draw(fill: float = torch.nan) -> dict[str, float]:
    """Return the metadata of a field (B, S, ...) of a `DrawsBatch`.

    Args:
        fill: the entries where a galaxy has fewer draws than others.
    """
    return {FILL: fill}


@dataclass(frozen=True)
class DrawsBatch(Batch):
    """Base of batches with S draws of each galaxy, in the fields that `per_draw` declares.

    A field may be such a batch itself. Where batches of different S are put together, galaxies
    get more draws, which do not count.
    """

    @property
    def draw_count(self) -> int:
        """S, the draws of each galaxy, those that do not count included."""
        return int(next(iter(self._draws().values()))[0].shape[1])

    def padded(self, count: int) -> Self:
        """Return ``count`` draws of each galaxy; those that are added do not count."""
        values: dict[str, Any] = {
            name: lengthened(value, count, fill) for name, (value, fill) in self._draws().items()
        }
        values |= {name: nested.padded(count) for name, nested in self._nested().items()}
        return self._with(values)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join the galaxies of several batches; those of fewer draws are `padded`.

        Raises:
            ValueError: as `Batch.cat`.
        """
        longest = max((part.draw_count for part in parts), default=0)
        return super().cat([part.padded(longest) for part in parts])

    def _draws(self) -> dict[str, tuple[Tensor, float]]:
        """Return the fields with an entry for each draw, and what stands where there is none."""
        declared = {f.name: f.metadata[FILL] for f in fields(self) if FILL in f.metadata}
        return {name: (getattr(self, name), fill) for name, fill in declared.items()}

    def _nested(self) -> dict[str, DrawsBatch]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, DrawsBatch)}


def lengthened(values: Tensor, count: int, fill: float = torch.nan) -> Tensor:
    """Return ``values`` (B, S, ...) with ``count`` entries along the second axis, filled up."""
    batch, own, *rest = values.shape
    if own == count:
        return values
    return torch.cat([values, values.new_full((batch, count - own, *rest), fill)], dim=1)
