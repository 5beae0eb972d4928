"""Labelled cutouts as training data: real galaxies with parameters that somebody measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.model.render import render
from hybridfit.npe.columns import Column, encode_columns
from hybridfit.npe.data import MEASURED_AT_ONCE, Shard, in_parts
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.parameters import ParameterSpace

MIRRORS = ((False, False), (True, False), (False, True), (True, True))


def labelled_shard(
    cutouts: Cutouts,
    truth: Tensor,
    columns: Sequence[Column] = (),
    mirrors: bool = False,
    seed: int = 0,
) -> Shard:
    """What the network reads of labelled cutouts, and their targets.

    Args:
        cutouts: B galaxies.
        truth: (B, 8) physical parameters in stamp pixels; where the sky is NaN it is drawn from
            what the pixels say about it given the others. With ``columns`` (B, T) their values.
        columns: other parameters than the Sersic ones.
        mirrors: each galaxy four times, as it is and mirrored along x, y and both.
        seed: of the skies.

    Returns:
        Shard of B or 4 B galaxies, the mirrored ones behind the others; galaxies whose targets
        are not finite have NaN there.
    """
    if not columns:
        truth = with_sky(truth, cutouts, seed)
    pieces = []
    for flip in MIRRORS if mirrors else MIRRORS[:1]:
        for part in in_parts(len(cutouts), MEASURED_AT_ONCE):
            some, true = cutouts[part], truth[part]
            if not columns:
                true = mirrored_parameters(true, some.size, *flip)
            some = mirrored(some, *flip)
            inputs = make_inputs(some)
            if columns:
                targets = encode_columns(true, columns)
            else:
                targets = encode(true, some.zeropoint, inputs.frame)
            nothing = torch.zeros(len(some))
            pieces.append(
                (
                    inputs.views.half(),
                    inputs.scalars.float(),
                    targets.float(),
                    nothing + math.nan,
                    nothing.long(),
                )
            )
    return Shard(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def mirrored(cutouts: Cutouts, along_x: bool, along_y: bool) -> Cutouts:
    """The stamps mirrored along their axes, their padding still behind the last row and column."""
    height, width = cutouts.image.shape[-2:]
    y = torch.arange(height, device=cutouts.image.device).expand(len(cutouts), -1)
    x = torch.arange(width, device=cutouts.image.device).expand(len(cutouts), -1)
    if along_y:
        y = (cutouts.size[:, :1] - 1 - y) % height
    if along_x:
        x = (cutouts.size[:, 1:] - 1 - x) % width
    row = torch.arange(len(cutouts), device=cutouts.image.device)[:, None, None]
    at = (row, y[:, :, None], x[:, None, :])
    flips = [axis for axis, wanted in ((-2, along_y), (-1, along_x)) if wanted]
    return replace(
        cutouts,
        image=cutouts.image[at],
        sigma=cutouts.sigma[at],
        mask=cutouts.mask[at],
        psf=None if cutouts.psf is None else cutouts.psf.flip(flips),
    )


def mirrored_parameters(theta: Tensor, size: Tensor, along_x: bool, along_y: bool) -> Tensor:
    """Physical parameters (B, 8) of mirrored stamps with sizes (B, 2) height, width."""
    theta = theta.clone()
    if along_x:
        theta[:, 0] = size[:, 1] - 1 - theta[:, 0]
    if along_y:
        theta[:, 1] = size[:, 0] - 1 - theta[:, 1]
    if along_x != along_y:
        theta[:, 6] = (-theta[:, 6]) % 180.0
    return theta


def with_sky(theta: Tensor, cutouts: Cutouts, seed: int) -> Tensor:
    """Replace skies that are NaN by draws given the pixels and the other parameters.

    Taking the best sky instead would teach the network that it is known without an error.
    """
    missing = torch.isnan(theta[:, 7]) & torch.isfinite(theta[:, :7]).all(dim=1)
    rows = missing.nonzero()[:, 0]
    if not len(rows):
        return theta
    some, flat = cutouts[rows.tolist()], theta[rows].clone()
    flat[:, 7] = 0.0
    rest = some.image - render(flat, some, ParameterSpace())
    weight = torch.where(some.mask, 0.0, 1 / some.sigma**2).double().flatten(1)
    total = weight.sum(dim=1)
    best = (weight * rest.double().flatten(1)).sum(dim=1) / total
    noise = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed))
    theta = theta.clone()
    theta[rows, 7] = best + noise.to(best) / total.sqrt()
    return theta
