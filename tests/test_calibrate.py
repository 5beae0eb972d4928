"""`hybridfit calibrate` with a network that was not trained: the whole row, and its pictures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from astropy.table import Table
from calibration_helpers import experiment
from click.testing import CliRunner
from tolerances import SINGLE

from hybridfit import plots
from hybridfit.calibration.calibrate import (
    calibrate_network,
    format_summary,
    labelled_batches,
    simulated_batches,
)
from hybridfit.calibration.coverage import calibrate
from hybridfit.cli.app import make_app
from hybridfit.data.errors import UsageError
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.weight_files import save_weights
from hybridfit.simulation.options import FieldOptions
from hybridfit.simulation.simulate import simulate_fields

TINY = {"backbone": "none", "width": 16, "blocks": 1, "context": 8}
TINY |= {"flow_layers": 2, "flow_hidden": 16}
SMALL = FieldOptions(sides=(32,), psf_size=21, psf_fwhm=(1.5, 4.0))
TABLES = ("calibration", "coverage", "ranks", "galaxies")
PICTURES = ("coverage", "ranks", "widths")


# sbi wants hundreds of galaxies for a figure that means something; here it is the row that counts
pytestmark = pytest.mark.filterwarnings("ignore:Number of TARP samples")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    scenes = simulate_fields(64, 0, SMALL)
    inputs = make_inputs(scenes.cutouts, False)
    n_scalars = inputs.scalars.shape[1]
    simulator = {"sides": [32], "psf_size": 21, "psf_fwhm": [1.5, 4.0]}
    config = {"network": TINY, "n_scalars": n_scalars, "n_targets": 8, "simulator": simulator}
    estimator = Estimator(NetworkOptions(**TINY), n_scalars)
    targets = encode(scenes.theta, scenes.cutouts.zeropoint, inputs.frame)
    estimator.set_whitening(inputs.scalars, targets)
    return save_weights(estimator, folder, config)


def test_simulations(weights, tmp_path):
    report = calibrate_network(tmp_path, weights, n=24, n_samples=32, quiet=True)
    for name in TABLES:
        assert len(Table.read(tmp_path / f"{name}.ecsv")) > 0
    for name in PICTURES:
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    galaxies = Table.read(tmp_path / "galaxies.ecsv")
    assert len(galaxies) == len(set(galaxies["id"])) == 24
    # stamps are those of the weights' own simulator
    assert max(galaxies["x"].max(), galaxies["y"].max()) < 32
    table = report.calibration.table
    # an untrained network may have nothing plausible to say of a galaxy
    kept = np.isfinite(galaxies["mag_width"])
    assert kept.sum() == table.meta["galaxies"] == 24 - table.meta["left_out"] >= 20
    everyone = table[(table["bin"] == "all") & (table["parameter"] == "mag")]
    assert everyone["n"] == kept.sum()
    assert "clean" in set(table["bin"])
    clean = table[(table["bin"] == "clean") & (table["parameter"] == "mag")]
    assert clean["n"] == ((galaxies["kind"] == 0) & kept).sum()
    assert f"{kept.sum()} galaxies" in format_summary(report)


def test_without_sbi_it_says_what_is_missing(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sbi.diagnostics", None)
    report = calibrate_network(tmp_path, weights, n=8, n_samples=32, quiet=True)
    assert report.tarp is None
    assert not (tmp_path / "tarp.png").exists()
    assert "pip install 'hybridfit[validation]'" in format_summary(report)


def test_psfs_that_training_had_may_be_missing(weights, tmp_path):
    moved = tmp_path / "weights"
    shutil.copytree(weights, moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["simulator"]["psf_files"] = str(tmp_path / "gone")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    report = calibrate_network(tmp_path / "out", moved, n=8, n_samples=32, quiet=True)
    assert any("simulated without real PSFs" in note for note in report.notes)
    (tmp_path / "c.yaml").write_text(f"simulator: {{psf_files: {tmp_path / 'gone'}}}\n")
    with pytest.raises(ValueError, match="gone"):  # asked for, it must be there
        calibrate_network(tmp_path / "out", moved, config=tmp_path / "c.yaml", n=8, quiet=True)


def test_simulated_galaxies_are_all_different():
    batches = list(simulated_batches(20, 0, SMALL, Prior()))
    theta = torch.cat([batch.theta for batch in batches])
    assert len(theta[:, 3].unique()) == 20
    again = next(simulated_batches(20, 1, SMALL, Prior())).theta
    assert not torch.equal(theta[: len(again)], again)


def test_labelled_files(weights, tmp_path):
    scenes = simulate_fields(6, 3, SMALL)
    truth = scenes.table()
    write_cutouts(scenes.cutouts, tmp_path / "in", truth)
    batches, count = labelled_batches(tmp_path / "in", 5)
    batch = next(batches)
    assert count == 5 == len(batch.theta)
    order = [list(truth["id"]).index(id) for id in batch.cutouts.id]
    assert torch.allclose(batch.theta, scenes.theta[order], atol=SINGLE)
    report = calibrate_network(tmp_path / "out", weights, tmp_path / "in", n_samples=32, quiet=True)
    assert len(report.galaxies) == 6
    # without sky and signal to noise the others can still be held against their truth
    truth.remove_columns(["sky", "snr"])
    truth.write(tmp_path / "in" / "truth.fits", overwrite=True)
    report = calibrate_network(tmp_path / "out", weights, tmp_path / "in", n_samples=32, quiet=True)
    assert "sky left out: its truth is not known" in format_summary(report)
    assert list(report.calibration.curve.colnames[2:]) == list(ParameterSpace().names[:-1])
    assert np.isfinite(report.galaxies["snr"]).all()


def test_files_that_cannot_be_read_are_left_out_and_told(weights, tmp_path):
    scenes = simulate_fields(5, 3, SMALL)
    write_cutouts(scenes.cutouts, tmp_path / "in", scenes.table())
    image = next(p for p in sorted((tmp_path / "in").iterdir()) if "sim00002" in p.name)
    image.write_bytes(image.read_bytes()[:1000])
    report = calibrate_network(tmp_path / "out", weights, tmp_path / "in", n_samples=32, quiet=True)
    assert set(report.galaxies["id"]) == {f"sim{i:05d}" for i in (0, 1, 3, 4)}
    assert "1 galaxies left out: they cannot be read" in format_summary(report)


def test_wrong_usage_is_told(weights, tmp_path):
    with pytest.raises(UsageError, match="no truth table"):
        calibrate_network(tmp_path / "out", weights, tmp_path)
    (tmp_path / "c.yaml").write_text("simulater: {snr: [3, 10]}\n")
    with pytest.raises(UsageError, match="did you mean 'simulator'"):
        calibrate_network(tmp_path / "out", weights, config=tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("calibrate: {tolerance_86: 1}\n")
    with pytest.raises(UsageError, match="did you mean 'tolerance_68'"):
        calibrate_network(tmp_path / "out", weights, config=tmp_path / "c.yaml")


def test_pictures_show_what_the_tables_hold(tmp_path):
    some = experiment("narrow", n=600)
    found = calibrate(some.sbc, some.snr, some.limit)
    figure = plots.plot_coverage(found.curve, found.table)
    figure.savefig(tmp_path / "a.png")
    first = figure.axes[0]
    lines = {line.get_label(): line for line in first.lines}
    assert lines["mag"].get_ydata() == pytest.approx(found.curve["mag"] - found.curve["level"])
    assert lines["mag"].get_ydata()[20] < -0.1  # twice too narrow
    assert len(figure.axes) == 1 + 2 * 3
    figure = plots.plot_ranks(found.uniform)
    figure.savefig(tmp_path / "b.png")
    assert [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()] == list(
        found.uniform["parameter"]
    )
    widths = {name: found.width[:, j] for j, name in enumerate(some.sbc.names)}
    figure = plots.plot_widths(some.snr, widths, found.table)
    figure.savefig(tmp_path / "c.png")
    assert np.median(figure.axes[0].lines[1].get_ydata()) == pytest.approx(0.5, abs=0.05)


def test_the_command(weights, tmp_path):
    out = tmp_path / "out"
    command = [
        "calibrate",
        "-o",
        str(out),
        "--weights",
        str(weights),
        "--n",
        "6",
        "--samples",
        "16",
    ]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 0, result.output
    assert "width / limit" in result.output
    assert (out / "calibration.ecsv").exists()
    result = CliRunner().invoke(make_app(), [*command, "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
