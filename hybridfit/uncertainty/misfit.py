"""Structure that the profile cannot follow: its strength, and its effect on the parameters.

Arms, bars, clumps and wrong profiles are modelled as a random field: a fraction f of the model's
light m, correlated over a length l proportional to the galaxy's size. Over sigma its covariance is

    f^2 K,    K(p, q) = a(p) exp(-|p - q|^2 / 2 l^2) a(q),    a = m / sigma.

The amplitude follows from the residuals' power on that scale under the galaxy's light, Q = r^T K r,
in excess of the noise left after the fit (P is the projection on the fit's derivatives):

    f^2 = (Q - tr K (1 - P)) / V,    V = tr K (1 - P) K (1 - P),    error of f^2 = sqrt(2 / V).

Q is the score of f^2 at f = 0 and so the most powerful test for weak structure. Insignificant
values are shrunk to zero: galaxies that a Sersic profile describes keep their errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty.correlated_noise import (
    Autocorrelation,
    mode_gram,
    padded_shape,
    weighted_gram,
)
from hybridfit.uncertainty.nuisance import Whitened

SCALE = 0.5  # of the circularised half-light radius: half of an arm's or a bar's width and spacing
SIGNIFICANT = 4.0  # of f^2's errors, whose chance values have a long tail: 1 in 100 exceeds 3.5
LEAST_NOISE = 0.05  # noise power over that of sigma: lower limit for noise maps
MAX_AMPLITUDE = 0.5  # beyond it no error bar helps
# Galaxies are mostly symmetric about the centre: all of the structure's power goes into parameters
# that are even about it (flux, size, index, shape), twice that of a field without symmetry. Half of
# the rest is left for the position, which only lopsided structure moves.
EVEN, ODD = 2.0, 1.0


@dataclass(frozen=True)
class Misfit:
    """Structure in the residuals.

    Args:
        gram: (B, C + M, C + M) f^2 times K between the fit's whitened columns and further modes.
        amplitude: (B,) f, a fraction of the light.
        significance: (B,) f^2 over its error, before it is shrunk.
    """

    gram: Tensor
    amplitude: Tensor
    significance: Tensor


@dataclass(frozen=True)
class Lit:
    """One image of B galaxies in which structure is looked for.

    Args:
        fit: of B galaxies, to all of their images.
        modes: (B, M, H, W) derivatives by nuisances that structure may resemble.
        residual: (B, H, W) (data - model) over sigma.
        light: (B, H, W) the galaxy's model over sigma.
        length: (B,) correlation length, pixels.
        noise: whose power is not structure.
        own: a fit to this image alone; None where ``fit`` is one. A fit to several images follows
            structure, which is in all of them, as much as a fit to one, but little of each one's
            noise: bright pixels are the noisier, and structure harder to see.
    """

    fit: Whitened
    modes: Tensor
    residual: Tensor
    light: Tensor
    length: Tensor
    noise: Autocorrelation
    own: Whitened | None = None

    @property
    def seen(self) -> tuple[Whitened, Tensor]:
        """The fit to this image, and its residual (B, H, W)."""
        if self.own is None:
            return self.fit, self.residual
        flat, data = self.own.columns.flatten(2), self.residual.flatten(1)[:, :, None]
        step = (flat @ data)[:, :, 0].double() - self.own.pull
        taken = (step.to(flat.dtype)[:, None] @ flat)[:, 0]
        return self.own, self.residual - taken.view_as(self.residual)


def shared_misfit(images: Sequence[Lit]) -> list[Misfit]:
    """Measure the structure in the residuals of several images, of which it is a common share.

    Args:
        images: of the same galaxies, whose fits are in the same coordinates.

    Returns:
        One for each image, with the amplitude and significance of all of them together.
    """
    measured = [_measured(image) for image in images]
    if len(images) == 1:
        square, significance, _ = measured[0]
    else:  # weighted by how far a unit of structure would stand out in each
        clarity = torch.stack([clear for _, _, clear in measured])
        stands_out = torch.stack([own for _, own, _ in measured])
        total = (clarity**2).sum(dim=0).clamp_min(1e-60)
        square = (stands_out * clarity).sum(dim=0) / total
        significance = square * total.sqrt()
    chance = (SIGNIFICANT / significance.clamp_min(1e-9)).clamp_max(1.0) ** 2
    square = (square * (1 - chance)).clamp(0.0, MAX_AMPLITUDE**2)
    found = []
    for image in images:
        both = _structure_gram(square, image.fit.columns, image.modes, image.light, image.length)
        found.append(Misfit(both, square.sqrt(), significance))
    return found


def _measured(image: Lit) -> tuple[Tensor, Tensor, Tensor]:
    """Return f^2, its significance, and the significance of f = 1, of one image, (B,) each."""
    fit, residual = image.seen
    light = image.light
    lit = torch.cat([fit.columns, residual[:, None]], dim=1) * light[:, None]
    # the light falls off towards the edges, so a periodic field does no harm
    shape = padded_shape(lit)
    kernel = _bell(image.length, shape)
    power = torch.fft.rfft2(kernel).real
    transformed = torch.fft.rfft2(lit, s=shape)
    gram = mode_gram(transformed, power, shape)
    inside, found = gram[:, :-1, :-1], gram[:, -1, -1]
    half_taken = _smoothed_square(transformed[:, :-1] * power[:, None], light, shape)  # tr K P K
    squares = torch.stack([light, light**2], dim=1)
    overlap = torch.fft.irfft2(torch.fft.rfft2(squares, s=shape).abs() ** 2, s=shape)
    whole = (overlap[:, 1] * kernel**2).sum(dim=(1, 2)).double()  # tr K K
    variance = whole - 2 * half_taken + (inside**2).sum(dim=(1, 2))
    variance = variance.clamp_min(1e-3 * whole + 1e-30)
    left = squares[:, 1].sum(dim=(1, 2)).double() - torch.diagonal(inside, dim1=1, dim2=2).sum(1)
    ratio = _noise_power(overlap[:, 0] * kernel, image.noise)
    square = (found - ratio * left) / variance
    return square, square * (variance / 2).sqrt() / ratio, (variance / 2).sqrt() / ratio


def _smoothed_square(modes: Tensor, light: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return (B,) the sum of squares of smoothed columns, times the light, over the image.

    Args:
        modes: (B, C, ...) transforms of the columns, smoothed.
        light: (B, H, W) the galaxy's model over sigma.
        shape: shape of the padded image.
    """
    height, width = light.shape[-2:]
    smooth = torch.fft.irfft2(modes, s=shape)
    smooth = smooth[..., :height, :width] * light[:, None]
    return (smooth**2).sum(dim=(1, 2, 3)).double()


