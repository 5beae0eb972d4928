"""Draws of other parameters than the Sersic ones, from a network fine-tuned to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.npe.draws import MAX_WHITENED, own_noise
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import unfamiliar
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.targets import decode_targets

AT_ONCE = 64  # galaxies


@dataclass(frozen=True)
class TargetDraws:
    """Draws from the posterior of other parameters.

    Args:
        samples: (B, S, T) float64; NaN for draws that exploded and galaxies without a pixel.
        flags: (B,) int64 bits of `hybridfit.Flag`.
        distance: (B,) of the network's context from those it was trained on.
    """

    samples: Tensor
    flags: Tensor
    distance: Tensor


@torch.inference_mode()
def predict_targets(
    cutouts: Cutouts,
    estimator: Estimator,
    n_samples: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TargetDraws:
    """Draw from the posterior of other parameters.

    The draws of a galaxy depend on its pixels, its id and the seed, not on its batch.

    Args:
        cutouts: B galaxies.
        estimator: fine-tuned to other parameters, its ``target_columns``; moved to ``device``.
        n_samples: S draws of each galaxy.
        seed: of the random numbers.
        device: where the network is evaluated.

    Raises:
        ValueError: for a network of the Sersic parameters.
    """
    if not estimator.target_columns:
        raise ValueError("the network predicts Sersic parameters: use predict_cutouts")
    estimator = estimator.to(device).eval()
    samples = torch.full(
        (len(cutouts), n_samples, estimator.n_targets), torch.nan, dtype=torch.float64
    )
    empty = cutouts.mask.flatten(1).all(dim=1).cpu()
    flags = cutouts.flags.cpu() | empty * int(Flag.NO_DATA)
    distance = torch.full((len(cutouts),), torch.nan, dtype=torch.float64)
    known = (~empty & ((flags & int(Flag.NO_DATA | Flag.UNREADABLE)) == 0)).nonzero()[:, 0]
    for rows in known.split(AT_ONCE):
        found = _drawn(cutouts[rows].to(device), estimator, n_samples, seed)
        samples[rows], distance[rows] = found.samples.cpu(), found.distance.cpu()
        flags[rows] |= found.flags.cpu()
    return TargetDraws(samples, flags, distance)


def _drawn(cutouts: Cutouts, estimator: Estimator, n_samples: int, seed: int) -> TargetDraws:
    """Draw for a few galaxies that have pixels; the flags are those that the network adds."""
    inputs = estimator_inputs(
        cutouts, estimator.initial_estimator, with_views=estimator.backbone is not None
    )
    context = estimator.context(inputs.views, inputs.scalars).float()
    noise = own_noise(cutouts.id, n_samples, estimator.n_targets, seed, 0)
    z, _ = estimator.flow.from_normal(noise.to(context), context)
    good = (z.abs() < MAX_WHITENED).all(dim=2, keepdim=True)
    values = decode_targets(estimator.original(z), estimator.target_columns)
    distance = estimator.distance(context).double()
    few = ~good[..., 0].all(dim=1) * int(Flag.FEW_DRAWS)
    flags = unfamiliar(cutouts, distance, estimator) | few
    return TargetDraws(torch.where(good, values, torch.nan), flags, distance)
