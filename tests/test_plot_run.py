"""`hybridfit plot`: pictures of a finished run, from whatever is left of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from tolerances import TEXT

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.data.errors import UsageError
from hybridfit.fitting.options import FitOptions
from hybridfit.io.blocks import read_block
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read_results import read_results
from hybridfit.pipeline import plot as plotting
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.galaxy_pictures import picture_of_cutout
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
    seen: dict[str, list] = {"plot_corner": [], "plot_galaxy": []}

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
        "summary.csv",
        "truth.png",
    ]
    (names, layers, known), _ = drawn["plot_corner"][0]
    assert [layer.label for layer in layers] == ["network", "Laplace approximation", "bootstrap"]
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
    (picture,), _ = drawn["plot_galaxy"][0]
    np.testing.assert_allclose(picture.image, hf.read(inputs).image[0].numpy(), atol=TEXT)
    assert picture.id == "sim0000"
    assert "chi2/dof" in picture.summary
    residual = ((picture.image - picture.model) / picture.sigma)[~picture.mask]
    assert (residual**2).sum() == pytest.approx(table["chi2"][0], rel=1e-3)
    # the page quotes the row's numbers, in units of the sky where they are known
    quoted = {(m.name, m.unit): m for m in picture.parameters[""]}
    for name, unit in (("x", "pix"), ("mag", ""), ("r_eff", "pix"), ("n", ""), ("sky", "flux/pix")):
        assert quoted[name, unit].value == table[name][0]
        assert quoted[name, unit].error == table[f"{name}_err"][0]
    assert quoted["r_eff", "arcsec"].value == table["r_eff_arcsec"][0]
    cutouts = hf.read(inputs)
    assert picture.pixel_scale == float(cutouts.pixel_scale[0])
    assert picture.zeropoint == float(cutouts.zeropoint[0])
    assert picture.wcs is not None
    assert picture.psf_fwhm > 1
    # without its sky the model has the galaxy's flux, the few per cent beyond the edge aside
    light = (picture.model - picture.sky).sum()
    assert light == pytest.approx(table["flux"][0], rel=0.05)


def test_without_the_cutouts_blocks_and_draws_are_used(run: Path, drawn):
    files = plot_run(run, ["sim0001"])
    assert [path.name for path in files] == ["sim0001_fit.png", "sim0001_corner.png"]
    (names, layers, known), _ = drawn["plot_corner"][0]
    assert [layer.label for layer in layers] == ["bootstrap"]
    assert known == {}
    draws = hf.read_draws(run)[1]
    counted = draws["weight"] > 0
    for k, name in enumerate(names):
        np.testing.assert_array_equal(layers[0].samples[:, k], draws[name][counted])
    (picture,), _ = drawn["plot_galaxy"][0]
    with fits.open(run / "models" / "sim0001_block.fits") as block:
        np.testing.assert_array_equal(picture.image, block[1].data)
        np.testing.assert_array_equal(picture.model, block[2].data)
    # the noise is not in the block: the residual's scatter stands for it, and the page says so
    residual = (picture.image - picture.model) / picture.sigma
    assert np.std(residual) == pytest.approx(1, abs=0.1)
    assert "scatter of the residual" in picture.summary
    # scale, zero point and North are those of the row and of the block's header
    assert picture.pixel_scale == pytest.approx(0.2)
    assert picture.zeropoint == Table.read(run / "results.fits")["zeropoint"][1]
    assert picture.wcs is not None


def test_positions_of_cropped_stamps(tmp_path: Path, drawn):
    """A large image is cropped: draws are in its pixels, and so are flow and Laplace."""
    cutouts, _ = hf.simulate(1, 5, SimulateOptions(shape=(480, 480), psf_size=15, r_eff=(2, 3)))
    write_cutouts(cutouts, tmp_path / "in")
    options = RunOptions(uncertainty="bootstrap", save_samples=True)
    fit_files(tmp_path / "in", tmp_path / "out", run=options, bootstrap=QUICK)
    assert hf.read(tmp_path / "in").origin.max() > 10
    plot_run(tmp_path / "out", input=tmp_path / "in")
    (_, layers, _), _ = drawn["plot_corner"][0]
    (picture,), _ = drawn["plot_galaxy"][0]
    # ellipse in pixels of the cutout, axes and numbers in those of the image
    brightest = np.unravel_index(np.argmax(picture.model), picture.model.shape)
    assert np.hypot(picture.ellipse.x - brightest[1], picture.ellipse.y - brightest[0]) < 1
    assert picture.ellipse.x + picture.origin[0] == pytest.approx(239.5, abs=3)
    for layer in layers:
        middle = layer.mean if isinstance(layer, GaussianLayer) else np.median(layer.samples, 0)
        assert np.abs(np.asarray(middle)[:2] - 239.5).max() < 3


def test_draws_of_predict(inputs: Path, tmp_path: Path, drawn):
    predict_files(inputs, tmp_path, predict=PredictOptions(samples=64, save_samples=True))
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


def test_summary_says_what_was_drawn_and_why_not(inputs: Path, run: Path):
    """Three galaxies, of which one cannot be read: it is named with the reason."""
    assert "the others" not in call(run, "--input", inputs).output
    first = call(run, "--input", inputs, "--limit", 1).output
    assert "1 of 3 galaxies drawn; the others: --limit 3, or --id NAME for each" in first
    every = call(run, "--input", inputs).output
    assert "2 of 3 galaxies drawn" in every
    assert "not drawn: 'sim0002': fit: it has no fit [UNREADABLE]: " in every
    table = Table.read(run / "plots" / "summary.csv", format="ascii.csv")
    assert list(table["id"]) == ["sim0000", "sim0001", "sim0002"]
    assert table["pictures"][0] == "sim0000_fit.png sim0000_corner.png"
    assert "cannot be read as FITS" in table["missing"][2]
    assert "the others" not in call(run, "--input", inputs, "--id", "sim0001").output
    assert call(run, "--input", inputs, "--limit", 1, "--quiet").output == ""


def test_a_galaxy_without_a_fit_shows_its_pixels_and_flags(inputs: Path, run: Path, drawn):
    results = read_results(run)
    assert "notes" in results.table.colnames
    for name in results.table.colnames:
        if results.table[name].dtype.kind == "f":
            results.table[name] = np.nan
    results.table["flags"] = int(hf.Flag.FAILED | hf.Flag.NO_ZEROPOINT)
    results.table["notes"] = ["why it failed"] * len(results.table)
    picture = picture_of_cutout(results.table[0], hf.read(inputs)[:1], FitOptions())
    assert picture.model is None
    assert picture.flags == ["NO_ZEROPOINT", "FAILED"]
    assert picture.notes == "why it failed"
    assert "instrumental" in picture.summary
    assert np.isfinite(picture.image).all()


@pytest.mark.parametrize("sky", ["constant", "plane"])
def test_components_and_sky_add_up_to_the_model(sky: str, tmp_path: Path):
    cutouts, _ = hf.simulate(1, 2, SMALL)
    options = FitOptions(model=("sersic", "exponential"), sky=sky)
    table = hf.fit(cutouts, model=options.model, sky=sky, uncertainty="covariance")
    picture = picture_of_cutout(table[0], cutouts, options)
    assert picture.components.shape == (2, 32, 32)
    total = picture.components.sum(axis=0) + picture.sky
    # float32 images
    np.testing.assert_allclose(total, picture.model, atol=1e-5 * np.abs(picture.model).max())
    assert [len(group) for group in picture.parameters.values()][1] >= 7
    assert picture.main == int(table["exponential_mag"][0] < table["sersic_mag"][0])
