"""Pictures are drawn, with what they should show, whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from plots_helpers import tables

from hybridfit import plots
from hybridfit.plots.panels import AsinhStretch
from hybridfit.plots.style import drawable, label_of, shortened, with_error

RNG = np.random.default_rng(2)


def test_residuals(tmp_path):
    image = RNG.normal(size=(3, 20, 24))
    model = np.zeros_like(image)
    mask = np.zeros(image.shape, bool)
    mask[1], mask[0, :5] = True, True
    model[2] = np.nan  # a galaxy that could not be fitted
    figure = plots.plot_residuals(image, model, image * 0 + 1, mask, ["one", "two", "three"])
    figure.savefig(tmp_path / "a.png")
    rows = figure.subfigs
    assert [row.get_suptitle() for row in rows] == ["one", "two", "three"]
    residual = rows[0].axes[2].images[0]
    assert residual.get_clim() == (-5, 5)
    assert residual.get_array()[:5].mask.all()


def test_truth(tmp_path):
    table, truth = tables()
    figure = plots.plot_truth(table, truth)
    figure.savefig(tmp_path / "a.png")
    assert len(figure.axes) == len(plots.LABELS) + 1
    table["mag_err"][3] = np.nan
    plots.plot_truth(table[:4], truth).savefig(tmp_path / "b.png")


def test_angles_are_compared_the_short_way():
    table, truth = tables(2)
    table["pa"], truth = [179.0, 1.0], truth[::-1]
    truth["pa"] = [1.0, 178.0]
    assert plots.offsets(table, truth, "pa") == pytest.approx([-2.0, 3.0])


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (20.2651, 0.0471, "20.265 ± 0.047"),
        (36.04, 1.71, "36.0 ± 1.7"),
        (1234.5, 56.0, "1234 ± 56"),
        (-1.573e-13, 1.8e-14, "(-1.57 ± 0.18) 1e-13"),
        (0.00007, 0.00021, "0.00007 ± 0.00021"),
        (1.0, 1e-8, "1.000000000 ± 0.000000010"),
        (2.0, math.nan, "2"),
        (math.nan, 1.0, "–"),
    ],
)
def test_values_are_quoted_to_two_digits_of_their_error(value: float, error: float, text: str):
    assert with_error(value, error) == text


def test_labels_have_units():
    assert [label_of(name) for name in ("r_eff_2", "pa", "mag_1", "sky", "other")] == [
        "r_eff_2 [pix]",
        "pa [deg]",
        "mag_1",
        "sky [flux/pix]",
        "other",
    ]
    assert shortened("a" * 50 + "b" * 50, 23) == "a" * 10 + "..." + "b" * 10
    assert drawable("one\n two \u4e16") == "one two \\u4e16"


def test_ticks_of_the_stretch_are_round_and_apart():
    for stretch in (
        AsinhStretch(0.0, 3.0, -2.0, 1e5),
        AsinhStretch(1000.0, 3.0, 990.0, 5000.0),
        AsinhStretch(0.0, 1e-12, -1e-12, 1e-9),
        AsinhStretch(0.0, 1e-3, 1e-3, 2e-3),
    ):
        ticks = np.array(stretch.ticks)
        assert 1 <= len(ticks) <= 9
        assert ((ticks >= stretch.low) & (ticks <= stretch.high)).all()
        place = stretch.forward(ticks)
        span = np.diff(stretch.forward([stretch.low, stretch.high]))
        assert (np.diff(place) > 0.1 * span).all()
        assert all(float(f"{tick:.4g}") == pytest.approx(tick) for tick in ticks)
        np.testing.assert_allclose(stretch.inverse(place), ticks, atol=1e-9 * stretch.high)
