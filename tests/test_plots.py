"""Pictures are drawn, with what they should show, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from plots_helpers import tables

from hybridfit import plots

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
