"""Labelled cutouts: galaxies in files, and a table of their true parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.positions import in_cutout
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.references.tables import read_table
from hybridfit.io.sources import Source

TRUTH = "truth.fits"


def truth_beside(input: Path) -> Path:
    """Return the expected path of the truth table for a directory or manifest of cutouts."""
    return (input if input.is_dir() else input.parent) / TRUTH


def read_truth(path: Path, names: Sequence[str] = (), optional: Sequence[str] = ()) -> Table:
    """Read a truth table.

    Args:
        path: path of the table.
        names: required columns besides id.
        optional: those of them that may be missing.

    Raises:
        ValueError: if there is no table, or it lacks a column.
    """
    wanted = ", ".join(("id", *names))
    if not path.is_file():
        raise ValueError(f"no truth table '{path}': expected one with {wanted}")
    table = read_table(path)
    for name in ("id", *names):
        if name not in table.colnames and name not in optional:
            raise ValueError(f"'{path}' lacks the column '{name}', expected {wanted}")
    return table


def truth_values(rows: Table, names: Sequence[str]) -> Tensor:
    """Return columns of a truth table as (B, T) float64; NaN where masked or missing."""
    columns = [
        np.ma.filled(np.ma.asarray(rows[name], dtype=np.float64), np.nan)
        if name in rows.colnames
        else np.full(len(rows), np.nan)
        for name in names
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def true_parameters(rows: Table, cutouts: Cutouts, names: Sequence[str]) -> Tensor:
    """Return true parameters (B, Q) float64 in pixels of the cutouts.

    Args:
        rows: B of a truth table, with positions in pixels of the files.
        cutouts: the same B galaxies.
        names: names of the parameters.
    """
    return in_cutout(truth_values(rows, names), names, cutouts.origin)


def readable(sources: Sequence[Source], options: ReadOptions) -> Cutouts | None:
    """Return the readable galaxies with at least one pixel, or None."""
    cutouts = []
    for source in sources:
        try:
            cutout = read_cutout(source, options)
        except Exception:
            continue  # the caller reports how many are left out
        if not cutout.mask.all():
            cutouts.append(cutout)
    return stack(cutouts) if cutouts else None
