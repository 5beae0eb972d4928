"""The command line: options of every stage, one clear line for an error, the right status."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner, Result

import hybridfit as hf
from hybridfit.cli import make_app
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.model.simulate import SimulateOptions

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiny galaxies as files."""
    directory = tmp_path_factory.mktemp("galaxies")
    write_cutouts(hf.simulate(6, 4, SMALL)[0], directory)
    return directory


def call(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(a) for a in arguments])


def fit(inputs: Path, out: Path, *more: object) -> Result:
    return call("fit", inputs, "-o", out, *more)


def test_version_and_help():
    run = subprocess.run(
        [sys.executable, "-m", "hybridfit", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"hybridfit {hf.__version__}"
    run = subprocess.run(
        [sys.executable, "-m", "hybridfit", "--help"], capture_output=True, text=True, check=True
    )
    assert "simulate" in run.stdout


def test_every_option_has_a_flag_and_words():
    text = call("fit", "--help").stdout
    for cls in (hf.ReadOptions, hf.FitOptions, hf.RunOptions):
        for field in fields(cls):
            if field.name not in ("prior", "components"):
                assert f"--{field.name.replace('_', '-')}" in text
    from hybridfit.cli import HELP

    named = {f.name for cls in (hf.ReadOptions, hf.FitOptions, hf.RunOptions) for f in fields(cls)}
    assert set(HELP) <= named, "help for options that are no more"
    plain = {n for n in named if not n.startswith(("hdu_", "pattern_"))}
    assert plain - {"prior", "components"} <= set(HELP), "options without help"


def test_fit_writes_a_table(inputs: Path, tmp_path: Path):
    result = fit(inputs, tmp_path / "out", "--covariance", "--save-models", "--sky", "plane")
    assert result.exit_code == 0, result.output
    assert "6 galaxies" in result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert table["covariance"].shape == (6, 10, 10)
    assert len(list((tmp_path / "out" / "models").iterdir())) == 6
    again = fit(inputs, tmp_path / "out", "--covariance", "--save-models", "--sky", "plane")
    assert again.exit_code == 0
    assert "complete already" in again.output


@pytest.mark.parametrize("format", ["ecsv", "csv", "parquet"])
def test_formats(inputs: Path, tmp_path: Path, format: str):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    result = fit(inputs, tmp_path, "--format", format, "--limit", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    assert (tmp_path / f"results.{format}").exists()


def test_yaml_gives_options_and_flags_win(inputs: Path, tmp_path: Path):
    config = tmp_path / "my.yaml"
    config.write_text(
        "read: {zeropoint: 20.0}\n"
        "fit: {sky: plane, estimator: ml}\n"
        "prior: {n: {median: 2.0}}\n"
        "run: {limit: 3}\n"
    )
    result = fit(inputs, tmp_path / "out", "--config", config, "--estimator", "map")
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert len(table) == 3
    assert "sky_dx" in table.colnames
    options = table.meta["OPTIONS"]
    assert '"estimator": "map"' in options
    assert '"median": 2.0' in options
    assert '"zeropoint": 20.0' in options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fit: {skyy: plane}", "unknown option 'skyy' in section 'fit'"),
        ("fitt: {sky: plane}", "did you mean 'fit'"),
        ("fit: [1, 2]", "expected 'key: value'"),
        ("fit: {sky: tilted}", "sky is 'tilted'"),
        ("prior: {n: {med: 1}}", "unknown option 'med'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_yaml_is_wrong_usage(inputs: Path, tmp_path: Path, text: str, message: str):
    config = tmp_path / "my.yaml"
    config.write_text(text)
    result = fit(inputs, tmp_path / "out", "--config", config)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--estimator", "best"], "expected one of map, ml"),
        (["--uncertainty", "guess"], "uncertainty is 'guess'"),
        (["--start", "flow"], "start is 'flow'"),
        (["--format", "hdf5"], "format is 'hdf5'"),
        (["--format", "csv", "--covariance"], "csv cannot hold"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--psf", "none.fits"], "PSF file 'none.fits' does not exist"),
        (["--psf-oversampling", "0"], "psf_oversampling is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage(inputs: Path, tmp_path: Path, options: list[str], message: str):
    result = fit(inputs, tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_wrong_input(inputs: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, message in ((tmp_path / "none", "does not exist"), (empty, "no galaxy found")):
        result = fit(path, tmp_path / "out")
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    no_psf = tmp_path / "no_psf"
    write_cutouts(hf.simulate(2, 4, SMALL)[0], no_psf)
    for file in no_psf.glob("*_psf.fits"):
        file.unlink()
    result = fit(no_psf, tmp_path / "out")
    assert result.exit_code == 2
    assert "--no-psf" in result.output
    result = fit(no_psf, tmp_path / "out", "--no-psf")
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert (table["flags"] & hf.Flag.NO_PSF > 0).all()


def test_other_options_need_overwrite(inputs: Path, tmp_path: Path):
    assert fit(inputs, tmp_path, "--limit", 2).exit_code == 0
    result = fit(inputs, tmp_path, "--limit", 3)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert fit(inputs, tmp_path, "--limit", 3, "--overwrite").exit_code == 0
    assert len(Table.read(tmp_path / "results.fits")) == 3


def test_output_that_cannot_be_written(inputs: Path, tmp_path: Path):
    """A folder that cannot be made: status 1 and the system's own words."""
    result = fit(inputs, Path("/proc/none/out"))
    assert result.exit_code == 1
    assert "cannot use" in result.output
    (tmp_path / "file").write_text("")
    result = fit(inputs, tmp_path / "file")
    assert result.exit_code == 2
    assert "is a file" in result.output


@pytest.mark.skipif(os.name != "posix", reason="needs limits of processes")
def test_full_disk_and_going_on(inputs: Path, tmp_path: Path):
    """Where no more can be written the run fails with one line, and goes on when there is room."""

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    command = [sys.executable, "-m", "hybridfit", "fit", str(inputs), "-o", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room)
    assert run.returncode == 1, run.stderr
    assert "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out" / "results.fits").exists()
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(Table.read(tmp_path / "out" / "results.fits")) == 6


def test_simulate_writes_what_fit_reads(tmp_path: Path):
    result = call("simulate", "-o", tmp_path / "in", "--n", 3, "--size", 32, "--seed", 2)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "in").glob("*_image.fits"))) == 3
    result = fit(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0, result.output
    truth = Table.read(tmp_path / "in" / "truth.fits")
    table = Table.read(tmp_path / "out" / "results.fits")
    assert np.abs(table["x"] - truth["x"]).max() < 1
    result = call("simulate", "-o", tmp_path / "in", "--snr-min", -3)
    assert result.exit_code == 2
    assert "expected 0 < low <= high" in result.output


def test_simulation_repeats():
    first, second = (hf.simulate(2, 7, SMALL)[0].image for _ in range(2))
    assert bool((first == second).all())
    assert not bool((hf.simulate(2, 8, SMALL)[0].image == first).all())


def test_public_names_are_there():
    for name in hf.__all__:
        assert getattr(hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'predikt'"):
        _ = hf.predikt
