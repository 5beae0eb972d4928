"""What fitting from memory and from files share: rendering, metadata, checks of options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.result import Result
from hybridfit.data.samples import Draws
from hybridfit.fitting.build_problem import profiles_of
from hybridfit.fitting.compile import wants_compile
from hybridfit.fitting.fit import fit_parts, no_fit
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.galaxy_scenes import scenes_of
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.options import FitOptions
from hybridfit.model.combined import combined_names
from hybridfit.model.model_names import SERSIC_NAME
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator, packaged_estimator
from hybridfit.pipeline.diagnose import diagnosed
from hybridfit.pipeline.fluxes import with_fluxes
from hybridfit.pipeline.network_start import NetworkStart, knows, network_start, starts_from
from hybridfit.pipeline.posterior import PosteriorResult, budgeted, sample_fitted
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.pipeline.weights import starting_model
from hybridfit.rendering.convolution import convolution_of
from hybridfit.rendering.render import render
from hybridfit.sampling.psis import pareto_k_limits
from hybridfit.uncertainty.bootstrap import bootstrap
from hybridfit.uncertainty.consistency import disagreement, disagreement_flags
from hybridfit.uncertainty.covariance import quote_covariance
from hybridfit.uncertainty.quality import (
    catastrophic_probability,
    component_probability,
    quality,
    sampling_flags,
    uncertain_flags,
)

RENDER_AT_ONCE = 16  # galaxies: bounds memory


Clock = Callable[[str], AbstractContextManager[Any]]


def no_clock(what: str) -> AbstractContextManager[Any]:
    """A clock that does not run."""
    return nullcontext()


def starting_network(
    initial_values: str, weights: str | None = None, model: str = SERSIC_NAME
) -> Estimator | None:
    """The network that fits start from, or None for moments.

    Args:
        initial_values: "network" or "moments".
        weights: folder of a network's weights; default the package's own.
        model: what is fitted, see `starting_model`.

    Raises:
        FileNotFoundError: if the weights are not there.
    """
    if initial_values == "moments":
        return None
    known = starting_model(weights, model)
    return load_estimator(weights) if known is None else packaged_estimator(known)


def starting_part(estimator: Estimator, uncertainty: str) -> Estimator:
    """The network that a fit starts from: the initial estimator alone unless it proposes draws.

    The refinement costs as much as steps of the fit, which takes them anyway.
    """
    if uncertainty == "posterior" or estimator.initial_estimator is None:
        return estimator
    return estimator.initial_estimator


def measure(
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool | None = None,
    errors: ErrorOptions = ErrorOptions(),
    estimator: Estimator | None = None,
    clock: Clock = no_clock,
    scene: SceneValues | None = None,
    near: Tensor | None = None,
    nuisances: Nuisances | None = None,
) -> Result:
    """Fit a batch and give it the errors that are asked for.

    Args:
        cutouts: B galaxies.
        options, device: see `fit_cutouts`.
        compile: whether kernels are compiled; default as many galaxies as there are here decide.
        errors: where errors come from.
        estimator: network whose posterior the fits start from, and which proposes posteriors;
            None for the image's moments, and posteriors from the fit alone.
        clock: context manager that gets the name of each stage.
        scene: what is fitted in place of the components of ``options``; the network is not asked.
        near: (B, Q) physical values near the minimum; None for the network's or those of moments.
        nuisances: of the galaxies, what else their pixels depend on.
    """
    if compile is None:
        compile = compiles(options, len(cutouts), device, errors)
    if scene is not None:
        estimator = None
    else:
        scene = scenes_of(cutouts, options)
        if estimator is not None and not knows(estimator, options, scene):
            estimator = None
    network = _network_start(cutouts, estimator, options, device, errors, clock, scene)
    starts = None if network is None else starts_from(network.initial)
    rows, results = [], []
    parts = fit_parts(cutouts, options, device, compile, starts, scene, near, nuisances)
    while True:
        with clock("fitting"):
            fitted = next(parts, None)
        if fitted is None:
            break
        with clock(errors.uncertainty):
            mine = None if network is None else network[fitted.rows]
            results.append(_measured(fitted, mine, options, device, errors))
        rows.append(fitted.rows)
        del fitted  # or two problems were held while the next one is fitted
    if not results:
        return _nothing(options.space if scene is None else scene.space)
    whole = put_together(results, rows)
    if not is_one_sersic(whole.fit.space):
        return whole
    with clock("diagnosing"):
        return diagnosed(cutouts, whole, options, device)


def _network_start(
    cutouts: Cutouts,
    estimator: Estimator | None,
    options: FitOptions,
    device: torch.device,
    errors: ErrorOptions,
    clock: Clock,
    scene: SceneValues | None = None,
) -> NetworkStart | None:
    """Return the network's posteriors; None without a network or without PSFs."""
    if estimator is None or cutouts.psf is None:
        return None
    with clock("predicting"):
        part = starting_part(estimator, errors.uncertainty)
        count = errors.sampling.network_draws if errors.uncertainty == "posterior" else 0
        seed = errors.sampling.seed
        return network_start(cutouts, part, device, options, count, seed, scene)


