"""Starts of the fits from the posterior: its median, and draws from its ends where it is wide."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.moments import Starts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.density import NetworkDraws
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import condition, draw

N_DRAWS = 64  # enough for a median and the ends of the index; each costs some 8 us
ENDS = (0.1, 0.9)  # quantiles of ln n whose draws are further starts
# standard deviations from which on one start is not trusted: ln r_circ, ln n, position [pix]
WIDE_SIZE, WIDE_INDEX, WIDE_POSITION = 0.6, 0.8, 1.5


def expectation(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    prior: Prior = Prior(),
) -> NetworkDraws:
    """Return the few draws of the network that initial values need, with their density.

    All galaxies share one set of random numbers, so that a fit does not depend on its id. Of
    ``prior`` only the position's box counts, beyond which no fit may start.
    """
    nameless = replace(cutouts, id=("",) * len(cutouts))
    density = condition(cutouts, estimator, device, ParameterSpace(prior=prior))
    return draw(density, nameless, N_DRAWS)


@dataclass(frozen=True)
class NetworkStart(Batch):
    """What a network says of B galaxies before they are fitted.

    Args:
        initial: draws that the fits start from.
        proposed: draws that importance sampling proposes, each galaxy's own; None where it has
            no use for them: of another model than the network's, or where nothing is sampled.
    """

    initial: NetworkDraws
    proposed: NetworkDraws | None


def network_start(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    options: FitOptions = FitOptions(),
    proposed: int = 0,
    seed: int = 0,
) -> NetworkStart:
    """Return the network's draws, for initial values and for importance sampling.

    Args:
        cutouts: B galaxies.
        estimator: from `load_estimator`.
        device: where the network is evaluated.
        options: of the fit. The network proposes one Sersic component and a constant sky alone.
        proposed: draws of each galaxy that are to be proposed.
        seed: of those.
    """
    initial = expectation(cutouts, estimator, device, options.prior)
    usable = options.is_one_sersic and options.space.n_sky == 1
    if not (usable and proposed):
        return NetworkStart(initial, None)
    return NetworkStart(initial, draw(initial.density, cutouts, proposed, seed))


def starts_from(coords: Tensor) -> Starts:
    """Return where the fits start: the median of the draws, then draws of low and high index.

    Args:
        coords: (B, S, 6) draws of one Sersic component in render coordinates.
    """
    n_draws = coords.shape[1]
    order = coords[:, :, 3].argsort(dim=1)
    ends = [order[:, round(end * (n_draws - 1))] for end in ENDS]
    each = torch.arange(len(coords), device=coords.device)
    further = [coords[each, rows] for rows in ends]
    median = coords.median(dim=1).values
    return Starts(torch.stack([median, *further], dim=1), _is_wide(coords))


def _is_wide(coords: Tensor) -> Tensor:
    """(B,) whether one start may end in a minimum that is not the lowest."""
    width = coords.std(dim=1)
    wide = (width[:, 2] > WIDE_SIZE) | (width[:, 3] > WIDE_INDEX)
    return wide | (width[:, :2] > WIDE_POSITION).any(dim=1)
