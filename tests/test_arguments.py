"""What the public functions say to values of the wrong kind: the argument, what came, what was
expected; never a message of torch's or NumPy's alone, and never a warning."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table

import hybridfit as hf
from hybridfit.options.checks import checked, described
from hybridfit.options.yaml_options import make, parse_yaml
from hybridfit.simulation.simulate import SimulateOptions

QUICK = {"uncertainty": "covariance", "initial_values": "moments"}
B, SIDE = 2, 32
RNG = np.random.default_rng(1)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - 15.5
GALAXY = 50 * np.exp(-(ROWS**2 + COLUMNS**2) / 18)
IMAGE = np.stack([GALAXY + RNG.normal(0, 1, (SIDE, SIDE)) for _ in range(B)]).astype("f4")
SIGMA = np.ones_like(IMAGE)
PSF = np.zeros((B, 5, 5), "f4")
PSF[:, 2, 2] = 1.0
OPTIONS = (
    hf.FitOptions,
    hf.ReadOptions,
    hf.SamplingOptions,
    hf.BootstrapOptions,
    hf.BudgetOptions,
    hf.RunOptions,
    hf.PredictOptions,
    hf.CompareOptions,
    hf.ReferenceOptions,
    hf.Prior,
    SimulateOptions,
)
# of no kind that any field has
WRONG: dict[str, Any] = {
    "dict": {"a": 1},
    "set": {1},
    "array": np.zeros(7),
    "objects": np.array([None, 1], dtype=object),
    "complex": 1j,
    "class": dict,
    "object": object(),
    "bytes": b"abc",
    "nested": [[1], [2, 3]],
}


def cutouts(**more: Any) -> hf.Cutouts:
    return hf.Cutouts(**{"image": IMAGE, "sigma": SIGMA, "psf": PSF, **more})


def table() -> Table:
    made = Table({"id": ["0", "1"], "flags": [0, 0]})
    for name in ("x", "y", "mag", "r_eff", "n", "q", "pa"):
        made[name] = [1.0, 2.0]
    return made


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries to each other
        yield


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("cls", OPTIONS)
def test_every_option_refuses_what_is_of_no_kind(cls: type, what: str):
    for field in dataclasses.fields(cls):
        if (field.name, what) in (("prior", "dict"), ("shapes", "dict")):
            continue  # a mapping is what a prior may be, and is checked by its keys
        with pytest.raises(ValueError, match=rf"{field.name}\b.* is .*expected"):
            cls(**{field.name: WRONG[what]})


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: hf.FitOptions(max_iter="forty"), "max_iter is 'forty', expected a whole number"),
        (lambda: hf.FitOptions(max_iter=2.5), "max_iter is 2.5, expected a whole number"),
        (lambda: hf.FitOptions(max_iter=True), "max_iter is True, expected a whole number"),
        (
            lambda: hf.FitOptions(tolerance=math.nan),
            "tolerance is nan, expected a finite number above 0",
        ),
        (lambda: hf.FitOptions(sky_value=math.inf), "sky_value is inf, expected a finite number"),
        (lambda: hf.FitOptions(coarse_fit="no"), "coarse_fit is 'no', expected true or false"),
        (lambda: hf.FitOptions(model="s"), "unknown profile 's': expected sersic"),
        (lambda: hf.FitOptions(model=[1]), "model is a list, .1., expected a profile"),
        (lambda: hf.ReadOptions(psf_oversampling=1000), "is 1000, .*whole number from 1 to 32"),
        (lambda: hf.FitOptions(model=()), "model is an empty tuple, expected a profile"),
        (
            lambda: hf.FitOptions(model=("sersic",) * 9000),
            "model has 9000 components, expected 40 at most",
        ),
        (lambda: hf.FitOptions(prior=3), "prior is 3, expected a Prior"),
        (lambda: hf.FitOptions(prior={"n": 3}), "prior.n is 3, expected a Mapping"),
        (lambda: hf.Prior(q_min=math.nan), "prior.q_min is nan, expected"),
        (lambda: hf.Prior(position=-1), "prior.position is -1, expected a finite number above 0"),
        (lambda: hf.Prior(shapes={"c": 2}), "prior.shapes.c is 2, expected a LogNormal"),
        (lambda: SimulateOptions(snr=15.0), "snr is 15.0, expected 2 values, each"),
        (lambda: SimulateOptions(shape=(96,)), "shape is a tuple, .96,., expected 2 values"),
        (lambda: make(hf.FitOptions, [1], "fit"), "fit is a list, .1., expected a Mapping"),
    ],
)
def test_what_options_say(call: Callable[[], Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        call()


def test_options_take_numbers_texts_and_paths_in_any_form():
    one = hf.FitOptions(
        model="sersic",
        max_iter=np.int64(30),
        tolerance=np.float32(0.25),
        coarse_fit=np.bool_(False),
        chunk=torch.tensor(4),
        prior={"n": {"median": 2.0}},
    )
    assert one.model == "sersic"
    plain = (one.max_iter, one.tolerance, one.coarse_fit, one.chunk)
    assert plain == (30, 0.25, False, 4)
    assert [type(v) for v in plain] == [int, float, bool, int]  # what JSON can hold
    assert one.prior.n.median == 2.0
    assert hf.FitOptions(model=["sersic", "exponential"]).model == "sersic+exponential"
    assert hf.PredictOptions(weights=Path("a") / "b").weights == "a/b"
    assert hf.FitOptions(max_iter=1e2).max_iter == 100


BAD_ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image is None, expected an array of real numbers"),
    ({"image": "a.fits"}, "image is 'a.fits', expected .*hybridfit.read"),
    ({"image": IMAGE.astype(complex)}, "image is an array of shape .* complex.*real numbers"),
    ({"image": torch.zeros(2, 32, 32, dtype=torch.complex64)}, "image is .* expected real numbers"),
    ({"image": [[1, 2], [3]]}, "image is a list of 2, expected an array"),
    ({"image": np.array([None])}, "image is an array of shape .1,. .* expected an array of real"),
    ({"image": 3.0}, "image has 0 dimensions, expected 3"),
    ({"image": np.zeros((2, 0, 5))}, "image has shape .2, 0, 5., expected cutouts with pixels"),
    ({"sigma": None}, "sigma is None, expected an array"),
    ({"sigma": np.ones((2, 31, 32))}, r"sigma has shape \(2, 31, 32\), expected \(2, 32, 32\)"),
    ({"sigma": np.ones((3, 32, 32))}, r"sigma has shape \(3, 32, 32\), expected \(2, 32, 32\)"),
    ({"sigma": {"a": 1}}, "sigma is a dict, .*, expected an array"),
    ({"psf": np.zeros(5)}, r"psf has shape \(5,\), expected \(h, w\) for all or \(2, h, w\)"),
    ({"psf": np.zeros((3, 5, 5))}, r"psf has shape \(3, 5, 5\), expected"),
    ({"psf": np.zeros((1, 1, 5, 5))}, r"psf has shape \(1, 1, 5, 5\), expected"),
    ({"psf": np.full((5, 5), np.nan)}, "psf of galaxy '0' sums to nan, expected 1"),
    ({"psf": "psf.fits"}, "psf is 'psf.fits', expected an array"),
    ({"mask": np.zeros((2, 5, 5))}, r"mask has shape \(2, 5, 5\), expected \(2, 32, 32\)"),
    ({"mask": "mask.fits"}, "mask is 'mask.fits', expected an array"),
    ({"id": "galaxy"}, "id has 1 entries, expected 2, one for each image"),
    ({"id": 5}, "id has 1 entries, expected 2"),
    ({"messages": "no"}, "messages has 1 entries, expected 2"),
    ({"wcs": "no"}, "wcs has 1 entries, expected 2"),
    ({"zeropoint": "25"}, "zeropoint is '25', expected an array of real numbers"),
    ({"zeropoint": [25.0, 25.0, 25.0]}, r"zeropoint has shape \(3,\), expected \(2,\)"),
    ({"zeropoint": [25.0, math.inf]}, "zeropoint of galaxy '1' is wrong: expected a finite"),
    ({"pixel_scale": [0.2, -0.2]}, "pixel_scale of galaxy '1' is wrong: expected a number above 0"),
    ({"psf_oversampling": 1.5}, "psf_oversampling is 1.5, expected "),
    ({"psf_oversampling": 0}, "psf_oversampling of galaxy '0' is wrong: expected"),
    ({"psf_oversampling": math.nan}, "psf_oversampling is nan, expected "),
    ({"origin": [1, 2, 3]}, r"origin has shape \(3,\), expected \(2, 2\)"),
    ({"size": [0, 5]}, "size of galaxy '0' is wrong: expected a height and a width"),
    ({"size": [[1, 2, 3]]}, r"size has shape \(1, 3\), expected \(2, 2\)"),
    ({"flags": 0.5}, "flags is 0.5, expected whole numbers"),
]


@pytest.mark.parametrize(("given", "expected"), BAD_ARRAYS)
def test_cutouts_and_arrays_say_what_is_wrong(given: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        cutouts(**given)
    whole: dict[str, Any] = {"image": IMAGE, "sigma": SIGMA, "psf": PSF, **given}
    del whole["image"]
    for function in (hf.fit, hf.predict):
        with pytest.raises(ValueError, match=r" is | has | sums |got a path and sigma"):
            function(given.get("image", IMAGE), **whole, prepare=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"sigma": np.ones((2, 31, 32))}, "sigma has shape .31, 32., expected .32, 32. as the"),
        ({"sigma": np.ones((3, 32, 32))}, "sigma has 3 planes, expected 2"),
        ({"sigma": {"a": 1}}, "sigma is a dict, .*, expected an array"),
        ({"mask": "mask.fits"}, "mask is 'mask.fits', expected an array .*hybridfit.read"),
        ({"psf": np.zeros(5)}, r"psf has shape \(5,\), expected"),
        ({"zeropoint": "25"}, "zeropoint is '25', expected an array of real numbers"),
        ({"zeropoint": math.inf}, "zeropoint is inf, expected finite numbers"),
        ({"pixel_scale": -0.2}, "pixel_scale is -0.2, expected numbers above 0"),
        ({"gain": 0.0}, "gain is 0.0, expected numbers above 0"),
        ({"psf_oversampling": 1.5}, "psf_oversampling is 1.5, expected "),
        ({"flags": 0.5}, "flags is .*, expected whole numbers"),
        ({"id": ["a"]}, "id has 1"),
        ({"crop": None}, "crop is None, expected one of auto, none"),
        ({"crop": np.zeros(2)}, "crop is an array of shape .2,."),
        ({"psf_center": "middle"}, "psf_center is 'middle', expected one of array, centroid"),
        ({"mask_neighbours": "no"}, "mask_neighbours is 'no', expected true or false"),
        ({"mask_bits": 4}, "mask_bits is 4, expected a text"),
        ({"messages": str}, "messages has 1 entries, expected 2"),
        ({"psf_oversampling": math.inf}, "psf_oversampling is inf, expected "),
        ({"flags": math.inf}, "flags is inf, expected whole numbers"),
        ({"origin": np.zeros(3)}, "origin has shape .3,., expected .2, 2."),
        ({"size": 3}, "unknown option 'size' in fit"),
    ],
)
def test_arrays_that_are_prepared_say_what_is_wrong(given: dict[str, Any], expected: str):
    for function in (hf.fit, hf.predict):
        with pytest.raises(ValueError, match=expected.replace("in fit", "in")):
            function(IMAGE, **{"sigma": SIGMA, "psf": PSF, **given})


@pytest.mark.parametrize(
    "values", [(1, 1, 20, -3, 1, 0.5, 0), (1, 1, 20, 3, 0, 0.5, 0), (1, 1, 20, 3, 1, 2, 0)]
)
def test_starting_values_are_those_of_a_galaxy(values: tuple[float, ...]):
    with pytest.raises(ValueError, match="start of galaxy '0' is wrong: expected finite numbers"):
        cutouts(start=[values, (math.nan,) * 7])


def test_arrays_come_in_any_memory_and_type():
    """Read-only, flipped, big-endian, long double, 16 bits, lists and tensors with gradients."""
    base = cutouts()
    still = IMAGE.copy()
    still.flags.writeable = False
    turned = np.ascontiguousarray(IMAGE[:, ::-1])[:, ::-1]
    for image in (
        still,
        turned,
        IMAGE.astype(">f4"),
        IMAGE.astype(np.longdouble),
        list(IMAGE),
        [torch.from_numpy(plane) for plane in IMAGE],
        torch.from_numpy(IMAGE).requires_grad_(),
    ):
        assert torch.equal(cutouts(image=image).image, base.image)
    counts = np.arange(2048, dtype=np.uint16).reshape(2, 32, 32)
    assert torch.equal(cutouts(image=counts).image, cutouts(image=counts.astype("f4")).image)
    assert cutouts(id=np.array([b"a", b"b"])).id == ("a", "b")
    assert hf.Cutouts(image=IMAGE[:1], sigma=SIGMA[:1], psf=PSF[0], id="NGC 1").id == ("NGC 1",)


def test_rows_of_cutouts():
    three = hf.Cutouts(image=IMAGE[[0, 1, 0]], sigma=SIGMA[[0, 1, 0]], psf=PSF[0])
    chosen = (
        three[[0, 2]],
        three[np.array([True, False, True])],
        three[torch.tensor([0, 2])],
        three[::2],
        three[[-3, -1]],
    )
    assert all(some.id == ("0", "2") for some in chosen)
    assert three[1].id == three[[1]].id == ("1",)
    assert len(three[[]]) == len(three[np.zeros(3, bool)]) == 0
    for index, error, text in (
        (5, IndexError, "row 5 is not there: 3 galaxies"),
        ([0, -4], IndexError, "row -4"),
        (np.array([True, False]), IndexError, "a mask of shape"),
        ("0", TypeError, "index is '0', expected row numbers"),
        (1.5, TypeError, "index is 1.5, expected row numbers"),
        (None, TypeError, "index is None"),
    ):
        with pytest.raises(error, match=text):
            three[index]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"initial_values": np.zeros(7)},
            r"values is an array of shape \(7,\).*expected one of network, moments",
        ),
        ({"uncertainty": None}, "uncertainty is None, expected"),
        ({"fit": {"sky": "plane"}}, "fit is a dict.*expected a FitOptions"),
        ({"sampling": 3}, "sampling is 3, expected a SamplingOptions"),
        ({"bootstrap": "pixels"}, "bootstrap is 'pixels', expected a BootstrapOptions"),
        ({"budget": "off"}, "budget is 'off', expected a BudgetOptions"),
        ({"device": None}, "device is None, expected a text"),
        ({"device": "abacus"}, "device 'abacus' cannot be used: Expected one of cpu"),
        ({"device": "cuda:x"}, "device 'cuda:x' cannot be used"),
        ({"device": "hpu"}, "device 'hpu' cannot be used"),
        ({"device": np.zeros(3)}, "device is an array"),
        ({"covariance": "no"}, "covariance is 'no', expected true or false"),
        ({"save_samples": 1}, "save_samples is 1, expected true or false"),
        ({"sky": np.zeros(2)}, "sky is an array"),
        ({"max_iters": 1}, "unknown option 'max_iters' in fit: did you mean 'max_iter'"),
    ],
)
def test_what_fit_says(more: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        hf.fit(cutouts(), **{**QUICK, **more})


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: hf.fit("cutouts/", sigma=1.0, psf=None), "got a path and sigma.*hybridfit.read"),
        (lambda: hf.fit(IMAGE, sigma=SIGMA), "psf is missing: expected psf="),
        (lambda: hf.predict(cutouts(), predict={}), "predict is an empty dict, expected"),
        (lambda: hf.predict(cutouts(), estimator="x"), "estimator is 'x', expected an Estimator"),
        (lambda: hf.predict(cutouts(), samples="9"), "samples is '9', expected a whole number"),
        (lambda: hf.read(None), "input is None, expected the path"),
        (lambda: hf.read(IMAGE), "input is an array of shape .2, 32, 32. .*, expected the path"),
        (lambda: hf.read("a\0b"), "input is .* not a path: embedded null"),
        (lambda: hf.read("a" * 5000), "input is .* not a path: File name too long"),
        (lambda: hf.read(".", psf=3), "psf is 3, expected a text or None"),
        (lambda: hf.compare(None, table()), "results is None, expected the path"),
        (lambda: hf.compare(table(), 3), "reference is 3, expected the path"),
        (lambda: hf.compare(table(), table(), options=3), "options is 3, expected a CompareOpt"),
        (lambda: hf.compare(table(), table(), reading="x"), "reading is 'x', expected a Refer"),
        (lambda: hf.compare(table(), table(), cutouts=3), "cutouts is 3, expected a Cutouts"),
        (lambda: hf.compare(table(), table(), input=3), "input is 3, expected the path"),
        (lambda: hf.compare(table(), table(), out=3), "out is 3, expected the path"),
        (lambda: hf.render(None, cutouts()), "table is None, expected a Table"),
        (lambda: hf.render(table(), IMAGE), "cutouts is an array of shape .*, expected a Cutouts"),
        (lambda: hf.prepare_psf("psf.fits"), "the PSF is 'psf.fits', expected an array"),
        (lambda: hf.prepare_psf({}), "the PSF is an empty dict, expected an array"),
        (lambda: hf.simulate("3"), "n is '3', expected a whole number"),
        (lambda: hf.simulate(-3), "n and seed are -3 and 0, expected n >= 1"),
        (lambda: hf.simulate(3, options={}), "options is an empty dict, expected a SimulateOpt"),
        (lambda: hf.describe_flags("x"), "value is 'x', expected a whole number"),
        (lambda: hf.plot_residuals(3, 3, 3), r"image has shape \(\), expected pixels"),
        (lambda: hf.plot_residuals(IMAGE, IMAGE[:1], IMAGE), "model has shape .*as the image"),
        (lambda: hf.plot_truth(table(), table()), "table lacks the column 'x_err'"),
        (lambda: hf.plot_truth(3, table()), "table is 3, expected a Table"),
    ],
)
def test_what_the_other_functions_say(call: Callable[[], Any], expected: str):
    with pytest.raises((ValueError, hf.UsageError), match=expected):
        call()


def test_no_galaxies_and_hopeless_ones_are_tables_without_a_warning():
    none = cutouts()[[]]
    for made in (hf.fit(none, **QUICK), hf.fit(none), hf.predict(none, samples=8)):
        assert len(made) == 0
        assert {"id", "mag", "r_eff"} <= {name.removesuffix("_p50") for name in made.colnames}
    bad = np.stack([np.full((SIDE, SIDE), v, "f4") for v in (np.nan, np.inf, 0.0, 3e38, -1e30)])
    for sigma in (np.ones_like(bad), np.zeros_like(bad), np.full_like(bad, 1e-38)):
        given = {"sigma": sigma, "psf": PSF[0], "zeropoint": np.nan}
        for prepare in (False, True):
            made = hf.fit(bad, **given, prepare=prepare, **QUICK)
            assert len(made) == 5
            assert np.all(made["flags"][:2] != 0)
            assert len(hf.predict(bad, **given, prepare=prepare, samples=8)) == 5
    for side in (1, 2, 3):
        small = IMAGE[:, :side, :side]
        made = hf.fit(small, sigma=np.ones_like(small), psf=None, prepare=False, **QUICK)
        assert np.all(made["flags"] != 0)


def test_described_is_short_and_does_not_unfold_what_is_nested():
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]  # 2^40 brackets, as a YAML file of aliases has them
    assert described(nested) == "a list of 2"
    assert described({"a": nested}) == "a dict of 1"
    assert len(described("x" * 10**6)) < 100
    assert checked("value", (1, 2.5), tuple[float, float]) == (1, 2.5)


def test_yaml_takes_numbers_in_any_notation_and_names_what_is_none():
    """PyYAML's own reader makes a text of 1e-3, for want of a point and a sign."""
    text = "{a: 1e-3, b: -2E5, c: 1.e+2, d: 1e3x, e: 0x1e3, f: 2, g: 1e}"
    read = parse_yaml(text, "options")
    assert read == {"a": 1e-3, "b": -2e5, "c": 100.0, "d": "1e3x", "e": 0x1E3, "f": 2, "g": "1e"}
    assert make(hf.FitOptions, parse_yaml("tolerance: 1e-3", "options")).tolerance == 1e-3
    for line, said in (
        ("model: [{sersic: 1}]", "model is a list of 1, expected a profile"),
        ("objective: {a: 1}", "objective is a dict, .*, expected one of map, ml"),
        ("max_iter:", "max_iter is None, expected a whole number"),
        ("prior: {n: [1, 2]}", "prior.n is a list, .1, 2., expected a Mapping"),
    ):
        with pytest.raises(ValueError, match=said):
            make(hf.FitOptions, parse_yaml(line, "options"), "fit")
    with pytest.raises(ValueError, match="options is not valid YAML"):
        parse_yaml("{{a: 1}: 2}", "options")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fit: {sky: !!bool x}", "'x' is not a valid bool"),
        ("fit: !!timestamp x", "'x' is not a valid timestamp"),
        ("fit: {sky: !!int ''}", "'' is not a valid int"),
        ("fit: {max_iter: !!float _}", "'_' is not a valid float"),
        ("fit: {sky: 2026-99-99}", "'2026-99-99' is not a valid timestamp"),
        ("fit: {sky: 0x" + "f" * 4000 + "}", "line 1 has more than 2000 characters"),
        ("fit:\n  sky: '" + "x" * 90_000 + "'", "line 2 has more than 2000 characters"),
        ("? " + "k" * 90_000 + "\n: 1", "line 1 has more than 2000 characters"),
    ],
)
def test_what_no_yaml_value_can_be_is_named(text: str, said: str):
    """PyYAML raises KeyError, IndexError, AttributeError for tags that do not fit their text."""
    with pytest.raises(ValueError, match=said) as caught:
        parse_yaml(text, "my.yaml")
    assert str(caught.value).startswith("my.yaml is not valid YAML")
    assert len(str(caught.value)) < 600
