"""Links that somebody planted where files are written: never followed, folders refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fit_helpers import observe, population

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.data.errors import UsageError
from hybridfit.io import writing
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.plot import plot_run
from hybridfit.training.checkpoint import save_checkpoint
from hybridfit.training.training_log import TrainingLog

RUN = RunOptions(uncertainty="covariance", initial_values="moments", save_models=True, part_size=2)
MINE = "do not overwrite"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("galaxies")
    cutouts, _ = observe(population(3, 1, 32), 60.0, (32, 32))
    write_cutouts(cutouts, folder)
    return folder


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder with files that links lead to."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("file", "0_block.fits", "run.json", "part-000000.npy"):
        (folder / name).write_text(MINE)
    return folder


def untouched(victim: Path) -> bool:
    files = sorted(victim.iterdir())
    return len(files) == 4 and all(file.read_text() == MINE for file in files)


def planted(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("format", ["fits", "ecsv", "csv", "parquet"])
def test_links_in_the_place_of_files_are_not_followed(inputs, tmp_path, victim, format):
    """Temporary files of any name that can be guessed, blocks, the keys of the inputs."""
    out = tmp_path / "out"
    names = [f".results.{format}.tmp", f".results.{format}.tmp.part", ".run.json.tmp"]
    names += ["models/0_block.fits", "models/.1_block.fits.tmp", "inputs.npy"]
    names += ["parts/part-000000.npy", "parts/.part-000000.npy.tmp"]
    for name in names:
        planted(out / name, victim / "file")
    run = RunOptions(**{**RUN.__dict__, "format": format})
    summary = fit_files(inputs, out, run=run)
    assert summary.n == 3
    assert untouched(victim)
    for name in ("models/0_block.fits", "inputs.npy", f"results.{format}", "run.json"):
        assert not (out / name).is_symlink(), name


@pytest.mark.parametrize("name", ["models", "parts"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_linked_folders_are_refused(inputs, tmp_path, victim, name, overwrite):
    out = tmp_path / "out"
    fit_files(inputs, out, run=RUN)
    if (out / name).exists():
        (out / name).rename(out / "aside")
    planted(out / name, victim)
    with pytest.raises(UsageError, match=f"{name}' is a link"):
        fit_files(inputs, out, run=RUN, overwrite=overwrite)
    assert untouched(victim)
    assert (out / "results.fits").is_file(), "nothing was thrown away"


@pytest.mark.parametrize("name", [".workers", "run.json"])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_places_of_the_run_itself_are_no_links(inputs, tmp_path, victim, name, kind):
    """Neither cut short, nor waited for."""
    out = tmp_path / "out"
    out.mkdir()
    if kind == "fifo":
        os.mkfifo(out / name)
    else:
        planted(out / name, victim / ("file" if kind == "link" else "nowhere"))
    with pytest.raises(UsageError, match=r"is a link|is a file|not a regular file"):
        fit_files(inputs, out, run=RUN)
    assert untouched(victim)


@pytest.mark.parametrize("name", ["run.json", "inputs.npy", "results.fits"])
def test_folders_in_the_place_of_files_are_refused(inputs, tmp_path, name):
    """Before anything is computed, and whoever's they are they stay."""
    (tmp_path / "out" / name / "mine").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=rf"{name}' is a folder, expected a file"):
            fit_files(inputs, tmp_path / "out", run=RUN, overwrite=overwrite)
    assert (tmp_path / "out" / name / "mine").is_dir()


