"""One galaxy never stops a run or a call; what is wrong with the call itself still raises."""

from __future__ import annotations

import errno
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from read_helpers import FEEDME, psf_image, write_galaxy
from tolerances import SINGLE

import hybridfit as hf
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline.engine.isolation import (
    Isolation,
    error_text,
    is_of_the_run,
    ordinary_galaxy,
)
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.galfit.run import fit_feedmes
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.predict import predict, predict_files
from hybridfit.simulation.simulate import SimulateOptions

QUICK = RunOptions(uncertainty="covariance", initial_values="moments")
IDS = ["sim0000", "sim0001", "sim0002", "sim0003", "sim0004"]


@pytest.fixture(scope="module")
def galaxies() -> hf.Cutouts:
    small = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))
    return hf.simulate(5, 3, small)[0]


@pytest.fixture
def folder(galaxies, tmp_path: Path) -> Path:
    write_cutouts(galaxies, tmp_path / "in")
    return tmp_path / "in"


class Trouble(Exception):
    """No exception that anything expects."""


def failing(function, bad: str, error: Exception):
    """``function`` of a batch that raises where galaxy ``bad`` is in it."""

    def raising(batch, *rest, **more):
        if bad in getattr(batch, "cutouts", batch).id:
            raise error
        return function(batch, *rest, **more)

    return raising


def check(table: Table, text: str) -> None:
    """The third galaxy failed, with its text, and no other."""
    bad = np.array([str(name) == "sim0002" for name in table["id"]])
    assert bad.sum() == 1
    failed = (np.asarray(table["flags"]) & int(hf.Flag.FAILED)) != 0
    assert failed.tolist() == bad.tolist()
    mag = np.ma.filled(np.ma.asarray(table["mag"]), np.nan)
    assert np.isfinite(mag).tolist() == (~bad).tolist()
    assert text in str(table["notes"][bad][0])
    if "quality" in table.colnames:
        assert str(table["quality"][bad][0]) == "suspect"


@pytest.mark.parametrize(
    "error",
    [
        Trouble("no such thing"),
        OverflowError("can't convert negative int to unsigned"),
        torch.linalg.LinAlgError("not positive-definite"),
        MemoryError("out of memory"),
        RecursionError("too deep"),
        OSError(errno.EISDIR, "Is a directory"),
    ],
)
def test_a_galaxy_that_raises_is_a_row(galaxies, folder, tmp_path, monkeypatch, error):
    """Whatever is raised: the others' numbers are those that they have without it."""
    from hybridfit.pipeline import fit_files as files

    others = hf.fit(galaxies, uncertainty="covariance", initial_values="moments")
    broken = failing(files.measure, "sim0002", error)
    monkeypatch.setattr(files, "measure", broken)
    summary = fit_files(folder, tmp_path / "out", run=replace(QUICK, part_size=4))
    table = Table.read(summary.results)
    check(table, error_text(error)[:40])
    assert summary.flags["FAILED"] == 1
    direct = hf.fit(galaxies, uncertainty="covariance", initial_values="moments")
    check(direct, error_text(error)[:40])
    good = [0, 1, 3, 4]
    for found in (table, direct):
        # batches of other sizes round float32 sums in another order
        np.testing.assert_allclose(found["mag"][good], others["mag"][good], rtol=1e-5, atol=SINGLE)


@pytest.mark.parametrize("where", ["sample_fitted", "bootstrap"])
def test_errors_that_raise(galaxies, monkeypatch, where: str):
    """In what follows a fit: sampling, replicas."""
    from hybridfit.pipeline import measure as common

    kind = "posterior" if where == "sample_fitted" else where
    broken = failing(getattr(common, where), "sim0002", Trouble("in the errors"))
    monkeypatch.setattr(common, where, broken)
    quick = hf.BootstrapOptions(replicas=20, refit=False)
    table = hf.fit(galaxies, uncertainty=kind, bootstrap=quick, save_samples=True)
    check(table, "Trouble: in the errors")
    assert (table["weight"][2] == 0).all(), "there are no draws"
    assert np.isfinite(table["mag_err"][3])


