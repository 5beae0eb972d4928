"""Scenes as data: priors as maps, links, constants, declarations, sums of components."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tolerances import DOUBLE

from hybridfit.fitting.options import FitOptions
from hybridfit.model.combined import combined, combined_errors, combined_names
from hybridfit.model.compile import SOFTENING, compile_scene
from hybridfit.model.declaration import declared_scene, scene_mapping
from hybridfit.model.distributions import Family, values_of, whitened_of
from hybridfit.model.prior import LogNormal, Prior
from hybridfit.model.scene import Component, Parameter, Scene, Source, Tie, equal, offset
from hybridfit.model.scene_values import scene_values, shifted
from hybridfit.model.value_columns import value_columns, with_fixed

PRIOR = Prior()
NUMBERS = {
    Family.UNIFORM: (3.0, 2.0, 0.0, 0.0, 0.0),
    Family.NORMAL: (0.5, 0.7, 0.1, 0.6, 0.0),
    Family.LOG_UNIFORM: (0.5, 0.3, -1.0, 0.0, 0.0),
    Family.AXIS: (0.1, 0.7, *PRIOR.ellipticity),
}


@pytest.mark.parametrize("family", Family)
def test_a_prior_is_a_map_with_an_inverse_and_a_slope(family):
    u = torch.linspace(-2.8, 2.8, 57, dtype=torch.float64)[:, None]
    numbers = torch.tensor(NUMBERS[family], dtype=torch.float64).expand(57, 1, 5)
    value, slope = values_of(family, u, numbers)
    step = 1e-6
    ahead, behind = (values_of(family, u + s, numbers)[0] for s in (step, -step))
    # central differences of step 1e-6: 1e-9 of rounding over the step
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    assert (slope.sign() == (-1 if family is Family.LOG_UNIFORM else 1)).all()
    torch.testing.assert_close(whitened_of(family, value, numbers), u, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", Family)
def test_draws_follow_the_prior(family):
    """Kolmogorov-Smirnov against the distribution that the family says; 1 in 10,000 fails."""
    u = torch.randn(20000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers = torch.tensor(NUMBERS[family], dtype=torch.float64).expand(20000, 1, 5)
    value = values_of(family, u, numbers)[0][:, 0].numpy()
    a, b, c, d, _ = NUMBERS[family]
    if family is Family.UNIFORM:
        expected = stats.uniform(a - b, 2 * b).cdf
    elif family is Family.NORMAL:
        ends = stats.norm.ppf([c, c + d])
        expected = stats.truncnorm(*ends, loc=a, scale=b).cdf
    elif family is Family.LOG_UNIFORM:
        value, expected = np.exp(c * value), stats.uniform(a - b, 2 * b).cdf
    else:  # the length of the whitened pair is Rayleigh's, between two quantiles
        pair = torch.randn(200000, 2, generator=torch.Generator().manual_seed(2)).double()
        space = compile_scene(Scene((Source((Component(),)),)))
        bounds = torch.zeros(len(pair), 4, dtype=torch.float64) + 1
        whitened = torch.cat([torch.zeros(len(pair), 4, dtype=torch.float64), pair], dim=1)
        coords, _ = space.from_whitened(whitened, space.constants(bounds))
        flat = np.sort(coords[:, 4:].norm(dim=1).numpy())
        inside = flat[int(a * len(flat)) : int((a + b) * len(flat))]
        assert stats.ks_2samp(value, inside).pvalue > 1e-4
        return
    assert stats.kstest(value, expected).pvalue > 1e-4


def draws_of(model: str | Scene, count: int = 20000) -> dict[str, np.ndarray]:
    """Draws of the prior of a model, by name; fluxes are 1."""
    values = scene_values([FitOptions(model=model).scene])[[0] * count]
    space, one = values.space, torch.ones(count, dtype=torch.float64)
    start = torch.ones(count, len(space.names), dtype=torch.float64)
    constants = values.constants(start, 25 * one, 10 * torch.ones(count, 2).double(), one, one)
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(count, space.n_nonlinear, generator=generator, dtype=torch.float64)
    coords, _ = space.from_whitened(u, constants)
    linear = torch.ones(count, space.n_terms, dtype=torch.float64)
    theta, _ = space.to_physical(coords, linear, 25 * one)
    # there and back
    back = space.to_whitened(coords, constants)
    inside = (u.abs() < 3.0).all(dim=1)  # farther out uniform priors have no inverse
    torch.testing.assert_close(back[inside], u[inside], rtol=0, atol=1e-5)
    return dict(zip(space.names, theta.numpy().T, strict=True))


def test_the_preset_has_the_priors_that_it_says():
    """Quantiles of 20,000 draws: of the bulge's size over the disk's, indices and axis ratios."""
    found = draws_of("bulge+disk")
    ratio = found["bulge_r_eff"] / found["disk_r_eff"]
    # the softening moves a ratio by half of it at most
    assert ratio.max() < math.exp(SOFTENING / 2)
    scatter = stats.truncnorm(-np.inf, math.log(4) / 0.8, math.log(0.25), 0.8)
    for level in (0.16, 0.5, 0.84):
        assert math.log(np.quantile(ratio, level)) == pytest.approx(
            scatter.ppf(level), abs=0.03 + SOFTENING / 4
        )
    ends = [math.log(v / 2.4) / 0.6 for v in (0.4, 8.0)]
    index = math.exp(stats.truncnorm(*ends, math.log(2.4), 0.6).median())
    # three times the scatter of medians of so many draws
    assert np.median(found["bulge_n"]) == pytest.approx(index, rel=0.015)
    assert np.median(found["bulge_q"]) == pytest.approx(0.70, abs=0.01)
    assert np.median(found["disk_q"]) == pytest.approx(0.59, abs=0.01)


def test_a_ratio_with_a_prior_of_round_components_is_smooth():
    """The derivatives are those of differences where a component is nearly round."""
    values = scene_values([FitOptions(model="bulge+disk").scene])
    space, one = values.space, torch.ones(1, dtype=torch.float64)
    start = torch.ones(1, len(space.names), dtype=torch.float64)
    constants = values.constants(start, 25 * one, 10 * torch.ones(1, 2).double(), one, one)
    u = torch.zeros(1, space.n_nonlinear, dtype=torch.float64)
    u[0, 4:6] = torch.tensor([1e-4, -2e-4])
    _, slope = space.from_whitened(u, constants)
    for j in range(space.n_nonlinear):
        step = torch.zeros_like(u)
        step[:, j] = 1e-3  # five times as far as the kink of |eta| is
        ends = [space.from_whitened(u + s * step, constants)[0] for s in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-3
        torch.testing.assert_close(slope[:, :, j], expected, rtol=1e-4, atol=1e-5)


def test_ties_of_ties_are_resolved():
    """c follows b, which follows a: offsets add up and nothing else is free."""
    scene = Scene(
        (
            Source(
                (
                    Component("a", "sersic", {"x": Parameter(10.0)}),
                    Component("b", "sersic", {"x": Parameter(12.0, tied=offset("a.x", 2.0))}),
                    Component("c", "sersic", {"x": Parameter(15.0, tied=offset("b.x", 3.0))}),
                )
            ),
        )
    )
    values = scene_values([scene] * 2)
    space = values.space
    assert space.n_nonlinear == 16
    theta = torch.ones(2, len(space.names), dtype=torch.float64)
    theta[:, [0, 7, 14]] = torch.tensor([10.0, 12.0, 15.0], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    constants = values.constants(theta, 25 * one, 10 * torch.ones(2, 2).double(), 5 * one, 9 * one)
    u = torch.randn(2, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    coords, jacobian = space.from_whitened(u, constants)
    first = [columns.start for columns in space.slices()]
    moved = coords[:, first]
    torch.testing.assert_close(moved - moved[:, :1], torch.tensor([[0.0, 2.0, 5.0]] * 2).double())
    assert torch.equal(jacobian[:, first[0]], jacobian[:, first[2]])
    there = shifted(constants, space, torch.tensor([[3.0, -1.0], [0.5, 2.0]]).double())
    moved_on, _ = space.from_whitened(u, there)
    for columns in space.slices():
        change = (moved_on - coords)[:, columns]
        expected = torch.tensor([[3.0, -1.0], [0.5, 2.0]]).double()
        torch.testing.assert_close(change[:, :2], expected, rtol=0, atol=DOUBLE)
        assert (change[:, 2:] == 0).all()


YAML = {
    "components": {
        "bulge": {
            "profile": "sersic",
            "n": {"start": 3, "prior": {"median": 3, "sigma": 0.5, "low": 0.5, "high": 8}},
            "mag": {"prior": {"mean": 20, "sigma": 0.5}},
        },
        "disk": {
            "profile": "exponential",
            "x": {"tied": "bulge.x"},
            "r_eff": {"tied": "bulge.r_eff", "ratio": [1.0, 8.0]},
            "q": {"fixed": 0.8},
            "pa": {"bounds": [20, 60], "start": 40},
        },
    },
    "sky": {"kind": "plane", "sky_dx": {"fixed": 0.0}},
}


ORDERED = """
components:
  bulge:
    profile: sersic
    prior: {q_scale: 0.4}
    n: {prior: {median: 2.4, sigma: 0.6, low: 0.4, high: 8}}
    r_eff: {tied: disk.r_eff, ratio: {median: 0.25, sigma: 0.8, low: 0.01, high: 1}}
  disk:
    profile: exponential
    prior: {q_scale: 0.6}
    x: {tied: bulge.x}
    y: {tied: bulge.y}
