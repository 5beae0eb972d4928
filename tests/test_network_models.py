"""Networks of several components: their coordinates, simulator, refinement and files."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table

import hybridfit as hf
from hybridfit.fitting.fit import fit_cutouts, fit_parts
from hybridfit.fitting.galaxy_scenes import scenes_of
from hybridfit.fitting.options import FitOptions
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.model.combined import combined, combined_names
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.coordinates import SERSIC, FlowCoordinates
from hybridfit.npe.epistemic import epistemic_error
from hybridfit.npe.frame import decode, decode_with_slopes, encode, encode_coords, log_jacobian
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.normal_equations import normal_equations
from hybridfit.npe.posterior import condition, draw, is_packaged, predict_cutouts
from hybridfit.npe.refinement import gauss_newton_step
from hybridfit.npe.refinement_scalars import n_step_scalars
from hybridfit.npe.symmetry import scalar_signs
from hybridfit.npe.weight_files import load_weights, save_weights
from hybridfit.pipeline.network_start import knows, network_start, starts_from
from hybridfit.pipeline.options import PredictOptions
from hybridfit.pipeline.weights import starting_model
from hybridfit.rendering.render import render
from hybridfit.sampling.proposal import EvaluatedDraws, flow_proposal
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields
from hybridfit.training.data import VALIDATION, SimulatedSource, targets_of
from hybridfit.training.loop import train
from hybridfit.training.recipe import Recipe
from hybridfit.training.validation import make_validation, nll_of

MODEL = GalaxyModel.named("bulge+disk")
BULGE_DISK = FlowCoordinates(MODEL)
BRIGHT = replace(CLEAN, sides=(48,), snr=(100.0, 400.0), psf_fwhm=(2.0, 3.0), psf_size=31)
TINY = {"backbone": "none", "width": 32, "blocks": 1, "corrections": 0, "context": 16}
TINY |= {"flow_layers": 2, "flow_hidden": 16}


@pytest.fixture(scope="module")
def fields():
    return simulate_fields(48, 5, BRIGHT, model=MODEL)


@pytest.fixture(scope="module")
def inputs(fields):
    return make_inputs(fields.cutouts, False)


def truth_of(fields, inputs):
    return encode(fields.theta, fields.cutouts.zeropoint, inputs.frame, BULGE_DISK)


def test_a_sersic_profile_has_the_coordinates_that_it_always_had():
    assert (SERSIC.n, SERSIC.pairs, SERSIC.shapes) == (8, ((4, 5),), [2, 3, 4, 5])
    assert SERSIC.space.names == ParameterSpace().names
    mirror, turn = SERSIC.signs.tolist()
    assert mirror == [1, -1, 1, 1, 1, -1, 1, 1]
    assert turn == [-1, -1, 1, 1, 1, 1, 1, 1]


def test_models_survive_pickling():
    again = pickle.loads(pickle.dumps(BULGE_DISK))
    assert again == BULGE_DISK
    assert again.space.names == BULGE_DISK.space.names


@pytest.mark.parametrize("name", ["bulge+disk", "sersic+exponential"])
def test_coordinates_lead_back_to_the_parameters(name):
    """Of components that share a centre, and of those that each have one."""
    model = GalaxyModel.named(name)
    coordinates = FlowCoordinates(model)
    assert len(coordinates.positions) == (1 if name == "bulge+disk" else 2)
    made = simulate_fields(24, 3, BRIGHT, model=model)
    frame = make_inputs(made.cutouts, False).frame
    t = encode(made.theta, made.cutouts.zeropoint, frame, coordinates)
    coords, linear = decode(t, frame, coordinates)
    theta, _ = coordinates.space.to_physical(coords, linear, made.cutouts.zeropoint)
    # rounding of float64; the prior's edges are far away
    torch.testing.assert_close(theta, made.theta, rtol=1e-7, atol=1e-7)


def test_slopes_against_finite_differences(fields, inputs):
    t, frame = truth_of(fields, inputs), inputs.frame
    coords, linear, slopes = decode_with_slopes(t, frame, BULGE_DISK)
    for one, other in zip(decode(t, frame, BULGE_DISK), (coords, linear), strict=True):
        torch.testing.assert_close(one, other)
    for j in range(BULGE_DISK.n):
        step = torch.zeros_like(t)
        step[:, j] = 1e-5
        ahead, behind = (torch.cat(decode(v, frame, BULGE_DISK), 1) for v in (t + step, t - step))
        expected = (ahead - behind) / 2e-5
        scale = expected.abs().amax() + 1e-9
        # central differences: 1e-10 of curvature, 1e-11 / 1e-5 of rounding
        torch.testing.assert_close(slopes[:, :, j] / scale, expected / scale, rtol=0, atol=1e-5)


def test_log_jacobian_against_finite_differences(fields, inputs):
    space, frame, cutouts = MODEL.space, inputs.frame, fields.cutouts
    bounds = frame.position_bounds_of(space)
    constants = MODEL.constants(bounds)
    coords, linear = space.from_physical(fields.theta, cutouts.zeropoint)
    u = space.to_whitened(coords, constants)
    own = torch.cat([u, linear[:, :-1].log(), linear[:, -1:]], dim=1)

    def coordinates(values: torch.Tensor) -> torch.Tensor:
        at, _ = space.from_whitened(values[:, :-3], constants)
        flux = torch.cat([values[:, -3:-1].exp(), values[:, -1:]], dim=1)
        return encode_coords(at, flux, frame, BULGE_DISK)

    slopes = []
    for j in range(own.shape[1]):
        step = torch.zeros_like(own)
        step[:, j] = 1e-5 * (frame.noise if j == 11 else 1.0)
        change = coordinates(own + step) - coordinates(own - step)
        slopes.append(change / (2 * step[:, j, None]))
    some = slice(0, 6)
    expected = torch.linalg.slogdet(torch.stack(slopes, dim=2))[1][some]
    scenes = None if space.links is None else MODEL.values[[0] * 6]
    t = truth_of(fields, inputs)[some]
    found = log_jacobian(t, coords[some], frame[some], space, BULGE_DISK, scenes)
    # central differences: 1e-10 of curvature, 1e-11 of rounding over steps of 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_simulated_images_are_those_of_the_truth(fields):
    """The noise-free image is the sum of the components of the truth: residuals are noise."""
    cutouts, some = fields.cutouts, slice(0, 16)
    profiles = BULGE_DISK.profiles
    model = render(fields.theta[some], cutouts[some], MODEL.space, profiles)
    good = ~cutouts.mask[some]
    deviation = ((cutouts.image[some] - model) / cutouts.sigma[some])[good]
    # 16 x 2,300 normal numbers; noise maps are wrong by 3 % in a fifth of the fields
    assert deviation.square().mean().item() == pytest.approx(1.0, abs=0.03)
    share = 10 ** (-0.4 * (fields.theta[:, MODEL.space.column(0, "mag")]))
    total = share + 10 ** (-0.4 * (fields.theta[:, MODEL.space.column(1, "mag")]))
    assert ((share / total > 0.02) & (share / total < 0.98)).all()


def test_models_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="expected one source of ellipses"):
        simulate_fields(2, 1, model=GalaxyModel.named("sersic+point"))


def test_aligned_components_share_the_angle():
    made = simulate_fields(64, 2, replace(BRIGHT, aligned=1.0), model=MODEL)
    bulge, disk = (made.theta[:, MODEL.space.column(k, "pa")] for k in (0, 1))
    apart = ((bulge - disk + 90) % 180 - 90).abs()
    assert apart.median() < 10  # 0.1 radians of scatter
    with pytest.raises(ValueError, match="aligned"):
        replace(BRIGHT, aligned=2.0)


def test_normal_equations_against_finite_differences(fields, inputs):
    t = truth_of(fields, inputs)[:4]
    coords, linear = decode(t, inputs.frame[slice(0, 4)], BULGE_DISK)
    some = fields.cutouts[slice(0, 4)]
    found = normal_equations(coords, linear, some, space=MODEL.space)
    assert found.information.shape == (4, 14, 14)

    def image(c, f):
        theta, _ = MODEL.space.to_physical(c, f, some.zeropoint)
        return render(theta, some, MODEL.space, BULGE_DISK.profiles, dtype=torch.float64)

    for k in (2, 3, 8, 11, 12):  # sizes, index, fluxes
        step = torch.zeros(4, 14, dtype=torch.float64)
        step[:, k] = 1e-4 if k < 11 else 1e-3 * linear[:, k - 11]
        parts = step.split([11, 3], dim=1)
        ahead, behind = (image(coords + s * parts[0], linear + s * parts[1]) for s in (1, -1))
        slope = (ahead - behind) / (2 * step[:, k, None, None])
        expected = torch.where(some.mask, 0.0, (slope / some.sigma).square()).sum(dim=(1, 2))
        # float32 pixels against float64
        torch.testing.assert_close(found.information[:, k, k], expected, rtol=5e-3, atol=0.0)


def test_gauss_newton_steps_reach_the_truth(fields, inputs):
    truth = truth_of(fields, inputs)
    guess = truth + 0.1
    for _ in range(3):
        step = gauss_newton_step(guess, inputs, fields.cutouts, None, BULGE_DISK)
        guess = step.laplace.mean
    z = step.laplace.whiten(truth[:, None])[:, 0]
    # 48 galaxies in the Gaussian limit, where it holds: median of |N(0, 1)| is 0.67
    assert 0.5 < z.abs().median() < 0.9


def test_scalar_signs_cover_all_scalars(inputs):
    signs = scalar_signs(True, BULGE_DISK)
    assert signs.shape == (2, inputs.scalars.shape[1] + n_step_scalars(12))


@pytest.fixture(scope="module")
def estimator(fields, inputs):
    torch.manual_seed(1)
    recipe = Recipe.from_mapping({"model": "bulge+disk", "network": TINY})
    made = Estimator(recipe.network, inputs.scalars.shape[1], coordinates=BULGE_DISK)
    targets, _ = targets_of(truth_of(fields, inputs), inputs)
    made.set_whitening(inputs.scalars, targets)
    made.set_context(torch.randn(200, 16))
    return made.eval()


def test_draws_know_their_own_density(fields, estimator):
    some = fields.cutouts[slice(0, 8)]
    density = condition(some, estimator)
    drawn = draw(density, some, 40)
    again = density.log_prob(drawn.coords, drawn.linear)
    # the flow's float32, over 12 coordinates
    torch.testing.assert_close(again, drawn.log_prob, rtol=1e-4, atol=5e-3)
    posterior = predict_cutouts(some, estimator, 40)
    assert posterior.space.names == MODEL.space.names
    assert torch.isfinite(posterior.samples).all()
    torch.testing.assert_close(posterior.samples, drawn.posterior.samples)


def test_another_prior_changes_the_density_alone(fields, estimator):
    wide = replace(MODEL.prior, q_min=0.05)
    space = replace(MODEL, prior=wide).space
    some = fields.cutouts[slice(0, 4)]
    one, other = (predict_cutouts(some, estimator, 20, space=s) for s in (None, space))
    torch.testing.assert_close(one.samples, other.samples)
    assert (one.log_prob != other.log_prob).any()
    with pytest.raises(ValueError, match="the network knows"):
        predict_cutouts(some, estimator, 20, space=ParameterSpace())


def test_validation_has_a_limit():
    source = SimulatedSource(BRIGHT, MODEL.prior, 1, 32, stream=VALIDATION, model=MODEL)
    made = make_validation(replace(source, with_views=False), 8)
    known = made.limit[torch.isfinite(made.limit)]
    assert len(known) == 8
    assert (known < made.prior).all()  # pixels say something


def recipe(**train_options):
    small = {"batch": 32, "shard": 64, "workers": 0, "whitening": 64, "validation": 32}
    quiet = {"validation_limit": 8, "tensorboard": False, "image_share": [0.0, 0.0]}
    simulator = {"sides": [32], "psf_size": 21, "psf_fwhm": [1.5, 2.5]}
    given = {"model": "bulge+disk", "simulator": simulator, "network": dict(TINY)}
    return given | {"train": {**small, **quiet, **train_options}}


def test_training_and_refinement_of_bulge_and_disk(tmp_path):
    first = Recipe.from_mapping(recipe(images=256))
    train(first, tmp_path / "first", quiet=True)
    loaded = load_weights(tmp_path / "first" / "weights")
    assert loaded.coordinates == BULGE_DISK
    second = recipe(images=256)
    second["network"] |= {"refinement": True, "members": 2}
    train(Recipe.from_mapping(second), tmp_path / "second", quiet=True, start=tmp_path / "first")
    refined = load_weights(tmp_path / "second" / "weights")
    assert refined.initial_estimator is not None
    assert len(refined.flow.members) == 2
    assert refined.n_scalars == loaded.n_scalars + n_step_scalars(12)
    made = simulate_fields(8, 3, first.simulator, model=MODEL)
    assert torch.isfinite(predict_cutouts(made.cutouts, refined, 20).samples).any()
    source = SimulatedSource(first.simulator, first.prior, 3, 16, model=MODEL)
    galaxies = replace(source, initial_estimator=refined.initial_estimator)(0)
    assert torch.isfinite(nll_of(refined, galaxies, False)).all()


def test_a_run_keeps_its_model(tmp_path):
    train(Recipe.from_mapping(recipe(images=64)), tmp_path, quiet=True)
    other = recipe(images=64) | {"model": "sersic"}
    with pytest.raises(ValueError, match="model is sersic, and was bulge"):
        train(Recipe.from_mapping(other), tmp_path, resume=True, quiet=True)
    with pytest.raises(ValueError, match="expected one of sersic, bulge"):
        Recipe.from_mapping({"model": "bar+disk"})


@pytest.mark.slow
def test_a_short_training_learns_bulge_and_disk(tmp_path):
    """Half a minute of training on small, bright galaxies: NLL falls, the share becomes known."""
    options = {"images": 60_000, "batch": 128, "shard": 1024, "learning_rate": 3e-3, "warm_up": 50}
    options |= {"epochs_per_image": 8, "reuse_max": 12, "whitening": 2048, "validation": 512}
    given = recipe(**options, validation_limit=64)
    clean = {k: getattr(CLEAN, k) for k in ("neighbour", "neighbour_masked", "structure")}
    clean |= {k: getattr(CLEAN, k) for k in ("mask_through", "gradient", "artefact")}
    given["simulator"] |= clean | {"snr": [50.0, 500.0]}
    given["network"] = {"backbone": "none", "width": 128, "blocks": 2, "context": 64}
    made = Recipe.from_mapping(given)
    values = train(made, tmp_path, quiet=True)
    assert values is not None
    # moments alone, a sixtieth of a real training: most of what is to be learned is learned soon
    assert values["all"] < values["prior"] - 3
    fields = simulate_fields(256, 77, made.simulator, model=MODEL)
    estimator = load_weights(tmp_path / "weights")
    posterior = predict_cutouts(fields.cutouts, estimator, 64)
    names = combined_names(MODEL.space)
    flat = combined(posterior.samples.flatten(0, 1), MODEL.space).view(256, 64, -1)
    share = flat[..., names.index("bulge_to_total")]
    truth = combined(fields.theta, MODEL.space)[:, names.index("bulge_to_total")]
    # a share that is not known leaves a scatter of .28 about its mean
    assert (share.mean(dim=1) - truth).std() < 0.25
    inside = (share.quantile(0.16, dim=1) < truth) & (truth < share.quantile(0.84, dim=1))
    # 256 galaxies scatter by .03; with each galaxy seen eight times the network is too sure
    assert 0.45 < inside.double().mean() < 0.8


# ---------------------------------------------------------------- tables, and ensembles


@pytest.fixture(scope="module")
def ensemble(fields, inputs):
    """Three members whose contexts differ, none of them trained."""
    torch.manual_seed(3)
    network = NetworkOptions(**TINY, members=3)
    made = Estimator(network, inputs.scalars.shape[1], coordinates=BULGE_DISK)
    for parameter in made.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    made.set_whitening(inputs.scalars, truth_of(fields, inputs))
    made.set_context(torch.randn(200, 48))
    return made.eval()


def test_a_mixture_is_the_mean_of_its_members(ensemble, inputs):
    flow, context = ensemble.flow, ensemble.context(inputs.views, inputs.scalars).detach()
    z = torch.randn(len(context), 30, 12, generator=torch.Generator().manual_seed(1))
    t, log_q = flow.from_normal(z, context)
    each = [
        member.log_prob_of(t, own)
        for member, own in zip(flow.members, context.chunk(3, dim=1), strict=True)
    ]
    expected = torch.stack(each).exp().mean(dim=0).log()
    torch.testing.assert_close(log_q, expected, rtol=1e-4, atol=1e-4)  # float32
    torch.testing.assert_close(flow.log_prob(t[:, 0], context), log_q[:, 0], rtol=1e-3, atol=1e-3)
    # draw s is of member s modulo 3, which maps it back
    back = flow.members[1].to_normal(t, context.chunk(3, dim=1)[1])
    torch.testing.assert_close(back[:, 1::3], z[:, 1::3], rtol=1e-2, atol=1e-2)
    nearest = flow.to_normal(t, context).square().sum(dim=2)
    assert (nearest <= back.square().sum(dim=2) + 1e-3).all()


def test_members_are_trained_one_by_one(ensemble, fields, inputs):
    targets = truth_of(fields, inputs).float()
    with torch.no_grad():
        losses = ensemble.losses(inputs.views, inputs.scalars, targets, use_views=False)
    # Jensen: the mean density is better than the mean of the logarithms
    assert (losses["mixture"] <= losses["nll"] + 1e-4).all()


def test_epistemic_error_is_the_disagreement(ensemble, fields):
    some = fields.cutouts[slice(0, 8)]
    density = condition(some, ensemble)
    error, sums = epistemic_error(density, some.zeropoint)
    assert error.shape == (8, len(MODEL.space.names))
    assert sums.shape == (8, 5)
    assert (error > 0).all()
    assert (sums > 0).all()
    alike = replace(density, context=density.context[:, :16].repeat(1, 3))
    same = copy.deepcopy(ensemble)
    for flow in same.flow.members[1:]:
        flow.load_state_dict(same.flow.members[0].state_dict())
    none, _ = epistemic_error(replace(alike, estimator=same), some.zeropoint)
    torch.testing.assert_close(none, torch.zeros_like(none), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def weights(ensemble, tmp_path_factory):
    """The ensemble's files."""
    config = {
        "model": {"name": MODEL.name, "scene": MODEL.declaration},
        "network": ensemble.options,
        "n_scalars": ensemble.n_scalars,
        "n_targets": ensemble.n_targets,
    }
    return save_weights(ensemble, tmp_path_factory.mktemp("weights"), config, half=False)


