"""The benchmark of costs: its laws find what they were made from, and wrong fits stop it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling, scaling_jobs
from benchmarks.scaling_laws import power_law, straight_line


def test_power_law_finds_the_exponent_and_the_scatter() -> None:
    x = np.array([32, 64, 128, 256])
    law = power_law(x, 3e-4 * x**1.7)
    assert law.exponent == pytest.approx(1.7, abs=1e-9)
    assert law.scale == pytest.approx(3e-4)
    assert law.scatter == pytest.approx(0, abs=1e-9)
    assert law.at(512) == pytest.approx(3e-4 * 512**1.7)
    # up and down by a tenth in turn: nearly all of it stays as scatter
    wavy = power_law(x, 3e-4 * x**1.7 * np.exp([0.1, -0.1, -0.1, 0.1]))
    assert wavy.scatter == pytest.approx(0.1)


def test_straight_line_weighs_small_runs_as_much_as_large_ones() -> None:
    line = straight_line([100, 1000, 10_000], [2.5, 7.0, 52.0])
    assert (line.fixed, line.each) == (pytest.approx(2.0), pytest.approx(5e-3))
    assert line.at(1e6) == pytest.approx(5002)


@pytest.mark.parametrize("x", [[3.0], [3.0, 3.0]])
def test_laws_want_two_places(x: list[float]) -> None:
    for law in (power_law, straight_line):
        with pytest.raises(ValueError, match="expected two different x"):
            law(x, [1.0] * len(x))


def test_extrapolation_that_does_not_hold_says_so() -> None:
    numbers = [100.0, 1000.0, 10_000.0]
    assert scaling.extrapolated(numbers, [1.5, 6.0, 51.0])["holds"]
    grown = scaling.extrapolated(numbers, [1.5, 6.0, 70.0])  # slower the longer it runs
    assert not grown["holds"]
    assert grown["measured over predicted"] == pytest.approx(70 / 51, abs=2e-3)


def test_wrong_fits_stop_the_run() -> None:
    good = {"failures": 1, "n": 20, "pull": 1.05}
    scaling.check(good)
    with pytest.raises(SystemExit, match="5 of 20 fits failed"):
        scaling.check({**good, "failures": 5})
    with pytest.raises(SystemExit, match=r"pulls are 2\.0 wide"):
        scaling.check({**good, "pull": 2.0})


def test_what_was_measured_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    assert scaling.kept(path) == {}
    path.write_text('{"figures": {"side": {"rows": []}}, "environment": {}}')
    assert scaling.kept(path) == {"side": {"rows": []}}


def test_a_job_validates_and_tells_its_stages() -> None:
    row = scaling_jobs.run_here({"kind": "memory", "side": 32, "n": 4, "compiled": False})
    assert row["failures"] == 0
    assert set(row["stages"]) == {"predicting", "fitting", "posterior", "diagnosing"}
    assert 0 < sum(row["stages"].values()) <= row["seconds"]
    # three stages are nearly all of it; the rest is putting the result together
    assert sum(row["stages"].values()) > 0.8 * row["seconds"]
    assert row["draws"] >= 100
    with pytest.raises(ValueError, match="kind is 'disk', expected one of memory, files"):
        scaling_jobs.run_here({"kind": "disk"})


def test_composed_galaxies_hold_what_their_components_do() -> None:
    options = scaling_jobs.hf.FitOptions(("sersic", "sersic"))
    cutouts, theta = scaling_jobs.composed(3, 64, options)
    flux = (10 ** (0.4 * (25.0 - theta[:, [2, 9]]))).sum(dim=1)
    seen = cutouts.image.sum(dim=(1, 2))
    # the wings of a nucleus of n = 3 outside of the stamp, and the noise of 4,096 pixels (1.3)
    assert np.allclose(seen / flux, 1.0, atol=0.06)
    assert (theta[:, 9] < theta[:, 2]).all()  # the disk is the brighter one


@pytest.mark.slow
def test_the_whole_runs_in_small(tmp_path: Path) -> None:
    sys_argv, sys.argv = sys.argv, ["scaling.py", "--quick", "--out", str(tmp_path)]
    try:
        scaling.main()
    finally:
        sys.argv = sys_argv
    assert (tmp_path / "scaling_quick.png").stat().st_size > 10_000
    assert (tmp_path / "scaling_quick.json").exists()
