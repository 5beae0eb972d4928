"""Each file of a folder of weights, and of options, may be missing or broken: one clear error."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hybridfit.npe import weight_files
from hybridfit.npe.posterior import PACKAGED
from hybridfit.options.yaml_options import load_yaml
from hybridfit.training.warm_start import read_start

AT_ONCE = 10.0  # seconds, also on a busy machine; what a bomb asks for takes minutes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGED, tmp_path / "weights"))


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def json_list(path: Path) -> None:
    path.write_text("[1, 2]")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


BREAKS = (garbage, cut, emptied, a_folder, a_device, json_list, deep)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [weight_files.WEIGHTS, weight_files.CONFIG])
def test_a_broken_file_is_named(folder: Path, name: str, broken):
    if (name, broken) == (weight_files.CONFIG, cut):
        pytest.skip("half a YAML file may be one: the next test has that")
    broken(folder / name)
    began = time.process_time()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as told:
        weight_files.load_weights(folder)
    assert len(str(told.value)) < 1000
    assert time.process_time() - began < AT_ONCE


@pytest.mark.parametrize("broken", BREAKS, ids=lambda f: f.__name__)
def test_a_broken_card_is_named(folder: Path, broken):
    broken(folder / weight_files.CARD)
    with pytest.raises(ValueError, match=r"card\.json"):
        read_start(folder)
    weight_files.load_weights(folder)  # which does not need it


def test_a_config_cut_anywhere_is_told(folder: Path):
    whole = (folder / weight_files.CONFIG).read_text()
    for size in range(0, whole.index("n_targets"), 37):  # of what stands behind some can be missed
        (folder / weight_files.CONFIG).write_text(whole[:size])
        with pytest.raises(ValueError, match=r"config\.yaml"):
            weight_files.load_config(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_scalars", "many"),
        ("n_scalars", [1]),
        ("n_scalars", 10**12),
        ("n_scalars", -1),
        ("n_targets", 3),
        ("n_targets", None),
        ("targets", 5),
        ("targets", [{"name": {"a": 1}}]),
        ("targets", [["mass"]]),
        ("network", [1, 2]),
        ("network", "small"),
        ("network", {"width": 10**9}),
        ("network", {"width": "wide"}),
        ("network", {"blocks": 10**9}),
        ("network", {"window": 0}),
        ("network", {"heads": [0, 0]}),
        ("network", {"backbone": "hf-hub:somebody/something"}),
        ("network", {"backbone": "swinv2_of_nobody"}),
        ("prior", 7),
        ("prior", {"n": "flat"}),
    ],
)
def test_wrong_entries_of_the_config_are_told(folder: Path, key: str, value: object):
    config = yaml.safe_load((folder / weight_files.CONFIG).read_text())
    if key == "network" and isinstance(value, dict):
        value = {**config["network"], **value}
    (folder / weight_files.CONFIG).write_text(yaml.safe_dump({**config, key: value}))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"config\.yaml|weights\.safetensors") as told:
        weight_files.load_weights(folder)
    assert len(str(told.value)) < 1000
    assert time.process_time() - began < 3 * AT_ONCE  # timm may have to be imported


def test_weights_that_are_no_numbers_are_told(folder: Path):
    path = folder / weight_files.WEIGHTS
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.dtype == torch.float16)
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="no finite numbers"):
        weight_files.load_weights(folder)


def test_a_header_that_claims_too_much(folder: Path):
    claim = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(claim).encode()
    (folder / weight_files.WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        weight_files.load_weights(folder)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 10000 values once its aliases are expanded"),
        (BOMB + "fit: *a8\n", "more than 10000 values"),
        ("a: &a {<<: [*a]}", "refers to itself"),
        ("fit: &a [1, *a]", "refers to itself"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("when: 2020-13-45", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: \xe9", "UTF-8"),
        ("- 1", "expected 'key: value' lines"),
        ("a" * 2_000_000, "larger than 0.2 MB"),
    ],
)
def test_yaml_that_cannot_be_used_is_told_in_a_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "options.yaml"
    path.write_bytes(text.encode("latin-1"))
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as told:
        load_yaml(path)
    assert len(str(told.value)) < 1000
    assert time.process_time() - began < AT_ONCE


def test_aliases_as_people_use_them(tmp_path: Path):
    path = tmp_path / "options.yaml"
    path.write_text("base: &base {x: 1}\nfit: {<<: *base, y: 2}\nrun: *base\n")
    assert load_yaml(path) == {"base": {"x": 1}, "fit": {"x": 1, "y": 2}, "run": {"x": 1}}
