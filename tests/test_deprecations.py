"""Old names keep working for one release: every row of the table, and what it says."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest

import hybridfit as hf
from hybridfit.deprecations import (
    POSITIONS,
    TABLE,
    Renamed,
    RenamedWarning,
    current_options,
    current_sections,
    rows,
)
from hybridfit.options.metadata import describe
from hybridfit.options.yaml_options import make

SECTIONS = {
    "fit": hf.FitOptions,
    "run": hf.RunOptions,
    "sampling": hf.SamplingOptions,
    "budget": hf.BudgetOptions,
    "compare": hf.CompareOptions,
}
FUNCTIONS = {
    name: getattr(hf, name)
    for name in ("fit", "fit_files", "fit_feedmes", "predict", "predict_files")
}


def of_kind(kind: str) -> Any:
    """A test's parameters: the table's rows of one kind."""
    chosen = [row for row in TABLE if row.kind == kind]
    return pytest.mark.parametrize("row", chosen, ids=[f"{r.where}.{r.old}" for r in chosen])


@pytest.fixture(autouse=True)
def _only_renamed_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedWarning)
        yield


def test_every_row_is_tested():
    kinds = {"flag", "name", "argument", "position", "option", "value", "section", "column"}
    assert {row.kind for row in TABLE} <= {*kinds, "attribute"}
    assert len({(row.kind, row.where, row.old) for row in TABLE}) == len(TABLE)


@of_kind("name")
def test_names(row: Renamed):
    with pytest.warns(RenamedWarning, match=f"hybridfit.{row.old} is now .*hybridfit.{row.new}"):
        old = getattr(hf, row.old)
    assert old is getattr(hf, row.new)
    assert row.old not in hf.__all__


@of_kind("option")
def test_options(row: Renamed):
    cls = SECTIONS[row.where]
    default = next(one.default for one in describe(cls) if one.name == row.new)
    other = {bool: lambda v: not v, int: lambda v: v + 16, float: lambda v: v / 2, str: lambda v: v}
    value = other[type(default)](default)
    with pytest.warns(RenamedWarning, match=rf"{row.old} is now called {row.where}\.{row.new}"):
        made = cls(**{row.old: value})
    assert made == cls(**{row.new: value})
    with pytest.warns(RenamedWarning, match=row.new):
        assert make(cls, {row.old: value}) == made
    with pytest.warns(RenamedWarning, match=row.new):
        assert getattr(made, row.old) == value
    with pytest.raises(ValueError, match=f"leave out {row.old}"):
        cls(**{row.old: value, row.new: value})


@of_kind("value")
def test_values(row: Renamed):
    section, name = row.where.split(".")
    with pytest.warns(RenamedWarning, match=f"'{row.old}' is now called '{row.new}'"):
        made = SECTIONS[section](**{name: row.old})
    assert getattr(made, name) == row.new
    with pytest.warns(RenamedWarning):  # both names and values
        assert current_options("run", {"start": row.old}) == {name: row.new}


@of_kind("section")
def test_sections(row: Renamed):
    with pytest.warns(RenamedWarning, match=f"section '{row.old}' is now .*section '{row.new}'"):
        assert current_sections({row.old: {"a": 1}, "fit": {}}) == {row.new: {"a": 1}, "fit": {}}
    with pytest.raises(ValueError, match="both came"):
        current_sections({row.old: {}, row.new: {}})


@of_kind("argument")
def test_arguments(row: Renamed):
    """The old keyword's value reaches the new one's check."""
    function = FUNCTIONS[row.where]
    positional = ["."] * (1 if row.where in ("fit", "predict") else 2)
    warned = pytest.warns(RenamedWarning, match=rf"{row.where}\({row.old}=...\) is now called")
    with warned, pytest.raises((ValueError, TypeError, hf.UsageError), match=row.new):
        function(*positional, **{row.old: 3})


@pytest.mark.parametrize("function", POSITIONS)
def test_positions(function: str, tmp_path):
    """All options by position, as once: each reaches its own name of today."""
    names, out = POSITIONS[function], tmp_path / "out"
    made = {"overwrite": False, "quiet": True, "predict": hf.PredictOptions()}
    made |= {"read": hf.ReadOptions(), "bootstrap": hf.BootstrapOptions()}
    made |= {name: cls() for name, cls in SECTIONS.items()}
    values = [made[name] for name in names]
    inputs = ["none"] if function == "fit_feedmes" else "none"
    for count in (1, 2, len(names)):
        said = ", ".join(f"{name}=..." for name in names[:count])
        warned = pytest.warns(RenamedWarning, match=f"{function} takes these by name now: {said};")
        with warned, pytest.raises(hf.UsageError, match="none"):
            FUNCTIONS[function](inputs, out, *values[:count])
    with pytest.raises(ValueError, match="got read by position and by name"):
        FUNCTIONS[function](inputs, out, hf.ReadOptions(), read=hf.ReadOptions())
    with pytest.raises(hf.UsageError, match="none"):  # a configuration is no old call
        FUNCTIONS[function](inputs, out, None)
    with pytest.raises(TypeError, match="positional"):
        FUNCTIONS[function](inputs, out, None, True)


def test_old_positions_hold_wrong_values():
    with (
        pytest.warns(RenamedWarning, match="fit_files takes"),
        pytest.raises(ValueError, match="fit is 3, expected a FitOptions"),
    ):
        hf.fit_files("none", "out", hf.ReadOptions(), 3)


def test_new_names_warn_of_nothing():
    for cls in SECTIONS.values():
        made = cls()
        assert replace(made) == made
        with pytest.raises(AttributeError, match="no attribute 'unknown'"):
            _ = made.unknown
    with pytest.raises(TypeError, match="unexpected keyword"):
        hf.FitOptions(unknown=1)
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        _ = hf.Unknown


def test_renames_do_not_chain():
    """What a row calls new is the name of today."""
    for row in TABLE:
        assert row.new not in rows(row.kind, row.where)


@pytest.mark.parametrize("old", rows("option", "compare"))
def test_old_keywords_of_compare(old: str):
    """They reach the function, which then misses the run that it is to compare."""
    warned = pytest.warns(RenamedWarning, match=rf"compare\({old}=...\) is now called compare\(")
    with warned, pytest.raises((hf.UsageError, OSError, ValueError), match="none"):
        hf.compare("none/", "none.fits", **{old: "none"})
