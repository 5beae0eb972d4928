"""The same problem on a window of each cutout."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.image_term import ImageTerm
from hybridfit.fitting.pixels import Pixels
from hybridfit.fitting.problem import Problem
from hybridfit.model.scene_values import shifted
from hybridfit.rendering.grid import Grid, grid_of
from hybridfit.rendering.sky import sky_terms
from hybridfit.rendering.transfer import transfer_of


def window_problem(
    problem: Problem, cutouts: Cutouts, centre: Tensor, sides: tuple[int, int]
) -> tuple[Problem, Tensor]:
    """Return the problem of the pixels in windows, and the windows' corners.

    It has no nuisances, for it serves to find minima. Free parameters mean the same in both
    problems; the sky's slopes, if there are any, are over the windows' sides instead of the
    cutouts'.

    Args:
        problem: on the whole cutouts.
        cutouts: the same B galaxies.
        centre: (B, 2) x, y that the windows are put around, as far as the cutouts reach.
        sides: height and width, pixels, at most the cutouts'.

    Returns:
        The problem, and (B, 2) int64 x, y of the windows' first pixels.
    """
    device = cutouts.image.device
    pixels, grid, corner = _window(problem.pixels, cutouts, centre, sides)
    shift = corner.double()
    constants = shifted(problem.constants, problem.space, -shift)
    exposures = []
    images = cutouts.single_images()[1:]
    for term, image in zip(problem.exposures, images, strict=True):
        largest = float(term.frame.scale.max()) if len(image) else 1.0
        own = [
            min(2 * math.ceil(side * largest / 2), whole)
            for side, whole in zip(sides, image.image.shape[-2:], strict=True)
        ]
        place = term.frame.positions(centre.to(shift))
        inside, own_grid, own_corner = _window(term.pixels, image, place, (own[0], own[1]))
        moved = term.frame.positions(shift) - own_corner.to(device)
        exposures.append(ImageTerm(inside, own_grid, replace(term.frame, shift=moved)))
    window = replace(problem, pixels=pixels, grid=grid, constants=constants, nuisances=None)
    return replace(window, exposures=tuple(exposures)), corner


def _window(
    pixels: Pixels, cutouts: Cutouts, centre: Tensor, sides: tuple[int, int]
) -> tuple[Pixels, Grid, Tensor]:
    """Return an image's pixels in windows, their grid, and x, y (B, 2) of their first pixels."""
    height, width = sides
    device = cutouts.image.device
    side = torch.tensor([width, height], device=device)
    room = torch.tensor(cutouts.image.shape[-2:], device=device).flip(0) - side
    corner = torch.round(centre - side / 2).long()
    corner = torch.minimum(corner.clamp_min(0), room)
    row = torch.arange(len(cutouts), device=device)[:, None, None]
    y = corner[:, 1:, None] + torch.arange(height, device=device)[:, None]
    x = corner[:, :1, None] + torch.arange(width, device=device)[None, :]
    dtype = pixels.data.dtype
    grid = grid_of(cutouts, dtype, shape=sides)
    inside = Pixels(
        pixels.data[row, y, x],
        pixels.weight[row, y, x],
        transfer_of(cutouts, grid),
        pixels.scale,
        pixels.background,
        sky_terms(len(pixels.sky), height, width, dtype, device),
    )
    return inside, grid, corner
