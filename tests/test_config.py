"""One configuration: in Python, in YAML, as keywords of `fit`; and what `fit` takes."""

from __future__ import annotations

import pickle
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from astropy.table import Table
from tolerances import SINGLE

import hybridfit as hf
from hybridfit.calibration.coverage import CalibrationOptions
from hybridfit.comparison.options import CompareKeywords
from hybridfit.io.arrays import prepare
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.options import ReadKeywords
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.posterior import PACKAGED
from hybridfit.options.metadata import describe
from hybridfit.options.yaml_options import parse_yaml
from hybridfit.pipeline.config import galfit_config
from hybridfit.pipeline.keywords import IN_MEMORY, FitKeywords, ImageKeywords
from hybridfit.simulation.options import FieldOptions
from hybridfit.simulation.simulate import SimulateOptions
from hybridfit.training.finetune import FinetuneOptions
from hybridfit.training.recipe import TrainOptions

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(60, 300))
DESCRIBED = (
    *(hf.ReadOptions, hf.FitOptions, hf.SamplingOptions, hf.BootstrapOptions, hf.BudgetOptions),
    *(hf.RunOptions, hf.PredictOptions, hf.CompareOptions, hf.ReferenceOptions, hf.Prior),
    *(hf.LogNormal, TrainOptions, FinetuneOptions, NetworkOptions, FieldOptions),
    *(SimulateOptions, CalibrationOptions),
)
QUICK = {"uncertainty": "covariance", "initial_values": "moments", "compile": "off"}
OTHER = hf.Config(
    read=hf.ReadOptions(zeropoint=22.5, mask_bits="1,4", columns="id=NAME"),
    fit=hf.FitOptions(
        model=("sersic", "exponential"),
        sky="plane",
        tolerance=1e-5,
        prior=hf.Prior(n=hf.LogNormal(2.0, 0.5, 0.3, 8.0), position=0.1),
    ),
    sampling=hf.SamplingOptions(target_ess=200, mcmc=True),
    bootstrap=hf.BootstrapOptions(replicas=7),
    budget=hf.BudgetOptions(correlated_noise="off", misfit=False),
    run=hf.RunOptions(uncertainty="bootstrap", weights="tuned: 'mine' # no comment/"),
    input="cutouts/",
)


@pytest.fixture(scope="module")
def cutouts() -> hf.Cutouts:
    return hf.simulate(3, 7, SMALL)[0]


