"""A search for the minima of concentric components, on small images.

The first start is followed on the middle of the cutouts. Structured starts about where it ends are
followed on binned pixels there, whose cost is a tenth. Whole cutouts are fitted from the best
minimum and from those that come near it; see `hybridfit.fitting.modes` for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.binned import Binned, binned_problem, eager
from hybridfit.fitting.coarse_fit import fit_of_several, middle_of_several
from hybridfit.fitting.lm import LMOptions, minimise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import DARK
from hybridfit.fitting.structured_starts import (
    MORE_STARTS,
    STARTS,
    exchanged_starts,
    mean_size,
    nearest_order,
    spread_starts,
)
from hybridfit.fitting.window import window_problem

LOOK = LMOptions(max_iter=14, tolerance=0.05, correlated=True)
CHECK = LMOptions(max_iter=3, tolerance=0.5, correlated=True)
APART = 4.0  # squared standard deviations between two minima
# of ln evidence: how much less another mode may have; on the middle of a cutout, where part of the
# light is missing, twice as much
MARGIN = 6.0
USABLE_U = 4.0  # largest whitened coordinate of a minimum that is followed
LEAST_SIDE = 24  # pixels: windows below this are not binned
COMPACT = 3.5  # pixels: of sources whose circularised size is below this are not binned
SIDE_OF_COMPACT = 32  # pixels, of the windows that these are looked at in


@dataclass(frozen=True)
class Found(Batch):
    """Places near minima of B galaxies.

    Args:
        points: (B, M, P) whitened, first the one that the first start leads to; NaN where there is
            none.
        evidence: (B, M) ln of the posterior's integral about them, as far as small images tell and
            up to a constant; -inf where there is none.
        n_iter: (B,) evaluations of whole cutouts.
    """

    points: Tensor
    evidence: Tensor
    n_iter: Tensor


def search(
    problem: Problem,
    cutouts: Cutouts,
    start: Tensor,
    coarse: bool = True,
    given: Tensor | None = None,
) -> Found:
    """Return where minima are.

    Args:
        problem: with concentric components, on the whole cutouts.
        cutouts: the same B galaxies.
        start: (B, P) whitened starting values.
        coarse: whether the middle of the cutouts may take their place.
        given: (B, K, P) further starts that are followed, such as a network's; NaN for none.
    """
    if given is None:
        given = start.new_empty(len(start), 0, start.shape[1])
    middle = middle_of_several(problem, cutouts, start) if coarse else None
    if middle is None:
        return _search(problem, problem, cutouts, start, given)
    small, rows = middle
    if len(rows) == len(start):
        return _search(small, problem, cutouts, start, given)
    outside = torch.ones(len(start), dtype=torch.bool, device=start.device)
    outside[rows] = False
    others = outside.nonzero()[:, 0]
    parts = (
        _search(small[rows], problem[rows], cutouts[rows], start[rows], given[rows]),
        _search(own := problem[others], own, cutouts[others], start[others], given[others]),
    )
    return Found.cat(parts)[torch.argsort(torch.cat([rows, others]))]


@dataclass(frozen=True)
class Looks(Batch):
    """Minima of B galaxies on small images, from M starts each.

    Args:
        points: (B, M, P) whitened.
        precision: (B, M, P, P) the curvature there.
        flux: (B, M, K) of the components, units of the noise.
        evidence: (B, M) as that of `Found`; far lower where a component has no light.
    """

    points: Tensor
    precision: Tensor
    flux: Tensor
    evidence: Tensor

    def beside(self, other: Looks) -> Looks:
        """Return the minima of both, of the same galaxies."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Looks(**{name: torch.cat(pair, dim=1) for name, pair in pairs.items()})


