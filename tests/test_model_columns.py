"""Initial and fixed values of a model's parameters for each galaxy: manifests and cutouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from model_helpers import BULGE_DISK, QUICK, galaxies, write_manifest

import hybridfit as hf
from hybridfit.fitting.galaxy_scenes import fixed_groups, scenes_of
from hybridfit.model.declaration import declared_scene
from hybridfit.model.value_columns import value_columns

MODEL = "bulge+disk"


def two() -> hf.Cutouts:
    return galaxies(MODEL, [BULGE_DISK, BULGE_DISK])


def test_a_manifest_fixes_values_galaxy_by_galaxy(tmp_path: Path):
    columns = {"bulge_n": [2.0, 4.0], "disk_r_eff_fixed": ["9.5", ""], "bulge_mag_err": [1, 1]}
    path = write_manifest(two(), tmp_path, **columns)
    table = hf.fit(path, model=MODEL, **QUICK)
    assert table["disk_r_eff"][0] == 9.5
    assert table["disk_r_eff_err"][0] == 0
    assert table["disk_r_eff_err"][1] > 0
    assert np.array_equal(table["disk_x"], table["bulge_x"])
    assert np.all(np.abs(table["bulge_to_total"] - 0.431) < 4 * table["bulge_to_total_err"])


def test_positions_are_those_of_the_file(tmp_path: Path):
    """The galaxy lies at 101.3, 121.8 of an image that is cropped."""
    path = write_manifest(galaxies("sersic", [[31.3, 31.8, 19, 3, 1, 0.8, 40, 0.1]]), tmp_path)
    rng = np.random.default_rng(0)
    whole = rng.normal(0.1, 0.1, (600, 600)).astype(np.float32)
    whole[90:154, 70:134] = fits.getdata(tmp_path / "g0_image.fits")
    with fits.open(tmp_path / "g0_image.fits", mode="update") as hdus:
        hdus[0].data = whole
    fits.writeto(tmp_path / "g0_sigma.fits", np.full_like(whole, 0.1), overwrite=True)
    path.write_text(
        "id,image,sigma,psf,x_fixed,y,n_fixed\n"
        "g0,g0_image.fits,g0_sigma.fits,g0_psf.fits,101.3,121.8,1.0\n"
    )
    cutouts = hf.read(path)
    assert cutouts.image.shape[-1] < 600
    assert float(cutouts.parameters["x_fixed"] + cutouts.origin[:, 0]) == pytest.approx(101.3)
    table = hf.fit(path, **QUICK)
    assert (table["x"][0], table["n"][0], table["x_err"][0]) == (pytest.approx(101.3), 1.0, 0.0)
    assert table["y"][0] == pytest.approx(121.8, abs=0.1)


def test_posteriors_keep_fixed_values():
    cutouts = galaxies("sersic", [[31.3, 31.8, 19, 3, 1, 0.8, 40, 0.1]])
    cutouts = replace(cutouts, parameters={"n_fixed": torch.tensor([1.0])})
    table = hf.fit(cutouts, compile="off")
    assert table["n"][0] == pytest.approx(1.0, abs=1e-9)
    assert table["n_err"][0] == pytest.approx(0.0, abs=1e-9)
    assert table["ess"][0] > 100
    assert table["quality"][0] == "certified"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("bulge_re", "column 'bulge_re' is no parameter of the model: did you mean 'bulge_r"),
        ("disk_n_fixed", "did you mean 'disk_"),
        ("Bulge_n", "did you mean 'bulge_n'"),
        ("bulge_n_fixd", "did you mean 'bulge_n_fixed'"),
        ("n_fixed", "did you mean 'bulge_n_fixed'"),
        ("disk_x_fixed", "ties to 'bulge.x': leave out one"),
    ],
)
def test_columns_that_look_like_parameters(tmp_path: Path, column: str, text: str):
    path = write_manifest(two(), tmp_path, **{column: [1.0, 1.0]})
    with pytest.raises(ValueError, match=text):
        hf.fit(path, model=MODEL, **QUICK)


def test_other_columns_are_passed_over(tmp_path: Path):
    others = {"_bulge_re": [1, 1], "kron_mag": ["a", "b"], "bulge_ra": [1, 1], "beta": [1, 1]}
    columns = value_columns(declared_scene(MODEL))
    assert columns.of_table(["id", *others, "bulge_n"]) == ["bulge_n"]
    assert hf.read(write_manifest(two(), tmp_path, **others), model=MODEL).parameters == {}


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("disk_q_fixed", 0.0, "disk_q_fixed of galaxy 'g1' is 0, expected more than 0 and at"),
        ("disk_r_eff", -1.0, "disk_r_eff of galaxy 'g1' is -1, expected more than 0"),
        ("bulge_n_fixed", 0.0, "expected more than 0"),
    ],
)
def test_a_galaxy_that_cannot_be_fitted_is_a_flagged_row(
    tmp_path: Path, column: str, value: float, text: str
):
    path = write_manifest(two(), tmp_path, **{column: [0.9, value]})
    table = hf.fit(path, model=MODEL, **QUICK)
    assert table["flags"][1] & hf.Flag.FAILED
    assert text in table["notes"][1]
    assert not table["flags"][0] & hf.Flag.FAILED
    assert np.isfinite(table["bulge_mag"][0])


def test_cutouts_carry_values():
    cutouts = replace(two(), parameters={"disk_q_fixed": [0.6, np.nan], "bulge_n": [2.0, np.nan]})
    assert [rows.tolist() for rows in fixed_groups(cutouts)] == [[1], [0]]
    with pytest.raises(ValueError, match="some galaxies of a batch fix disk_q"):
        scenes_of(cutouts, hf.FitOptions(model=MODEL))
    table = hf.fit(cutouts, model=MODEL, **QUICK)
    assert (table["disk_q"][0], table["disk_q_err"][0]) == (pytest.approx(0.6), 0.0)
    assert table["disk_q_err"][1] > 0
    with pytest.raises(ValueError, match="'disk_n' is no parameter of the model"):
        scenes_of(replace(cutouts, parameters={"disk_n": 1.0}), hf.FitOptions(model=MODEL))
    with pytest.raises(ValueError, match="expected arrays"):
        replace(cutouts, parameters=[1.0])


def test_a_start_beyond_the_models_bounds_is_a_flagged_row():
    scene = {"components": {"disk": {"profile": "exponential", "r_eff": {"bounds": [1, 20]}}}}
    cutouts = galaxies("exponential", [[31.3, 31.8, 19, 5, 0.8, 40, 0.1]])
    cutouts = replace(cutouts, parameters={"disk_r_eff": [30.0]})
    table = hf.fit(cutouts, model=scene, **QUICK)
    assert "disk_r_eff of galaxy 'g0' is 30, outside of its prior or bounds" in table["notes"][0]
