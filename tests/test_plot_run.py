"""`hybridfit plot`: pictures of a finished run, from whatever is left of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from matplotlib.figure import Figure
from tolerances import TEXT
from typer.testing import CliRunner, Result

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.data.errors import UsageError
from hybridfit.io.blocks import read_block
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read_results import read_results
from hybridfit.pipeline import plot as plotting
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import PredictOptions, RunOptions
from hybridfit.pipeline.plot import plot_run
from hybridfit.pipeline.predict import predict_files
from hybridfit.plots import DrawsLayer, GaussianLayer
from hybridfit.simulation.simulate import SimulateOptions

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(60, 300))
QUICK = hf.BootstrapOptions(replicas=40, refit=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny galaxies as files, cut from larger images, one of which cannot be read."""
    directory = tmp_path_factory.mktemp("galaxies")
    cutouts, truth = hf.simulate(3, 4, SMALL)
    write_cutouts(cutouts, directory, truth)
    (directory / "sim0002_image.fits").write_bytes(b"no FITS at all")
    return directory


@pytest.fixture(scope="module")
def run(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their fits with draws and models; draws of a bootstrap, the quickest."""
    out = tmp_path_factory.mktemp("run")
    options = RunOptions(uncertainty="bootstrap", save_samples=True, save_models=True)
    fit_files(inputs, out, run=options, bootstrap=QUICK)
    return out


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """What was handed to the plots."""
    seen: dict[str, list] = {"plot_corner": [], "plot_residuals": []}

    def spy(name: str):
        original = getattr(plotting, name)

        def call(*args, **more) -> Figure:
            seen[name].append((args, more))
            return original(*args, **more)

        monkeypatch.setattr(plotting, name, call)

    for name in seen:
        spy(name)
    return seen


def call(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["plot", *(str(a) for a in arguments)])


def test_with_the_cutouts_all_layers_lie_over_each_other(inputs: Path, run: Path, drawn):
    result = call(run, "--input", inputs, "--quiet")
    assert result.exit_code == 0, result.output
    made = sorted(path.name for path in (run / "plots").iterdir())
    assert made == [
        "sim0000_corner.png",
        "sim0000_fit.png",
        "sim0001_corner.png",
        "sim0001_fit.png",
        "truth.png",
    ]
    (names, layers, known), _ = drawn["plot_corner"][0]
    assert [layer.label for layer in layers] == ["flow", "Laplace", "bootstrap"]
    table, truth = Table.read(run / "results.fits"), Table.read(inputs / "truth.fits")
    flow, laplace, draws = layers
    assert isinstance(laplace, GaussianLayer)
    assert isinstance(flow, DrawsLayer)
    # the fit's own numbers, in its own pixels; errors as the covariance quotes them
    covariance = hf.fit(hf.read(inputs)[:1], uncertainty="covariance")
    for k, name in enumerate(names):
        assert laplace.mean[k] == pytest.approx(table[name][0])
        if name != "pa":  # of which no more than 52 degrees are quoted
            sigma = np.sqrt(np.asarray(laplace.covariance)[k, k])
            assert sigma == pytest.approx(covariance[f"{name}_err"][0], rel=0.02)
        if name in truth.colnames:
            assert known[name] == truth[name][0]
    for layer in (flow, draws):
        offset = np.abs(np.median(np.asarray(layer.samples)[:, :2], axis=0) - laplace.mean[:2])
        assert (offset < 1).all()
    (image, model, sigma, mask, titles), _ = drawn["plot_residuals"][0]
    np.testing.assert_allclose(image, hf.read(inputs).image[:1].numpy(), atol=TEXT)
    assert titles[0].startswith("sim0000: ")
    assert "chi2/dof" in titles[0]
    chi2 = (((image - model) / sigma)[~mask] ** 2).sum()
    assert chi2 == pytest.approx(table["chi2"][0], rel=1e-3)


def test_without_the_cutouts_blocks_and_draws_are_used(run: Path, drawn):
    files = plot_run(run, ["sim0001"])
    assert [path.name for path in files] == ["sim0001_fit.png", "sim0001_corner.png"]
    (names, layers, known), _ = drawn["plot_corner"][0]
    assert [layer.label for layer in layers] == ["bootstrap"]
    assert known == {}
    table = Table.read(run / "results.fits")
    row = table[1]
    counted = row["weight"] > 0
    for k, name in enumerate(names):
        np.testing.assert_array_equal(layers[0].samples[:, k], row[f"{name}_samples"][counted])
    (image, model, sigma, _, titles), _ = drawn["plot_residuals"][0]
    with fits.open(run / "models" / "sim0001_block.fits") as block:
        np.testing.assert_array_equal(image[0], block[1].data)
        np.testing.assert_array_equal(model[0], block[2].data)
    # the noise is not in the block: the residual's scatter stands for it, and it is said
    assert np.std((image - model) / sigma) == pytest.approx(1, abs=0.1)
    assert "scatter of the residual" in titles[0]


def test_positions_of_cropped_stamps(tmp_path: Path, drawn):
    """A large image is cropped: draws are in its pixels, and so are flow and Laplace."""
    cutouts, _ = hf.simulate(1, 5, SimulateOptions(shape=(480, 480), psf_size=15, r_eff=(2, 3)))
    write_cutouts(cutouts, tmp_path / "in")
    options = RunOptions(uncertainty="bootstrap", save_samples=True)
    fit_files(tmp_path / "in", tmp_path / "out", run=options, bootstrap=QUICK)
    assert hf.read(tmp_path / "in").origin.max() > 10
    plot_run(tmp_path / "out", input=tmp_path / "in")
    (_, layers, _), _ = drawn["plot_corner"][0]
    for layer in layers:
        middle = layer.mean if isinstance(layer, GaussianLayer) else np.median(layer.samples, 0)
        assert np.abs(np.asarray(middle)[:2] - 239.5).max() < 3


def test_draws_of_predict(inputs: Path, tmp_path: Path, drawn):
    predict_files(inputs, tmp_path, options=PredictOptions(samples=64, save_samples=True))
    files = plot_run(tmp_path, ["sim0000"], inputs)
    assert [path.name for path in files] == ["sim0000_corner.png", "truth.png"]
    (_, layers, _), _ = drawn["plot_corner"][0]
    assert len(layers) == 1
    assert np.shape(layers[0].samples) == (64, 8)


@pytest.mark.parametrize("format", ["ecsv", "parquet"])
def test_other_formats(inputs: Path, tmp_path: Path, format: str, drawn):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    options = RunOptions(uncertainty="bootstrap", save_samples=True, format=format)
    fit_files(inputs, tmp_path, run=options, bootstrap=QUICK)
    files = plot_run(tmp_path, ["sim0000"], inputs)
    assert [path.name for path in files] == ["sim0000_fit.png", "sim0000_corner.png", "truth.png"]
    assert len(drawn["plot_corner"][0][0][1]) == 3


def test_errors_say_what_to_do(inputs: Path, run: Path, tmp_path: Path):
    def line(result: Result) -> str:
        assert result.exit_code == 2, result.output
        return result.output.strip()

    assert "no results in" in line(call(tmp_path))
    assert "no galaxy 'sim9'" in line(call(run, "--id", "sim9"))
    assert "sim0000" in line(call(run, "--id", "sim9"))
    assert "does not exist" in line(call(run, "--input", tmp_path / "nowhere"))
    assert "no truth table" in line(call(run, "--truth", tmp_path / "t.fits"))
    plain = tmp_path / "plain"
    fit_files(inputs, plain, run=RunOptions(uncertainty="covariance"))
    with pytest.raises(UsageError, match="--save-samples"):
        plot_run(plain)


def test_results_are_read_back(run: Path):
    results = read_results(run)
    assert results.drawn == ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky")
    assert results.rows_of(["sim0001", "sim0000"]) == [1, 0]
    assert results.settings["run"]["uncertainty"] == "bootstrap"
    samples, weights = results.draws(2)  # could not be read
    assert samples.shape == (0, 8)
    assert weights.shape == (0,)
    assert read_block(run / "models", "sim0002") is None


def test_how_many_were_drawn_is_said_and_how_to_draw_the_others(inputs: Path, run: Path):
    """Three galaxies, of which one cannot be read: it is drawn by nothing, and not passed over."""
    assert "the others" not in call(run, "--input", inputs).output
    first = call(run, "--input", inputs, "--limit", 1).output
    assert "1 of 3 galaxies drawn; the others: --limit 3, or --id NAME for each" in first
    every = call(run, "--input", inputs).output
    assert "2 of 3 galaxies drawn; 1 had neither" in every
    assert "the others" not in call(run, "--input", inputs, "--id", "sim0001").output
    assert call(run, "--input", inputs, "--limit", 1, "--quiet").output == ""


def test_a_title_has_all_flags_within_the_picture(inputs: Path, run: Path):
    results = read_results(run)
    every = sum(int(flag) for flag in hf.Flag)
    results.table["flags"][0] = every
    title = plotting._title(plotting._Galaxy(results, 0, None), "")
    assert all(str(flag.name) in title for flag in hf.Flag)
    plane = np.ones((1, 8, 8))
    figure = hf.plot_residuals(plane, plane, plane, titles=[title])
    figure.draw_without_rendering()
    lines = figure._suptitle
    assert lines.get_text().split() == title.split()
    # constrained layout keeps it above the pictures, and it is no wider than they are
    extent, whole = lines.get_window_extent(), figure.bbox
    assert extent.x0 >= whole.x0
    assert extent.x1 <= whole.x1
    assert extent.y1 <= whole.y1
    assert extent.y0 >= max(axis.get_window_extent().y1 for axis in figure.axes) - 1
