"""Simulated galaxies, drawn by the fitter's own renderer and made noisy.

`simulate` makes a few tidy ones for demonstrations and tests. `simulate_fields` makes cutouts as
surveys have them, fast: the posterior is trained on them. Rendering is most of the work there, so
each galaxy is used several times, with a new flux, noise, sky, neighbours and masks, mirrored or
turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.truth_columns import describe_truth
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.options.checks import check_fields, checked, or_default
from hybridfit.options.metadata import option
from hybridfit.rendering.render import render
from hybridfit.simulation.galaxies import (
    Drawn,
    choose_sides,
    draw_galaxies,
    draw_offsets,
    whole_size,
)
from hybridfit.simulation.observe import Observed, make_galaxies, observe
from hybridfit.simulation.options import LARGEST_SIDE, FieldOptions, SimulatedFields
from hybridfit.simulation.psfs import read_psfs
from hybridfit.simulation.random_numbers import Random

AT_ONCE = 16  # galaxies rendered at a time: bounds memory


@dataclass(frozen=True)
class SimulateOptions:
    """What is drawn; pairs are (low, high) of a uniform distribution unless stated otherwise.

    A galaxy's flux follows from its signal to noise, sqrt(sum (model / sigma)^2) with the sky's
    noise alone.
    """

    shape: tuple[int, int] = option(
        (96, 96), help="height and width of the cutouts", unit="pix", low=1, high=LARGEST_SIDE
    )
    snr: tuple[float, float] = option(
        (15.0, 500.0), help="signal-to-noise ratio, log-uniform", above=0, below=math.inf
    )
    r_eff: tuple[float, float] = option(
        (1.5, 10.0),
        help="half-light radius, log-uniform; at most a ninth of the cutout",
        unit="pix",
        above=0,
        below=math.inf,
    )
    n: tuple[float, float] = option(
        (0.5, 6.0), help="Sersic index, log-uniform", above=0, below=math.inf
    )
    q: tuple[float, float] = option((0.2, 1.0), help="axis ratio b/a", above=0, below=math.inf)
    offset: float = option(
        1.0,
        help="largest distance of the centre from the cutout's middle, along x and y",
        unit="pix",
    )
    fwhm: tuple[float, float] = option(
        (2.5, 4.0),
        help="full width at half maximum of the Moffat PSF",
        unit="pix",
        above=0,
        below=math.inf,
    )
    beta: tuple[float, float] = option(
        (2.5, 4.5), help="exponent of the Moffat PSF", above=0, below=math.inf
    )
    psf_size: int = option(41, help="side of the PSF images, odd", unit="pix")
    sky: float = option(0.0, help="sky level", unit="flux/pix")
    sky_sigma: float = option(0.02, help="noise of the sky", unit="flux/pix")
    gain: float = option(
        math.inf, help="electrons per flux unit; a finite one adds the galaxy's own noise"
    )
    zeropoint: float = option(25.0, help="magnitude of one flux unit", unit="mag")
    pixel_scale: float = option(0.2, help="pixel scale", unit="arcsec/pix")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("snr", "r_eff", "n", "q", "fwhm", "beta"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} is {(low, high)}, expected 0 < low <= high, both finite")
        if self.psf_size < 3 or self.psf_size % 2 == 0:
            raise ValueError(f"psf_size is {self.psf_size}, expected an odd number above 1")


def simulate(
    n: int = 64, seed: int = 0, options: SimulateOptions = SimulateOptions()
) -> tuple[Cutouts, Table]:
    """Draw galaxies and their noisy images.

    Args:
        n: how many.
        seed: of the random numbers; the same seed gives the same pixels.
        options: see `SimulateOptions`.

    Returns:
        The cutouts, each with a PSF and a WCS of its own, and a table of the truth with id,
        the parameters as `hybridfit.fit` names them, snr and psf_fwhm.
    """
    n, seed = checked("n", n, int), checked("seed", seed, int)
    if n < 1 or seed < 0:
        raise ValueError(f"n and seed are {n} and {seed}, expected n >= 1 and seed >= 0")
    options = or_default("options", options, SimulateOptions)
    rng = np.random.default_rng(seed)
    truth = _draw(rng, n, options)
    height, width = options.shape
    flat = torch.zeros(n, height, width)
    psf, truth["psf_fwhm"] = _psfs(rng, n, options)
    cutouts = Cutouts(
        image=flat,
        sigma=flat + options.sky_sigma,
        psf=torch.from_numpy(psf),
        id=list(truth["id"]),
        zeropoint=options.zeropoint,
        pixel_scale=options.pixel_scale,
        wcs=[_wcs(rng, options) for _ in range(n)],
    )
    image = _images(truth, cutouts, options)
    variance = options.sky_sigma**2 + np.maximum(image, 0) / options.gain
    noisy = options.sky + image + rng.standard_normal(image.shape) * np.sqrt(variance)
    planes = [torch.from_numpy(v.astype(np.float32)) for v in (noisy, np.sqrt(variance))]
    return replace(cutouts, image=planes[0], sigma=planes[1]), describe_truth(truth)


def _draw(rng: np.random.Generator, n: int, options: SimulateOptions) -> Table:
    height, width = options.shape

    def log_uniform(low: float, high: float) -> NDArray[np.float64]:
        return np.exp(rng.uniform(math.log(low), math.log(high), n))

    low, high = options.r_eff
    truth = Table()
    truth["id"] = [f"sim{i:0{max(len(str(n - 1)), 4)}d}" for i in range(n)]
    truth["x"] = (width - 1) / 2 + rng.uniform(-options.offset, options.offset, n)
    truth["y"] = (height - 1) / 2 + rng.uniform(-options.offset, options.offset, n)
    truth["mag"] = options.zeropoint
    truth["r_eff"] = log_uniform(low, max(min(high, min(height, width) / 9), low))
    truth["n"] = log_uniform(*options.n)
    truth["q"] = rng.uniform(*options.q, n)
    truth["pa"] = rng.uniform(0, 180, n)
    truth["sky"] = options.sky
    truth["snr"] = log_uniform(*options.snr)
    return truth


def _images(truth: Table, cutouts: Cutouts, options: SimulateOptions) -> NDArray[np.float64]:
    """Noise-free images without sky (n, H, W); sets the magnitudes that the S/N asks for."""
    space = ParameterSpace()
    theta = np.stack([np.asarray(truth[name], dtype=float) for name in space.names], axis=1)
    theta[:, space.names.index("sky")] = 0.0
    values = torch.from_numpy(theta)
    unit = np.zeros(cutouts.image.shape)
    for i in range(0, len(theta), AT_ONCE):
        some = slice(i, i + AT_ONCE)
        unit[some] = render(values[some], cutouts[some], space).numpy()
    flux = np.asarray(truth["snr"]) * options.sky_sigma / np.sqrt((unit**2).sum(axis=(1, 2)))
    truth["mag"] = options.zeropoint - 2.5 * np.log10(flux)
    truth["mag"].unit = "mag"
    return flux[:, None, None] * unit


def _psfs(
    rng: np.random.Generator, n: int, options: SimulateOptions
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Round Moffat PSFs without the pixel's response, and their FWHM in pixels."""
    fwhm, beta = rng.uniform(*options.fwhm, n), rng.uniform(*options.beta, n)
    half = options.psf_size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    psf = (1 + (x**2 + y**2) / alpha2[:, None, None]) ** -beta[:, None, None]
    return (psf / psf.sum(axis=(1, 2), keepdims=True)).astype(np.float32), fwhm


