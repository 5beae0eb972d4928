"""What ids of another catalogue may have to do with ours, where none agree."""

from __future__ import annotations

import dataclasses

import pytest
from compare_helpers import catalogue, galaxies

from hybridfit.comparison.crossmatch import match
from hybridfit.comparison.guess_ids import guess_ids


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (["bd1", "bd2"], ["bd2/single/fit", "bd1/single/fit"], "the first part of the path"),
        (["bd1", "bd2"], ["runs/old/bd2.fits", "runs/old/bd1.fits"], "the last part of the path"),
        (["bd1", "bd2"], ["a/bd2/fit", "b/bd1/fit"], "the second part of the path"),
        (["bd1.fits", "bd2.fits"], ["bd2", "bd1"], "the file name without its extension"),
        (["bd1", "bd2"], ["bd2_i_band", "bd1_i_band"], "the part before the first '_'"),
        (["12", "21"], ["cosmos-21", "cosmos-12"], "the part after the last '-'"),
        (["NGC 12", "NGC 21"], ["ngc21", "ngc12"], "the name without case, spaces and punctuation"),
        (["g0012", "g0021"], ["21", "12"], "the last number in the name"),
    ],
)
def test_rules(ours: list[str], theirs: list[str], words: str):
    found = guess_ids(ours, theirs)
    assert found is not None
    assert (found.words, found.pairs, found.repeated) == (words, ((0, 1), (1, 0)), ())


def test_the_rule_that_pairs_most_is_taken():
    ours = ["a1", "a2", "a3"]
    theirs = ["a1/x_1/f", "a3/x_3/f", "a2/x_9/f", "a9/x_2/f"]  # the number would pair two wrongly
    found = guess_ids(ours, theirs)
    assert found is not None
    assert found.words == "the first part of the path"
    assert found.pairs == ((0, 0), (1, 2), (2, 1))


def test_several_of_theirs_are_told():
    found = guess_ids(["a1", "a2"], ["a1/single", "a1/double", "a2/single"])
    assert found is not None
    assert (found.pairs, found.repeated) == (((0, 0), (1, 2)), ("a1",))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["a", "b"], ["c", "d"]),
        ([], ["a"]),
        (["a"], []),
        (["", " "], ["", "/"]),
        ([f"a{i}" for i in range(10)], ["3", "77", "88", "99"]),  # one number agrees by chance
    ],
)
def test_no_guess_where_chance_would_do_as_well(ours: list[str], theirs: list[str]):
    assert guess_ids(ours, theirs) is None


def test_a_match_offers_the_guess_and_takes_it_when_asked():
    values = galaxies(3)
    ours = catalogue(values)
    named = ["g1/galfit/fit", "g2/galfit/fit", "g7/galfit/fit"]
    theirs = dataclasses.replace(catalogue(values), id=named)
    offer = r"best guess: the first part of the path \('g1/.*' is 'g1'\), which pairs 2 of 3"
    for way in ("auto", "id"):
        with pytest.raises(ValueError, match=offer):
            match(ours, theirs, way)
    found = match(ours, theirs, "guess")
    assert found.way == "guess: the first part of the path"
    assert (found.ours.tolist(), found.theirs.tolist()) == ([1, 2], [0, 1])
    assert (found.only_ours, found.only_theirs) == (("g0",), (named[2],))
    twice = dataclasses.replace(theirs, id=["g1/single", "g1/double", "g2/single"])
    with pytest.raises(ValueError, match="1 of them with several of theirs: choose rows"):
        match(ours, twice)
    with pytest.raises(ValueError, match="ids here are"):
        match(ours, dataclasses.replace(theirs, id=["p", "q", "r"]), "guess")
