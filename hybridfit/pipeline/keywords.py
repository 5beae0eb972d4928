"""Keywords of `hybridfit.fit` and `hybridfit.predict`: typed here, described by their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from hybridfit.fitting.options import FitOptions
from hybridfit.io.options import ReadOptions
from hybridfit.model.prior import Prior
from hybridfit.options.metadata import describe
from hybridfit.options.yaml_options import check_keys
from hybridfit.pipeline.config import Config, PredictConfig, SectionKeywords
from hybridfit.pipeline.options import PredictOptions, RunOptions


class ImageKeywords(TypedDict, total=False):
    """What comes with images that are arrays: see `hybridfit.prepare`."""

    sigma: Any
    psf: Any
    variance: Any
    ivar: Any
    mask: Any
    segmap: Any
    dq: Any
    weight: Any
    mask_bits: str
    id: Any
    zeropoint: Any
    zeropoint_from: Any
    pixel_scale: Any
    gain: Any
    psf_oversampling: Any
    psf_includes_pixel: Any
    psf_center: str
    x: Any
    y: Any
    origin: Any
    size: Any
    flags: Any
    wcs: Any
    messages: Any
    crop: str
    mask_neighbours: bool
    no_psf: bool
    parameters: Any
    exposures: Any
    prepare: bool


class FitKeywords(SectionKeywords, ImageKeywords, total=False):
    """Everything that `hybridfit.fit` takes by name."""

    model: str
    objective: str
    sky: str
    sky_value: float
    neighbours: str
    convolution: str
    method: str
    max_iter: int
    tolerance: float
    coarse_fit: bool
    retry: bool
    compile: str
    chunk: int
    precision: str
    prior: Prior | Mapping[str, Any]
    device: Any
    uncertainty: str
    initial_values: str
    weights: str | None
    covariance: bool
    save_samples: bool


class PredictKeywords(ImageKeywords, total=False):
    """Everything that `hybridfit.predict` takes by name."""

    read: ReadOptions
    predict: PredictOptions
    model: str | None
    samples: int
    seed: int
    weights: str | None
    save_samples: bool
    epistemic: bool
    device: Any


IMAGES = tuple(ImageKeywords.__annotations__)
IN_MEMORY = ("device", "uncertainty", "initial_values", "weights", "covariance", "save_samples")

DEFAULTS = {"covariance": True}  # of `hybridfit.fit`, other than in files


def fit_config(config: Any, given: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """Return the configuration of a call of `hybridfit.fit`, and its keywords of images.

    Args:
        config: a `Config`, the path of one, or None.
        given: keywords, see `FitKeywords`.

    Raises:
        ValueError: for a keyword or a value that is not understood.
    """
    fields = {"fit": [one.name for one in describe(FitOptions)], "run": list(IN_MEMORY)}
    check_keys(given, [*Config.names(), *fields["fit"], *IN_MEMORY, *IMAGES], "fit")
    sections = {name: given[name] for name in Config.names() if name in given}
    if config is None and "run" not in sections:
        sections["run"] = RunOptions(covariance=DEFAULTS["covariance"])
    own = _by_section(given, fields)
    return Config.of(config, sections).updated(own), _images(given)


def predict_config(config: Any, given: Mapping[str, Any]) -> tuple[PredictConfig, dict[str, Any]]:
    """The same of `hybridfit.predict`, see `PredictKeywords`."""
    fields = {"predict": [one.name for one in describe(PredictOptions)], "run": ["device"]}
    names = ("read", "predict")
    check_keys(given, [*names, *fields["predict"], "device", *IMAGES], "predict")
    sections = {name: given[name] for name in names if name in given}
    chosen = PredictConfig.of(config, sections)
    return chosen.updated(_by_section(given, fields)), _images(given)


def with_read_options(read: ReadOptions, images: Mapping[str, Any], what: str) -> ReadOptions:
    """Return the options of reading files with the keywords of images that hold for them.

    Raises:
        ValueError: for a keyword of arrays alone.
    """
    known = {one.name for one in describe(ReadOptions)}
    for name in images:
        if name not in known:
            raise ValueError(
                f"{what} got a path and {name}, which goes with arrays: leave it out, or read the "
                "files by hybridfit.read and change the cutouts"
            )
    return replace(read, **images)


def _by_section(
    given: Mapping[str, Any], fields: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    plain = {**given}
    if "device" in plain and type(plain["device"]).__module__.startswith("torch"):
        plain["device"] = str(plain["device"])
    return {
        section: {name: plain[name] for name in names if name in plain}
        for section, names in fields.items()
    }


def _images(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in IMAGES if name in given}
