"""Posteriors: angles without a wrap, draws that do not depend on the batch, true densities."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_helpers import observe, population
from tolerances import SINGLE
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Posterior
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.draws import usual_range
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import (
    condition,
    load_estimator,
    packaged_estimator,
    predict_cutouts,
)
from hybridfit.npe.predict_targets import predict_targets
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.refinement_scalars import N_SCALARS
from hybridfit.npe.targets import TargetColumn
from hybridfit.npe.weight_files import save_weights

TINY = {"backbone": "none", "width": 16, "blocks": 1, "context": 8}
TINY |= {"flow_layers": 2, "flow_hidden": 16}
PA, N_INDEX = 6, 3  # the angle's column of theta, the index' coordinate of t


@pytest.fixture(scope="module")
def galaxies() -> Cutouts:
    return observe(population(6, 0), 60.0)[0]


@pytest.fixture(params=[False, True], ids=["measured", "looking back"])
def refinement(request: pytest.FixtureRequest) -> bool:
    """Both kinds of network: what posteriors promise they promise alike."""
    return bool(request.param)


def tiny(galaxies: Cutouts, refinement: bool = False) -> Estimator:
    """An untrained network whose posteriors differ between galaxies and are not normal."""
    torch.manual_seed(0)
    n_scalars = make_inputs(galaxies, False).scalars.shape[1] + N_SCALARS * refinement
    estimator = Estimator(NetworkOptions(**TINY, refinement=refinement), n_scalars)
    with torch.no_grad():
        for name, parameter in estimator.flow.named_parameters():
            if "final_layer" in name or "direct" in name:
                parameter.normal_(0, 0.1)
    estimator.target_std.fill_(0.5)
    return estimator.eval()


def posterior_of(samples: Tensor) -> Posterior:
    """The posterior of B galaxies with these draws (B, S, 8), which the network knows well."""
    zero = torch.zeros(len(samples), dtype=torch.int64)
    known = NetworkDiagnostics(zero, zero.double(), zero)
    return Posterior(ParameterSpace(), samples, log_prob=samples[..., 0], diagnostics=known)


def of(angles: list[float]) -> Posterior:
    """The posterior of one galaxy with these position angles."""
    samples = torch.rand(1, len(angles), 8, dtype=torch.float64)
    samples[0, :, PA] = torch.tensor(angles)
    return posterior_of(samples)


def test_position_angles_have_no_wrap():
    """Draws around 0 = 180 have the width and the order of the same draws around 90."""
    offsets = np.random.default_rng(0).normal(0, 6, 501)
    across, plain = of(list((offsets + 1.0) % 180)), of(list(offsets + 90.0))
    across = replace(across, samples=across.samples.clone())
    levels = (0.025, 0.16, 0.5, 0.84, 0.975)
    low = across.quantiles(levels)[0, :, PA]
    torch.testing.assert_close(
        low % 180, (plain.quantiles(levels)[0, :, PA] - 89) % 180, atol=1e-6, rtol=0
    )
    assert (low.diff() > 0).all()
    torch.testing.assert_close(across.std[0, PA], plain.std[0, PA])
    assert across.samples[0, :, PA].std() > 50, "what a wrap would have given"
    mean = across.mean[0, PA]
    # the circular mean of 501 draws differs from the arithmetic one by far less than its error
    assert abs((mean - 1 - offsets.mean() + 90) % 180 - 90) < 0.1
    assert 0 <= mean < 180


def test_covariance_is_that_of_the_draws():
    samples = torch.randn(3, 400, 8, dtype=torch.float64) + 90
    posterior = posterior_of(samples)
    for i in range(3):
        torch.testing.assert_close(posterior.covariance[i], torch.cov(samples[i].T))
    torch.testing.assert_close(posterior.std, posterior.covariance.diagonal(dim1=1, dim2=2).sqrt())
    assert len(posterior[1:]) == 2
    assert torch.equal(posterior[torch.tensor([2])].samples[0], samples[2])
    assert posterior.to("cpu").flags.device.type == "cpu"


def test_wrong_shapes_are_named():
    good = of([1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected \(B, S, 8\)"):
        replace(good, samples=good.samples[..., :7])
    with pytest.raises(ValueError, match="log_prob has shape"):
        replace(good, log_prob=good.log_prob[:, :1])


def test_draws_of_a_galaxy_do_not_depend_on_the_batch(galaxies: Cutouts, refinement: bool):
    estimator = tiny(galaxies, refinement)
    whole = predict_cutouts(galaxies, estimator, 40)
    assert whole.samples.shape == (6, 40, 8)
    assert whole.samples.dtype == torch.float64
    assert torch.isfinite(whole.samples).all()
    assert torch.isfinite(whole.log_prob).all()
    order = [4, 1, 5]
    some = predict_cutouts(galaxies[order], estimator, 40)
    # float32 sums of another batch size, passed on through exp and sinh
    torch.testing.assert_close(some.samples, whole.samples[order], rtol=1e-3, atol=1e-3)
    other = predict_cutouts(galaxies, estimator, 40, seed=1)
    assert (other.samples - whole.samples).abs().amax(dim=(1, 2)).min() > 0.1
    assert not torch.equal(whole.samples[0], whole.samples[1])


def test_density_is_that_of_whitened_coordinates(galaxies: Cutouts, refinement: bool):
    """log_prob against the flow's density of t and the Jacobian by finite differences."""
    estimator = tiny(galaxies, refinement)
    posterior = predict_cutouts(galaxies, estimator, 5)
    space, inputs = posterior.space, estimator_inputs(galaxies, estimator.initial_estimator, False)
    density = condition(galaxies, estimator)
    box = inputs.frame.position_bounds
    for k in range(5):
        theta = posterior.samples[:, k]
        coords, linear = space.from_physical(theta, galaxies.zeropoint)
        values = torch.cat([space.to_whitened(coords, space.constants(box)), linear], dim=1)
        values[:, 6] = torch.log(linear[:, 0])

        def coordinates(v: Tensor) -> Tensor:
            coords, _ = space.from_whitened(v[:, :6], space.constants(box))
            flux = torch.exp(v[:, 6])
            physical, _ = space.to_physical(
                coords, torch.stack([flux, v[:, 7]], dim=1), galaxies.zeropoint
            )
            return encode(physical, galaxies.zeropoint, inputs.frame).double()

        columns = []
        for j in range(8):
            step = torch.zeros(8, dtype=torch.float64)
            step[j] = 1e-5
            columns.append((coordinates(values + step) - coordinates(values - step)) / 2e-5)
        log_det = torch.linalg.slogdet(torch.stack(columns, dim=2))[1]
        t = coordinates(values)
        z, log_slope = density.to_flow(t[:, None])
        log_q = (estimator.flow.log_prob_of(z, density.context) + log_slope)[:, 0]
        there = density.log_prob(coords[:, None], linear[:, None])[:, 0]
        torch.testing.assert_close(there, posterior.log_prob[:, k], atol=5e-3, rtol=0)
        # finite differences of a smooth map: 1e-4; float32 of the flow: 1e-3
        torch.testing.assert_close(
            posterior.log_prob[:, k], log_q.double() + log_det, atol=5e-3, rtol=0
        )


