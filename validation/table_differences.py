"""Find differences between two tables of results whose columns may have been renamed.

Numbers are compared relative to the larger of the value and its quoted error, so that a position
near zero does not ask for more digits than it has; other numbers relative to their own size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Columns that have other names now, old name to new.
RENAMED_COLUMNS: dict[str, str] = {
    "missed": "missed_mass",
    "khat": "pareto_k",
    "risk": "catastrophic_probability",
    "disagreement": "fit_network_distance",
    "distance": "training_distance",
    "held": "fixed",
    "message": "notes",
}
WORDING = ("message", "notes", "held", "fixed")  # texts for people, which may be reworded
SUFFIXES = re.compile(r"_(err|p025|p16|p50|p84|p975)$")

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """How far one column differs.

    Args:
        column: its old name, and the new one where it has another.
        largest: largest relative difference; of texts 0 or infinite; infinite where one side has
            NaN or another shape.
        differing: number of rows above the tolerance.
        example: the worst row, in words; "" where nothing differs.
        counts: whether a difference is one; not for texts that may be reworded.
    """

    column: str
    largest: float
    differing: int
    example: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Comparison:
    """All columns of two tables: their differences, and what only one side has."""

    columns: tuple[Difference, ...]
    lost: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs by more than the tolerance and no column is lost."""
        return not self.lost and not any(d.differing and d.counts for d in self.columns)


def compare_tables(
    old: Columns,
    new: Columns,
    renamed: Mapping[str, str] = RENAMED_COLUMNS,
    tolerance: float = 1e-6,
) -> Comparison:
    """Compare every column of ``old`` with that of ``new`` under its own or its newer name.

    Args:
        old, new: columns (B, ...) by name, of the same galaxies in the same order; each has "id".
        renamed: old names to new ones; a column that still has its old name is found too.
        tolerance: relative difference above which a row differs.

    Raises:
        ValueError: if the tables are not of the same galaxies.
    """
    ids = [str(name) for name in old["id"]]
    if ids != [str(name) for name in new["id"]]:
        raise ValueError(f"the tables are of other galaxies: {ids[:3]}... and {new['id'][:3]}...")
    found = {name: _newer_name(name, new, renamed) for name in old}
    columns = tuple(
        _difference(name, there, old, new[there], ids, tolerance)
        for name, there in found.items()
        if there is not None
    )
    lost = tuple(name for name, there in found.items() if there is None)
    return Comparison(columns, lost, tuple(name for name in new if name not in found.values()))


def relative_difference(
    old: NDArray[Any], new: NDArray[Any], scale: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return |new - old| / max(|old|, scale), of the shape of ``old``.

    Two NaN, or two equal infinities, are the same; NaN against a number is infinitely different,
    and so is anything but zero against zero where there is no scale.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.abs(old) if scale is None else np.fmax(np.abs(old), scale)
        off = np.abs(new - old) / size
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    return np.where(same, 0.0, np.where(np.isnan(off), np.inf, off))


def _newer_name(name: str, new: Columns, renamed: Mapping[str, str]) -> str | None:
    """The name in ``new`` of an old column, with the tails _1, _err and the like kept."""
    for old_name, new_name in renamed.items():
        if re.fullmatch(rf"{old_name}((_\d+)?(_(err|p\d+))?)", name):
            candidate = new_name + name.removeprefix(old_name)
            if candidate in new:
                return candidate
    return name if name in new else None


def _difference(
    name: str, there: str, old: Columns, new: NDArray[Any], ids: list[str], tolerance: float
) -> Difference:
    title = name if name == there else f"{name} -> {there}"
    values = old[name]
    if values.dtype.kind in "SUO":
        counts = not name.startswith(WORDING)
        apart = np.where([str(a) == str(b) for a, b in zip(values, new, strict=True)], 0.0, np.inf)
    elif values.shape != np.shape(new):
        return Difference(title, np.inf, len(ids), f"shape {values.shape} -> {np.shape(new)}")
    else:
        counts = True
        apart = relative_difference(
            values.astype(np.float64), new.astype(np.float64), _scale(name, old)
        )
        apart = apart.reshape(len(ids), -1).max(axis=1, initial=0.0)
    worst, example = (int(apart.argmax()) if len(ids) else 0), ""
    if len(ids) and apart[worst] > 0:
        example = f"{ids[worst]}: {_short(values[worst])} -> {_short(new[worst])}"
    largest = float(apart.max(initial=0.0))
    return Difference(title, largest, int((apart > tolerance).sum()), example, counts)


def _scale(name: str, old: Columns) -> NDArray[np.float64] | None:
    """Return the scale of differences: quoted errors, or standard deviations of a covariance."""
    values = old[name]
    if name == "covariance":
        with np.errstate(invalid="ignore"):
            sigma = np.sqrt(np.abs(np.einsum("bii->bi", values.astype(np.float64))))
        return np.asarray(sigma[:, :, None] * sigma[:, None, :])
    base = SUFFIXES.sub("", name)
    if name.endswith("_err") or f"{base}_err" not in old:
        return None
    return np.abs(old[f"{base}_err"].astype(np.float64))


def _short(value: Any) -> str:
    return str(value) if np.ndim(value) == 0 else f"array {np.shape(value)}"
