"""Fits of distorted profiles to images of the formulas: parameters come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from distorted_helpers import light_at, pixels_of, sersic_light
from render_helpers import gaussian_psf
from tolerances import SINGLE

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.compile import compile_scene
from hybridfit.model.prior import LogNormal, Normal, Uniform
from hybridfit.model.scene import Component, Parameter, Scene, Source, equal, offset
from hybridfit.model.scene_values import scene_values

SIGMA = 1.4  # of the PSF, pixels
SIDE = 48
ZEROPOINT = 25.0
BASE = {"x": 23.4, "y": 24.1, "mag": 15.0, "r_eff": 5.0, "n": 1.3, "q": 0.6, "pa": 30.0}


def observed(values: dict[str, float], noise: float = 1.0) -> Cutouts:
    light = light_at(values, lambda rho: sersic_light(rho, values["n"]))
    flux = 10 ** (0.4 * (ZEROPOINT - values["mag"]))
    image = flux * pixels_of(values, light, SIDE, SIGMA) + 3.0
    image = image + np.random.default_rng(4).normal(0, noise, image.shape)
    sigma = np.full((1, SIDE, SIDE), noise, np.float32)
    return Cutouts(
        image=image[None].astype(np.float32),
        sigma=sigma,
        psf=gaussian_psf(SIGMA),
        zeropoint=ZEROPOINT,
    )


def options(model: object) -> FitOptions:
    return FitOptions(model=model, compile="off", objective="ml")


def scene(profile: str, parameters: dict[str, Parameter]) -> Scene:
    return Scene((Source((Component("galaxy", profile, parameters),)),))


def test_fourier_modes_come_back() -> None:
    own = {"f1_amp": 0.15, "f1_phase": 50.0, "f3_amp": 0.06, "f3_phase": 20.0}
    truth = {**BASE, **own}
    start = {
        "f1_amp": Parameter(0.05),
        "f1_phase": Parameter(20.0),
        "f3_amp": Parameter(0.03),
        "f3_phase": Parameter(5.0),
    }
    settings = options(scene("sersic~f1~f3", start))
    values = scene_values([settings.scene], settings.prior)
    fit = fit_cutouts(observed(truth), settings, scene=values)
    for name, value in truth.items():
        column = fit.space.names.index(f"galaxy_{name}")
        found, error = float(fit.theta[0, column]), float(fit.error[0, column])
        # the noise is drawn once; a bias of the model would be many errors, as these are small
        assert abs(found - value) < 4 * error, (name, found, value, error)
        assert 0 < error < {"f3_phase": 3.0, "f1_phase": 3.0, "pa": 2.0}.get(name, 0.1)
    assert 0.9 < float(fit.chi2[0] / fit.dof[0]) < 1.1


@pytest.mark.slow
def test_modes_can_be_fixed_tied_and_bounded() -> None:
    truth = {**BASE, "f1_amp": 0.15, "f1_phase": 50.0, "f2_amp": 0.15, "f2_phase": 60.0}
    start = {
        "f1_amp": Parameter(0.1, bounds=(0.0, 0.12)),
        "f1_phase": Parameter(50.0, fixed=True),
        "f2_amp": Parameter(tied=equal("galaxy.f1_amp")),
        "f2_phase": Parameter(tied=offset("galaxy.f1_phase", 10.0)),
    }
    settings = options(scene("sersic~f1~f2", start))
    values = scene_values([settings.scene], settings.prior)
    fit = fit_cutouts(observed(truth), settings, scene=values)
    found = dict(zip(fit.space.names, fit.theta[0].tolist(), strict=True))
    assert found["galaxy_f1_phase"] == pytest.approx(50.0, abs=1e-9)
    assert found["galaxy_f2_phase"] == pytest.approx(60.0, abs=1e-9)
    assert found["galaxy_f1_amp"] == pytest.approx(0.12, abs=2e-3)  # the light asks for more
    assert found["galaxy_f2_amp"] == pytest.approx(found["galaxy_f1_amp"], abs=1e-12)


def test_uniform_priors_of_modes_are_ranges() -> None:
    settings = options(scene("sersic~b2", {"b2": Parameter(0.0, prior=Uniform(-1.0, 3.0))}))
    values = scene_values([settings.scene], settings.prior)
    theta = torch.nan_to_num(values.start, nan=1.0)
    one = torch.ones(1).double()
    constants = values.constants(theta, one, torch.zeros(1, 2).double(), one, one)
    whitened = torch.zeros(3, values.space.n_nonlinear).double()
    column = values.space.names.index("galaxy_b2") - 1  # mag is no coordinate
    whitened[:, column] = torch.tensor([-9.0, 0.0, 9.0])
    many = constants[[0, 0, 0]]
    found = values.space.whitening.forward(whitened, many)[0][:, column]
    assert found.tolist() == pytest.approx([-1.0, 1.0, 3.0], abs=1e-6)


def test_physical_values_are_round_trips() -> None:
    own = {"f1_amp": -0.2, "f1_phase": 400.0, "b2": -3.0, "rot_in": -2.0, "rot_out": 9.0}
    own |= {"rot_angle": -500.0, "rot_power": -0.3, "rot_incl": -50.0, "rot_pa": 170.0}
    space = compile_scene(scene("sersic~f1~b2~power", {}))
    names = [name.removeprefix("galaxy_") for name in space.names]
    theta = torch.tensor([[{**BASE, **own, "sky": 1.0}[name] for name in names]]).double()
    zeropoint = torch.tensor([ZEROPOINT]).double()
    coords, linear = space.from_physical(theta, zeropoint)
    back, jacobian = space.to_physical(coords, linear, zeropoint)
    assert torch.allclose(back, theta, atol=1e-10)
    bounds = torch.tensor([[23.5, 23.5, 12.0, 12.0]]).double()
    whitened = space.whitening.inverse(coords, space.constants(bounds))
    forward, slope = space.whitening.forward(whitened, space.constants(bounds))
    assert torch.allclose(forward, coords, atol=1e-8)
    column = names.index("f1_amp")
    assert float(jacobian[0, column, names.index("f1_amp") - 1]) == 1.0  # mag is no coordinate
    assert math.isfinite(float(slope.abs().sum()))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"f1_amp": Parameter(prior=LogNormal(0.1, 1, 0.01, 1))}, "is log-normal, expected a"),
        (
            {"f1_amp": Parameter(tied=equal("galaxy.n"))},
            "one adds offsets and the other has ratios",
        ),
        ({"f2_amp": Parameter(0.1)}, "has no parameter 'f2_amp': did you mean 'f1_amp'?"),
    ],
)
def test_wrong_priors_and_ties_are_errors(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_scene(scene("sersic~f1", parameters))


def test_priors_of_modes_hold() -> None:
    """A narrow normal prior keeps an amplitude that the light would change."""
    truth = {**BASE, "f1_amp": 0.15, "f1_phase": 50.0}
    start = {
        "f1_amp": Parameter(0.05, prior=Normal(0.05, 1e-5)),
        "f1_phase": Parameter(50.0, fixed=True),
    }
    settings = FitOptions(model=scene("sersic~f1", start), compile="off", objective="map")
    values = scene_values([settings.scene], settings.prior)
    fit = fit_cutouts(observed(truth), settings, scene=values)
    column = fit.space.names.index("galaxy_f1_amp")
    assert float(fit.theta[0, column]) == pytest.approx(0.05, abs=20 * SINGLE + 1e-3)