def _wcs(rng: np.random.Generator, options: SimulateOptions) -> WCS:
    """A TAN projection somewhere on the sky, turned at random."""
    height, width = options.shape
    wcs, angle = WCS(naxis=2), rng.uniform(0, 2 * math.pi)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [rng.uniform(0, 360), math.degrees(math.asin(rng.uniform(-0.95, 0.95)))]
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    wcs.wcs.cd = options.pixel_scale / 3600 * np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn
    return wcs


@torch.no_grad()
def simulate_fields(
    n: int,
    seed: int,
    options: FieldOptions = FieldOptions(),
    prior: Prior = Prior(),
    device: torch.device | str = "cpu",
    model: GalaxyModel = GalaxyModel(),
) -> SimulatedFields:
    """Draw cutouts and their truth.

    The same arguments give the same pixels on a CPU. On a GPU a few masked or hot pixels may
    differ: where two were drawn at one place, either may be written last.

    Args:
        n: how many; some hundreds at a time are quickest.
        seed: of the random numbers.
        options: see `FieldOptions`.
        prior: of size, index and ellipticity; positions are the options'.
        device: where to compute and where the result is.
        model: of the galaxies; its own prior does not count.

    Raises:
        ValueError: if the prior hardly ever gives the sizes asked for, or the folder of PSFs
            holds none.
    """
    random = Random.seeded(seed, torch.device(device))
    device = random.device
    model = replace(model, prior=prior)
    real = None
    if options.psf_files:
        real = read_psfs(options.psf_files, options.psf_size, device)
    distinct = -(-n // options.reuse)
    drawn, side = _draw_galaxies(distinct, random, options, model)
    galaxy = torch.arange(n, device=device) % max(distinct, 1)  # that each field shows
    parts: list[Observed] = []
    for value in side.unique().tolist():
        rows = (side == value).nonzero()[:, 0]
        place = torch.full((distinct,), -1, device=device)
        place[rows] = torch.arange(len(rows), device=device)
        fields = (place[galaxy] >= 0).nonzero()[:, 0]
        galaxies = make_galaxies(drawn[rows], int(value), random, options, real, model)
        parts.append(observe(galaxies, fields, place[galaxy[fields]], random, options))
    return _joined(parts, n, options, model, device)


def _draw_galaxies(
    n: int, random: Random, options: FieldOptions, model: GalaxyModel
) -> tuple[Drawn, Tensor]:
    """Galaxies, and the sides (n,) of cutouts that show them."""
    limits = (options.r_eff_min, options.r_eff_max * max(options.sides))
    drawn = draw_galaxies(n, random, model, limits, options.bulge_to_total, options.aligned)
    side = choose_sides(whole_size(drawn, model), random, options.sides, options.fill)
    centre = (side[:, None] - 1) / 2 + draw_offsets(
        side, random, options.offset, options.offset_wide, options.offset_wide_share
    )
    for own in model.space.slices():
        drawn.coords[:, own.start : own.start + 2] = centre
    return drawn, side


def _joined(
    parts: Sequence[Observed],
    n: int,
    options: FieldOptions,
    model: GalaxyModel,
    device: torch.device,
) -> SimulatedFields:
    """Fields of all sizes in the order of their rows, padded to the largest."""
    largest = max(options.sides)
    image = torch.zeros(n, largest, largest, device=device)
    sigma = torch.ones_like(image)
    mask = torch.ones_like(image, dtype=torch.bool)
    psf = image.new_zeros(n, options.psf_size, options.psf_size)
    q = len(model.space.names)
    columns = torch.zeros(n, q + 5, dtype=torch.float64, device=device)
    for part in parts:
        size = part.image.shape[-1]
        for whole, piece in ((image, part.image), (sigma, part.sigma), (mask, part.mask)):
            whole[part.rows, :size, :size] = piece
        psf[part.rows], columns[part.rows] = part.psf, part.columns
    cutouts = Cutouts(
        image=image,
        sigma=sigma,
        psf=psf,
        mask=mask,
        id=[f"sim{i:05d}" for i in range(n)],
        zeropoint=columns[:, q],
        size=columns[:, q + 1 : q + 2].long().expand(n, 2),
    )
    return SimulatedFields(
        cutouts,
        columns[:, :q],
        columns[:, q + 2],
        columns[:, q + 3].long(),
        columns[:, q + 4],
        model,
    )
