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
from hybridfit.model.scene_values import SceneValues
from hybridfit.npe.density import NetworkDraws
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import condition, draw, same_parameters

N_DRAWS = 64  # enough for a median and the ends of the index; each costs some 8 us
ENDS = (0.1, 0.9)  # quantiles of ln n whose draws are further starts
# standard deviations from which on one start is not trusted: ln r_circ, ln n, position [pix]
WIDE_SIZE, WIDE_INDEX, WIDE_POSITION = 0.6, 0.8, 1.5
WIDE_SHARE = 0.1  # standard deviation of the first component's share of the flux


def expectation(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    prior: Prior = Prior(),
    scenes: SceneValues | None = None,
) -> NetworkDraws:
    """Return the few draws of the network that initial values need, with their density.

    All galaxies share one set of random numbers, so that a fit does not depend on its id.

    Args:
        cutouts: B galaxies.
        estimator: from `load_estimator`.
        device: where the network is evaluated.
        prior: of the fit; of it only the position's box counts, beyond which no fit may start.
        scenes: B of the network's own model, where that is not one Sersic profile.
    """
    nameless = replace(cutouts, id=("",) * len(cutouts))
    space = ParameterSpace(prior=prior) if scenes is None else scenes.space
    density = condition(cutouts, estimator, device, space, scenes)
    return draw(density, nameless, N_DRAWS)


def knows(estimator: Estimator, options: FitOptions, scenes: SceneValues | None) -> bool:
    """Return whether fits may start from a network.

    One of a Sersic profile serves every model. Another serves its own alone, as long as no
    parameter is fixed or has an initial value.

    Args:
        estimator: the network.
        options: of the fit.
        scenes: of the galaxies, see `hybridfit.fitting.galaxy_scenes.scenes_of`.
    """
    own = estimator.coordinates
    if own.model.is_one_sersic:
        # the network knows of no fixed values
        return not (options.is_one_sersic and scenes is not None and scenes.space.links is not None)
    if scenes is None or not same_parameters(own.space, scenes.space):
        return False
    return not bool(torch.isfinite(scenes.start).any())


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
    scenes: SceneValues | None = None,
) -> NetworkStart:
    """Return the network's draws, for initial values and for importance sampling.

    Args:
        cutouts: B galaxies.
        estimator: from `load_estimator`.
        device: where the network is evaluated.
        options: of the fit. A network proposes draws of its own model and a constant sky alone.
        proposed: draws of each galaxy that are to be proposed.
        seed: of those.
        scenes: of the galaxies, see `knows`.
    """
    of_scenes = None if estimator.coordinates.model.is_one_sersic else scenes
    initial = expectation(cutouts, estimator, device, options.prior, of_scenes)
    usable = options.is_one_sersic if of_scenes is None else True
    usable = usable and options.space.n_sky == 1
    if not (usable and proposed):
        return NetworkStart(initial, None)
    return NetworkStart(initial, draw(initial.density, cutouts, proposed, seed))


def starts_from(draws: NetworkDraws) -> Starts:
    """Return where the fits start, on the CPU."""
    if draws.density.coordinates.model.is_one_sersic:
        return starts_of_one(draws.coords.cpu())
    return starts_of_scenes(draws.to("cpu"))


def starts_of_scenes(draws: NetworkDraws) -> Starts:
    """Return where fits of several components start.

    First the draw of the highest density: posteriors of bulge and disk have several maxima, between
    which a median may lie. Then draws with a small and a large share of the first component, which
    are tried where the share is not certain.
    """
    flux = draws.linear[..., : draws.density.space.n_components]
    share = flux[..., 0] / flux.sum(dim=2)
    each, n_draws = torch.arange(len(share)), share.shape[1]
    order = share.argsort(dim=1)
    rows = [draws.log_prob.argmax(dim=1)]
    rows += [order[:, round(end * (n_draws - 1))] for end in ENDS]
    coords = torch.stack([draws.coords[each, row] for row in rows], dim=1)
    return Starts(coords, share.std(dim=1) > WIDE_SHARE, whole=True)


def starts_of_one(coords: Tensor) -> Starts:
    """Return the median of draws, then draws of low and high index.

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
