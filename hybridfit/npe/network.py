"""The network: a Swin Transformer V2 on the views, a gated MLP on the scalars, one flow on both.

    context = MLP(scalars, Swin(views)),    p(t | galaxy) = MaskedFlow(t; context)

Gated blocks turn the scalars into a state; further blocks correct it with the features of the Swin,
as far as the state itself admits: bright, clean galaxies need the digits of the scalars, others
need the pixels. Without views there are no corrections, so that one network can be trained on some
batches with views and on many cheaper ones without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridfit.npe.backbone import NetworkOptions, make_backbone, n_tokens
from hybridfit.npe.coordinates import SERSIC, FlowCoordinates
from hybridfit.npe.ensemble import EnsembleFlow
from hybridfit.npe.flow import MaskedFlow
from hybridfit.npe.refinement_scalars import n_step_scalars
from hybridfit.npe.targets import TargetColumn


class Estimator(nn.Module):
    """Amortized posterior of the flow's coordinates t given views and scalars.

    With ``options.refinement`` the targets are w, see `Laplace`, and not t.

    Args:
        options: see `NetworkOptions`.
        n_scalars: F, scalars of a galaxy, those of the refinement included.
        n_targets: P, coordinates of the flow; default those of the model.
        coordinates: of the model whose parameters the network, or its initial estimator, knows.
    """

    def __init__(
        self,
        options: NetworkOptions,
        n_scalars: int,
        n_targets: int | None = None,
        coordinates: FlowCoordinates = SERSIC,
    ) -> None:
        super().__init__()
        n_targets = coordinates.n if n_targets is None else n_targets
        self.options, self.coordinates = options, coordinates
        self.n_scalars, self.n_targets = n_scalars, n_targets
        self.initial_estimator = make_initial_estimator(options, n_scalars, coordinates)
        self.backbone = make_backbone(options)
        seen = 0 if self.backbone is None else self.backbone.num_features
        read = n_scalars if options.moments else seen
        width = options.width
        if self.backbone is not None:
            self.seen_norm = nn.LayerNorm(seen)
        self.entry = nn.Linear(read, width)
        self.blocks = nn.ModuleList(_Gated(width, read) for _ in range(options.blocks))
        corrected = self.backbone is not None and options.moments
        self.corrections = nn.ModuleList(
            _Gated(width, seen) for _ in range(options.corrections if corrected else 0)
        )
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, options.context))
        self.others = nn.ModuleList(
            _Reader(read, seen, len(self.corrections), options) for _ in range(options.members - 1)
        )
        self.head = nn.Linear(options.context, n_targets * (n_targets + 3) // 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.flow = _make_flow(n_targets, options)
        self._register_statistics()
        if self.backbone is not None:
            # the mean over tokens loses positions in the frame
            self.place = nn.Linear(n_tokens(self.backbone) * seen, seen, bias=False)
            nn.init.zeros_(self.place.weight)
            # scalars explain most of a galaxy and would leave the backbone little to learn
            self.seen_head = nn.Linear(seen, self.head.out_features)
            nn.init.zeros_(self.seen_head.weight)
            nn.init.zeros_(self.seen_head.bias)

    def _register_statistics(self) -> None:
        """Make room for what is measured of the training's galaxies: scales, usual contexts."""
        for name, size in (("scalar", self.n_scalars), ("target", self.n_targets)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        size = self.options.context * self.options.members
        self.register_buffer("context_mean", torch.zeros(size))
        self.register_buffer("context_whitening", torch.eye(size))
        self.register_buffer("distance_limit", torch.tensor(torch.inf))

    tokens_of: Callable[[Tensor], Tensor] | None = None  # compiled
    target_columns: tuple[TargetColumn, ...] = ()  # predicted instead of the Sersic parameters

    scalar_mean: Tensor
    scalar_std: Tensor
    target_mean: Tensor
    target_std: Tensor
    context_mean: Tensor
    context_whitening: Tensor
    distance_limit: Tensor

    def set_whitening(self, scalars: Tensor, targets: Tensor) -> None:
        """Set the scales that standardise scalars (N, F) and targets (N, P), from a sample."""
        for name, values in (("scalar", scalars), ("target", targets)):
            values = values.double()
            getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
            getattr(self, f"{name}_std").copy_(values.std(dim=0).clamp_min(1e-3))

    def standardised(self, t: Tensor) -> Tensor:
        """The flow's own variable of the coordinates t (..., P)."""
        return (t - self.target_mean) / self.target_std

    def original(self, z: Tensor) -> Tensor:
        """The coordinates t (..., P) of the flow's own variable."""
        return z * self.target_std + self.target_mean

    @property
    def log_scale(self) -> Tensor:
        """ln |d z / d t|, to be added to the flow's log density."""
        return -torch.log(self.target_std).sum()

    def context(self, views: Tensor, scalars: Tensor, use_views: bool = True) -> Tensor:
        """Return the context of the flow.

        Args:
            views: (B, 5, 64, 64); not read without a backbone or with ``use_views`` False.
            scalars: (B, F).
            use_views: whether the Swin reads the views.

        Returns:
            (B, M C), those of all members in a row.

        Raises:
            ValueError: if these weights belong to a version that measures other scalars.
        """
        read, measured = len(self.scalar_mean), scalars.shape[1]
        if read != measured:
            raise ValueError(
                f"these weights read {read} scalars of a galaxy and this version measures "
                f"{measured}: train or fine-tune them with this version, or use theirs"
            )
        return self._context_of(scalars, self._seen(views) if use_views else None)

    def compile_backbone(self) -> None:
        """Have the backbone's kernels compiled when it first runs, for one size of batches."""
        if self.backbone is not None:
            self.tokens_of = torch.compile(self.backbone.forward_features, dynamic=False)

    def _seen(self, views: Tensor) -> Tensor | None:
        """The backbone's features (B, D) in float32, None without a backbone."""
        if self.backbone is None:
            return None
        tokens = (self.tokens_of or self.backbone.forward_features)(views)  # (B, h, w, D)
        return self.seen_norm(tokens.mean(dim=(1, 2)) + self.place(tokens.flatten(1))).float()

    def _context_of(self, scalars: Tensor, seen: Tensor | None) -> Tensor:
        """Context of scalars (B, F) and the backbone's features (B, D), or without these."""
        if self.options.moments:
            features = ((scalars - self.scalar_mean) / self.scalar_std).clamp(-8.0, 8.0)
        elif seen is not None:
            features = seen
        else:  # neither is read: only the prior is left
            features = scalars.new_zeros(len(scalars), self.entry.in_features)
        # bfloat16 is for the backbone only: the scalars of bright galaxies need the digits
        with torch.autocast(device_type=features.device.type, enabled=False):
            x = self.entry(features)
            for block in self.blocks:
                x = block(x, features)
            contexts = [self.exit(_corrected(x, self.corrections, seen))]
            contexts += [other(x, features, seen) for other in self.others]
            return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=1)

    def losses(
        self, views: Tensor, scalars: Tensor, targets: Tensor, use_views: bool = True
    ) -> dict[str, Tensor]:
        """Negative log densities of t (B,): of the flow as "nll", of Gaussians as the others.

        "head" is the Gaussian on the context; "seen", where views are read, that on the
        backbone's features alone. Of several members "nll" is the mean of theirs, which trains each
        of them, and "mixture" that of their mean density, which is the posterior.
        """
        seen = self._seen(views) if use_views else None
        context = self._context_of(scalars, seen).float()
        z = self.standardised(targets)
        with torch.autocast(device_type=z.device.type, enabled=False):
            losses = self._flow_losses(z, context)
            heads = [gaussian_nll(z, self.head(own)) for own in self._contexts(context)]
            head = heads[0] if len(heads) == 1 else torch.stack(heads).mean(dim=0)
            losses["head"] = head - self.log_scale
            if seen is not None:
                losses["seen"] = gaussian_nll(z, self.seen_head(seen)) - self.log_scale
        return losses

    def _flow_losses(self, z: Tensor, context: Tensor) -> dict[str, Tensor]:
        if not isinstance(self.flow, EnsembleFlow):
            return {"nll": -self.flow.log_prob(z, context) - self.log_scale}
        each = -self.flow.of_members(z, context) - self.log_scale
        mixture = math.log(len(each)) - torch.logsumexp(-each, dim=0)
        return {"nll": each.mean(dim=0), "mixture": mixture}

    def _contexts(self, context: Tensor) -> tuple[Tensor, ...]:
        """The contexts (B, C) of the M members in ``context`` (B, M C)."""
        return context.chunk(self.options.members, dim=1)

    def set_context(self, contexts: Tensor, quantile: float = 0.999) -> None:
        """Set the usual contexts from (N, C), and the distance that few of them exceed."""
        contexts = contexts.double()
        mean = contexts.mean(dim=0)
        covariance = torch.cov((contexts - mean).T)
        ridge = 1e-3 * torch.diagonal(covariance).mean() * torch.eye(len(mean)).to(covariance)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + ridge))
        self.context_mean.copy_(mean)
        self.context_whitening.copy_(whitening)
        self.distance_limit.copy_(self.distance(contexts.float()).quantile(quantile))

    def distance(self, context: Tensor) -> Tensor:
        """(B,) Mahalanobis distance of contexts (B, C) from the simulated ones, over sqrt(C)."""
        offset = (context - self.context_mean) @ self.context_whitening.T
        return offset.square().mean(dim=1).sqrt()


