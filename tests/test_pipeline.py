"""From files to a table: the same as in memory, whole after any kill, flat in memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from tolerances import SINGLE, TEXT

import hybridfit as hf
from hybridfit.data.errors import UsageError
from hybridfit.data.result import QUALITY_COLUMNS
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions
from hybridfit.simulation.simulate import SimulateOptions

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))
PART = 4  # galaxies: many parts in few galaxies
QUICK = hf.BootstrapOptions(replicas=40, refit=False)
PLAIN = RunOptions(uncertainty="covariance")  # the quickest: for what is not about errors
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hf.Cutouts, Table]:
    """24 tiny galaxies as files, as cutouts, and their truth."""
    directory = tmp_path_factory.mktemp("galaxies")
    cutouts, truth = hf.simulate(24, 3, SMALL)
    write_cutouts(cutouts, directory, truth)
    return directory, cutouts, truth


def command(inputs: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "hybridfit", "fit", str(inputs), "-o", str(out), *more]


def bytes_of(out: Path) -> bytes:
    return (out / "results.fits").read_bytes()


@pytest.mark.parametrize("uncertainty", ["posterior", "bootstrap", "covariance"])
def test_files_and_memory_agree(simulated, tmp_path: Path, uncertainty: str):
    """`hybridfit.fit` on what was read is the run's table, and both are near the truth."""
    directory, _, truth = simulated
    run = RunOptions(covariance=True, uncertainty=uncertainty)
    summary = fit_files(directory, tmp_path / "out", run=run, bootstrap=QUICK)
    table = Table.read(summary.results)
    direct = hf.fit(hf.read(directory), uncertainty=uncertainty, bootstrap=QUICK)
    assert summary.n == summary.n_fitted == len(table) == 24
    assert sum(summary.quality.values()) == 24
    assert table.colnames == direct.colnames
    assert ("mag_p50" in table.colnames) == (uncertainty != "covariance")
    for name in direct.colnames:
        if direct[name].dtype.kind == "U":
            assert list(np.ma.filled(table[name].astype(str), "")) == list(direct[name])
            continue
        values = np.ma.filled(table[name], np.nan) if table[name].dtype.kind == "f" else table[name]
        # PSFs from files are padded: float32 sums, and so the network's draws, differ a little
        parameter, _, end = name.rpartition("_")
        if name in QUALITY_COLUMNS:
            rtol, atol = 0.3, 0.05
        elif uncertainty == "posterior" and (end in ("err", "p16", "p50", "p84")):
            rtol, atol = 0, 0.05 * direct[f"{parameter}_err"].max()
        elif name == "covariance":  # of fits that started a rounding apart, to their tolerance
            rtol, atol = 2e-3, 1e-4
        else:
            rtol, atol = 1e-4, 1e-5
        if name == "covariance" and uncertainty == "posterior":
            error = np.sqrt(np.diagonal(values, axis1=1, axis2=2))
            values = values - direct[name]
            values = direct[name] + values / (error[:, :, None] * error[:, None, :])
            rtol, atol = 0, 0.1
        np.testing.assert_allclose(values, direct[name], rtol=rtol, atol=atol, err_msg=name)
    assert list(table["id"].astype(str)) == sorted(truth["id"])
    pull = (table["mag"] - truth["mag"]) / table["mag_err"]
    assert np.abs(pull).max() < 5
    assert np.isfinite(table["ra"]).all()
    assert np.allclose(table["r_eff_arcsec"], 0.2 * table["r_eff"], atol=TEXT)
    assert json.loads(table.meta["OPTIONS"])["fit"]["sky"] == "constant"


def test_fit_takes_arrays(simulated):
    _, cutouts, _ = simulated
    given = {name: getattr(cutouts, name)[:3].numpy() for name in ("sigma", "psf", "zeropoint")}
    table = hf.fit(cutouts.image[:3].numpy(), **given, uncertainty="covariance")
    same = hf.fit(cutouts[:3], covariance=False, uncertainty="covariance")
    np.testing.assert_allclose(table["mag"], same["mag"], atol=TEXT)
    assert table["covariance"].shape == (3, 8, 8)
    assert "covariance" not in same.colnames
    one = {"sigma": given["sigma"][0], "psf": given["psf"][0], "uncertainty": "covariance"}
    one = hf.fit(cutouts.image[0], **one, sky="plane")
    assert len(one) == 1
    assert "sky_dx" in one.colnames


