"""What one image of a batch says of its possible errors: derivatives of the model by each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.fitting.linearised import ImageColumns
from hybridfit.fitting.moments import psf_moments
from hybridfit.uncertainty.image_view import ImageView
from hybridfit.uncertainty.misfit import SCALE
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.psf_error import N_MODES, psf_derivatives, wing_derivatives
from hybridfit.uncertainty.sky_error import sky_derivatives


@dataclass(frozen=True)
class Evidence(Batch):
    """The inputs of the terms from one image of B galaxies; zeros where there is no fit.

    Args:
        pixels: derivatives, residuals and light.
        length: (B,) correlation length of structure, pixels.
        psf: (B, 3, H, W),
        sky: (B, K, H, W) and
        wings: (B, 2 or 0, H, W) derivatives of the model by possible errors.
    """

    pixels: ImageColumns
    length: Tensor
    psf: Tensor
    sky: Tensor
    wings: Tensor

    @property
    def columns(self) -> Tensor:
        """(B, C, H, W) derivatives of the model over sigma."""
        return self.pixels.columns

    @property
    def residual(self) -> Tensor:
        """(B, H, W) (data - model) over sigma."""
        return self.pixels.residual

    @property
    def light(self) -> Tensor:
        """(B, H, W) the galaxy's model over sigma, without the sky."""
        return self.pixels.light

    @property
    def modes(self) -> Tensor:
        """All derivatives by possible errors."""
        return torch.cat([self.psf, self.sky, self.wings], dim=1)


def evidence_of(view: ImageView, options: BudgetOptions) -> Evidence:
    """Return what an image says, without the wings of its PSF."""
    light = view.pixels.light
    if options.psf_width_error or options.psf_shape_error:
        psf = view.without_sky(psf_derivatives(view))
    else:
        psf = light.new_zeros(len(light), N_MODES, *light.shape[1:])
    sky = view.without_sky(sky_derivatives(view.problem))
    return Evidence(view.pixels, _structure_length(view), psf, sky, psf[:, :0])


def with_wings(evidence: Evidence, view: ImageView, rows: Tensor) -> Evidence:
    """Return the evidence of ``rows`` with the derivatives by the wings of PSFs that lack them."""
    own = view[rows]
    return replace(evidence[rows], wings=own.without_sky(wing_derivatives(own)))


def is_truncated(part: Cutouts, options: BudgetOptions) -> Tensor:
    """Return (B,) whether the wings of a galaxy's PSF are in doubt."""
    if part.psf is None or not (options.psf_width_error or options.psf_shape_error):
        return torch.zeros_like(part.flags, dtype=torch.bool)
    return (part.flags & int(Flag.PSF_TRUNCATED)) != 0


def _structure_length(view: ImageView) -> Tensor:
    """Return (B,) the correlation length of structure [pix], from the galaxy's size and the PSF.

    With several components the size is their mean, weighted by light.
    """
    space, coords = view.problem.space, view.coords
    point = torch.zeros_like(coords[:, 0])
    sizes = [
        coords[:, columns.start + 2].exp() if component.is_ellipse else point
        for columns, component in zip(space.slices(), space.components, strict=True)
    ]
    size, flux = torch.stack(sizes, dim=1), view.flux.abs().clamp_min(1e-30)
    radius = (size * flux).sum(dim=1) / flux.sum(dim=1)
    xx, _, yy = psf_moments(view.cutouts).unbind(1)
    return torch.sqrt((SCALE * radius) ** 2 + xx + yy)
