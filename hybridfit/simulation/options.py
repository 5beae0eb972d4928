"""Options and results of survey-like simulations."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntFlag

import numpy as np
from astropy.table import Table
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.truth_columns import describe_truth
from hybridfit.model.parameters import ParameterSpace
from hybridfit.options.checks import check_fields
from hybridfit.simulation.psfs import FAMILIES
from hybridfit.simulation.random_numbers import Range


class Kind(IntFlag):
    """Contaminants of a simulated field, as bits."""

    CLEAN = 0
    NEIGHBOUR = 1  # other sources, not masked
    NEIGHBOUR_MASKED = 2  # other sources, masked
    MASK_THROUGH = 4  # a mask that cuts the galaxy
    STRUCTURE = 8  # arms, a bar, a ring or clumps
    GRADIENT = 16  # of the sky
    ARTEFACT = 32  # hot pixels, a cosmic ray or a trail, not masked


LARGEST_SIDE = 4096  # pixels of a cutout
PROBABILITIES = (
    *("neighbour", "neighbour_masked", "mask_through", "structure", "gradient", "artefact"),
    *("offset_wide_share", "psf_real", "noise_error_share", "bad_pixels"),
)


@dataclass(frozen=True)
class FieldOptions:
    """Distributions of simulated fields.

    Pairs are (low, high) of a log-uniform distribution unless stated otherwise.

    Sizes, indices and ellipticities are the prior's. Signal to noise is
    sqrt(sum (galaxy / sky noise)^2) over the pixels left by masks.
    """

    sides: tuple[int, ...] = (32, 48, 64, 96, 128)  # of the cutouts, pixels
    fill: Range = (3.0, 13.0)  # least side in units of r_eff, drawn for each galaxy
    r_eff_min: float = 0.15  # pix
    r_eff_max: float = 0.3  # of the largest side
    offset: float = 0.8  # pix, standard deviation of x and y from the cutout's middle
    offset_wide: float = 5.0  # pix, or a tenth of the side: uniform, for a share of them
    offset_wide_share: float = 0.15
    psf_fwhm: Range = (1.5, 8.0)  # pix
    psf_size: int = 61  # pixels, odd
    psf_families: tuple[float, ...] = (0.4, 0.15, 0.15, 0.15, 0.15)  # moffat ... double
    psf_ellipticity: float = 0.25  # largest 1 - q
    psf_files: str = ""  # folder of FITS PSFs to take some from, see `read_psfs`
    psf_real: float = 0.3  # share of those, where there is such a folder
    psf_reuse: int = 4  # galaxies that share a PSF, and are each other's neighbours
    reuse: int = 4  # fields made of one rendered galaxy
    snr: Range = (3.0, 1500.0)
    sky_sigma: Range = (1e-3, 1e3)  # noise of the sky, flux per pixel
    shot: Range = (1e-4, 0.5)  # variance by a flux of one sky_sigma, in sky_sigma^2
    sky: float = 1000.0  # largest level, in sky_sigma; a third 0, a third within a few
    noise_error: float = 0.03  # standard deviation of a factor on sigma, for a share of them
    noise_error_share: float = 0.2
    bad_pixels: float = 0.3  # probability that up to 1 % of the pixels are masked
    neighbour: float = 0.14  # probabilities of each `Kind`
    neighbour_masked: float = 0.14
    mask_through: float = 0.1
    structure: float = 0.3  # of galaxies that the PSF leaves resolved, about 40 %
    gradient: float = 0.08
    artefact: float = 0.06
    neighbour_flux: Range = (0.01, 5.0)  # in units of the galaxy's
    gradient_rise: Range = (0.1, 3.0)  # across the cutout, in sky_sigma

    def __post_init__(self) -> None:
        check_fields(self, "simulator")
        for field in fields(self):  # YAML gives lists
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        for name in [f.name for f in fields(self) if f.type == "Range"]:
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} is {(low, high)}, expected 0 < low <= high, both finite")
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a probability")
        if self.neighbour + self.neighbour_masked > 1:
            raise ValueError("neighbour and neighbour_masked exclude each other: expected sum <= 1")
        if not self.sides or not 16 <= min(self.sides) <= max(self.sides) <= LARGEST_SIDE:
            raise ValueError(
                f"sides is {self.sides}, expected cutouts of 16 to {LARGEST_SIDE} pixels"
            )
        if self.psf_size < 3 or self.psf_size % 2 == 0:
            raise ValueError(f"psf_size is {self.psf_size}, expected an odd number above 1")
        if len(self.psf_families) != len(FAMILIES):
            raise ValueError(f"psf_families expects a weight for each of {', '.join(FAMILIES)}")
        if self.reuse < 1 or self.psf_reuse < 1:
            raise ValueError("expected reuse >= 1 and psf_reuse >= 1")


CLEAN = FieldOptions(
    neighbour=0.0, neighbour_masked=0.0, mask_through=0.0, structure=0.0, gradient=0.0, artefact=0.0
)


@dataclass(frozen=True)
class SimulatedFields(Batch):
    """Simulated fields: cutouts, and their truth.

    Args:
        cutouts: B cutouts, padded to one size.
        theta: (B, 8) float64 x, y, mag, r_eff, n, q, pa, sky: cutout pixels, the cutouts' zero
            points; of the smooth galaxy, where there is structure.
        snr: (B,) float64, see `FieldOptions`.
        kind: (B,) int64 bits of `Kind`.
        psf_fwhm: (B,) float64 pixels.
    """

    cutouts: Cutouts
    theta: Tensor
    snr: Tensor
    kind: Tensor
    psf_fwhm: Tensor

    def table(self) -> Table:
        """Return the truth, one row a field: id, the parameters, snr, psf_fwhm and kind."""
        truth = Table()
        truth["id"] = list(self.cutouts.id)
        for i, name in enumerate(ParameterSpace().names):
            truth[name] = self.theta[:, i].cpu().numpy()
        for name in ("snr", "psf_fwhm", "kind"):
            truth[name] = getattr(self, name).cpu().numpy()
        names = [Kind(int(k)) for k in np.asarray(truth["kind"])]
        truth["kinds"] = [",".join(bit.name.lower() for bit in k if bit.name) for k in names]
        return describe_truth(truth)