def _make_flow(n: int, options: NetworkOptions) -> MaskedFlow | EnsembleFlow:
    """Return the flow of ``n`` coordinates, or the mixture of those of several members."""
    flows = [
        MaskedFlow(
            n,
            options.context,
            layers=options.flow_layers,
            hidden=options.flow_hidden,
            blocks=options.flow_blocks,
        )
        for _ in range(options.members)
    ]
    return flows[0] if len(flows) == 1 else EnsembleFlow(flows)


class _Reader(nn.Module):
    """From the state after the shared blocks to the context of one more member.

    Args:
        read: numbers that the blocks read.
        seen: features of the backbone.
        corrections: blocks that read these.
        options: of the network.
    """

    def __init__(self, read: int, seen: int, corrections: int, options: NetworkOptions) -> None:
        super().__init__()
        width = options.width
        self.block = _Gated(width, read)
        self.corrections = nn.ModuleList(_Gated(width, seen) for _ in range(corrections))
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, options.context))

    def forward(self, x: Tensor, features: Tensor, seen: Tensor | None) -> Tensor:
        context: Tensor = self.exit(_corrected(self.block(x, features), self.corrections, seen))
        return context


def _corrected(x: Tensor, corrections: nn.ModuleList, seen: Tensor | None) -> Tensor:
    """Return the state (B, W), corrected by the backbone's features (B, D) where there are any."""
    for block in corrections if seen is not None else ():
        x = block(x, seen)
    return x


