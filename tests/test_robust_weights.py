"""Weights of pixels that a model does not explain, against sums by another way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tolerances import SINGLE

from hybridfit.npe.robust_weights import BOXES, CUTOFF, box_sums, integral_image, robust_weights


def noise(n: int = 4, side: int = 40) -> torch.Tensor:
    return torch.randn(n, side, side + 6, generator=torch.Generator().manual_seed(2))


def test_boxes_are_those_of_pooling():
    image = noise()
    for side in BOXES:
        pooled = F.avg_pool2d(image[:, None], side, 1, side // 2)[:, 0] * side**2
        assert torch.allclose(box_sums(integral_image(image), side), pooled, atol=2e-4)


def test_noise_keeps_its_weight():
    """1.1 % of all pixels are beyond three deviations in one of four averages, and lose little."""
    residual = noise(16)
    one = torch.ones_like(residual)
    kept = robust_weights(residual, one, one, 0 * one)
    assert kept.mean() > 0.99
    assert (kept < 1).float().mean() > 0.003  # the limit is where it is said to be


def test_a_bright_pixel_loses_as_its_square():
    residual = torch.zeros(1, 31, 31)
    residual[0, 15, 15] = 30.0
    one = torch.ones_like(residual)
    kept = robust_weights(residual, one, one, 0 * one)
    assert torch.isclose(kept[0, 15, 15], torch.tensor((CUTOFF / 30) ** 2), atol=SINGLE)
    # doubted by ten times the noise it is one of three deviations
    assert robust_weights(residual, one, one, 10 * one)[0, 15, 15] == 1


def test_faint_wide_light_is_seen():
    """Light of .7 sigma a pixel: none alone, but 10 deviations in the largest box."""
    residual = noise() + F.pad(torch.full((4, 15, 15), 0.7), (20, 11, 12, 13))
    one = torch.ones_like(residual)
    kept = robust_weights(residual, one, one, 0 * one)
    assert kept[:, 17:22, 25:30].mean() < 0.3
    assert kept[:, :8].mean() > 0.98


def test_unused_pixels_weigh_nothing_and_tell_nothing():
    residual = noise()
    used = torch.ones_like(residual)
    used[:, 10:20, 10:20] = 0
    one = torch.ones_like(residual)
    bad = torch.where(used > 0, residual, 1e6)
    kept = robust_weights(bad, one, used, 0 * one)
    assert (kept[:, 10:20, 10:20] == 0).all()
    assert torch.equal(kept, robust_weights(residual * used, one, used, 0 * one))