def _structure_gram(
    square: Tensor, columns: Tensor, modes: Tensor, light: Tensor, length: Tensor
) -> Tensor:
    """Return f^2 times K between columns and modes, (B, C + M, C + M); 0 without structure.

    Args:
        square: (B,) f^2.
        columns: (B, C, H, W) over sigma.
        modes: (B, M, H, W) over sigma.
        light: (B, H, W) the galaxy's model over sigma.
        length: (B,) correlation length, pixels.
    """
    size = columns.shape[1] + modes.shape[1]
    gram = square.new_zeros(len(square), size, size)
    rows = (square > 0).nonzero()[:, 0]
    if len(rows):
        lit = torch.cat([columns[rows], modes[rows]], dim=1) * light[rows, None]
        shape = padded_shape(lit)
        power = torch.fft.rfft2(_bell(length[rows], shape)).real
        gram[rows] = square[rows, None, None] * weighted_gram(lit, power, shape)
    return gram


def symmetric(gram: Tensor, fit: Whitened, space: ParameterSpace) -> Tensor:
    """Assign the misfit's power to parameters that are even about the galaxy's centre.

    Args:
        gram: (B, C, C) in whitened coordinates.
        fit: that defines the coordinates.
        space: tells which of the coordinates are positions.
    """
    scale = torch.full(gram.shape[1:2], EVEN, dtype=gram.dtype, device=gram.device)
    for columns in space.slices():
        scale[columns.start : columns.start + 2] = ODD
    change = fit.inverse @ torch.linalg.solve_triangular(
        fit.inverse, torch.diag(scale.sqrt()).expand_as(gram), upper=False, left=False
    )
    return change @ gram @ change.mT


