"""`hybridfit predict`: the posterior's numbers in a table, the same from memory and from files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result
from tolerances import DOUBLE, SINGLE, TEXT

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.samples import Posterior
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.posterior_table import LEVELS
from hybridfit.io.read_results import read_results
from hybridfit.io.run_folder import RunFolder
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator, predict_cutouts
from hybridfit.npe.weight_files import save_weights
from hybridfit.pipeline.predict import judged
from hybridfit.simulation.simulate import SimulateOptions
from validation import real_galaxies

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))
TINY = {"backbone": "none", "width": 16, "blocks": 1, "context": 8}
TINY |= {"flow_layers": 2, "flow_hidden": 16}
NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hf.Cutouts]:
    """Ten tiny galaxies as files and as cutouts."""
    directory = tmp_path_factory.mktemp("galaxies")
    cutouts, _ = hf.simulate(10, 3, SMALL)
    write_cutouts(cutouts, directory)
    return directory, cutouts


@pytest.fixture(scope="module")
def weights(simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network whose posteriors lie about the measured moments."""
    torch.manual_seed(0)
    n_scalars = make_inputs(simulated[1], False).scalars.shape[1]
    estimator = Estimator(NetworkOptions(**TINY), n_scalars)
    with torch.no_grad():
        for name, parameter in estimator.flow.named_parameters():
            if "final_layer" in name or "direct" in name:
                parameter.normal_(0, 0.1)
    estimator.target_std.fill_(0.1)
    config = {"network": TINY, "n_scalars": n_scalars, "n_targets": 8}
    return save_weights(estimator, tmp_path_factory.mktemp("weights"), config, half=False)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(a) for a in arguments])


def test_files_and_memory_agree(simulated, weights: Path, tmp_path: Path):
    """`hybridfit.predict` on what was read is the run's table."""
    directory, _ = simulated
    result = call("predict", directory, "-o", tmp_path, "--weights", weights, "--part-size", 4)
    assert result.exit_code == 0, result.output
    assert "10 predicted now" in result.output
    table = Table.read(tmp_path / "results.fits")
    direct = hf.predict(hf.read(directory), weights=str(weights))
    assert table.colnames == direct.colnames
    assert list(table["id"].astype(str)) == list(direct["id"])
    assert list(table["zeropoint_from"].astype(str)) == list(direct["zeropoint_from"])
    for name in (name for name in direct.colnames if direct[name].dtype.kind != "U"):
        # float32 sums in batches of another size
        np.testing.assert_allclose(table[name], direct[name], rtol=2e-3, atol=2e-3, err_msg=name)
    assert np.isfinite(table["ra"]).all()
    np.testing.assert_allclose(table["r_eff_arcsec"], 0.2 * table["r_eff"], atol=TEXT)
    assert json.loads(table.meta["OPTIONS"])["predict"]["samples"] == 256
    assert table["mag"].unit == "mag"


def test_columns_are_those_of_the_draws(simulated, weights: Path):
    """Mean, deviation and quantiles, and positions in the parent image."""
    _, cutouts = simulated
    origin = torch.tensor([100.0, 200.0]).expand(10, 2)
    table = hf.predict(
        replace(cutouts, origin=origin), weights=str(weights), samples=300, save_samples=True
    )
    draws = predict_cutouts(cutouts, load_estimator(weights), 300)
    for k, name in enumerate(NAMES):
        shift = {"x": 100.0, "y": 200.0}.get(name, 0.0)
        kept = table[f"{name}_samples"]
        assert kept.shape == (10, 300)
        np.testing.assert_allclose(kept, draws.samples[..., k] + shift, rtol=1e-9, atol=DOUBLE)
        if name == "pa":
            continue
        np.testing.assert_allclose(table[name], kept.mean(axis=1), atol=TEXT)
        np.testing.assert_allclose(table[f"{name}_err"], kept.std(axis=1, ddof=1), atol=TEXT)
        for end, level in LEVELS.items():
            expected = np.quantile(kept, level, axis=1, method="hazen")
            np.testing.assert_allclose(table[f"{name}_{end}"], expected, atol=TEXT)
    np.testing.assert_allclose(table["log_prob"], draws.log_prob, atol=TEXT)
    for low, high in (("p025", "p16"), ("p16", "p50"), ("p50", "p84"), ("p84", "p975")):
        assert (table[f"pa_{low}"] < table[f"pa_{high}"]).all()
    assert ((table["pa"] >= 0) & (table["pa"] < 180)).all()
    assert (np.abs(table["pa_p50"] - table["pa"]) <= 90).all()
    near = np.abs((table["x"] - 100) - 15.5) < 4
    assert near.all(), "galaxies lie in the middle of the stamps"


