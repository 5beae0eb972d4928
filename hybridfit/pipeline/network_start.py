"""Starts of the fits from the posterior: its median, and draws from its ends where it is wide."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.samples import Posterior
from hybridfit.fitting.moments import Starts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import condition, draw
from hybridfit.pipeline.posterior import Expected

N_DRAWS = 64  # enough for a median and the ends of the index; each costs some 8 us
ENDS = (0.1, 0.9)  # quantiles of ln n whose draws are further starts
# standard deviations from which on one start is not trusted: ln r_circ, ln n, position [pix]
WIDE_SIZE, WIDE_INDEX, WIDE_POSITION = 0.6, 0.8, 1.5


def expectation(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    prior: Prior = Prior(),
) -> Expected:
    """What the network expects, with the few draws that a start needs.

    All galaxies share one set of random numbers, so that a fit does not depend on its id. Of
    ``prior`` only the position's box counts, beyond which no fit may start.
    """
    nameless = replace(cutouts, id=("",) * len(cutouts))
    density = condition(cutouts, estimator, device, ParameterSpace(prior=prior))
    return Expected(density, draw(density, nameless, N_DRAWS))


def starts_from(posterior: Posterior, cutouts: Cutouts) -> Starts:
    """Return where the fits start: the median of the draws, then draws of low and high index.

    Args:
        posterior: of one Sersic component and a constant sky.
        cutouts: the same B galaxies. Those without a PSF keep their moments: the network was
            not trained without one.
    """
    batch, n_draws, _ = posterior.samples.shape
    zeropoint = cutouts.zeropoint.cpu().repeat_interleave(n_draws)
    space = ParameterSpace()
    coords, _ = space.from_physical(posterior.samples.flatten(0, 1), zeropoint)
    coords = coords.view(batch, n_draws, -1)
    if cutouts.psf is None:
        coords = torch.full_like(coords, torch.nan)
    order = coords[:, :, 3].argsort(dim=1)
    ends = [order[:, round(end * (n_draws - 1))] for end in ENDS]
    further = [coords[torch.arange(batch), rows] for rows in ends]
    median = coords.median(dim=1).values
    return Starts(torch.stack([median, *further], dim=1), _is_wide(coords))


def _is_wide(coords: Tensor) -> Tensor:
    """(B,) whether one start may end in a minimum that is not the lowest."""
    width = coords.std(dim=1)
    wide = (width[:, 2] > WIDE_SIZE) | (width[:, 3] > WIDE_INDEX)
    return wide | (width[:, :2] > WIDE_POSITION).any(dim=1)
