"""The project's promises outside the numerics: a quiet import, true documents, a clean wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hybridfit as hf
from hybridfit.data.flags import FLAG_TEXT, Flag

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}

IMPORT_PROBE = """
import json, logging, sys, warnings
import torch, numpy
def state():
    return [logging.getLogger().level, len(logging.getLogger().handlers),
            torch.get_num_threads(), str(torch.get_default_dtype()),
            torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.initial_seed(),
            numpy.geterr(), len(warnings.filters)]
import astropy.table  # its own set-up is not ours to answer for
before = state()
import hybridfit
print(json.dumps({"before": before, "after": state(), "modules": sorted(sys.modules)}))
"""


def test_import_does_nothing():
    """No logging set-up, no thread, dtype or seed changed, nothing printed, nothing slow loaded."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 1, f"importing hybridfit printed {lines[:-1]}"
    seen = json.loads(lines[0])
    assert seen["after"] == seen["before"]
    slow = {"matplotlib.pyplot", "timm", "torchvision", "nflows", "galsim", "pyimfit", "click"}
    assert not slow & set(seen["modules"]), "loaded at import; import them where they are used"


def test_every_flag_has_a_text():
    assert set(FLAG_TEXT) == set(Flag)


def test_readme_fits_on_a_page():
    """At most 5 KB, with a picture and the first command in the first 15 lines."""
    assert len(README.encode()) <= 5 * 1024
    first = README.splitlines()[:15]
    assert any(line.startswith("$ hybridfit ") for line in first)
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", "\n".join(first))
    assert (ROOT / picture).stat().st_size <= 200_000


def test_files_of_an_open_project_exist():
    expected = (
        "CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE Makefile .pre-commit-config.yaml"
        " docs/conf.py docs/index.md hybridfit/py.typed .github/pull_request_template.md"
        " .github/ISSUE_TEMPLATE/bug.yml .github/workflows/ci.yml .github/workflows/links.yml"
    )
    for name in expected.split():
        assert (ROOT / name).is_file(), name


def test_one_version_everywhere():
    """pyproject.toml, CITATION.cff and the newest section of the changelog agree."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_classifiers_are_what_is_tested():
    """Each Python version in the classifiers is one that the workflows run, and the other way."""
    classifiers = PROJECT["classifiers"]
    prefix = "Programming Language :: Python :: 3."
    claimed = {c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)}
    matrix = WORKFLOWS["ci.yml"]["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    assert {f"3.{minor}" for minor in claimed} == set(matrix)
    assert "Typing :: Typed" in classifiers


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_careful(name: str):
    """Read permissions only, pinned actions, limited time, and `make` targets that exist."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            assert set(re.findall(r"\bmake ([a-z]+)", step.get("run", ""))) <= targets


def test_workflows_do_what_was_promised():
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    assert set(jobs) == {"lint", "tests", "oldest-dependencies", "docs", "wheel"}
    assert any("hybridfit --version" in step.get("run", "") for step in jobs["wheel"]["steps"])
    oldest = jobs["oldest-dependencies"]["steps"]
    assert any(".ci/floors" in step.get("run", "") for step in oldest)


def test_example_config_is_understood():
    """Every key of the example is known, and arrives in the section it is written under."""
    config = hf.Config.from_yaml(ROOT / "configs" / "fit.yaml")
    assert config.read.psf_includes_pixel
    assert config.fit.sky == "plane"
    assert config.fit.prior.n.high == 8.0
    assert config.run.save_models
    assert config.sampling.target_ess == 200
    assert config.budget.correlated_noise == "measure"


def test_wheel_holds_the_package_only(tmp_path: Path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.split("/")[0] for name in names}
    version = PROJECT["version"]
    assert rooms == {"hybridfit", f"hybridfit-{version}.dist-info"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "hybridfit").rglob("*.py")}
    assert sources <= set(names), "a pattern of .gitignore swallows part of the package"
    weights = {f"hybridfit/npe/weights/{n}" for n in WEIGHTS}
    assert weights <= set(names)
    assert wheel.stat().st_size < 30e6  # what an installation may have to download


def test_source_distribution_is_complete(tmp_path: Path):
    """It holds what builds the documentation and runs the tests."""
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    for name in ("docs/conf.py", "docs/_static/fit.png", "notebooks/quickstart.ipynb"):
        assert name in names
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", ".github/workflows/ci.yml"} <= names
    assert not [name for name in names if "_build" in name or "_generated" in name]


WEIGHTS = ("weights.safetensors", "config.yaml", "card.json")
