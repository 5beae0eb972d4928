"""Correlated noise: its autocorrelation on the blank sky, and what it does to a fit's errors.

Resampled images (drizzle, swarp) have noise that neighbouring pixels share, which chi2 takes for
independent. The least-squares estimate is still unbiased, but its covariance is the sandwich

    A^-1 (J^T W^1/2 R W^1/2 J + prior) A^-1,    A = J^T W J + prior,

with the autocorrelation R of the noise in units of each pixel's own sigma, taken to be the same
all over the cutout. Sums over pairs of pixels are products in Fourier space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy import fft
from torch import Tensor

from hybridfit.data.batch import Batch

LAGS = 8  # pix, largest distance of two pixels whose noise may be correlated
CLIP = 5.0  # robust standard deviations of the sky: unmasked sources are no noise
CLIPPINGS = 4  # rounds until a source has let go of the plane under it
# standard errors of a correlation that chance alone explains: with some 15 groups of lags and 100
# pairs of them, fewer than 1 in 10 clean galaxies gets one, and a small one
SIGNIFICANT = 3.0


@dataclass(frozen=True)
class Autocorrelation(Batch):
    """Covariance of the noise of two pixels by their distance, in units of sigma squared.

    Args:
        values: (B, 2 L + 1, 2 L + 1) float64; the middle is the variance, and 1 where sigma is
            right.
        pixels: (B,) float64 of blank sky that it was measured on; inf where it was given.
    """

    values: Tensor
    pixels: Tensor

    @property
    def reach(self) -> int:
        """Largest lag along an axis."""
        return self.values.shape[-1] // 2

    @property
    def variance(self) -> Tensor:
        """(B,) of a pixel, over sigma squared."""
        return self.values[:, self.reach, self.reach]

    @property
    def is_white(self) -> Tensor:
        """(B,) whether pixels are independent and sigma is right."""
        return (self.values.abs().sum(dim=(1, 2)) == 1) & (self.variance == 1)

    @property
    def inflation(self) -> Tensor:
        """(B,) by how much the noise of a large aperture exceeds white noise of that sigma."""
        return self.values.sum(dim=(1, 2)).clamp_min(0.0).sqrt()

    def image(self, height: int, width: int) -> Tensor:
        """The autocorrelation (B, height, width) of periodic lags, lag 0 first."""
        middle = self.reach
        reach = min((min(height, width) - 1) // 2, middle)
        inside = slice(middle - reach, middle + reach + 1)
        lags = torch.arange(-reach, reach + 1, device=self.values.device)
        image = self.values.new_zeros(len(self.values), height, width)
        image[:, lags[:, None] % height, lags[None, :] % width] = self.values[:, inside, inside]
        return image

    def spectrum(self, height: int, width: int) -> Tensor:
        """Power of the noise (B, height, width // 2 + 1) on the modes of a real FFT."""
        return torch.fft.rfft2(self.image(height, width)).real


def padded_shape(images: Tensor, reach: int = LAGS) -> tuple[int, int]:
    """Quick FFT sides in which images (..., H, W) do not meet themselves at ``reach`` lags."""
    height, width = (int(fft.next_fast_len(n + reach, real=True)) for n in images.shape[-2:])
    return height, width


def measure(
    residual: Tensor, sky: Tensor, fitted_level: bool = True, shapes: Tensor | None = None
) -> Autocorrelation:
    """Measure the noise's autocorrelation on blank sky; what chance explains becomes white noise.

        R(d) = mean over pairs of r(p) r(p + d)

    Its standard error is that of white noise, 1 / sqrt(pairs), times Bartlett's factor for noise
    that is correlated. Lags are grouped by their length, and both a group's mean and each lag's
    distance from it are shrunk by 1 - (3 errors / value)^4, to zero where they are insignificant.

    A plane is taken out of the sky first: its slopes are no noise but a term of their own. So are
    the ``shapes``, which a galaxy's wings may have. Each mode that is taken out, and the level if
    it is, makes all correlations too small by the variance that noise gives it, which is put back.

    Args:
        residual: (B, H, W) data over sigma.
        sky: (B, H, W) bool, pixels without light but for the ``shapes``.
        fitted_level: whether the sky's level is taken out too; else it counts as correlated.
        shapes: (B, K, H, W) smooth images of order one, any multiple of which may be there; one of
            zeros is none.

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
    """Mean of v(p) v(p + d) over pairs of used pixels, and their number, each (B, lags, lags).

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
    """An autocorrelation that is known, for all galaxies; see `Autocorrelation.values`.

    Args:
        image: (h, w) odd sides, its middle the variance over sigma squared, usually 1.
        batch: B.

    Raises:
        ValueError: if the image is no autocorrelation.
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
    """The autocorrelation of noise without any."""
    return given(torch.ones(1, 1, device=device), batch)


def excess_gram(columns: Tensor, noise: Autocorrelation) -> Tensor:
    """Sums K^T (R - 1) K over pairs of pixels, (B, C, C) float64: what white noise has not.

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
    """Sums over pairs of pixels, (B, C, C) float64: K^T X K with a stationary X.

    Args:
        columns: (B, C, H, W).
        power: (B, height, width // 2 + 1) spectrum of X on the padded modes.
        shape: the padded height and width.
    """
    return mode_gram(torch.fft.rfft2(columns, s=shape), power, shape)


def mode_gram(modes: Tensor, power: Tensor, shape: tuple[int, int]) -> Tensor:
    """`weighted_gram` of columns that are transformed already, (B, C, height, width // 2 + 1)."""
    twice = torch.full((shape[1] // 2 + 1,), 2.0, device=modes.device)
    twice[0] = 1.0  # a real FFT leaves out the mirrored half
    if shape[1] % 2 == 0:
        twice[-1] = 1.0
    parts = torch.view_as_real(modes)
    weight = (power * (twice / (shape[0] * shape[1]))).to(parts.dtype)
    scaled = parts * weight[:, None, :, :, None]
    return (scaled.flatten(2) @ parts.flatten(2).transpose(1, 2)).double()


def _modes(values: Tensor, level: bool, shapes: Tensor | None) -> Tensor:
    """(b, K, H, W) plane, with its level where asked, and ``shapes``; b may be 1."""
    height, width = values.shape[-2:]
    x = torch.linspace(-1, 1, width, dtype=values.dtype, device=values.device)
    y = torch.linspace(-1, 1, height, dtype=values.dtype, device=values.device)
    one = torch.ones(height, width, dtype=values.dtype, device=values.device)
    plane = torch.stack([*[one] * level, one * x, one * y[:, None]])[None]
    if shapes is None:
        return plane
    return torch.cat([plane.expand(len(shapes), -1, -1, -1), shapes.to(values.dtype)], dim=1)


def _flattened(values: Tensor, sky: Tensor, modes: Tensor) -> Tensor:
    """Take the best sum of ``modes`` (b, K, H, W) over the sky's pixels out of (B, H, W).

    What is left is clipped, and clipped pixels draw the sum by no more than they keep (Huber).
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
    """Cut (..., height, width) periodic correlations to the lags within reach, 0 in the middle."""
    lags = torch.arange(-LAGS, LAGS + 1, device=image.device)
    return image[..., lags[:, None], lags[None, :]]


@lru_cache(maxsize=1)
def _groups() -> Tensor:
    """(G, lags, lags) mean over lags of like length: each length below 3 pix, then rings."""
    lags = torch.arange(-LAGS, LAGS + 1)
    square = lags[:, None] ** 2 + lags[None, :] ** 2
    edges = torch.tensor([3.0, 4.5, 6.5, LAGS + 0.5])
    ring = 100 + torch.bucketize(square.double().sqrt(), edges.double(), right=True)
    label = torch.where(square < 9, square, ring)
    label = torch.where(square.double().sqrt() > LAGS + 0.5, -1, label)
    label[LAGS, LAGS] = -1  # the variance stands for itself
    groups = torch.stack([label == v for v in label.unique() if v >= 0]).double()
    return groups / groups.sum(dim=(1, 2), keepdim=True)


def _shrunk(coords: Tensor, pairs: Tensor) -> Tensor:
    """Take out of measured correlations (B, lags, lags) what chance explains."""
    groups = _groups().to(coords.device)
    inside = groups.sum(dim=0) > 0
    variance = coords[:, LAGS, LAGS]
    pixels = pairs[:, LAGS, LAGS].clamp_min(1.0)
    mean = torch.einsum("blm,glm->bg", coords, groups)
    count = (groups > 0).sum(dim=(1, 2)) / 2  # lag and opposite lag are the same pairs
    error = variance[:, None] / (pixels[:, None] * count).sqrt()
    correlation = _garrote(mean, error) / variance.clamp_min(1e-12)[:, None]
    bartlett = (1 + 2 * (correlation**2 * count).sum(dim=1)).sqrt()
    mean = _garrote(mean, error * bartlett[:, None])
    broad = torch.einsum("bg,glm->blm", mean, (groups > 0).double())
    error = (variance / pixels.sqrt() * bartlett)[:, None, None]
    result = (broad + _garrote(coords - broad, error)) * inside
    # the variance's own error is sqrt(2) larger
    own = 1 + _garrote(variance - 1, (2 / pixels).sqrt() * variance.clamp_min(1.0) * bartlett)
    result[:, LAGS, LAGS] = torch.where(pairs[:, LAGS, LAGS] > 1, own, 1.0)
    return result


def _garrote(value: Tensor, error: Tensor) -> Tensor:
    """Shrink values to zero where they are below `SIGNIFICANT` errors, little far above."""
    ratio = (SIGNIFICANT * error / value.abs().clamp_min(1e-30)).clamp_max(1.0)
    return value * (1 - ratio**4)


def _median(values: Tensor, where: Tensor, otherwise: float = 1.0) -> Tensor:
    """(B,) median over the chosen pixels; ``otherwise`` where there are none."""
    some = torch.where(where, values, torch.nan).flatten(1)[:, ::3]  # enough for a limit
    return some.nanmedian(dim=1).values.nan_to_num(otherwise)
