"""What the network reads: the frame is undone exactly, and its symmetries are those claimed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from fit_helpers import population
from tolerances import CHAIN

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import LogNormal, Prior
from hybridfit.npe.coordinates import SERSIC
from hybridfit.npe.frame import decode, encode, encode_coords, log_jacobian
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.posterior import packaged_estimator
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.npe.symmetry import redrawn, scalar_signs
from hybridfit.rendering.render import render
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields

IMAGES = ("image", "sigma", "mask")


@pytest.fixture(scope="module")
def scenes():
    return simulate_fields(96, 5)


@pytest.fixture(scope="module")
def inputs(scenes):
    return make_inputs(scenes.cutouts)


def test_units_of_flux_change_nothing(scenes, inputs):
    """Fluxes in erg / s / cm2 / A: a masked pixel's sigma of 1 is then 1e22 times the noise."""
    unit, cutouts = 1e-22, scenes.cutouts
    sigma = torch.where(cutouts.mask, 1.0, cutouts.sigma * unit)
    small = make_inputs(dataclasses.replace(cutouts, image=cutouts.image * unit, sigma=sigma))
    assert (cutouts.mask.flatten(1).any(dim=1) & (inputs.frame.rebin > 1)).any()
    for name in ("views", "scalars"):
        here, there = getattr(small, name), getattr(inputs, name)
        assert torch.isfinite(here).all()
        # a rounding turns the frame of a round galaxy
        assert (here - there).abs().flatten(1).amax(dim=1).quantile(0.9) < 1e-2, name


def test_decode_undoes_encode(scenes, inputs):
    zeropoint = scenes.cutouts.zeropoint
    t = encode(scenes.theta, zeropoint, inputs.frame)
    coords, linear = decode(t, inputs.frame)
    theta, _ = ParameterSpace().to_physical(coords, linear, zeropoint)
    # the whitened size and index are cut at 4 sigma of the prior
    usual = (t[:, 2:4].abs() < 3.9).all(dim=1)
    turn = torch.remainder(theta[:, 6] - scenes.theta[:, 6] + 90, 180) - 90
    difference = theta - scenes.theta
    difference[:, 6] = turn
    scale = scenes.theta.abs().clamp_min(1.0)
    assert usual.sum() > 80
    assert (difference / scale)[usual].abs().max() < 1e-8  # float64, through erf and its inverse


# a user's prior may be another than the network's
OTHER = {"n": LogNormal(2.5, 0.6, 0.3, 9.0), "q_core": 0.4}


@pytest.mark.parametrize("prior", [OTHER, OTHER | {"position": 0.45}], ids=["shape", "position"])
def test_log_jacobian_is_that_of_finite_differences(scenes, inputs, prior):
    space = ParameterSpace(prior=Prior(**prior))
    half = space.prior.position * scenes.cutouts.size.amin(dim=1, keepdim=True).double()
    boxes = torch.cat([(scenes.cutouts.size.flip(1).double() - 1) / 2, half, half], dim=1)
    t = encode(scenes.theta, scenes.cutouts.zeropoint, inputs.frame)
    coords, linear = space.from_physical(scenes.theta, scenes.cutouts.zeropoint)
    claimed = log_jacobian(t, coords, inputs.frame, space)
    for row in range(6):
        frame = inputs.frame[row : row + 1]
        box = boxes[row : row + 1]
        whitened = space.to_whitened(coords[row : row + 1], space.constants(box))
        at = torch.cat([whitened, linear[row, :1].log()[None], linear[row : row + 1, 1:]], dim=1)

        def coordinates(value, frame=frame, box=box):
            now, _ = space.from_whitened(value[:, :6], space.constants(box))
            return encode_coords(now, torch.cat([value[:, 6:7].exp(), value[:, 7:]], dim=1), frame)

        columns = []
        for k in range(8):
            step = 1e-6 * max(1.0, float(frame.noise)) if k == 7 else 1e-6
            move = step * torch.eye(8, dtype=torch.float64)[k]
            columns.append((coordinates(at + move) - coordinates(at - move))[0] / (2 * step))
        expected = torch.linalg.slogdet(torch.stack(columns, dim=1))[1]
        # central differences of 1e-6 in float64
        assert claimed[row] == pytest.approx(float(expected), abs=1e-4)


