"""From cutouts to draws of their posterior: one pass of the network, then the flow.

    draws = decode(flow.sample(context(estimator_inputs(cutouts))))

What the inverse of an affine flow throws far away is rejected, counted and drawn again: what no
parameter can be, and lone draws many widths beyond all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Posterior
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import MAX_U
from hybridfit.npe.density import FlowDensity
from hybridfit.npe.frame import LARGEST, Frame, decode, log_jacobian, position
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.network import Estimator
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.weight_files import WEIGHTS, load_weights

PACKAGED = Path(__file__).parent / "weights"
# deviations from the training's mean: the flow's coordinates have longer tails than a normal's,
# and what explodes lies far beyond
MAX_WHITENED = 10.0
# half-widths of the 68 % interval from the median, in each of the flow's coordinates; where more
# than a hundredth of the draws, and more than one, lie farther the posterior has a tail there, and
# less is the flow's inverse
LONE, TAIL = 15.0, 0.01
ENOUGH = 32  # draws that tell such a tail from a lone draw
ROUNDS = 4  # of drawing; who lacks draws then has less than a third of them plausible
FEWEST = 16  # plausible draws, below which there is no posterior
AT_ONCE = {"cpu": 64, "cuda": 1024}  # galaxies
PIXELS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 25}


def load_estimator(path: str | Path | None = None) -> Estimator:
    """Return a trained network, for evaluation in float32.

    Args:
        path: folder with weights.safetensors and config.yaml; default the package's own.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if they do not fit each other.
    """
    if path is None and not (PACKAGED / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"this installation has no weights at '{PACKAGED}': pass --weights FOLDER, or "
            "--initial-values moments for a fit"
        )
    return load_weights(PACKAGED if path is None else path)


@lru_cache(maxsize=1)
def packaged_estimator() -> Estimator:
    """Return the package's own network; it is read once. Not to be changed."""
    return load_estimator()


def weights_digest(path: str | None = None) -> str:
    """What tells one network from another: a digest of its weights' file."""
    return sha256((Path(path or PACKAGED) / WEIGHTS).read_bytes()).hexdigest()[:16]