def test_the_command_says_so_in_words(inputs, tmp_path, victim):
    planted(tmp_path / "out" / "models", victim)
    command = ["fit", str(inputs), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(make_app(), command)
    assert done.exit_code == 2
    assert done.output.startswith("hybridfit: '")
    assert "LinkedPath" not in done.output
    named = ["fit", str(inputs), "-o", str(tmp_path / "new"), "--hdu-image", "x" * 100_000]
    done = CliRunner().invoke(make_app(), [*named, "--initial-values", "y" * 100_000])
    assert done.exit_code == 2
    assert len(done.output) < 3000


def test_an_output_that_is_a_link_itself_is_fine(inputs, tmp_path):
    """The user named it: scratch disks are often linked."""
    (tmp_path / "scratch").mkdir()
    planted(tmp_path / "out", tmp_path / "scratch")
    assert fit_files(inputs, tmp_path / "out", run=RUN).n == 3
    assert (tmp_path / "scratch" / "results.fits").is_file()


def test_plots_do_not_follow_links(inputs, tmp_path, victim):
    out = tmp_path / "out"
    fit_files(inputs, out, run=RUN)
    planted(out / "plots", victim)
    with pytest.raises(UsageError, match="plots' is a link"):
        plot_run(out)
    (out / "plots").unlink()
    planted(out / "plots" / "0_fit.png", victim / "file")
    assert plot_run(out)[0].read_bytes()[:4] == b"\x89PNG"
    assert untouched(victim)


def test_compare_and_simulate_do_not_follow_links(inputs, tmp_path, victim):
    out = tmp_path / "out"
    table = fit_files(inputs, out, run=RUN).results
    into = tmp_path / "compared"
    for name in ("comparison.fits", "summary.ecsv", "unmatched.ecsv", "report.html"):
        planted(into / name, victim / "file")
    hf.compare(out, table, out=into)
    simulated = tmp_path / "simulated"
    for name in ("truth.fits", "sim0000_image.fits", "sim0001_psf.fits"):
        planted(simulated / name, victim / "file")
    command = ["simulate", "-o", str(simulated), "--n", "2"]
    done = CliRunner().invoke(make_app(), command)
    assert done.exit_code == 0
    assert untouched(victim)


def test_files_of_training_do_not_follow_links(tmp_path, victim):
    folder = tmp_path / "run"
    for name in ("checkpoint-000000001.pt", f".checkpoint-000000001.pt.{os.getpid()}.tmp"):
        planted(folder / name, victim / "file")
    save_checkpoint(folder, 1, {"step": 1})
    planted(folder / "log.jsonl", victim / "file")
    with TrainingLog(folder, 0, False, True) as journal:
        journal.write("train", 1, {"loss": 1.0})  # what it goes on with is its own file
    planted(folder / "other" / "log.jsonl", victim / "nowhere")
    with (
        TrainingLog(folder / "other", 0, False, True) as journal,
        pytest.raises(UsageError, match="is a link"),
    ):
        journal.write("train", 1, {"loss": 1.0})
    assert untouched(victim)


def test_weights_do_not_follow_links(tmp_path, victim):
    from hybridfit.npe.posterior import PACKAGED, load_estimator
    from hybridfit.npe.weight_files import CONFIG_KEYS, load_config, save_weights

    for name in ("weights.safetensors", "config.yaml", "card.json"):
        planted(tmp_path / "weights" / name, victim / "file")
    told = {key: value for key, value in load_config(PACKAGED).items() if key in CONFIG_KEYS}
    save_weights(load_estimator(), tmp_path / "weights", told, {"n": np.nan})
    assert untouched(victim)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def half() -> None:
        with writing.atomic(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []
    with writing.atomic(tmp_path / ("x" * 250)) as file:
        file.write(b"whole")
    assert (tmp_path / ("x" * 250)).read_bytes() == b"whole"
    umask = os.umask(0o022)
    os.umask(umask)
    assert (tmp_path / ("x" * 250)).stat().st_mode & 0o777 == 0o666 & ~umask


def test_temporary_files_of_a_killed_run_are_swept(inputs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    left = [out / f".results.fits.{'0' * 16}.tmp", out / f".results.parquet.{'a' * 16}.tmp.part"]
    for file in left:
        file.write_text("half")
    (out / ".mine.tmp").write_text(MINE)
    folder = out / f".run.json.{'1' * 16}.tmp"  # nobody's: no run makes one
    folder.mkdir()
    fit_files(inputs, out, run=RUN)
    assert not any(file.exists() for file in left)
    assert (out / ".mine.tmp").read_text() == MINE
    assert folder.is_dir()
