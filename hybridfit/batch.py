"""Batches: frozen dataclasses with one row for each of B galaxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.options.checks import described

Rows = int | slice | Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor
SHARED = "shared"  # key in the metadata of fields that all rows share


def shared(**options: Any) -> Any:
    """Declare a field of a `Batch` that all rows share, although its type could have rows.

    Args:
        options: of `dataclasses.field`.
    """
    return field(metadata={SHARED: True}, **options)


@dataclass(frozen=True)
class Batch:
    """Base of frozen dataclasses whose fields have one entry for each of B galaxies.

    Tensors, numpy arrays, tuples, lists, mappings to arrays and other batches have rows along
    their first axis; in a tuple of batches each has them. None stays None. Everything else, such
    as a `ParameterSpace`, and every field declared by `shared` belongs to all rows.

    Selected rows and joined batches were checked when they were created: ``__post_init__`` does
    not run again.
    """

    def __len__(self) -> int:
        for value in self._rows().values():
            count = _count(value)
            if count is not None:
                return count
        raise TypeError(f"{type(self).__name__} has no rows")

    def __getitem__(self, index: Rows) -> Self:
        """Return the galaxies of these rows, in this order, as a batch.

        Args:
            index: one row number, row numbers, a slice, or a mask (B,).

        Raises:
            IndexError: for a row that does not exist, or a mask of another length.
            TypeError: for an index of another kind.
        """
        return self._map(_Selection(index, len(self)))

    def to(self, device: torch.device | str) -> Self:
        """Return the same batch with its tensors on ``device``."""
        return self._map(lambda value: value.to(device) if isinstance(value, Tensor) else value)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join the rows of several batches; shared fields are taken from the first.

        Raises:
            ValueError: without a batch, or for a field that some of them lack.
        """
        if not parts:
            raise ValueError(f"no {cls.__name__} came, expected one or more to put together")
        columns = {name: [getattr(part, name) for part in parts] for name in parts[0]._rows()}
        joined = {name: _joined(f"{cls.__name__}.{name}", v) for name, v in columns.items()}
        return parts[0]._with(joined)

    def put(self, rows: Tensor, other: Self) -> Self:
        """Return the batch with its tensors replaced, in ``rows`` (b,), by those of ``other``."""
        values: dict[str, Any] = {}
        for name, value in self._rows().items():
            theirs = getattr(other, name)
            if isinstance(value, Batch):
                values[name] = value.put(rows, theirs)
            elif isinstance(value, Tensor):
                values[name] = value.index_copy(0, rows, theirs.to(value.dtype))
        return self._with(values)

    def _rows(self) -> dict[str, Any]:
        """Return the fields that have rows."""
        return {
            f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get(SHARED, False)
        }

    def _map(self, function: Callable[[Any], Any]) -> Self:
        return self._with({name: _mapped(v, function) for name, v in self._rows().items()})

    def _with(self, values: Mapping[str, Any]) -> Self:
        """Return the same with other values, without checking them."""
        new = object.__new__(type(self))
        for f in fields(self):
            value = values[f.name] if f.name in values else getattr(self, f.name)
            object.__setattr__(new, f.name, value)
        return new


class _Selection:
    """Selects rows of a tensor, an array or a tuple; the index is checked once for all."""

    def __init__(self, index: Rows, count: int) -> None:
        self.index = _checked(index, count)

    def __call__(self, value: Any) -> Any:
        index = self.index
        if isinstance(value, Tensor):
            return value[index if isinstance(index, slice) else index.to(value.device)]
        if isinstance(value, np.ndarray):
            return value[index if isinstance(index, slice) else index.cpu().numpy()]
        if isinstance(index, slice):
            return value[index]
        numbers = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return tuple(value[i] for i in numbers.tolist())


def _checked(index: Any, count: int) -> slice | Tensor:
    """Return an index as a slice with positive step, or as a tensor of row numbers or a mask."""
    if isinstance(index, slice):
        if index.step is None or index.step > 0:
            return index
        return torch.tensor(range(count)[index], dtype=torch.int64)
    if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.int64:
        return index  # torch itself checks the numbers, without waiting for a GPU
    chosen = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise IndexError(f"a mask of shape {chosen.shape} came for {count} galaxies")
        return index if isinstance(index, Tensor) else torch.from_numpy(chosen)
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.ndim > 1):
        raise TypeError(f"index is {described(index)}, expected row numbers, a slice or a mask")
    rows = np.atleast_1d(chosen).astype(np.int64)
    for i in rows[(rows < -count) | (rows >= count)]:
        raise IndexError(f"row {i} is not there: {count} galaxies have rows 0 to {count - 1}")
    return torch.from_numpy(rows)


def _has_columns(value: Any) -> bool:
    """Return whether a tuple holds batches, each of which has the rows."""
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, Batch) for v in value)


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to each array and tuple that has rows."""
    if isinstance(value, Batch):
        return value._map(function)
    if isinstance(value, Mapping):
        return {key: _mapped(one, function) for key, one in value.items()}
    if _has_columns(value):
        return tuple(_mapped(one, function) for one in value)
    if isinstance(value, tuple) and not value:
        return value  # no batches, or no rows
    return function(value) if isinstance(value, Tensor | np.ndarray | tuple | list) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif _has_columns(value):
        yield from value
    else:
        yield value


def _count(value: Any) -> int | None:
    """Return the rows of a field; None if it has none."""
    for one in _leaves(value):
        if isinstance(one, Tensor | np.ndarray):
            return int(one.shape[0])
        if isinstance(one, Batch | tuple | list):
            return len(one)
    return None


def _joined(name: str, values: Sequence[Any]) -> Any:
    """Join the rows of one field of several batches."""
    first = values[0]
    if any(map(_has_columns, values)) and len({len(value) for value in values}) > 1:
        counts = ", ".join(sorted({str(len(value)) for value in values}))
        raise ValueError(f"{name} has {counts} entries in batches to put together, expected alike")
    if any((value is None) != (first is None) for value in values):
        raise ValueError(f"{name} is missing in some of {len(values)} batches to put together")
    if isinstance(first, Tensor):
        if any(value.shape[1:] != first.shape[1:] for value in values):
            shapes = ", ".join(sorted({str(tuple(value.shape[1:])) for value in values}))
            raise ValueError(f"rows of {name} have the shapes {shapes}, expected one shape")
        return torch.cat(list(values))
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, Batch):
        return type(first).cat(values)
    if isinstance(first, Mapping):
        return {key: _joined(name, [value[key] for value in values]) for key in first}
    if _has_columns(first):
        return tuple(_joined(name, column) for column in zip(*values, strict=True))
    if isinstance(first, tuple | list):
        return tuple(entry for value in values for entry in value)
    return first
