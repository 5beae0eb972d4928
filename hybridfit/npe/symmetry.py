"""The symmetries of the frame: a mirror image, and a turn by 180 degrees.

A galaxy mirrored at the frame's long axis is another, equally probable galaxy, and the axis could
point the other way too. So each galaxy in training counts as four, which differ only in the
signs of scalars and targets and in the order of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.npe.coordinates import SERSIC, FlowCoordinates
from hybridfit.npe.inputs import FINE, N_ASYMMETRY, PSF_ORDERS, PSF_SCALES
from hybridfit.npe.moments import ORDERS
from hybridfit.npe.refinement_scalars import step_signs


def _signs(m: int, n: int) -> list[tuple[int, int]]:
    """Signs under mirror and turn of the parts of z^m in ``n`` windows."""
    turn = (-1) ** m
    return [(1, turn)] * n + ([(-1, turn)] * n if m else [])


def scalar_signs(refined: bool = False, coordinates: FlowCoordinates = SERSIC) -> Tensor:
    """Return the factors (2, F) of the scalars under a mirror image and under a turn.

    Args:
        refined: whether scalars describe the steps of the refinement too.
        coordinates: of the model.
    """
    n, n_psf = len(FINE), len(PSF_SCALES)
    signs = _signs(0, n) + _signs(0, n - 1)
    for m, _ in ORDERS[1:]:
        signs += _signs(m, n)
    signs += _signs(0, 1)  # noise
    for m in (0, 1, 2):  # masks
        signs += _signs(m, n)
    signs += _signs(0, N_ASYMMETRY) + _signs(0, 3)
    signs += _signs(0, n_psf)
    for m, _ in PSF_ORDERS:
        signs += _signs(m, n_psf)
    signs += _signs(1, 1)  # the expected centre
    signs += [(1, 1), (1, 1), (-1, 1), (1, 1), (1, 1)]  # rebin, cos, sin of 4 angle, phase, size
    measured = torch.tensor(signs).T.float()
    if not refined:
        return measured
    return torch.cat([measured, step_signs(coordinates.signs)], dim=1)


def redrawn(
    views: Tensor,
    scalars: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    coordinates: FlowCoordinates = SERSIC,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror and turn each galaxy of a batch at random.

    Args:
        views: (B, 5, 64, 64), or (B, 0, ...) where they are not read.
        scalars: (B, F).
        targets: (B, T), t or w: their signs are the same.
        generator: of the choice, on the CPU.
        coordinates: of the model.

    Returns:
        The same in a random one of the four equivalent frames.
    """
    device = scalars.device
    mirror, turn = (torch.rand(2, len(scalars), generator=generator) < 0.5).to(device)
    signs = scalar_signs()
    if scalars.shape[1] > signs.shape[1]:
        signs = scalar_signs(refined=True, coordinates=coordinates)
    signs = signs.to(device)
    of_targets = coordinates.signs.to(device)
    if views.shape[1]:
        # a turn is a flip of both axes, a mirror one of the rows
        flipped_rows = (mirror ^ turn)[:, None, None, None]
        views = torch.where(flipped_rows, views.flip(-2), views)
        views = torch.where(turn[:, None, None, None], views.flip(-1), views)
    for chosen, scalar, target in zip((mirror, turn), signs, of_targets, strict=True):
        scalars = torch.where(chosen[:, None], scalars * scalar, scalars)
        targets = torch.where(chosen[:, None], targets * target, targets)
    return views, scalars, targets
