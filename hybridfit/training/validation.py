"""Validation of a network in training: its NLL on fixed galaxies, and the Laplace limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.files.regular import check_regular
from hybridfit.io.writing import atomic
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.npe.coordinates import WHITENED, FlowCoordinates
from hybridfit.npe.frame import encode, log_jacobian
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.normal_equations import normal_equations
from hybridfit.training.data import VALIDATION, Shard, SimulatedSource, in_parts, seed_of, shard_of

SNR_EDGES = (0.0, 10.0, 30.0, 100.0, 300.0, math.inf)
WORST = 100.0  # nats: limit for single galaxies, so that the mean stays meaningful
AT_ONCE = 256  # galaxies a forward pass takes
LIMITED_AT_ONCE = 32


@dataclass(frozen=True)
class Validation:
    """Fixed galaxies and the limit of their NLL.

    Args:
        galaxies: see `Shard`.
        limit: (N,) float32, `laplace_limit`; NaN where it was not computed.
        prior: NLL of the Gaussian that fits all true t, without reading any pixel.
    """

    galaxies: Shard
    limit: Tensor
    prior: float


def make_validation(source: SimulatedSource, n_limit: int) -> Validation:
    """Simulate the validation galaxies and compute the limit of the first clean ones."""
    if source.stream != VALIDATION:
        raise ValueError(f"stream is {source.stream}, expected {VALIDATION}, that of validation")
    seed = seed_of(source.seed, source.stream, 0)
    simulated = source.simulated(seed)
    coordinates = FlowCoordinates(replace(source.model, prior=WHITENED))
    galaxies = shard_of(simulated, source.with_views, source.initial_estimator)
    t = []
    for part in in_parts(len(simulated), LIMITED_AT_ONCE):
        cutouts = simulated.cutouts[part]
        frame = make_inputs(cutouts, with_views=False).frame
        t.append(encode(simulated.theta[part], cutouts.zeropoint, frame, coordinates))
    prior = gaussian_nll(torch.cat(t))
    limit = torch.full((len(galaxies),), math.nan, device=galaxies.targets.device)
    clean = (galaxies.kind == 0).nonzero()[:n_limit, 0]
    model = replace(source.model, prior=source.prior)
    for part in in_parts(len(clean), LIMITED_AT_ONCE):
        rows = clean[part]
        some = simulated[rows]
        limit[rows] = laplace_limit(some.theta, some.cutouts, model).float()
    return Validation(galaxies, limit, prior)


def cached_validation(path: Path, source: SimulatedSource, n_limit: int) -> Validation:
    """Read the validation galaxies of a run, or make and keep them."""
    if path.is_file():
        return read_validation(path, source.device)
    made = make_validation(source, n_limit)
    tensors = {f.name: getattr(made.galaxies, f.name).contiguous() for f in fields(Shard)}
    tensors |= {"limit": made.limit, "prior": torch.tensor(made.prior)}
    with atomic(path) as file:
        file.write(save(tensors))
    return made


def read_validation(path: Path, device: str = "cpu") -> Validation:
    """Read what `cached_validation` keeps."""
    try:
        check_regular(path)
        held = load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"'{path}' cannot be read: {error}") from error
    if missing := {f.name for f in fields(Shard)} - held.keys():
        raise ValueError(
            f"'{path}' lacks {', '.join(sorted(missing))}: it is of a run of another "
            "version, which this one cannot go on with"
        )
    return Validation(
        Shard(*(held[f.name] for f in fields(Shard))), held["limit"], float(held["prior"])
    )


def laplace_limit(theta: Tensor, cutouts: Cutouts, model: GalaxyModel = GalaxyModel()) -> Tensor:
    """Expected NLL of the best posterior in the Gaussian limit, 1/2 ln det(2 pi e C).

    C is the inverse of the Fisher information at the truth plus the prior's precision, which is
    the identity in whitened coordinates; fluxes and sky have a flat prior. It is a bound for
    isolated galaxies; at low signal to noise posteriors are not Gaussian and it is not sharp.

    Args:
        theta: (B, Q) physical truth.
        cutouts: the B galaxies.
        model: with the prior.

    Returns:
        (B,) float64, of the density of the flow's coordinates.
    """
    theta = theta.double()
    frame = make_inputs(cutouts, with_views=False).frame
    space, coordinates = model.space, FlowCoordinates(replace(model, prior=WHITENED))
    targets = encode(theta, cutouts.zeropoint, frame, coordinates)
    constants = model.constants(frame.position_bounds_of(space))
    coords, linear = space.from_physical(theta, cutouts.zeropoint)
    whitened = space.to_whitened(coords, constants)
    _, chain = space.from_whitened(whitened, constants)  # d coords / d whitened
    n, c, last = space.n_nonlinear, coords.shape[1], linear.shape[1]
    step = theta.new_zeros(len(theta), c + last, n + last)
    step[:, :c, :n] = chain
    for k in range(last - 1):
        step[:, c + k, n + k] = linear[:, k]  # d flux / d ln flux
    step[:, -1, -1] = 1.0
    pixels = normal_equations(coords, linear, cutouts, space=space)
    information = step.mT @ pixels.information @ step
    index = torch.arange(n, device=theta.device)
    information[:, index, index] += 1.0
    # scaled to a unit diagonal, so that the determinant does not lose digits
    diagonal = torch.diagonal(information, dim1=1, dim2=2)
    scale = diagonal.rsqrt()
    unit = information * scale[:, :, None] * scale[:, None, :]
    log_det = torch.linalg.slogdet(unit)[1] + torch.log(diagonal).sum(dim=1)
    # d targets / d (whitened, ln fluxes, sky)
    scenes = None if space.links is None else model.values[[0] * len(theta)].to(theta.device)
    by_whitened = log_jacobian(targets, coords, frame, space, coordinates, scenes)
    constant = 0.5 * (n + last) * math.log(2 * math.pi * math.e)
    return constant - 0.5 * log_det + by_whitened


def nll_of(estimator: Estimator, galaxies: Shard, use_views: bool = True) -> Tensor:
    """NLL (N,) of the truth, of its density in t, in nats; `WORST` where not finite or worse.

    In float32, as weights are used, however they are trained.
    """
    device = next(estimator.parameters()).device
    pieces = []
    with torch.no_grad():
        for part in in_parts(len(galaxies), AT_ONCE):
            some = galaxies[part].to(device)
            views = some.views.float() if use_views else some.views[:, :0].float()
            losses = estimator.losses(views, some.scalars, some.targets, use_views)
            nll = losses.get("mixture", losses["nll"])
            nll = nll.float() - some.log_slope
            pieces.append(nll.nan_to_num(WORST, WORST, WORST).clamp_max(WORST))
    return torch.cat(pieces).to(galaxies.targets.device)


def contexts_of(estimator: Estimator, galaxies: Shard) -> Tensor:
    """Return the contexts of galaxies, (N, C)."""
    device = next(estimator.parameters()).device
    with torch.no_grad():
        pieces = []
        for part in in_parts(len(galaxies), AT_ONCE):
            views = galaxies.views[part].to(device).float()
            scalars = galaxies.scalars[part].to(device)
            pieces.append(estimator.context(views, scalars, use_views=views.shape[1] > 0).float())
    return torch.cat(pieces)


def set_contexts(estimator: Estimator, galaxies: Shard) -> None:
    """Set the usual contexts of a network and its initial estimator: those of these galaxies."""
    estimator.set_context(contexts_of(estimator, galaxies))
    if estimator.initial_estimator is not None:
        estimator.initial_estimator.set_context(
            contexts_of(
                estimator.initial_estimator,
                inputs_of_initial(galaxies, estimator.initial_estimator),
            )
        )


def inputs_of_initial(galaxies: Shard, initial_estimator: Estimator) -> Shard:
    """Return the inputs of the initial estimator; the targets are not its own."""
    return replace(
        galaxies,
        views=galaxies.views[:, :0],
        scalars=galaxies.scalars[:, : initial_estimator.n_scalars],
    )


def summary(nll: Tensor, validation: Validation) -> dict[str, float]:
    """Mean NLL of all, of clean and contaminated fields and by S/N, and its gap to the limit."""
    galaxies, limit = validation.galaxies, validation.limit
    groups = {"all": torch.ones_like(nll, dtype=torch.bool)}
    groups |= {"clean": galaxies.kind == 0, "difficult": galaxies.kind != 0}
    for low, high in pairwise(SNR_EDGES):
        groups[f"snr_{low:g}_{high:g}"] = (galaxies.snr >= low) & (galaxies.snr < high)
    means = {name: float(nll[rows].mean()) for name, rows in groups.items() if rows.any()}
    known = torch.isfinite(limit)
    if known.any():
        means["limit"] = float(limit[known].mean())
        means["above_limit"] = float((nll - limit)[known].mean())
    means["failed"] = float((nll >= WORST).double().mean())
    return means


def gaussian_nll(t: Tensor) -> float:
    """Mean NLL of the one Gaussian that fits all t (N, T)."""
    _, log_det = torch.linalg.slogdet(torch.cov(t.double().T))
    return float(0.5 * (t.shape[1] * math.log(2 * math.pi * math.e) + log_det))
