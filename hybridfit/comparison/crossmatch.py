"""Match the galaxies of two catalogues, and their components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from hybridfit.comparison.guess_ids import guess_ids
from hybridfit.comparison.options import WAYS
from hybridfit.data.ids import ascii_id
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array, Catalogue

PIXELS, ARCSEC = 2.0, 1.0  # default radii
NEIGHBOUR = 3.0  # pixels: components closer than this, or than the size, belong to one galaxy


@dataclass(frozen=True)
class Matches:
    """M galaxies found in both catalogues.

    Args:
        ours, theirs: (M,) row numbers, each at most once.
        way: how they were matched: id, sky, pixel, row, or "guess: " and the rule.
        only_ours, only_theirs: ids of unmatched galaxies.
        repeated: ids or names that occur several times in a catalogue; the first one is used.
    """

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]
    way: str
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    repeated: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ours)


def match(ours: Catalogue, theirs: Catalogue, way: str = "auto", radius: float = 0.0) -> Matches:
    """Match two catalogues one to one.

    Args:
        ours, theirs: the catalogues; aliases count as ids.
        way: "id", "guess" (by a part or another form of the ids), "sky" (ra, dec), "pixel" (x, y,
            for positions in a common image), "row" (in the order of the rows), or "auto": by id
            if any ids agree, else on the sky.
        radius: arcsec on the sky, pixels in the image; 0 means 1 arcsec and 2 pixels.

    Raises:
        ValueError: for an unknown or impossible way, or if nothing matches.
    """
    if way not in WAYS:
        raise ValueError(f"match is '{way}', expected one of {', '.join(WAYS)}")
    if radius < 0:
        raise ValueError(f"radius is {radius}, expected 0 or more")
    repeated: tuple[str, ...] = ()
    if way in ("auto", "id"):
        a, b, repeated = _match_by_id(ours, theirs)
        if len(a) or way == "id":
            return _checked(ours, theirs, a, b, "id", repeated)
        both = np.isfinite(ours.world).all(1).any() and np.isfinite(theirs.world).all(1).any()
        if not both:
            raise ValueError(_no_ids(ours, theirs))
        way = "sky"
    if way in ("guess", "row"):
        return _match_by_guess(ours, theirs) if way == "guess" else _match_by_row(ours, theirs)
    if way == "sky":
        places, scale = [_unit_vectors(c.world) for c in (ours, theirs)], np.radians(1 / 3600)
    else:
        places, scale = [c.values[:, 0, :2] for c in (ours, theirs)], 1.0
    limit = (radius or (ARCSEC if way == "sky" else PIXELS)) * scale
    a, b = nearest(places[0], places[1], limit)
    return _checked(ours, theirs, a, b, way, ())


def _match_by_guess(ours: Catalogue, theirs: Catalogue) -> Matches:
    guess = guess_ids(ours.id, theirs.id)
    if guess is None:
        raise ValueError(_no_ids(ours, theirs))
    rows = np.array(guess.pairs, dtype=np.int64).reshape(-1, 2)
    way = f"guess: {guess.words}"
    return _checked(ours, theirs, rows[:, 0], rows[:, 1], way, guess.repeated)


def _match_by_row(ours: Catalogue, theirs: Catalogue) -> Matches:
    if len(ours) != len(theirs):
        raise ValueError(
            f"match row needs equal numbers of rows: got {len(ours)} here and {len(theirs)} in "
            f"'{theirs.name}'"
        )
    rows = np.arange(len(ours))
    return _checked(ours, theirs, rows, rows, "row", ())


def nearest(ours: Array, theirs: Array, radius: float) -> tuple[NDArray, NDArray]:
    """Pair points (N, D) and (M, D) one to one, the closest pairs first, none beyond ``radius``."""
    usable = [np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (ours, theirs)]
    if not (len(usable[0]) and len(usable[1])):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    trees = [cKDTree(points[rows]) for points, rows in zip((ours, theirs), usable, strict=True)]
    found = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j, _ in sorted(found.tolist(), key=lambda pair: (pair[2], pair[0], pair[1])):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            pairs.append((usable[0][i], usable[1][j]))
    pairs.sort()
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


@dataclass(frozen=True)
class Partners:
    """The matched components of one galaxy.

    Args:
        pairs: component numbers of ours and of theirs.
        whole: True if one side has several components and the other a single one: then total
            magnitudes and the brightest centre are compared, but not shapes.
    """

    pairs: tuple[tuple[int, int], ...]
    whole: bool = False


def partners(ours: Array, theirs: Array) -> Partners:
    """Match the components of a galaxy by position, size and magnitude.

    Args:
        ours: (K, 7), NaN rows for absent components.
        theirs: (L, 7), likewise.
    """
    there = [_present(side) for side in (ours, theirs)]
    if not (len(there[0]) and len(there[1])):
        return Partners(())
    if len(there[0]) != len(there[1]) and min(len(there[0]), len(there[1])) == 1:
        single = ours[there[0][0]] if len(there[0]) == 1 else theirs[there[1][0]]
        many, numbers = (theirs, there[1]) if len(there[0]) == 1 else (ours, there[0])
        close = _close(single, many, numbers)
        if len(close) > 1:
            best = close[int(np.argmin(np.nan_to_num(many[close, COLUMN["mag"]], nan=np.inf)))]
            pair = (there[0][0], best) if len(there[0]) == 1 else (best, there[1][0])
            return Partners((pair,), whole=True)
    cost = _cost(ours[there[0]], theirs[there[1]])
    rows, columns = linear_sum_assignment(cost)
    pairs = [(there[0][i], there[1][j]) for i, j in zip(rows, columns, strict=True)]
    return Partners(tuple(sorted(pairs)))


def total(values: Array, single: Array) -> Array:
    """Return magnitude and centre of a galaxy with several components, as (7,); shapes are NaN.

    Args:
        values: (K, 7) components of the galaxy, and perhaps of neighbours.
        single: (7,) the other side's single component; only components near it are used.
    """
    numbers = _close(single, values, _present(values))
    out = np.full(len(NAMES), np.nan)
    if numbers:
        mags = values[numbers, COLUMN["mag"]]
        flux = 10 ** (-0.4 * mags)
        out[COLUMN["mag"]] = -2.5 * np.log10(np.nansum(flux))
        out[:2] = (
            values[numbers[int(np.nanargmax(flux))], :2] if np.isfinite(flux).any() else out[:2]
        )
    return out


def _close(single: Array, many: Array, numbers: Sequence[int]) -> list[int]:
    """Return which of the components belong to the same galaxy as the single one."""
    apart = np.hypot(*(many[list(numbers), :2] - single[:2]).T)
    size = single[COLUMN["r_eff"]]
    radius = max(NEIGHBOUR, float(size)) if np.isfinite(size) else NEIGHBOUR
    return [k for k, d in zip(numbers, apart, strict=True) if d <= radius]


def _present(values: Array) -> list[int]:
    return np.flatnonzero(np.isfinite(values[:, [0, 2]]).any(axis=1)).tolist()


def _cost(ours: Array, theirs: Array) -> Array:
    """Return the dissimilarity of components: distance over size, and ratios of size and flux."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.hypot(*(ours[:, None, :2] - theirs[None, :, :2]).transpose(2, 0, 1))
        size = np.log(ours[:, None, COLUMN["r_eff"]] / theirs[None, :, COLUMN["r_eff"]])
        mag = ours[:, None, COLUMN["mag"]] - theirs[None, :, COLUMN["mag"]]
        scale = np.maximum(1.0, np.nan_to_num(ours[:, None, COLUMN["r_eff"]], nan=1.0))
    parts = [np.nan_to_num(np.abs(v), nan=0.0, posinf=10.0) for v in (apart / scale, size, mag / 2)]
    return np.sum(parts, axis=0)


