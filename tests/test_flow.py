"""The flow: nflows' own forward and inverse are the truth for the fast ones."""

from __future__ import annotations

import pytest
import torch

from hybridfit.npe.flow import LOG_SCALE, MaskedFlow, log_scale

N, CONTEXT = 8, 12


def _flow(blocks: int, layers: int = 3, hidden: int = 40, seed: int = 0) -> MaskedFlow:
    """A flow away from the identity: its last layers get random weights."""
    torch.manual_seed(seed)
    flow = MaskedFlow(N, CONTEXT, layers, hidden, blocks)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "final_layer" in name or "direct" in name:
                parameter.normal_(0, 0.15)
            elif "linear_layers.1" in name:
                parameter.normal_(0, 0.2)
    return flow


def _points(b: int, s: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(b, s, N, generator=generator)
    return points, torch.randn(b, CONTEXT, generator=generator)


def test_starts_as_the_standard_normal() -> None:
    flow = MaskedFlow(N, CONTEXT)
    t, context = _points(5, 7)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(t).sum(-1)
    assert torch.allclose(flow.log_prob_of(t, context), expected, atol=1e-4)
    assert torch.allclose(flow.log_prob(t[:, 0], context), expected[:, 0], atol=1e-4)
    z, log_q = flow.from_normal(t, context)
    assert torch.allclose(z, t, atol=1e-5)
    assert torch.allclose(log_q, expected, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_cached_context_gives_what_nflows_gives(blocks: int) -> None:
    flow = _flow(blocks)
    t, context = _points(5, 9)
    expected = torch.stack([flow.log_prob(t[:, k], context) for k in range(9)], dim=1)
    # float32 sums of some 100 terms, in another order: relative 1e-5 of |log q| ~ 20
    assert torch.allclose(flow.log_prob_of(t, context), expected, atol=1e-3, rtol=1e-5)
    assert expected.std() > 1  # a flow that is far from constant


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_incremental_inverse_is_that_of_nflows(blocks: int) -> None:
    flow = _flow(blocks)
    z, context = _points(6, 11)
    t, log_q = flow.from_normal(z, context)
    flat = context.repeat_interleave(11, 0)
    expected, log_det = flow.transform.inverse(z.reshape(-1, N), flat)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    # three layers, each solved coordinate by coordinate: rounding grows to some 1e-5 of the scale
    assert torch.allclose(t.reshape(-1, N), expected, atol=1e-4, rtol=1e-4)
    assert torch.allclose(log_q, normal - log_det.reshape(6, 11), atol=1e-3, rtol=1e-4)
    assert (t - z).abs().max() > 0.5


def test_sample_agrees_with_log_prob() -> None:
    flow = _flow(2)
    _, context = _points(4, 1)
    t, log_q = flow.sample(context, 300, torch.Generator().manual_seed(3))
    assert t.shape == (4, 300, N)
    # |t| reaches some ten, and float32 rounding of t is multiplied by scales up to some ten
    assert torch.allclose(flow.log_prob_of(t, context), log_q, atol=5e-3, rtol=1e-4)
    again, _ = flow.sample(context, 300, torch.Generator().manual_seed(3))
    assert torch.equal(t, again)


def test_density_is_normalised() -> None:
    """The integral over t is 1: importance sampling from a wider normal."""
    flow = _flow(1, layers=2, seed=4)
    _, context = _points(1, 1)
    t, _ = flow.sample(context, 4000, torch.Generator().manual_seed(5))
    mean, wide = t.mean(1), 1.5 * t.std(1)
    proposal = torch.distributions.Normal(mean[:, None], wide[:, None])
    torch.manual_seed(6)
    draws = proposal.sample((20000,)).movedim(0, 2).reshape(1, 20000, N)
    weight = torch.exp(flow.log_prob_of(draws, context) - proposal.log_prob(draws).sum(-1))
    error = weight.std() / 20000**0.5
    assert error < 0.1
    assert abs(weight.mean() - 1) < 4 * error


def test_result_of_a_galaxy_does_not_depend_on_the_batch() -> None:
    flow = _flow(2)
    z, context = _points(33, 256)  # more than one block of columns
    t, log_q = flow.from_normal(z, context)
    one, log_q_one = flow.from_normal(z[20:21], context[20:21])
    assert torch.allclose(t[20:21], one, atol=1e-4, rtol=1e-4)
    assert torch.allclose(log_q[20:21], log_q_one, atol=1e-3)


def test_a_galaxy_of_nan_stays_alone() -> None:
    flow = _flow(1)
    z, context = _points(3, 20)
    clean, _ = flow.from_normal(z, context)
    context[1] = torch.nan
    t, log_q = flow.from_normal(z, context)
    assert torch.isnan(t[1]).any()
    assert torch.isnan(log_q[1]).all()
    assert torch.allclose(t[[0, 2]], clean[[0, 2]], atol=1e-5)


def test_first_coordinate_sees_the_context() -> None:
    """nflows' MADE gives the first output no context: ours must."""
    flow = _flow(1, layers=1)
    z, context = _points(1, 1)
    t, _ = flow.from_normal(z.expand(2, 1, N), torch.cat([context, -context]))
    assert abs(t[0, 0, 0] - t[1, 0, 0]) > 1e-2


def test_log_scale_is_bounded_and_neutral_at_zero() -> None:
    raw = torch.tensor([-1e6, 0.0, 1e6], requires_grad=True)
    value = log_scale(raw)
    assert torch.allclose(value, torch.tensor([LOG_SCALE[0], 0.0, LOG_SCALE[1]]), atol=1e-6)
    assert torch.autograd.grad(value.sum(), raw)[0][1] == pytest.approx(1.0, abs=1e-5)


def test_learns_a_conditional_density_through_the_context() -> None:
    """A Gaussian whose mean and width follow the context, seen through a trained linear map."""
    torch.manual_seed(0)
    seen = torch.nn.Linear(3, CONTEXT)
    flow = MaskedFlow(2, CONTEXT, layers=2, hidden=16, blocks=1)
    optimiser = torch.optim.Adam([*seen.parameters(), *flow.parameters()], lr=5e-3)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given = torch.randn(count, 3)
        width = 0.1 * torch.exp(0.5 * given[:, 2:])
        t = given[:, :2] + width * torch.randn(count, 2)
        truth = torch.distributions.Normal(given[:, :2], width).log_prob(t).sum(1)
        return given, t, truth

    for _ in range(800):
        given, t, _ = draw(256)
        loss = -flow.log_prob(t, seen(given)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    given, t, truth = draw(4000)
    with torch.no_grad():
        gap = (truth - flow.log_prob(t, seen(given))).mean()
    # the prior N(0, 1 + width^2) is 4.5 nats away; the gap cannot be negative beyond its noise
    assert -0.05 < gap < 0.3
    assert seen.weight.grad is not None


def test_wrong_shapes_and_sizes_are_named() -> None:
    flow = _flow(1)
    z, context = _points(3, 2)
    with pytest.raises(ValueError, match=r"expected \(B, S, 8\)"):
        flow.from_normal(z, context[:2])
    with pytest.raises(ValueError, match="hidden >= n - 1"):
        MaskedFlow(8, 4, hidden=5)
