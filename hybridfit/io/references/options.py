"""Options of reading a reference catalogue: its kind, and the conventions of its columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from hybridfit.options.checks import check_fields, comma_list
from hybridfit.options.metadata import option

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
    """Conventions that a reference catalogue does not state itself.

    "" and None select the default of its kind.
    """

    kind: str = option(
        "",
        help="kind of reference",
        choices=("", *KINDS),
        default_text="detected from its content",
        common=True,
    )
    name: str = option("", help="name in the report", default_text="the file's")
    columns: str = option(
        "",
        help='names of its columns, as in "x=XC,r_eff=RE,mag_err=E_MAG"',
        common=True,
    )
    where: str = option(
        "",
        help='rows to use, as in "mode=single"; for directories "path=*/single/*"',
        common=True,
    )
    first_pixel: int | None = option(
        None,
        help="coordinate of the centre of the first pixel",
        choices=(0, 1),
        unit="pix",
    )
    pa_from: str = option(
        "", help="axis from which angles are measured, counter-clockwise", choices=("", "+y", "+x")
    )
    pa_unit: str = option("", help="unit of angles", choices=("", "deg", "rad"))
    size: str = option(
        "",
        help="kind of radius: along the major axis, or circularised",
        choices=("", "semi-major", "circularised"),
    )
    zeropoint: float | None = option(
        None, help="magnitude of one image unit, for references with fluxes (imfit)", unit="mag"
    )
    zeropoint_offset: float = option(
        0.0,
        help="offset added to magnitudes",
        unit="mag",
        above=-math.inf,
        below=math.inf,
    )
    id_format: str = option(
        "", help='format that converts its ids to those of the run, as in "g{id:03d}"'
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self.conditions()
        self.renamed()

    def conditions(self) -> dict[str, str]:
        """Return the required text of each column, which may contain wildcards."""
        return _pairs(self.where, "where", "mode=single")

    def renamed(self) -> dict[str, str]:
        """Return the reference's columns by our names."""
        return _pairs(self.columns, "columns", "x=XC")

    def as_ours(self, id: str) -> str:
        """Convert an id to the format of the run.

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


class ReferenceKeywords(TypedDict, total=False):
    """The fields of `ReferenceOptions`, as keywords of a function."""

    kind: str
    name: str
    columns: str
    where: str
    first_pixel: int | None
    pa_from: str
    pa_unit: str
    size: str
    zeropoint: float | None
    zeropoint_offset: float
    id_format: str


def _pairs(text: str, what: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in comma_list(text):
        name, sign, value = (part.strip() for part in item.partition("="))
        if not (name and sign and value):
            raise ValueError(f"{what} has '{item}', expected NAME=VALUE as in '{example}'")
        pairs[name] = value
    return pairs
