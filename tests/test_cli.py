"""The command line: options of every stage, one clear line for an error, the right status."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from click.testing import CliRunner, Result
from read_helpers import write

import hybridfit as hf
from hybridfit.cli.app import main, make_app
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.read_results import read_results
from hybridfit.simulation.simulate import SimulateOptions

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
    """Run `hybridfit fit`; the quickest errors unless ``more`` says something of them."""
    quick = () if "--uncertainty" in more or "--config" in more else ("--uncertainty", "covariance")
    return call("fit", inputs, "-o", out, *quick, *more)


def test_version_and_help():
    run = subprocess.run(
        [sys.executable, "-m", "hybridfit", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"hybridfit {hf.__version__}"
    run = subprocess.run(
        [sys.executable, "-m", "hybridfit", "--help"], capture_output=True, text=True, check=True
    )
    assert "simulate" in run.stdout


def test_ways_to_errors(inputs: Path, tmp_path: Path):
    """Flags and the YAML section of a way reach it; the summary counts the galaxies' quality."""
    config = tmp_path / "my.yaml"
    config.write_text("run: {uncertainty: bootstrap}\nbootstrap: {replicas: 7, refit: false}\n")
    more = ("--config", config, "--save-samples", "--limit", 3)
    result = fit(inputs, tmp_path / "one", *more)
    assert result.exit_code == 0, result.output
    assert re.search(r"\d+ (certified|usable|suspect)", result.output)
    table = Table.read(tmp_path / "one" / "results.fits")
    draws = Table.read(tmp_path / "one" / "draws.fits")
    assert draws["weight"].shape == draws["r_eff"].shape == (3, 7)
    assert list(draws["id"]) == list(table["id"])
    assert "weight" not in table.colnames
    assert (table["n_p16"] < table["n_p84"]).all()
    more = (*more, "--bootstrap-replicas", 5, "--bootstrap-kind", "parametric")
    assert fit(inputs, tmp_path / "two", *more).exit_code == 0
    other = Table.read(tmp_path / "two" / "draws.fits")
    assert other["weight"].shape == (3, 5)
    assert '"kind": "parametric"' in other.meta["OPTIONS"]


def test_fit_writes_a_table(inputs: Path, tmp_path: Path):
    result = fit(inputs, tmp_path / "out", "--covariance", "--save-models", "--sky", "plane")
    assert result.exit_code == 0, result.output
    assert "6 galaxies" in result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert table["covariance"].shape == (6, 10, 10)
    assert len(list((tmp_path / "out" / "models").iterdir())) == 6
    again = fit(inputs, tmp_path / "out", "--covariance", "--save-models", "--sky", "plane")
    assert again.exit_code == 0
    assert "already complete" in again.output


@pytest.mark.parametrize("format", ["ecsv", "csv", "parquet", "votable"])
def test_formats(inputs: Path, tmp_path: Path, format: str):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    result = fit(inputs, tmp_path, "--format", format, "--limit", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    assert len(read_results(tmp_path).table) == 2
    again = fit(inputs, tmp_path, "--format", format, "--limit", 2)
    assert "already complete" in again.output


def test_yaml_gives_options_and_flags_win(inputs: Path, tmp_path: Path):
    config = tmp_path / "my.yaml"
    config.write_text(
        "read: {zeropoint: 20.0}\n"
        "fit: {sky: plane, objective: ml}\n"
        "prior: {n: {median: 2.0}}\n"
        "run: {limit: 3}\n"
    )
    result = fit(inputs, tmp_path / "out", "--config", config, "--objective", "map")
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "out" / "results.fits")
    assert len(table) == 3
    assert "sky_dx" in table.colnames
    options = table.meta["OPTIONS"]
    assert '"objective": "map"' in options
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
        ("bootstrap: {replica: 10}", "did you mean 'replicas'"),
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
        (["--objective", "best"], "expected one of map, ml"),
        (["--uncertainty", "guess"], "uncertainty is 'guess'"),
        (["--uncertainty", "covariance", "--save-samples"], "save_samples needs draws"),
        (["--bootstrap-kind", "jackknife"], "kind is 'jackknife'"),
        (["--sampling-target-ess", "-1"], "target_ess is -1"),
        (["--initial-values", "flow"], "initial_values is 'flow'"),
        (["--format", "hdf5"], "format is 'hdf5'"),
        (["--format", "csv", "--covariance"], "csv cannot hold"),
        (["--format", "csv", "--save-samples", "--uncertainty", "bootstrap"], "csv cannot hold"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--psf", "none.fits"], "PSF file 'none.fits' does not exist"),
        (["--psf-oversampling", "0"], "psf_oversampling is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--threads", "100000000"], "threads is 100000000"),
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