def test_fit_says_what_it_does_not_know(simulated):
    _, cutouts, _ = simulated
    with pytest.raises(ValueError, match="did you mean 'objective'"):
        hf.fit(cutouts, objectve="ml")
    with pytest.raises(ValueError, match="uncertainty is 'jackknife', expected one of"):
        hf.fit(cutouts, uncertainty="jackknife")
    with pytest.raises(ValueError, match="save_samples needs draws"):
        hf.fit(cutouts, uncertainty="covariance", save_samples=True)
    with pytest.raises(ValueError, match="psf is missing"):
        hf.fit(cutouts.image, sigma=cutouts.sigma)
    with pytest.raises(ValueError, match="device 'abacus'"):
        hf.fit(cutouts, device="abacus")


@pytest.mark.parametrize("uncertainty", ["posterior", "bootstrap"])
def test_draws_on_request(simulated, tmp_path: Path, uncertainty: str):
    """The saved draws, weighted, give the table's own numbers back."""
    directory, _, _ = simulated
    run = RunOptions(uncertainty=uncertainty, save_samples=True, limit=4)
    table = Table.read(fit_files(directory, tmp_path, run=run, bootstrap=QUICK).results)
    drawn = hf.read_draws(tmp_path)
    weight = np.asarray(drawn["weight"])
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=TEXT)
    for name in ("x", "mag", "n", "sky"):
        draws = np.where(weight > 0, np.ma.filled(drawn[name], np.nan), 0)
        mean = (draws * weight).sum(axis=1)
        spread = np.sqrt((weight * (draws - mean[:, None]) ** 2).sum(axis=1))
        # n / (n - 1) of 40 draws is 1.3 % in the error
        np.testing.assert_allclose(table[f"{name}_err"], spread, rtol=0.02, atol=SINGLE)
        assert ((table[f"{name}_p16"] < mean) & (mean < table[f"{name}_p84"])).all()


def test_other_settings_of_the_errors_are_another_run(simulated, tmp_path: Path):
    directory, _, _ = simulated
    run = RunOptions(uncertainty="bootstrap", limit=2)
    fit_files(directory, tmp_path, run=run, bootstrap=QUICK)
    with pytest.raises(UsageError, match="bootstrap seed was 0 and is now 1"):
        fit_files(directory, tmp_path, run=run, bootstrap=replace(QUICK, seed=1))
    record = json.loads(Table.read(tmp_path / "results.fits").meta["OPTIONS"])
    assert record["bootstrap"]["replicas"] == 40
    assert "posterior" not in record


@pytest.mark.parametrize("convolution", ["continuous", "galfit"])
def test_render_gives_the_fitted_model(simulated, convolution: str):
    """The table's own model has the table's chi2, for rows in any order."""
    directory, _, _ = simulated
    cutouts = hf.read(directory)[:6]
    table = hf.fit(cutouts, convolution=convolution, uncertainty="covariance")
    models = hf.render(table[::-1], cutouts)
    residual = (cutouts.image.numpy() - models) / cutouts.sigma.numpy()
    chi2 = np.where(cutouts.mask.numpy(), 0, residual**2).sum(axis=(1, 2))
    np.testing.assert_allclose(chi2, table["chi2"], rtol=2e-3, atol=SINGLE)
    with pytest.raises(ValueError, match="no row for galaxy"):
        hf.render(table[1:], cutouts)


def test_bad_galaxies_are_flagged_rows(simulated, tmp_path: Path):
    """Broken files among good ones: rows with the reason, the good ones unharmed."""
    directory, _, _ = simulated
    inputs = shutil.copytree(directory, tmp_path / "in")
    (inputs / "sim0003_image.fits").write_text("not a FITS file")
    whole = (inputs / "sim0005_image.fits").read_bytes()
    (inputs / "sim0005_image.fits").write_bytes(whole[:4000])
    fits.writeto(inputs / "sim0007_psf.fits", np.zeros((15, 15)), overwrite=True)
    (inputs / "sim0009_psf.fits").unlink()
    summary = fit_files(inputs, tmp_path / "out", run=PLAIN)
    table = Table.read(summary.results)
    bad = np.isin(table["id"].astype(str), [f"sim000{i}" for i in (3, 5, 7, 9)])
    assert (table["flags"][bad] & hf.Flag.UNREADABLE > 0).all()
    assert np.ma.getmaskarray(table["mag"])[bad].all(), "astropy masks the NaN it reads"
    assert all(len(text) > 20 for text in table["notes"][bad])
    assert summary.flags["UNREADABLE"] == 4
    assert (table["quality"][bad].astype(str) == "suspect").all()
    good = Table.read(fit_files(directory, tmp_path / "good", run=PLAIN).results)
    np.testing.assert_allclose(table["mag"][~bad], good["mag"][~bad], rtol=1e-5, atol=SINGLE)


