"""A target without its neighbours: their light subtracted, their uncertainty kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.neighbours import Neighbours
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.joint_scene import POINT, POINT_VALUES, SERSIC_VALUES
from hybridfit.fitting.light import light_of
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.solution import solve
from hybridfit.model.parameters import ParameterSpace


@dataclass(frozen=True)
class Separated(Batch):
    """Targets of B joint fits, to be measured as if they were alone.

    Args:
        cutouts: with the neighbours' light subtracted.
        nuisances: the neighbours' parameters.
        near: (B, Q) physical values of the target and the sky.
        neighbours: their values, and what they mean for the target.
        light: (B, H, W) of the neighbours, flux units.
    """

    cutouts: Cutouts
    nuisances: Nuisances
    near: Tensor
    neighbours: Neighbours
    light: Tensor


@torch.inference_mode()
def separated(fitted: Fitted, n_target: int, kinds: Sequence[str]) -> Separated:
    """Return the targets of joint fits.

    Args:
        fitted: of B galaxies with neighbours of the same kinds.
        n_target: number of the target's components, the first ones of the scene.
        kinds: profile of each neighbour.
    """
    problem, space = fitted.problem, fitted.problem.space
    light = light_of(problem, fitted.whitened, fitted.linear).components
    own, others = light[:, :n_target].sum(dim=1), light[:, n_target:].sum(dim=1)
    flux = (others * problem.pixels.scale.to(others)[:, None, None]).cpu()
    cutouts = fitted.cutouts.to("cpu")
    image = torch.where(cutouts.mask, 0.0, cutouts.image - flux)
    about = fitted.linearise()
    columns, n_whitened = neighbour_columns(space, n_target)
    offset = torch.zeros(len(own), len(columns), dtype=torch.float64, device=own.device)
    offset[:, :n_whitened] = fitted.whitened[:, columns[:n_whitened]]
    precision = torch.zeros_like(offset)
    precision[:, :n_whitened] = problem.prior_weight
    nuisances = Nuisances.of(about.columns[:, columns], precision, offset)
    near = fitted.fit.theta[:, target_columns(space, n_target)]
    return Separated(
        replace(cutouts, image=image),
        nuisances.to("cpu"),
        near,
        _neighbours(
            fitted,
            n_target,
            kinds,
            blendedness(own, others),
            _added_error(fitted, about, n_target, columns),
        ),
        flux,
    )


def blendedness(own: Tensor, others: Tensor) -> Tensor:
    """Return the share of others in the light of a target's pixels (B,), weighted by its own.

    It is ``1 - sum(m^2) / sum(m M)`` of the target's model m and the model M of all sources (Bosch
    et al. 2018, PASJ 70, S5).

    Args:
        own, others: (B, H, W) models, without the sky.
    """
    total = (own * (own + others)).sum(dim=(1, 2), dtype=torch.float64)
    return (1 - own.square().sum(dim=(1, 2), dtype=torch.float64) / total).cpu()


def _neighbours(
    fitted: Fitted, n_target: int, kinds: Sequence[str], blended: Tensor, added: Tensor
) -> Neighbours:
    """Return the neighbours of joint fits, in cutout pixels."""
    fit, space = fitted.fit, fitted.problem.space
    result = Neighbours.none(len(fit))
    values, errors = result.values.clone(), result.errors.clone()
    for m, kind in enumerate(kinds):
        first = space.column(n_target + m, "x")
        own = slice(first, first + (POINT_VALUES if kind == POINT else SERSIC_VALUES))
        values[:, m, : own.stop - own.start] = fit.theta[:, own]
        errors[:, m, : own.stop - own.start] = fit.error[:, own]
    return Neighbours(values, errors, blended, added)


def _added_error(
    fitted: Fitted, about: Linearised, n_target: int, columns: Sequence[int]
) -> Tensor:
    """Return what the neighbours' uncertainty adds to the error of the target's magnitude (B,).

    It is the root of the difference of two variances: with the neighbours' parameters free, and
    with them fixed.

    Args:
        fitted: joint fits.
        about: the model about them.
        n_target: number of the target's components.
        columns: free parameters of the neighbours, see `neighbour_columns`.
    """
    space = fitted.problem.space
    at = [space.column(k, "mag") for k in range(n_target)]
    share = torch.softmax(-0.4 * math.log(10) * fitted.fit.theta[:, at], dim=1).to(about.prior)
    slope = torch.einsum("bk,bkc->bc", share, about.to_physical[:, at])
    own = [c for c in range(slope.shape[1]) if c not in set(columns)]
    matrix = (about.information + about.prior)[:, own][:, :, own]
    eye = torch.eye(len(own), dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    fixed = torch.einsum("bc,bcd,bd->b", slope[:, own], solve(matrix, eye), slope[:, own])
    free = torch.einsum("bc,bcd,bd->b", slope, about.covariance, slope)
    return torch.sqrt((free - fixed).clamp_min(0.0)).cpu()


def target_columns(space: ParameterSpace, n_target: int) -> list[int]:
    """Return the columns of ``Fit.theta`` of the target's components and of the sky."""
    count = sum(len(c.parameters) for c in space.components[:n_target])
    sky = [k for k, role in enumerate(space.roles) if role == "sky"]
    return [*range(count), *sky]


def neighbour_columns(space: ParameterSpace, n_target: int) -> tuple[list[int], int]:
    """Return the free parameters of all components but the target's, and how many are whitened.

    Returns:
        columns of (whitened, linear) parameters, the whitened ones first; their number.
    """
    slots = [k for k, c in enumerate(space.components) for _ in c.slots]
    slots += list(space.links.fluxes) if space.links is not None else []
    owners = [slots[j] for j in space.whitening.owners]
    whitened = [i for i, k in enumerate(owners) if k >= n_target]
    terms = range(space.n_components) if space.links is None else space.links.terms
    fluxes = [terms[k] for k in range(n_target, space.n_components)]
    linear = [space.n_nonlinear + t for t in fluxes if t is not None]
    return [*whitened, *linear], len(whitened)
