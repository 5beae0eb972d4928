"""What one image of a batch says of its possible errors: derivatives of the model by each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.fitting.moments import psf_moments
from hybridfit.uncertainty.image_view import ImageView
from hybridfit.uncertainty.misfit import SCALE
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.psf_error import N_MODES, psf_derivatives, wing_derivatives
from hybridfit.uncertainty.sky_error import sky_derivatives


@dataclass(frozen=True)
class Evidence(Batch):
    """The inputs of the terms from one image of B galaxies.

    Args:
        view: the image at the fits; zeros where there is no fit.
        length: (B,) correlation length of structure, pixels.
        psf: (B, 3, H, W),
        sky: (B, K, H, W) and
        wings: (B, 2 or 0, H, W) derivatives of the model by possible errors.
    """

    view: ImageView
    length: Tensor
    psf: Tensor
    sky: Tensor
    wings: Tensor

    @property
    def residual(self) -> Tensor:
        """(B, H, W) (data - model) over sigma."""
        return self.view.pixels.residual

    @property
    def light(self) -> Tensor:
        """(B, H, W) the galaxy's model over sigma, without the sky."""
        return self.view.pixels.light

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
    return Evidence(view, _structure_length(view), psf, sky, psf[:, :0])


def with_wings(image: Evidence, truncated: bool) -> Evidence:
    """Return the evidence with the derivatives by the wings of PSFs that are truncated."""
    if not truncated:
        return image
    return replace(image, wings=image.view.without_sky(wing_derivatives(image.view)))


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
