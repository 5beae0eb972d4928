"""From cutouts to the least-squares problems that the fit and all that follows evaluate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.compile import kernels
from hybridfit.fitting.frame import Frame
from hybridfit.fitting.image_term import ImageTerm
from hybridfit.fitting.linear_terms import linear_terms
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.pixels import Pixels, make_pixels
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import term_units
from hybridfit.model.constants import Constants
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.profiles import Profile, find_profile
from hybridfit.model.scene_values import SceneValues
from hybridfit.rendering.convolution import convolution_of
from hybridfit.rendering.grid import Grid, grid_key, grid_of

MODES_AT_ONCE = 2**18  # of a kernel call on a CPU: more fall out of its caches
PIXELS_AT_ONCE = 2**24  # of one batch: bounds memory, 4 arrays of 64 MiB


def build_problems(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Iterator[tuple[Tensor, Cutouts, Problem]]:
    """Yield the problems that a batch falls into: of one Fourier grid, and fitting into memory.

    Args:
        cutouts: B galaxies of one padded shape.
        options: see `FitOptions`.
        device: where to compute.
        compile: whether the pixel kernels are compiled.

    Yields:
        rows (b,) of the batch on the CPU, their cutouts and their problem on ``device``.
    """
    for rows in problem_rows(cutouts, options):
        part = cutouts[rows].to(device)
        yield rows, part, build_problem(part, options, compile)


def problem_rows(cutouts: Cutouts, options: FitOptions) -> list[Tensor]:
    """Return the rows of each problem that a batch falls into, on the CPU."""
    groups = _groups(cutouts)
    return [rows for group in groups for rows in group.split(_at_once(cutouts, group, options))]


def build_problem(
    cutouts: Cutouts,
    options: FitOptions,
    compile: bool = False,
    scene: SceneValues | None = None,
    theta: Tensor | None = None,
    nuisances: Nuisances | None = None,
) -> Problem:
    """Return the problem of cutouts that share one Fourier grid.

    Args:
        cutouts: B galaxies.
        options: see `FitOptions`.
        compile: whether the pixel kernels are compiled.
        scene: what is fitted, in place of the components of ``options``.
        theta: (B, Q) its initial values, none of them missing.
        nuisances: what else the pixels depend on, of one image.

    Raises:
        ValueError: for several images and a profile whose shape depends on their pixels.
    """
    space = options.space if scene is None else scene.space
    first, *others = cutouts.single_images()
    if others:
        _check_shapes(space, nuisances)
    fixed = torch.full_like(cutouts.zeropoint, options.sky_value)
    pixels, grid = _image_of(first, options, space.n_sky, fixed)
    constants = _constants(cutouts, options, space, scene, theta)
    unit = term_units(space, grid, cutouts, pixels.scale)
    terms = linear_terms(space, constants, unit, pixels.background)
    exposures = []
    for image, exposure in zip(others, cutouts.exposures, strict=True):
        gain = 10 ** (0.4 * (image.zeropoint - cutouts.zeropoint))
        turn, shift = exposure.to_pixels.split([2, 1], dim=2)
        same_sky = fixed * gain / torch.linalg.det(turn).abs()
        own, own_grid = _image_of(image, options, space.n_sky, same_sky)
        frame = Frame(turn, shift[:, :, 0], gain * pixels.scale / own.scale)
        exposures.append(ImageTerm(own, own_grid, frame))
    return Problem(
        pixels,
        grid,
        space,
        constants,
        1.0 if options.objective == "map" else 0.0,
        _chunk(options, grid),
        profiles_of(space),
        kernels(compile),
        terms,
        tuple(exposures),
        nuisances,
    )


def _check_shapes(space: ParameterSpace, nuisances: Nuisances | None) -> None:
    """Raise ValueError for what cannot be moved from the first image's pixels to others."""
    if nuisances is not None:
        raise ValueError("nuisances came for several images, expected them for one image")
    for component in space.components:
        bound = [shape.name for shape in component.shapes if shape.unit]
        if bound:
            raise ValueError(
                f"{component.profile} has the shape parameters {', '.join(bound)}, in pixels or "
                "degrees of the first image: expected a model without them for several images"
            )


def _image_of(
    cutouts: Cutouts, options: FitOptions, n_sky: int, fixed: Tensor
) -> tuple[Pixels, Grid]:
    """Return the pixels of one image of each galaxy, and their Fourier grid.

    Args:
        cutouts: one image of B galaxies.
        options: of the fit.
        n_sky: sky terms that are fitted.
        fixed: (B,) flux per pixel, the sky where none is fitted.
    """
    dtype = torch.float32 if options.precision == "float32" else torch.float64
    grid = grid_of(cutouts, dtype, convolution_of(options.convolution))
    background = sky_level(cutouts) if n_sky else fixed
    return make_pixels(cutouts, background, n_sky, grid, dtype), grid


def _constants(
    cutouts: Cutouts,
    options: FitOptions,
    space: ParameterSpace,
    scene: SceneValues | None,
    theta: Tensor | None,
) -> Constants:
    """Return the numbers of the priors, fixed values and ties; see `build_problem`."""
    centre, reach = nominal_centre(cutouts), position_reach(cutouts, options.prior)
    if scene is None or theta is None:
        return space.constants(torch.cat([centre, reach[:, None], reach[:, None]], dim=1))
    wide = 0.5 * cutouts.size.amax(dim=1).double()
    return scene.constants(theta, cutouts.zeropoint, centre, reach, wide)


def position_reach(cutouts: Cutouts, prior: Prior) -> Tensor:
    """Return (B,) half of the width of the prior of a position, pixels."""
    return prior.position * cutouts.size.amin(dim=1).double().clamp_min(8)


def profiles_of(space: ParameterSpace) -> tuple[Profile, ...]:
    """Return the profile of each component."""
    return tuple(find_profile(component.profile) for component in space.components)


def _groups(cutouts: Cutouts) -> list[Tensor]:
    """Rows that share what the Fourier grids depend on: oversampling, and aliasing of the PSFs."""
    key = grid_key(cutouts.psf, cutouts.psf_oversampling).cpu()
    if cutouts.exposures:
        keys = [key, *(grid_key(e.psf, e.psf_oversampling).cpu() for e in cutouts.exposures)]
        key = torch.stack(keys, dim=1).unique(dim=0, return_inverse=True)[1]
    return [(key == k).nonzero()[:, 0] for k in key.unique()]


def _at_once(cutouts: Cutouts, rows: Tensor, options: FitOptions) -> int:
    """How many galaxies of a group fit into memory; modes beyond Nyquist take the most of it."""
    convolution = convolution_of(options.convolution)
    bandlimit = convolution.bandlimit(cutouts.psf, int(cutouts.psf_oversampling[rows[0]]))
    pixels = sum(image.image[0].numel() for image in cutouts.single_images())
    return max(1, int(PIXELS_AT_ONCE / (pixels * bandlimit**2)))


def _chunk(options: FitOptions, grid: Grid) -> int:
    """Galaxies a kernel takes: as many as stay in a CPU's cache, or fill a GPU."""
    if options.chunk:
        return options.chunk
    if grid.x.device.type != "cpu":
        return 256
    modes = 2 * grid.kx.shape[0] * grid.ky.shape[1]
    return max(1, min(8, MODES_AT_ONCE // modes))
