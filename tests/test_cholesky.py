"""Cholesky factors of badly scaled matrices."""

from __future__ import annotations

import torch
from tolerances import DOUBLE

from hybridfit.fitting.cholesky import scaled_cholesky


def test_rows_of_any_scale_are_factored() -> None:
    """Positions and fluxes differ by 20 orders; without the scale the factor is not a number."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(3, 5, 40, generator=generator, dtype=torch.float64)
    size = torch.logspace(-10, 10, 5, dtype=torch.float64)
    matrix = (columns @ columns.mT) * size[:, None] * size
    factor, scale = scaled_cholesky(matrix, 1e-14)
    unit = factor @ factor.mT
    torch.testing.assert_close(
        unit / scale[:, :, None] / scale[:, None, :] / matrix,
        torch.ones_like(matrix),
        rtol=1e-9,  # the jitter over the smallest correlation
        atol=DOUBLE,
    )


def test_an_empty_row_is_left_alone() -> None:
    matrix = torch.diag(torch.tensor([4.0, 0.0, 9.0], dtype=torch.float64))[None]
    factor, scale = scaled_cholesky(matrix, 1e-9)
    assert torch.isfinite(factor).all()
    assert scale[0].tolist() == [0.5, 1.0, 1 / 3]
