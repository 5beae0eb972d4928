"""The same problem on a window of each cutout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.problem import Pixels, Problem
from hybridfit.model.scene_values import shifted
from hybridfit.rendering.grid import grid_of
from hybridfit.rendering.sky import sky_terms
from hybridfit.rendering.transfer import transfer_of


def window_problem(
    problem: Problem, cutouts: Cutouts, centre: Tensor, sides: tuple[int, int]
) -> tuple[Problem, Tensor]:
    """Return the problem of the pixels in windows, and the windows' corners.

    Free parameters mean the same in both problems; the sky's slopes, if there are any, are over
    the windows' sides instead of the cutouts'.

    Args:
        problem: on the whole cutouts.
        cutouts: the same B galaxies.
        centre: (B, 2) x, y that the windows are put around, as far as the cutouts reach.
        sides: height and width, pixels, at most the cutouts'.

    Returns:
        The problem, and (B, 2) int64 x, y of the windows' first pixels.
    """
    height, width = sides
    device = cutouts.image.device
    side = torch.tensor([width, height], device=device)
    room = torch.tensor(cutouts.image.shape[-2:], device=device).flip(0) - side
    corner = torch.round(centre - side / 2).long()
    corner = torch.minimum(corner.clamp_min(0), room)
    row = torch.arange(len(cutouts), device=device)[:, None, None]
    y = corner[:, 1:, None] + torch.arange(height, device=device)[:, None]
    x = corner[:, :1, None] + torch.arange(width, device=device)[None, :]
    dtype = problem.pixels.data.dtype
    grid = grid_of(cutouts, dtype, shape=sides)
    pixels = Pixels(
        problem.pixels.data[row, y, x],
        problem.pixels.weight[row, y, x],
        transfer_of(cutouts, grid),
        problem.pixels.scale,
        problem.pixels.background,
        sky_terms(problem.space.n_sky, height, width, dtype, device),
    )
    constants = shifted(problem.constants, problem.space, -corner.double())
    return replace(problem, pixels=pixels, grid=grid, constants=constants), corner
