"""Images of imfit's functions, seen through a Gaussian PSF: a truth for many profiles."""

from __future__ import annotations

import numpy as np
import pytest
from render_helpers import Array
from scipy.signal import fftconvolve

FINE = 7  # imfit's pixels in one of ours; odd, so that both have a centre
MARGIN = 12  # of our pixels, from which the PSF scatters light into the stamp


def by_imfit(
    function: str,
    lengths: dict[str, float],
    numbers: dict[str, float],
    centre: tuple[float, float],
    sigma: float,
    shape: tuple[int, int] = (64, 64),
) -> Array:
    """imfit's function on fine pixels, convolved there with a Gaussian, summed over our pixels.

    Args:
        function: imfit's name.
        lengths: its parameters in pixels; negative for those in 1 / pix.
        numbers: its other parameters; brightness per square pixel of ours.
        centre: x, y in our convention.
        sigma: of the PSF, pixels.
        shape: of the stamp.
    """
    pyimfit = pytest.importorskip("pyimfit")
    height, width = (FINE * (n + 2 * MARGIN) for n in shape)
    # imfit counts pixels from 1
    x, y = (FINE * (c + MARGIN + 0.5) + 0.5 for c in centre)
    image_function = pyimfit.make_imfit_function(function)
    for name, value in lengths.items():
        getattr(image_function, name).setValue(value * FINE)
    for name, value in numbers.items():
        getattr(image_function, name).setValue(value)
    model = pyimfit.SimpleModelDescription()
    model.x0.setValue(x)
    model.y0.setValue(y)
    model.addFunction(image_function)
    image = pyimfit.Imfit(model, maxThreads=1).getModelImage(shape=(height, width))
    half = round(8 * FINE * sigma)
    steps = np.arange(-half, half + 1)
    line = np.exp(-0.5 * (steps / (FINE * sigma)) ** 2)
    line /= line.sum()
    image = fftconvolve(fftconvolve(image, line[None], mode="same"), line[:, None], mode="same")
    cut = image[FINE * MARGIN : -FINE * MARGIN, FINE * MARGIN : -FINE * MARGIN]
    return cut.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))