@pytest.mark.parametrize("uncertainty", ["posterior", "bootstrap", "covariance"])
def test_galaxies_without_a_fit_stop_nothing(simulated, uncertainty: str):
    """In memory: one among others, alone, and a batch of none."""
    _, cutouts, _ = simulated
    image = cutouts.image[:3].clone()
    image[1] = np.nan
    cutouts = replace(cutouts[:3], image=image)
    table = hf.fit(cutouts, uncertainty=uncertainty, bootstrap=QUICK)
    assert np.isfinite(table["mag_err"]).tolist() == [True, False, True]
    assert table["quality"][1] == "suspect"
    assert table["flags"][1] == hf.Flag.NO_DATA
    alone = hf.fit(cutouts[1:2], uncertainty=uncertainty, bootstrap=QUICK)
    assert alone.colnames == table.colnames
    assert np.isnan(alone["mag"]).all()
    assert len(hf.fit(cutouts[:0], uncertainty=uncertainty, bootstrap=QUICK)) == 0
    bare = hf.fit(replace(cutouts[:1], psf=None), uncertainty=uncertainty, bootstrap=QUICK)
    assert bare["flags"][0] & hf.Flag.NO_PSF
    assert bare["quality"][0] != "certified"


def test_mixed_shapes_keep_their_order(simulated, tmp_path: Path):
    _, cutouts, truth = simulated
    inputs = tmp_path / "in"
    write_cutouts(cutouts[:4], inputs)
    larger, more = hf.simulate(3, 8, SimulateOptions(shape=(40, 56), psf_size=21))
    larger = hf.Cutouts(**{**larger.__dict__, "id": ["sim0001b", "sim0002b", "zzz"]})
    write_cutouts(larger, inputs)
    table = Table.read(fit_files(inputs, tmp_path / "out", run=PLAIN).results)
    expected = ["sim0000", "sim0001", "sim0001b", "sim0002", "sim0002b", "sim0003", "zzz"]
    assert list(table["id"].astype(str)) == expected
    true = [*truth["mag"][:2], more["mag"][0], truth["mag"][2], more["mag"][1], truth["mag"][3]]
    assert np.abs(table["mag"][:-1] - true).max() < 1


def killed_after(arguments: list[str], parts: Path, count: int, delay: float) -> bool:
    """Run a command, kill -9 it a while after ``count`` parts are there; False if it ended."""
    process = subprocess.Popen(arguments, env=ENVIRONMENT)
    while process.poll() is None:
        if parts.is_dir() and len(list(parts.glob("part-*.npy"))) >= count:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            return process.wait() != 0
        time.sleep(0.002)
    return False


def test_killed_runs_end_with_the_same_table(simulated, tmp_path: Path):
    """kill -9 at random moments, the same command again: the same bytes as without a kill."""
    directory, _, _ = simulated
    more = ("--part-size", str(PART), "--quiet", "--uncertainty", "covariance")
    subprocess.run(command(directory, tmp_path / "whole", *more), check=True, env=ENVIRONMENT)
    out, chance, kills = tmp_path / "killed", random.Random(5), 0
    for count in (0, 2, 4):
        delay = chance.uniform(0.0, 0.03)
        kills += killed_after(command(directory, out, *more), out / "parts", count, delay)
    assert kills >= 2, "the run was too quick to be killed"
    subprocess.run(command(directory, out, *more), check=True, env=ENVIRONMENT)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert not (out / "parts").exists()
    assert not list(out.glob(".*.tmp"))


class Killed(BaseException):
    """Stands for the end of the process at one exact moment."""


