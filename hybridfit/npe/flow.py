"""A masked autoregressive flow q(t | context) from nflows, with a fast evaluation.

Each layer maps t to ``exp(s) t + m``, where (s, m) of coordinate k come from a masked network
(MADE) of the coordinates before k and of the context; between the layers the order is reversed.
Training uses nflows' own forward pass. For many draws of one galaxy nflows would project the
context again for every draw, and would run the whole network n times to invert a layer. Here

- the context is projected once for each galaxy,
- the last linear map of every residual block, which only the output reads, is multiplied into
  the output matrix beforehand,
- the hidden units are sorted by degree, and step k of the inverse computes only the units that
  depend on coordinate k and those before: all n steps together cost one pass.

Reference: Papamakarios, Pavlakou & Murray 2017 (arXiv:1705.07057); Germain et al. 2015
(arXiv:1502.03509).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from nflows.transforms import (
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    ReversePermutation,
)
from nflows.transforms.made import MADE, MaskedLinear
from torch import Tensor, nn

LOG_SCALE = (-2.0, 4.0)  # bounds of s in a layer; narrow posteriors need large s, none small s
# draws evaluated at a time: on a CPU their hidden units stay in its cache
COLUMNS = {"cpu": 2048, "cuda": 1 << 18}


class ContextMADE(MADE):
    """nflows' MADE, with the context added to the output too.

    In nflows the context enters the hidden units only, and the output of the first coordinate
    reads none of them: its scale and shift would be the same for all galaxies.
    """

    def __init__(self, n: int, hidden: int, context: int, blocks: int) -> None:
        super().__init__(n, hidden, context, blocks, output_multiplier=2)
        self.direct = nn.Linear(context, 2 * n, bias=False)

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Return (B, 2 n), the scale and shift of each coordinate in turn."""
        output: Tensor = super().forward(inputs, context) + self.direct(context)
        return output


