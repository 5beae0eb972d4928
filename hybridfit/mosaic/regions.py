"""The sources of a catalogue as a region file of DS9."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.io.writing import atomic

COLOURS = {"certified": "green", "usable": "cyan", "suspect": "red"}
LEAST = 1.0  # pixels, of an ellipse that can be seen


def write_regions(path: Path, results: Path) -> None:
    """Write an ellipse at the half-light radius of each source, coloured by quality.

    Args:
        path: of the region file.
        results: the table of a catalogue.
    """
    table = Table.read(results)
    lines = ["# Region file format: DS9 version 4.1", "image"]
    names = [name for name in ("x", "y", "r_eff", "q", "pa") if name in table.colnames]
    if len(names) == 5:
        columns: list[NDArray[np.float64]] = [
            np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan) for name in names
        ]
        for values, id, quality in zip(
            np.stack(columns, axis=1), table["id"], table["quality"], strict=True
        ):
            if np.isfinite(values).all():
                lines.append(_ellipse(values.tolist(), str(id), COLOURS.get(str(quality), "white")))
    with atomic(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _ellipse(values: list[float], id: str, colour: str) -> str:
    """Return the line of one source; DS9 counts pixels from 1 and angles from +x."""
    x, y, r_eff, q, pa = values
    major, minor = max(r_eff, LEAST), max(r_eff * q, LEAST)
    shape = f"{x + 1:.3f},{y + 1:.3f},{minor:.3f},{major:.3f},{pa:.2f}"
    return f"ellipse({shape}) # color={colour} text={{{id}}}"
