"""Corner plots and coverage curves: the right numbers are drawn, at the right places."""

from __future__ import annotations

import math

import numpy as np
import pytest
from calibration_helpers import NAMES, experiment
from matplotlib.figure import Figure
from tolerances import SINGLE, TEXT

from hybridfit import plots
from hybridfit.calibration.coverage import coverage_curve
from hybridfit.calibration.diagnostics import ranks
from hybridfit.plots.density import density, enclosing_levels, quantiles

RNG = np.random.default_rng(8)
PARAMETERS = ("x", "mag", "n", "pa")
MEAN = np.array([30.0, 20.0, 2.0, 179.0])
COVARIANCE = np.diag([0.1, 0.02, 0.3, 4.0]) ** 2
COVARIANCE[1, 2] = COVARIANCE[2, 1] = -0.7 * 0.02 * 0.3


def draws(n: int = 400, scale: float = 1.0) -> np.ndarray:
    samples = RNG.multivariate_normal(MEAN, scale**2 * COVARIANCE, size=n)
    samples[:, 3] %= 180
    return samples


def layers() -> list:
    return [
        plots.DrawsLayer("flow", draws(256, 3.0)),
        plots.GaussianLayer("Laplace", MEAN, COVARIANCE),
        plots.DrawsLayer("reconciled", draws(), RNG.uniform(size=400)),
    ]


def panels(figure: Figure, size: int = 4) -> np.ndarray:
    return np.array(figure.axes[: size * size]).reshape(size, size)


def test_three_layers_and_the_truth(tmp_path):
    figure = plots.plot_corner(PARAMETERS, layers(), {"n": 2.5, "pa": 1.0}, title="g1")
    figure.savefig(tmp_path / "a.png")
    grid = panels(figure)
    assert [axis.get_xlabel() for axis in grid[-1]] == ["x [pix]", "mag", "n", "pa [deg]"]
    legend = figure.legends[0]
    assert legend.get_title().get_text() == "g1"
    assert [text.get_text() for text in legend.get_texts()] == [
        "flow",
        "Laplace",
        "reconciled",
        "truth",
    ]
    # angles on both sides of 180 are one hill, and a truth of 1 is drawn at 181
    low, high = grid[3, 3].get_xlim()
    assert 140 < low < 179 < high < 220
    lines = [line.get_xdata() for line in grid[3, 3].lines]
    assert any(np.allclose(np.asarray(x, dtype=float), 181.0, atol=TEXT) for x in lines)
    # the axes hold the main layer, and another three times as wide no more than fits
    low, high = grid[0, 0].get_xlim()
    assert 4 * 0.1 < high - low < 16 * 0.1
    title = grid[2, 2].get_title()
    assert float(title[1:5]) == pytest.approx(2.0, abs=0.1)


def test_ellipses_hold_what_they_say():
    """68 and 95 % of a Gaussian lie within; one with the axes swapped (a twin) holds less."""
    figure = plots.plot_corner(PARAMETERS, [plots.GaussianLayer("Laplace", MEAN, COVARIANCE)])
    axis = panels(figure)[2, 1]  # n against mag
    samples = draws(20000)[:, [1, 2]]
    for line, share in zip(axis.lines, (0.68, 0.95), strict=True):
        assert inside(np.column_stack(line.get_data()), samples) == pytest.approx(share, abs=0.01)
        mirrored = samples * [-1, 1] + [2 * MEAN[1], 0]
        assert inside(np.column_stack(line.get_data()), mirrored) < share - 0.03


