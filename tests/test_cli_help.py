"""Help, flags and configuration files of the command line, all made from the options' metadata."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import hybridfit as hf
from hybridfit.cli.app import COMMANDS, make_app
from hybridfit.cli.command import Command, sections_of
from hybridfit.cli.flags import Flag, option_name
from hybridfit.cli.messages import log_to_stderr
from hybridfit.deprecations import TABLE
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.model.prior import Prior
from hybridfit.options.metadata import describe
from hybridfit.pipeline.config import galfit_config

SECTIONS = {
    "fit": sections_of(hf.Config),
    "predict": sections_of(hf.PredictConfig),
    "compare": {"compare": hf.CompareOptions, "reference": ReferenceOptions},
}
SECONDS = 0.5  # of CPU time for any help; 0.2 on the machine where this was written
HEAVY = ("torch", "photutils", "scipy", "astropy", "matplotlib", "timm")
PROBE = f"""
import sys, time
from hybridfit.cli.app import make_app
make_app().main(sys.argv[1:], prog_name="hybridfit", standalone_mode=False)
seen = [name for name in {HEAVY!r} if name in sys.modules]
print("PROBE", ",".join(seen) or "none", time.process_time())
"""


def call(*arguments: object, width: int = 100) -> Result:
    environment = {"COLUMNS": str(width)}
    given = [str(a) for a in arguments]
    return CliRunner().invoke(make_app(), given, env=environment, prog_name="hybridfit")


def plain(text: str) -> str:
    """A text without its blanks, as lines may end within words that have hyphens."""
    return "".join(text.split())


def command_of(name: str) -> Command:
    command = make_app().get_command(None, name)  # type: ignore[arg-type]
    assert isinstance(command, Command)
    return command


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), *((name, "--help") for name in COMMANDS), ("fit", "--help-all")],
    ids=" ".join,
)
def test_help_is_quick(arguments: tuple[str, ...]):
    """It imports nothing that computes, and takes half a second of the CPU's at most."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True
    )
    _, seen, seconds = run.stdout.splitlines()[-1].split()
    assert seen == "none", f"hybridfit {' '.join(arguments)} imported {seen}"
    assert float(seconds) < SECONDS


@pytest.mark.parametrize("name", SECTIONS)
def test_every_option_has_a_flag_and_help(name: str):
    """The full help shows each of them, under a heading; the brief one the few that people use."""
    whole, brief = (call(name, way, width=400).stdout for way in ("--help-all", "--help"))
    flags = command_of(name).flags()
    names = [flag.name for flag in flags]
    assert len(names) == len(set(names)), "two options of one name"
    for section, cls in SECTIONS[name].items():
        for one in describe(cls):
            assert one.facts.help, f"{section}.{one.name} has no help"
            if one.kind is not Prior:
                flag = f"--{option_name(section, one.name).replace('_', '-')}"
                assert f"{flag} " in whole
                assert plain(one.facts.help) in plain(whole)
    headings = [line for line in whole.splitlines() if line.endswith(":") and line[0] != " "]
    assert {f"{flag.group}:" for flag in flags} <= set(headings)
    shown = [
        flag for flag in flags if re.search(rf"^  (-., )?{flag.opts[-1]} ", brief, re.MULTILINE)
    ]
    assert {flag.name for flag in shown} == {flag.name for flag in flags if flag.common}
    hidden = len(flags) - len(shown)
    assert f"{hidden} more options: hybridfit {name} --help-all shows all of them." in brief


def test_brief_help_of_fit():
    """Eleven options of fits, beside what every command has; defaults of switches are shown."""
    common = [flag for flag in command_of("fit").flags() if flag.common]
    own = [flag for flag in common if flag.group not in ("Input and output", "Messages")]
    assert 8 <= len(own) <= 11
    text = " ".join(call("fit", "--help").stdout.split())
    assert "--save-samples / --no-save-samples" in text
    assert "write the posterior draws and their weights too [default: off]" in text
    assert "--model MODEL" in text
    whole = " ".join(call("fit", "--help-all").stdout.split())
    assert "--mask-neighbours / --no-mask-neighbours" in whole
    assert "galaxies that have no mask [default: on]" in whole
    assert "[unit: mag; default: from the header's unit or keywords]" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained(name: str):
    command = command_of(name)
    for one in describe(command.arguments):
        assert one.facts.help
        assert one.facts.help[0].islower() or one.facts.help.startswith(("YAML", "CPU"))
        assert not one.facts.help.endswith(".")
    assert all(
        isinstance(one, Flag) or one.name != "out" or name == "plot" for one in command.params
    )
    assert call(name, "--help").exit_code == 0
    assert (command.help or "").split(".")[0] in " ".join(call("--help", width=400).stdout.split())


OPTIONS = [
    *("--model", "sersic+exponential", "--sky", "plane", "--no-retry", "--tolerance", "1e-6"),
    *("--zeropoint", "-2.5", "--mask-bits", "1,4", "--no-psf", "--uncertainty", "bootstrap"),
    *("--bootstrap-replicas", "7", "--sampling-target-ess", "200", "--no-budget-misfit"),
]


