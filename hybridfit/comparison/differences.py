"""Differences between two catalogues, component by component."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridfit.batch import Batch
from hybridfit.comparison.crossmatch import Matches, partners, total
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array, Catalogue

PARAMETERS = (*NAMES, "sky")  # the columns of the arrays below
LOGARITHMIC = ("r_eff", "n")  # parameters whose differences are given as logarithms of ratios
FAR_MAG, FAR_SIZE = 0.5, 2.0  # catastrophic: off by this many magnitudes, or this factor in size
GAUSSIAN_68, GAUSSIAN_95 = 0.9944578832097532, 1.959963984540054  # 68 and 95 %, in sigma
OUTLIER = 5.0  # sigma


@dataclass(frozen=True, eq=False)
class Pairs(Batch):
    """P components found in both catalogues, with the parameters of `PARAMETERS`.

    Args:
        galaxy: (P,) number of the match that each component belongs to.
        component: (P, 2) component numbers of ours and of theirs.
        ours, theirs: (P, 8) values; theirs are NaN if they were fixed.
        ours_err, theirs_err: (P, 8), NaN if unknown.
        inside: (P, 2, 8) whether theirs lie in our 68 and 95 % intervals, 0 or 1; NaN without an
            interval or a value of theirs; 0 if our fit has no values.
        exact: whether theirs is the truth.
    """

    galaxy: NDArray[np.int64]
    component: NDArray[np.int64]
    ours: Array
    theirs: Array
    ours_err: Array
    theirs_err: Array
    inside: Array
    exact: bool

    @property
    def difference(self) -> Array:
        """Return ours - theirs (P, 8); angles are wrapped to [-90, 90)."""
        return wrap_angles(self.ours - self.theirs)

    @property
    def quoted(self) -> Array:
        """Return the same (P, 8), but differences of logarithms for sizes and indices."""
        out = self.difference
        with np.errstate(invalid="ignore", divide="ignore"):
            for name in LOGARITHMIC:
                k = COLUMN[name]
                out[:, k] = np.log(self.ours[:, k] / self.theirs[:, k])
        return out

    @property
    def pull(self) -> Array:
        """Return the difference over our error (P, 8)."""
        return _over(self.difference, self.ours_err)

    @property
    def pull_theirs(self) -> Array:
        """Return the difference over their error (P, 8)."""
        return _over(self.difference, self.theirs_err)

    @property
    def pull_both(self) -> Array:
        """Return the difference over both errors (P, 8); over ours alone against a truth."""
        if self.exact:
            return self.pull
        return _over(self.difference, np.hypot(self.ours_err, self.theirs_err))

    @property
    def near(self) -> NDArray[np.bool_]:
        """Return (P,) False where magnitude or size are far off (catastrophic) or missing.

        Values unknown to the other side count as near.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.abs(self.quoted[:, COLUMN["r_eff"]])
            mag = np.abs(self.difference[:, COLUMN["mag"]])
        known = [np.isfinite(self.theirs[:, COLUMN[name]]) for name in ("mag", "r_eff")]
        near = np.where(known[0], mag <= FAR_MAG, True)
        return near & np.where(known[1], size < math.log(FAR_SIZE), True)


def wrap_angles(difference: Array) -> Array:
    """Return differences (..., 7 or 8) with pa wrapped to [-90, 90)."""
    out = difference.copy()
    k = COLUMN["pa"]
    out[..., k] = (out[..., k] + 90.0) % 180.0 - 90.0
    return out