def test_predict_writes_components_and_their_sum(weights, fields, tmp_path):
    some = fields.cutouts[slice(0, 6)]
    table = hf.predict(some, weights=str(weights), samples=60, epistemic=True)
    for name in ("bulge_n", "disk_r_eff", "mag", "r_eff", "bulge_to_total", "bulge_pa"):
        for end in ("", "_err", "_p16", "_p50", "_p84", "_epistemic"):
            assert np.isfinite(np.asarray(table[f"{name}{end}"])).all(), f"{name}{end}"
    # the sum is brighter than its parts, draw by draw
    assert (table["mag_p50"] < table["disk_mag_p50"]).all()
    assert table["bulge_mag_epistemic"].unit == "mag"
    assert "bulge_to_total_epistemic" not in hf.predict(some, weights=str(weights)).colnames
    write_cutouts(some[slice(0, 2)], tmp_path / "in")
    config = {"weights": str(weights), "model": "bulge+disk", "samples": 20}
    hf.predict_files(tmp_path / "in", tmp_path / "out", predict=PredictOptions(**config))
    assert "bulge_to_total_err" in Table.read(tmp_path / "out" / "results.fits").colnames


def test_networks_are_found_by_their_model(weights, fields):
    some = fields.cutouts[slice(0, 2)]
    if not is_packaged("bulge+disk"):
        with pytest.raises(FileNotFoundError, match=r"no network for the model bulge\+disk comes"):
            hf.predict(some, model="bulge+disk")
    with pytest.raises(ValueError, match=r"are of the model bulge\+disk, expected sersic"):
        hf.predict(some, model="sersic", weights=str(weights))
    with pytest.raises(ValueError, match="expected one of"):
        hf.predict(some, model="bar")
    with pytest.raises(ValueError, match="epistemic needs a network of several members"):
        hf.predict(some, epistemic=True)