def test_galaxies_without_pixels_are_flagged_alone(galaxies: Cutouts, refinement: bool):
    estimator = tiny(galaxies, refinement)
    clean = predict_cutouts(galaxies, estimator, 20)
    image, mask, flags = galaxies.image.clone(), galaxies.mask.clone(), galaxies.flags.clone()
    image[1] = torch.nan
    mask[2] = True
    flags[3] |= int(Flag.UNREADABLE)
    image[4, :5] = torch.nan  # some bad pixels are no reason
    posterior = predict_cutouts(
        replace(galaxies, image=image, mask=mask, flags=flags), estimator, 20
    )
    assert torch.isnan(posterior.samples[1:4]).all()
    assert torch.isnan(posterior.mean[1:4]).all()
    assert torch.isnan(posterior.quantiles([0.5])[1:4]).all()
    assert (posterior.flags[1:3] & int(Flag.NO_DATA) > 0).all()
    assert posterior.flags[3] & int(Flag.UNREADABLE)
    assert torch.isfinite(posterior.samples[4]).all()
    for i in (0, 5):
        torch.testing.assert_close(posterior.samples[i], clean.samples[i], rtol=1e-3, atol=1e-3)
    nothing = predict_cutouts(galaxies[[]], estimator, 20)
    assert nothing.samples.shape == (0, 20, 8)


