"""Models that cannot be: a clear error before anything is fitted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import hybridfit as hf
from hybridfit.model.declaration import declared_scene

FIXED_X = {"profile": "sersic", "x": {"fixed": 3.0}}


def model(disk: object, bulge: object = "sersic") -> dict[str, object]:
    return {"components": {"bulge": bulge, "disk": disk}}


def disk(**parameters: object) -> dict[str, object]:
    return {"profile": "exponential", **parameters}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("bulge+dsik", r"unknown model 'bulge\+dsik': did you mean 'bulge\+disk'"),
        ("sersik", "unknown profile 'sersik': .*did you mean 'sersic'"),
        (model("exponentail"), "did you mean 'exponential'"),
        (model(disk(r_ef=3.0)), "component 'disk' has no parameter 'r_ef': did you mean 'r_eff'"),
        (model(disk(x={"tied": "buldge.x"})), "did you mean 'bulge.x'"),
        (model(disk(x={"tid": "bulge.x"})), "did you mean 'tied'"),
        (
            model(disk(x={"tied": "bulge.x"}), {"profile": "sersic", "x": {"tied": "disk.x"}}),
            "tied in a circle: bulge.x -> disk.x -> bulge.x",
        ),
        (model(disk(x={"fixed": 3.0, "tied": "bulge.x"})), "disk.x: a parameter is fixed and tied"),
        (
            model(disk(x={"start": 5.0, "tied": "bulge.x"}), FIXED_X),
            "'disk.x' is tied to 'bulge.x', which makes it 3, but its start is 5: leave out one",
        ),
        (
            model(disk(x={"bounds": [4, 6], "tied": "bulge.x"}), FIXED_X),
            "'disk.x' is tied to 'bulge.x', which makes it 3, outside of its prior or bounds",
        ),
        (
            model(
                disk(r_eff={"tied": "bulge.r_eff", "ratio": 2.0, "bounds": [1, 5]}),
                {"profile": "sersic", "r_eff": {"fixed": 4.0}},
            ),
            "makes it 8, outside of its prior or bounds",
        ),
        (
            model(disk(), {"profile": "sersic", "n": 20.0}),
            "'bulge.n' is 20, outside of its",
        ),
        (model(disk(r_eff={"start": 9.0, "bounds": [1, 5]})), "9, outside of its prior or bounds"),
        (
            model(disk(q={"start": 0.9, "prior": {"low": 0.1, "high": 0.5}})),
            "disk.q: the start of a parameter is 0.9, outside of its prior or bounds",
        ),
        (model(disk(q={"fixed": 0.0})), "the start of 'disk.q' is 0, expected more than 0 and at"),
        (
            model(disk(r_eff={"fixed": -2.0})),
            "'disk.r_eff' is -2, expected more than 0",
        ),
        (model(disk(), "sersic") | {"skies": "plane"}, "model has no 'skies': did you mean 'sky'"),
        ({"components": ["sersic"]}, "model: components is .*, expected a Mapping"),
        ({"components": {"a b": "sersic"}}, "a component is called 'a b', expected letters"),
        (3, "model is 3, expected a profile's name"),
    ],
)
def test_misuse_is_a_clear_error(given: object, text: str):
    with pytest.raises(ValueError, match=text):
        hf.FitOptions(model=given)


@pytest.mark.parametrize("content", ["- sersic\n- exponential\n", "sersic\n", ""])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str):
    (tmp_path / "model.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"expected (a Mapping|'key: value' lines)"):
        hf.FitOptions(model=str(tmp_path / "model.yaml"))
    with pytest.raises(FileNotFoundError, match=r"missing\.yaml"):
        hf.FitOptions(model=str(tmp_path / "missing.yaml"))


def test_a_tie_that_agrees_is_fine():
    scene = model(disk(x={"start": 3.0, "tied": "bulge.x"}), FIXED_X)
    assert hf.FitOptions(model=scene).space.links is not None


class Broken(hf.Profile):
    """It is NaN within its core."""

    shape_parameters = (hf.ShapeParameter("core", prior=hf.LogNormal(1.0, 0.5, 0.1, 9.0)),)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return exp(-sqrt(rho - core))."""
        return torch.exp(-torch.sqrt(rho - shape[0]))


def test_a_profile_that_returns_nan(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("broken_profiles")
    module.Broken = Broken
    monkeypatch.setitem(sys.modules, "broken_profiles", module)
    text = "profile 'broken_profiles:Broken' at core = 1: evaluate returned nan"
    with pytest.raises(ValueError, match=text):
        hf.FitOptions(model="broken_profiles:Broken")
    with pytest.raises(ValueError, match="evaluate returned nan"):
        hf.register_profile("broken", Broken)


def test_the_old_parameter_says_what_it_is_called():
    with pytest.raises(ValueError, match="ParameterInfo"):
        hf.Parameter("x", "pix", "centre")


def test_models_in_python_and_in_yaml_are_the_same(tmp_path: Path):
    bulge = hf.Component("bulge", "sersic", {"n": hf.Parameter(3, hf.LogNormal(3, 0.5, 0.5, 8))})
    tied = {axis: hf.Parameter(tied=hf.equal(f"bulge.{axis}")) for axis in "xy"}
    own = {
        "r_eff": hf.Parameter(tied=hf.ratio("bulge.r_eff", 3)),
        "q": hf.Parameter(0.5, fixed=True),
    }
    scene = hf.Scene((hf.Source((bulge, hf.Component("disk", "exponential", tied | own))),))
    text = """
components:
  bulge: {profile: sersic, n: {start: 3, prior: {median: 3, sigma: 0.5, low: 0.5, high: 8}}}
  disk:
    profile: exponential
    x: {tied: bulge.x}
    y: {tied: bulge.y}
    r_eff: {tied: bulge.r_eff, ratio: 3}
    q: {fixed: 0.5}
"""
    (tmp_path / "model.yaml").write_text(text)
    ours = hf.FitOptions(model=scene)
    assert hf.FitOptions(model=str(tmp_path / "model.yaml")).space == ours.space
    assert declared_scene(ours.model) == declared_scene(str(tmp_path / "model.yaml"))
    assert ours.space.names[2] == "bulge_mag"