# ---------------------------------------------------------------- starts and proposals of fits

OPTIONS = FitOptions(model="bulge+disk")


def around_the_truth(some, truth, estimator, scenes, spread=0.05):
    """Draws of a network that knows the galaxies well."""
    density = condition(some, estimator, "cpu", scenes.space, scenes)
    drawn = draw(density, some, 40)
    noise = torch.randn(drawn.coords.shape, generator=torch.Generator().manual_seed(4)).double()
    coords, linear = MODEL.space.from_physical(truth, some.zeropoint)
    coords = coords[:, None] + spread * noise
    for other in (6, 7):  # one centre
        coords[..., other] = coords[..., other - 6]
    return replace(drawn, coords=coords, linear=linear[:, None].expand(-1, 40, -1))


def test_fits_start_from_draws_of_all_components(fields, estimator):
    some, truth = fields.cutouts[slice(0, 6)], fields.theta[slice(0, 6)]
    scenes = scenes_of(some, OPTIONS)
    assert knows(estimator, OPTIONS, scenes)
    starts = starts_from(around_the_truth(some, truth, estimator, scenes))
    assert starts.whole
    assert starts.coords.shape == (6, 3, 11)
    fit = fit_cutouts(some, OPTIONS, starts=starts)
    plain = fit_cutouts(some, OPTIONS)
    # further starts find no worse minima; they may end in others of the same evidence
    assert (fit.chi2 < plain.chi2 + 2).all()
    lost = replace(starts, coords=torch.full_like(starts.coords, torch.nan))
    again = fit_cutouts(some, OPTIONS, starts=lost)
    torch.testing.assert_close(again.theta, plain.theta)