def test_predict_takes_arrays_and_a_network(simulated, weights: Path):
    _, cutouts = simulated
    given = {name: getattr(cutouts, name)[:3].numpy() for name in ("sigma", "psf", "zeropoint")}
    network = load_estimator(weights)
    table = hf.predict(cutouts.image[:3].numpy(), **given, estimator=network, seed=5)
    options = hf.PredictOptions(seed=5)
    renamed = replace(cutouts[:3], id=["0", "1", "2"])  # an id is part of the seed
    same = hf.predict(renamed, predict=options, estimator=network)
    np.testing.assert_allclose(table["mag_p50"], same["mag_p50"], rtol=1e-6, atol=SINGLE)
    with pytest.raises(ValueError, match="did you mean 'samples'"):
        hf.predict(cutouts, sample=3)
    with pytest.raises(ValueError, match=r"psf is missing: expected psf="):
        hf.predict(cutouts.image, sigma=cutouts.sigma)
    with pytest.raises(ValueError, match="samples is 1"):
        hf.predict(cutouts, samples=1)


@pytest.mark.parametrize("format", ["fits", "ecsv", "parquet", "votable"])
def test_draws_are_written(simulated, weights: Path, tmp_path: Path, format: str):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    directory, _ = simulated
    more = ["--weights", weights, "--samples", 20, "--save-samples", "--limit", 3, "--part-size", 2]
    result = call("predict", directory, "-o", tmp_path, "--format", format, *more)
    assert result.exit_code == 0, result.output
    table, draws = read_results(tmp_path).table, hf.read_draws(tmp_path)
    assert np.shape(draws["pa"]) == np.shape(draws["log_prob"]) == (3, 20)
    np.testing.assert_allclose(np.mean(draws["n"], axis=1), table["n"], atol=TEXT)


