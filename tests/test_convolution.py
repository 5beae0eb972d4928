"""The contract of a convolution, over every strategy that there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tolerances import SINGLE

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.rendering.convolution import STRATEGIES, Convolution, convolution_of
from hybridfit.rendering.grid import grid_of
from hybridfit.rendering.render import render
from hybridfit.rendering.transfer import transfer_of

each = pytest.mark.parametrize("way", STRATEGIES.values(), ids=list(STRATEGIES))
THETA = torch.tensor([[31.3, 32.2, 20.0, 4.0, 1.0, 0.7, 30.0, 0.0]], dtype=torch.float64)


def cutouts(oversampling: int = 1, side: int = 64) -> Cutouts:
    line = np.arange(-10 * oversampling, 10 * oversampling + 1)
    psf = np.exp(-0.5 * (line[:, None] ** 2 + line**2) / (1.5 * oversampling) ** 2)
    image = torch.zeros(1, side, side)
    return Cutouts(
        image,
        image + 1,
        torch.from_numpy(psf / psf.sum()).float(),
        psf_oversampling=oversampling,
        zeropoint=torch.tensor([20.0], dtype=torch.float64),
    )


def test_every_name_of_the_options_is_a_strategy() -> None:
    for name, way in STRATEGIES.items():
        assert convolution_of(FitOptions(convolution=name).convolution) is way
        assert way.name == name
    with pytest.raises(ValueError, match="convolution is 'exact', expected one of continuous"):
        convolution_of("exact")


@each
def test_strategies_are_values(way: Convolution) -> None:
    """Grids are cached by them."""
    again = type(way)()
    assert again == way
    assert hash(again) == hash(way)
    assert sum(other == way for other in STRATEGIES.values()) == 1


@each
@pytest.mark.parametrize("oversampling", [1, 2, 4])
def test_modes_within_the_sampling_are_followed(way: Convolution, oversampling: int) -> None:
    psf = cutouts(oversampling).psf
    assert way.bandlimit(psf, oversampling) >= 1
    assert way.bandlimit(None, oversampling) > 1  # a pixel alone damps little


@each
def test_frequencies_below_nyquist_are_their_own_phases(way: Convolution) -> None:
    k = np.linspace(-0.99 * math.pi, 0.99 * math.pi, 21)
    np.testing.assert_allclose(way.phase_frequencies(k), k, rtol=0, atol=1e-12)
    beyond = way.phase_frequencies(np.array([1.5 * math.pi]))[0]
    # one sample apart, or the same: both give the same values on whole pixels
    assert math.isclose(math.cos(beyond), math.cos(1.5 * math.pi), abs_tol=1e-12)


@each
@pytest.mark.parametrize("oversampling", [1, 2])
def test_flux_is_kept(way: Convolution, oversampling: int) -> None:
    """The transfer function is 1 at frequency 0, and the image holds the flux but for wings."""
    galaxy = cutouts(oversampling)
    grid = grid_of(galaxy, torch.float64, way)
    transfer = transfer_of(galaxy, grid)
    assert float(transfer[0, 0, 0, 0]) == pytest.approx(1, abs=SINGLE)
    assert float(transfer[0, 1, 0, 0]) == pytest.approx(0, abs=SINGLE)
    # an exponential disc of 4 pixels has 1e-4 beyond 32 pixels along its major axis
    total = float(render(THETA, galaxy, dtype=torch.float64, convolution=way).sum())
    assert total == pytest.approx(1, abs=2e-3)