def test_networks_serve_their_own_model_alone(fields, estimator):
    some = fields.cutouts[slice(0, 2)]
    other = FitOptions(model="sersic+exponential")
    assert not knows(estimator, other, scenes_of(some, other))
    assert not knows(estimator, FitOptions(), None)
    fixed = replace(some, parameters={"bulge_n_fixed": torch.full((2,), 4.0)})
    assert not knows(estimator, OPTIONS, scenes_of(fixed, OPTIONS))
    started = replace(some, parameters={"bulge_n": torch.full((2,), 4.0)})
    assert not knows(estimator, OPTIONS, scenes_of(started, OPTIONS))
    assert starting_model(None, "sersic+exponential") == "sersic"
    assert starting_model("folder", "bulge+disk") is None


def test_proposals_have_the_density_of_their_draws(fields, estimator):
    """In a problem's own terms the flow's density is that of its draws, per Gaussian of fluxes."""
    some = fields.cutouts[slice(0, 3)]
    scenes = scenes_of(some, OPTIONS)
    start = network_start(some, estimator, "cpu", OPTIONS, 16, 0, scenes)
    assert start.proposed is not None
    part = next(iter(fit_parts(some, OPTIONS)))
    proposal = flow_proposal(start.proposed, torch.zeros(3), part.problem)
    good = torch.isfinite(proposal.whitened).all(dim=2)
    nothing = torch.zeros(3, 16, dtype=torch.float64)
    draws = EvaluatedDraws(
        proposal.whitened.nan_to_num(0.0), proposal.linear.nan_to_num(1.0), nothing, nothing
    )
    found = proposal.log_density(draws)
    # ln fluxes have no unit, the sky is in that of the noise
    flux = proposal.linear[..., :2]
    unit = part.problem.pixels.scale.log()[:, None]
    expected = start.proposed.log_prob - flux.log().sum(dim=2) + unit
    assert good.any()
    torch.testing.assert_close(found[good], expected[good], rtol=1e-4, atol=1e-2)