def test_positions_outside_the_priors_box_have_no_density(scenes, inputs):
    t = encode(scenes.theta, scenes.cutouts.zeropoint, inputs.frame)
    middle = (scenes.cutouts.size.flip(1) - 1) / 2
    side = scenes.cutouts.size.amin(dim=1)
    away = (scenes.theta[:, :2] - middle).abs().amax(dim=1) / side
    for share in (0.01, 0.03):
        space = ParameterSpace(prior=Prior(position=share))
        coords, _ = space.from_physical(scenes.theta, scenes.cutouts.zeropoint)
        inside = torch.isfinite(log_jacobian(t, coords, inputs.frame, space))
        assert 10 < inside.sum() < 86
        assert torch.equal(inside, away < share)


def test_signs_are_as_many_as_scalars(inputs):
    assert scalar_signs().shape == (2, inputs.scalars.shape[1])


def mirrored(cutouts):
    images = {name: _flip(getattr(cutouts, name), cutouts.size) for name in IMAGES}
    return dataclasses.replace(cutouts, **images, psf=cutouts.psf.flip(-1))


@pytest.mark.parametrize("refined", [False, True], ids=["measured", "refined"])
def test_a_mirrored_stamp_gives_the_mirrored_inputs(refined):
    scenes = simulate_fields(128, 3, CLEAN)
    scenes = scenes[(scenes.snr > 30).nonzero()[:, 0].tolist()]
    initial_estimator = packaged_estimator().initial_estimator if refined else None
    here = estimator_inputs(scenes.cutouts, initial_estimator, False).scalars
    there = estimator_inputs(mirrored(scenes.cutouts), initial_estimator, False).scalars
    mirror, turn = scalar_signs(refined)
    width = here.std(dim=0).clamp_min(1e-3)

    def distance(signs):
        # the frame may point either way; windows cut at the edge of the view, which is a pixel
        # longer on one side, differ for some galaxies: hence the median
        straight, turned = ((here * s - there).abs() / width for s in (signs, signs * turn))
        nearer = straight.mean(dim=1) < turned.mean(dim=1)
        return torch.where(nearer[:, None], straight, turned).median(dim=0).values

    # the second step is mostly noise, for it begins where the first one ended: up to 0.25
    limit = 0.35 if refined else 0.2
    assert distance(mirror).max() < limit
    assert distance(torch.ones_like(mirror)).max() > 0.5  # the twin without the signs


def test_targets_of_a_mirrored_galaxy_change_their_signs():
    scenes = simulate_fields(128, 3, CLEAN)
    scenes = scenes[(scenes.snr > 30).nonzero()[:, 0].tolist()]
    cutouts = scenes.cutouts
    theta = scenes.theta.clone()
    theta[:, 0] = cutouts.size[:, 1] - 1 - theta[:, 0]
    theta[:, 6] = (180 - theta[:, 6]) % 180
    here = encode(scenes.theta, cutouts.zeropoint, make_inputs(cutouts).frame)
    there = encode(theta, cutouts.zeropoint, make_inputs(mirrored(cutouts)).frame)
    straight = here * SERSIC.signs[0]
    turned = straight * SERSIC.signs[1]
    error = torch.minimum((straight - there).abs().amax(dim=1), (turned - there).abs().amax(dim=1))
    assert error.median() < 2e-2
    assert (here - there).abs().amax(dim=1).median() > 0.2  # the twin without the signs


def _flip(images, size):
    out = images.clone()
    for k, (height, width) in enumerate(size.tolist()):
        out[k, :height, :width] = images[k, :height, :width].flip(-1)
    return out


def test_redrawn_is_undone_by_itself(inputs, scenes):
    t = encode(scenes.theta, scenes.cutouts.zeropoint, inputs.frame).float()
    given = (inputs.views, inputs.scalars, t)
    once = redrawn(*given, torch.Generator().manual_seed(1))
    twice = redrawn(*once, torch.Generator().manual_seed(1))
    assert not torch.equal(once[1], given[1])
    for a, b in zip(given, twice, strict=True):
        assert torch.equal(a, b)


