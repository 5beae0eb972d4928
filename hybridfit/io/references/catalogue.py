"""A catalogue of measured galaxies of any origin, in the conventions of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.batch import Batch, shared
from hybridfit.data.names import START_NAMES

Array = NDArray[np.float64]
NAMES = START_NAMES  # x, y, mag, r_eff, n, q, pa: the columns of values and errors
COLUMN = {name: k for k, name in enumerate(NAMES)}


def default(value: Any) -> Any:
    """Declare a field of arrays that has this entry for each galaxy unless it is given."""
    return field(default_factory=lambda: np.array(value))


@dataclass(frozen=True, eq=False)
class Catalogue(Batch):
    """Measurements of N galaxies with up to K components each.

    x, y are counted from 0 in the image as given, r_eff is along the major axis, pa in [0, 180)
    from +y towards -x.

    Args:
        name: for reports.
        kind: one of `hybridfit.io.references.options.KINDS`.
        id: (N,) names.
        values: (N, K, 7) in the order of `NAMES`, NaN where not known or no such component.
        errors: (N, K, 7) standard deviations, NaN where not known.
        fixed: (N, K, 7) True where a value was not measured but given.
        aliases: (N,) further names each galaxy may go by.
        sky: (N, 4) level at the cutout's centre, its error, slopes along x and y; NaN, NaN, 0, 0.
        world: (N, 2) right ascension and declination of the first component, degrees.
        snr: (N,) signal to noise.
        chi2_dof: (N, 2) chi2 and degrees of freedom as written.
        complete: (N,) whether these components are the whole model, so that they can be rendered.
        flagged: (N,) warnings of the program about its own numbers; "" for none.
        exact: whether it is the truth, which has no errors.
        counts: whether magnitudes are -2.5 log10 of image units, from a program without a zero
            point.
        quantiles: (N, K, 7) by level, where known.
        quality: (N,) certified, usable or suspect; "" where not known.
        notes: for the reader of the report, in sentences.
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
        """Give a field that was left at its default an entry for each galaxy."""
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
