"""The linear terms of the sky: a fit's own, and those of users."""

from __future__ import annotations

import pytest
import torch
from tolerances import DOUBLE

from hybridfit.rendering.sky import POWERS, sky_surface, sky_terms, sky_units

DOUBLE_PRECISION = (torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("n_sky", [0, 1, 3, 6])
def test_terms_are_of_order_one(n_sky: int) -> None:
    terms = sky_terms(n_sky, 30, 40, *DOUBLE_PRECISION)
    assert terms.shape == (n_sky, 30, 40)
    assert (terms.abs() <= 1).all()
    assert all(float(t.abs().max()) > 0.2 for t in terms)


@pytest.mark.parametrize("n_sky", [1, 3, 6])
def test_a_fits_sky_is_the_users(n_sky: int) -> None:
    """The same surface from either side, for cutouts of several sizes within the padding."""
    height, width = 30, 40
    size = torch.tensor([[30, 40], [21, 28], [16, 39]])
    own = torch.linspace(-2.0, 3.0, 3 * n_sky, dtype=torch.float64).view(3, n_sky)
    terms = sky_terms(n_sky, height, width, *DOUBLE_PRECISION)
    expected = torch.einsum("bt,thw->bhw", own, terms)
    users = (sky_units(n_sky, size, height, width) @ own[:, :, None])[:, :, 0]
    middle = (size.double()[:, :, None, None] - 1) / 2
    x = torch.arange(width) - middle[:, 1]
    y = torch.arange(height)[:, None] - middle[:, 0]
    surface = sky_surface(users, x, y)
    torch.testing.assert_close(surface, expected, rtol=0, atol=10 * DOUBLE)


def test_users_terms_are_powers() -> None:
    x, y = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0], [3.0]])
    values = []
    for k in range(6):
        one_hot = torch.zeros(1, 6)
        one_hot[0, k] = 1.0
        values.append(float(sky_surface(one_hot, x, y)[0, 1, 1]))
    assert values == [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]
    assert [2.0**i * 3.0**j for i, j in POWERS] == values
