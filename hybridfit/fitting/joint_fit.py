"""Joint fits of a target and its neighbours, with as many sources as the pixels ask for.

Each round fits the sources known so far, cutouts with the same kinds of sources as one batch. The
residual shows companions that detection could not separate; a further source stays if chi2 falls
by far more than its parameters would make it by chance, and by a good part of its excess: the
residual of arms or bars is not cured by one more source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.neighbours import MOST
from hybridfit.fitting.fit import fit_parts
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.joint_scene import SERSIC, JointStart, joint_values, known_sources
from hybridfit.fitting.light import light_of
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.source_starts import nearest_to, psf_width, residual_source

ROUNDS = 7
SURELY = 25.0  # by which one more source lowers chi2, in units of chi2 per degree of freedom
POOR = 5.0  # standard deviations of chi2 above its expectation
CHANCE = 2.0  # standard deviations of chi2 that are no excess
CURED = 0.25  # of the excess of chi2 over its expectation that one more source removes
UNSURE = 0.2  # mag, error of a neighbour that the fit may do without: its flux is 5 sigma
POINT_SIZE = 0.7  # r_eff over the PSF's sigma, below which a point is tried
POINT_RISE = 6.0  # of chi2, for four parameters less


@dataclass(frozen=True)
class JointFit:
    """Galaxies that were fitted together with neighbours of the same kinds.

    Args:
        rows: (b,) int64 of the batch.
        fitted: their scenes: the target's components, then one for each neighbour.
        kinds: profile of each neighbour.
    """

    rows: Tensor
    fitted: Fitted
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class _Best:
    """The best fit of one cutout: row ``local`` of ``fitted``, and its sources there."""

    fitted: Fitted
    local: int
    start: JointStart

    @property
    def chi2(self) -> float:
        """Chi2 of the fit."""
        return float(self.fitted.fit.chi2[self.local])

    @property
    def dof(self) -> int:
        """Its degrees of freedom."""
        return int(self.fitted.fit.dof[self.local])


@dataclass(frozen=True)
class _Trial:
    """Sources to be fitted; ``thorough`` from several initial values."""

    start: JointStart
    thorough: bool = False

    @property
    def kind(self) -> tuple[tuple[str, ...], bool]:
        """What the trials of one batch have in common."""
        return self.start.kinds, self.thorough


@torch.inference_mode()
def joint_fits(
    cutouts: Cutouts,
    options: FitOptions,
    starts: Sequence[JointStart],
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> list[JointFit]:
    """Fit targets together with their neighbours.

    Args:
        cutouts: B galaxies of one padded shape.
        options: with the target's model.
        starts: the sources of each cutout that are known.
        device, compile: see `hybridfit.fitting.fit.fit_parts`.

    Returns:
        Groups of galaxies with neighbours of the same kinds; a galaxy is in one of them at most,
        and in none if no fit of it has light in all sources.
    """
    best: dict[int, _Best] = {}
    trials = {row: _Trial(start) for row, start in enumerate(starts)}
    psf = psf_width(cutouts)
    for _ in range(ROUNDS):
        following: dict[int, _Trial] = {}
        for row, new in _fits(cutouts, options, trials, device, compile):
            before = best.get(row)
            if _is_better(new, before):
                best[row] = new
                further = _next_trial(cutouts, row, new, float(psf[row]))
            elif before is None:
                further = _without_dark(new)
            else:
                best[row], further = _after_failure(
                    cutouts, row, trials[row], before, float(psf[row])
                )
            if further is not None:
                following[row] = further
        trials = following
        if not trials:
            break
    return _groups(best)


def _fits(
    cutouts: Cutouts,
    options: FitOptions,
    trials: Mapping[int, _Trial],
    device: torch.device | str,
    compile: bool,
) -> Iterator[tuple[int, _Best]]:
    """Fit each trial and yield the row of the batch with its fit."""
    for kind in sorted({trial.kind for trial in trials.values()}):
        rows = [row for row, trial in trials.items() if trial.kind == kind]
        scene = joint_values(options, [trials[row].start for row in rows])
        own = replace(options, retry=trials[rows[0]].thorough)
        for part in fit_parts(cutouts[rows], own, device, compile, scene=scene):
            for local, number in enumerate(part.rows.tolist()):
                start = known_sources(part.fit.theta[local], trials[rows[number]].start)
                yield rows[number], _Best(part, local, start)


def _is_better(new: _Best, old: _Best | None) -> bool:
    """Return whether a fit takes the place of another, with one source less or one as a point."""
    if not bool(torch.isfinite(new.fitted.fit.theta[new.local]).all()):
        return False
    if old is None:
        return True
    fall = old.chi2 - new.chi2
    unit = max(new.chi2 / max(new.dof, 1), 1.0)
    if len(new.start.kinds) < len(old.start.kinds):
        return fall > -SURELY * unit
    if len(new.start.kinds) == len(old.start.kinds):
        return fall > -POINT_RISE
    return fall > SURELY * unit and fall > CURED * _excess(old, CHANCE)


def _excess(best: _Best, chance: float) -> float:
    """Return by how much chi2 exceeds its expectation and ``chance`` standard deviations."""
    return best.chi2 - best.dof - chance * math.sqrt(2 * max(best.dof, 1))


def _next_trial(cutouts: Cutouts, row: int, best: _Best, psf: float) -> _Trial | None:
    """Return what to try after a fit: another source, or a neighbour as a point; None for nothing.

    Args:
        cutouts: the batch.
        row: of the galaxy.
        best: its fit.
        psf: sigma of its PSF, pixels.
    """
    start = best.start
    nearer = nearest_to(start, cutouts, row)
    if nearer is not None:
        return _Trial(start.exchanged(nearer))
    weak = _weakest(best)
    if weak is not None:
        return _Trial(start.without(weak))
    if len(start.kinds) < MOST and not start.complete:
        found = _residual_source(cutouts[row], best, psf)
        if found is not None:
            return _Trial(start.added(found))
    return _as_point(start, psf)


def _weakest(best: _Best) -> int | None:
    """Return the neighbour with the least certain flux, if the fit may do without it."""
    space, start = best.fitted.problem.space, best.start
    first = space.n_components - len(start.kinds)
    errors = best.fitted.fit.error[best.local]
    doubtful = {
        k: float(errors[space.column(first + k, "mag")])
        for k in range(len(start.kinds))
        if k not in start.needed
    }
    worst = max(doubtful, key=lambda k: doubtful[k], default=None)
    return worst if worst is not None and doubtful[worst] > UNSURE else None


def _as_point(start: JointStart, psf: float) -> _Trial | None:
    """Return the trial of the first neighbour that may be a point; None without one."""
    for k, kind in enumerate(start.kinds):
        small = float(start.neighbours[k, 3]) < POINT_SIZE * psf
        if kind == SERSIC and small and k not in start.tried:
            return _Trial(start.as_point(k))
    return None


def _residual_source(cutout: Cutouts, best: _Best, psf: float) -> Tensor | None:
    """Return values (7,) of the strongest source in the residual of a fit; None without one."""
    own = best.fitted[[best.local]]
    rest = light_of(own.problem, own.whitened, own.linear).residual[0].cpu()
    return residual_source(rest, cutout, best.start, psf)


def _after_failure(
    cutouts: Cutouts, row: int, trial: _Trial, best: _Best, psf: float
) -> tuple[_Best, _Trial | None]:
    """Return the best fit with what is known now, and what to try after one that was no better.

    Where the best fit leaves much unexplained, the further source may have ended in a poor minimum:
    it is tried from several initial values.
    """
    start = best.start
    if len(trial.start.kinds) > len(start.kinds):
        if not trial.thorough and _excess(best, POOR) > 0:
            return best, replace(trial, thorough=True)
        known = replace(start, complete=True)
    elif len(trial.start.kinds) < len(start.kinds):
        weak = _weakest(best)
        known = replace(start, needed=start.needed if weak is None else (*start.needed, weak))
    else:
        known = replace(start, tried=trial.start.tried)
    best = replace(best, start=known)
    return best, _next_trial(cutouts, row, best, psf)


def _without_dark(failed: _Best) -> _Trial | None:
    """Return the trial without the neighbours that got no light; None if all have some."""
    lit = torch.isfinite(failed.start.neighbours[:, 2])
    return None if bool(lit.all()) else _Trial(failed.start.only(lit))


def _groups(best: Mapping[int, _Best]) -> list[JointFit]:
    """Return the best fits of all galaxies, put together by the batch that they were fitted in."""
    groups = []
    for fitted in {id(own.fitted): own.fitted for own in best.values()}.values():
        rows = [row for row, own in best.items() if own.fitted is fitted]
        local = [best[row].local for row in rows]
        kinds = best[rows[0]].start.kinds
        groups.append(JointFit(torch.tensor(rows), fitted[local], kinds))
    return groups
