"""Draws of other parameters than the Sersic ones, from a network fine-tuned to them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.flags import Flag
from hybridfit.npe.draws import MAX_WHITENED, own_noise
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import undiagnosed, unfamiliar
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.targets import decode_targets

AT_ONCE = 64  # galaxies


@torch.inference_mode()
def predict_targets(
    cutouts: Cutouts,
    estimator: Estimator,
    n_samples: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, NetworkDiagnostics]:
    """Draw from the posterior of other parameters.

    The draws of a galaxy depend on its pixels, its id and the seed, not on its batch.

    Args:
        cutouts: B galaxies.
        estimator: fine-tuned to other parameters, its ``target_columns``; moved to ``device``.
        n_samples: S draws of each galaxy.
        seed: of the random numbers.
        device: where the network is evaluated.

    Returns:
        Draws (B, S, T) float64 on the CPU, NaN for draws that exploded and galaxies without a
        pixel, and how well the network knows the galaxies.

    Raises:
        ValueError: for a network of the Sersic parameters.
    """
    if not estimator.target_columns:
        raise ValueError("the network predicts Sersic parameters: use predict_cutouts")
    estimator = estimator.to(device).eval()
    samples = torch.full(
        (len(cutouts), n_samples, estimator.n_targets), torch.nan, dtype=torch.float64
    )
    about = undiagnosed(cutouts)
    known = about.flags & int(Flag.NO_DATA | Flag.UNREADABLE) == 0
    for rows in known.nonzero()[:, 0].split(AT_ONCE):
        samples[rows], found = _drawn(cutouts[rows].to(device), estimator, n_samples, seed)
        found = replace(found, flags=about.flags[rows] | found.flags)
        about = about.put(rows, found)
    return samples, about


def _drawn(
    cutouts: Cutouts, estimator: Estimator, n_samples: int, seed: int
) -> tuple[Tensor, NetworkDiagnostics]:
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
    exploded = (~good[..., 0]).sum(dim=1)
    flags = unfamiliar(cutouts, distance, estimator) | (exploded > 0) * int(Flag.FEW_DRAWS)
    about = NetworkDiagnostics(exploded, distance, flags)
    return torch.where(good, values, torch.nan).cpu(), about.to("cpu")
