"""What somebody says of galaxies, in the project's conventions, whoever said it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.names import START_NAMES

Array = NDArray[np.float64]
NAMES = START_NAMES  # x, y, mag, r_eff, n, q, pa: the columns of values and errors
COLUMN = {name: k for k, name in enumerate(NAMES)}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Measurements of N galaxies with up to K components each.

    x, y are counted from 0 in the image as given, r_eff is along the major axis, pa in [0, 180)
    from +y towards -x.

    Args:
        name: for reports.
        kind: one of `hybridfit.io.references.options.KINDS`.
        id: (N,) names.
        values: (N, K, 7) in the order of `NAMES`, NaN where not known or no such component.
        errors: (N, K, 7) standard deviations, NaN where not known.
        held: (N, K, 7) True where a value was not measured but given.
        aliases: (N,) further names each galaxy may go by.
        sky: (N, 4) level at the cutout's centre, its error, slopes along x and y; NaN, NaN, 0, 0.
        world: (N, 2) right ascension and declination of the first component, degrees.
        snr: (N,) signal to noise.
        said: (N, 2) chi2 and degrees of freedom as written.
        complete: (N,) whether these components are all that was modelled, so that an image can
            be made of them.
        flagged: (N,) what the program itself said against its numbers; "" for nothing.
        exact: whether it is the truth, and has no errors.
        counts: whether magnitudes are -2.5 log10 of image units, as from a program that knows no
            zero point.
        quantiles: (N, K, 7) by level, as far as they are known.
        quality: (N,) certified, usable or suspect; "" where nobody said.
        notes: what a reader of the report should know, in sentences.
    """

    name: str
    kind: str
    id: Sequence[str]
    values: Array
    errors: Array = None  # type: ignore[assignment]
    held: NDArray[np.bool_] = None  # type: ignore[assignment]
    aliases: Sequence[tuple[str, ...]] = None  # type: ignore[assignment]
    sky: Array = None  # type: ignore[assignment]
    world: Array = None  # type: ignore[assignment]
    snr: Array = None  # type: ignore[assignment]
    said: Array = None  # type: ignore[assignment]
    complete: NDArray[np.bool_] = None  # type: ignore[assignment]
    flagged: Sequence[str] = None  # type: ignore[assignment]
    exact: bool = False
    counts: bool = False
    quantiles: Mapping[float, Array] = field(default_factory=dict)
    quality: Sequence[str] = None  # type: ignore[assignment]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.id)
        shape = np.shape(self.values)
        if len(shape) != 3 or shape[0] != n or shape[2] != len(NAMES):
            raise ValueError(f"values have shape {shape}, expected ({n}, K, {len(NAMES)})")
        empty = np.full(shape, np.nan)
        defaults: dict[str, Any] = {
            "errors": empty,
            "held": np.zeros(shape, bool),
            "aliases": ((),) * n,
            "sky": np.tile([np.nan, np.nan, 0.0, 0.0], (n, 1)),
            "world": np.full((n, 2), np.nan),
            "snr": np.full(n, np.nan),
            "said": np.full((n, 2), np.nan),
            "complete": np.ones(n, bool),
            "flagged": ("",) * n,
            "quality": ("",) * n,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            value = default if value is None else value
            if len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries, expected {n}")
            object.__setattr__(self, name, value)
        for name in ("id", "flagged", "quality"):
            object.__setattr__(self, name, tuple(str(text) for text in getattr(self, name)))
        object.__setattr__(self, "aliases", tuple(tuple(names) for names in self.aliases))

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.int64]) -> Catalogue:
        """The galaxies of these row numbers."""
        chosen = np.asarray(rows, dtype=np.int64)
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("name", "kind", "exact", "counts", "notes"):
                continue
            if f.name == "quantiles":
                changed[f.name] = {level: v[chosen] for level, v in value.items()}
            elif isinstance(value, np.ndarray):
                changed[f.name] = value[chosen]
            else:
                changed[f.name] = tuple(value[i] for i in chosen)
        return replace(self, **changed)

    @property
    def n_components(self) -> NDArray[np.int64]:
        """(N,) components that have a position or a magnitude."""
        there = np.isfinite(self.values[..., [0, 2]]).any(axis=2)
        return there.sum(axis=1)

    def value(self, name: str) -> Array:
        """(N, K) of one parameter."""
        return self.values[..., COLUMN[name]]


def canonical(values: Array, errors: Array) -> tuple[Array, Array]:
    """Return values and errors (..., 7) with q <= 1, r_eff along the major axis, pa in [0, 180).

    Some programs let the axis ratio pass 1, so that no angle is special for a round galaxy: the
    other axis is then the major one.
    """
    values, errors = values.copy(), errors.copy()
    r, q, pa = (values[..., COLUMN[name]] for name in ("r_eff", "q", "pa"))  # views
    turned = q > 1
    ratio = np.where(turned, q, 1.0)
    r *= ratio
    pa += np.where(turned, 90.0, 0.0)
    errors[..., COLUMN["r_eff"]] *= ratio
    errors[..., COLUMN["q"]] /= ratio**2
    q[turned] = 1 / q[turned]
    values[..., COLUMN["pa"]] = pa % 180.0 % 180.0  # twice: a hair below 0 rounds to 180 itself
    errors[~(errors > 0)] = np.nan  # 0 and less stand for no error in every program's tables
    return values, errors


def semi_major(values: Array, errors: Array) -> tuple[Array, Array]:
    """Return values and errors (..., 7) with circularised radii made semi-major: r / sqrt(q)."""
    values, errors = values.copy(), errors.copy()
    factor = 1 / np.sqrt(values[..., COLUMN["q"]])
    values[..., COLUMN["r_eff"]] *= factor
    errors[..., COLUMN["r_eff"]] *= factor
    return values, errors


def grouped(parts: Sequence[Array]) -> Array:
    """Stack (K_i, 7) arrays of N galaxies as (N, K, 7), NaN where a galaxy has fewer."""
    most = max((len(part) for part in parts), default=1) or 1
    out = np.full((len(parts), most, len(NAMES)), np.nan)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out
