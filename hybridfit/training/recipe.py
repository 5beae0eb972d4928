"""The recipe of a training run: options from YAML, and schedules by progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hybridfit.model.model_names import MODELS, SERSIC_NAME
from hybridfit.model.prior import Prior
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.legacy_names import current_options
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option
from hybridfit.options.yaml_options import check_keys, load_yaml, nested, plain
from hybridfit.simulation.options import FieldOptions

T = TypeVar("T")
DECAYS = ("linear", "cosine")
RECIPE = "recipe.yaml"  # in the folder of a run


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained.

    Every schedule goes by progress, the larger of images / ``images`` and minutes / ``minutes``
    over all sessions of the run, so that a run with a time limit completes its schedules too.
    """

    images: int = option(
        3_000_000, help="number of uses of galaxies after which the run is complete", above=0
    )
    minutes: float = option(
        math.inf,
        help="wall time of all sessions after which it is complete",
        unit="min",
        above=0,
    )
    batch: int = option(128, help="galaxies of a batch", above=0)
    seed: int = option(0, help="seed of the random numbers")
    learning_rate: float = option(1.5e-3, help="largest learning rate", above=0)
    warm_up: int = option(300, help="batches over which the learning rate rises")
    decay: float = option(
        0.45, help="last fraction of the run over which the learning rate falls to 0", low=0, high=1
    )
    decay_form: str = option("linear", help="form of that fall", choices=DECAYS)
    weight_decay: float = option(
        0.01, help="weight decay of matrices; scales and offsets have none"
    )
    clip: float = option(5.0, help="largest norm of the gradient")
    nll_clip: float = option(
        30.0, help="loss of a galaxy beyond which it grows as a logarithm only", unit="nats"
    )
    head_weight: float = option(
        0.3, help="weight of the Gaussian head's loss, which falls to 0 at half of the run"
    )
    ema: tuple[float, float] = option(
        (0.998, 0.9995),
        help="decay of the averaged weights, at the start and at the end",
        low=0,
        high=1,
    )
    image_share: tuple[float, float] = option(
        (1.0, 1.0),
        help=(
            "fraction of the batches that read the images, until half of the run and at its end; "
            "the others use the scalars alone and are cheaper"
        ),
        low=0,
        high=1,
    )
    bf16: bool = option(False, help="run the backbone in bfloat16; the flow stays in float32")
    compile: bool = option(
        False, help="compile the backbone's kernels, which pays in runs of an hour and more"
    )
    shard: int = option(2048, help="galaxies that are simulated at a time", above=0)
    workers: int = option(
        1, help="processes that simulate; 0 simulates in this one, on its device", low=0
    )
    epochs_per_image: float = option(3.0, help="times that each galaxy is used", low=1)
    reuse_max: float = option(
        6.0, help="times that it may be used while simulation is late; then training waits", low=1
    )
    memory_gb: float = option(3.0, help="memory for simulated galaxies", unit="GB", above=0)
    whitening: int = option(
        20_000, help="galaxies from which scales are measured, simulated at the start"
    )
    checkpoint_minutes: float = option(3.0, help="time between checkpoints", unit="min")
    validation: int = option(2048, help="galaxies of the fixed validation set")
    validation_limit: int = option(
        500, help="clean ones of them whose Cramer-Rao limit is computed"
    )
    validate_minutes: float = option(10.0, help="time between validations", unit="min")
    tensorboard: bool = option(True, help="write scalars for TensorBoard, where it is installed")

    def __post_init__(self) -> None:
        check_fields(self, "train")
        if not 1 <= self.epochs_per_image <= self.reuse_max:
            raise ValueError(
                f"train.epochs_per_image is {self.epochs_per_image} and reuse_max "
                f"{self.reuse_max}, expected 1 <= epochs_per_image <= reuse_max"
            )


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on: the sections of its YAML file.

    Args:
        model: name of the galaxies' model: sersic or bulge+disk.
        simulator: the galaxies, and how they are observed.
        prior: of what the model has no prior of its own for.
        network: its architecture.
        train: how it is trained.
    """

    model: str = SERSIC_NAME
    simulator: FieldOptions = field(default_factory=FieldOptions)
    prior: Prior = field(default_factory=Prior)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "the recipe") -> Recipe:
        """Build a recipe from YAML sections; unknown keys raise ValueError."""
        sections = ("simulator", "prior", "network", "train")
        check_keys(given, ["model", *sections], where)
        made: dict[str, Any] = {"model": checked_model(given.get("model", SERSIC_NAME), where)}
        for name in sections:
            content = given.get(name) or {}
            if not isinstance(content, Mapping):
                raise ValueError(
                    f"section '{name}' of {where} is {content!r}, expected 'key: value'"
                )
            if name == "network":
                content = current_options(content)
            made[name] = (
                Prior.from_mapping(content)
                if name == "prior"
                else nested(SECTIONS[name], content, f"section '{name}' of {where}")
            )
        return cls(**made)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a recipe from a YAML file."""
        return cls.from_mapping(load_yaml(path), str(path))

    def to_mapping(self) -> dict[str, Any]:
        """The resolved options, ready for YAML."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}


def checked_model(name: Any, where: str) -> str:
    """Return the name of a model that can be drawn and learned.

    Raises:
        ValueError: for another one.
    """
    if name not in MODELS:
        raise ValueError(f"model of {where} is {name!r}, expected one of {', '.join(MODELS)}")
    return str(name)


SECTIONS: dict[str, Any] = {
    "simulator": FieldOptions,
    "network": NetworkOptions,
    "train": TrainOptions,
}


def progress_of(images: int, minutes: float, options: TrainOptions) -> float:
    """Return the completed fraction of the run, 0 to 1."""
    return min(1.0, max(images / options.images, minutes / options.minutes))


def learning_rate(step: int, progress: float, options: TrainOptions) -> float:
    """Linear warm-up by batches, then level, then a fall to 0 over the last part of the run."""
    rate = options.learning_rate * min(1.0, (step + 1) / max(options.warm_up, 1))
    if progress <= 1 - options.decay or options.decay == 0:
        return rate
    left = (1 - progress) / options.decay
    fall = left if options.decay_form == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return rate * fall


def ema_decay(step: int, progress: float, options: TrainOptions) -> float:
    """Decay of the weights' average, slower towards the end and quick in the first batches."""
    low, high = options.ema
    return min(low + (high - low) * progress, (1 + step) / (10 + step))


def head_weight(progress: float, options: TrainOptions) -> float:
    """Weight of the auxiliary Gaussian head, 0 from half of the run on."""
    return options.head_weight * max(0.0, 1 - 2 * progress)


def seen_weight(progress: float, options: TrainOptions) -> float:
    """Weight of the backbone's own Gaussian head, falling to 0 at the end of the run."""
    return options.head_weight * (1 - progress)


def image_share(progress: float, options: TrainOptions) -> float:
    """Fraction of the batches that read the images, rising over the second half of the run."""
    start, end = options.image_share
    return start + (end - start) * max(0.0, 2 * progress - 1)
