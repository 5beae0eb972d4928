"""Measurements of targets together with their neighbours.

Neighbours are found, fitted together with the target, and subtracted; then the target is measured
as if it were alone, but for the neighbours' parameters, which stay free as nuisances. The network
reads the target with the neighbours subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.neighbours import Neighbours
from hybridfit.data.result import Result
from hybridfit.detection.detect import GROW, grown
from hybridfit.fitting.joint_fit import joint_fits
from hybridfit.fitting.joint_scene import JointStart
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.separate import separated
from hybridfit.fitting.source_starts import (
    SourceStarts,
    psf_width,
    residual_source,
    source_starts,
)
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.network import Estimator
from hybridfit.pipeline.measure import Clock, measure, model_images, no_clock, put_together
from hybridfit.pipeline.uncertainty_options import ErrorOptions


@dataclass(frozen=True)
class _Call:
    """What the measurements of a batch have in common, see `measure`."""

    options: FitOptions
    device: torch.device
    compile: bool | None
    errors: ErrorOptions
    estimator: Estimator | None
    clock: Clock

    def alone(self, cutouts: Cutouts) -> Result:
        """Measure targets without neighbours."""
        result = measure(
            cutouts,
            self.options,
            self.device,
            self.compile,
            self.errors,
            self.estimator,
            self.clock,
        )
        return replace(result, neighbours=Neighbours.none(len(cutouts)))


@dataclass(frozen=True)
class _Piece:
    """Results of some rows (b,) of a batch, and their neighbours' light (b, H, W); None if none."""

    rows: list[int]
    result: Result
    light: Tensor | None = None


@torch.inference_mode()
def measure_jointly(
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool | None = None,
    errors: ErrorOptions = ErrorOptions(),
    estimator: Estimator | None = None,
    clock: Clock = no_clock,
) -> tuple[Result, Tensor]:
    """Measure targets together with all other sources in their cutouts.

    Args:
        cutouts: B galaxies, their neighbours not masked.
        options, device, compile, errors, estimator, clock: see `measure`.

    Returns:
        The result of the targets, and the light (B, H, W) of their neighbours in flux units.

    Raises:
        ValueError: for galaxies with several exposures.
    """
    if cutouts.exposures:
        raise ValueError(
            "neighbours of galaxies with several exposures cannot be fitted: expected neighbours "
            "'mask' or 'ignore', or one image a galaxy"
        )
    call = _Call(options, device, compile, errors, estimator, clock)
    with clock("detecting"):
        found = source_starts(cutouts)
    cutouts = _masked(cutouts, [one.others for one in found])
    n_values = _target_values(options.space)
    starts = {i: one.joint(n_values) for i, one in enumerate(found)}
    single = [i for i, start in starts.items() if not start.kinds]
    starts = {i: start for i, start in starts.items() if start.kinds}
    pieces = []
    if single:
        result = call.alone(cutouts[single])
        with clock("detecting"):
            companions = _companions(cutouts, single, result, options)
        starts |= companions
        kept = [k for k, i in enumerate(single) if i not in companions]
        pieces.append(_Piece([single[k] for k in kept], result[kept]))
    pieces += _together(cutouts, starts, call)
    pieces += _left_over(cutouts, found, pieces, call)
    return _put_together(pieces, cutouts)


def _target_values(space: ParameterSpace) -> int:
    """Return how many physical values the target's components have."""
    return sum(len(component.parameters) for component in space.components)


def _masked(cutouts: Cutouts, masks: Sequence[Tensor]) -> Cutouts:
    """Return cutouts with further pixels (H, W) masked in each, and some around these."""
    if not any(bool(mask.any()) for mask in masks):
        return cutouts
    wide = [torch.from_numpy(grown(mask.numpy(), GROW)) for mask in masks]
    mask = cutouts.mask | torch.stack(wide).to(cutouts.mask.device)
    masked = torch.tensor([bool(one.any()) for one in masks])
    flags = cutouts.flags | masked.to(cutouts.flags.device) * int(Flag.MASK_ESTIMATED)
    return replace(cutouts, mask=mask, flags=flags)


def _companions(
    cutouts: Cutouts, rows: Sequence[int], result: Result, options: FitOptions
) -> dict[int, JointStart]:
    """Return by row what to start from where the residual of a lone target shows another source."""
    space, psf = options.space, psf_width(cutouts)
    own = cutouts[list(rows)]
    images = torch.from_numpy(model_images(result.fit.theta, own, space, options.convolution))
    n_values = _target_values(space)
    starts = {}
    for k, row in enumerate(rows):
        one, target = own[k], result.fit.theta[k, :n_values]
        known = JointStart(target, target.new_zeros(0, 7), ())
        residual = torch.where(one.mask[0], 0.0, (one.image[0] - images[k]) / one.sigma[0])
        if not bool(torch.isfinite(residual).all()):
            continue
        if residual_source(residual, one, known, float(psf[row])) is not None:
            starts[row] = known
    return starts


def _together(cutouts: Cutouts, starts: Mapping[int, JointStart], call: _Call) -> list[_Piece]:
    """Measure targets that have neighbours, or may have."""
    if not starts:
        return []
    numbers = list(starts)
    with call.clock("fitting"):
        groups = joint_fits(cutouts[numbers], call.options, list(starts.values()), call.device)
    pieces = []
    for group in groups:
        rows = [numbers[k] for k in group.rows.tolist()]
        if not group.kinds:
            pieces.append(_Piece(rows, call.alone(cutouts[rows])))
            continue
        with call.clock("fitting"):
            own = separated(group.fitted, call.options.space.n_components, group.kinds)
        result = measure(
            own.cutouts,
            call.options,
            call.device,
            call.compile,
            call.errors,
            call.estimator,
            call.clock,
            near=own.near,
            nuisances=own.nuisances,
        )
        fit = replace(result.fit, flags=result.fit.flags | own.neighbours.flags)
        pieces.append(_Piece(rows, replace(result, fit=fit, neighbours=own.neighbours), own.light))
    return pieces


def _left_over(
    cutouts: Cutouts, found: Sequence[SourceStarts], pieces: Sequence[_Piece], call: _Call
) -> list[_Piece]:
    """Measure those whose joint fit failed, with their neighbours masked."""
    done = {row for piece in pieces for row in piece.rows}
    rows = [row for row in range(len(cutouts)) if row not in done]
    if not rows:
        return []
    masked = _masked(cutouts[rows], [found[row].regions for row in rows])
    return [_Piece(rows, call.alone(masked))]


def _put_together(pieces: Sequence[_Piece], cutouts: Cutouts) -> tuple[Result, Tensor]:
    """Return the results of all pieces in the order of the batch, and their neighbours' light."""
    light = torch.zeros(cutouts.image.shape, dtype=cutouts.image.dtype)
    some = [piece for piece in pieces if piece.rows]
    for piece in some:
        if piece.light is not None:
            light[piece.rows] = piece.light.to(light)
    result = put_together([p.result for p in some], [torch.tensor(p.rows) for p in some])
    return result, light
