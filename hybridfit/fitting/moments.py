"""Starting values from image moments in Gaussian windows, deconvolved from the PSF.

Windows of several widths around the target are separable, so all moments of a cutout are two
small matrix products. In the window nearest to the galaxy's own size the second moments give
its extent and ellipticity as if galaxy and PSF were Gaussian; the fit does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace

WIDTHS = (1.5, 2.5, 4.0, 6.5, 10.0, 16.0, 25.0)  # pix, Gaussian scales of the windows
START_INDEX = 1.8  # Sersic index to begin with: between disk and spheroid


@dataclass(frozen=True)
class Starts(Batch):
    """Where the fits of B galaxies may start, of one Sersic profile each or of all components.

    Args:
        coords: (B, K, 6) x, y, ln r_circ, ln n, eta1, eta2 in cutout pixels, or (B, K, C) those of
            all components; the first of K is the best guess, NaN where there is none and moments
            shall do.
        wide: (B,) bool, where the others shall be tried too.
        whole: whether they are of all components.
    """

    coords: Tensor
    wide: Tensor
    whole: bool = False


def starting_values(cutouts: Cutouts, single: Tensor, space: ParameterSpace) -> Tensor:
    """Raw starts (B, P) for the components of ``space``: one profile's, and the user's values.

    Args:
        cutouts: B galaxies; values that are finite in their ``start`` have precedence.
        single: (B, 6) of one Sersic profile, from `moment_start` or the posterior.
        space: parameters and prior.
    """
    x, y, _, r_eff, n, q, pa = cutouts.start.double().unbind(1)
    single_q = torch.exp(-single[:, 4:].norm(dim=1))
    single_pa = 0.5 * torch.rad2deg(torch.atan2(single[:, 5], single[:, 4]))
    q = torch.where(q > 0, q, single_q).clamp(space.priors[0].q_min, 1.0)
    angle = torch.deg2rad(2 * torch.where(torch.isfinite(pa), pa, single_pa))
    g = -torch.log(q)
    position = [
        torch.where(torch.isfinite(x), x, single[:, 0]),
        torch.where(torch.isfinite(y), y, single[:, 1]),
    ]
    size = torch.where(r_eff > 0, torch.log(r_eff) - g / 2, single[:, 2])
    index = torch.where(n > 0, torch.log(n), single[:, 3])
    several = space.n_components > 1
    columns: list[Tensor] = []
    for k, (component, prior) in enumerate(zip(space.components, space.priors, strict=True)):
        columns += position
        if not component.is_ellipse:
            continue
        # several components start as a compact, peaked one within larger, flatter ones
        columns.append(size + 0.9 * (k - (space.n_components - 1) / 2))
        for shape in component.shapes:
            name = shape.name
            own = torch.full_like(size, component.prior_of(name, prior).median)
            middle = own if shape.is_linear else own.log()
            peaked = torch.full_like(size, 2.0 / (k + 1)).log() if several else index
            columns.append(peaked if name == "n" else middle)
        columns += [g * torch.cos(angle), g * torch.sin(angle)]
    return torch.stack(columns, dim=1)


def moment_start(cutouts: Cutouts, sky: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """Raw starting values (B, 6): x, y, ln size, ln n, eta1, eta2.

    Args:
        cutouts: B galaxies.
        sky: (B,) level to subtract.
        centre: (B, 2) where the target is expected.
        reach: (B,) farthest that the centre may lie from there, pixels.
    """
    image = torch.where(cutouts.mask, 0.0, cutouts.image - sky[:, None, None].float())
    weight = (~cutouts.mask).to(image.dtype)
    position = centre.to(image.dtype)
    widths = torch.tensor(WIDTHS, device=image.device)
    best = torch.full((len(image),), 2, device=image.device)
    for _ in range(5):
        flux, first, second, noise = _window_moments(image, weight, position, widths)
        best = (flux / noise.clamp_min(1e-6)).argmax(dim=1)  # highest signal-to-noise
        row = torch.arange(len(image), device=image.device)
        # in a Gaussian window as wide as the galaxy the mean moves by half of the offset
        move = 2 * first[row, best].clamp(-4, 4)
        moved = (position + torch.where(torch.isfinite(move), move, 0.0)).to(centre.dtype)
        offset = (moved - centre).clamp(-0.9 * reach[:, None], 0.9 * reach[:, None])
        position = (centre + offset).to(image.dtype)
    width = widths[best].double()
    moments = second[row, best].double()  # (B, 3): xx, xy, yy
    covariance = _unwindow(moments, width)
    return _to_coords(position.double(), covariance - psf_moments(cutouts), width)


def _window_moments(
    image: Tensor, weight: Tensor, position: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flux (B, S), mean (B, S, 2), second moments (B, S, 3) and noise (B, S) in each window."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=image.device) - position[:, :1]
    y = torch.arange(height, device=image.device) - position[:, 1:]

    def windows(offset: Tensor) -> Tensor:
        gauss = torch.exp(-0.5 * (offset[:, None] / widths[None, :, None]) ** 2)
        return torch.stack([gauss, gauss * offset[:, None], gauss * offset[:, None] ** 2], dim=1)

    wx, wy = windows(x), windows(y)  # (B, 3, S, W), (B, 3, S, H)
    along_x = torch.einsum("bhw,bpsw->bpsh", image, wx)
    m = torch.einsum("bpsh,bqsh->bpqs", along_x, wy)  # power of x, power of y, window
    noise = torch.einsum("bhw,bsw,bsh->bs", weight, wx[:, 0] ** 2, wy[:, 0] ** 2).sqrt()
    flux = m[:, 0, 0]
    safe = torch.where(flux > 0, flux, torch.inf)
    first = torch.stack([m[:, 1, 0] / safe, m[:, 0, 1] / safe], dim=-1)
    second = torch.stack([m[:, 2, 0] / safe, m[:, 1, 1] / safe, m[:, 0, 2] / safe], dim=-1)
    cross = first[..., 0] * first[..., 1]
    second = second - torch.stack([first[..., 0] ** 2, cross, first[..., 1] ** 2], dim=-1)
    return flux, first, second, noise


def _unwindow(moments: Tensor, width: Tensor) -> Tensor:
    """Covariance (B, 3) of the Gaussian that has these moments in a window of ``width``."""
    matrix = torch.stack([moments[:, :2], moments[:, 1:]], dim=1)
    eye = torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    limit = (width**2)[:, None]
    values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix) + 1e-9 * eye)
    # M^-1 = C^-1 + width^-2; an extent beyond five windows is not measured in one
    values = values.clamp(0.05 * limit, 0.96 * limit)
    values = 1 / (1 / values - 1 / limit)
    full = vectors @ torch.diag_embed(values) @ vectors.transpose(1, 2)
    return torch.stack([full[:, 0, 0], full[:, 0, 1], full[:, 1, 1]], dim=1)


def psf_moments(cutouts: Cutouts) -> Tensor:
    """(B, 3) xx, xy, yy of each PSF's core in image pixels, with the pixel's 1/12."""
    if cutouts.psf is None:
        return torch.tensor([[1 / 12, 0.0, 1 / 12]], dtype=torch.float64).to(cutouts.image.device)
    batch, height, width = cutouts.psf.shape
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], device=cutouts.psf.device)
    widths = torch.tensor([1.5, 2.5, 4.0, 6.5, 10.0], device=cutouts.psf.device)
    weight = torch.ones_like(cutouts.psf)
    flux, _, second, noise = _window_moments(
        cutouts.psf, weight, middle.expand(batch, 2).to(cutouts.psf.dtype), widths
    )
    best = (flux / noise).argmax(dim=1)
    row = torch.arange(batch, device=best.device)
    moments = _unwindow(second[row, best].double(), widths[best].double())
    moments = moments / cutouts.psf_oversampling.double()[:, None] ** 2
    pixel = torch.tensor([1 / 12, 0.0, 1 / 12], dtype=torch.float64, device=best.device)
    return moments + torch.where(cutouts.psf_includes_pixel[:, None], 0.0, pixel)


def _to_coords(position: Tensor, covariance: Tensor, width: Tensor) -> Tensor:
    """Raw parameters from centre and deconvolved second moments (B, 3)."""
    xx, xy, yy = covariance.unbind(1)
    floor = 0.04 * torch.ones_like(xx)
    trace = (xx + yy).clamp_min(2 * floor)
    spread = torch.sqrt((xx - yy) ** 2 + 4 * xy**2)
    # noise must not start a fit at a needle
    spread = torch.minimum(spread, 0.92 * trace)
    major, minor = (trace + spread) / 2, (trace - spread) / 2
    q = torch.sqrt(minor / major).clamp(0.2, 1.0)
    angle = torch.atan2(2 * xy, yy - xx)  # twice the angle from +y towards +x
    g = -torch.log(q)
    size = 0.5 * torch.log(major) + 0.5 * torch.log(q) + 0.26  # r_eff ~ 1.3 sigma
    index = torch.full_like(size, START_INDEX).log()
    eta = torch.stack([g * torch.cos(angle), -g * torch.sin(angle)], dim=1)
    return torch.cat([position, size[:, None], index[:, None], eta], dim=1)
