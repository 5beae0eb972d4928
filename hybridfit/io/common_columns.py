"""Columns common to several tables, and the values of those that depend on the cutouts only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.positions import plain_name
from hybridfit.data.ucd import ucd_of
from hybridfit.io.formats import DRAWN
from hybridfit.io.sky_positions import on_sky
from hybridfit.io.table import NOTES_WIDTH, Column, parameter_of

DRAWS = "_samples"  # suffix of a parameter's column of draws in a table with other columns


def id_column(width: int) -> Column:
    """Return the column of the galaxies' names, ``width`` bytes at most."""
    return Column("id", f"S{max(width, 1)}", "", "name of the galaxy", "meta.id;meta.main")


def flags_column() -> Column:
    """Return the column of the bits; for that of their names see `hybridfit.io.flag_names`."""
    text = "bits of the flags, see flag_names and hybridfit.describe_flags; 0 for none"
    return Column("flags", "i8", "", text, "meta.code")


def notes_column() -> Column:
    """Return the column of texts."""
    return Column("notes", f"S{NOTES_WIDTH}", "", "notes on this galaxy", "meta.note")


def value_columns(name: str, unit: str, best: str) -> tuple[Column, Column]:
    """Return the columns of a parameter's value and its standard deviation.

    Args:
        name: name of the parameter, with its component.
        unit: of both.
        best: how the value was chosen.
    """
    plain = plain_name(name)
    text = parameter_of("r_eff" if plain == "r_eff_arcsec" else name)[1]
    return (
        Column(name, "f8", unit, f"{text}; {best}", ucd_of(plain)),
        Column(f"{name}_err", "f8", unit, f"standard deviation of {name}", ucd_of(plain, "_err")),
    )


def quantile_columns(name: str, unit: str, levels: Mapping[str, float]) -> list[Column]:
    """Return the columns of a parameter's quantiles.

    Args:
        name, unit: of the parameter.
        levels: in [0, 1] by the suffix of the column's name, "p16" for ``_p16``.
    """
    plain = plain_name(name)
    near = ", within 90 deg of the mean" if plain == "pa" else ""
    return [
        Column(
            f"{name}_{end}",
            "f8",
            unit,
            f"{100 * level:g} % quantile of {name}{near}",
            ucd_of(plain, f"_{end}"),
        )
        for end, level in levels.items()
    ]


def sky_columns(
    label: Callable[[str], str] = str, is_main: bool = True
) -> tuple[Column, Column, Column]:
    """Return the columns of a component's position and angle on the sky.

    Args:
        label: of a column of its component, by the column's plain name.
        is_main: whether it is the galaxy's main position.
    """
    main = ";meta.main" if is_main else ""
    text = "position angle East of North, in [0, 180)"
    return (
        Column(label("ra"), "f8", "deg", "right ascension of x, y, ICRS", f"pos.eq.ra{main}"),
        Column(label("dec"), "f8", "deg", "declination of x, y, ICRS", f"pos.eq.dec{main}"),
        Column(label("pa_sky"), "f8", "deg", text, ucd_of("pa_sky")),
    )


def fill_sky(
    rows: NDArray[np.void],
    cutouts: Cutouts,
    ellipse: NDArray[np.float64],
    label: Callable[[str], str] = str,
) -> None:
    """Fill the columns of `sky_columns`.

    Args:
        rows: (B,) records.
        cutouts: the B galaxies.
        ellipse: (B, 4) x, y, q and pa of a component, in pixels of the cutouts; (B, 2) of a point.
        label: of a column of its component, by the column's plain name.
    """
    round_ones = np.tile([1.0, 0.0], (len(ellipse), 1))
    full = ellipse if ellipse.shape[1] == 4 else np.hstack([ellipse, round_ones])
    sky = [on_sky(wcs, *values) for wcs, values in zip(cutouts.wcs, full, strict=True)]
    for k, name in enumerate(("ra", "dec", "pa_sky")[: ellipse.shape[1] // 2 + 1]):
        rows[label(name)] = [position[k] for position in sky]


def draws_columns(names: Sequence[str], n_draws: int) -> list[Column]:
    """Return the columns of S draws of each galaxy's parameters.

    Args:
        names: names of the parameters.
        n_draws: S.
    """
    return [
        Column(
            f"{name}{DRAWS}",
            "f8",
            parameter_of(name)[0],
            f"draws of {name}",
            ucd_of(plain_name(name)),
            (n_draws,),
            table=DRAWN,
        )
        for name in names
    ]
