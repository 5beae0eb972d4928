"""Names of galaxies as FITS tables have them."""

from __future__ import annotations

from hybridfit.data.ids import ascii_id, numbers_by_id


def test_names_beyond_ascii_have_escapes():
    assert ascii_id("NGC 1") == "NGC 1"
    assert ascii_id("Å1") == "\\xc51"
    assert ascii_id("銀河") == "\\u9280\\u6cb3"


def test_a_galaxy_is_found_by_both_names():
    assert numbers_by_id(["a", "Å", "\\xc5"]) == {"a": 0, "Å": 1, "\\xc5": 1}
