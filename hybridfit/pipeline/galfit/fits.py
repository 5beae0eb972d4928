"""Fits that stay within the ranges of constraint files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.positions import in_cutout
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.fixed import InitialValues
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.galfit.tasks import Task, space_of

ROUNDS = 5  # fits, each of which fixes one more value at a limit


def given_limits(batch: Sequence[Task], origin: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and upper limits (B, Q) of the tasks' values, in cutout pixels."""
    pair = [[getattr(task, name) for task in batch] for name in ("low", "high")]
    low, high = (torch.tensor(values, dtype=torch.float64) for values in pair)
    names = space_of(batch[0].n_components).names
    return in_cutout(low, names, origin), in_cutout(high, names, origin)


def fit_within(
    cutouts: Cutouts,
    options: FitOptions,
    given: InitialValues,
    limits: tuple[Tensor, Tensor],
    device: torch.device,
    compile: bool,
) -> Fit:
    """Fit within limits: fix values that would leave them at the limit, and flag AT_LIMIT.

    This is an active-set method: each round fixes the value that lies farthest outside, in units
    of its error. A fixed value is not released again.

    Args:
        cutouts, options, device, compile: see `fit_cutouts`.
        given: initial values, and which of them are fixed.
        limits: lower and upper limits (B, Q) of the values.
    """
    fit = fit_cutouts(cutouts, options, device, compile, given=given)
    low, high = limits
    for _ in range(ROUNDS):
        out = torch.maximum(low - fit.theta, fit.theta - high) / fit.error.clamp_min(1e-12)
        out = torch.where(given.fixed | ~torch.isfinite(out), -torch.inf, out)
        worst, column = out.max(dim=1)
        rows = (worst > 0).nonzero()[:, 0]
        if len(rows) == 0:
            break
        at, theta, fixed = column[rows], given.theta.clone(), given.fixed.clone()
        theta[rows] = torch.where(torch.isfinite(fit.theta[rows]), fit.theta[rows], theta[rows])
        value = theta[rows, at]
        moved = value.clamp(low[rows, at], high[rows, at]) - value
        # tied positions are moved, and fixed, together
        together = given.tied_to[rows] == given.tied_to[rows, at][:, None]
        theta[rows] += together * moved[:, None]
        fixed[rows] |= together
        given = replace(given, theta=theta, fixed=fixed)
        again = fit_cutouts(cutouts[rows], options, device, compile, given=given[rows])
        fit = fit.put(rows, replace(again, flags=again.flags | int(Flag.AT_LIMIT)))
    return fit
