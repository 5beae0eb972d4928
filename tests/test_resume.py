"""Going on with a run: damaged parts, inputs that changed meanwhile, parts kept by time."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from read_helpers import FEEDME

import hybridfit as hf
from hybridfit.cli.messages import format_summary
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline import run as runs
from hybridfit.pipeline.engine import batching, parts
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.galfit.run import fit_feedmes
from hybridfit.pipeline.options import RunOptions
from hybridfit.simulation.simulate import SimulateOptions

RUN = RunOptions(uncertainty="covariance", initial_values="moments", part_size=4)
N = 12


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    small = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(40, 300))
    folder = tmp_path_factory.mktemp("galaxies")
    write_cutouts(hf.simulate(N, 3, small)[0], folder)
    return folder


@pytest.fixture
def inputs(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "in")


def stop(*_, **__):
    raise Killed


def all_parts(inputs: Path, out: Path, run: RunOptions = RUN) -> list[Path]:
    """Run up to the table, and no further: the parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.export, "write_results", stop)
        with pytest.raises(Killed):
            fit_files(inputs, out, run=run)
    return sorted((out / "parts").iterdir())


def brightened(path: Path, factor: float = 2.0) -> None:
    """The galaxy of a file brighter than it was; name and size stay."""
    with fits.open(path) as hdus:
        data, header = hdus[0].data * factor, hdus[0].header
    fits.writeto(path, data, header, overwrite=True)


def flipped(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)