def inside(outline: np.ndarray, points: np.ndarray) -> float:
    from matplotlib.path import Path

    return float(Path(outline).contains_points(points).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_contours_of_draws_hold_what_they_say(weighted: bool):
    """The level of 68 % of 2000 draws, against the mass of the true Gaussian above it."""
    n = 2000
    samples = RNG.multivariate_normal([0, 0], [[1.0, 0.8], [0.8, 1.0]], size=n)
    weights = np.ones(n) / n
    if weighted:  # drawn too wide, and weighted back
        samples = 1.5 * samples
        precision = np.linalg.inv([[1.0, 0.8], [0.8, 1.0]])
        square = np.einsum("si,ij,sj->s", samples, precision, samples)
        weights = np.exp(-0.5 * square * (1 - 1 / 1.5**2))
        weights /= weights.sum()
    axis = np.linspace(-5, 5, 100)
    height = density(samples, weights, axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    assert height.sum() * cell == pytest.approx(1, abs=0.01)
    levels = enclosing_levels(height, samples, weights, axis, axis, (0.68, 0.95))
    assert levels[0] < levels[1]
    # the density of that Gaussian at its 95 and 68 % contours
    peak = 1 / (2 * math.pi * math.sqrt(1 - 0.8**2))
    np.testing.assert_allclose(levels, [0.05 * peak, 0.32 * peak], rtol=0.25, atol=SINGLE)
    # no wider than the draws: the kernel's own width is taken off
    x, y = np.meshgrid(axis, axis)
    variance = (height * x**2).sum() / height.sum()
    assert variance == pytest.approx(1.0, abs=0.12)
    assert (height * x * y).sum() / height.sum() == pytest.approx(0.8, abs=0.12)


def test_quantiles_of_weighted_draws():
    samples = RNG.normal(size=(4000, 2))
    weights = np.where(samples[:, 0] > 0, 3.0, 1.0)
    weights /= weights.sum()
    found = quantiles(samples, weights, (0.25, 0.5))
    # a quarter of the mass lies below 0 in the first column, the second does not know of it
    assert found[0, 0] == pytest.approx(0.0, abs=0.05)
    assert found[1, 1] == pytest.approx(0.0, abs=0.06)


def test_some_parameters_in_another_order(tmp_path):
    figure = plots.plot_corner(PARAMETERS, layers(), show=("n", "mag"))
    figure.savefig(tmp_path / "a.png")
    grid = panels(figure, 2)
    assert [axis.get_xlabel() for axis in grid[-1]] == ["n", "mag"]
    assert grid[0, 0].get_xlim()[0] < 2.0 < grid[0, 0].get_xlim()[1]


def test_what_does_not_vary_or_exist_is_left_out(tmp_path):
    samples = np.column_stack([draws(), np.full(400, 7.0)])
    samples[:5, 1] = np.nan
    names = (*PARAMETERS, "sky")
    nothing = plots.DrawsLayer("none", np.full((10, 5), np.nan))
    unknown = plots.GaussianLayer("no fit", np.full(5, np.nan), np.full((5, 5), np.nan))
    layer = plots.DrawsLayer("draws", samples)
    figure = plots.plot_corner(names, [nothing, layer, unknown])
    figure.savefig(tmp_path / "a.png")
    assert len(figure.axes) == 16
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["draws"]
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.plot_corner(names, [nothing, unknown])


def test_few_draws_and_one_parameter(tmp_path):
    plots.plot_corner(PARAMETERS, [plots.DrawsLayer("few", draws(3))]).savefig(tmp_path / "a.png")
    one = plots.plot_corner(PARAMETERS, layers(), show=("n",))
    one.savefig(tmp_path / "b.png")
    assert len(one.axes) == 1


def test_misuse():
    with pytest.raises(ValueError, match="'size' is not among"):
        plots.plot_corner(PARAMETERS, layers(), show=("size",))
    with pytest.raises(ValueError, match="layer 'a' have shape \\(5, 3\\), expected \\(5, 4\\)"):
        plots.plot_corner(PARAMETERS, [plots.DrawsLayer("a", np.ones((5, 3)))])
    with pytest.raises(ValueError, match="covariance of layer 'b'"):
        plots.plot_corner(PARAMETERS, [plots.GaussianLayer("b", MEAN, np.ones((3, 3)))])
    with pytest.raises(ValueError, match="curves has no entry"):
        plots.plot_methods({})


def test_coverage_of_several_methods(tmp_path):
    """The exact posterior stays on the diagonal that is drawn, its twin of half the width not."""
    curves = {
        label: coverage_curve(ranks(experiment(twin, 500, 64).sbc), NAMES)
        for label, twin in (("posterior", "exact"), ("covariance", "narrow"))
    }
    curves["covariance"].remove_column("pa")
    figure = plots.plot_methods(curves, "clean")
    figure.savefig(tmp_path / "a.png")
    assert [axis.get_title(loc="left") for axis in figure.axes[:5]] == list(NAMES)
    for axis in figure.axes[:4]:
        drawn = {line.get_label(): np.asarray(line.get_data()) for line in axis.lines}
        assert np.abs(np.subtract(*drawn["posterior"])).max() < 0.08
        assert np.subtract(*drawn["covariance"]).max() > 0.2
    labels = [line.get_label() for line in figure.axes[4].lines]
    assert "covariance" not in labels


def test_axes_stay_where_parameters_can_be(tmp_path):
    """A size whose error is as large as itself: the Gaussian is below 0, the axis is not."""
    names = ("r_eff", "q", "n_2")
    layer = plots.GaussianLayer("Laplace", [2.0, 0.9, 1.0], np.diag([2.0, 0.3, 1.0]) ** 2)
    figure = plots.plot_corner(names, [layer])
    figure.savefig(tmp_path / "a.png")
    grid = panels(figure, 3)
    assert grid[0, 0].get_xlim()[0] == 0
    assert grid[1, 1].get_xlim()[1] == 1
    assert grid[2, 2].get_xlim()[0] == 0
    assert grid[1, 0].get_ylim()[1] == 1