@pytest.mark.parametrize("more", [[], OPTIONS, ["--galfit", "--max-iter", "7"]])
def test_show_config_is_taken_back(tmp_path: Path, more: list[str]):
    shown = call("fit", "cutouts/", *more, "--show-config")
    assert shown.exit_code == 0, shown.output
    path = tmp_path / "config.yaml"
    path.write_text(shown.stdout)
    again = call("fit", "--config", path, "--show-config")
    assert again.stdout == shown.stdout
    config = hf.Config.from_yaml(path)
    assert config.input == "cutouts"
    if more == OPTIONS:
        assert config.fit.model == "sersic+exponential"
        assert (config.fit.sky, config.fit.retry, config.fit.tolerance) == ("plane", False, 1e-6)
        assert (config.read.zeropoint, config.read.mask_bits) == (-2.5, "1,4")
        assert (config.bootstrap.replicas, config.sampling.target_ess) == (7, 200)
        assert not config.budget.misfit
    elif more:
        assert config.fit == replace(galfit_config().fit, max_iter=7)
        assert (config.fit.convolution, config.fit.prior.n.high) == ("galfit", 20.0)
        assert config.run == galfit_config().run
    else:
        assert config == hf.Config(input="cutouts")


def test_show_config_of_predict(tmp_path: Path):
    shown = call("predict", "--samples", 9, "--show-config")
    path = tmp_path / "config.yaml"
    path.write_text(shown.stdout)
    config = hf.PredictConfig.from_yaml(path)
    assert config == hf.PredictConfig(predict=hf.PredictOptions(samples=9))


def old_flags() -> list[tuple[str, str, str, str]]:
    """Command, old flag, a value, and new name for each row of the table that has a flag."""
    cases = []
    for row in TABLE:
        name = {"compare": "compare"}.get(row.where, "fit")
        if row.kind == "option":
            cls = SECTIONS[name][row.where]
            one = next(one for one in describe(cls) if one.name == row.new)
            value = "" if isinstance(one.default, bool) else str(one.default)
            old = f"{row.where}_{row.old}" if row.where == "budget" else row.old
            old = f"posterior_{row.old}" if row.where == "sampling" else old
            new = option_name(row.where, row.new)
            cases.append((name, f"--{old.replace('_', '-')}", value, f"--{new.replace('_', '-')}"))
        elif row.kind == "flag":
            cases.append((row.where, row.old, "", row.new))
    return cases


@pytest.mark.parametrize("case", old_flags(), ids=lambda case: f"{case[0]} {case[1]}")
def test_old_flags_are_taken(case: tuple[str, str, str, str]):
    name, old, value, new = case
    given = [old, value] if value else [old]
    rest = {"fit": ["--show-config"], "compare": ["none/", "none.fits"]}
    if name == "train":
        given, rest["train"] = [old, "run/"], ["none.yaml", "-o", "none/"]
    result = call(name, *given, *rest.get(name, ["-o", "none/", "--n", "-1"]))
    assert f"{old} is now called {new}" in result.stderr
    assert "No such option" not in result.output
    assert result.exit_code == (0 if name == "fit" else 2)


def test_old_options_in_a_file_are_told_in_a_line(tmp_path: Path):
    path = tmp_path / "old.yaml"
    path.write_text("fit: {estimator: ml}\nposterior: {ess: 150}\nrun: {start: posterior}\n")
    result = call("fit", "--config", path, "--show-config")
    assert result.exit_code == 0, result.output
    for old, new in (
        ("fit.estimator", "fit.objective"),
        ("section 'posterior'", "section 'sampling'"),
        ("run.start", "run.initial_values"),
        ("initial_values 'posterior'", "'network'"),
    ):
        assert f"hybridfit: {old} is now called {new}" in result.stderr
    assert "objective: ml" in result.stdout
    assert "target_ess: 150" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit",), "Missing argument 'INPUT': expected the galaxies to fit"),
        (("fit", "in/"), "Missing option '--out' / '-o': expected a directory"),
        (("fit", "a", "b", "-o", "c"), "got several INPUTs, expected one"),
        (("predict", "-o", "c"), "Missing argument 'INPUT'"),
        (("predict", "a", "b", "-o", "c"), "got several INPUTs"),
        (("fit", "a", "-o", "c", "--threads", "x"), "'x' is not a valid integer"),
        (("fit", "a", "-o", "c", "--fmt", "fits"), "No such option"),
        (("fit", "a", "-o", "c", "--sky", "tilted"), "fit.sky is 'tilted', expected one of"),
        (("simulate", "-o", "c", "--n", "0"), "n is 0, expected 1 or more"),
        (("calibrate", "-o", "c", "--samples", "2"), "samples is 2, expected 16 or more"),
        (("plot", "none", "--limit", "0"), "limit is 0, expected 1 or more"),
        (("fitt",), "No such command 'fitt'"),
        (
            ("compare", "a", "b", "c", "--kind", "x", "--kind", "y", "--kind", "z"),
            "given 3 times",
        ),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], message: str):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_verbose_logs_and_quiet_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = logging.getLogger("hybridfit.some.module")
    for verbose, quiet, expected in ((True, False, 2), (False, False, 1), (False, True, 0)):
        with log_to_stderr(verbose, quiet):
            log.info("read 3 galaxies")
            log.warning("the disk is slow")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == expected
        assert not lines or "hybridfit.some.module: " in lines[0]
    assert not logging.getLogger("hybridfit").handlers
    shown = call("fit", "-v", "--sky", "plane", "--show-config")
    assert "fit.sky is plane, from the command line" in shown.stderr