def _match_by_id(ours: Catalogue, theirs: Catalogue) -> tuple[NDArray, NDArray, tuple[str, ...]]:
    """Match on the first alias that is unique in both catalogues."""
    number: dict[str, int] = {}
    for i, (name, aliases) in enumerate(zip(ours.id, ours.aliases, strict=True)):
        for called_so in (name, *aliases):
            number.setdefault(called_so, i)
        number.setdefault(ascii_id(name), i)
    called = [(name, *aliases) for name, aliases in zip(theirs.id, theirs.aliases, strict=True)]
    times = Counter(name for names in called for name in set(names))
    pairs: dict[int, int] = {}
    repeated = [name for name, count in Counter(ours.id).items() if count > 1]
    for j, names in enumerate(called):
        known = list(dict.fromkeys(name for name in names if name in number))
        alone = [name for name in known if times[name] == 1]
        if not known:
            continue
        name = (alone or known)[0]
        if number[name] in pairs:
            repeated.append(name)
        pairs.setdefault(number[name], j)
    rows = np.array(sorted(pairs.items()), dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1], tuple(dict.fromkeys(repeated))


def _checked(
    ours: Catalogue,
    theirs: Catalogue,
    a: NDArray,
    b: NDArray,
    way: str,
    repeated: tuple[str, ...],
) -> Matches:
    if not len(a):
        reason = (
            _no_ids(ours, theirs)
            if way == "id"
            else f"try another radius, or match by id{_offer(ours, theirs)}"
        )
        raise ValueError(f"no galaxy of '{theirs.name}' matches by {way}: {reason}")
    rest = []
    for c, used in ((ours, a), (theirs, b)):
        taken = set(used.tolist())
        rest.append(tuple(name for i, name in enumerate(c.id) if i not in taken))
    return Matches(a, b, way, rest[0], rest[1], repeated)


def _no_ids(ours: Catalogue, theirs: Catalogue) -> str:
    names = [", ".join(f"'{name}'" for name in c.id[:3]) for c in (ours, theirs)]
    return (
        f"ids here are {names[0]}..., in '{theirs.name}' {names[1]}...{_offer(ours, theirs)}: "
        'convert theirs with id-format ("g{id:03d}"), or match by pixel (positions in a common '
        "image), sky or row"
    )


def _offer(ours: Catalogue, theirs: Catalogue) -> str:
    """Describe the best rule that relates their ids to ours, for an error; "" if there is none."""
    guess = guess_ids(ours.id, theirs.id)
    if guess is None:
        return ""
    our_id, their_id = guess.example
    several = (
        f", {len(guess.repeated)} of them with several of theirs: choose rows with where"
        if guess.repeated
        else ""
    )
    return (
        f"; best guess: {guess.words} ('{their_id}' is '{our_id}'), which pairs "
        f"{len(guess.pairs)} of {len(ours)}{several}; accept it with match guess (--match guess)"
    )


def _unit_vectors(world: Array) -> Array:
    """Return unit vectors (N, 3); short chords equal angles."""
    ra, dec = np.radians(world).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