def pairs_of(ours: Catalogue, theirs: Catalogue, matches: Matches) -> Pairs:
    """Pair the components of matched galaxies.

    A galaxy without a component on one side also has a row, and counts as lost.

    Args:
        ours, theirs: the catalogues.
        matches: their matches.
    """
    chosen = _chosen(ours, theirs, matches)
    galaxy, a, b = (
        np.array(v, dtype=np.int64) for v in (chosen.galaxy, chosen.ours, chosen.theirs)
    )
    i, j = matches.ours[galaxy], matches.theirs[galaxy]
    our, their = ours.values[i, a].copy(), theirs.values[j, b].copy()
    our_err, their_err = ours.errors[i, a].copy(), theirs.errors[j, b].copy()
    their[theirs.fixed[j, b]] = np.nan
    for row in np.flatnonzero(chosen.whole):
        if ours.n_components[i[row]] == 1:
            their[row] = total(theirs.values[j[row]], our[row])
        else:
            our[row] = total(ours.values[i[row]], their[row])
            our_err[row] = np.nan  # the components' errors are not independent
        their_err[row, COLUMN["mag"]] = np.nan
    first = np.array(chosen.first, dtype=bool)
    values, errors = zip(
        _with_sky(our, our_err, ours.sky[i], first),
        _with_sky(their, their_err, theirs.sky[j], first),
        strict=True,
    )
    quantiles = {level: v[i, a] for level, v in ours.quantiles.items()}
    for v in quantiles.values():
        v[chosen.whole] = np.nan
    inside = _inside(*values, errors[0], quantiles)
    return Pairs(galaxy, np.stack([a, b], axis=1), *values, *errors, inside, theirs.exact)


def _with_sky(
    values: Array, errors: Array, sky: Array, first: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return values and errors (P, 8): the sky's (P, 2 or more) in each galaxy's first pair."""
    once = np.where(first[:, None], sky[:, :2], np.nan)
    return np.hstack([values, once[:, :1]]), np.hstack([errors, once[:, 1:]])


@dataclass(frozen=True)
class _Chosen:
    """Galaxy and component numbers of each row, and whether it sums up several components."""

    galaxy: list[int]
    ours: list[int]
    theirs: list[int]
    first: list[bool]
    whole: list[bool]


def _chosen(ours: Catalogue, theirs: Catalogue, matches: Matches) -> _Chosen:
    if ours.values.shape[1] == theirs.values.shape[1] == 1:
        n = len(matches)
        return _Chosen(list(range(n)), [0] * n, [0] * n, [True] * n, [False] * n)
    rows = _Chosen([], [], [], [], [])
    for m, (i, j) in enumerate(zip(matches.ours.tolist(), matches.theirs.tolist(), strict=True)):
        found = partners(ours.values[i], theirs.values[j])
        for number, (k, their) in enumerate(found.pairs or ((0, 0),)):
            rows.galaxy.append(m)
            rows.ours.append(k)
            rows.theirs.append(their)
            rows.first.append(number == 0)
            rows.whole.append(found.whole)
    return rows


def _inside(our: Array, their: Array, error: Array, quantiles: Mapping[float, Array]) -> Array:
    """Return (P, 2, 8): 1 if theirs lies in our interval, else 0; NaN if either is missing."""
    out = np.full((len(our), 2, len(PARAMETERS)), np.nan)
    off = np.abs(wrap_angles(their - our))
    for row, width in enumerate((GAUSSIAN_68, GAUSSIAN_95)):
        with np.errstate(invalid="ignore"):
            out[:, row] = np.where(np.isfinite(error), off <= width * error, np.nan)
    for row, (low, high) in enumerate(((0.16, 0.84), (0.025, 0.975))):
        if {low, high} <= set(quantiles):
            ends = quantiles[low], quantiles[high]
            middle = (ends[0] + ends[1]) / 2
            # an angle's interval may extend beyond [0, 180): shift the value to their range
            placed = middle + wrap_angles(their[:, :-1] - middle)
            with np.errstate(invalid="ignore"):
                contained = (placed >= ends[0]) & (placed <= ends[1])
            out[:, row, :-1] = np.where(np.isfinite(middle), contained, out[:, row, :-1])
    # galaxies without a fit are outside every interval; single missing parameters do not count
    lost = ~np.isfinite(our[:, : len(NAMES)]).any(axis=1)
    out[np.broadcast_to(~np.isfinite(our)[:, None], out.shape)] = np.nan
    out[lost] = 0.0
    out[np.broadcast_to(~np.isfinite(their)[:, None], out.shape)] = np.nan
    return out


def _over(difference: Array, error: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error > 0, difference / error, np.nan)


def shared_parameters(pairs: Pairs) -> Sequence[str]:
    """Return the parameters for which at least one pair has both values."""
    known = np.isfinite(pairs.difference)
    return [name for k, name in enumerate(PARAMETERS) if known[:, k].any()]