@pytest.fixture(scope="module")
def folder(cutouts: hf.Cutouts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cutouts")
    write_cutouts(cutouts, path)
    return path


def same(one: Table, other: Table) -> bool:
    return one.colnames == other.colnames and all(
        np.allclose(one[n], other[n], rtol=SINGLE, atol=SINGLE, equal_nan=True)
        for n in ("x", "mag", "r_eff", "n", "mag_err")
    )


@pytest.mark.parametrize("config", [hf.Config(), OTHER, galfit_config(), hf.PredictConfig()])
def test_round_trip_through_yaml_and_pickle(config, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert type(config).from_yaml(path) == config
    assert type(config).from_mapping(config.to_mapping()) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_yaml_says_what_each_option_does():
    text = hf.Config().to_yaml()
    for section in hf.Config.names():
        for one in describe(type(getattr(hf.Config(), section))):
            if one.name != "prior":
                assert one.facts.help, f"{section}.{one.name} has no help"
                assert f"  {one.name}: " in text
                assert one.facts.help in text
    assert "# unit" not in text


@pytest.mark.parametrize("cls", DESCRIBED)
def test_every_option_describes_itself(cls: type):
    for one in describe(cls):
        help = one.facts.help
        assert help, f"{cls.__name__}.{one.name} has no help"
        assert not help.endswith("."), "a clause, for lists"


def test_defaults_hold_for_what_a_file_leaves_out(tmp_path: Path):
    """Also where they are not those of the class: GALFIT's files ask for its convolution."""
    given = parse_yaml("{fit: {max_iter: 50}, prior: {n: {high: 8.0}}}", "options")
    config = hf.Config.from_mapping(given, defaults=galfit_config())
    assert (config.fit.convolution, config.fit.max_iter) == ("galfit", 50)
    assert config.fit.prior.n.high == 8.0
    assert config.run.uncertainty == "covariance"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{fitt: {sky: plane}}", "unknown option 'fitt' in my.yaml: did you mean 'fit'"),
        ("{fit: {skyy: plane}}", "unknown option 'skyy' in section 'fit' of my.yaml: did you mean"),
        ("{fit: {sky: tilted}}", "fit.sky is 'tilted', expected one of constant, plane, fixed"),
        ("{fit: [1]}", "section 'fit' of my.yaml is a list, .1., expected 'key: value'"),
        ("{prior: {n: {med: 1}}}", "unknown option 'med' in prior n"),
        ("{input: 3}", "input is 3, expected a text or None"),
        ("{run: {threads: 0}}", "run.threads is 0, expected a number from 1 to 1024"),
    ],
)
def test_what_a_wrong_file_says(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        hf.Config.from_mapping(parse_yaml(text, "my.yaml"), "my.yaml")


def test_fit_has_a_typed_signature():
    """Every option is a keyword, of the options' own type and default; there is no other."""
    shown = signature(hf.fit).parameters
    assert Parameter.VAR_KEYWORD not in {p.kind for p in shown.values()}
    kinds = get_type_hints(FitKeywords)
    own = {one.name: one for one in describe(hf.FitOptions)}
    run = {one.name: one for one in describe(hf.RunOptions)}
    for name in (*own, *IN_MEMORY):
        one = own.get(name) or run[name]
        assert shown[name].default == (name == "covariance" or one.default)
        if one.kind in (str, int, float, bool, str | None) and name != "device":
            assert kinds[name] == one.kind
    prepared = set(signature(prepare).parameters) - {"image", "start"}
    arrays = {f.name for f in fields(hf.Cutouts)} - {"image", "start"}
    assert set(get_type_hints(ImageKeywords)) == prepared | arrays | {"prepare", "no_psf"}
    expected = {*own, *IN_MEMORY, *hf.Config.names(), *get_type_hints(ImageKeywords)}
    assert set(kinds) == expected
    assert set(shown) == {"data", "config", *expected}


@pytest.mark.parametrize(
    ("function", "options", "keywords", "positional"),
    [
        (hf.read, [hf.ReadOptions], ReadKeywords, {"input", "model"}),
        (
            hf.compare,
            [hf.CompareOptions, hf.ReferenceOptions],
            CompareKeywords,
            {"results", "references", "out", "options", "reading", "input", "cutouts", "quiet"},
        ),
    ],
)
def test_options_are_typed_keywords(function, options, keywords, positional: set[str]):
    """Each field is a keyword, of its own type and default; there is no other."""
    shown = signature(function).parameters
    assert Parameter.VAR_KEYWORD not in {p.kind for p in shown.values()}
    own = {one.name: one for cls in options for one in describe(cls)}
    kinds = get_type_hints(keywords)
    assert {name: one.kind for name, one in own.items()} == kinds
    assert {name: one.default for name, one in own.items()} == {
        name: shown[name].default for name in kinds
    }
    assert set(shown) == {*positional, *kinds}


def test_fit_takes_cutouts_a_path_and_a_configuration(cutouts, folder: Path, tmp_path: Path):
    by_cutouts = hf.fit(cutouts, **QUICK)
    for data in (folder, str(folder)):
        assert same(hf.fit(data, **QUICK), by_cutouts)
    run = hf.RunOptions(uncertainty="covariance", initial_values="moments", covariance=True)
    config = hf.Config(fit=hf.FitOptions(compile="off"), run=run, input=str(folder))
    assert same(hf.fit(config), by_cutouts)
    assert same(hf.fit(cutouts, config), by_cutouts)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert same(hf.fit(cutouts, path), by_cutouts)
    assert same(hf.fit(cutouts, fit=config.fit, run=run), by_cutouts)
    plane = hf.fit(cutouts, config, sky="plane", device=torch.device("cpu"))
    assert "sky_dx" in plane.colnames
    shifted = hf.fit(folder, config, zeropoint=30.0)
    by = shifted["mag"] - by_cutouts["mag"]
    assert np.allclose(by, 30.0 - cutouts.zeropoint.numpy(), rtol=0, atol=SINGLE)


def test_fit_takes_weights(cutouts, tmp_path: Path):
    more = {**QUICK, "initial_values": "network"}
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors in"):
        hf.fit(cutouts, weights=str(tmp_path / "none"), **more)
    assert same(hf.fit(cutouts, weights=PACKAGED, **more), hf.fit(cutouts, **more))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: hf.fit(c, sigma=1.0), "got cutouts and sigma, expected that of images only"),
        (
            lambda c: hf.fit(c, max_itr=3),
            "unknown option 'max_itr' in fit: did you mean 'max_iter'",
        ),
        (lambda c: hf.fit(c, 3), "config is 3, expected a Config"),
        (lambda c: hf.fit(c, run=3), "run is 3, expected a RunOptions"),
        (lambda c: hf.fit(hf.Config()), "the config names no input, expected"),
        (lambda c: hf.fit(hf.Config(input="a"), hf.Config()), "both a configuration"),
        (lambda c: hf.fit("none/"), "none"),
        (lambda c: hf.predict(c, sampels=3), "unknown option 'sampels' in predict: did you mean"),
        (lambda c: hf.predict(c, psf=None), "predict got cutouts and psf"),
    ],
)
def test_what_wrong_calls_say(cutouts, call, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(cutouts)


def test_files_take_a_configuration(folder: Path, tmp_path: Path):
    run = hf.RunOptions(uncertainty="covariance", initial_values="moments", limit=2)
    config = hf.Config(fit=hf.FitOptions(compile="off"), run=run)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    by_config = Table.read(hf.fit_files(folder, tmp_path / "a", config).results)
    by_path = Table.read(hf.fit_files(folder, tmp_path / "b", path).results)
    by_section = Table.read(hf.fit_files(folder, tmp_path / "c", fit=config.fit, run=run).results)
    assert len(by_config) == 2
    assert same(by_config, by_path)
    assert same(by_config, by_section)
    with pytest.raises(ValueError, match="unknown option 'sampler' in the call"):
        hf.fit_files(folder, tmp_path / "d", sampler=3)