def predict_cutouts(
    cutouts: Cutouts,
    estimator: Estimator,
    n_samples: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    space: ParameterSpace = ParameterSpace(),
) -> Posterior:
    """Draw from the posterior of each galaxy.

    The draws of a galaxy depend on its pixels, its id and the seed, not on the batch it comes
    in, but for its padding: small cutouts among large ones are rendered on another Fourier grid,
    which moves bright galaxies' posteriors by up to a tenth of their width. Draws are rejected
    outside the prior's box around the expected position, beyond what the whitened coordinates
    mean, of sizes above half of what the network sees, and alone many widths beyond all others:
    the density is the flow's, not divided by what is left.

    Args:
        cutouts: B galaxies. One without usable pixels has NaN for draws, and a flag. Without
            PSFs, which the network was not trained for, all are flagged as unfamiliar.
        estimator: from `load_estimator`; moved to ``device``.
        n_samples: S, draws of each galaxy.
        seed: of the random numbers.
        device: where the network is evaluated.
        space: one Sersic component and a constant sky, whose whitened coordinates the density is
            quoted in. Of its prior the box of positions alone changes the draws.

    Returns:
        Posterior on the CPU. A galaxy with fewer plausible draws than S has some of them
        several times, and one with fewer than 16 has none; both are flagged.

    Raises:
        ValueError: for ``n_samples`` below 2 or another kind of space.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples is {n_samples}, expected 2 or more")
    density = condition(cutouts, estimator, device, space)
    return draw(density, cutouts, n_samples, seed)


@torch.inference_mode()
def condition(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    space: ParameterSpace = ParameterSpace(),
) -> FlowDensity:
    """Show the cutouts to the network: the density from which posteriors are drawn.

    Args:
        cutouts: B galaxies.
        estimator: from `load_estimator`; moved to ``device``.
        device: where the network is evaluated.
        space: one Sersic component and a constant sky.

    Raises:
        ValueError: for another kind of space, or a network of other parameters.
    """
    if estimator.target_columns:
        names = ", ".join(target.name for target in estimator.target_columns)
        raise ValueError(f"these weights predict {names}, not the Sersic parameters")
    if space.names != ParameterSpace().names:
        raise ValueError(f"the network knows {ParameterSpace().names}, not {space.names}")
    estimator = estimator.to(device).eval()
    nothing = int(Flag.NO_DATA | Flag.UNREADABLE)
    usable = (~cutouts.mask).flatten(1).any(dim=1).cpu() & ((cutouts.flags.cpu() & nothing) == 0)
    area = cutouts.image.shape[1] * cutouts.image.shape[2]
    kind = _kind(device)
    step = max(1, min(AT_ONCE[kind], PIXELS_AT_ONCE[kind] // max(area, 1)))
    width = estimator.context_mean.shape[0]
    context = torch.full((len(cutouts), width), torch.nan, device=device)
    frame = Frame.unknown(len(cutouts), device)
    laplace = None
    if estimator.initial_estimator is not None:
        laplace = Laplace.unknown(len(cutouts), estimator.n_targets, device)
    for rows in _split(usable, step):
        chosen = cutouts[rows.tolist()].to(device)
        inputs = estimator_inputs(
            chosen, estimator.initial_estimator, with_views=estimator.backbone is not None
        )
        rows = rows.to(context.device)
        context[rows] = estimator.context(inputs.views, inputs.scalars).float()
        frame = frame.put(rows, inputs.frame)
        if laplace is not None and inputs.laplace is not None:
            laplace = laplace.put(rows, inputs.laplace)
    return FlowDensity(estimator, context, frame, usable.to(context.device), space, laplace)


@torch.inference_mode()
def draw(density: FlowDensity, cutouts: Cutouts, n_samples: int, seed: int = 0) -> Posterior:
    """Draw from the density of each galaxy, see `predict_cutouts`.

    Args:
        density: from `condition`.
        cutouts: the same B galaxies.
        n_samples: S, draws of each.
        seed: of the random numbers.
    """
    estimator, space = density.estimator, density.space
    result = _nothing(cutouts, n_samples, space)
    for rows in _split(density.seen, AT_ONCE[_kind(density.context.device)]):
        part, mine = rows.cpu(), density[rows]
        chosen = cutouts[part.tolist()]
        draws = _draw(mine, chosen.id, n_samples, seed)
        enough = (draws.count >= FEWEST) | (draws.count == n_samples)
        t = torch.where(enough[:, None, None], draws.t, 0.0)
        zeropoint = chosen.zeropoint.to(t.device)
        theta, jacobian = _physical(t, zeropoint, mine.frame, space)
        log_prob = draws.log_prob + jacobian
        distance = estimator.distance(mine.context).double()
        few = draws.count < n_samples
        flags = few * int(Flag.FEW_DRAWS) | unfamiliar(chosen, distance, estimator)
        result.samples[part] = torch.where(enough[:, None, None], theta, torch.nan).cpu()
        result.log_prob[part] = torch.where(enough[:, None], log_prob, torch.nan).cpu()
        result.rejected[part] = draws.rejected.cpu()
        result.distance[part] = distance.cpu()
        result.flags[part] |= flags.cpu()
    return result


def _split(some: Tensor, step: int) -> Sequence[Tensor]:
    """The rows where ``some`` (B,) is true, at most ``step`` at a time."""
    rows = some.nonzero()[:, 0]
    return rows.split(step) if len(rows) else ()


def _kind(device: torch.device | str) -> str:
    return "cpu" if torch.device(device).type == "cpu" else "cuda"


def unfamiliar(cutouts: Cutouts, distance: Tensor, estimator: Estimator) -> Tensor:
    """Flags (B,) of galaxies that the network was not trained for.

    Args:
        cutouts: B galaxies. Each one in training had a PSF.
        distance: (B,) of their contexts; NaN is far.
        estimator: knows what is far.
    """
    if cutouts.psf is None:
        return torch.full_like(distance, int(Flag.UNFAMILIAR | Flag.NO_PSF), dtype=torch.int64)
    return ~(distance <= estimator.distance_limit) * int(Flag.UNFAMILIAR)


def _nothing(cutouts: Cutouts, n_samples: int, space: ParameterSpace) -> Posterior:
    """The posterior of galaxies of which nothing is known."""
    b = len(cutouts)
    samples = torch.full((b, n_samples, len(space.names)), torch.nan, dtype=torch.float64)
    zero = torch.zeros(b, dtype=torch.int64)
    empty = cutouts.mask.flatten(1).all(dim=1).cpu()
    flags = cutouts.flags.cpu() | empty * int(Flag.NO_DATA)
    distance = torch.full((b,), torch.nan, dtype=torch.float64)
    return Posterior(space, samples, samples[..., 0].clone(), zero, distance, flags)


@dataclass(frozen=True)
class _Draws:
    """Plausible draws of B galaxies."""

    t: Tensor  # (B, S, P) float64, the flow's coordinates; those that lack are repeated
    log_prob: Tensor  # (B, S) float64, of t
    count: Tensor  # (B,) plausible ones, at most S
    rejected: Tensor  # (B,)


def _draw(density: FlowDensity, ids: Sequence[str], n_samples: int, seed: int) -> _Draws:
    """Draw until each galaxy has its draws, or it is clear that it will not."""
    estimator, context, frame = density.estimator, density.context, density.frame
    b, n = len(context), estimator.n_targets
    t = frame.centre.new_zeros(b, n_samples, n)
    log_prob = torch.zeros_like(t[..., 0])
    count = torch.zeros(b, dtype=torch.int64, device=context.device)
    rejected = torch.zeros_like(count)
    rows = torch.arange(b, device=context.device)
    middle, limit = frame.centre.new_zeros(b, 1, n), frame.centre.new_full((b, 1, n), torch.inf)
    for attempt in range(ROUNDS):
        noise = own_noise([ids[i] for i in rows.tolist()], n_samples, n, seed, attempt)
        z, log_q = estimator.flow.from_normal(noise.to(context), context[rows])
        drawn, log_slope = density[rows].from_flow(z)
        log_q = log_q + log_slope
        good = _plausible(z, drawn, frame[rows], density.space)
        if attempt == 0 and n_samples >= ENOUGH:
            middle, limit = usual_range(drawn, good)
        good &= ((drawn - middle[rows]).abs() <= limit[rows]).all(dim=2)
        place = count[rows, None] + good.cumsum(dim=1) - 1
        used = place < n_samples  # draws behind the last one that is needed do not count
        rejected[rows] += (~good & used).sum(dim=1)
        galaxy, draw = (good & used).nonzero(as_tuple=True)
        t[rows[galaxy], place[galaxy, draw]] = drawn[galaxy, draw]
        log_prob[rows[galaxy], place[galaxy, draw]] = log_q[galaxy, draw]
        count[rows] = (count[rows] + good.sum(dim=1)).clamp_max(n_samples)
        rows = (count < n_samples).nonzero()[:, 0]
        if not len(rows):
            break
    again = torch.arange(n_samples, device=count.device) % count.clamp_min(1)[:, None]
    t = t.gather(1, again[:, :, None].expand_as(t))
    return _Draws(t, log_prob.gather(1, again), count, rejected)


def own_noise(ids: Sequence[str], n_samples: int, n: int, seed: int, attempt: int) -> Tensor:
    """Standard normal (B, S, n), of each galaxy's own: the same in any batch on any device."""
    noise = torch.empty(len(ids), n_samples, n)
    generator = torch.Generator()
    for i, name in enumerate(ids):
        digest = sha256(f"{seed} {attempt} {name}".encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:7], "big"))
        noise[i].normal_(generator=generator)
    return noise