def _search(
    small: Problem, whole: Problem, cutouts: Cutouts, start: Tensor, given: Tensor
) -> Found:
    """Return minima.

    Args:
        small: the problem on the middle of the cutouts, or on the whole of small ones.
        whole: on the whole of them.
        cutouts: the same B galaxies.
        start: (B, P) whitened.
        given: (B, K, P) further ones; NaN for none.
    """
    first, minimum = fit_of_several(small, start)
    known = torch.isfinite(minimum.normal.cost)[:, None]
    about = torch.where(known, minimum.point, start)
    linear = torch.where(known, minimum.normal.carry[0], 0.0)
    everyone = torch.arange(len(start), device=start.device)
    flux = small.fluxes(about, linear, everyone)
    size = mean_size(small.space, small.constants, about, flux)
    compact = size < COMPACT
    parts, rows = [], []
    for some in (compact.nonzero()[:, 0], (~compact).nonzero()[:, 0]):
        if len(some) == 0:
            continue
        own, galaxies = small[some], cutouts[some]
        cheap: Problem | Binned
        if compact[some[0]]:
            cheap = _smaller(own, whole[some], galaxies)
        else:
            cheap = _binned(own, galaxies, about[some], linear[some])
        looks = _look_around(cheap, own, first[some], about[some], flux[some], given[some])
        lit = (flux[some] > 0).all(dim=1) & known[some, 0]
        n_iter = minimum.n_iter[some] * (small is whole)
        place = torch.where(lit[:, None], first[some], looks.points[:, 0])
        parts.append(_found(looks, place, own, n_iter))
        rows.append(some)
    return _checked(Found.cat(parts)[torch.argsort(torch.cat(rows))], small)


def _checked(found: Found, small: Problem) -> Found:
    """Return what was found on binned or smaller images, where it is on the problem itself."""
    exist = torch.isfinite(found.points).all(dim=2)
    close = found.evidence > found.evidence.amax(dim=1, keepdim=True) - MARGIN
    chosen = exist & close & ((exist & close).sum(dim=1, keepdim=True) > 1)
    if not chosen.any():
        return found
    looks = _look(small, small, found.points, chosen, CHECK)
    points = torch.where(chosen[..., None], looks.points, found.points)
    return replace(
        found, points=points, evidence=torch.where(chosen, looks.evidence, found.evidence)
    )


def _look_around(
    cheap: Problem | Binned,
    small: Problem,
    first: Tensor,
    about: Tensor,
    flux: Tensor,
    given: Tensor,
) -> Looks:
    """Return what structured starts lead to.

    Args:
        cheap: what is minimised.
        small: that this is about.
        first, about: (B, P) whitened, where the first start has led, to light in all components or
            not.
        flux: (B, K) there.
        given: (B, G, P) further starts; NaN for none.
    """
    space, constants = small.space, small.constants
    spread = spread_starts(space, constants, about, flux, STARTS)
    exchanged = exchanged_starts(space, constants, about)
    # where the first start leads to no light in a component there is nothing to exchange
    lit = (flux > 0).all(dim=1)[:, None]
    always = torch.ones_like(spread[:, :, 0], dtype=torch.bool)
    usable = torch.isfinite(given).all(dim=2)
    picked = [always[:, :1], always, lit.expand(exchanged.shape[:2]), usable]
    starts = [first[:, None], spread, exchanged, given.nan_to_num(0.0)]
    looks = _look(cheap, small, torch.cat(starts, dim=1), torch.cat(picked, dim=1))
    # all starts about the best minimum where the first start led nowhere, and its exchange
    each, best = torch.arange(len(first), device=first.device), looks.evidence.argmax(dim=1)
    about, flux = looks.points[each, best], looks.flux[each, best]
    more = spread_starts(space, constants, about, flux, (*STARTS, *MORE_STARTS))
    exchanged = exchanged_starts(space, constants, about)
    other = (looks.evidence[each, best] > looks.evidence[:, 0] + 1)[:, None]
    picked = [(~lit).expand(more.shape[:2]), (other | ~lit).expand(exchanged.shape[:2])]
    more = torch.cat([more, exchanged], dim=1)
    return looks.beside(_look(cheap, small, more, torch.cat(picked, dim=1)))