class _Gated(nn.Module):
    """x + B(silu(A(LN x)) * G(features)), the identity at the start."""

    def __init__(self, width: int, n_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.gate = nn.Linear(n_features, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return x + self.outer(functional.silu(self.inner(self.norm(x))) * self.gate(features))


def make_initial_estimator(
    options: NetworkOptions, n_scalars: int, coordinates: FlowCoordinates = SERSIC
) -> Estimator | None:
    """The network of the initial estimate: without views, trained before and kept fixed."""
    if not options.refinement:
        return None
    alone = replace(options, backbone="none", pretrained=False, refinement=False, members=1)
    measured = n_scalars - n_step_scalars(coordinates.n)
    estimator = Estimator(alone, measured, coordinates=coordinates)
    return estimator.requires_grad_(False).eval()


def gaussian_nll(z: Tensor, head: Tensor) -> Tensor:
    """Of z (B, P) under a Gaussian; ``head`` has its mean and its precision's Cholesky factor."""
    n = z.shape[1]
    mean, log_diagonal, rest = head[:, :n], head[:, n : 2 * n].clamp(-10, 15), head[:, 2 * n :]
    factor = torch.diag_embed(torch.exp(log_diagonal))
    row, column = torch.tril_indices(n, n, -1, device=z.device)
    factor[:, row, column] = rest
    white = (factor @ (z - mean)[:, :, None])[:, :, 0]
    return 0.5 * white.square().sum(dim=1) - log_diagonal.sum(dim=1) + 0.9189385 * n
