"""Initial values of all sources of a cutout, from their detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.neighbours import MOST
from hybridfit.detection.background import nominal_centre
from hybridfit.detection.limits import THRESHOLD
from hybridfit.detection.sources import FoundSources, find_sources
from hybridfit.fitting.joint_scene import SERSIC, SERSIC_VALUES, JointStart
from hybridfit.fitting.moments import START_INDEX, psf_moments

# pixels, of the window about the place where the target is expected: the middle of the cutout, or a
# position that is given
REACH, GIVEN_REACH = 4.0, 1.5
FARTHEST = 4.0  # of these: beyond, no source is the target
START_RATIO = 0.8  # axis ratio
LEAST_RADIUS = 0.5  # pixels
GAP = 3  # pixels by which regions are grown to see which of them touch
LINKS = 2  # from source to source, within which neighbours are fitted
APART = 1.5  # pixels from any known source, below which a peak of the residual is none of its own
NEAR = 3.0  # r_eff, with the PSF's width, of a known source: around it fainter peaks are tried
FAINT = 3.5  # of the noise
GAUSSIAN_HALF_LIGHT = 1.1774  # half-light radius of a Gaussian over its sigma


@dataclass(frozen=True)
class SourceStarts:
    """Initial values of the sources of one cutout.

    Args:
        target: (7,) x, y, mag, r_eff, n, q, pa in cutout pixels; NaN where it was not detected.
        neighbours: (M, 7) the same of the others, the most important ones first.
        others: (H, W) bool, pixels of further sources: those that do not touch the target, and
            those that are too many to be fitted.
        regions: (H, W) bool, pixels of all sources but the target.
    """

    target: Tensor
    neighbours: Tensor
    others: Tensor
    regions: Tensor

    def joint(self, n_values: int) -> JointStart:
        """Return the start of a joint fit with a target of ``n_values`` values."""
        target = torch.full((n_values,), torch.nan, dtype=torch.float64)
        if n_values == SERSIC_VALUES:
            target = self.target
        return JointStart(target, self.neighbours, (SERSIC,) * len(self.neighbours))


def source_starts(cutouts: Cutouts) -> list[SourceStarts]:
    """Return initial values of all sources of B cutouts.

    The target is the source with the most light near its expected position.
    """
    psf = psf_width(cutouts)
    starts = []
    for i in range(len(cutouts)):
        one = cutouts[i].to("cpu")
        found = find_sources(one.image[0].numpy(), one.sigma[0].numpy(), one.mask[0].numpy())
        values = start_values(found, float(cutouts.zeropoint[i]), float(psf[i]))
        starts.append(_sorted(values, cutouts, i, found))
    return starts


def psf_width(cutouts: Cutouts) -> Tensor:
    """Return sigma (B,) in pixels of a round Gaussian like each PSF."""
    xx, _, yy = psf_moments(cutouts).unbind(1)
    return torch.sqrt(0.5 * (xx + yy)).cpu()


def start_values(found: FoundSources, zeropoint: float, psf: float) -> Tensor:
    """Return physical values (n, 7) of detected sources.

    Args:
        found: n sources.
        zeropoint: mag.
        psf: sigma of the PSF, pixels.
    """
    wide = np.sqrt(np.maximum(found.radius**2 - (GAUSSIAN_HALF_LIGHT * psf) ** 2, 0.0))
    flux = np.maximum(found.flux, 1e-3 * np.abs(found.flux).max(initial=1e-30))
    values = [
        found.x,
        found.y,
        zeropoint - 2.5 * np.log10(flux),
        np.maximum(wide, LEAST_RADIUS),
        np.full(len(found), START_INDEX),
        np.full(len(found), START_RATIO),
        np.zeros(len(found)),
    ]
    return torch.from_numpy(np.stack(values, axis=1).reshape(len(found), 7))


def residual_source(
    residual: Tensor, cutout: Cutouts, known: JointStart, psf: float
) -> Tensor | None:
    """Return values (7,) of the strongest source in the residual of a fit; None without one.

    Near the sources that were fitted, where companions hide, fainter peaks count too.

    Args:
        residual: (H, W) over each pixel's noise.
        cutout: the galaxy.
        known: the sources that were fitted.
        psf: sigma of the PSF, pixels.
    """
    sigma, mask = cutout.sigma[0].cpu(), cutout.mask[0].cpu()
    found = find_sources((residual * sigma).numpy(), sigma.numpy(), mask.numpy(), FAINT)
    if len(found) == 0:
        return None
    values = start_values(found, float(cutout.zeropoint[0]), psf)
    places = torch.cat([known.target[None, :2], known.neighbours[:, :2]])
    sizes = torch.cat([known.target_size[None], known.neighbours[:, 3]]).nan_to_num(0.0)
    distance = torch.cdist(values[:, :2], places)
    reach = NEAR * torch.hypot(sizes, torch.full_like(sizes, psf))
    sure = torch.from_numpy(found.significance) > THRESHOLD
    usable = (sure | (distance < reach).any(dim=1)) & (distance.amin(dim=1) > APART)
    usable &= torch.from_numpy(found.flux) > 0
    rows = usable.nonzero()[:, 0]
    return values[rows[0]] if len(rows) else None


def nearest_to(start: JointStart, cutouts: Cutouts, row: int) -> int | None:
    """Return the neighbour that is the target rather than what was fitted as that; None if none is.

    Only one free Sersic profile can change places with another.
    """
    if len(start.target) != SERSIC_VALUES or not start.kinds:
        return None
    values = torch.cat([start.target[None], start.neighbours])
    own = target_of(values, 10 ** (-0.4 * values[:, 2]), cutouts, row)
    return None if own is None or own == 0 or start.kinds[own - 1] != SERSIC else own - 1


def target_of(values: Tensor, flux: Tensor, cutouts: Cutouts, row: int) -> int | None:
    """Return the number of the source that is the target; None if none is near its place.

    Of several sources it is the one with the most light in a Gaussian window about the place.

    Args:
        values: (n, 2) or more, x and y first.
        flux: (n,) in any unit.
        cutouts: the batch.
        row: of the galaxy.
    """
    centre = nominal_centre(cutouts[row])[0].cpu()
    given = bool(torch.isfinite(cutouts.start[row, :2]).all())
    square = ((values[:, :2] - centre) ** 2).sum(dim=1)
    window = GIVEN_REACH if given else REACH
    score = torch.where(flux > 0, flux, 0.0) * torch.exp(-0.5 * square / window**2)
    if len(score) == 0 or not float(score.max()) > 0:
        return None
    own = int(score.argmax())
    return own if float(square[own]) <= (FARTHEST * window) ** 2 else None


def _sorted(values: Tensor, cutouts: Cutouts, row: int, found: FoundSources) -> SourceStarts:
    """Divide sources into target and neighbours, those with most light at the target first."""
    flux = torch.from_numpy(found.flux).clamp_min(0.0)
    own = target_of(values, flux, cutouts, row)
    is_target = torch.zeros(len(values), dtype=torch.bool)
    target = torch.full((SERSIC_VALUES,), torch.nan, dtype=torch.float64)
    centre = nominal_centre(cutouts[row])[0].cpu()
    if own is not None:
        is_target[own], target, centre = True, values[own], values[own, :2]
    others = (~is_target).nonzero()[:, 0]
    square = ((values[others, :2] - centre) ** 2).sum(dim=1).clamp_min(1.0)
    others = others[(flux[others] / square).argsort(descending=True, stable=True)]
    # where nothing was detected at the target's place every source may reach it
    near = linked(found, own) if own is not None else np.ones(len(found), bool)
    fitted = others[torch.from_numpy(near)[others]][:MOST]
    left = others[~torch.isin(others, fitted)]
    regions = torch.from_numpy(found.regions)
    return SourceStarts(
        target,
        values[fitted],
        torch.isin(regions, left + 1),
        torch.isin(regions, others + 1),
    )


def linked(found: FoundSources, own: int) -> NDArray[np.bool_]:
    """Return the sources (n,) whose light touches that of source ``own``, or of one that does."""
    wide = ndimage.grey_dilation(found.regions, size=(2 * GAP + 1,) * 2)
    # of touching regions the dilation keeps the higher number: the other way round for the rest
    back = len(found) + 1 - np.where(found.regions > 0, found.regions, len(found) + 1)
    back = ndimage.grey_dilation(back, size=(2 * GAP + 1,) * 2)
    back = np.where(back > 0, len(found) + 1 - back, 0)
    both = (wide > 0) & (back > 0) & (wide != back)
    pairs = np.unique(np.stack([wide[both], back[both]]), axis=1) - 1
    near = np.zeros(len(found), bool)
    near[own] = True
    for _ in range(LINKS):
        reached = pairs[:, near[pairs[0]] | near[pairs[1]]]
        near[reached.ravel()] = True
    return near
