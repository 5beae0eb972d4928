"""Draws of other parameters than the Sersic ones, from a network fine-tuned to them."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.npe.columns import decode_columns
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator

AT_ONCE = 64  # galaxies
MAX_WHITENED = 10.0  # what the flow's inverse throws farther has exploded


@torch.no_grad()
def predict_columns(
    cutouts: Cutouts,
    estimator: Estimator,
    n_samples: int = 256,
    seed: int = 0,
) -> Tensor:
    """Draw from the posterior of other parameters.

    Args:
        cutouts: B galaxies.
        estimator: fine-tuned to other parameters, its ``columns``.
        n_samples: S draws of each galaxy.
        seed: of the random numbers.

    Returns:
        (B, S, T) float64; NaN for draws that exploded and galaxies without a usable pixel.
    """
    columns = estimator.columns
    if not columns:
        raise ValueError("the network predicts Sersic parameters: use predict_cutouts")
    estimator = estimator.eval()
    device = estimator.target_mean.device
    generator = torch.Generator(device).manual_seed(seed)
    pieces = []
    for start in range(0, len(cutouts), AT_ONCE):
        part = cutouts[start : start + AT_ONCE].to(device)
        inputs = make_inputs(part, with_views=estimator.backbone is not None)
        context = estimator.context(inputs.views, inputs.scalars).float()
        z, _ = estimator.flow.sample(context, n_samples, generator)
        good = (z.abs() < MAX_WHITENED).all(dim=2) & ~part.mask.flatten(1).all(dim=1)[:, None]
        values = decode_columns(estimator.original(z), columns)
        pieces.append(torch.where(good[..., None], values, torch.nan).cpu())
    return torch.cat(pieces)
