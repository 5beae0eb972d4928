"""The recipe of a training run: options from YAML, and schedules by progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hybridfit.model.prior import Prior
from hybridfit.npe.backbone import NetworkOptions
from hybridfit.npe.legacy_names import current_options
from hybridfit.options.checks import check_fields
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

    images: int = 3_000_000  # uses of galaxies after which the run is complete
    minutes: float = math.inf  # wall time of all sessions after which it is complete
    batch: int = 128
    seed: int = 0
    learning_rate: float = 1.5e-3
    warm_up: int = 300  # batches of rising learning rate
    decay: float = 0.45  # last fraction of the run over which the learning rate falls to 0
    decay_form: str = "linear"  # linear | cosine
    weight_decay: float = 0.01  # of matrices; scales and offsets have none
    clip: float = 5.0  # of the gradient's norm
    nll_clip: float = 30.0  # nats beyond which a galaxy's loss grows as a logarithm only
    head_weight: float = 0.3  # of the Gaussian head's loss, falling to 0 at half of the run
    ema: tuple[float, float] = (0.998, 0.9995)  # averaging of the weights, start and end
    image_share: tuple[float, float] = (1.0, 1.0)  # of the batches that read the images: until
    # half of the run, and at its end; the others use the scalars alone and are cheaper
    bf16: bool = False  # bfloat16 in the backbone; the flow stays in float32
    compile: bool = False  # the backbone's kernels: pays in runs of an hour and more
    shard: int = 2048  # galaxies simulated at a time
    workers: int = 1  # processes that simulate; 0: this one does, on its device
    epochs_per_image: float = 3.0  # uses of each galaxy
    reuse_max: float = 6.0  # limit of these uses where simulation is slow; then training waits
    memory_gb: float = 3.0  # of the replay buffer
    whitening: int = 20_000  # galaxies that set the scales, simulated before the first batch
    checkpoint_minutes: float = 3.0
    validation: int = 2048  # galaxies of the fixed validation set
    validation_limit: int = 500  # clean ones of them whose Laplace limit is computed
    validate_minutes: float = 10.0
    tensorboard: bool = True  # where the package tensorboard is installed

    def __post_init__(self) -> None:
        check_fields(self, "train")
        for name in ("images", "minutes", "batch", "learning_rate", "shard", "memory_gb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}, expected a number > 0")
        if self.workers < 0:
            raise ValueError(f"train.workers is {self.workers}, expected 0 or more")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"train.decay is {self.decay}, expected a fraction of the run")
        if self.decay_form not in DECAYS:
            raise ValueError(f"train.decay_form is '{self.decay_form}', expected {DECAYS}")
        if not 1 <= self.epochs_per_image <= self.reuse_max:
            raise ValueError(
                f"train.epochs_per_image is {self.epochs_per_image} and reuse_max "
                f"{self.reuse_max}, expected 1 <= epochs_per_image <= reuse_max"
            )
        for name in ("ema", "image_share"):
            if not all(0 <= value <= 1 for value in getattr(self, name)):
                raise ValueError(f"train.{name} is {getattr(self, name)}, expected within 0 and 1")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on: the sections of its YAML file."""

    simulator: FieldOptions = field(default_factory=FieldOptions)
    prior: Prior = field(default_factory=Prior)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "the recipe") -> Recipe:
        """Build a recipe from YAML sections; unknown keys raise ValueError."""
        sections = ("simulator", "prior", "network", "train")
        check_keys(given, list(sections), where)
        made: dict[str, Any] = {}
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