def test_inputs_do_not_depend_on_flux_unit_sky_or_padding(scenes):
    cutouts = scenes.cutouts
    plain = make_inputs(cutouts)
    other = Cutouts(
        image=torch.nn.functional.pad(cutouts.image * 50 + 300, (0, 20, 0, 20)),
        sigma=torch.nn.functional.pad(cutouts.sigma * 50, (0, 20, 0, 20), value=1.0),
        mask=torch.nn.functional.pad(cutouts.mask, (0, 20, 0, 20), value=True),
        psf=torch.nn.functional.pad(cutouts.psf, (3, 3, 3, 3)),
        size=cutouts.size,
    )
    changed = make_inputs(other)
    # float32 images on a pedestal lose some digits
    same = (plain.scalars - changed.scalars).abs().amax(dim=1)
    assert same.median() < 2e-2
    assert np.isclose(
        (changed.frame.flux / plain.frame.flux / 50).median().item(), 1.0, rtol=1e-3, atol=CHAIN
    )


def cropped(cutouts, where):
    images = {name: getattr(cutouts, name)[:, where, where] for name in IMAGES}
    return dataclasses.replace(cutouts, **images, size=None)


def test_padding_changes_nothing(scenes):
    rows = (scenes.cutouts.size == 32).all(dim=1).nonzero()[:, 0].tolist()
    assert len(rows) >= 8
    padded = scenes.cutouts[rows]
    assert padded.image.shape[-1] == 128
    here, there = make_inputs(padded), make_inputs(cropped(padded, slice(0, 32)))
    # the same numbers and zeros, summed in another order in float32
    assert (here.scalars - there.scalars).abs().max() < 1e-3
    assert (here.views - there.views).abs().max() < 1e-3


@pytest.mark.parametrize("factor", [1e4, 1e20])
def test_a_pixel_of_huge_sigma_is_a_masked_pixel(scenes, factor):
    cutouts = scenes.cutouts
    middle = (cutouts.size[:, 0] // 2).tolist()
    dead, masked, sigma = cutouts.image.clone(), cutouts.mask.clone(), cutouts.sigma.clone()
    for k, i in enumerate(middle):
        dead[k, i, i + 2] = 1e6 * sigma[k].max()  # whatever such a pixel holds
        masked[k, i, i + 2] = True
        sigma[k, i, i + 2] *= factor
    here = make_inputs(dataclasses.replace(cutouts, image=dead, sigma=sigma))
    there = make_inputs(dataclasses.replace(cutouts, mask=masked))
    assert torch.isfinite(here.scalars).all()
    assert torch.equal(here.scalars, there.scalars)
    assert torch.equal(here.views, there.views)
    twin = make_inputs(dataclasses.replace(cutouts, image=dead))  # of a usual sigma
    assert (twin.scalars - there.scalars).abs().amax(dim=1).median() > 0.1


def test_a_large_stamp_says_what_its_middle_does():
    """Without noise: the sky of fewer pixels is known less well, and every window sees that."""
    theta = torch.tensor(population(24, 4)) + torch.tensor([104.0, 104.0, 0, 0, 0, 0, 0, 0])
    theta[:, 2] = -2.5 * math.log10(3e4)  # of zero point 0: a signal to noise of some thousand
    theta[:, 4] = theta[:, 4].clamp_max(2.5)  # wings that end within the cut
    theta[:, 7] = 0.0
    psf = torch.ones(1, 3, 3) / 9
    blank = Cutouts(image=torch.zeros(24, 256, 256), sigma=torch.ones(24, 256, 256), psf=psf)
    large = dataclasses.replace(blank, image=render(theta, blank))
    here, there = make_inputs(large), make_inputs(cropped(large, slice(64, 192)))
    # wings of .002 of a pixel's noise in the cut's sky, and the few pixels beyond its edge that
    # the widest window weighs with 3 %: .003 in all, and the width of a scalar is about 1
    assert (here.scalars - there.scalars).abs().max() < 0.01
    assert (here.frame.centre - there.frame.centre - 64).abs().max() < 1e-3
    assert torch.equal(here.frame.rebin, there.frame.rebin)


def test_galaxies_without_pixels_give_numbers():
    empty = Cutouts(
        image=torch.zeros(2, 40, 40), sigma=torch.zeros(2, 40, 40), psf=torch.ones(1, 1)
    )
    inputs = make_inputs(empty)
    assert torch.isfinite(inputs.scalars).all()
    assert torch.isfinite(inputs.views).all()