def test_implausible_draws_are_rejected_and_counted(galaxies: Cutouts):
    """A flow that is a normal of known width in u_n: |u_n| < 6 is kept, the rest drawn again."""
    estimator = Estimator(NetworkOptions(**TINY), make_inputs(galaxies, False).scalars.shape[1])
    estimator.target_std.fill_(0.3)
    estimator.target_std[N_INDEX] = 6.0
    posterior = predict_cutouts(galaxies, estimator, 500)
    kept = math.erf(1 / math.sqrt(2))  # of draws with |u| < 6 at a width of 6
    expected = 6 * 500 * (1 - kept) / kept
    # counts are negative binomial: variance is the mean over ``kept``
    assert abs(int(posterior.rejected.sum()) - expected) < 4 * math.sqrt(expected / kept)
    assert (posterior.flags == 0).all()
    n = posterior.samples[..., 4]
    low, high = ParameterSpace().prior.n.low, ParameterSpace().prior.n.high
    assert ((n > low) & (n < high)).all()
    estimator.target_std[N_INDEX] = 200.0  # 2.4 % are kept: four rounds give some 48
    few = predict_cutouts(galaxies, estimator, 500)
    assert (few.flags & int(Flag.FEW_DRAWS) > 0).all()
    assert torch.isfinite(few.samples).all()
    different = [len(few.samples[i, :, 4].unique()) for i in range(6)]
    assert all(16 <= count < 120 for count in different)
    estimator.target_std[N_INDEX] = 1e6
    none = predict_cutouts(galaxies, estimator, 500)
    assert torch.isnan(none.samples).all()
    assert (none.rejected == 2000).all()
    with torch.no_grad():
        estimator.exit[1].bias.fill_(torch.nan)
    assert torch.isnan(predict_cutouts(galaxies, estimator, 30).samples).all()


