"""From cutouts to draws of their posterior: one pass of the network, then the flow.

    draws = decode(flow.sample(context(estimator_inputs(cutouts))))

Implausible draws are rejected, counted and drawn again, see `hybridfit.npe.draws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Posterior
from hybridfit.model.model_names import SERSIC_NAME
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues
from hybridfit.npe.density import FlowDensity, NetworkDraws
from hybridfit.npe.draws import decoded_draws, draw_plausible
from hybridfit.npe.frame import Frame
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.network import Estimator
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.weight_files import WEIGHTS, load_weights

PACKAGED = Path(__file__).parent / "weights"
FEWEST = 16  # plausible draws, fewer make no posterior
AT_ONCE = {"cpu": 64, "cuda": 1024}  # galaxies
PIXELS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 25}


def packaged_folder(model: str = SERSIC_NAME) -> Path:
    """Return the folder of the package's own network for a model, whether there is one or not."""
    return PACKAGED if model == SERSIC_NAME else PACKAGED / model.replace("+", "_")


def is_packaged(model: str) -> bool:
    """Return whether the package has a network for a model."""
    return (packaged_folder(model) / WEIGHTS).is_file()


def load_estimator(path: str | Path | None = None, model: str | None = None) -> Estimator:
    """Return a trained network, for evaluation in float32.

    Args:
        path: folder with weights.safetensors and config.yaml; default the package's own.
        model: what it knows; default that of the weights in ``path``, or sersic.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if they do not fit each other, or are of another model.
    """
    if path is None:
        model = model or SERSIC_NAME
        if not is_packaged(model):
            raise FileNotFoundError(_not_packaged(model))
        path = packaged_folder(model)
    estimator = load_weights(path)
    found = estimator.coordinates.model.name
    if model is not None and found != model:
        raise ValueError(
            f"the weights in '{path}' are of the model {found}, expected {model}: give others "
            "with --weights"
        )
    return estimator


def _not_packaged(model: str) -> str:
    if model == SERSIC_NAME:
        return (
            f"this installation has no weights at '{PACKAGED}': pass --weights FOLDER, or "
            "--initial-values moments for a fit"
        )
    return (
        f"no network for the model {model} comes with this version: pass --weights FOLDER with one "
        f"that you trained (hybridfit train with 'model: {model}'), or use hybridfit fit "
        f"--model {model}, which needs none"
    )


@lru_cache(maxsize=2)
def packaged_estimator(model: str = SERSIC_NAME) -> Estimator:
    """Return the package's own network; it is read once. Not to be changed."""
    return load_estimator(model=model)


def weights_digest(path: str | None = None, model: str = SERSIC_NAME) -> str:
    """Return a digest of the file of weights, which identifies a network."""
    return sha256((Path(path or packaged_folder(model)) / WEIGHTS).read_bytes()).hexdigest()[:16]


