"""Correlated noise: its autocorrelation on the blank sky, and its effect on a fit's errors.

Resampled images (drizzle, swarp) have noise that is correlated between neighbouring pixels, which
chi2 treats as independent. The least-squares estimate is still unbiased, but its covariance is the
sandwich

    A^-1 (J^T W^1/2 R W^1/2 J + prior) A^-1,    A = J^T W J + prior,

with the autocorrelation R of the noise in units of each pixel's sigma, assumed to be
the same all over the cutout. Sums over pairs of pixels are products in Fourier space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from scipy import fft
from torch import Tensor

from hybridfit.batch import Batch

LAGS = 8  # pix, largest distance of pixels with correlated noise
CLIP = 5.0  # robust standard deviations of the sky: excludes unmasked sources
CLIPPINGS = 4  # rounds, until a source no longer biases the plane under it
# standard errors of a correlation that may be due to chance: with some 15 groups of lags and 100
# pairs of lags, fewer than 1 in 10 clean galaxies gets one, and a small one
SIGNIFICANT = 3.0


@dataclass(frozen=True)
class Autocorrelation(Batch):
    """Covariance of the noise of two pixels by their distance, in units of sigma squared.

    Args:
        values: (B, 2 L + 1, 2 L + 1) float64; the middle is the variance, 1 where sigma is right.
        pixels: (B,) float64 number of blank-sky pixels it was measured on; inf if given.
        exposures: that of further images.
    """

    values: Tensor
    pixels: Tensor
    exposures: tuple[Autocorrelation, ...] = ()

    @property
    def images(self) -> tuple[Autocorrelation, ...]:
        """That of the first image, then of each exposure."""
        return (replace(self, exposures=()), *self.exposures)

    @property
    def reach(self) -> int:
        """Largest lag along an axis."""
        return self.values.shape[-1] // 2

    @property
    def variance(self) -> Tensor:
        """(B,) variance of a pixel over sigma squared."""
        return self.values[:, self.reach, self.reach]

    @property
    def is_white(self) -> Tensor:
        """(B,) whether pixels are independent and sigma is right."""
        return (self.values.abs().sum(dim=(1, 2)) == 1) & (self.variance == 1)

    @property
    def inflation(self) -> Tensor:
        """(B,) noise of a large aperture relative to white noise of that sigma."""
        return self.values.sum(dim=(1, 2)).clamp_min(0.0).sqrt()

    def image(self, height: int, width: int) -> Tensor:
        """Return the autocorrelation (B, height, width) of periodic lags, lag 0 first."""
        middle = self.reach
        reach = min((min(height, width) - 1) // 2, middle)
        inside = slice(middle - reach, middle + reach + 1)
        lags = torch.arange(-reach, reach + 1, device=self.values.device)
        image = self.values.new_zeros(len(self.values), height, width)
        image[:, lags[:, None] % height, lags[None, :] % width] = self.values[:, inside, inside]
        return image

    def spectrum(self, height: int, width: int) -> Tensor:
        """Return the noise power (B, height, width // 2 + 1) on the modes of a real FFT."""
        return torch.fft.rfft2(self.image(height, width)).real


def padded_shape(images: Tensor, reach: int = LAGS) -> tuple[int, int]:
    """Return fast FFT sides for which images (..., H, W) do not wrap within ``reach`` lags."""
    height, width = (int(fft.next_fast_len(n + reach, real=True)) for n in images.shape[-2:])
    return height, width


def measure(
    residual: Tensor, sky: Tensor, fitted_level: bool = True, shapes: Tensor | None = None
) -> Autocorrelation:
    """Measure the noise's autocorrelation on blank sky; insignificant values become white noise.

        R(d) = mean over pairs of r(p) r(p + d)

    Its standard error is that of white noise, 1 / sqrt(pairs), times Bartlett's factor for
    correlated noise. Lags are grouped by length, and both a group's mean and each lag's deviation
    from it are shrunk by 1 - (3 errors / value)^4, to zero where insignificant.

    A plane is subtracted from the sky first: its slopes are not noise but a separate term. So are
    the ``shapes`` that a galaxy's wings may have. Each subtracted mode (the level too, if fitted)
    lowers all correlations by the variance that noise gives it, which is added back.

    Args:
        residual: (B, H, W) data over sigma.
        sky: (B, H, W) bool, pixels without light except for the ``shapes``.
        fitted_level: whether the sky's level is subtracted too; otherwise it counts as correlated.
        shapes: (B, K, H, W) smooth images of order one, with unknown amplitudes; an image of zeros
            is ignored.

    Returns:
        The autocorrelation; white noise where there is no sky.
    """
    modes = _modes(residual, fitted_level, shapes)
    values = _flattened(residual, sky, modes)
    coords, pairs = pair_means(values, sky)
    pixels = pairs[:, LAGS, LAGS]
    found = _shrunk(coords, pairs)
    count = (modes != 0).flatten(2).any(dim=2).sum(dim=1)
    taken = count * found.sum(dim=(1, 2)).clamp_min(0.0) / pixels.clamp_min(1.0)
    return Autocorrelation(_shrunk(coords + taken[:, None, None], pairs), pixels)


def pair_means(values: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of v(p) v(p + d) over used pixel pairs and their number, (B, lags, lags).

    Args:
        values: (B, H, W).
        used: (B, H, W) bool.
    """
    shape = padded_shape(values)
    planes = torch.stack([torch.where(used, values, 0.0), used.to(values.dtype)], dim=1)
    power = torch.fft.rfft2(planes, s=shape).abs() ** 2
    sums = _lags(torch.fft.irfft2(power, s=shape)).double()  # (B, 2, lags, lags)
    pairs = sums[:, 1].round().clamp_min(0.0)
    return sums[:, 0] / pairs.clamp_min(1.0), pairs


def given(image: Tensor, batch: int) -> Autocorrelation:
    """Return a known autocorrelation for all galaxies; see `Autocorrelation.values`.

    Args:
        image: (h, w) odd sides, its middle the variance over sigma squared, usually 1.
        batch: B.

    Raises:
        ValueError: if the image is not an autocorrelation.
    """
    if image.ndim != 2 or any(n % 2 == 0 for n in image.shape):
        raise ValueError(
            f"the noise autocorrelation has shape {tuple(image.shape)}, expected an image with odd "
            "sides whose middle pixel is lag 0"
        )
    values = image.double()
    middle = values[values.shape[0] // 2, values.shape[1] // 2]
    if not (middle > 0 and bool((values.abs() <= middle * (1 + 1e-6)).all())):
        raise ValueError(
            f"the noise autocorrelation's middle is {float(middle):.3g} and its largest value "
            f"{float(values.abs().max()):.3g}, expected the largest in the middle"
        )
    side = max(values.shape)
    square = values.new_zeros(side, side)
    top, left = (side - values.shape[0]) // 2, (side - values.shape[1]) // 2
    square[top : top + values.shape[0], left : left + values.shape[1]] = values
    square = (square + square.flip(0, 1)) / 2
    pixels = torch.full((batch,), torch.inf, dtype=torch.float64, device=image.device)
    return Autocorrelation(square.expand(batch, side, side), pixels)


def white(batch: int, device: torch.device) -> Autocorrelation:
    """Return the autocorrelation of white noise."""
    return given(torch.ones(1, 1, device=device), batch)


def excess_gram(columns: Tensor, noise: Autocorrelation) -> Tensor:
    """Return K^T (R - 1) K over pairs of pixels, (B, C, C) float64: the excess over white noise.

    Args:
        columns: (B, C, H, W).
        noise: with the autocorrelation R.
    """
    count = columns.shape[1]
    gram = columns.new_zeros(len(columns), count, count, dtype=torch.float64)
    rows = (~noise.is_white).nonzero()[:, 0]
    if len(rows):
        shape = padded_shape(columns, noise.reach)
        power = noise[rows].spectrum(*shape)
        gram[rows] = weighted_gram(columns[rows], power - 1, shape)
    return gram


def weighted_gram(columns: Tensor, power: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return sums over pairs of pixels, (B, C, C) float64: K^T X K with a stationary X.

    Args:
        columns: (B, C, H, W).
        power: (B, height, width // 2 + 1) spectrum of X on the padded modes.
        shape: the padded height and width.
    """
    return mode_gram(torch.fft.rfft2(columns, s=shape), power, shape)


def mode_gram(modes: Tensor, power: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return `weighted_gram` of transformed columns, (B, C, height, width // 2 + 1)."""
    twice = torch.full((shape[1] // 2 + 1,), 2.0, device=modes.device)
    twice[0] = 1.0  # a real FFT omits the mirrored half
    if shape[1] % 2 == 0:
        twice[-1] = 1.0
    parts = torch.view_as_real(modes)
    weight = (power * (twice / (shape[0] * shape[1]))).to(parts.dtype)
    scaled = parts * weight[:, None, :, :, None]
    return (scaled.flatten(2) @ parts.flatten(2).transpose(1, 2)).double()


def _modes(values: Tensor, level: bool, shapes: Tensor | None) -> Tensor:
    """Return (b, K, H, W) plane, optionally with its level, and ``shapes``; b may be 1."""
    height, width = values.shape[-2:]
    x = torch.linspace(-1, 1, width, dtype=values.dtype, device=values.device)
    y = torch.linspace(-1, 1, height, dtype=values.dtype, device=values.device)
    one = torch.ones(height, width, dtype=values.dtype, device=values.device)
    plane = torch.stack([*[one] * level, one * x, one * y[:, None]])[None]
    if shapes is None:
        return plane
    return torch.cat([plane.expand(len(shapes), -1, -1, -1), shapes.to(values.dtype)], dim=1)


def _flattened(values: Tensor, sky: Tensor, modes: Tensor) -> Tensor:
    """Subtract the best-fitting sum of ``modes`` (b, K, H, W) on the sky from (B, H, W).

    The residual is clipped, and clipped pixels pull the fit by their clipped value only (Huber).
    """
    used = (modes * sky[:, None]).flatten(2)  # (B, K, N)
    gram = (used @ used.mT).double()
    scale = torch.diagonal(gram, dim1=1, dim2=2).clamp_min(1e-12).rsqrt()
    unit = gram * scale[:, :, None] * scale[:, None, :]
    unit = unit + 1e-6 * torch.eye(gram.shape[1], dtype=torch.float64, device=values.device)
    inverse = torch.linalg.inv(unit) * scale[:, :, None] * scale[:, None, :]
    data = torch.where(sky, values, 0.0).flatten(1)
    start = _median(values, sky, 0.0)[:, None]
    left = torch.where(sky.flatten(1), data - start, 0.0)
    for _ in range(CLIPPINGS):
        limit = CLIP * 1.4826 * _median(left.abs(), sky.flatten(1)).clamp_min(1e-3)[:, None]
        calm = data - left + left.clamp(-limit, limit)
        best = inverse @ (used @ calm[:, :, None]).double()
        left = data - (best.mT.to(values.dtype) @ used)[:, 0]
    return left.clamp(-limit, limit).view_as(values)


def _lags(image: Tensor) -> Tensor:
    """Crop (..., height, width) periodic correlations to the lags within reach, 0 in the middle."""
    lags = torch.arange(-LAGS, LAGS + 1, device=image.device)
    return image[..., lags[:, None], lags[None, :]]


@lru_cache(maxsize=1)
def _groups() -> Tensor:
    """Return (G, lags, lags) means over lags of similar length: each below 3 pix, then rings."""
    lags = torch.arange(-LAGS, LAGS + 1)
    square = lags[:, None] ** 2 + lags[None, :] ** 2
    edges = torch.tensor([3.0, 4.5, 6.5, LAGS + 0.5])
    ring = 100 + torch.bucketize(square.double().sqrt(), edges.double(), right=True)
    label = torch.where(square < 9, square, ring)
    label = torch.where(square.double().sqrt() > LAGS + 0.5, -1, label)
    label[LAGS, LAGS] = -1  # the variance is not grouped
    groups = torch.stack([label == v for v in label.unique() if v >= 0]).double()
    return groups / groups.sum(dim=(1, 2), keepdim=True)


def _shrunk(coords: Tensor, pairs: Tensor) -> Tensor:
    """Remove insignificant values from measured correlations (B, lags, lags)."""
    groups = _groups().to(coords.device)
    inside = groups.sum(dim=0) > 0
    variance = coords[:, LAGS, LAGS]
    pixels = pairs[:, LAGS, LAGS].clamp_min(1.0)
    mean = torch.einsum("blm,glm->bg", coords, groups)
    count = (groups > 0).sum(dim=(1, 2)) / 2  # opposite lags are the same pairs
    error = variance[:, None] / (pixels[:, None] * count).sqrt()
    correlation = _garrote(mean, error) / variance.clamp_min(1e-12)[:, None]
    bartlett = (1 + 2 * (correlation**2 * count).sum(dim=1)).sqrt()
    mean = _garrote(mean, error * bartlett[:, None])
    broad = torch.einsum("bg,glm->blm", mean, (groups > 0).double())
    error = (variance / pixels.sqrt() * bartlett)[:, None, None]
    result = (broad + _garrote(coords - broad, error)) * inside
    # the error of the variance is sqrt(2) larger
    own = 1 + _garrote(variance - 1, (2 / pixels).sqrt() * variance.clamp_min(1.0) * bartlett)
    result[:, LAGS, LAGS] = torch.where(pairs[:, LAGS, LAGS] > 1, own, 1.0)
    return result


def _garrote(value: Tensor, error: Tensor) -> Tensor:
    """Shrink values to zero below `SIGNIFICANT` errors, and only slightly far above."""
    ratio = (SIGNIFICANT * error / value.abs().clamp_min(1e-30)).clamp_max(1.0)
    return value * (1 - ratio**4)


def _median(values: Tensor, where: Tensor, otherwise: float = 1.0) -> Tensor:
    """Return the (B,) median over the chosen pixels; ``otherwise`` if there are none."""
    some = torch.where(where, values, torch.nan).flatten(1)[:, ::3]  # enough for a limit
    return some.nanmedian(dim=1).values.nan_to_num(otherwise)
