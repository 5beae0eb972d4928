"""A catalogue of measured galaxies from any program, in our conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.batch import Batch, shared
from hybridfit.data.names import START_NAMES

Array = NDArray[np.float64]
NAMES = START_NAMES  # the last axis of values and errors: x, y, mag, r_eff, n, q, pa
COLUMN = {name: k for k, name in enumerate(NAMES)}


def default(value: Any) -> Any:
    """Declare an array field; unless given, it has this entry for each galaxy."""
    return field(default_factory=lambda: np.array(value))


@dataclass(frozen=True, eq=False)
class Catalogue(Batch):
    """Measurements of N galaxies with up to K components each.

    x, y are counted from 0 in the image as given, r_eff is along the major axis, pa in [0, 180)
    from +y towards -x.

    Args:
        name: the catalogue's name in reports.
        kind: one of `hybridfit.io.references.options.KINDS`.
        id: (N,) names.
        values: (N, K, 7) in the order of `NAMES`, NaN for unknown values and absent components.
        errors: (N, K, 7) standard deviations, NaN if unknown.
        fixed: (N, K, 7) True if a value was given instead of measured.
        aliases: (N,) alternative names of each galaxy.
        sky: (N, 4) level at the cutout's centre, its error, slopes along x and y; NaN, NaN, 0, 0.
        world: (N, 2) right ascension and declination of the first component, degrees.
        snr: (N,) signal-to-noise ratio.
        chi2_dof: (N, 2) chi2 and degrees of freedom as published by the program.
        complete: (N,) whether these components are the full model, so that it can be rendered.
        flagged: (N,) the program's warnings about its own results; "" for none.
        exact: whether the catalogue is the truth, without errors.
        counts: whether magnitudes are -2.5 log10 of image units, from a program without a zero
            point.
        quantiles: (N, K, 7) by level, if known.
        quality: (N,) certified, usable or suspect; "" if unknown.
        notes: notes for the report, in sentences.
    """

    name: str
    kind: str
    id: Sequence[str]
    values: Array
    errors: Array = default(np.nan)
    fixed: NDArray[np.bool_] = default(False)
    aliases: Sequence[tuple[str, ...]] = ()
    sky: Array = default((np.nan, np.nan, 0.0, 0.0))
    world: Array = default((np.nan, np.nan))
    snr: Array = default(np.nan)
    chi2_dof: Array = default((np.nan, np.nan))
    complete: NDArray[np.bool_] = default(True)
    flagged: Sequence[str] = ""
    exact: bool = False
    counts: bool = False
    quantiles: Mapping[float, Array] = field(default_factory=dict)
    quality: Sequence[str] = ""
    notes: tuple[str, ...] = shared(default=())

    def __post_init__(self) -> None:
        n, shape = len(self.id), np.shape(self.values)
        if len(shape) != 3 or shape[0] != n or shape[2] != len(NAMES):
            raise ValueError(f"values have shape {shape}, expected ({n}, K, {len(NAMES)})")
        for name in ("errors", "fixed"):
            self._expand(name, shape)
        for name, size in (("sky", (4,)), ("world", (2,)), ("chi2_dof", (2,))):
            self._expand(name, (n, *size))
        for name in ("snr", "complete"):
            self._expand(name, (n,))
        for name in ("id", "flagged", "quality"):
            given = getattr(self, name)
            texts = (given,) * n if isinstance(given, str) else given
            self._check(name, texts)
            object.__setattr__(self, name, tuple(str(text) for text in texts))
        aliases = self.aliases or ((),) * n
        self._check("aliases", aliases)
        object.__setattr__(self, "aliases", tuple(tuple(names) for names in aliases))

    def _expand(self, name: str, shape: tuple[int, ...]) -> None:
        """Expand a field left at its default to one entry per galaxy."""
        value = np.asarray(getattr(self, name))
        if value.ndim < len(shape):
            value = np.broadcast_to(value, shape).copy()
        self._check(name, value)
        object.__setattr__(self, name, value)

    def _check(self, name: str, value: Sequence[Any] | NDArray[Any]) -> None:
        if len(value) != len(self.id):
            raise ValueError(f"{name} has {len(value)} entries, expected {len(self.id)}")

    @property
    def n_components(self) -> NDArray[np.int64]:
        """Return the number (N,) of components with a position or a magnitude."""
        there = np.isfinite(self.values[..., [0, 2]]).any(axis=2)
        return there.sum(axis=1)

    def value(self, name: str) -> Array:
        """Return the values (N, K) of one parameter."""
        return self.values[..., COLUMN[name]]


def canonical(values: Array, errors: Array) -> tuple[Array, Array]:
    """Return values and errors (..., 7) with q <= 1, r_eff along the major axis, pa in [0, 180).

    Some programs allow axis ratios above 1, so that no angle is special for a round galaxy: the
    other axis is then the major axis.
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
    values[..., COLUMN["pa"]] = pa % 180.0 % 180.0  # twice: a tiny negative angle gives 180 itself
    errors[~(errors > 0)] = np.nan  # programs write 0 or less for a missing error
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
