"""Names of galaxies, and their form in a FITS table, whose strings are ASCII."""

from __future__ import annotations

from collections.abc import Sequence


def ascii_id(name: str) -> str:
    """Return a name in its FITS table form: non-ASCII characters as escapes."""
    return name.encode("ascii", "backslashreplace").decode()


def numbers_by_id(ids: Sequence[str]) -> dict[str, int]:
    """Map each name, and its ASCII form, to its row number; duplicates to the first."""
    numbers: dict[str, int] = {}
    for i, name in enumerate(ids):
        numbers.setdefault(name, i)
        numbers.setdefault(ascii_id(name), i)
    return numbers