def predict_cutouts(
    cutouts: Cutouts,
    estimator: Estimator,
    n_samples: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    space: ParameterSpace | None = None,
) -> Posterior:
    """Draw from the posterior of each galaxy.

    The draws of a galaxy depend on its pixels, its id and the seed, and on its batch only through
    the padding: small cutouts among large ones are rendered on another Fourier grid, which moves
    posteriors of bright galaxies by up to a tenth of their width. Draws are rejected if they lie
    outside the prior's box around the expected position, beyond the range of the whitened
    coordinates, above half of the network's field of view in size, or alone many widths beyond
    all others. The density is the flow's own, not renormalised to the draws that are left.

    Args:
        cutouts: B galaxies. One without usable pixels gets NaN for draws, and a flag. Without
            PSFs, which the network was not trained for, all are flagged as unfamiliar.
        estimator: from `load_estimator`; moved to ``device``.
        n_samples: S, draws of each galaxy.
        seed: of the random numbers.
        device: where the network is evaluated.
        space: of the network's model, with a prior whose whitened coordinates the density is quoted
            in; default the network's own. Of its prior the box of positions alone changes the
            draws.

    Returns:
        Posterior on the CPU. Where fewer than S draws are plausible some are repeated, with
        fewer than 16 there are none; both are flagged.

    Raises:
        ValueError: for ``n_samples`` below 2 or another kind of space.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples is {n_samples}, expected 2 or more")
    density = condition(cutouts, estimator, device, space)
    return draw(density, cutouts, n_samples, seed).posterior


@torch.inference_mode()
def condition(
    cutouts: Cutouts,
    estimator: Estimator,
    device: torch.device | str = "cpu",
    space: ParameterSpace | None = None,
    scenes: SceneValues | None = None,
) -> FlowDensity:
    """Condition the flow on cutouts; return the density from which posteriors are drawn.

    Args:
        cutouts: B galaxies.
        estimator: from `load_estimator`; moved to ``device``.
        device: where the network is evaluated.
        space: see `predict_cutouts`.
        scenes: B of them, of ``space``; default those of its prior, with nothing else said.

    Raises:
        ValueError: for another kind of space, or a network of other parameters.
    """
    space = estimator.coordinates.space if space is None else space
    _check_parameters(estimator, space)
    if scenes is None and space.links is not None:
        model = replace(estimator.coordinates.model, prior=space.prior)
        scenes = model.values[[0] * len(cutouts)]
    estimator = estimator.to(device).eval()
    nothing = int(Flag.NO_DATA | Flag.UNREADABLE)
    usable = (~cutouts.mask).flatten(1).any(dim=1).cpu() & ((cutouts.flags.cpu() & nothing) == 0)
    width = estimator.context_mean.shape[0]
    context = torch.full((len(cutouts), width), torch.nan, device=device)
    frame = Frame.unknown(len(cutouts), device)
    laplace = None
    if estimator.initial_estimator is not None:
        laplace = Laplace.unknown(len(cutouts), estimator.n_targets, device)
    for rows in _split(usable, _step_for(cutouts, device)):
        chosen = cutouts[rows].to(device)
        inputs = estimator_inputs(
            chosen, estimator.initial_estimator, with_views=estimator.backbone is not None
        )
        rows = rows.to(context.device)
        context[rows] = estimator.context(inputs.views, inputs.scalars).float()
        frame = frame.put(rows, inputs.frame)
        if laplace is not None and inputs.laplace is not None:
            laplace = laplace.put(rows, inputs.laplace)
    seen = usable.to(context.device)
    scenes = None if scenes is None else scenes.to(context.device)
    return FlowDensity(estimator, context, frame, seen, space, laplace, scenes)


def _check_parameters(estimator: Estimator, space: ParameterSpace) -> None:
    """Raise ValueError unless the network knows the parameters of ``space``."""
    if estimator.target_columns:
        names = ", ".join(target.name for target in estimator.target_columns)
        raise ValueError(f"these weights predict {names}, not the Sersic parameters")
    own = estimator.coordinates.space
    if not same_parameters(own, space):
        raise ValueError(f"the network knows {own.names}, not {space.names}")


def same_parameters(own: ParameterSpace, other: ParameterSpace) -> bool:
    """Return whether two spaces differ in priors at most."""
    if own.names != other.names or (own.links is None) != (other.links is None):
        return False
    if own.links is None or other.links is None:
        return True
    one, two = (replace(s.links, priors=(), families=()) for s in (own, other) if s.links)
    charts = [[c.slots for c in s.components] for s in (own, other)]
    return one == two and charts[0] == charts[1]


def _step_for(cutouts: Cutouts, device: torch.device | str) -> int:
    """Return how many galaxies go through the network at once."""
    area = cutouts.image.shape[1] * cutouts.image.shape[2]
    kind = _kind(device)
    return max(1, min(AT_ONCE[kind], PIXELS_AT_ONCE[kind] // max(area, 1)))


@torch.inference_mode()
def draw(density: FlowDensity, cutouts: Cutouts, n_samples: int, seed: int = 0) -> NetworkDraws:
    """Draw from the density of each galaxy, see `predict_cutouts`.

    Args:
        density: from `condition`.
        cutouts: the same B galaxies.
        n_samples: S, draws of each.
        seed: of the random numbers.
    """
    result = _without_draws(density, cutouts, n_samples)
    for rows in _split(density.seen, AT_ONCE[_kind(density.context.device)]):
        found = _drawn(density[rows], cutouts[rows], n_samples, seed)
        about = found.diagnostics
        about = replace(about, flags=about.flags | result.diagnostics.flags[rows])
        result = result.put(rows, replace(found, diagnostics=about))
    return result


def _drawn(density: FlowDensity, cutouts: Cutouts, n_samples: int, seed: int) -> NetworkDraws:
    """Draws of galaxies that were seen, in render coordinates."""
    draws = draw_plausible(density, cutouts.id, n_samples, seed)
    enough = (draws.count >= FEWEST) | (draws.count == n_samples)
    t = torch.where(enough[:, None, None], draws.t, 0.0)
    coords, linear, jacobian = decoded_draws(t, density)
    distance = density.estimator.distance(density.context).double()
    flags = (draws.count < n_samples) * int(Flag.FEW_DRAWS)
    flags = flags | unfamiliar(cutouts, distance, density.estimator)
    return NetworkDraws(
        density,
        torch.where(enough[:, None, None], coords, torch.nan),
        torch.where(enough[:, None, None], linear, torch.nan),
        torch.where(enough[:, None], draws.log_prob + jacobian, torch.nan),
        cutouts.zeropoint.to(t.device),
        NetworkDiagnostics(draws.rejected, distance, flags),
    )


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
        distance: (B,) of their contexts; NaN counts as far.
        estimator: holds the limit of the distance.
    """
    if cutouts.psf is None:
        return torch.full_like(distance, int(Flag.UNFAMILIAR | Flag.NO_PSF), dtype=torch.int64)
    return ~(distance <= estimator.distance_limit) * int(Flag.UNFAMILIAR)


def undiagnosed(cutouts: Cutouts, device: torch.device | str = "cpu") -> NetworkDiagnostics:
    """Return what is known of galaxies before the network has seen them."""
    nothing = torch.zeros(len(cutouts), dtype=torch.int64, device=device)
    empty = cutouts.mask.flatten(1).all(dim=1).to(device)
    flags = cutouts.flags.to(device) | empty * int(Flag.NO_DATA)
    return NetworkDiagnostics(
        nothing, torch.full_like(nothing, torch.nan, dtype=torch.float64), flags
    )


def _without_draws(density: FlowDensity, cutouts: Cutouts, n_samples: int) -> NetworkDraws:
    """The posterior of galaxies before any draws: all NaN."""
    b, device = len(cutouts), density.context.device
    nothing = torch.full((b, n_samples, 1), torch.nan, dtype=torch.float64, device=device)
    return NetworkDraws(
        density,
        nothing.repeat(1, 1, density.space.n_coords),
        nothing.repeat(1, 1, density.space.n_linear),
        nothing[..., 0],
        cutouts.zeropoint.to(device),
        undiagnosed(cutouts, device),
    )