def _measured(
    fitted: Fitted,
    network: NetworkStart | None,
    options: FitOptions,
    device: torch.device,
    errors: ErrorOptions,
) -> Result:
    """The result of galaxies that share a problem."""
    fit, cutouts = fitted.fit, fitted.cutouts.to("cpu")
    distance = torch.full((len(fit),), torch.nan, dtype=torch.float64)
    if cutouts.psf is None:
        fit = replace(fit, flags=fit.flags | int(Flag.NO_PSF))
    if network is not None:
        draws = network.initial
        flags = fit.flags | draws.diagnostics.flags.cpu() & int(Flag.UNFAMILIAR)
        if is_one_sersic(fitted.problem.space):
            distance = disagreement(fit, draws.coords.cpu(), draws.linear.cpu(), cutouts.zeropoint)
            flags = flags | disagreement_flags(distance)
        fit = replace(fit, flags=flags)
    result, heat = _with_errors(fitted, fit, network, options, errors)
    result = replace(result, fit_network_distance=distance)
    space = fitted.problem.space
    single = is_one_sersic(space) and options.convolution == "continuous"
    problem = fitted.problem if single else None
    return with_fluxes(result, cutouts, options, errors.budget, device, problem, heat)


def put_together(results: Sequence[Result], rows: Sequence[Tensor]) -> Result:
    """Return the results of parts of a batch as that of the batch.

    Args:
        results: draws of fewer than the longest get more, without weight.
        rows: of each part, where its galaxies are in the batch.
    """
    return Result.cat(results)[torch.argsort(torch.cat(list(rows)))]


def is_one_sersic(space: ParameterSpace) -> bool:
    """Return whether all parameters of one Sersic profile are free."""
    return space.links is None and [c.profile for c in space.components] == ["sersic"]


def _nothing(space: ParameterSpace) -> Result:
    """The result of no galaxies."""
    return Result(no_fit(space), torch.zeros(0, dtype=torch.int64))


def _with_errors(
    fitted: Fitted,
    fit: Fit,
    network: NetworkStart | None,
    options: FitOptions,
    errors: ErrorOptions,
) -> tuple[Result, Tensor | None]:
    """The result of fits that carry the curvature's covariance and their own flags.

    With it come the temperatures (b,) of the noise, where these were measured.
    """
    if errors.uncertainty == "covariance":
        heat = None
        if errors.budget.covariance:
            fit, heat = budgeted(fitted, fit, errors.budget)
        fit = quote_covariance(fit)
        return Result(fit, quality(fit.flags, sampled=False)), heat
    if errors.uncertainty == "bootstrap":
        return _bootstrapped(fit, bootstrap(fitted, errors.bootstrap, options), errors), None
    draws = floor = None
    if network is not None and network.proposed is not None:
        draws, floor = network.proposed, network.initial.log_prob.amin(dim=1)
    found = sample_fitted(fitted, draws, floor, errors.sampling, errors.budget)
    return _sampled(fit, found), found.heat


def _bootstrapped(fit: Fit, draws: Draws, errors: ErrorOptions) -> Result:
    """The result of fits with draws of the bootstrap."""
    fitted = torch.isfinite(fit.theta).all(dim=1)
    failed = fitted & (draws.effective < errors.bootstrap.replicas / 2)
    chance, flags = _chances(fit, draws)
    flags = flags | failed * int(Flag.UNSAMPLED)
    fit = replace(fit, covariance=draws.covariance, flags=flags)
    grade = quality(flags, sampled=False)
    about = SamplingDiagnostics(draws.effective)
    return Result(fit, grade, draws, about, catastrophic_probability=chance)


