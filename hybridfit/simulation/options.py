"""Options and results of survey-like simulations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntFlag

import numpy as np
from astropy.table import Table
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.truth_columns import describe_truth
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option
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


@dataclass(frozen=True)
class FieldOptions:
    """Distributions of simulated fields.

    Pairs are (low, high) of a log-uniform distribution unless stated otherwise.

    Sizes, indices and ellipticities are the prior's. Signal to noise is
    sqrt(sum (galaxy / sky noise)^2) over the pixels left by masks.
    """

    sides: tuple[int, ...] = option((32, 48, 64, 96, 128), help="sides of the cutouts", unit="pix")
    fill: Range = option(
        (3.0, 13.0),
        help="smallest side of a galaxy's cutout",
        unit="r_eff",
        above=0,
        below=math.inf,
    )
    r_eff_min: float = option(0.15, help="smallest half-light radius", unit="pix")
    r_eff_max: float = option(0.3, help="largest half-light radius", unit="largest side")
    offset: float = option(
        0.8, help="standard deviation of the centre from the cutout's middle", unit="pix"
    )
    offset_wide: float = option(
        5.0,
        help="half-width of a uniform distribution of centres, at most a tenth of the side",
        unit="pix",
    )
    offset_wide_share: float = option(
        0.15, help="fraction of galaxies with centres from that one", low=0, high=1
    )
    psf_fwhm: Range = option(
        (1.5, 8.0),
        help="full width at half maximum of the PSF",
        unit="pix",
        above=0,
        below=math.inf,
    )
    psf_size: int = option(61, help="side of the PSF images, odd", unit="pix")
    psf_families: tuple[float, ...] = option(
        (0.4, 0.15, 0.15, 0.15, 0.15),
        help="weights of Moffat, Gaussian, Kolmogorov, Airy and double PSFs",
    )
    psf_ellipticity: float = option(0.25, help="largest 1 - q of PSFs")
    psf_files: str = option("", help="folder of FITS files of PSFs to use too")
    psf_real: float = option(
        0.3, help="fraction of galaxies with a PSF from that folder", low=0, high=1
    )
    psf_reuse: int = option(
        4, help="galaxies that share a PSF, and are each other's neighbours", low=1
    )
    reuse: int = option(4, help="fields that are made of one rendered galaxy", low=1)
    snr: Range = option((3.0, 1500.0), help="signal-to-noise ratio", above=0, below=math.inf)
    sky_sigma: Range = option(
        (1e-3, 1e3), help="noise of the sky", unit="flux/pix", above=0, below=math.inf
    )
    shot: Range = option(
        (1e-4, 0.5), help="variance per unit model flux", unit="sky_sigma", above=0, below=math.inf
    )
    sky: float = option(
        1000.0,
        help="largest sky level; a third of them is 0, and a third within a few",
        unit="sky_sigma",
    )
    noise_error: float = option(
        0.03, help="standard deviation of a factor by which noise maps are wrong"
    )
    noise_error_share: float = option(
        0.2, help="fraction of galaxies with such a noise map", low=0, high=1
    )
    bad_pixels: float = option(
        0.3, help="probability that up to 1 % of the pixels are masked", low=0, high=1
    )
    neighbour: float = option(
        0.14, help="probability of neighbours that are not masked", low=0, high=1
    )
    neighbour_masked: float = option(
        0.14, help="probability of neighbours that are masked", low=0, high=1
    )
    mask_through: float = option(
        0.1, help="probability of a mask that cuts the galaxy", low=0, high=1
    )
    structure: float = option(
        0.3,
        help="probability of arms, a bar, a ring or clumps in a galaxy that the PSF resolves",
        low=0,
        high=1,
    )
    gradient: float = option(0.08, help="probability of a gradient of the sky", low=0, high=1)
    artefact: float = option(
        0.06, help="probability of hot pixels, a cosmic ray or a trail, not masked", low=0, high=1
    )
    bulge_to_total: Range = option(
        (0.02, 0.98),
        help="share of the first of two components in the flux, uniform",
        above=0,
        below=1,
    )
    aligned: float = option(
        0.4,
        help="fraction of galaxies of two components with one position angle; others have any two",
        low=0,
        high=1,
    )
    neighbour_flux: Range = option(
        (0.01, 5.0), help="flux of neighbours", unit="flux of the galaxy", above=0, below=math.inf
    )
    gradient_rise: Range = option(
        (0.1, 3.0),
        help="rise of the sky across the cutout",
        unit="sky_sigma",
        above=0,
        below=math.inf,
    )

    def __post_init__(self) -> None:
        check_fields(self, "simulator")
        for one in fields(self):  # YAML gives lists
            if isinstance(value := getattr(self, one.name), list):
                object.__setattr__(self, one.name, tuple(value))
        for name in [f.name for f in fields(self) if f.type == "Range"]:
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} is {(low, high)}, expected 0 < low <= high, both finite")
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


CLEAN = FieldOptions(
    neighbour=0.0, neighbour_masked=0.0, mask_through=0.0, structure=0.0, gradient=0.0, artefact=0.0
)


@dataclass(frozen=True)
class SimulatedFields(Batch):
    """Simulated fields: cutouts, and their truth.

    Args:
        cutouts: B cutouts, padded to one size.
        theta: (B, Q) float64 physical parameters in the order of the model's space (x, y, mag,
            r_eff, n, q, pa, sky of a Sersic profile): cutout pixels, the cutouts' zero points; of
            the smooth galaxy, where there is structure.
        snr: (B,) float64, see `FieldOptions`.
        kind: (B,) int64 bits of `Kind`.
        psf_fwhm: (B,) float64 pixels.
        model: of the galaxies.
    """

    cutouts: Cutouts
    theta: Tensor
    snr: Tensor
    kind: Tensor
    psf_fwhm: Tensor
    model: GalaxyModel = field(default_factory=GalaxyModel)

    def table(self) -> Table:
        """Return the truth, one row a field: id, the parameters, snr, psf_fwhm and kind."""
        truth = Table()
        truth["id"] = list(self.cutouts.id)
        for i, name in enumerate(self.model.space.names):
            truth[name] = self.theta[:, i].cpu().numpy()
        for name in ("snr", "psf_fwhm", "kind"):
            truth[name] = getattr(self, name).cpu().numpy()
        names = [Kind(int(k)) for k in np.asarray(truth["kind"])]
        truth["kinds"] = [",".join(bit.name.lower() for bit in k if bit.name) for k in names]
        return describe_truth(truth)
