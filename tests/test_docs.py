"""The documentation is true: its examples run, its links lead somewhere, the site builds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from docs_helpers import (
    DOCS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    links,
    notebook_text,
    page_name,
    prose,
    shell_commands,
)

import hybridfit as hf
from hybridfit import deprecations
from hybridfit.cli.app import make_app

reference = pytest.importorskip("generated_reference", reason="pip install '.[docs]'")

RUN_WHOLLY = ("docs/quickstart.md",)  # every command of these pages is run, in order
# phrases that tripped readers, and the private words that stood for the field's own
NOT_ENGLISH = (
    r"from anybody",
    r"unless .{1,40} is said",
    r"who can live with",
    r"leave open has the",
    r"is its prior's doing",
    r"parts the two",
    r"are told\b",
    r"\bis told\b",
    r"so much too low are",
    r"without a look",
    r"the pixels ask for",
    r"\bstamps?\b",
    r"\bscouts?\b",
    r"look(s|ed|ing)? back",
    r"\bheld\b(?![ -]out)",
    r"\bcertificates?\b",
    r"\bkhat\b",
    r"\bdifficulties\b",
    r"by what\b",
    r"of what\b",
    r"\btidy\b",
)


def invoke(command: str) -> str:
    """Run a `hybridfit` command in this process; it must succeed."""
    result = CliRunner().invoke(make_app(), shlex.split(command)[1:])
    assert result.exit_code == 0, f"{command}: {result.output} {result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few small cutouts, as the examples have them."""
    folder = tmp_path_factory.mktemp("docs")
    invoke(f"hybridfit simulate -o {folder / 'cutouts'} --n 3 --size 48 --seed 1")
    return folder


def with_python() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", with_python(), ids=page_name)
def test_python_examples_run(page: Path, simulated: Path, tmp_path: Path, monkeypatch):
    """The Python blocks of a page, one after the other in one namespace."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block.text, f"{page_name(page)}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", [ROOT / name for name in RUN_WHOLLY], ids=page_name)
def test_commands_run(page: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [c for c in shell_commands(page) if c.startswith("hybridfit ")]
    assert len(commands) >= 3
    for command in commands:
        invoke(command)
    assert (tmp_path / "out" / "compare" / "report.html").exists()
    assert len(hf.read("cutouts/")) == len(list((tmp_path / "cutouts").glob("*_image.fits")))


@pytest.mark.parametrize("page", [p for p in PAGES if shell_commands(p)], ids=page_name)
def test_commands_and_options_exist(page: Path):
    """Each `hybridfit` command that is shown is one, and knows the options it is shown with."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in shell_commands(page):
        program, *rest = shlex.split(command)
        if program == "make":
            assert rest[0] in targets, command
        if program == "hybridfit" and rest[0] != "--version":
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", command)) <= options_of(rest[0]), (
                command
            )


def user_pages() -> list[Path]:
    """All pages but those of scripts, which have options of their own."""
    return [page for page in PAGES if page.parent.name not in ("validation", "benchmarks")]


@pytest.mark.parametrize("page", user_pages(), ids=page_name)
def test_options_in_the_text_exist(page: Path):
    """Options that the prose names belong to some command."""
    named = set(re.findall(r"`(--[a-z][a-z-]+)", page.read_text()))
    assert named <= set().union(*(options_of(command) for command in reference.commands()))


def options_of(command: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]+", reference.full_help(command))) | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path):
    """Relative links, with their anchors; `make linkcheck` follows those to other sites."""
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page_name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(path), f"{page_name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_equations_are_whole(page: Path):
    """matplotlib's TeX understands each equation, so a browser's will."""
    from matplotlib.mathtext import MathTextParser

    text = prose(page)
    equations = re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL)
    equations += re.findall(r"(?<![\\$])\$([^$\n]+)\$(?!\$)", re.sub(r"\$\$.+?\$\$", "", text))
    for equation in equations:
        MathTextParser("path").parse(f"${' '.join(equation.split())}$")


def texts() -> dict[str, str]:
    """All that a user reads outside the program, without code."""
    found = {page_name(page): prose(page) for page in PAGES}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        found[page_name(path)] = re.sub(r"`[^`\n]*`", "", notebook_text(path))
    for path in (ROOT / "configs").glob("*.yaml"):
        found[page_name(path)] = "\n".join(re.findall("#(.*)", path.read_text()))
    return found


def test_texts_are_plain_english():
    found = [
        f"{name}: ...{match.group()}..."
        for name, text in texts().items()
        for phrase in NOT_ENGLISH
        for match in re.finditer(
            rf".{{0,30}}({phrase}).{{0,30}}", " ".join(text.split()), flags=re.IGNORECASE
        )
    ]
    assert not found


def test_columns_are_documented(simulated: Path):
    """The tables of columns name each column that fit and predict write, and no other."""
    page = (DOCS / "reference" / "results.md").read_text()
    _, fit, rest = page.split("## Columns of ")
    cutouts = hf.read(simulated / "cutouts")
    tables = {
        fit: hf.fit(cutouts, uncertainty="posterior"),
        rest.split("\n## ")[0]: hf.predict(cutouts),
    }
    for text, table in tables.items():
        rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
        named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
        suffixes = {name[3:] for name in named if name.startswith("...")}
        named = {name for name in named if not name.startswith("...")}
        written = {c for c in table.colnames if not any(c.endswith(s) for s in suffixes)}
        written |= {c for c in table.colnames if c in named}
        assert written == named


def test_reference_is_complete():
    """The generated pages have each command, option, section and public name."""
    cli, configuration = reference.cli_page(), reference.configuration_page()
    for command in reference.commands():
        assert f"## hybridfit {command}\n" in cli
    assert "--uncertainty" in cli
    for name, options in reference.sections().items():
        assert f"## {name}\n" in configuration
        for field in options.__dataclass_fields__:
            assert f"| `{field}` |" in configuration
    for row in deprecations.TABLE:
        assert row.old in reference.deprecations_page()
    api = reference.api_page()
    for name in hf.__all__:
        if not name.startswith("_"):
            assert f":: hybridfit.{name}\n" in api
    for flag in hf.Flag:
        assert f"| {int(flag)} | `{flag.name}` |" in reference.flags_page()


def test_site_builds_without_a_warning(tmp_path: Path):
    pytest.importorskip("pydata_sphinx_theme")
    built = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-d", str(tmp_path / "doctrees")]
    command += ["-b", "html", str(DOCS), str(built)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    page = (built / "reference" / "configuration.html").read_text()
    assert "psf_includes_pixel" in page
