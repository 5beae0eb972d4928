"""The comparison of two versions' tables finds what differs and lets pass what does not."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

import hybridfit as hf
from hybridfit.simulation.simulate import SimulateOptions
from validation.compare_versions import chosen
from validation.speed_worker import measure
from validation.table_differences import compare_tables, relative_difference
from validation.version_tables import draw_columns, read_columns


def columns(**changes: object) -> dict[str, np.ndarray]:
    """Three galaxies, with columns replaced."""
    table = {
        "id": np.array(["a", "b", "c"]),
        "mag": np.array([20.0, 21.0, np.nan]),
        "mag_err": np.array([0.1, 0.2, np.nan]),
        "x": np.array([0.0, 1.0, 2.0]),
        "x_err": np.array([0.5, 0.5, 0.5]),
        "khat": np.array([0.1, 0.2, 0.3]),
        "flags": np.array([0, 4, 8]),
        "quality": np.array(["certified", "usable", "suspect"]),
        "message": np.array(["", "the fit fell over", ""]),
    }
    return {**table, **changes}  # type: ignore[dict-item]


def test_equal_tables_are_the_same():
    found = compare_tables(columns(), columns())
    assert found.same
    assert {d.largest for d in found.columns} == {0.0}


def test_a_changed_value_is_found():
    mag = columns()["mag"] * np.array([1, 1 + 3e-6, 1])
    found = compare_tables(columns(), columns(mag=mag))
    changed = [d for d in found.columns if d.differing]
    assert not found.same
    assert [(d.column, d.differing) for d in changed] == [("mag", 1)]
    assert changed[0].largest == pytest.approx(3e-6, rel=1e-3)
    assert changed[0].example.startswith("b: ")
    assert compare_tables(columns(), columns(mag=mag), tolerance=1e-5).same


def test_a_value_near_zero_is_held_against_its_error():
    assert compare_tables(columns(), columns(x=np.array([1e-8, 1.0, 2.0]))).same
    assert not compare_tables(columns(), columns(x=np.array([1e-5, 1.0, 2.0]))).same


@pytest.mark.parametrize("mag", [[20.0, np.nan, np.nan], [20.0, 21.0, 5.0]])
def test_nan_against_a_number_is_found(mag):
    found = compare_tables(columns(), columns(mag=np.array(mag)))
    assert not found.same
    assert max(d.largest for d in found.columns) == np.inf


def test_a_missing_column_is_named_on_either_side():
    new = {("seconds" if name == "flags" else name): v for name, v in columns().items()}
    found = compare_tables(columns(), new)
    assert (found.lost, found.added, found.same) == (("flags",), ("seconds",), False)


def test_a_column_of_another_name_is_compared():
    new = columns(pareto_k=columns()["khat"])
    del new["khat"]
    found = compare_tables(columns(), new)
    assert found.same
    assert "khat -> pareto_k" in [d.column for d in found.columns]
    new["pareto_k"] = new["pareto_k"] + 1
    assert not compare_tables(columns(), new).same


def test_words_count_but_for_messages():
    assert compare_tables(columns(), columns(message=np.array(["", "It fell over.", ""]))).same
    other = np.array(["certified", "certified", "suspect"])
    assert not compare_tables(columns(), columns(quality=other)).same


def test_other_galaxies_are_refused():
    with pytest.raises(ValueError, match="other galaxies"):
        compare_tables(columns(), columns(id=np.array(["a", "c", "b"])))


def test_relative_differences():
    old, new = np.array([0.0, 0.0, np.nan, 2.0, np.inf]), np.array([0.0, 1.0, np.nan, 2.2, np.inf])
    assert relative_difference(old, new) == pytest.approx([0, np.inf, 0, 0.1, 0])


def test_draws_in_columns_and_in_a_file_of_their_own_are_the_same(tmp_path):
    rng = np.random.default_rng(1)
    draws, weight = rng.normal(size=(2, 4)), np.array([[0.5, 0.5, 0, 0], [0.2, 0.3, 0.4, 0.1]])
    wide = Table({"id": ["a", "b"], "x": [1.0, 2.0], "x_samples": draws, "weight": weight})
    long = Table(
        {"id": ["a"] * 2 + ["b"] * 4, "x": draws[weight > 0], "weight": weight[weight > 0]}
    )
    for name in ("wide", "long", "beside"):
        (tmp_path / name).mkdir()
    wide.write(tmp_path / "wide" / "results.fits")
    for name, drawn in (("long", long), ("beside", wide[["id", "x_samples", "weight"]])):
        wide[["id", "x"]].write(tmp_path / name / "results.fits")
        drawn.write(tmp_path / name / "results_draws.fits")
    (_, expected), *others = (read_columns(tmp_path / n) for n in ("wide", "long", "beside"))
    ids = {"id": np.array(["a", "b"])}
    for table, found in others:
        assert list(table) == ["id", "x"]
        assert compare_tables(
            {**ids, **draw_columns(expected)}, {**ids, **draw_columns(found)}
        ).same
    assert [len(values) for values in expected["x"]] == [2, 4]


def test_cases_are_chosen_by_words():
    assert chosen("main,predict") == ["main-predict"]
    assert chosen("galfit") == ["galfit-covariance", "galfit-posterior"]
    assert chosen("demo,bootstrap") == ["demo-bootstrap"]
    with pytest.raises(ValueError, match="no case is called nothing"):
        chosen("nothing")


@pytest.mark.parametrize("task", ["covariance-memory", "predict-memory"])
def test_a_turn_measures_all_galaxies(task, tmp_path):
    cutouts, _ = hf.simulate(3, 1, SimulateOptions(shape=(32, 32), psf_size=15))
    planes = {"data": cutouts.image, "sigma": cutouts.sigma, "psf": cutouts.psf}
    np.savez(tmp_path / "main.npz", **{key: np.asarray(p) for key, p in planes.items()})
    assert measure(task, tmp_path / "main.npz", n=0, passes=2) > 0
    with pytest.raises(ValueError, match="uncertainty"):
        measure("nothing-memory", tmp_path / "main.npz", n=0, passes=1)
