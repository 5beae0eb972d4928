"""A first fit on the middle of the stamp, at a third of the cost, to start the real one near.

A quarter of the pixels hold nearly all that is known of most galaxies. The optimiser gets within
a standard deviation or two of the answer there, so that the whole stamp is rendered two or three
times instead of four or five. Nothing of it remains in the result but the start.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.lm import LMOptions, minimise
from hybridfit.fitting.problem import Pixels, Problem, grid_of, sky_terms
from hybridfit.model.grid import transfer_function

SMALLEST = 96  # pix: sides below this are not worth a stage of their own
COARSE = LMOptions(max_iter=12, tolerance=0.05)


def coarse_start(problem: Problem, cutouts: Cutouts, start: Tensor) -> Tensor:
    """Return better free starting values (B, P) where the middle of the stamp gives them.

    Args:
        problem: the one on the whole stamps.
        cutouts: the same B galaxies.
        start: (B, P) free starting values.
    """
    height, width = cutouts.image.shape[-2:]
    if min(height, width) < SMALLEST:
        return start
    middle, corner = _middle(cutouts, problem)
    shift = torch.zeros_like(problem.box)
    shift[:, :2] = corner.double()
    small = replace(
        problem,
        pixels=middle,
        grid=grid_of(_shape_only(cutouts), problem.pixels.data.dtype),
        box=problem.box - shift,
    )
    minimum = minimise(small, start, COARSE)
    usable = torch.isfinite(minimum.normal.cost) & (minimum.point.abs().amax(dim=1) < 3)
    return torch.where(usable[:, None], minimum.point, start)


def _half(cutouts: Cutouts) -> tuple[int, int]:
    height, width = cutouts.image.shape[-2:]
    return height // 4 * 2, width // 4 * 2


def _shape_only(cutouts: Cutouts) -> Cutouts:
    """The cutouts' PSFs with images of half the side, for the Fourier grid."""
    height, width = _half(cutouts)
    image = torch.zeros(len(cutouts), height, width, device=cutouts.image.device)
    return replace(cutouts, image=image, sigma=image + 1, mask=image > 0)


def _middle(cutouts: Cutouts, problem: Problem) -> tuple[Pixels, Tensor]:
    """Pixels of the windows around the expected positions, and their corners x, y (B, 2)."""
    height, width = _half(cutouts)
    device = cutouts.image.device
    side = torch.tensor([width, height], device=device)
    room = torch.tensor(cutouts.image.shape[-2:], device=device).flip(0) - side
    corner = torch.round(problem.box[:, :2] - side / 2).long()
    corner = torch.minimum(corner.clamp_min(0), room)
    row = torch.arange(len(cutouts), device=device)[:, None, None]
    y = corner[:, 1:, None] + torch.arange(height, device=device)[:, None]
    x = corner[:, :1, None] + torch.arange(width, device=device)[None, :]
    grid = grid_of(_shape_only(cutouts), problem.pixels.data.dtype)
    pixels = Pixels(
        problem.pixels.data[row, y, x],
        problem.pixels.weight[row, y, x],
        transfer_function(
            cutouts.psf,
            int(cutouts.psf_oversampling[0]),
            cutouts.psf_includes_pixel,
            grid,
            len(cutouts),
        ),
        sky_terms(problem.space.sky, height, width, problem.pixels.data.dtype, device),
        problem.pixels.scale,
        problem.pixels.pedestal,
    )
    return pixels, corner