def _found(looks: Looks, first: Tensor, problem: Problem, n_iter: Tensor) -> Found:
    """Return the distinct ones of minima; the first is replaced by what led to it, (B, P)."""
    points, precision = looks.points.clone(), looks.precision
    centre = points[:, 0], precision[:, 0]
    for k in range(1, points.shape[1]):
        points[:, k] = nearest_order(points[:, k], *centre, problem.space, problem.constants)
    kept = distinct(points, precision, looks.evidence, 2 * MARGIN)
    points[:, 0] = first
    evidence = torch.where(kept, looks.evidence, -torch.inf)
    return Found(torch.where(kept[..., None], points, torch.nan), evidence, n_iter)


def _binned(small: Problem, cutouts: Cutouts, whitened: Tensor, linear: Tensor) -> Problem | Binned:
    """Return a problem about a model (B, P), (B, F), binned where the PSFs and the sky allow it."""
    if (
        small.exposures
        or small.grid.folds
        or small.space.n_sky > 1
        or min(small.pixels.data.shape[-2:]) < LEAST_SIDE
    ):
        return small
    return binned_problem(small, cutouts, whitened, linear)


def _smaller(small: Problem, whole: Problem, cutouts: Cutouts) -> Problem:
    """Return the problem of compact sources on smaller windows, if there are any."""
    side = SIDE_OF_COMPACT
    if min(small.pixels.data.shape[-2:]) <= side or small.space.n_sky > 1:
        return small
    tiny, _ = window_problem(whole, cutouts, whole.constants.centre, (side, side))
    return eager(tiny)


def _look(
    cheap: Problem | Binned,
    problem: Problem,
    starts: Tensor,
    chosen: Tensor,
    options: LMOptions = LOOK,
) -> Looks:
    """Follow whitened starts.

    Args:
        cheap: what is minimised.
        problem: that this is about.
        starts: (B, M, P).
        chosen: (B, M) which of them to follow.
        options: of the optimiser.
    """
    flat = chosen.flatten().nonzero()[:, 0]
    rows = flat // starts.shape[1]
    shape = chosen.shape
    nothing = Looks(
        torch.full_like(starts, torch.nan),
        starts.new_zeros(*starts.shape, starts.shape[2]),
        starts.new_zeros(*shape, problem.space.n_components),
        starts.new_full(shape, -torch.inf),
    )
    if len(flat) == 0:
        return nothing
    there = minimise(
        lambda point, some: cheap(point, rows[some]), starts.flatten(0, 1)[flat], options
    )
    flux = problem.fluxes(there.point, there.normal.carry[0], rows)
    step = (there.normal.gradient * there.last_step).sum(dim=1)
    evidence = -there.normal.cost - 0.5 * step - DARK * (flux <= 0).any(dim=1)
    if problem.prior_weight:
        evidence -= 0.5 * torch.linalg.slogdet(there.normal.hessian)[1]
    usable = torch.isfinite(there.point).all(dim=1) & (there.point.abs().amax(dim=1) < USABLE_U)
    evidence = torch.where(usable & torch.isfinite(evidence), evidence, -torch.inf)
    values = (there.point, there.normal.hessian, flux, evidence)
    places = (nothing.points, nothing.precision, nothing.flux, nothing.evidence)
    pairs = zip(places, values, strict=True)
    return Looks(*(p.flatten(0, 1).index_copy(0, flat, v).unflatten(0, shape) for p, v in pairs))


def distinct(points: Tensor, precision: Tensor, evidence: Tensor, margin: float) -> Tensor:
    """Return (B, M) which minima to keep: the first, and others apart from those before them.

    Args:
        points: (B, M, P).
        precision: (B, M, P, P) the inverse of their covariances.
        evidence: (B, M) ln of their integrals, up to a constant; -inf where there is none.
        margin: how much less than the largest evidence others may have.
    """
    offset = points[:, :, None] - points[:, None]  # (B, M, M, P)
    distance = torch.einsum("bijp,bipq,bijq->bij", offset, precision, offset)
    distance = torch.minimum(distance, distance.mT)
    good = torch.isfinite(evidence) & (evidence > evidence.amax(dim=1, keepdim=True) - margin)
    kept = torch.zeros_like(good)
    kept[:, 0] = True
    for k in range(1, points.shape[1]):
        near = (distance[:, k, :k] < APART) & kept[:, :k]
        kept[:, k] = good[:, k] & ~near.any(dim=1)
    return kept
