"""Comparison of fit results: offsets, intervals, what is nearer the truth; result files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hybridfit as hf
from validation import galfit_bd, galfit_real, reference_table, saved_results
from validation.common import add_run, is_catastrophic
from validation.saved_results import FitResults, gaussian

TRUE = np.array([[31.0, 32.0, 20.0, 4.0, 2.0, 0.5, 1.0]] * 200)


def made(values: np.ndarray, errors: np.ndarray, chi2: float = 100.0, pixels: float = 7.0):
    size = len(values)
    ends = gaussian(values, errors)
    return FitResults("x", values, errors, *ends, np.full(size, chi2), np.full(size, pixels))


def scattered(width: float, seed: int = 0) -> np.ndarray:
    """Values whose errors of .02 are ``width`` times too small; angles wrap at 180."""
    values = TRUE + width * 0.02 * np.random.default_rng(seed).standard_normal(TRUE.shape)
    values[:, 6] %= 180
    return values


@pytest.mark.parametrize(("width", "expected"), [(1.0, 0.68), (2.0, 0.383)])
def test_coverage_distinguishes_right_errors_from_small_ones(width: float, expected: float) -> None:
    report = saved_results.accuracy_summary(
        made(scattered(width), np.full(TRUE.shape, 0.02)), TRUE, np.ones(200, bool)
    )
    # 1,400 numbers: 1.3 % binomial; 2 sigma contain erf(1 / 2 / sqrt 2) of a twice too wide scatter
    assert np.mean(list(report["cover_68"].values())) == pytest.approx(expected, abs=0.04)
    assert np.mean(list(report["pull_std"].values())) == pytest.approx(width, rel=0.06)
    assert report["catastrophic"] == 0


def test_offsets_go_the_short_way_and_in_ln() -> None:
    values = TRUE[:1].copy()
    values[0, 3], values[0, 6] = 8.0, 179.0
    off = saved_results.offsets(values, TRUE[:1])
    assert off[0, 6] == pytest.approx(-2)
    assert off[0, 3] == pytest.approx(np.log(2))
    assert values[0, 6] == 179.0  # its argument stays as it was


def test_catastrophic_is_magnitude_size_or_nan() -> None:
    values = TRUE[:4].copy()
    values[1, 2] += 0.6
    values[2, 3] *= 2.1
    values[3] = np.nan
    assert is_catastrophic(values[:, 2], values[:, 3], TRUE[:4]).tolist() == [
        False,
        True,
        True,
        True,
    ]
    known = made(values, np.full(values.shape, 9.0))
    assert not saved_results.covered(known, TRUE[:4])[3].any()


def test_nearer_counts_galaxies_with_both_results() -> None:
    ours, theirs = TRUE[:4].copy(), TRUE[:4].copy()
    ours[:, 2] += 0.01
    theirs[:3, 2] += (0.02, 0.005, 0.02)
    theirs[3] = np.nan
    pixels, errors = np.array([5.0, 5.0, 5.0, 5.0]), np.full((4, 7), 0.1)
    a = FitResults("a", ours, errors, *gaussian(ours, errors), np.full(4, 100.0), pixels)
    b = FitResults(
        "b", theirs, errors, *gaussian(theirs, errors), np.array([130, 99.8, 100.0, np.nan]),
        np.array([9.0, 4.0, 9.0, np.nan]),
    )  # fmt: skip
    report = saved_results.nearer(a, b, TRUE[:4], np.ones(4, bool))
    assert report["galaxies"] == 3
    assert report["nearer"]["mag"] == pytest.approx(2 / 3, abs=1e-3)
    assert report["nearer in pixels"] == pytest.approx(2 / 3, abs=1e-3)
    assert (report["ours more than .1 above"], report["ours more than 10 below"]) == (1, 1)
    apart = saved_results.distances(a, b, np.arange(4) < 2)
    assert apart["within 1"] == 1.0


def test_bulge_and_disk_are_distinguished() -> None:
    options = hf.FitOptions(("sersic", "sersic"))
    bulge, disk = np.full((2, 7), 1.0), np.full((2, 7), 1.0)
    bulge[:, 3], disk[:, 3], bulge[:, 2], disk[:, 2] = 2.0, 9.0, 21.0, 20.0
    theta = galfit_bd.theta_of(bulge, disk, options)
    theta[1] = galfit_bd.theta_of(disk[:1], bulge[:1], options)[0]  # the other way round
    assert theta.shape == (2, len(options.space.names))
    none = torch.zeros(2)
    covariance = torch.zeros(2, theta.shape[1], theta.shape[1])
    fit = hf.Fit(options.space, theta, covariance, none, none.long(), none.long(), none.long())
    found = galfit_bd.summary(*galfit_bd.parts_of(fit))
    share = 1 / (1 + 10**0.4)
    assert found[:, 1] == pytest.approx(share)
    assert found[:, 2] == pytest.approx(np.log(2.0))
    exponential = hf.FitOptions(("sersic", "exponential"))
    assert galfit_bd.theta_of(bulge, disk, exponential).shape[1] == len(exponential.space.names)


def row(apart: float, chi2: float = 100.0, **more: float) -> dict[str, float]:
    usual = {"dof_less_galfit": 0, "sigma_made": False, "beyond_prior": False}
    return {"apart": apart, "chi2": chi2, "chi2_galfit": 100.0, **usual, **more}


@pytest.mark.parametrize(
    ("continuous", "grid", "without_prior", "text"),
    [
        (row(2.0), row(9.0), None, ""),
        (row(5.0), row(0.5), None, "convolution on the image's grid"),
        (row(5.0), row(5.0), row(1.0), "the prior"),
        (row(5.0), row(5.0), row(9.0, 90.0), "a lower minimum here"),
        (row(5.0), row(5.0), row(9.0, 110.0), "a lower minimum there"),
        (row(5.0), row(5.0), row(9.0, 100.5), "two parameter sets of one chi2"),
        (row(5.0), row(5.0), row(9.0, 90.0, dof_less_galfit=7), "other pixels"),
        (row(5.0), row(5.0), row(9.0, sigma_made=True), "the sigma that GALFIT made itself"),
        (row(5.0), row(5.0), row(float("nan")), "a component of negative flux here"),
        (row(5.0), row(float("nan")), row(9.0, 90.0), "a lower minimum here"),
    ],
)
def test_causes(continuous: dict, grid: dict, without_prior: dict | None, text: str) -> None:
    ways = {galfit_real.CONTINUOUS: continuous, galfit_real.GRID: grid}
    if without_prior is not None:
        ways[galfit_real.GRID_ML] = without_prior
    assert galfit_real.cause(ways) == text


def test_what_lies_beyond_the_prior() -> None:
    values = np.array([[1, 1, 20, 5.0, 2.0, 0.5, 0.0], [1, 1, 20, 5.0, 1.0, 0.5, 0.0]])
    assert not galfit_real.beyond_prior(values)
    values[1, 4] = 20.5  # GALFIT's own indices end at 20
    assert galfit_real.beyond_prior(values)


def test_saved_runs_are_read_in_our_conventions(tmp_path: Path) -> None:
    (tmp_path / "galfit3").mkdir()
    names = ["id", "mode", "verdict", "sigma", "chi2", "ndof", *galfit_real.COLUMNS]
    names += [f"{name}_err" for name in galfit_real.COLUMNS]
    rows = [
        ["a", "single", "good", "cases file", "10", "9", 12.5, 7.0, 20, 3, 1, 0.5, -30, *[0.1] * 7],
        ["b", "bulgedisk", "failed", "made by GALFIT", "", "", 1, 1, 20, 3, 1, 0.5, 0, *[""] * 7],
        ["b", "bulgedisk", "failed", "made by GALFIT", "", "", 1, 1, 21, 3, 1, 0.5, 0, *[""] * 7],
    ]
    with (tmp_path / "galfit3" / "galfit3.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    single, double = galfit_real.read_cases(tmp_path)
    assert single.found[0, :2].tolist() == [11.5, 6.0]  # counted from 0
    assert single.feedme.parts[-4:] == ("galfit3", "a", "single", "galfit.feedme")
    assert double.found.shape == (2, 7)
    assert np.isnan(double.chi2)
    assert (single.sigma_made, double.sigma_made) == (False, True)
    assert [case.id for case in galfit_real.read_cases(tmp_path, "single", "good")] == ["a"]


def test_other_tools_keep_what_they_do_not_tell_open() -> None:
    names = (*reference_table.COLUMNS, *reference_table.ERRORS)
    text = dict.fromkeys(names, "") | {"x": "5", "re_pix": "2.0", "n": "1.5", "q": "0.4"}
    values, errors = reference_table.result_of(text)
    assert values[0] == 4.0
    assert np.isnan(values[[1, 2, 6]]).all()
    assert np.isnan(errors).all()
    ours = np.array([4.0, 4.0, 20.0, 2.0 * np.e, 1.5, 0.5, 178.0])
    report = reference_table.difference(np.array([4.0, 4.0, 20.0, 2.0, 1.5, 0.4, -178.0]), ours)
    assert report == {"ln r_eff": 1.0, "ln n": 0.0, "q": 0.1, "pa": -4.0}


def test_a_result_file_keeps_its_other_runs(tmp_path: Path) -> None:
    for run, value in (("seed 0", 1.0), ("seed 1", 2.0), ("seed 0", 3.0)):
        path = add_run("galaxies", run, {"width": np.float64(value)}, tmp_path)
    runs = json.loads(path.read_text())["runs"]
    assert {name: run["figures"]["width"] for name, run in runs.items()} == {
        "seed 0": 3.0,
        "seed 1": 2.0,
    }
    assert "commit" in runs["seed 1"]["environment"]