def test_posteriors_of_bulge_and_disk_use_the_network(weights, fields):
    some = fields.cutouts[slice(0, 2)]
    table = hf.fit(some, model="bulge+disk", weights=str(weights), save_samples=True)
    assert np.isfinite(np.asarray(table["flow_distance"])).all()
    assert np.isfinite(np.asarray(table["bulge_to_total_err"])).all()


def test_shipped_recipes_make_a_network_of_twelve_megabytes():
    configs = Path(__file__).parent.parent / "configs"
    first, second = (
        Recipe.read(configs / f"train_bulge_disk{stage}.yaml") for stage in ("", "_refinement")
    )
    assert first.model == second.model == "bulge+disk"
    assert first.simulator == second.simulator
    # the second stage adds members and the refinement to the first one's network
    assert replace(second.network, members=1, refinement=False) == first.network
    measured = make_inputs(simulate_fields(1, 1, BRIGHT).cutouts, False).scalars.shape[1]
    made = Estimator(second.network, measured + n_step_scalars(12), coordinates=BULGE_DISK)
    # matrices take two bytes a number, vectors four, as `save_weights` stores them
    size = sum(p.numel() * (2 if p.ndim > 1 else 4) for p in made.parameters())
    size += sum(b.numel() * (1 if "mask" in name else 4) for name, b in made.named_buffers())
    assert size < 12e6