def test_any_flipped_bit_of_a_part_is_seen(inputs, tmp_path):
    """In the header, the rows, the checksum itself: done again, and told by the file's name."""
    whole = fit_files(inputs, tmp_path / "whole", run=RUN).results.read_bytes()
    kept = all_parts(inputs, tmp_path / "kept")
    size = kept[1].stat().st_size
    for place in (3, 9, 25, 60, size // 3, size // 2, size - 300, size - 40, size - 1):
        out = shutil.copytree(tmp_path / "kept", tmp_path / f"out{place}")
        flipped(out / "parts" / kept[1].name, place)
        summary = fit_files(inputs, out, run=RUN)
        assert summary.n_fitted == 4, place
        assert summary.results.read_bytes() == whole
        assert summary.notes == (
            "'part-000001.npy' is damaged (its checksum is wrong): measured again",
        )
        assert summary.notes[0] in format_summary(summary, "fitted")


def test_parts_of_every_kind_of_damage(inputs, tmp_path):
    whole = fit_files(inputs, tmp_path / "whole", run=RUN).results.read_bytes()
    parts = all_parts(inputs, tmp_path / "out")
    parts[0].write_bytes(b"")
    parts[1].unlink()
    parts[1].symlink_to(parts[2])
    parts[2].write_bytes(parts[2].read_bytes() + b"more")
    summary = fit_files(inputs, tmp_path / "out", run=RUN)
    assert summary.n_fitted == N
    assert len(summary.notes) == 3
    assert summary.results.read_bytes() == whole


@pytest.mark.parametrize("complete", [False, True], ids=["stopped", "complete"])
@pytest.mark.parametrize("role", ["image", "sigma", "psf"])
def test_changed_inputs_are_done_again(inputs, tmp_path, complete: bool, role: str):
    """Pixels of one galaxy change: its row is made anew, the others' stay, and it is told."""
    out = tmp_path / "out"
    before = Table.read(fit_files(inputs, tmp_path / "before", run=RUN).results)
    if complete:
        fit_files(inputs, out, run=RUN)
    else:
        all_parts(inputs, out)
    path = inputs / f"sim0005_{role}.fits"
    if role == "psf":
        shutil.copy(inputs / "sim0007_psf.fits", path)
    else:
        brightened(path)
    summary = fit_files(inputs, out, run=RUN)
    assert summary.notes == ("the files of galaxy 'sim0005' have changed: measured again",)
    assert summary.n_fitted == 4, "its batch"
    table = Table.read(summary.results)
    expected = Table.read(fit_files(inputs, tmp_path / "fresh", run=RUN).results)
    assert table["mag"].tolist() == expected["mag"].tolist()
    if role == "image":
        assert table["mag"][5] == pytest.approx(before["mag"][5] - 0.7526, abs=1e-2)
    same = [i for i in range(N) if i != 5]
    assert table["chi2"][same].tolist() == before["chi2"][same].tolist()
    assert table["chi2"][5] != before["chi2"][5]
    again = fit_files(inputs, out, run=RUN)
    assert (again.n_fitted, again.notes) == (0, ())


@pytest.mark.parametrize("format", ["fits", "ecsv", "csv", "parquet"])
def test_a_finished_table_is_gone_on_with_in_every_format(inputs, tmp_path, format: str):
    """Only the changed galaxy's batch is fitted; the table is that of a fresh run."""
    run = replace(RUN, format=format)
    fit_files(inputs, tmp_path / "out", run=run)
    brightened(inputs / "sim0002_image.fits")
    summary = fit_files(inputs, tmp_path / "out", run=run)
    assert summary.n_fitted == 4
    fresh = fit_files(inputs, tmp_path / "fresh", run=run)
    assert summary.results.read_bytes() == fresh.results.read_bytes()
    assert summary.flags == fresh.flags


@pytest.mark.parametrize("format", ["fits", "ecsv", "csv", "parquet"])
def test_ids_of_any_letters_come_back_from_a_table(made, tmp_path, format: str):
    """Formulas, leading zeros, letters beyond ASCII: the table is that of a fresh run."""
    lines = ["id,image,sigma,psf"]
    for i, name in enumerate(("0042", "=1+1", "Ångström", "'quoted", "-5")):
        lines.append(
            f"{name},{made}/sim{i:04d}_image.fits,{made}/sim{i:04d}_sigma.fits,"
            f"{made}/sim{i:04d}_psf.fits"
        )
    manifest = tmp_path / "galaxies.csv"
    manifest.write_text("\n".join(lines))
    run = replace(RUN, format=format, part_size=2)
    fit_files(manifest, tmp_path / "out", run=run)
    manifest.write_text("\n".join(lines).replace("sim0004_psf", "sim0003_psf"))
    summary = fit_files(manifest, tmp_path / "out", run=run)
    assert summary.n_fitted <= 2
    assert summary.notes
    fresh = fit_files(manifest, tmp_path / "fresh", run=run)
    assert summary.results.read_bytes() == fresh.results.read_bytes()


def test_a_finished_table_that_was_edited_is_made_anew(inputs, tmp_path):
    run = replace(RUN, format="ecsv")
    path = fit_files(inputs, tmp_path / "out", run=run).results
    whole = path.read_bytes()
    Table.read(path)[:5].write(path, overwrite=True)
    brightened(inputs / "sim0002_image.fits", 1.0)
    os.utime(inputs / "sim0002_image.fits")
    fits.setval(inputs / "sim0002_image.fits", "NEW", value=1)
    assert fit_files(inputs, tmp_path / "out", run=run).n_fitted == N
    assert path.read_bytes() == whole


def test_files_that_are_the_same_are_not_done_again(inputs, tmp_path):
    """Touched, or copied to another place: nothing to do."""
    out = tmp_path / "out"
    whole = fit_files(inputs, out, run=RUN).results.read_bytes()
    for file in inputs.iterdir():
        os.utime(file, (1, 1))
    assert fit_files(inputs, out, run=RUN).n_fitted == 0
    other = tmp_path / "other"
    shutil.copytree(inputs, other)
    assert fit_files(other, out, run=RUN).notes == ()
    assert (out / "results.fits").read_bytes() == whole


def test_rows_of_files_that_are_gone_are_kept(made, tmp_path):
    lines = ["id,image,sigma,psf"]
    inputs = shutil.copytree(made, tmp_path / "in")
    for i in range(N):
        name = f"sim{i:04d}"
        lines.append(f"{name},{name}_image.fits,{name}_sigma.fits,{name}_psf.fits")
    manifest = inputs / "galaxies.csv"
    manifest.write_text("\n".join(lines))
    whole = fit_files(manifest, tmp_path / "out", run=RUN).results.read_bytes()
    (inputs / "sim0003_image.fits").unlink()
    summary = fit_files(manifest, tmp_path / "out", run=RUN)
    assert summary.n_fitted == 0
    assert summary.notes == (
        "the files of galaxy 'sim0003' are no longer there: their rows are kept",
    )
    assert summary.results.read_bytes() == whole


def test_a_manifest_that_says_something_else_is_a_change(made, tmp_path):
    """Another zero point in one row, a mask that was not there before, a shared PSF."""
    inputs = shutil.copytree(made, tmp_path / "in")
    for i in range(N):
        (inputs / f"sim{i:04d}_psf.fits").unlink(missing_ok=True)
    shared = shutil.copy(made / "sim0000_psf.fits", tmp_path / "psf.fits")
    read = hf.ReadOptions(psf=str(shared))
    manifest = inputs / "galaxies.csv"

    def write(changed: float) -> None:
        rows = [
            f"s{i},sim{i:04d}_image.fits,sim{i:04d}_sigma.fits,{changed if i == 4 else 25}"
            for i in range(6)
        ]
        manifest.write_text("\n".join(["id,image,sigma,zeropoint", *rows]))

    write(25)
    out = tmp_path / "out"
    first = Table.read(fit_files(manifest, out, read=read, run=RUN).results)
    write(26)
    summary = fit_files(manifest, out, read=read, run=RUN)
    assert "galaxy 's4' have changed" in summary.notes[0]
    second = Table.read(summary.results)
    assert second["mag"][4] == pytest.approx(first["mag"][4] + 1, abs=1e-5)
    shutil.copy(made / "sim0005_psf.fits", shared)
    summary = fit_files(manifest, out, read=read, run=RUN)
    assert summary.notes[0].startswith("the files of 6 galaxies ('s0', 's1', 's2'")
    assert summary.notes[0].endswith("and 1 more) have changed: measured again")


def test_input_files_of_galfit_that_changed(made, tmp_path):
    inputs = shutil.copytree(made, tmp_path / "in")
    paths = []
    for name in ("sim0000", "sim0001"):
        paths.append(inputs / f"{name}.feedme")
        text = FEEDME.format(id=name).replace("J) 25", f"G) {name}.con\nJ) 25")
        paths[-1].write_text(text)
        (inputs / f"{name}.con").write_text("1 n 0.2 to 8\n")
    run = RunOptions(uncertainty="covariance", initial_values="moments")
    options = hf.FitOptions(compile="off", convolution="galfit")

    def again() -> tuple[str, ...]:
        return fit_feedmes(paths, tmp_path / "out", fit=options, run=run).notes

    assert again() == ()
    assert again() == ()
    (inputs / "sim0001.con").write_text("1 n 0.3 to 8\n")
    assert again() == ("the files of galaxy 'sim0001' have changed: measured again",)
    paths[0].write_text(paths[0].read_text().replace("4) 3 1", "4) 2 1"))
    assert again() == ("the files of galaxy 'sim0000' have changed: measured again",)
    brightened(inputs / "sim0001_sigma.fits")
    assert again() == ("the files of galaxy 'sim0001' have changed: measured again",)


def test_a_part_is_kept_by_time(inputs, tmp_path, monkeypatch):
    """A run of one part that is killed goes on within it, to the same bytes."""
    run = replace(RUN, part_size=256)
    monkeypatch.setattr(batching, "CPU_PIXELS", 3 * 32 * 32)  # batches of three galaxies
    whole = fit_files(inputs, tmp_path / "whole", run=run)
    monkeypatch.setattr(parts, "SAVE_EVERY", 0.0)
    plain, calls = parts.measure, []

    def dying(batch, job, worker):
        calls.append(len(batch.index))
        if len(calls) == 3:
            raise Killed
        return plain(batch, job, worker)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "measure", dying)
        with pytest.raises(Killed):
            fit_files(inputs, tmp_path / "out", run=run)
    assert calls == [3, 3, 3]
    summary = fit_files(inputs, tmp_path / "out", run=run)
    assert summary.n_fitted == N - 6
    assert summary.results.read_bytes() == whole.results.read_bytes()


