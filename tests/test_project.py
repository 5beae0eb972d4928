"""The project's promises outside the numerics: a quiet import, true documents, a clean wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybridfit.cli.app import _fit_stages, make_app
from hybridfit.cli.flags import load_options
from hybridfit.data.flags import FLAG_TEXT, Flag

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

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
    slow = {"matplotlib.pyplot", "timm", "torchvision", "nflows", "galsim", "pyimfit", "typer"}
    assert not slow & set(seen["modules"]), "loaded at import; import them where they are used"


def flag_table() -> str:
    """README's table of flags, from the texts the package itself gives."""
    rows = [f"| {flag.value} | `{flag.name}` | {FLAG_TEXT[flag]} |" for flag in Flag]
    return "\n".join(["| bit | name | meaning |", "|---:|---|---|", *rows])


def test_every_flag_has_a_text():
    assert set(FLAG_TEXT) == set(Flag)


def test_readme_flags_are_the_packages():
    assert flag_table() in README, "run `python tests/test_project.py` to bring it up to date"


def test_readme_commands_exist():
    """Each `make NAME` in the README is a target, each file it links to is there."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", _code(README))) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), f"README links to {link}"


def test_readme_options_exist():
    """Each command in the README is one, and knows the options it is shown with."""
    code = _code(README)
    shown = re.findall(r"(?<!import )\bhybridfit ([a-z]+)([^\n`#]*)", code)
    known = {command: _options_of(command) for command in {command for command, _ in shown}}
    for command, rest in shown:
        options = set(re.findall(r"--[a-z][a-z-]+", rest))
        assert options <= known[command] | {"--help"}, f"hybridfit {command}{rest}"
    options = set(re.findall(r"--[a-z][a-z-]+", code))
    assert options
    assert options <= set().union(*known.values()) | {"--help"}


def _options_of(command: str) -> set[str]:
    environment = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    shown = CliRunner().invoke(make_app(), [command, "--help"], env=environment)
    assert shown.exit_code == 0, f"{command}: {shown.output}"
    return set(re.findall(r"--[a-z][a-z-]+", shown.output))


def test_example_config_is_understood():
    """Every key of the example is known, and its sections reach the stages they name."""
    stages = _fit_stages()
    made = dict(zip(stages, load_options(ROOT / "configs" / "fit.yaml", {}, stages), strict=True))
    read, fit, run = (made[name] for name in ("read", "fit", "run"))
    assert read.psf_includes_pixel
    assert fit.sky == "plane"
    assert fit.prior.n.high == 8.0
    assert run.save_models
    assert made["sampling"].target_ess == 200
    assert made["budget"].correlated_noise == "measure"


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
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert rooms == {"hybridfit", f"hybridfit-{version}.dist-info"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "hybridfit").rglob("*.py")}
    assert sources <= set(names), "a pattern of .gitignore swallows part of the package"
    weights = {f"hybridfit/npe/weights/{n}" for n in WEIGHTS}
    assert weights <= set(names)
    assert wheel.stat().st_size < 30e6  # what an installation may have to download


WEIGHTS = ("weights.safetensors", "config.yaml", "card.json")


def _code(markdown: str) -> str:
    """The code of a Markdown text: fenced blocks and spans."""
    fenced = re.findall(r"```.*?```", markdown, flags=re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))
    return "\n".join([*fenced, *spans])


if __name__ == "__main__":
    table = re.compile(r"\| bit \| name \| meaning \|\n(?:\|.*\n)+")
    (ROOT / "README.md").write_text(table.sub(lambda _: flag_table() + "\n", README))
