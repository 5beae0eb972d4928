"""Names of galaxies, and their form in a FITS table, whose texts are ASCII."""

from __future__ import annotations

from collections.abc import Sequence


def ascii_id(name: str) -> str:
    """Return a name as it stands in a FITS table: other letters than ASCII's as escapes."""
    return name.encode("ascii", "backslashreplace").decode()


def numbers_by_id(ids: Sequence[str]) -> dict[str, int]:
    """Return the number of each name, and of its form in ASCII; the first of equal ones."""
    numbers: dict[str, int] = {}
    for i, name in enumerate(ids):
        numbers.setdefault(name, i)
        numbers.setdefault(ascii_id(name), i)
    return numbers
