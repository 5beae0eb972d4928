"""Ours less theirs, component by component: the rows that a comparison is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridfit.io.references import Catalogue
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array
from hybridfit.uncertainty.crossmatch import Matches, partners, total

PARAMETERS = (*NAMES, "sky")  # the columns of what follows
LOGARITHMIC = ("r_eff", "n")  # whose differences are quoted as ratios
FAR_MAG, FAR_SIZE = 0.5, 2.0  # catastrophic: off by this magnitude, or factor in size
GAUSSIAN_68, GAUSSIAN_95 = 0.9944578832097532, 1.959963984540054  # of 68 and 95 %, in sigma
OUTLIER = 5.0  # sigma


@dataclass(frozen=True, eq=False)
class Pairs:
    """P components that are in both catalogues, with the parameters of `PARAMETERS`.

    Args:
        galaxy: (P,) number of the match that each belongs to.
        component: (P, 2) of ours and of theirs.
        ours, theirs: (P, 8) values; theirs are NaN where they were given and not measured.
        ours_err, theirs_err: (P, 8), NaN where not known.
        inside: (P, 2, 8) whether theirs lie in our 68 and 95 % intervals, 0 or 1; NaN without an
            interval or a value of theirs. Where we have errors but no value it is 0.
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

    def __len__(self) -> int:
        return len(self.galaxy)

    @property
    def difference(self) -> Array:
        """(P, 8) ours - theirs; of angles the short way round."""
        return short_way(self.ours - self.theirs)

    @property
    def quoted(self) -> Array:
        """(P, 8) the same, of sizes and indices the difference of their logarithms."""
        out = self.difference
        with np.errstate(invalid="ignore", divide="ignore"):
            for name in LOGARITHMIC:
                k = COLUMN[name]
                out[:, k] = np.log(self.ours[:, k] / self.theirs[:, k])
        return out

    @property
    def pull(self) -> Array:
        """(P, 8) difference over our error."""
        return _over(self.difference, self.ours_err)

    @property
    def pull_theirs(self) -> Array:
        """(P, 8) difference over their error."""
        return _over(self.difference, self.theirs_err)

    @property
    def pull_both(self) -> Array:
        """(P, 8) difference over both errors together; over ours alone if theirs is the truth."""
        if self.exact:
            return self.pull
        return _over(self.difference, np.hypot(self.ours_err, self.theirs_err))

    @property
    def near(self) -> NDArray[np.bool_]:
        """(P,) False where magnitude or size are far off (catastrophic), or missing.

        Of what is not known of theirs nothing is asked.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.abs(self.quoted[:, COLUMN["r_eff"]])
            mag = np.abs(self.difference[:, COLUMN["mag"]])
        known = [np.isfinite(self.theirs[:, COLUMN[name]]) for name in ("mag", "r_eff")]
        near = np.where(known[0], mag <= FAR_MAG, True)
        return near & np.where(known[1], size < math.log(FAR_SIZE), True)

    def __getitem__(self, rows: NDArray) -> Pairs:
        return Pairs(
            self.galaxy[rows],
            self.component[rows],
            self.ours[rows],
            self.theirs[rows],
            self.ours_err[rows],
            self.theirs_err[rows],
            self.inside[rows],
            self.exact,
        )


def short_way(difference: Array) -> Array:
    """Differences (..., 8) with those of pa in [-90, 90)."""
    out = difference.copy()
    k = COLUMN["pa"]
    out[..., k] = (out[..., k] + 90.0) % 180.0 - 90.0
    return out


def pairs_of(ours: Catalogue, theirs: Catalogue, matches: Matches) -> Pairs:
    """Put the components of matched galaxies beside each other.

    Args:
        ours, theirs: the catalogues.
        matches: of them.
    """
    rows: list[dict[str, object]] = []
    for m, (i, j) in enumerate(zip(matches.ours.tolist(), matches.theirs.tolist(), strict=True)):
        chosen = partners(ours.values[i], theirs.values[j])
        for number, (k, l_) in enumerate(chosen.pairs):
            row = _row(ours, theirs, (i, k), (j, l_), whole=chosen.whole, first=number == 0)
            rows.append({"galaxy": m, "component": (k, l_), **row})
        if not chosen.pairs:  # a galaxy without a fit counts, as one that is lost
            row = _row(ours, theirs, (i, 0), (j, 0), whole=False, first=True)
            rows.append({"galaxy": m, "component": (0, 0), **row})

    def column(name: str, shape: tuple[int, ...]) -> NDArray:
        return np.array([row[name] for row in rows]).reshape(-1, *shape)

    wide = (len(PARAMETERS),)
    return Pairs(
        column("galaxy", ()).astype(np.int64),
        column("component", (2,)).astype(np.int64),
        column("ours", wide),
        column("theirs", wide),
        column("ours_err", wide),
        column("theirs_err", wide),
        column("inside", (2, *wide)),
        theirs.exact,
    )


def _row(
    ours: Catalogue,
    theirs: Catalogue,
    a: tuple[int, int],
    b: tuple[int, int],
    whole: bool,
    first: bool,
) -> dict[str, object]:
    mine, its = ours.values[a], theirs.values[b].copy()
    mine_err, its_err = ours.errors[a], theirs.errors[b]
    its[theirs.held[b]] = np.nan
    if whole:
        single = mine if ours.n_components[a[0]] == 1 else its
        if ours.n_components[a[0]] == 1:
            its = total(theirs.values[b[0]], single)
        else:
            mine = total(ours.values[a[0]], single)
            mine_err = np.full_like(mine_err, np.nan)  # of a sum: errors are not independent
        its_err = np.where(np.isfinite(its), its_err, np.nan)
        its_err[COLUMN["mag"]] = np.nan
    sky = [c.sky[r[0], :2] if first else (np.nan, np.nan) for c, r in ((ours, a), (theirs, b))]
    values = [np.append(v, s[0]) for v, s in zip((mine, its), sky, strict=True)]
    errors = [np.append(e, s[1]) for e, s in zip((mine_err, its_err), sky, strict=True)]
    inside = _inside(ours, a, values[0], values[1], errors[0], quantiles=not whole)
    return {
        "ours": values[0],
        "theirs": values[1],
        "ours_err": errors[0],
        "theirs_err": errors[1],
        "inside": inside,
    }


def _inside(
    ours: Catalogue, a: tuple[int, int], mine: Array, its: Array, error: Array, quantiles: bool
) -> Array:
    """(2, 8): 1 where theirs lies in our interval, else 0; NaN where there is nothing to ask."""
    out = np.full((2, len(PARAMETERS)), np.nan)
    off = np.abs(short_way(its - mine))
    for row, width in enumerate((GAUSSIAN_68, GAUSSIAN_95)):
        with np.errstate(invalid="ignore"):
            out[row] = off <= width * error
    for row, (low, high) in enumerate(((0.16, 0.84), (0.025, 0.975))):
        if quantiles and {low, high} <= set(ours.quantiles):
            ends = [ours.quantiles[level][a] for level in (low, high)]
            middle = (ends[0] + ends[1]) / 2
            # an angle's interval may leave [0, 180): the value is taken on the interval's turn
            placed = middle + short_way(np.append(its[:-1] - middle, 0.0))[:-1]
            held = (placed >= ends[0]) & (placed <= ends[1])
            out[row, :-1] = np.where(np.isfinite(middle), held, out[row, :-1])
    out[:, ~np.isfinite(its)] = np.nan
    lost = ~np.isfinite(mine) & np.isfinite(its)
    out[:, np.isfinite(mine) & ~np.isfinite(error)] = np.nan
    out[:, lost] = 0.0
    if not np.isfinite(mine[: len(NAMES)]).any():
        return out  # a galaxy without a fit is outside of every interval
    out[:, lost] = np.nan  # a parameter that we do not have
    return out


def _over(difference: Array, error: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error > 0, difference / error, np.nan)


def names_with(pairs: Pairs) -> Sequence[str]:
    """The parameters of which any pair has both values."""
    known = np.isfinite(pairs.difference)
    return [name for k, name in enumerate(PARAMETERS) if known[:, k].any()]
