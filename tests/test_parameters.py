"""Parameters: whitened, render and physical coordinates, their derivatives, and the prior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tolerances import DOUBLE

from hybridfit.model.parameters import PARAMETERS, ParameterSpace
from hybridfit.model.prior import LogNormal, Prior

ONE = ParameterSpace()
TWO = ParameterSpace.of_shapes((("n",), ()), sky="plane")
FIXED = ParameterSpace.of_shapes((("n",),), sky="fixed")
SPACES = [ONE, TWO, FIXED]
BOX = torch.tensor([[31.5, 20.0, 16.0, 8.0]], dtype=torch.float64)


def whitened_values(n: int, size: float) -> st.SearchStrategy[list[float]]:
    """Free vectors of ``n`` numbers within ``size``, zeros and edges among them."""
    return st.lists(st.floats(-size, size), min_size=n, max_size=n)


def linear_of(space: ParameterSpace, batch: int) -> torch.Tensor:
    """Fluxes and sky terms, one sky term where the sky is fixed."""
    sky = max(space.n_linear - space.n_components, 1)
    flux = 100.0 * 3.0 ** torch.arange(space.n_components, dtype=torch.float64)
    terms = torch.tensor([0.3, -0.01, 0.02], dtype=torch.float64)[:sky]
    return torch.cat([flux, terms]).expand(batch, -1).clone()


# --- whitened <-> render coordinates ---------------------------------------------------------


@given(whitened_values(TWO.n_nonlinear, 2.8))
@settings(max_examples=200, deadline=None)
def test_whitened_to_render_coordinates_and_back(values: list[float]) -> None:
    """2.8: a start is held at |u| = 3.2 (the centre) and 4 (the rest), as documented."""
    whitened = torch.tensor([values], dtype=torch.float64)
    coords, _ = TWO.from_whitened(whitened, TWO.constants(BOX))
    # 1e-6: q = 1 within rounding is the square root of a rounding error in u
    torch.testing.assert_close(
        TWO.to_whitened(coords, TWO.constants(BOX)), whitened, rtol=0, atol=1e-6
    )


@given(whitened_values(TWO.n_nonlinear, 50.0))
@settings(max_examples=300, deadline=None)
def test_bounds_are_never_crossed(values: list[float]) -> None:
    whitened = torch.tensor([values], dtype=torch.float64)
    coords, slope = TWO.from_whitened(whitened, TWO.constants(BOX))
    assert torch.isfinite(coords).all()
    assert torch.isfinite(slope).all()
    theta, jacobian = TWO.to_physical(coords, linear_of(TWO, 1), torch.zeros(1))
    assert torch.isfinite(theta).all()
    assert torch.isfinite(jacobian).all()
    row = dict(zip(TWO.names, theta[0].tolist(), strict=True))
    prior, tiny = TWO.prior, 1e-9  # rounding of exp(log(bound))
    for k in ("_1", "_2"):
        assert abs(row["x" + k] - 31.5) <= 16.0
        assert abs(row["y" + k] - 20.0) <= 8.0
        r_circ = row["r_eff" + k] * math.sqrt(row["q" + k])
        assert prior.r_circ.low * (1 - tiny) <= r_circ <= prior.r_circ.high * (1 + tiny)
        assert prior.q_min * (1 - tiny) <= row["q" + k] <= 1.0
        assert 0.0 <= row["pa" + k] < 180.0
    assert prior.n.low * (1 - tiny) <= row["n_1"] <= prior.n.high * (1 + tiny)


@given(st.floats(0.01, 100.0), st.floats(0.02, 20.0), st.floats(1.01, 1e4), st.floats(1.01, 1e4))
@settings(max_examples=200, deadline=None)
def test_any_cut_holds_and_rises(median: float, sigma: float, below: float, above: float) -> None:
    """Users may cut the prior anywhere: the value stays within, and never falls with u."""
    prior = LogNormal(median, sigma, median / below, median * above)
    u = torch.linspace(-50, 50, 2001, dtype=torch.float64)
    value, slope = prior.log_value(u)
    assert torch.isfinite(value).all()
    assert (value >= math.log(prior.low) - 1e-9).all()
    assert (value <= math.log(prior.high) + 1e-9).all()
    assert (value.diff() >= -1e-12).all()
    assert (slope >= 0).all()


def test_log_normal_is_the_cut_normal_it_says() -> None:
    """u is standard normal where ln(value) is the truncated normal of scipy."""
    prior = LogNormal(2.0, 0.7, 0.5, 5.0)
    u = torch.linspace(-3, 3, 13, dtype=torch.float64)
    low, high = (math.log(v / 2.0) / 0.7 for v in (0.5, 5.0))
    expected = stats.truncnorm.ppf(stats.norm.cdf(u), low, high, loc=math.log(2), scale=0.7)
    np.testing.assert_allclose(prior.log_value(u)[0], expected, rtol=0, atol=1e-10)


def test_a_start_outside_the_prior_goes_to_its_edge() -> None:
    inside, _ = ONE.from_whitened(torch.zeros(1, 6, dtype=torch.float64), ONE.constants(BOX))
    for column, value in ((0, 1e4), (1, -1e4), (2, 50.0), (2, -50.0), (3, 9.0), (4, 30.0)):
        coords = inside.clone()
        coords[0, column] = value
        whitened = ONE.to_whitened(coords, ONE.constants(BOX))
        assert torch.isfinite(whitened).all()
        assert whitened.abs().max() <= 4.0
        assert whitened.abs().max() > 3.0


# --- derivatives ----------------------------------------------------------------------------


def central_difference(function, point: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """d function / d point of (1, n) -> (1, m), as (m, n): error ~ step^2 + 1e-16 / step."""
    columns = []
    for j in range(point.shape[1]):
        move = torch.zeros_like(point)
        move[0, j] = step
        columns.append((function(point + move) - function(point - move))[0] / (2 * step))
    return torch.stack(columns, dim=1)


@given(whitened_values(ONE.n_nonlinear, 4.5))
@settings(max_examples=100, deadline=None)
def test_jacobian_of_render_coordinates_by_whitened(values: list[float]) -> None:
    whitened = torch.tensor([values], dtype=torch.float64)
    _, jacobian = ONE.from_whitened(whitened, ONE.constants(BOX))
    expected = central_difference(lambda u: ONE.from_whitened(u, ONE.constants(BOX))[0], whitened)
    # 1e-7: the difference's own error; the scale of the coordinates is 1 to 20
    torch.testing.assert_close(jacobian[0], expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("space", [ONE, TWO], ids=["one", "two"])
def test_log_volume_is_the_determinants(space: ParameterSpace) -> None:
    rng = torch.Generator().manual_seed(4)
    whitened = 2 * torch.randn(200, space.n_nonlinear, generator=rng, dtype=torch.float64).clamp(
        -2, 2
    )
    box = BOX.expand(200, 4)
    _, jacobian = space.from_whitened(whitened, space.constants(box))
    expected = torch.linalg.slogdet(jacobian)[1]
    # where galaxies are thin the floor of q makes the matrix's determinant lose some digits
    volume = space.log_volume(whitened, space.constants(box))
    torch.testing.assert_close(volume, expected, rtol=0, atol=1e-8)
    positions = torch.log(jacobian.diagonal(dim1=1, dim2=2)[:, [s.start for s in space.slices()]])
    others = torch.log(jacobian.diagonal(dim1=1, dim2=2)[:, [s.start + 1 for s in space.slices()]])
    rest = expected - positions.sum(dim=1) - others.sum(dim=1)
    without = space.log_volume(whitened, space.constants(box), positions=False)
    torch.testing.assert_close(without, rest, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-6, 1e-4, 3e-4, 1e-2])
def test_jacobian_is_smooth_where_a_galaxy_is_round(size: float) -> None:
    """q = 1 is no edge: the map is regular there, on both sides of its own small-g branch."""
    whitened = torch.zeros(1, 6, dtype=torch.float64)
    whitened[0, 4], whitened[0, 5] = 0.6 * size, -0.8 * size
    _, jacobian = ONE.from_whitened(whitened, ONE.constants(BOX))
    expected = central_difference(lambda u: ONE.from_whitened(u, ONE.constants(BOX))[0], whitened)
    # 2e-5: below g = 1e-4 the floor's slope, of order g, is left out
    torch.testing.assert_close(jacobian[0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: f"{s.n_components}-{s.sky}")
def test_jacobian_of_physical_by_render_coordinates_and_linear(space: ParameterSpace) -> None:
    rng = torch.Generator().manual_seed(1)
    zeropoint = torch.tensor([25.0], dtype=torch.float64)
    for _ in range(20):
        whitened = torch.randn(1, space.n_nonlinear, generator=rng, dtype=torch.float64)
        coords, _ = space.from_whitened(whitened, space.constants(BOX))
        linear = linear_of(space, 1)
        whole = torch.cat([coords, linear], dim=1)

        def physical(v: torch.Tensor, space: ParameterSpace = space) -> torch.Tensor:
            return space.to_physical(
                v[:, : space.n_nonlinear], v[:, space.n_nonlinear :], zeropoint
            )[0]

        _, jacobian = space.to_physical(coords, linear, zeropoint)
        expected = central_difference(physical, whole)
        # a jump of 180 deg of the angle between the two sides is no derivative
        wrapped = expected.abs() > 1e6
        expected = torch.where(wrapped, jacobian[0], expected)
        # relative to each row: pa has hundreds of degrees per unit of eta
        scale = jacobian[0].abs().amax(dim=1, keepdim=True).clamp_min(1)
        assert ((jacobian[0] - expected).abs() / scale).max() < 1e-6


# --- physical -------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=lambda s: f"{s.n_components}-{s.sky}")
def test_physical_to_render_coordinates_and_back(space: ParameterSpace) -> None:
    rng = torch.Generator().manual_seed(2)
    coords, _ = space.from_whitened(
        torch.randn(50, space.n_nonlinear, generator=rng, dtype=torch.float64),
        space.constants(BOX.expand(50, 4)),
    )
    linear = linear_of(space, 50)
    zeropoint = torch.full((50,), 25.0, dtype=torch.float64)
    theta, _ = space.to_physical(coords, linear, zeropoint)
    again_coords, again_linear = space.from_physical(theta, zeropoint)
    torch.testing.assert_close(again_coords, coords, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(again_linear, linear, rtol=1e-11, atol=1e-11)


def test_physical_values_are_what_their_names_say() -> None:
    """One galaxy by hand: flux 100 at zero point 25 is mag 20; r_circ = r_eff sqrt(q)."""
    theta = torch.tensor([[30.0, 21.0, 20.0, 4.0, 2.5, 0.36, 30.0, 0.7]], dtype=torch.float64)
    coords, linear = ONE.from_physical(theta, torch.tensor([25.0], dtype=torch.float64))
    g = -math.log(0.36)
    expected = [30.0, 21.0, math.log(4.0 * 0.6), math.log(2.5), g * 0.5, g * math.sqrt(0.75)]
    np.testing.assert_allclose(coords[0], expected, rtol=1e-12, atol=DOUBLE)
    np.testing.assert_allclose(linear[0], [100.0, 0.7], rtol=1e-12, atol=DOUBLE)


@given(st.floats(-1e4, 1e4), st.floats(0.02, 0.999))
@settings(max_examples=100, deadline=None)
def test_angles_come_back_in_the_half_circle(pa: float, q: float) -> None:
    theta = torch.tensor([[0.0, 0.0, 20.0, 3.0, 1.0, q, pa, 0.0]], dtype=torch.float64)
    zeropoint = torch.zeros(1, dtype=torch.float64)
    back, _ = ONE.to_physical(*ONE.from_physical(theta, zeropoint), zeropoint)
    found = back[0, 6].item()
    assert 0.0 <= found < 180.0
    # 1e-6 deg: the angle of an eta of 1e-3 with rounding 1e-16 x 1e4 deg
    assert abs((found - pa + 90.0) % 180.0 - 90.0) < 1e-6


def test_a_round_galaxy_has_finite_derivatives() -> None:
    zeropoint = torch.zeros(1, dtype=torch.float64)
    theta = torch.tensor([[0.0, 0.0, 20.0, 3.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    back, jacobian = ONE.to_physical(*ONE.from_physical(theta, zeropoint), zeropoint)
    torch.testing.assert_close(back[:, :6], theta[:, :6])  # its angle means nothing
    assert torch.isfinite(jacobian).all()


def test_rows_do_not_mix() -> None:
    rng = torch.Generator().manual_seed(3)
    whitened = torch.randn(7, ONE.n_nonlinear, generator=rng, dtype=torch.float64)
    box = BOX + torch.rand(7, 4, generator=rng, dtype=torch.float64)
    coords, jacobian = ONE.from_whitened(whitened, ONE.constants(box))
    for i in range(7):
        one, slope = ONE.from_whitened(whitened[i : i + 1], ONE.constants(box[i : i + 1]))
        assert torch.equal(one[0], coords[i])
        assert torch.equal(slope[0], jacobian[i])


# --- names ----------------------------------------------------------------------------------


def test_names() -> None:
    assert ONE.names == ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky")
    assert FIXED.names == ONE.names  # a fixed sky is reported too
    assert TWO.names == (
        *("x_1", "y_1", "mag_1", "r_eff_1", "n_1", "q_1", "pa_1"),
        *("x_2", "y_2", "mag_2", "r_eff_2", "q_2", "pa_2"),
        *("sky", "sky_dx", "sky_dy"),
    )


@pytest.mark.parametrize("space", SPACES, ids=lambda s: f"{s.n_components}-{s.sky}")
def test_counts_agree_with_names_and_every_name_is_described(space: ParameterSpace) -> None:
    held = space.sky == "fixed"
    assert space.n_nonlinear + space.n_linear + held == len(space.names)
    assert space.slices()[-1].stop == space.n_nonlinear
    for name in space.names:
        assert name.rstrip("_0123456789") in PARAMETERS


# --- prior and errors -----------------------------------------------------------------------


def test_prior_from_yaml() -> None:
    text = "{n: {median: 2, sigma: 0.5}, r_circ: {high: 50}, q_min: 0.05, position: 0.1}"
    prior = Prior.from_mapping(yaml.safe_load(text))
    default = Prior()
    assert prior.n == LogNormal(2, 0.5, default.n.low, default.n.high)
    assert prior.r_circ == replace(default.r_circ, high=50)
    assert (prior.q_min, prior.q_core, prior.position) == (0.05, default.q_core, 0.1)
    assert Prior.from_mapping({}) == default


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{shapes: {beta: {median: 2}}}", "prior shapes beta lacks 'sigma'"),
        ("{nn: {median: 2}}", "unknown option 'nn' in prior"),
        ("{n: {medain: 2}}", "did you mean 'median'"),
        ("{n: {median: 20}}", "low <= median <= high"),
        ("{n: {low: -1}}", "low is -1, expected"),
        ("{n: {sigma: 0}}", "sigma"),
        ("{r_circ: {low: 5, high: 5, median: 5}}", "low < high"),
        ("{n: {median: .nan}}", "median is nan, expected"),
    ],
)
def test_prior_errors_say_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Prior.from_mapping(yaml.safe_load(text))


def test_unknown_sky() -> None:
    with pytest.raises(ValueError, match="'flat', expected one of fixed, constant, plane"):
        ParameterSpace(sky="flat")
