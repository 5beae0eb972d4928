"""Guess how the ids of two catalogues correspond if none of them agree.

Each rule derives a key from an id: a part of its path, its number, its letters and digits. The
rule whose keys pair most galaxies is suggested to the user, and applied only on request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

Rule = Callable[[str], str]
ENDINGS = re.compile(r"\.(fits?|fz|gz|feedme|inp|txt|log|csv|ecsv)$", re.I)
SHARE = 0.5  # fraction of the smaller catalogue that a rule must pair if pairs may arise by chance


@dataclass(frozen=True)
class Guess:
    """A rule under which ids agree.

    Args:
        words: the rule in words, such as "the first part of the path".
        pairs: row numbers of ours and of theirs, each of ours once, in the order of ours.
        repeated: our ids that match several of theirs; the first of these is used.
        example: one of our ids and its partner.
    """

    words: str
    pairs: tuple[tuple[int, int], ...]
    repeated: tuple[str, ...]
    example: tuple[str, str]


def guess_ids(ours: Sequence[str], theirs: Sequence[str]) -> Guess | None:
    """Return the rule that pairs most galaxies; None if no rule pairs enough.

    Args:
        ours: (N,) ids.
        theirs: (M,) ids, none of which equals one of ours.
    """
    best: Guess | None = None
    for words, our_key, their_key, certain in _rules(theirs):
        least = 1 if certain else max(1.0, SHARE * min(len(ours), len(theirs)))
        keys = [our_key(i) for i in ours], [their_key(i) for i in theirs]
        found = _paired(words, *keys, ours, theirs)
        if found is not None and len(found.pairs) >= least and _rank(found) > _rank(best):
            best = found
    return best


def _rank(guess: Guess | None) -> tuple[int, int]:
    return (0, 0) if guess is None else (len(guess.pairs), -len(guess.repeated))


def _rules(theirs: Sequence[str]) -> list[tuple[str, Rule, Rule, bool]]:
    """Return each rule: words, our key, their key, and whether a single pair suffices."""
    deepest = max((len(_parts(name)) for name in theirs), default=0)
    rules: list[tuple[str, Rule, Rule, bool]] = []
    if deepest > 1:
        rules += [("the first part of the path", str, _part(0), True)]
        rules += [("the last part of the path", str, _part(-1), True)]
        names = {1: "second", 2: "third", 3: "fourth"}
        rules += [
            (f"the {names[k]} part of the path", str, _part(k), True)
            for k in range(1, min(deepest - 1, 4))
        ]
    rules += [("the file name without its extension", _stem, _stem, True)]
    for sign in "_-.":
        rules += [
            (f"the part before the first '{sign}'", str, _before(sign), True),
            (f"the part after the last '{sign}'", str, _behind(sign), True),
        ]
    rules += [("the name without case, spaces and punctuation", _letters, _letters, True)]
    rules += [("the last number in the name", _number, _number, False)]
    return rules


def _paired(
    words: str,
    own: Sequence[str],
    other: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> Guess | None:
    alone = {key for key, count in Counter(own).items() if count == 1 and key}
    first: dict[str, int] = {}
    for j, key in enumerate(other):
        if key in alone:
            first.setdefault(key, j)
    pairs = tuple((i, first[key]) for i, key in enumerate(own) if key in first)
    if not pairs:
        return None
    times = Counter(other)
    repeated = tuple(ours[i] for i, _ in pairs if times[own[i]] > 1)
    i, j = pairs[0]
    return Guess(words, pairs, repeated, (ours[i], theirs[j]))


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part]


def _part(k: int) -> Rule:
    def key(name: str) -> str:
        parts = _parts(name)
        return _stem(parts[k]) if -len(parts) <= k < len(parts) else ""

    return key


def _stem(name: str) -> str:
    name, before = PurePosixPath(name.replace("\\", "/")).name, ""
    while name != before:
        name, before = ENDINGS.sub("", name), name
    return name


def _before(sign: str) -> Rule:
    return lambda name: _stem(name).partition(sign)[0]


def _behind(sign: str) -> Rule:
    return lambda name: _stem(name).rpartition(sign)[2]


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _number(name: str) -> str:
    found = re.findall(r"\d+", _stem(name))
    return str(int(found[-1])) if found else ""