def test_posteriors_that_raise(galaxies, folder, tmp_path, monkeypatch):
    module = import_module("hybridfit.pipeline.predict")  # a function has its name too
    broken = failing(module.condition, "sim0002", Trouble("in the network"))
    monkeypatch.setattr(module, "condition", broken)
    check(predict(galaxies, samples=16), "Trouble: in the network")
    options = hf.PredictOptions(samples=16, save_samples=True)
    found = predict_files(folder, tmp_path / "out", predict=options)
    table = Table.read(found.results)
    check(table, "Trouble: in the network")
    draws = Table.read(found.results.with_name("draws.fits"))
    assert np.ma.getmaskarray(draws["mag"])[2].all()


def test_blocks_that_raise(folder, tmp_path, monkeypatch):
    from hybridfit.io import blocks

    plain = blocks.model_header

    def raising(outcome, *rest):
        if outcome.image == "sim0002":
            raise fits.VerifyError("no such card")
        return plain(outcome, *rest)

    monkeypatch.setattr(blocks, "model_header", raising)
    found = fit_files(folder, tmp_path / "out", run=replace(QUICK, save_models=True))
    check(Table.read(found.results), "VerifyError: no such card")
    left = sorted(file.name for file in (tmp_path / "out" / "models").iterdir())
    assert left == [f"{name}_block.fits" for name in IDS if name != "sim0002"]


def test_a_directory_where_a_block_should_be(folder, tmp_path):
    (tmp_path / "out" / "models" / "sim0002_block.fits").mkdir(parents=True)
    found = fit_files(folder, tmp_path / "out", run=replace(QUICK, save_models=True))
    check(Table.read(found.results), "IsADirectoryError")


def test_input_files_of_galfit_that_raise(folder, tmp_path, monkeypatch):
    from hybridfit.pipeline.galfit import run as galfit
    from hybridfit.pipeline.galfit import tasks as galfit_tasks

    paths = []
    for name in IDS:
        paths.append(folder / f"{name}.feedme")
        paths[-1].write_text(FEEDME.format(id=name))
    broken = failing(galfit.measure, "sim0002", Trouble("in the fit"))
    run = RunOptions(uncertainty="covariance", initial_values="moments")
    options = hf.FitOptions(compile="off", convolution="galfit")
    with monkeypatch.context() as patch:
        patch.setattr(galfit, "measure", broken)
        table = Table.read(fit_feedmes(paths, tmp_path / "a", fit=options, run=run).results)
    check(table, "Trouble: in the fit")
    assert str(table["feedme"][2]).endswith("sim0002.feedme")
    plain = galfit_tasks.read_feedme

    def unreadable(path):
        if path.name == "sim0002.feedme":
            raise Trouble("in the file")
        return plain(path)

    monkeypatch.setattr(galfit_tasks, "read_feedme", unreadable)
    table = Table.read(fit_feedmes(paths, tmp_path / "b", fit=options, run=run).results)
    assert int(table["flags"][2]) & hf.Flag.UNREADABLE
    assert "Trouble while reading" in str(table["notes"][2])


