"""Pictures are drawn, with what they should show, whatever the numbers are."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from astropy.table import Table

from hybridfit import plots

RNG = np.random.default_rng(2)


def tables(n: int = 20) -> tuple[Table, Table]:
    truth = Table({name: RNG.uniform(1, 5, n) for name in plots.LABELS})
    truth["id"] = [f"g{i}" for i in range(n)]
    table = truth.copy()
    for name in plots.LABELS:
        table[name] += RNG.normal(0, 0.1, n)
        table[f"{name}_err"] = 0.1
    table["flags"] = np.arange(n) % 5 // 4
    return table[::-1], truth


def test_residuals(tmp_path):
    image = RNG.normal(size=(3, 20, 24))
    model = np.zeros_like(image)
    mask = np.zeros(image.shape, bool)
    mask[1], mask[0, :5] = True, True
    model[2] = np.nan  # a galaxy that could not be fitted
    figure = plots.plot_residuals(image, model, image * 0 + 1, mask, ["one", "two", "three"])
    figure.savefig(tmp_path / "a.png")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in panels[::3]] == ["one", "two", "three"]
    assert panels[2].images[0].get_clim() == (-5, 5)
    assert panels[2].images[0].get_array()[:5].mask.all()
    assert not matplotlib.pyplot.get_fignums() if hasattr(matplotlib, "pyplot") else True


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