def _plausible(z: Tensor, t: Tensor, frame: Frame, space: ParameterSpace) -> Tensor:
    """(B, S) whether draws lie where parameters can be; NaN does not."""
    inside = (z.abs() < MAX_WHITENED).all(dim=2) & (t[..., 2:6].abs() < MAX_U).all(dim=2)
    inside &= t[..., 2] < LARGEST
    x, y = position(t, frame)
    box = frame.box_of(space)[:, None]
    inside &= (x - box[..., 0]).abs() < box[..., 2]
    return inside & ((y - box[..., 1]).abs() < box[..., 3])


def usual_range(t: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median (B, 1, P) of good draws and the farthest plausible distance from it.

    The distance is infinite where the posterior has a tail.
    """
    count = good.sum(dim=1)[:, None, None]
    ordered = torch.where(good[..., None], t, torch.inf).sort(dim=1).values
    ranks = [
        (level * (count - 1).clamp_min(0)).round().long().expand(-1, 1, t.shape[2])
        for level in (0.16, 0.5, 0.84)
    ]
    low, middle, high = (ordered.gather(1, rank) for rank in ranks)
    limit = LONE * (high - low) / 2
    far = ((t - middle).abs() > limit).any(dim=2) & good
    most = (TAIL * count[:, 0, 0]).clamp_min(1.0)
    alone = (far.sum(dim=1) <= most) & torch.isfinite(limit).all(dim=2)[:, 0]
    limit = torch.where(alone[:, None, None], limit, torch.inf)
    return torch.where(torch.isfinite(middle), middle, 0.0), limit


def _physical(
    t: Tensor, zeropoint: Tensor, frame: Frame, space: ParameterSpace
) -> tuple[Tensor, Tensor]:
    """Physical parameters (B, S, Q) and the log Jacobian (B, S) of the flow's coordinates."""
    b, s, _ = t.shape
    flat = t.reshape(b * s, -1)
    each = torch.arange(b, device=t.device).repeat_interleave(s)
    frames = frame[each]
    coords, linear = decode(flat, frames)
    theta, _ = space.to_physical(coords, linear, zeropoint[each])
    return theta.view(b, s, -1), log_jacobian(flat, coords, frames, space).view(b, s)
