"""What to look at, for the rows of a batch that are suspect: fits by other PSFs, and detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag, joined
from hybridfit.data.result import Quality, Result
from hybridfit.detection.detect import detect_objects
from hybridfit.detection.noise import sigma_ratio
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.rendering.convolution import convolution_of
from hybridfit.rendering.render import render
from hybridfit.uncertainty.diagnosis import (
    neighbour_cause,
    noise_cause,
    residual_cause,
    sampling_cause,
    zeropoint_cause,
)

SAMPLINGS = (1, 2, 3, 4, 5)
TRIED = 3  # galaxies of a batch that are fitted with every sampling
LEAST_SIGNAL = 10.0  # signal to noise of a galaxy that can tell one PSF from another
LEAST_PSF = 3.0  # image pixels that a PSF spans
# chi2 of a wrong sampling is far off: a few steps tell, and a spoiled galaxy stays cheap
STEPS, TOLERANCE = 10, 0.1
# chi2 or the fit's shape tell something: else there is no more than too little light
TELLING = (
    Flag.NOT_CONVERGED
    | Flag.AT_LIMIT
    | Flag.POOR_FIT
    | Flag.UNRESOLVED
    | Flag.LARGER_THAN_CUTOUT
    | Flag.OFF_CENTRE
    | Flag.BAD_SIGMA
    | Flag.UNFAMILIAR
    | Flag.DISAGREES
    | Flag.UNSAMPLED
    | Flag.MISFIT
    | Flag.PSF_DOUBTFUL
)
BY_THE_PSF = TELLING & ~(
    Flag.BAD_SIGMA | Flag.OFF_CENTRE | Flag.LARGER_THAN_CUTOUT | Flag.UNSAMPLED
)
NO_DATA = Flag.NO_DATA | Flag.UNREADABLE


def diagnosed(
    cutouts: Cutouts, result: Result, options: FitOptions, device: torch.device
) -> Result:
    """Return the result with a sentence for each suspect galaxy that shows what is wrong.

    Only rows that are suspect, or MISFIT or PSF_DOUBTFUL, are looked at.

    Args:
        cutouts: B galaxies.
        result: of the same galaxies, one free Sersic profile each, made with ``options``.
        options: of the fit.
        device: where to compute.
    """
    flags = result.fit.flags.cpu()
    doubtful = (result.quality.cpu() == int(Quality.SUSPECT)) | (
        (flags & int(Flag.MISFIT | Flag.PSF_DOUBTFUL)) != 0
    )
    known = torch.isfinite(result.fit.theta).all(dim=1).cpu() & ((flags & int(NO_DATA)) == 0)
    notes = list(result.notes)
    rows = (doubtful & known).nonzero()[:, 0]
    for row in known.nonzero()[:, 0].tolist():
        notes[row] = _zeropoint(cutouts, result, row)
    sampling = _samplings(cutouts, result, rows, options, device)
    for row in rows.tolist():
        found = sampling.get(row) or _by_pixels(cutouts, result, row, options)
        notes[row] = joined(found, notes[row])
    return replace(result, notes=tuple(notes))


def _zeropoint(cutouts: Cutouts, result: Result, row: int) -> str:
    names = result.fit.space.names
    mag = float(result.fit.theta[row, names.index("mag")])
    return zeropoint_cause(mag, float(cutouts.start[row, 2]), float(cutouts.zeropoint[row]))


def _samplings(
    cutouts: Cutouts, result: Result, rows: Tensor, options: FitOptions, device: torch.device
) -> dict[int, str]:
    """Sentences by row where the PSF has another sampling than was said; none for exposures."""
    if cutouts.psf is None or cutouts.exposures:
        return {}
    fit = result.fit
    flags = fit.flags.cpu()[rows]
    # what is hardly seen says nothing of the PSF
    telling = rows[((flags & int(BY_THE_PSF)) != 0) & ((flags & int(Flag.NO_SIGNAL)) == 0)]
    telling = telling[_light(cutouts, result, telling) > LEAST_SIGNAL**2]
    said: dict[int, str] = {}
    chi2: dict[int, dict[int, float]] = {row: {} for row in telling.tolist()}
    first, others = telling[:TRIED], telling[TRIED:]
    for k in SAMPLINGS:
        _try_sampling(cutouts, first, k, options, device, chi2)
    best = {k for row in first.tolist() if (k := _better(cutouts, result, row, chi2[row]))}
    for k in sorted(best):  # what some of a batch have, others may
        _try_sampling(cutouts, others, k, options, device, chi2)
    for row, values in chi2.items():
        now = int(cutouts.psf_oversampling[row])
        text = sampling_cause(now, float(fit.chi2[row]), int(fit.dof[row]), values)
        if text:
            said[row] = text
    return said


def _light(cutouts: Cutouts, result: Result, rows: Tensor) -> Tensor:
    """(b,) by how much chi2 would be larger without the sources: their signal to noise squared."""
    fit = result.fit
    sky = fit.theta[rows, fit.space.names.index("sky")] if "sky" in fit.space.names else 0.0
    part = cutouts[rows]
    level = torch.as_tensor(sky).to(part.image).expand(len(rows))[:, None, None]
    shown = torch.where(part.mask, 0.0, (part.image - level) / part.sigma)
    return shown.double().square().sum(dim=(1, 2)).cpu() - fit.chi2[rows].cpu()


def _better(cutouts: Cutouts, result: Result, row: int, values: dict[int, float]) -> int:
    """The sampling that describes a galaxy, 0 if none is better than the given one."""
    now, fit = int(cutouts.psf_oversampling[row]), result.fit
    if not sampling_cause(now, float(fit.chi2[row]), int(fit.dof[row]), values):
        return 0
    return min(values, key=lambda k: values[k])


def _try_sampling(
    cutouts: Cutouts,
    rows: Tensor,
    k: int,
    options: FitOptions,
    device: torch.device,
    chi2: dict[int, dict[int, float]],
) -> None:
    """Fit galaxies whose PSF has another sampling with this one; add their chi2."""
    assert cutouts.psf is not None
    wide = max(cutouts.psf.shape[-2:]) / k >= LEAST_PSF
    rows = rows[(cutouts.psf_oversampling.cpu()[rows] != k) & wide]
    if not len(rows):
        return
    part = cutouts[rows]
    part = replace(part, psf_oversampling=torch.full_like(part.psf_oversampling, k))
    roughly = replace(options, retry=False, compile="off", max_iter=STEPS, tolerance=TOLERANCE)
    fit = fit_cutouts(part, roughly, device)
    for row, value in zip(rows.tolist(), fit.chi2.tolist(), strict=True):
        chi2[row][k] = value


def _by_pixels(cutouts: Cutouts, result: Result, row: int, options: FitOptions) -> str:
    """What the pixels of one galaxy's first image show."""
    height, width = (int(side) for side in cutouts.size[row])
    image, sigma, mask = (
        getattr(cutouts, name)[row, :height, :width].cpu().numpy()
        for name in ("image", "sigma", "mask")
    )
    start = cutouts.start[row, :2].cpu().numpy()
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    position = np.where(np.isfinite(start), start, middle)
    origin = float(cutouts.origin[row, 0]), float(cutouts.origin[row, 1])
    scene = detect_objects(image, None, mask, (float(position[0]), float(position[1])))
    noise = noise_cause(float(np.median(sigma[~mask])), sigma_ratio(image, sigma, scene, mask))
    if noise:
        return noise
    neighbour = neighbour_cause(image, scene, mask, origin)
    if neighbour or not int(result.fit.flags[row]) & int(Flag.MISFIT | Flag.POOR_FIT):
        return neighbour
    names = result.fit.space.names
    theta = result.fit.theta[row : row + 1].cpu()
    convolution = convolution_of(options.convolution)
    model = render(
        theta, cutouts[[row]].to("cpu"), options.space, options.profiles, convolution=convolution
    )
    residual = (image - model[0, :height, :width].numpy()) / sigma
    centre = float(theta[0, names.index("x")]), float(theta[0, names.index("y")])
    return residual_cause(residual.astype(np.float64), mask, centre, origin)
