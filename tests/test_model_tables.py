"""Components and points in tables, blocks, pictures and comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from model_helpers import BULGE_DISK, POINT, QUICK, galaxies, write_manifest

import hybridfit as hf
from hybridfit.io.blocks import read_block
from hybridfit.io.references.own import component_labels
from hybridfit.pipeline.plot import plot_run

FILES = {"uncertainty": "covariance", "initial_values": "moments"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of a bulge with a disk, and of a point, with blocks."""
    folder = tmp_path_factory.mktemp("runs")
    for model, theta in (("bulge+disk", BULGE_DISK), ("point", POINT)):
        path = write_manifest(galaxies(model, [theta]), folder / f"data_{model}")
        run = hf.RunOptions(**FILES, save_models=True, save_components=model != "point")
        hf.fit_files(path, folder / model, fit=hf.FitOptions(model=model, compile="off"), run=run)
    return folder


def test_blocks_have_an_extension_a_component(runs: Path):
    with fits.open(runs / "bulge+disk" / "models" / "g0_block.fits") as hdus:
        assert [hdu.name for hdu in hdus[4:]] == ["BULGE", "DISK"]
        assert [hdu.header["PROFILE"] for hdu in hdus[4:]] == ["sersic", "exponential"]
        model, bulge, disk = (hdus[k].data for k in (2, 4, 5))
    row = Table.read(runs / "bulge+disk" / "results.fits")[0]
    assert np.allclose(bulge + disk + row["sky"], model, atol=1e-4)
    share = bulge.sum() / (bulge + disk).sum()
    assert share == pytest.approx(row["bulge_to_total"], abs=0.03)
    block = read_block(runs / "bulge+disk" / "models", "g0")
    assert block is not None
    assert block.components is not None
    assert block.components.shape == (2, 64, 64)
    plain = read_block(runs / "point" / "models", "g0")
    assert plain is not None
    assert plain.components is None
    with pytest.raises(ValueError, match="expected save_models as well"):
        hf.RunOptions(save_components=True)


@pytest.mark.parametrize("model", ["bulge+disk", "point"])
@pytest.mark.parametrize("with_pixels", [True, False])
def test_pictures(runs: Path, model: str, with_pixels: bool):
    """Of the cutouts, and of the blocks alone."""
    given = runs / f"data_{model}" / "manifest.csv" if with_pixels else None
    files = plot_run(runs / model, input=given)
    assert [file.name for file in files] == ["g0_fit.png"]


@pytest.mark.parametrize("model", ["bulge+disk", "point"])
def test_a_run_compares_with_itself(runs: Path, model: str):
    found = hf.compare(runs / model, runs / model, input=runs / f"data_{model}" / "manifest.csv")
    summary = found.summary[found.summary["group"] == "all"]
    assert set(summary["parameter"]) >= {"x", "y", "mag", "sky"}
    assert np.all(np.abs(summary["median"]) < 1e-6)


def test_labels_of_tables():
    assert component_labels(["x", "y", "mag"]) == ["{}"]
    assert component_labels(["x_1", "mag_1", "x_2", "mag_2"]) == ["{}_1", "{}_2"]
    names = ["bulge_x", "bulge_y", "bulge_mag", "disk_x", "disk_y", "disk_mag", "mag", "kron_mag"]
    assert component_labels(names) == ["bulge_{}", "disk_{}"]


def test_a_point_has_no_size(runs: Path):
    table = Table.read(runs / "point" / "results.fits")
    assert not {"r_eff", "q", "pa", "r_eff_arcsec", "pa_sky"} & set(table.colnames)
    assert table["quality"][0] == "usable"
    assert abs(table["mag"][0] - 20) < 5 * table["mag_err"][0]
    assert table["flux"][0] == pytest.approx(100.0, rel=0.03)


def test_a_point_without_signal_has_a_points_limit():
    """The error is that of a point of known position, not of galaxies of any size."""
    table = hf.fit(galaxies("point", [[31.5, 31.5, 27.5, 0.1]]), model="point", **QUICK)
    assert table["flags"][0] & hf.Flag.NO_SIGNAL
    assert table["flux_err"][0] == pytest.approx(0.1 * np.sqrt(4 * np.pi) * 1.33, rel=0.05)
    assert table["flux_limit"][0] > 0


def test_posteriors_of_a_point():
    table = hf.fit(galaxies("point", [POINT]), model="point", compile="off")
    assert table["quality"][0] == "certified"
    assert table["catastrophic_probability"][0] == 0
    for name, value in zip(("x", "y", "mag"), POINT, strict=False):
        assert abs(table[f"{name}_p50"][0] - value) < 4 * table[f"{name}_err"][0]