def test_lone_draws_are_drawn_again_and_tails_stay():
    """One draw of 500 at 100 half-widths goes; where 2 % are that far they are the posterior's."""
    t = torch.randn(3, 500, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t[0, 7, 2] = 100.0
    t[1, :10, 5] = -100.0
    good = torch.ones(3, 500, dtype=torch.bool)
    good[2, :400] = False
    middle, reach = usual_range(t, good)
    kept = ((t - middle).abs() <= reach).all(dim=2)
    assert (~kept[0]).nonzero()[:, 0].tolist() == [7]
    assert kept[1:].all()
    # medians and half-widths are those of the good draws
    for i, rows in ((0, slice(0, 500)), (2, slice(400, 500))):
        q = np.quantile(t[i, rows].numpy(), [0.16, 0.5, 0.84], axis=0)
        np.testing.assert_allclose(middle[i, 0].numpy(), q[1], atol=0.05)
        np.testing.assert_allclose(reach[i, 0].numpy(), 7.5 * (q[2] - q[0]), rtol=0.06, atol=SINGLE)
    nothing, anywhere = usual_range(t, torch.zeros_like(good))
    assert torch.isfinite(nothing).all()
    assert (anywhere == torch.inf).all()


def test_a_lone_draw_among_few_is_drawn_again():
    """Starts take 64 draws, of which one is more than a hundredth; two are the posterior's."""
    t = torch.randn(2, 64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t[0, 7, 2] = 100.0
    t[1, 7:9, 2] = 100.0
    middle, reach = usual_range(t, torch.ones(2, 64, dtype=torch.bool))
    kept = ((t - middle).abs() <= reach).all(dim=2)
    assert (~kept[0]).nonzero()[:, 0].tolist() == [7]
    assert kept[1].all()


def test_sizes_that_are_never_drawn_have_no_density(galaxies: Cutouts):
    density = condition(galaxies, tiny(galaxies))
    theta = torch.from_numpy(population(6, 0))
    coords, linear = density.space.from_physical(theta, galaxies.zeropoint)
    larger = coords.clone()
    larger[:, 2] = torch.log(70.0 * density.frame.rebin)  # half of what is looked at is 64
    assert torch.isfinite(density.log_prob(coords[:, None], linear[:, None])).all()
    assert (density.log_prob(larger[:, None], linear[:, None]) == -torch.inf).all()


def test_weights_of_another_version_are_refused(galaxies: Cutouts):
    inputs = make_inputs(galaxies, False)
    older = Estimator(NetworkOptions(**TINY), inputs.scalars.shape[1] - 4)
    with pytest.raises(ValueError, match=r"read 240 scalars .* measures 244"):
        predict_cutouts(galaxies, older, 40)


def test_unfamiliar_galaxies_are_flagged(galaxies: Cutouts):
    estimator = tiny(galaxies)
    truth = population(200, 3)
    inputs = make_inputs(observe(truth, 60.0, seed=3)[0], False)
    with torch.no_grad():
        estimator.set_context(estimator.context(inputs.views, inputs.scalars))
    usual = predict_cutouts(galaxies, estimator, 4)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    chequered = replace(galaxies, image=galaxies.image + 300.0 * ((x // 8 + y // 8) % 2))
    odd = predict_cutouts(chequered, estimator, 4)
    assert (usual.flags & int(Flag.UNFAMILIAR) == 0).sum() >= 5
    assert (odd.flags & int(Flag.UNFAMILIAR) > 0).all()
    assert (odd.distance > usual.distance).all()


def test_positions_are_those_of_the_priors_box(galaxies: Cutouts):
    estimator = tiny(galaxies)
    estimator.target_std[:2] = 9.0  # hundreds of times what the centre is known to
    middle = (48 - 1) / 2
    reached = {}
    for share in (0.1, 0.25, 0.5):
        space = ParameterSpace(prior=Prior(position=share))
        posterior = predict_cutouts(galaxies, estimator, 300, space=space)
        reached[share] = float((posterior.samples[..., :2] - middle).abs().max()) / 48
        assert torch.isfinite(posterior.log_prob).all()  # all have whitened coordinates
    assert reached[0.1] < 0.1 < reached[0.25] < 0.25 < reached[0.5] < 0.5


def test_galaxies_without_a_psf_are_flagged(galaxies: Cutouts, refinement: bool):
    estimator = tiny(galaxies, refinement)
    both = int(Flag.UNFAMILIAR | Flag.NO_PSF)
    assert (predict_cutouts(galaxies, estimator, 20).flags & both == 0).all()
    bare = predict_cutouts(replace(galaxies, psf=None), estimator, 20)
    assert torch.isfinite(bare.samples).all()
    assert (bare.flags & both == both).all()
    columns = tiny(galaxies, refinement)
    columns.target_columns = tuple(TargetColumn(f"c{i}") for i in range(8))
    assert (predict_targets(galaxies, columns, 20)[1].flags & both == 0).all()
    assert (predict_targets(replace(galaxies, psf=None), columns, 20)[1].flags & both == both).all()


def test_options_are_checked(galaxies: Cutouts):
    estimator = tiny(galaxies)
    with pytest.raises(ValueError, match="n_samples is 1"):
        predict_cutouts(galaxies, estimator, 1)
    with pytest.raises(ValueError, match="the network knows"):
        predict_cutouts(galaxies, estimator, 8, space=ParameterSpace(sky="plane"))


def test_weights_are_loaded_from_a_folder(galaxies: Cutouts, tmp_path: Path, refinement: bool):
    estimator = tiny(galaxies, refinement)
    config = {
        "network": {**TINY, "refinement": refinement},
        "n_scalars": estimator.n_scalars,
        "n_targets": 8,
    }
    save_weights(estimator, tmp_path, config, half=False)
    loaded = load_estimator(tmp_path)
    assert not loaded.training
    same = predict_cutouts(galaxies, loaded, 10)
    torch.testing.assert_close(same.samples, predict_cutouts(galaxies, estimator, 10).samples)
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_estimator(tmp_path / "nowhere")


def test_packaged_weights_know_the_inputs(galaxies: Cutouts):
    try:
        estimator = packaged_estimator()
    except FileNotFoundError:
        pytest.skip("the package has no weights yet")
    posterior = predict_cutouts(galaxies, estimator, 32)
    assert torch.isfinite(posterior.samples).all()
