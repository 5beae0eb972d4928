"""The network by itself: shapes, backbones, what it reads, its whitening and its distances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tolerances import SINGLE
from torch.distributions import MultivariateNormal

from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.network import Estimator, gaussian_nll

SCALARS, TARGETS, BATCH = 11, 8, 6
SWIN = {"patch": 16, "embed": 8, "depths": (1,), "heads": (2,)}
TINY = {"width": 32, "blocks": 1, "context": 12, "flow_layers": 2, "flow_hidden": 16}


def made(n_targets: int = TARGETS, **options: Any) -> Estimator:
    """A small network that is not at its start, where much is zero."""
    torch.manual_seed(0)
    estimator = Estimator(NetworkOptions(**{**SWIN, **TINY, **options}), SCALARS, n_targets)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return estimator.eval()


def galaxies(n: int = BATCH, n_targets: int = TARGETS) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((n, 5, 64, 64), (n, SCALARS), (n, n_targets))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (2, 2), "heads": (4,)}, "differ in length: expected one number of heads"),
        ({"backbone": "none", "moments": False}, "nothing is left to read"),
        ({"backbone": "resnet18"}, "backbone is 'resnet18', expected 'small', 'none' or one of"),
    ],
)
def test_wrong_options_say_what_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)


def test_lists_of_yaml_become_tuples():
    assert NetworkOptions(depths=[2, 2], heads=[4, 8]) == NetworkOptions()
    assert hash(NetworkOptions(depths=[2, 2], heads=[4, 8])) == hash(NetworkOptions())


# ---------------------------------------------------------------- what goes in and comes out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depths": (1, 1), "heads": (2, 4), "patch": 8},
        {"moments": False},
        {"backbone": "none"},
        {"backbone": "swinv2_tiny_window8_256"},
    ],
    ids=["small", "two stages", "pixels alone", "scalars alone", "timm"],
)
def test_shapes(options):
    estimator = made(n_targets=3, **options)
    views, scalars, targets = galaxies(2, 3)
    with torch.no_grad():
        context = estimator.context(views, scalars)
        losses = estimator.losses(views, scalars, targets)
        unseen = estimator.losses(views, scalars, targets, use_views=False)
    assert context.shape == (2, TINY["context"])
    has_pixels = options.get("backbone") != "none"
    assert set(losses) == ({"nll", "head", "seen"} if has_pixels else {"nll", "head"})
    assert set(unseen) == {"nll", "head"}
    for loss in (*losses.values(), *unseen.values()):
        assert loss.shape == (2,)
        assert torch.isfinite(loss).all()


def test_what_is_switched_off_is_not_read():
    views, scalars, targets = galaxies()
    dark = views * math.nan
    for estimator, use_views in ((made(), False), (made(backbone="none"), True)):
        assert torch.isfinite(estimator.losses(dark, scalars, targets, use_views)["nll"]).all()
    assert torch.isnan(made().losses(dark, scalars, targets)["nll"]).all()
    blind = made(moments=False)
    assert torch.isfinite(blind.losses(views, scalars * math.nan, targets)["nll"]).all()


@pytest.mark.parametrize("place", [(slice(None), 0), (0, slice(None)), (-1, 0)])
def test_each_views_pixels_reach_the_context(place):
    """An edge or a corner of any view of one galaxy: its context changes, and no other."""
    estimator = made(backbone="small")
    views, scalars, _ = galaxies()
    before = estimator.context(views, scalars)
    for channel in range(5):
        changed = views.clone()
        changed[(2, channel, *place)] += 3.0
        rows = (estimator.context(changed, scalars) - before).abs().amax(dim=1)
        assert rows[2] > 1e-5
        # the others' numbers in the same batch, in float32
        assert rows[[0, 1, 3, 4, 5]].max() < 1e-6


def test_an_outlying_scalar_is_held():
    estimator = made(backbone="none")
    _, scalars, _ = galaxies()
    far, farther = scalars.clone(), scalars.clone()
    far[:, 3], farther[:, 3] = 8.0, 1e3
    contexts = [estimator.context(torch.zeros(0), s) for s in (scalars, far, farther)]
    assert torch.equal(contexts[1], contexts[2])
    assert not torch.allclose(contexts[0], contexts[1], atol=SINGLE)


# ---------------------------------------------------------------- whitening


def test_whitening_and_back():
    estimator = made()
    generator = torch.Generator().manual_seed(2)
    scale = torch.logspace(-2, 2, TARGETS)
    targets = torch.randn(4000, TARGETS, generator=generator) * scale + 3 * scale
    estimator.set_whitening(galaxies(4000)[1], targets)
    z = estimator.standardised(targets)
    assert z.mean(dim=0).abs().max() < 1e-4
    assert (z.std(dim=0) - 1).abs().max() < 1e-4
    # float32 with a mean of three standard deviations
    assert torch.allclose(estimator.original(z), targets, rtol=1e-5, atol=1e-5)
    assert float(estimator.log_scale) == pytest.approx(-float(targets.std(dim=0).log().sum()))


def test_a_column_that_never_changes_is_no_division_by_zero():
    estimator = made()
    views, scalars, targets = galaxies()
    scalars[:, 2] = 5.0
    estimator.set_whitening(scalars, targets)
    assert torch.isfinite(estimator.losses(views, scalars, targets)["nll"]).all()


def test_losses_are_densities_of_raw_targets():
    """Targets in other units: the same posterior, its density changed by the units alone."""
    views, scalars, targets = galaxies()
    units = torch.logspace(-1, 1, TARGETS) * 3
    losses = []
    for factor in (torch.ones(TARGETS), units):
        estimator = made()
        estimator.set_whitening(scalars, targets * factor)
        losses.append(estimator.losses(views, scalars, targets * factor))
    for name in ("nll", "head", "seen"):
        difference = losses[1][name] - losses[0][name]
        assert torch.allclose(difference, units.log().sum().expand(BATCH), atol=1e-3)


# ---------------------------------------------------------------- distances


def test_usual_contexts_are_near_and_shifted_ones_far():
    estimator = made()
    generator = torch.Generator().manual_seed(3)
    n = TINY["context"]
    mix = torch.randn(n, n, generator=generator)
    usual, others = (torch.randn(4000, n, generator=generator) @ mix + 5.0 for _ in range(2))
    assert torch.isinf(estimator.distance_limit)
    estimator.set_context(usual)
    distance = estimator.distance(others)
    # a Mahalanobis distance over the root of its dimension
    expected = torch.cov(usual.T.double())
    offset = others.double() - usual.double().mean(dim=0)
    exact = ((offset @ torch.linalg.inv(expected)) * offset).mean(dim=1).sqrt()
    # the ridge of a thousandth lowers it for the narrow directions of a random matrix
    assert float(distance.square().mean()) == pytest.approx(float(exact.square().mean()), rel=0.1)
    # a limit that 1 in 1000 of the usual exceed: of 4000 others 4, and 12 once in 1000 times
    assert (distance > estimator.distance_limit).sum() <= 12
    shifted = others + 8 * torch.randn(n, generator=generator) @ mix
    assert (estimator.distance(shifted) > estimator.distance_limit).all()


def test_contexts_of_one_kind_have_a_distance_too():
    """Fewer contexts than their dimensions have a singular covariance."""
    estimator = made()
    contexts = torch.randn(5, TINY["context"], generator=torch.Generator().manual_seed(0))
    estimator.set_context(contexts)
    assert torch.isfinite(estimator.distance(contexts)).all()


# ---------------------------------------------------------------- the Gaussian head


@pytest.mark.parametrize("n", [1, 3, 8])
def testgaussian_nll_is_that_of_torch(n):
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(50, n, generator=generator).double()
    head = torch.randn(50, n * (n + 3) // 2, generator=generator).double()
    factor = torch.diag_embed(head[:, n : 2 * n].exp())
    row, column = torch.tril_indices(n, n, -1)
    factor[:, row, column] = head[:, 2 * n :]
    normal = MultivariateNormal(head[:, :n], precision_matrix=factor.mT @ factor)
    # ln(2 pi) / 2 is written with seven digits
    assert torch.allclose(gaussian_nll(z, head), -normal.log_prob(z), rtol=1e-6, atol=1e-6)


def test_a_new_head_is_the_prior():
    torch.manual_seed(0)
    estimator = Estimator(NetworkOptions(**SWIN, **TINY), SCALARS)
    views, scalars, targets = galaxies()
    losses = estimator.losses(views, scalars, targets)
    expected = 0.5 * (targets.square() + math.log(2 * math.pi)).sum(dim=1)
    assert torch.allclose(losses["head"], expected, atol=1e-4)
    assert torch.allclose(losses["seen"], expected, atol=1e-4)