def test_what_is_wrong_with_the_call_raises(galaxies, folder, tmp_path, monkeypatch):
    """A mistake that every galaxy meets, a full disk, Ctrl-C: not a table of failures."""
    from hybridfit.pipeline import fit_files as files

    missing = hf.BudgetOptions(correlated_noise=str(tmp_path / "nowhere.fits"))
    with pytest.raises(Exception, match=r"nowhere\.fits"):
        hf.fit(galaxies, budget=missing)
    with pytest.raises(Exception, match=r"nowhere\.fits"):
        fit_files(folder, tmp_path / "a", budget=missing)

    def always(*_, **__):
        raise Trouble("a mistake in a profile")

    with monkeypatch.context() as patch:
        patch.setattr(files, "measure", always)
        with pytest.raises(Trouble):
            fit_files(folder, tmp_path / "b", run=QUICK)
    for error in (
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError("Not enough space on disk"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files, "measure", failing(files.measure, "sim0002", error))
            with pytest.raises(type(error)):
                fit_files(folder, tmp_path / "c", run=QUICK, overwrite=True)


def test_halves_cost_a_few_calls():
    """One bad galaxy of 64: its halves, and its halves' halves; the trial is done once."""
    trials, sizes = [], []
    isolation = Isolation(lambda: trials.append(1))

    def compute(batch):
        sizes.append(len(batch))
        if {17, 40} & set(batch):
            raise Trouble
        return np.zeros(len(batch), [("id", "i8")])

    rows = isolation.rows(range(64), compute, lambda one, text: np.ones(1, [("id", "i8")]))
    assert rows["id"].nonzero()[0].tolist() == [17, 40]
    assert len(sizes) == 1 + 2 + 4 + 4 + 4 + 4 + 4
    assert len(trials) == 1
    assert error_text(Trouble("a\n b")) == "Trouble: a b"
    assert is_of_the_run(hf.UsageError("x"))


def test_the_ordinary_galaxy_is_measured():
    for psf in (True, False):
        table = hf.fit(ordinary_galaxy(psf), uncertainty="covariance")
        assert table["flags"][0] & ~int(hf.Flag.NO_PSF | hf.Flag.NO_ZEROPOINT) == 0
        assert table["x"][0] == pytest.approx(23.5, abs=0.2)


# --- pixels beyond what float32 can weigh ---------------------------------------------------


def spoiled(kind: str, image, sigma):
    """What instruments and programs leave in a few rows, a corner or a pixel."""
    image, sigma = image.astype(np.float64), sigma.astype(np.float64)
    where, value = kind.split()
    part = {"rows": np.s_[26:30], "block": np.s_[:12, :12], "pixel": np.s_[25, 25]}[where[1:]]
    (sigma if where[0] == "s" else image)[part] = float(value)
    return image, sigma


SPOILED = [
    *(f"srows {v}" for v in ("1e-38", "1e-40", "1e-45", "1e-30", "1e30", "1e38", "1e60")),
    *(f"iblock {v}" for v in ("1e36", "1e38", "1e30", "-1e36", "1e40", "1e15", "1e300")),
    *(f"ipixel {v}" for v in ("1e36", "-1e30", "1e20", "1e17")),
]


@pytest.fixture(scope="module")
def clean(galaxies) -> Table:
    """The fit of the galaxy that is spoiled in what follows."""
    image, sigma = (getattr(galaxies, n)[1].numpy() for n in ("image", "sigma"))
    return hf.fit(image, sigma=sigma, psf=galaxies.psf[1], uncertainty="covariance")


@pytest.mark.parametrize("kind", SPOILED)
def test_absurd_pixels_are_left_out(galaxies, clean, kind: str):
    """They are no data: the fit is that of the rest, within the errors that leaving them costs."""
    image, sigma = (getattr(galaxies, n)[1].numpy() for n in ("image", "sigma"))
    bad, noise = spoiled(kind, image, sigma)
    psf = galaxies.psf[1]
    table = hf.fit(bad, sigma=noise, psf=psf, uncertainty="covariance")
    assert not table["flags"][0] & int(hf.Flag.FAILED | hf.Flag.NOT_CONVERGED)
    # what is left out has a quarter of the light at most: the two fits share the other pixels
    for name in ("x", "mag", "r_eff"):
        assert abs(table[name][0] - clean[name][0]) < 2 * table[f"{name}_err"][0], name
    posterior = hf.predict(bad, sigma=noise, psf=psf, samples=16)
    assert np.isfinite(posterior["mag"][0])


def test_absurd_pixels_in_files_are_told(galaxies, tmp_path):
    """A run over them has its table, and their rows say what was masked."""
    write_cutouts(galaxies[:3], tmp_path / "in")
    for name, role, kind in (
        ("sim0000", "sigma", "srows 1e-38"),
        ("sim0001", "image", "iblock 1e36"),
    ):
        path = tmp_path / "in" / f"{name}_{role}.fits"
        data, header = fits.getdata(path, header=True)
        planes = spoiled(kind, data, data)
        fits.writeto(path, planes[role == "sigma"].astype("f8"), header, overwrite=True)
    summary = fit_files(tmp_path / "in", tmp_path / "out")
    table = Table.read(summary.results)
    told = (np.asarray(table["flags"]) & int(hf.Flag.BAD_PIXELS)) != 0
    assert told.tolist() == [True, True, False]
    assert "masked" in str(table["notes"][0])
    assert np.isfinite(np.ma.filled(table["mag_p50"], np.nan)).all()
    assert not summary.flags.get("FAILED")


@pytest.mark.parametrize("scale", [1e-30, 1e-34, 1e20, 1e36])
def test_any_unit_of_flux_is_measured(galaxies, scale: float):
    """Watts and janskys: the same galaxy in another unit has another zero point and no other shape.

    Rounding of float32 near its ends moves the fit by some 1e-4.
    """
    image, sigma = (getattr(galaxies, n)[1].double().numpy() for n in ("image", "sigma"))
    psf = galaxies.psf[1]
    plain = hf.fit(image, sigma=sigma, psf=psf, uncertainty="covariance")
    other = hf.fit(image * scale, sigma=sigma * scale, psf=psf, uncertainty="covariance")
    assert other["mag"][0] + 2.5 * np.log10(scale) == pytest.approx(plain["mag"][0], abs=2e-3)
    assert other["r_eff"][0] == pytest.approx(plain["r_eff"][0], rel=5e-3)


@pytest.mark.parametrize("scale", [1e-44, 1e-60, 1e40, 1e300])
def test_fluxes_that_float32_cannot_hold_are_no_data(galaxies, scale: float):
    image, sigma = (getattr(galaxies, n)[1].double().numpy() for n in ("image", "sigma"))
    for measured in (
        hf.fit(image * scale, sigma=sigma * scale, psf=galaxies.psf[1], uncertainty="covariance"),
        hf.predict(image * scale, sigma=sigma * scale, psf=galaxies.psf[1], samples=16),
    ):
        assert measured["flags"][0] & int(hf.Flag.NO_DATA)


def test_bad_files_are_rows_of_read(tmp_path):
    """`hybridfit.read` keeps its promise whatever astropy raises: bad cards, shifted HDUs."""
    for name in ("a", "b", "c", "d"):
        write_galaxy(tmp_path, name)
    card = tmp_path / "b_image.fits"
    data = bytearray(card.read_bytes())
    data[80 * 3 : 80 * 4] = b"NAXIS1  = '\x00\xff broken".ljust(80)
    card.write_bytes(data)
    shifted = tmp_path / "c_image.fits"
    shifted.write_bytes(shifted.read_bytes()[:2880] + b" " * 80 + shifted.read_bytes()[2880:])
    (tmp_path / "d_sigma.fits").write_bytes(b"SIMPLE  =                    T" + b"\0" * 5000)
    cutouts = hf.read(tmp_path)
    assert list(cutouts.id) == ["a", "b", "c", "d"]
    assert int(cutouts.flags[0]) == 0
    assert all(int(cutouts.flags[i]) & hf.Flag.UNREADABLE for i in (1, 3))
    assert all(cutouts.messages[i] for i in (1, 3))
    table = hf.fit(cutouts, uncertainty="covariance", initial_values="moments")
    assert np.isfinite(table["mag"][0])


@pytest.mark.parametrize("error", [IndexError("list"), fits.VerifyError("card"), Trouble("x")])
def test_whatever_a_reader_raises_is_a_row(tmp_path, monkeypatch, error):
    for name in ("a", "b"):
        write_galaxy(tmp_path, name, psf=psf_image())
    module = import_module("hybridfit.io.open_image")
    plain = module.read_planes

    def raising(path, *rest):
        if path.endswith("b_image.fits"):
            raise error
        return plain(path, *rest)

    monkeypatch.setattr(module, "read_planes", raising)
    cutouts = hf.read(tmp_path)
    assert int(cutouts.flags[1]) & hf.Flag.UNREADABLE
    assert type(error).__name__ in cutouts.messages[1]
    assert not cutouts.mask[0].all()
