"""Correlated noise: its autocorrelation is found, and errors follow it; white noise stays white."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import SINGLE
from torch import Tensor

from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.correlated_noise import Autocorrelation
from hybridfit.uncertainty.nuisance import positive

SIDE = 64


def kernel_noise(count: int, kernel: tuple[float, ...], seed: int, side: int = SIDE) -> Tensor:
    """Unit-variance noise (count, side, side) smoothed by a separable kernel, periodic."""
    line = np.zeros(side)
    line[: len(kernel)] = np.array(kernel) / np.linalg.norm(kernel)
    transfer = np.fft.fft(line)
    white = np.random.default_rng(seed).standard_normal((count, side, side))
    modes = np.fft.fft2(white) * transfer * transfer[:, None]
    return torch.tensor(np.fft.ifft2(modes).real.astype(np.float32))


def known(kernel: tuple[float, ...], reach: int = noise.LAGS) -> Tensor:
    """The autocorrelation (lags, lags) of that noise."""
    one = np.array(kernel) / np.linalg.norm(kernel)
    line = np.zeros(2 * reach + 1)
    full = np.correlate(one, one, "full")
    line[reach - len(one) + 1 : reach + len(one)] = full
    return torch.tensor(np.outer(line, line))


DRIZZLE = (1.0, 2.0, 1.0)  # errors of large apertures are 2.67 times those of white noise


def test_autocorrelation_of_drizzled_noise_is_found() -> None:
    """Each lag of a 64 x 64 image scatters by .03 with such noise; the mean over 50 by .004."""
    residual = kernel_noise(50, DRIZZLE, 1)
    found = noise.measure(residual, torch.ones_like(residual, dtype=torch.bool), False)
    truth = known(DRIZZLE)
    middle = slice(noise.LAGS - 2, noise.LAGS + 3)
    mean = found.values.mean(dim=0)
    assert (mean - truth)[middle, middle].abs().max() < 0.04  # and some is shrunk
    ratio = found.inflation.mean() / float(truth.sum() ** 0.5)
    assert 0.95 < float(ratio) < 1.03


def test_white_noise_stays_white() -> None:
    """Chance is not taken for correlation: errors change by less than 5 % in 95 of 100 stamps."""
    residual = kernel_noise(200, (1.0,), 2)
    found = noise.measure(residual, torch.ones_like(residual, dtype=torch.bool), False)
    assert float((found.inflation - 1).abs().quantile(0.95)) < 0.05
    assert abs(float(found.inflation.mean()) - 1) < 0.005
    assert float(found.is_white.double().mean()) > 0.4


def test_noise_map_that_is_too_small_is_found() -> None:
    """A variance of 1.44: 64 x 64 pixels tell it to 2.2 %, 100 stamps on average to .3 %."""
    residual = 1.2 * kernel_noise(100, (1.0,), 3)
    found = noise.measure(residual, torch.ones_like(residual, dtype=torch.bool), False)
    variance = found.values[:, noise.LAGS, noise.LAGS]
    assert abs(float(variance.mean()) - 1.44) < 0.02


def test_pairs_of_pixels_are_those_that_are_used() -> None:
    """Against sums over all pairs, one by one."""
    residual = kernel_noise(1, DRIZZLE, 4, 20)
    sky = torch.tensor(np.random.default_rng(4).random((1, 20, 20)) > 0.4)
    mean, count = noise.pair_means(torch.where(sky, residual, torch.nan), sky)
    value, use = residual[0].double(), sky[0]
    for dy, dx in ((0, 1), (1, 0), (1, -1), (0, 2)):
        total, pairs = 0.0, 0
        for y in range(20):
            for x in range(20):
                if 0 <= y + dy < 20 and 0 <= x + dx < 20 and use[y, x] and use[y + dy, x + dx]:
                    total += float(value[y, x] * value[y + dy, x + dx])
                    pairs += 1
        here = (0, noise.LAGS + dy, noise.LAGS + dx)
        assert float(mean[here]) == pytest.approx(total / pairs, abs=1e-5)
        assert int(count[here]) == pairs


def test_what_is_not_sky_does_not_matter() -> None:
    residual = kernel_noise(2, DRIZZLE, 5)
    sky = torch.tensor(np.random.default_rng(5).random(residual.shape) > 0.3)
    poison = torch.where(sky, residual, 1e3)
    assert torch.equal(
        noise.measure(poison, sky).values,
        noise.measure(torch.where(sky, residual, 0.0), sky).values,
    )


def test_slopes_of_the_sky_are_no_noise() -> None:
    """A plane of .7 sigma from side to side would be taken for noise 3 times as strong."""
    white = kernel_noise(40, (1.0,), 6)
    tilt = 0.5 * torch.linspace(-0.5, 0.5, SIDE) - 0.5 * torch.linspace(-0.5, 0.5, SIDE)[:, None]
    sky = torch.ones_like(white, dtype=torch.bool)
    flat, sloping = (noise.measure(v, sky).inflation for v in (white, white + tilt))
    assert float((flat - sloping).abs().max()) < 1e-3
    bowl = tilt**2 - (tilt**2).mean()
    assert float(noise.measure(white + 3 * bowl, sky).inflation.median()) > 1.5


def test_fitted_level_is_given_back() -> None:
    """Subtracting the mean of 32 x 32 drizzled pixels takes .007 off each of 225 lags."""
    residual = kernel_noise(300, DRIZZLE, 5, 32)
    centred = residual - residual.mean(dim=(1, 2), keepdim=True)
    sky = torch.ones_like(residual, dtype=torch.bool)
    truth, middle = float(known(DRIZZLE).sum()), slice(noise.LAGS - 4, noise.LAGS + 5)

    def power(values: Tensor, fitted: bool) -> float:
        found = noise.measure(values, sky, fitted).values[:, middle, middle]
        return float(found.sum(dim=(1, 2)).mean()) / truth

    assert power(centred, True) > power(centred, False)
    assert abs(power(centred, True) - power(residual, False)) < 0.05


# --- errors ---------------------------------------------------------------------------------


def columns() -> Tensor:
    """Three smooth derivatives, as of flux, size and position of a galaxy 3 pixels wide."""
    y, x = torch.meshgrid(torch.arange(SIDE) - 31.2, torch.arange(SIDE) - 30.9, indexing="ij")
    blob = torch.exp(-(x**2 + y**2) / 18)
    return torch.stack([blob, blob * (x**2 + y**2) / 9, blob * x / 3])[None]


def test_sandwich_is_the_scatter_of_refits() -> None:
    """4,000 realisations give variances to 2.2 %: 9 % is 4 sigma. White noise must fail."""
    design = columns().flatten(2).double()
    inverse = torch.linalg.inv(design @ design.mT)
    draws = kernel_noise(4000, DRIZZLE, 6).flatten(1).double()
    estimates = draws @ design[0].T @ inverse[0]
    scatter = estimates.var(dim=0)
    found = Autocorrelation(known(DRIZZLE)[None], torch.ones(1))
    excess = noise.excess_gram(columns(), found)
    white = torch.diagonal(inverse[0])
    quoted = white + torch.diagonal((inverse @ excess @ inverse)[0])
    assert torch.all((scatter / quoted - 1).abs() < 0.09)
    assert torch.all(scatter / white > 4)  # the wrong twin: a model that takes noise for white


def test_sandwich_from_measured_noise() -> None:
    """The same with the autocorrelation of one stamp: it tells variances to 10 %, 40 to 2 %."""
    design = columns().flatten(2).double()
    found = noise.measure(kernel_noise(40, DRIZZLE, 7), torch.ones(40, SIDE, SIDE) > 0, False)
    one = noise.excess_gram(columns().expand(40, -1, -1, -1), found)
    true = noise.excess_gram(columns(), Autocorrelation(known(DRIZZLE)[None], torch.ones(1)))
    whole = torch.diagonal(true[0] + (design @ design.mT)[0])
    ratio = torch.diagonal(one + design @ design.mT, dim1=1, dim2=2) / whole
    assert torch.all((ratio.mean(dim=0) - 1).abs() < 0.06)
    assert torch.all(ratio.std(dim=0) < 0.2)


def test_white_noise_adds_nothing() -> None:
    assert not noise.excess_gram(columns(), noise.white(1, torch.device("cpu"))).any()


def test_errors_never_shrink() -> None:
    """Noise that alternates from pixel to pixel averages out; the errors stay as they are."""
    alternating = known((1.0, -1.0))
    excess = noise.excess_gram(columns(), Autocorrelation(alternating[None], torch.ones(1)))
    assert torch.linalg.eigvalsh(excess).min() < -0.5
    assert torch.linalg.eigvalsh(positive(excess)).min() > -1e-9


# --- given by the user ----------------------------------------------------------------------


def test_given_image_is_taken() -> None:
    image = known(DRIZZLE)[5:12, 4:13]  # not square
    found = noise.given(image, 3)
    assert found.values.shape == (3, 9, 9)
    assert torch.allclose(found.inflation, known(DRIZZLE).sum().sqrt(), atol=SINGLE)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.ones(4, 5), "odd sides"),
        (torch.ones(3), "odd sides"),
        (torch.tensor([[0.0, 0.0, 2.0], [0, 1, 0], [2, 0, 0]]), "largest in the middle"),
        (torch.zeros(3, 3), "largest in the middle"),
    ],
)
def test_what_is_no_autocorrelation_is_refused(image: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        noise.given(image, 1)