sky: constant
"""


def test_the_preset_as_a_file(tmp_path):
    """The guide prints this file as what the preset stands for."""
    path = tmp_path / "model.yaml"
    path.write_text(ORDERED)
    assert declared_scene(str(path)) == declared_scene("bulge+disk")
    guide = Path(__file__).parents[1] / "docs" / "guides" / "models.md"
    assert ORDERED.strip() in guide.read_text()


def test_a_prior_of_a_component_differs_from_the_fits():
    prior = Prior(q_min=0.1)
    bulge, disk = FitOptions("bulge+disk", prior=prior).space.components
    assert bulge.prior == Prior(q_min=0.1, q_scale=0.4)
    assert disk.prior == Prior(q_min=0.1, q_scale=0.6)
    for wrong, text in (({"q_scal": 1}, "q_scale"), ({"position": 0.1}, "all components share")):
        with pytest.raises(ValueError, match=text):
            Component("bulge", prior=wrong)
    text = {"components": {"bulge": {"prior": {"q_scale": -1}}}}
    with pytest.raises(ValueError, match=r"bulge: prior\.q_scale is -1"):
        declared_scene(text)


def test_a_fixed_value_takes_the_place_of_a_ratio_with_a_prior():
    columns = value_columns(declared_scene("bulge+disk"))
    columns.check(["bulge_r_eff_fixed"])
    scene = with_fixed(declared_scene("bulge+disk"), {"bulge_r_eff": 2.0})
    space = compile_scene(scene)
    kinds = [space.slot(j)[0] for j in space.whitening.owners]
    assert "r_eff" not in kinds  # the bulge's is fixed, and the disk's has its own prior again
    assert kinds.count("r_circ") == 1


def test_declarations_round_trip():
    scene = declared_scene(YAML)
    bulge, disk = scene.components
    assert bulge.parameters["n"] == Parameter(3.0, prior=LogNormal(3, 0.5, 0.5, 8))
    assert disk.parameters["x"].tied == equal("bulge.x")
    assert disk.parameters["r_eff"].tied == Tie({"bulge.r_eff": 1.0}, bounds=(1.0, 8.0))
    assert disk.parameters["q"] == Parameter(0.8, fixed=True)
    assert declared_scene(scene_mapping(scene)) == scene
    options = FitOptions(model=YAML)  # type: ignore[arg-type]
    assert options.scene == scene
    assert FitOptions(model=options.model).scene == scene
    assert options.space.names[:3] == ("bulge_x", "bulge_y", "bulge_mag")
    assert options.space.names[-3:] == ("sky", "sky_dx", "sky_dy")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("sersic", ("x",)),
        ("sersic+exponential", ("sersic_x", "exponential_x")),
        ("sersic+sersic", ("sersic1_x", "sersic2_x")),
        ("bulge+disk", ("bulge_x", "disk_x")),
        ("point", ("x",)),
        ("sersic+point", ("galaxy_x", "nucleus_x")),
    ],
)
def test_models_by_name(model, names):
    space = FitOptions(model=model).space
    assert tuple(name for name in space.names if name.endswith("x")) == names


def exponential_pair(q: float = 1.0) -> torch.Tensor:
    """Two like disks on top of each other with a quarter and three quarters of the light."""
    mags = [-2.5 * math.log10(share) for share in (0.25, 0.75)]
    rows = [[20.0, 21.0, mags[0], 4.0, 1.0, q, 30.0], [20.0, 21.0, mags[1], 4.0, q, 30.0]]
    return torch.tensor([[*rows[0], *rows[1], 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("q", [1.0, 0.3])
def test_two_like_components_are_one(q):
    space = FitOptions(model="bulge+disk").space
    assert combined_names(space) == ("mag", "r_eff", "q", "pa", "bulge_to_total")
    found = combined(exponential_pair(q), space)[0]
    expected = torch.tensor([0.0, 4.0, q, 30.0, 0.25], dtype=torch.float64)
    if q == 1:
        found, expected = found[[0, 1, 2, 4]], expected[[0, 1, 2, 4]]
    # the table of the light within a radius is good to some 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


def test_half_light_of_a_sum_against_pixels():
    """A small bulge across a disk: half of the light of a fine image lies within the ellipse."""
    space = FitOptions(model="bulge+disk").space
    theta = exponential_pair(0.4)
    theta[0, 3], theta[0, 4], theta[0, 5], theta[0, 6] = 1.5, 3.0, 0.8, 120.0
    mag, r_eff, q, pa, _ = combined(theta, space)[0].tolist()
    assert mag == pytest.approx(0.0, abs=1e-12)
    step, side = 0.02, 60.0
    y, x = np.mgrid[-side:side:step, -side:side:step] + step / 2

    def rho2(size, ratio, angle):
        a = math.radians(angle)
        along, across = -math.sin(a) * x + math.cos(a) * y, math.cos(a) * x + math.sin(a) * y
        return (along**2 + (across / ratio) ** 2) / size**2

    def sersic(size, n, ratio, angle):
        b = stats.gamma(2 * n).ppf(0.5)
        light = np.exp(-b * rho2(size, ratio, angle) ** (0.5 / n))
        return light * b ** (2 * n) / (2 * math.pi * n * math.gamma(2 * n) * size**2 * ratio)

    light = 0.25 * sersic(1.5, 3.0, 0.8, 120.0) + 0.75 * sersic(4.0, 1.0, 0.4, 30.0)
    held = light[rho2(r_eff, q, pa) < 1].sum() * step**2
    assert held == pytest.approx(0.5, abs=2e-3)  # pixels, and wings beyond the image


def test_errors_of_a_sum_are_those_of_draws():
    space = FitOptions(model="bulge+disk").space
    theta = exponential_pair(0.5)
    theta[0, 3] = 1.5
    generator = torch.Generator().manual_seed(4)
    root = 0.01 * torch.randn(14, 14, generator=generator, dtype=torch.float64)
    covariance = (root @ root.T)[None]
    noise = torch.randn(20000, 14, generator=generator, dtype=torch.float64) @ root.T
    scatter = combined(theta + noise, space).std(dim=0)
    # 20,000 draws have a deviation to .5 %, and the sum is not quite linear
    torch.testing.assert_close(
        combined_errors(theta, covariance, space)[0], scatter, rtol=0.06, atol=1e-6
    )