def test_no_room_for_a_model(inputs: Path, tmp_path: Path, monkeypatch):
    """astropy says in words of its own that a disk is full."""

    def full(*_: object, **__: object) -> None:
        raise OSError("Not enough space on disk: requested 65536, available 0.")

    monkeypatch.setattr("hybridfit.io.blocks.write_blocks", full)
    result = fit(inputs, tmp_path / "out", "--save-models")
    assert result.exit_code == 1
    assert "no space left: free some space and repeat the command to continue" in result.stderr
    monkeypatch.undo()
    assert fit(inputs, tmp_path / "out", "--save-models").exit_code == 0


def test_ctrl_c_during_the_start(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridfit.cli.app.make_app", interrupted)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "interrupted" in capsys.readouterr().err


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
    assert "snr is" in result.output
    assert "above 0" in result.output


def test_simulation_repeats():
    first, second = (hf.simulate(2, 7, SMALL)[0].image for _ in range(2))
    assert bool((first == second).all())
    assert not bool((hf.simulate(2, 8, SMALL)[0].image == first).all())


def test_public_names_are_there():
    for name in hf.__all__:
        assert getattr(hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'predikt'"):
        _ = hf.predikt


@pytest.mark.parametrize(("angle", "parity"), [(37.0, -1), (200.0, 1)])
@pytest.mark.parametrize("big", [False, True])
def test_positions_on_the_sky_and_in_blocks(tmp_path: Path, angle: float, parity: int, big: bool):
    """Turned, mirrored, cropped: astropy's own WCS finds the galaxy where the table has it."""
    shape, x, y, pa = ((300, 340), 210.3, 95.7, 25.0) if big else ((80, 90), 40.2, 37.9, 25.0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [359.999, 61.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    turn = np.radians(angle)
    rotation = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    wcs.wcs.cd = 0.2 / 3600 * np.array([[parity, 0], [0, 1]]) @ rotation
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    along = np.array([-np.sin(np.radians(pa)), np.cos(np.radians(pa))])  # x, y of the major axis
    u = (columns - x) * along[0] + (rows - y) * along[1]
    v = (columns - x) * along[1] - (rows - y) * along[0]
    image = 400 * np.exp(-(u**2 + (v / 0.5) ** 2) / 50)
    image += np.random.default_rng(1).normal(0, 1, shape)
    write(tmp_path / "g_image.fits", image.astype("f4"), wcs.to_header())
    write(tmp_path / "g_sigma.fits", np.ones(shape, "f4"))
    start = ["--x", x + 1, "--y", y - 1]
    result = fit(tmp_path, tmp_path / "out", "--no-psf", "--save-models", *start)
    assert result.exit_code == 0, result.stderr
    row = Table.read(tmp_path / "out" / "results.fits")[0]
    assert bool(row["flags"] & hf.Flag.CROPPED) == big
    assert (row["x"], row["y"]) == pytest.approx((x, y), abs=0.1)
    here, there = wcs.pixel_to_world(x, y), wcs.pixel_to_world(x + along[0], y + along[1])
    assert here.separation(SkyCoord(row["ra"], row["dec"], unit="deg")).arcsec < 0.02
    off = row["pa_sky"] - here.position_angle(there).deg
    assert (off + 90) % 180 - 90 == pytest.approx(0, abs=0.5)
    assert row["r_eff_arcsec"] == pytest.approx(0.2 * row["r_eff"])
    with fits.open(tmp_path / "out" / "models" / "g_block.fits") as hdus:
        header = hdus[2].header
        x0, x1, y0, y1 = (int(number) for number in re.findall(r"\d+", header["FITSECT"]))
        section = image[y0 - 1 : y1, x0 - 1 : x1]
        np.testing.assert_array_equal(hdus[1].data, section.astype("f4"))
        centre = [float(header[key].split()[0]) for key in ("1_XC", "1_YC")]
        # GALFIT counts pixels of the whole image from 1; the block's WCS is that of the section
        found = WCS(hdus[1].header).pixel_to_world(centre[0] - x0, centre[1] - y0)
        assert found.separation(here).arcsec < 0.02


def test_an_output_that_is_a_file_and_a_seed_below_0_are_wrong_usage(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    app = make_app()
    done = CliRunner().invoke(app, ["simulate", "--n", "1", "-o", str(tmp_path / "file")])
    assert done.exit_code == 2
    assert "is a file" in done.output
    done = CliRunner().invoke(app, ["simulate", "--seed", "-1", "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"
