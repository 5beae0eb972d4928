"""Weights of interpolation between positions: bilinear on grids, linear in triangles, nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import Delaunay, KDTree, QhullError

from hybridfit.data.names import INTERPOLATIONS
from hybridfit.options.checks import check_choice

SAME = 1e-3  # pixels within which coordinates are those of one row or column of a grid


def grid_weights(
    positions: NDArray[np.float64], where: NDArray[np.float64], interpolation: str = "linear"
) -> csr_array:
    """Return the weights (N, G) of G positions at N others; each row sums to 1.

    Args:
        positions: (G, 2) x, y.
        where: (N, 2) x, y.
        interpolation: "linear" (see `hybridfit.psf.model.GriddedPSF`) or "nearest".
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if interpolation == "nearest" or len(positions) == 1:
        return _nearest(positions, where)
    axes = rectangular_axes(positions)
    if axes is not None:
        return _bilinear(positions, where, *axes)
    return _in_triangles(positions, where)


def rectangular_axes(
    positions: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return x of the columns and y of the rows of a complete grid; None for other positions."""
    columns, rows = (_distinct(positions[:, axis]) for axis in (0, 1))
    if len(columns) * len(rows) != len(positions):
        return None
    at = _index(positions, columns, rows)
    return (columns, rows) if len(np.unique(at)) == len(positions) else None


def _distinct(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sorted values without those within `SAME` of the one before."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], np.diff(ordered) > SAME])]


def _index(
    positions: NDArray[np.float64], columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.integer]:
    """Return the number of each position's cell in a grid."""
    i = np.abs(positions[:, :1] - columns).argmin(axis=1)
    j = np.abs(positions[:, 1:] - rows).argmin(axis=1)
    return j * len(columns) + i


def _bilinear(
    positions: NDArray[np.float64],
    where: NDArray[np.float64],
    columns: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> csr_array:
    order = np.argsort(_index(positions, columns, rows))  # position of each cell
    i, u = _between(columns, where[:, 0])
    j, v = _between(rows, where[:, 1])
    wide, high = min(1, len(columns) - 1), min(1, len(rows) - 1)
    corners = [
        (j * len(columns) + i, (1 - u) * (1 - v)),
        (j * len(columns) + i + wide, u * (1 - v)),
        ((j + high) * len(columns) + i, (1 - u) * v),
        ((j + high) * len(columns) + i + wide, u * v),
    ]
    entries = [(order[cells], weights) for cells, weights in corners]
    return _sparse(entries, len(where), len(positions))


def _between(
    axis: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """Return the number of the interval of each value, and the fraction of it to the left."""
    if len(axis) == 1:
        return np.zeros(len(values), int), np.zeros(len(values))
    inside = np.clip(values, axis[0], axis[-1])
    index = np.clip(np.searchsorted(axis, inside, side="right") - 1, 0, len(axis) - 2)
    return index, (inside - axis[index]) / (axis[index + 1] - axis[index])


def _in_triangles(positions: NDArray[np.float64], where: NDArray[np.float64]) -> csr_array:
    """Return barycentric weights; the nearest position outside of all triangles."""
    try:
        mesh = Delaunay(positions)
    except (QhullError, ValueError):  # fewer than three positions, or all on one line
        return _nearest(positions, where)
    triangle = mesh.find_simplex(where)
    nearest = KDTree(positions).query(where)[1]
    change = mesh.transform[triangle]  # (N, 3, 2)
    part = np.einsum("nij,nj->ni", change[:, :2], where - change[:, 2])
    weights = np.column_stack([part, 1 - part.sum(axis=1)])
    corners = mesh.simplices[triangle]
    outside = (triangle < 0) | ~np.isfinite(weights).all(axis=1)
    corners[outside] = nearest[outside, None]
    weights[outside] = (1.0, 0.0, 0.0)
    entries = [(corners[:, k], weights[:, k]) for k in range(3)]
    return _sparse(entries, len(where), len(positions))


def _nearest(positions: NDArray[np.float64], where: NDArray[np.float64]) -> csr_array:
    nearest = KDTree(positions).query(where)[1]
    return _sparse([(nearest, np.ones(len(where)))], len(where), len(positions))


def _sparse(
    entries: list[tuple[NDArray[np.integer], NDArray[np.float64]]], n: int, g: int
) -> csr_array:
    """Return a matrix (n, g) from columns and weights of each row; repeated ones are added."""
    rows = np.tile(np.arange(n), len(entries))
    columns = np.concatenate([cells for cells, _ in entries])
    weights = np.concatenate([weights for _, weights in entries])
    return csr_array((weights, (rows, columns)), shape=(n, g))