def test_bad_galaxies_are_flagged_rows(simulated, weights: Path, tmp_path: Path):
    directory, _ = simulated
    inputs = shutil.copytree(directory, tmp_path / "in")
    (inputs / "sim0003_image.fits").write_text("not a FITS file")
    with fits.open(inputs / "sim0005_image.fits", mode="update") as hdus:
        hdus[0].data[:] = np.nan
    result = call("predict", inputs, "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    bad = np.isin(table["id"].astype(str), ["sim0003", "sim0005"])
    for name in NAMES:
        values = np.ma.filled(table[f"{name}_p16"], np.nan)
        assert np.isnan(values[bad]).all()
        assert np.isfinite(values[~bad]).all()
    assert table["flags"][3] & hf.Flag.UNREADABLE
    assert table["flags"][5] & (hf.Flag.NO_DATA | hf.Flag.UNREADABLE)
    assert all(len(text) > 20 for text in table["notes"][bad])


def test_a_stopped_run_goes_on_to_the_same_table(simulated, weights: Path, tmp_path: Path):
    directory, _ = simulated
    options = hf.PredictOptions(weights=str(weights), samples=32)
    run = hf.FileRunOptions(part_size=3)
    whole = hf.predict_files(directory, tmp_path / "whole", predict=options, run=run)
    save, saved = RunFolder.save, []

    def stop(self, part, rows):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(part)
        save(self, part, rows)

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            hf.predict_files(directory, out, predict=options, run=run)
    rest = hf.predict_files(directory, out, predict=options, run=run)
    assert rest.n_fitted == 4
    assert rest.results.read_bytes() == whole.results.read_bytes()
    again = hf.predict_files(directory, out, predict=options, run=run)
    assert again.n_fitted == 0
    with pytest.raises(hf.UsageError, match="predict seed was 0 and is now 1"):
        hf.predict_files(directory, out, predict=replace(options, seed=1), run=run)
    with pytest.raises(hf.UsageError, match="holds a run that was started otherwise"):
        hf.fit_files(directory, out, run=hf.RunOptions(initial_values="moments"))


def test_other_weights_are_another_run(simulated, weights: Path, tmp_path: Path):
    """The folder's name is the same, the network in it is not."""
    directory, _ = simulated
    copy = shutil.copytree(weights, tmp_path / "weights")
    options = hf.PredictOptions(weights=str(copy), samples=8)
    hf.predict_files(directory, tmp_path / "out", predict=options)
    other = load_estimator(copy)
    other.target_std.fill_(0.2)
    config = {"network": TINY, "n_scalars": other.n_scalars, "n_targets": 8}
    save_weights(other, copy, config, half=False)
    with pytest.raises(hf.UsageError, match="weights was"):
        hf.predict_files(directory, tmp_path / "out", predict=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "nowhere"], "no weights.safetensors in 'nowhere'"),
        (["--samples", "1"], "samples is 1"),
        (["--format", "csv", "--save-samples"], "csv cannot hold draws"),
        (["--device", "abacus"], "device 'abacus'"),
    ],
)
def test_wrong_usage(simulated, weights: Path, tmp_path: Path, arguments: list, message: str):
    if "--weights" not in arguments:
        arguments = [*arguments, "--weights", str(weights)]
    result = call("predict", simulated[0], "-o", tmp_path, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


def test_yaml_gives_options(simulated, weights: Path, tmp_path: Path):
    config = tmp_path / "my.yaml"
    config.write_text(f"predict: {{weights: {weights}, samples: 9}}\nrun: {{limit: 2}}\n")
    result = call("predict", simulated[0], "-o", tmp_path / "out", "-c", config, "--seed", 4)
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert len(table) == 2
    assert '"samples": 9, "seed": 4' in table.meta["OPTIONS"]
    config.write_text("fit: {sky: plane}")
    wrong = call("predict", simulated[0], "-o", tmp_path / "out2", "-c", config)
    assert wrong.exit_code == 2
    assert "unknown option 'fit'" in wrong.output


def test_real_cutouts_go_through(weights: Path, shared_data: Path, tmp_path: Path):
    """Cutouts of 26 to 512 pixels, oversampled PSFs, none, masks that hide the target: no NaN."""
    few = {"sdss_spf38372865", "ground_ngc777_R", "jwst_2114_f356w", "sdss_J092800"}
    cases = [case for case in real_galaxies.read_cases(shared_data / "real") if case["id"] in few]
    assert len(cases) == 4
    for with_psf in (True, False):
        some = [case for case in cases if bool(case["psf"]) == with_psf]
        manifest = real_galaxies.write_manifest(tmp_path / f"{with_psf}.csv", some)
        summary = hf.predict_files(
            manifest,
            tmp_path / str(with_psf),
            read=hf.ReadOptions(no_psf=not with_psf),
            predict=hf.PredictOptions(weights=str(weights), samples=32),
        )
        table = Table.read(summary.results, mask_invalid=False)
        for name in NAMES:
            assert np.isfinite(table[f"{name}_p50"]).all()
        assert (table["r_eff_p16"] > 0).all()


def test_render_takes_a_predicted_table(simulated, weights: Path):
    _, cutouts = simulated
    models = hf.render(hf.predict(cutouts, weights=str(weights)), cutouts)
    assert models.shape == cutouts.image.shape
    assert np.isfinite(models).all()


def test_flags_follow_from_the_draws(simulated):
    """Wide magnitudes, wide sizes and large galaxies, each on its own."""
    _, cutouts = simulated
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(4, 2000, 8, generator=generator, dtype=torch.float64) * 0.01 + 10
    samples[1, :, 2] += 0.3 * torch.randn(2000, generator=generator)  # 2 sigma: 0.6 mag
    samples[2, :, 3] *= torch.exp(0.3 * torch.randn(2000, generator=generator))  # a factor 1.8
    samples[3, :, 3] += 10.0
    zero = torch.zeros(4, dtype=torch.int64)
    known = NetworkDiagnostics(zero, zero.double(), zero)
    space = hf.ParameterSpace()
    posterior = Posterior(space, samples, log_prob=samples[..., 0], diagnostics=known)
    flags = judged(posterior, cutouts[:4]).flags
    uncertain, large = int(hf.Flag.UNCERTAIN), int(hf.Flag.LARGER_THAN_CUTOUT)
    assert flags.tolist() == [0, uncertain, uncertain, large]