@pytest.mark.parametrize("moment", range(10))
def test_a_kill_at_every_step(simulated, tmp_path: Path, moment: int, monkeypatch):
    """Whichever file the run was about to put in place, it goes on to the same table."""
    from hybridfit.io import write_tables as export

    directory, _, _ = simulated
    way = "posterior" if moment == 3 else "bootstrap"  # which is quicker
    run = RunOptions(part_size=8, uncertainty=way, save_samples=True)
    fit_files(directory, tmp_path / "whole", run=run, bootstrap=QUICK)
    replaced, count = os.replace, 0

    def dying(source, target):
        nonlocal count
        if count == moment:
            raise Killed
        count += 1
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "replace", dying)
        # run.json, three parts, draws, results, run.json again
        if moment < 7:
            with pytest.raises(Killed):
                fit_files(directory, tmp_path / "out", run=run, bootstrap=QUICK)
        else:
            fit_files(directory, tmp_path / "out", run=run, bootstrap=QUICK)
    summary = fit_files(directory, tmp_path / "out", run=run, bootstrap=QUICK)
    for name in ("results.fits", "draws.fits"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert summary.n_fitted == max(0, 24 - 8 * max(0, min(moment, 4) - 1))


def test_broken_parts_are_computed_again(simulated, tmp_path: Path, monkeypatch):
    """A part whose file a crash of the machine left short or empty is not trusted."""
    from hybridfit.io import write_tables as export

    directory, _, _ = simulated
    run = replace(PLAIN, part_size=8)
    whole = fit_files(directory, tmp_path / "whole", run=run)

    def stop(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_results", stop)
        with pytest.raises(Killed):
            fit_files(directory, tmp_path / "out", run=run)
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    assert len(parts) == 3
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    parts[2].write_bytes(b"")
    summary = fit_files(directory, tmp_path / "out", run=run)
    assert summary.n_fitted == 16
    assert summary.results.read_bytes() == whole.results.read_bytes()


def test_going_on_with_something_else_is_refused(simulated, tmp_path: Path):
    directory, _, _ = simulated
    out = tmp_path / "out"
    run = replace(PLAIN, limit=4)
    fit_files(directory, out, run=run)
    assert fit_files(directory, out, run=run, bootstrap=QUICK).n_fitted == 0, "not used here"
    with pytest.raises(UsageError, match=r"fit sky was .constant. and is now .plane.*--overwrite"):
        fit_files(directory, out, fit=hf.FitOptions(sky="plane"), run=run)
    with pytest.raises(UsageError, match="run limit was 4 and is now 6"):
        fit_files(directory, out, run=replace(run, limit=6))
    with pytest.raises(UsageError, match=r"run uncertainty was .covariance. and is now .boots"):
        fit_files(directory, out, run=replace(run, uncertainty="bootstrap"), bootstrap=QUICK)
    inputs = shutil.copytree(directory, tmp_path / "in")
    for file in inputs.glob("sim0001_*"):
        file.rename(file.with_name(file.name.replace("sim0001", "sim0001x")))
    with pytest.raises(UsageError, match="galaxies was"):
        fit_files(inputs, out, run=run)
    again = fit_files(inputs, out, run=run, overwrite=True)
    assert again.n_fitted == 4
    assert "sim0001x" in Table.read(again.results)["id"].astype(str)


def test_foreign_results_are_not_overwritten(simulated, tmp_path: Path):
    directory, _, _ = simulated
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"already has results\.csv"):
        fit_files(directory, tmp_path)
    assert (tmp_path / "results.csv").read_text() == "mine"
    with pytest.raises(UsageError, match="is the input"):
        fit_files(directory, directory)


def test_models_are_blocks_as_galfit_writes_them(simulated, tmp_path: Path):
    directory, cutouts, _ = simulated
    run = replace(PLAIN, limit=3, save_models=True)
    table = Table.read(fit_files(directory, tmp_path, run=run).results)
    with fits.open(tmp_path / "models" / "sim0001_block.fits") as hdus:
        hdus.verify("exception")
        assert len(hdus) == 4
        assert hdus[0].data is None
        image, model, residual = (hdu.data for hdu in hdus[1:])
        np.testing.assert_array_equal(image, cutouts.image[1].numpy())
        np.testing.assert_allclose(residual, image - model, atol=1e-6)
        header = hdus[2].header
        x, error = (float(text) for text in header["1_XC"].split("+/-"))
        assert (x, error) == pytest.approx((table["x"][1] + 1, table["x_err"][1]), abs=1e-4)
        assert header["FITSECT"] == "[1:32,1:32]"
        assert header["CHI2NU"] == pytest.approx(table["chi2"][1] / table["dof"][1])
        assert header["MAGZPT"] == 25
        assert header["COMP_2"] == "sky"
        assert hdus[1].header["CTYPE1"] == "RA---TAN"


def test_block_names_stay_in_their_folder():
    from hybridfit.io.blocks import file_name

    names = ["../../etc", "a/b", "a_b", "..", ".hidden", "x" * 400, "ü", "plain-1.0"]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(made)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in made)
    assert made[-1] == "plain-1.0"


MEMORY = """
import resource, sys
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions
fit_files(sys.argv[1], sys.argv[2], run=RunOptions(part_size=64, uncertainty="covariance"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(inputs: Path, out: Path) -> int:
    """Peak resident memory in KiB of a run in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(inputs), str(out)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    return int(run.stdout)


def linked(source: Path, target: Path, copies: int) -> Path:
    """The same galaxies again and again under other ids, as links."""
    target.mkdir()
    for file in source.glob("sim*_*.fits"):
        name, kind = file.name.split("_", 1)
        for k in range(copies):
            os.link(file, target / f"{name}c{k:04d}_{kind}")
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_memory_is_flat(simulated, tmp_path: Path):
    """Six times the galaxies, the same memory (benchmarks/memory.py goes to 100,000)."""
    directory, _, _ = simulated
    few = peak_memory(linked(directory, tmp_path / "few", 4), tmp_path / "a")
    many = peak_memory(linked(directory, tmp_path / "many", 24), tmp_path / "b")
    assert many - few < 20_000, f"{few} KiB for 96 galaxies, {many} KiB for 576"
