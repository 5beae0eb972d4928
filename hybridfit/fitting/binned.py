"""The same problem on binned pixels about a known model, to look at other minima cheaply.

The data are the mean residuals of the known model, plus that model as it is rendered here: what
binned pixels cannot show of sharp parts is common to all models and cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch, shared
from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.lm import Normal
from hybridfit.fitting.pixels import EAGER, Pixels
from hybridfit.fitting.problem import Problem
from hybridfit.model.scene_values import shifted
from hybridfit.rendering.grid import Grid, make_grid
from hybridfit.rendering.sky import sky_terms
from hybridfit.rendering.transfer import transfer_function

FACTOR = 2  # pixels that are binned along each axis
PADDING = 8  # binned pixels about the window
AT_ONCE, MODES_AT_ONCE = 64, 2**18  # galaxies, and their modes, of a kernel call


@dataclass(frozen=True)
class Binned(Batch):
    """A problem whose pixels are ``factor`` pixels wide; called as a `Problem` is."""

    problem: Problem
    factor: int = shared()

    def __call__(self, whitened: Tensor, rows: Tensor) -> Normal:
        """Evaluate points (b, P) of the galaxies ``rows``."""
        problem = self.problem
        coords, chain = problem.space.from_whitened(whitened, problem.constants[rows])
        scale, offset = self._units(coords)
        return problem.evaluate(whitened, coords * scale + offset, chain * scale[:, None], rows)

    def coords(self, whitened: Tensor) -> Tensor:
        """Return render coordinates (B, C) of one point (B, P) a galaxy, in binned pixels."""
        coords, _ = self.problem.space.from_whitened(whitened, self.problem.constants)
        scale, offset = self._units(coords)
        return coords * scale + offset

    def _units(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors and summands (C,) from pixels to binned pixels."""
        space = self.problem.space
        scale, offset = torch.ones_like(coords[0]), torch.zeros_like(coords[0])
        for columns, component in zip(space.slices(), space.components, strict=True):
            scale[columns.start : columns.start + 2] = 1 / self.factor
            if component.is_ellipse:
                offset[columns.start + 2] = -math.log(self.factor)
        return scale, offset


def binned_problem(
    problem: Problem, cutouts: Cutouts, whitened: Tensor, linear: Tensor, factor: int = FACTOR
) -> Binned:
    """Return a problem on its binned pixels; rows and columns that are left over are dropped.

    It has no nuisances, for it serves to find minima.

    Args:
        problem: of one image, PSFs that do not alias, and at most a constant sky.
        cutouts: the same B galaxies, for their PSFs.
        whitened, linear: (B, P) and (B, F) the known model.
        factor: pixels that are binned along each axis.
    """
    everyone = torch.arange(len(whitened), device=whitened.device)
    coords, terms = problem.located(whitened, linear, everyone)
    terms = terms.to(problem.pixels.data.dtype)
    residual = problem.pixels.data - _model(eager(problem), coords, terms)
    data, weight = _binned(residual, problem.pixels.weight, factor)
    height, width = data.shape[-2:]
    radius = 0 if cutouts.psf is None else max(cutouts.psf.shape[-2:]) // 2 // factor
    grid = make_grid(height, width, radius, 1.0, data.dtype, data.device, padding=PADDING)
    sky = factor**2 * sky_terms(problem.space.n_sky, height, width, data.dtype, data.device)
    transfer = _transfer(cutouts, grid, factor)
    pixels = Pixels(data, weight, transfer, problem.pixels.scale, problem.pixels.background, sky)
    # the middle of the first binned pixel is the origin
    origin = torch.full_like(problem.constants.centre, (factor - 1) / 2)
    constants = shifted(problem.constants, problem.space, -origin)
    own = eager(replace(problem, pixels=pixels, grid=grid, constants=constants, nuisances=None))
    known = _model(own, Binned(own, factor).coords(whitened), terms)
    return Binned(replace(own, pixels=replace(pixels, data=data + known)), factor)


def eager(problem: Problem) -> Problem:
    """Return a problem of small images with eager kernels, many galaxies in a call.

    Compiling kernels for them would not pay.
    """
    modes = 2 * problem.grid.kx.shape[0] * problem.grid.ky.shape[1]
    at_once = min(AT_ONCE, MODES_AT_ONCE // modes)
    return replace(problem, kernels=EAGER, chunk=max(problem.chunk, at_once))


def _model(problem: Problem, coords: Tensor, terms: Tensor) -> Tensor:
    """Return images (B, H, W) of coordinates (B, C) and linear terms (B, L)."""
    everyone = torch.arange(len(coords), device=coords.device)
    parts = []
    for pick, used, images in problem.images(coords, everyone, jacobian=False):
        level = torch.einsum("bt,thw->bhw", terms[pick, len(images) :], problem.pixels.sky)
        for k, image in enumerate(images):
            level = level + terms[pick, k, None, None] * image[:, 0]
        parts.append(level[:used])
    return torch.cat(parts)


def _binned(data: Tensor, weight: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return sums of data over binned pixels, and one over their errors, (B, H/f, W/f)."""
    square = weight**2
    total = torch.nn.functional.avg_pool2d(square, factor, divisor_override=1)
    light = torch.nn.functional.avg_pool2d(square * data, factor, divisor_override=1)
    return factor**2 * light / total.clamp_min(1e-30), total.sqrt() / factor**2


def _transfer(cutouts: Cutouts, grid: Grid, factor: int) -> Tensor:
    """Return transfer functions of PSF, pixel and the sum over binned pixels (B, 2, K, L)."""
    kx, ky = grid.kx / factor, grid.ky / factor
    fine = replace(grid, rows=factor * grid.rows, columns=factor * grid.columns, kx=kx, ky=ky)
    oversampling = int(cutouts.psf_oversampling[0])
    transfer = transfer_function(
        cutouts.psf, oversampling, cutouts.psf_includes_pixel, fine, len(cutouts)
    )
    return transfer * _box(kx, factor) * _box(ky, factor)


def _box(k: Tensor, factor: int) -> Tensor:
    """Return the response of the mean of ``factor`` pixels to frequencies, radian / pix."""
    offset = torch.arange(factor, device=k.device).to(k) - (factor - 1) / 2
    return torch.cos(k[..., None] * offset).mean(dim=-1)
