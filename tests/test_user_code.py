"""Code of the user's runs only if he named it: here, or on this command line, never in a file."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

import hybridfit as hf
from hybridfit.cli.arguments import import_allowed
from hybridfit.data.errors import UsageError
from hybridfit.model.profiles import find_profile
from hybridfit.pipeline.plot import plot_run

PLANTED = """
from pathlib import Path
Path({mark!r}).write_text("it ran")
from hybridfit.model.profiles import Exponential
class Disk(Exponential):
    pass
def call():
    Path({mark!r}).write_text("it was called")
    return Exponential()
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of data in which somebody left a module; the mark appears where it is run."""
    code = PLANTED.format(mark=str(tmp_path / "mark"))
    for name in ("planted", "pyarrow", "yaml", "tqdm"):  # the last ones hide what is installed
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def table(components: list[str]) -> Table:
    names = ("x", "y", "mag", "r_eff", "q", "pa", "sky")
    values = Table({"id": ["a"], "flags": [0], "chi2": [100.0], "dof": [100]})
    for name in names:
        values[name], values[f"{name}_err"] = [1.0], [0.1]
    values.meta["OPTIONS"] = json.dumps({"fit": {"components": components}})
    return values


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hybridfit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def galaxies(folder: Path, count: int = 1) -> Path:
    from hybridfit.io.cutout_files import write_cutouts

    cutouts, _ = hf.simulate(count, 1)
    write_cutouts(cutouts, folder / "cutouts")
    return folder / "cutouts"


def test_a_name_imports_nothing(planted: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(planted)
    for name in ("planted:Disk", "planted:call", "planted:gone"):
        with pytest.raises(ValueError, match="--allow-import planted"):
            find_profile(name)
        with pytest.raises(ValueError, match="--allow-import planted"):
            hf.FitOptions(model=(name,))
    assert not (planted / "mark").exists()


@pytest.mark.parametrize("name", ["os:abort", "sys:exit", "builtins:breakpoint", "os:getcwd"])
def test_what_is_no_profile_is_not_called(name: str):
    with pytest.raises(ValueError, match="is not a subclass of"):
        find_profile(name)


def test_tables_import_nothing(planted: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(planted)
    cutouts = replace(hf.simulate(1, 1)[0], id=["a"])
    with pytest.raises(ValueError, match="--allow-import planted"):
        hf.render(table(["planted:Disk"]), cutouts)
    (planted / "out").mkdir()
    table(["planted:Disk"]).write(planted / "out" / "results.ecsv")
    with pytest.raises(UsageError, match="--allow-import planted"):
        plot_run(planted / "out")
    assert not (planted / "mark").exists()


def test_what_is_named_here_runs(planted: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(planted)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    cutouts, _ = hf.simulate(1, 1)
    fitted = hf.fit(
        cutouts, model=("planted:Disk",), uncertainty="covariance", initial_values="moments"
    )
    assert (planted / "mark").read_text() == "it ran"
    # it is imported now: the table's word is enough
    assert np.isfinite(hf.render(fitted, cutouts)).all()
    monkeypatch.delitem(sys.modules, "planted")


FIT = ("fit", "cutouts", "-o", "out", "-c", "options.yaml", "--quiet")
PLOT = ("plot", "out", "--input", "cutouts", "--quiet")


def with_options(folder: Path) -> None:
    galaxies(folder)
    run = "run: {initial_values: moments, uncertainty: covariance}"
    text = f"fit:\n  components: ['planted:Disk']\n{run}\n"
    (folder / "options.yaml").write_text(text)


def test_planted_modules_do_not_run(planted: Path):
    """Neither by their names in a YAML or a table, nor by lying in the working directory."""
    with_options(planted)
    done = run(planted, *FIT)
    assert done.returncode == 2, done.stderr
    assert "--allow-import planted" in done.stderr
    (planted / "out").mkdir(exist_ok=True)
    table(["planted:Disk"]).write(planted / "out" / "results.ecsv")
    done = run(planted, *PLOT)
    assert done.returncode == 2, done.stderr
    assert "--allow-import planted" in done.stderr
    assert not (planted / "mark").exists()


@pytest.mark.slow
def test_modules_that_are_named_run(planted: Path):
    with_options(planted)
    done = run(planted, *FIT, "--allow-import", "planted")
    assert done.returncode == 0, done.stderr
    assert (planted / "mark").read_text() == "it ran"
    done = run(planted, *PLOT, "--allow-import", "planted")
    assert done.returncode == 0, done.stderr
    assert list((planted / "out" / "plots").glob("*_fit.png"))


def test_a_module_that_is_not_there():
    before = list(sys.path)
    with pytest.raises(ValueError, match="--allow-import no_such_module cannot be imported"):
        import_allowed(["no_such_module"])
    assert sys.path == before