def _sampled(fit: Fit, found: PosteriorResult) -> Result:
    """The result of fits whose posteriors were sampled."""
    fitted = torch.isfinite(fit.theta).all(dim=1)
    chance, flags = _chances(fit, found.draws)
    about, flags = found.diagnostics, flags | found.flags
    # where nothing shines there is no magnitude to fit, but still a posterior
    wanted = fitted | ((fit.flags & int(Flag.NO_SIGNAL | Flag.COMPONENT_UNCERTAIN)) != 0)
    limit = pareto_k_limits(about.n_draws)
    flags = flags | wanted * sampling_flags(about.ess, about.pareto_k, limit)
    fit = replace(fit, covariance=found.draws.covariance, flags=flags)
    return Result(
        fit,
        quality(flags, sampled=True),
        found.draws,
        about,
        flow_distance=found.flow_distance,
        catastrophic_probability=chance,
    )


def _chances(fit: Fit, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the probability (B,) of catastrophic errors, and the flags (B,) with what follows."""
    chance = catastrophic_probability(draws, fit.theta, fit.space)
    parts = component_probability(draws, fit.theta) if combined_names(fit.space) else None
    return chance, uncertain_flags(fit.flags, chance, parts)


# what a compiled kernel saves of a posterior, in units of what it saves of a fit
EVALUATIONS = {"covariance": 1, "posterior": 10, "bootstrap": 40}


def compiles(
    options: FitOptions, n: int, device: torch.device, errors: ErrorOptions = ErrorOptions()
) -> bool:
    """Whether kernels shall be compiled for a run of ``n`` galaxies of one shape."""
    return wants_compile(options.compile, n * EVALUATIONS[errors.uncertainty], device)


def model_images(
    theta: Tensor, cutouts: Cutouts, space: ParameterSpace, convolution: str = "continuous"
) -> NDArray[np.float32]:
    """Model images (B, H, W); galaxies without a fit are NaN.

    A galaxy may have fewer components than ``space``: all parameters of the last ones are NaN
    then, and they are left out.

    Args:
        theta: (B, Q) physical parameters in cutout pixels, in the order of the names of ``space``.
        cutouts: B galaxies.
        space: of the parameters.
        convolution: how PSFs are convolved, see `FitOptions`.
    """
    images = torch.full(cutouts.image.shape, torch.nan)
    for rows, few, where in _by_components(theta, space):
        for part in rows.split(RENDER_AT_ONCE):
            values, profiles = theta[part][:, where], profiles_of(few)
            images[part] = render(
                values, cutouts[part], few, profiles, convolution=convolution_of(convolution)
            ).cpu()
    return images.numpy()


def _by_components(
    theta: Tensor, space: ParameterSpace
) -> Iterator[tuple[Tensor, ParameterSpace, list[int]]]:
    """Rows with the parameters of the first so many components and none of the others'.

    Yields:
        rows (b,), the space of these components, and their columns of ``theta``.
    """
    given = torch.isfinite(theta)
    sky = [k for k, role in enumerate(space.roles) if role == "sky"]
    for count in range(space.n_components, 0, -1):
        few = replace(space, components=space.components[:count], links=None)
        where = [*range(sum(len(c.parameters) for c in few.components)), *sky]
        there = torch.zeros(theta.shape[1], dtype=torch.bool, device=theta.device)
        there[where] = True
        whole = (given == there).all(dim=1)
        if whole.any():
            yield whole.nonzero()[:, 0].cpu(), few, where


def versions() -> dict[str, str]:
    """Versions of what shapes the numbers."""
    packages = ("hybridfit", "torch", "numpy", "scipy", "astropy", "photutils")
    return {name: version(name) for name in packages}


def metadata(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The table's metadata, under names that a FITS header takes; no date, so that it repeats."""
    used = versions()
    return {
        "CREATOR": f"hybridfit {used['hybridfit']}",
        "OPTIONS": json.dumps(settings),
        "VERSIONS": json.dumps(used),
    }