class BoundedAffine(MaskedAffineAutoregressiveTransform):
    """nflows' autoregressive layer with a bounded log scale instead of a softplus.

    The width of a posterior goes as 1 / (S/N): linear in ln(S/N) for the log scale. The lower
    bound keeps the inverse, which divides by the scale, from exploding.
    """

    def __init__(self, n: int, context: int, hidden: int, blocks: int) -> None:
        super().__init__(n, hidden, context, blocks)
        self.autoregressive_net = ContextMADE(n, hidden, context, blocks)
        net = self.autoregressive_net
        for parameter in (net.final_layer.weight, net.final_layer.bias, net.direct.weight):
            nn.init.zeros_(parameter)  # the identity

    def _elementwise_forward(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self._unconstrained_scale_and_shift(parameters)
        s = log_scale(raw)
        return torch.exp(s) * inputs + shift, s.sum(dim=1)

    def _elementwise_inverse(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self._unconstrained_scale_and_shift(parameters)
        s = log_scale(raw)
        return (inputs - shift) * torch.exp(-s), -s.sum(dim=1)


def log_scale(raw: Tensor) -> Tensor:
    """Bound the log scale smoothly to `LOG_SCALE`; 0 at 0 with slope 1."""
    low, high = LOG_SCALE
    middle, half = (high + low) / 2, (high - low) / 2
    at_zero = math.atanh(-middle / half)
    slope = 1 - (middle / half) ** 2
    return middle + half * torch.tanh(raw / (half * slope) + at_zero)


class MaskedFlow(nn.Module):
    """A conditional density of ``n`` coordinates, the standard normal before training.

    Args:
        n: coordinates t.
        context: width of the context vector.
        layers: autoregressive layers.
        hidden: hidden units of each.
        blocks: residual blocks of each.
    """

    def __init__(
        self, n: int, context: int, layers: int = 5, hidden: int = 128, blocks: int = 1
    ) -> None:
        super().__init__()
        if n < 2 or hidden < n - 1:
            raise ValueError(f"expected n >= 2 and hidden >= n - 1, got n={n}, hidden={hidden}")
        self.n = n
        steps: list[nn.Module] = []
        for k in range(layers):
            steps += [ReversePermutation(n)] if k else []
            steps.append(BoundedAffine(n, context, hidden, blocks))
        self.transform = CompositeTransform(steps)

    @property
    def _nets(self) -> list[ContextMADE]:
        return [
            step.autoregressive_net
            for step in self.transform._transforms
            if isinstance(step, BoundedAffine)
        ]

    def log_prob(self, t: Tensor, context: Tensor) -> Tensor:
        """Return ln q(t | context), (B,), for t (B, n) and context (B, c): for training."""
        with torch.autocast(t.device.type, enabled=False):
            z, log_det = self.transform(t.float(), context.float())
            log_density: Tensor = _normal(z) + log_det
            return log_density

    @torch.no_grad()
    def log_prob_of(self, t: Tensor, context: Tensor) -> Tensor:
        """Return ln q(t | context), (B, S), for t (B, S, n) and context (B, c)."""
        z, log_det = self._evaluate(t, context, inverse=False)
        return _normal(z) + log_det

    @torch.no_grad()
    def to_normal(self, t: Tensor, context: Tensor) -> Tensor:
        """Return the points (B, S, n) of the standard normal that t (B, S, n) come from."""
        return self._evaluate(t, context, inverse=False)[0]

    @torch.no_grad()
    def sample(
        self, context: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw t (B, S, n) with ln q(t | context) (B, S) for context (B, c).

        Rare draws are far away or not finite, because the inverse of an affine flow can explode:
        the caller must reject these.
        """
        shape = (context.shape[0], n_samples, self.n)
        return self.from_normal(
            torch.randn(shape, generator=generator, device=context.device), context
        )

    @torch.no_grad()
    def from_normal(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal z (B, S, n) to t (B, S, n) with ln q(t | context) (B, S)."""
        t, log_det = self._evaluate(z, context, inverse=True)
        return t, _normal(z) + log_det

    def _evaluate(self, points: Tensor, context: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Map (B, S, n) through all layers, a few galaxies at a time."""
        b, s, n = points.shape
        if context.shape[0] != b or n != self.n:
            raise ValueError(
                f"got points {tuple(points.shape)} and context {tuple(context.shape)}, expected "
                f"(B, S, {self.n}) and (B, c)"
            )
        with torch.autocast(points.device.type, enabled=False):
            points, context = points.float(), context.float()
            nets = [_Folded.of(net) for net in self._nets]
            projected = [net.project(context) for net in nets]  # each (units, B)
            columns = COLUMNS.get(points.device.type, COLUMNS["cuda"])
            at_a_time = max(1, min(b, columns // max(s, 1)))
            # once for all layers: memory that is new costs more than what is computed into it
            known = points.new_empty(2, len(nets[0].inner), len(nets[0].order), at_a_time * s)
            out = torch.empty_like(points)
            log_det = points.new_empty(b, s)
            for low in range(0, b, at_a_time):
                part = slice(low, low + at_a_time)
                x = points[part].permute(2, 0, 1).reshape(n, -1)
                constants = [[c[:, part] for c in layer] for layer in projected]
                mapped, total = _through(nets, x, constants, known[..., : x.shape[1]], inverse)
                out[part] = mapped.view(n, -1, s).permute(1, 2, 0)
                log_det[part] = total.view(-1, s)
        return out, log_det


@dataclass(frozen=True)
class _Folded:
    """The masked matrices of one MADE, hidden units sorted by degree; see the module's text.

    With x the coordinates, c the constants of a galaxy and r_i what leaves block i's inner
    activation: a_1 = relu(first x + c), r_i = relu(inner_i a_i + c), a_(i+1) = relu of the
    residual stream, which is first x + c + sum_(j <= i) between_j r_j; the output is
    ``out_x x + sum_i out_r_i r_i + c``.
    """

    net: ContextMADE
    order: Tensor  # hidden units by degree
    ends: list[int]  # how many units see only the first 0, 1 .. n - 1 coordinates
    first: Tensor  # (hidden, n)
    inner: list[Tensor]  # (hidden, hidden)
    between: list[Tensor]  # (hidden, hidden)
    out: Tensor  # (2 n, hidden)
    out_x: Tensor  # (2 n, n)
    out_r: list[Tensor]  # (2 n, hidden)

    @classmethod
    def of(cls, net: ContextMADE) -> _Folded:
        degrees = net.initial_layer.degrees
        order = torch.argsort(degrees, stable=True)
        n = net.initial_layer.in_features
        ends = [int((degrees <= k).sum()) for k in range(n)]
        first, out = _masked(net.initial_layer)[order], _masked(net.final_layer)[:, order]
        layers = [block.linear_layers for block in net.blocks]
        inner = [_masked(two[0])[order][:, order] for two in layers]
        between = [_masked(two[1])[order][:, order] for two in layers]
        out_r = [out @ matrix for matrix in between]
        return cls(net, order, ends, first, inner, between, out, out @ first, out_r)

    def project(self, context: Tensor) -> list[Tensor]:
        """Return what context (B, c) and biases add.

        To the first layer, to each block's inner layer, to the residual stream behind each block
        (the same for all), and to the output.
        """
        net, order = self.net, self.order
        stream = net.initial_layer.bias + torch.relu(net.context_layer(context))
        inner = [b.linear_layers[0].bias + b.context_layer(context) for b in net.blocks]
        behind = [b.linear_layers[1].bias.expand_as(stream) for b in net.blocks]
        total = (stream + sum(behind))[:, order] @ self.out.T
        output = total + net.final_layer.bias + net.direct(context)
        return [*(c[:, order].T for c in (stream, *inner, *behind)), output.T]


def _masked(layer: MaskedLinear) -> Tensor:
    weight: Tensor = layer.weight * layer.mask
    return weight


def _through(
    nets: list[_Folded], x: Tensor, constants: list[list[Tensor]], known: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Map columns x (n, B S) through all layers; return them and the sum of log scales (B S,).

    ``known`` (2, blocks, hidden, B S) is where the units of a layer are kept.
    """
    log_det = x.new_zeros(x.shape[1])
    layers = list(zip(nets, constants, strict=True))
    for k, (net, constant) in enumerate(reversed(layers) if inverse else layers):
        x = x.flip(0) if k else x
        layer = _Layer(net, constant, known)
        x, s = layer.inverse(x) if inverse else layer.forward(x)
        log_det += s
    return x, log_det


class _Layer:
    """Evaluates one layer; ``known`` holds the units that were computed before."""

    def __init__(self, net: _Folded, constants: list[Tensor], known: Tensor) -> None:
        blocks = len(net.inner)
        self.net = net
        self.stream, self.output = constants[0], constants[-1]
        self.inner, self.behind = constants[1 : 1 + blocks], constants[1 + blocks : -1]
        self.a, self.r = known

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._advance(x, 0, len(self.net.order))
        s, shift = self._scale_and_shift(x, 0, self.net.first.shape[1])
        return torch.exp(s) * x + shift, s.sum(dim=0)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.zeros_like(z)
        total = z.new_zeros(z.shape[1])
        low = 0
        for k, high in enumerate(self.net.ends):
            if high > low:
                self._advance(x[:k], low, high)
            s, shift = self._scale_and_shift(x[:k], k, k + 1)
            x[k] = ((z[k] - shift) * torch.exp(-s))[0]
            total += s[0]
            low = high
        return x, total

    def _advance(self, x: Tensor, low: int, high: int) -> None:
        """Compute the hidden units ``low`` to ``high`` from the first coordinates."""
        units = slice(low, high)
        stream = self._add(self.net.first[units, : len(x)] @ x, self.stream[units])
        for i, (a, r) in enumerate(zip(self.a, self.r, strict=True)):
            torch.clamp(stream, min=0, out=a[units])
            inside = self._add(self.net.inner[i][units, :high] @ a[:high], self.inner[i][units])
            torch.clamp(inside, min=0, out=r[units])
            if i + 1 < len(self.r):
                stream += self._add(
                    self.net.between[i][units, :high] @ r[:high], self.behind[i][units]
                )

    def _scale_and_shift(self, x: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Log scale and shift (high - low, B S) of coordinates ``low`` to ``high``."""
        rows, units = slice(2 * low, 2 * high), self.net.ends[high - 1]
        parameters = self.net.out_x[rows, : len(x)] @ x
        for out, r in zip(self.net.out_r, self.r, strict=True):
            parameters += out[rows, :units] @ r[:units]
        self._add(parameters, self.output[rows])
        return log_scale(parameters[0::2]), parameters[1::2]

    def _add(self, values: Tensor, constants: Tensor) -> Tensor:
        """Add each galaxy's constants (k, B) to its columns of (k, B S), in place."""
        galaxies = constants.shape[1]
        values.view(len(values), galaxies, -1).add_(constants[:, :, None])
        return values


def _normal(z: Tensor) -> Tensor:
    """ln N(z | 0, I) over the last axis."""
    return -0.5 * (z**2).sum(dim=-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
