"""Labelled cutouts as training data: real galaxies with known parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.frame import encode
from hybridfit.npe.network import Estimator
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.targets import TargetColumn, encode_targets
from hybridfit.rendering.render import render
from hybridfit.training.data import MEASURED_AT_ONCE, Shard, in_parts, targets_of


def labelled_shard(
    cutouts: Cutouts,
    truth: Tensor,
    columns: Sequence[TargetColumn] = (),
    seed: int = 0,
    initial_estimator: Estimator | None = None,
) -> Shard:
    """Return the inputs of the network for labelled cutouts, and their targets.

    Args:
        cutouts: B galaxies.
        truth: (B, 8) physical parameters in cutout pixels; where the sky is NaN it is drawn from
            what the pixels say about it given the others. With ``columns`` (B, T) their values.
        columns: other parameters than the Sersic ones.
        seed: random seed of the skies.
        initial_estimator: of the network, where it refines an initial estimate; galaxies are
            measured on its device.

    Returns:
        Shard of B galaxies on the CPU, their signal to noise NaN; targets may be NaN too.
    """
    if not columns:
        truth = with_sky(truth, cutouts, seed)
    device = (
        torch.device("cpu") if initial_estimator is None else initial_estimator.context_mean.device
    )
    pieces = []
    for part in in_parts(len(cutouts), MEASURED_AT_ONCE):
        some, true = cutouts[part].to(device), truth[part].to(device)
        inputs = estimator_inputs(some, initial_estimator)
        if columns:
            targets = encode_targets(true, columns)
            log_slope = torch.zeros(len(some))
        else:
            targets, log_slope = targets_of(encode(true, some.zeropoint, inputs.frame), inputs)
        unknown = torch.full((len(some),), math.nan)
        values = (inputs.views.half(), inputs.scalars.float(), targets.float())
        kind = torch.zeros(len(some), dtype=torch.int64)
        pieces.append((*values, unknown, kind, log_slope.float()))
    return Shard(*(torch.cat([v.cpu() for v in column]) for column in zip(*pieces, strict=True)))


def with_sky(theta: Tensor, cutouts: Cutouts, seed: int) -> Tensor:
    """Replace skies that are NaN by draws given the pixels and the other parameters.

    The best sky instead would teach the network that it is known without error.
    """
    missing = torch.isnan(theta[:, 7]) & torch.isfinite(theta[:, :7]).all(dim=1)
    rows = missing.nonzero()[:, 0]
    if not len(rows):
        return theta
    some, flat = cutouts[rows], theta[rows].clone()
    flat[:, 7] = 0.0
    rest = some.image - render(flat, some, ParameterSpace())
    weight = torch.where(some.mask, 0.0, 1 / some.sigma**2).double().flatten(1)
    total = weight.sum(dim=1)
    best = (weight * rest.double().flatten(1)).sum(dim=1) / total
    noise = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed))
    theta = theta.clone()
    theta[rows, 7] = best + noise.to(best) / total.sqrt()
    return theta