def shared_structure(grams: Sequence[Tensor], fits: Sequence[Whitened]) -> Tensor:
    """Return the structure's power (B, C, C) in all images of a galaxy together.

    Arms and bars are the same in all of them. What each image makes of them, x_t of power X_t, adds
    up: for any shares w_t of sum 1 the power of sum x_t is at most sum X_t / w_t, and just that if
    the images are alike and w_t their shares of the information, as they are taken here.

    Args:
        grams: of each image.
        fits: likewise.
    """
    if len(grams) == 1:
        return grams[0]
    own = torch.stack([(fit.columns**2).flatten(1).sum(dim=1).double() for fit in fits])
    shares = own / own.sum(dim=0).clamp_min(1e-30)
    weight = torch.where(shares > 0, 1 / shares, 0.0)
    return (torch.stack(list(grams)) * weight[:, :, None, None]).sum(dim=0)


@dataclass(frozen=True)
class OwnChi2:
    """Reduced chi2 (B,) under a galaxy's own light, its pixels (B,) and its scatter (B,)."""

    chi2: Tensor
    pixels: Tensor
    scatter: Tensor


def own_chi2(fit: Whitened, residual: Tensor, light: Tensor, noise: Autocorrelation) -> OwnChi2:
    """Return chi2 of pixels where the galaxy outshines the noise, weighted by a^2 / (1 + a^2).

    The blank sky of a cutout, which fits any model, does not dilute it, but gives the expected
    variance of the residuals: a wrong noise map is not a misfit.
    """
    weight = light**2 / (1 + light**2)
    total = weight.sum(dim=(1, 2)).double()
    taken = (fit.columns**2 * weight[:, None]).sum(dim=(1, 2, 3)).double()
    expected = (total - taken).clamp_min(1e-30) * noise.variance
    chi2 = (weight * residual**2).sum(dim=(1, 2)).double() / expected
    square = (weight**2).sum(dim=(1, 2)).double()
    correlated = (noise.values**2).sum(dim=(1, 2))
    scatter = (2 * square * correlated).sqrt() / expected
    pixels = total**2 / square.clamp_min(1e-30)
    return OwnChi2(torch.where(total > 0, chi2, torch.nan), pixels, scatter)


def joined_chi2(images: Sequence[OwnChi2]) -> OwnChi2:
    """Return the reduced chi2 of several images, each weighted by what it says of the mean."""
    if len(images) == 1:
        return images[0]
    chi2 = torch.stack([image.chi2 for image in images])
    known = torch.isfinite(chi2)
    scatter = torch.stack([image.scatter for image in images])
    weight = torch.where(known & (scatter > 0), scatter**-2, 0.0)
    total = weight.sum(dim=0)
    mean = (weight * chi2.nan_to_num(0.0)).sum(dim=0) / total
    pixels = torch.stack([image.pixels for image in images])
    pixels = torch.where(known, pixels, 0.0).sum(dim=0)
    return OwnChi2(torch.where(total > 0, mean, torch.nan), pixels, total.rsqrt())


def _noise_power(weight: Tensor, noise: Autocorrelation) -> Tensor:
    """Return the (B,) noise power relative to white noise.

    Args:
        weight: (B, height, width) of a pair of pixels, by its lag.
        noise: its autocorrelation.
    """
    lags = noise.image(*weight.shape[-2:]).to(weight.dtype)
    noisy = (weight * lags).sum(dim=(1, 2)).double()
    return (noisy / weight[:, 0, 0].double().clamp_min(1e-30)).clamp_min(LEAST_NOISE)


def _bell(length: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return exp(-d^2 / 2 l^2) of periodic distances, (B, height, width) float32."""
    y, x = (torch.fft.fftfreq(n, 1 / n, device=length.device) for n in shape)
    scale = (-0.5 / length**2).float()[:, None]
    return torch.exp(scale * y**2)[:, :, None] * torch.exp(scale * x**2)[:, None, :]
