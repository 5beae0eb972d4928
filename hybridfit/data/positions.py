"""Positions in a cutout and in the image that it was cut from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.ucd import PARAMETERS

NAMED = frozenset(PARAMETERS)  # parameters that have columns of their own

Number = TypeVar("Number", float, NDArray[np.float64])


def plain_name(name: str) -> str:
    """Return a parameter's name without its component: ``r_eff`` for ``bulge_r_eff``, ``r_eff_2``.

    Of a name that ends in no parameter that is known it is the name itself.
    """
    head, _, tail = name.rpartition("_")
    if tail.isdigit():
        return head
    words = name.split("_")
    ends = ("_".join(words[k:]) for k in range(len(words)))
    return next((end for end in ends if end in NAMED), name)


def to_parent(
    x: Number, y: Number, origin: Sequence[float] | NDArray[np.float64]
) -> tuple[Number, Number]:
    """Convert x, y from pixels of a cutout to pixels of its parent image.

    Args:
        x, y: numbers, or arrays of one shape.
        origin: x and y of the cutout's first pixel in the parent image, pixels.
    """
    return x + origin[0], y + origin[1]


def to_cutout(
    x: Number, y: Number, origin: Sequence[float] | NDArray[np.float64]
) -> tuple[Number, Number]:
    """Convert x, y from pixels of a parent image to pixels of a cutout.

    Args:
        x, y, origin: see `to_parent`.
    """
    return x - origin[0], y - origin[1]


def in_cutout(theta: Tensor, names: Sequence[str], origin: Tensor) -> Tensor:
    """Convert parameters (B, Q) from pixels of the parent images to pixels of the cutouts.

    Args:
        theta: of B galaxies.
        names, origin: see `parent_shift`.
    """
    return theta - parent_shift(names, origin).to(theta)


def parent_shift(names: Sequence[str], origin: Tensor) -> Tensor:
    """Return the shift of parameters from a cutout to its parent image.

    Args:
        names: of Q parameters; x and y of each component are shifted.
        origin: (B, 2) x and y of the cutouts' first pixels in the parent image, pixels.

    Returns:
        (B, Q) float64 on the CPU.
    """
    shift = torch.zeros(len(origin), len(names), dtype=torch.float64)
    for k, name in enumerate(names):
        if plain_name(name) in ("x", "y"):
            shift[:, k] = origin[:, "xy".index(plain_name(name))]
    return shift
