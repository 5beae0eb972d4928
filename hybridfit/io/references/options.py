"""How a reference is to be read: its kind, and what its columns mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridfit.options.checks import check_fields

KINDS = (
    "hybridfit",
    "galfit",
    "galfit-table",
    "imfit",
    "sextractor",
    "sourcextractor++",
    "table",
    "truth",
)


@dataclass(frozen=True)
class ReferenceOptions:
    """What the content of a reference cannot say of itself; "" and None leave it to its kind."""

    kind: str = ""  # one of KINDS
    name: str = ""  # for the report; else of the file
    columns: str = ""  # "x=XC,r_eff=RE,mag_err=E_MAG": its columns for our names
    where: str = ""  # "mode=single,verdict=good": rows that count; of directories "path=*/single/*"
    first_pixel: int | None = None  # what it calls the centre of the first pixel, 0 or 1
    pa_from: str = ""  # +y | +x, counter-clockwise
    pa_unit: str = ""  # deg | rad
    size: str = ""  # semi-major | circularised
    zeropoint: float | None = None  # mag of one image unit, for fluxes
    zeropoint_offset: float = 0.0  # added to its magnitudes
    id_format: str = ""  # what makes its ids ours: "g{id:03d}"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in (
            ("kind", ("", *KINDS)),
            ("first_pixel", (None, 0, 1)),
            ("pa_from", ("", "+x", "+y")),
            ("pa_unit", ("", "deg", "rad")),
            ("size", ("", "semi-major", "circularised")),
        ):
            if getattr(self, name) not in known:
                expected = ", ".join(str(value) for value in known if value not in ("", None))
                raise ValueError(f"{name} is '{getattr(self, name)}', expected one of {expected}")
        if not math.isfinite(self.zeropoint_offset):
            raise ValueError(f"zeropoint_offset is {self.zeropoint_offset}, expected a number")
        self.conditions()
        self.renamed()

    def conditions(self) -> dict[str, str]:
        """Column and the text, with wildcards, that it must have."""
        return _pairs(self.where, "where", "mode=single")

    def renamed(self) -> dict[str, str]:
        """Our name and its column."""
        return _pairs(self.columns, "columns", "x=XC")

    def as_ours(self, id: str) -> str:
        """Return an id as we call it.

        Raises:
            ValueError: if the format does not fit.
        """
        if not self.id_format:
            return id
        number = int(id) if id.lstrip("-").isdigit() else id
        try:
            return self.id_format.format(number, id=number)
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(
                f"id_format '{self.id_format}' does not fit the id '{id}': expected a text like "
                f"'g{{id:03d}}' ({error})"
            ) from error


def _pairs(text: str, what: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = (part.strip() for part in item.partition("="))
        if not (name and sign and value):
            raise ValueError(f"{what} has '{item}', expected NAME=VALUE as in '{example}'")
        pairs[name] = value
    return pairs