def test_the_bar_moves_within_a_part(inputs, tmp_path, monkeypatch, capsys):
    from hybridfit.pipeline.engine import progress

    moves, inside = [], []
    monkeypatch.setattr(batching, "CPU_PIXELS", 6 * 32 * 32)

    class Bar:
        disable = False

        def __init__(self, total, initial, **given):
            assert (total, initial) in ((N, 0), (0, 0))

        def update(self, n):
            moves.append(n)

        def set_postfix_str(self, text):
            inside.append(text)

        def close(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(progress, "tqdm", Bar)
        fit_files(inputs, tmp_path / "out", run=replace(RUN, part_size=256), quiet=False)
    assert sum(moves) == pytest.approx(N)
    assert len(moves) == 4, "twice a batch: after the fit, and at its end"
    assert "fitting 6" in inside


@pytest.mark.slow
def test_looking_at_the_inputs_is_cheap(tmp_path):
    """100,000 galaxies: less than half a minute on a local disk, which is some 100 us each."""
    from hybridfit.io.input_keys import quick_key, source_files, source_values
    from hybridfit.io.sources import find_sources

    for role in ("image", "sigma", "psf"):
        for i in range(100_000):
            (tmp_path / f"{i:06d}_{role}.fits").touch()
    found, options = find_sources(tmp_path), hf.ReadOptions()
    start = time.perf_counter()
    for source in found:
        quick_key(source_values(source), source_files(source, options))
    assert time.perf_counter() - start < 30


def test_records_that_are_not_ours(inputs, tmp_path):
    """Whatever stands in run.json: a line that says what to do."""
    for k, text in enumerate(("{", "[1]" * 1000, '{"compared": 3}', '{"complete": true}', "\xff")):
        out = tmp_path / f"out{k}"
        out.mkdir()
        (out / "run.json").write_text(text)
        with pytest.raises(hf.UsageError, match="--overwrite"):
            fit_files(inputs, out, run=replace(RUN, limit=1))
        assert fit_files(inputs, out, run=replace(RUN, limit=1), overwrite=True).n == 1


@pytest.mark.parametrize(
    "outcome",
    [3, {}, {"n": "x"}, {"n": 6, "flags": {"any": "1"}, "quality": {}}, {"n": 6, "flags": 1}],
)
def test_a_damaged_outcome_is_refused(inputs, tmp_path, outcome):
    fit_files(inputs, tmp_path / "out", run=RUN)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "outcome": outcome}))
    with pytest.raises(hf.UsageError, match=r"run.json' is damaged .*--overwrite begins"):
        fit_files(inputs, tmp_path / "out", run=RUN)


def test_keys_of_missing_files_are_keys():
    from hybridfit.io.input_keys import any_gone, content_key, quick_key

    for key in (quick_key, content_key):
        assert key("", ["nowhere.fits", ""]) == key("", ["nowhere.fits", ""])
        assert key("", ["nowhere.fits", ""]) != key("1", ["nowhere.fits", ""])
        assert key("", ["/dev/null"]) != key("", ["/dev/zero"])
    assert any_gone(["nowhere.fits"])
    assert not any_gone([""])
    assert np.uint64(quick_key("", [])) == quick_key("", [])
