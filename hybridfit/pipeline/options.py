"""Options of runs: where they compute, what they write, where errors come from."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.deprecations import renamed_fields
from hybridfit.io.formats import FORMATS, check_format
from hybridfit.model.model_names import MODELS, SERSIC_NAME
from hybridfit.options.checks import check_choice, check_fields
from hybridfit.options.metadata import option
from hybridfit.pipeline.devices import MOST_THREADS, check_device

DRAWN = ("posterior", "bootstrap")  # ways to errors that give draws
UNCERTAINTIES = (*DRAWN, "covariance")
INITIAL_VALUES = ("network", "moments")


@renamed_fields("run")
@dataclass(frozen=True)
class FileRunOptions:
    """How a run from files goes about it, whatever it computes."""

    device: str = option(
        "cpu",
        help="torch device that computes",
        metavar="cpu|cuda|cuda:1",
        common=True,
    )
    threads: int = option(
        1, help="CPU threads; more than one seldom pays for cutouts", low=1, high=MOST_THREADS
    )
    format: str = option(
        "fits",
        help="file format of the table",
        choices=FORMATS,
        group="Results",
        common=True,
    )
    part_size: int = option(
        256, help="galaxies that are computed and saved at a time", low=1, metavar="N"
    )
    limit: int = option(
        0,
        help="fit only the first N galaxies, in the order of their ids",
        low=0,
        metavar="N",
        default_text="all",
        common=True,
    )

    def __post_init__(self) -> None:
        check_fields(self, "run")
        check_format(self.format)
        check_device(self.device)


@renamed_fields("run")
@dataclass(frozen=True)
class RunOptions(FileRunOptions):
    """How a run of fits goes about it and what it writes."""

    uncertainty: str = option(
        "posterior",
        help=(
            "where errors come from: importance sampling of the posterior (posterior), fits of "
            "replicas (bootstrap), or the curvature at the fit (covariance), the quickest"
        ),
        choices=UNCERTAINTIES,
        group="Errors",
        common=True,
    )
    initial_values: str = option(
        "network",
        help="where fits begin: with the network's posterior (network), or the image's moments",
        choices=INITIAL_VALUES,
        group="Fit",
        hint="values of single galaxies are Cutouts(start=...) or columns of a manifest",
    )
    weights: str | None = option(
        None,
        help="folder of another network's weights, such as `hybridfit finetune` writes",
        metavar="FOLDER",
        default_text="the package's own",
        group="Fit",
    )
    covariance: bool = option(False, help="write the covariance matrices too", group="Results")
    save_samples: bool = option(
        False,
        help="write the posterior draws and their weights too",
        group="Results",
        common=True,
    )
    save_models: bool = option(
        False,
        help="write models/<id>_block.fits with image, model and residual of each galaxy",
        group="Results",
        common=True,
    )
    save_components: bool = option(
        False,
        help="with save_models: an extension with the image of each component too",
        group="Results",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_samples(self.save_samples, self.uncertainty)
        if self.save_components and not self.save_models:
            raise ValueError("save_components adds to blocks, expected save_models as well")
        arrays = "covariance matrices" if self.covariance else ""
        check_format(self.format, "draws" if self.save_samples else arrays)


@renamed_fields("predict")
@dataclass(frozen=True)
class PredictOptions:
    """How posteriors are predicted, and what is kept of them."""

    model: str | None = option(
        None,
        help=f"model of each galaxy that the network knows: {' or '.join(MODELS)}",
        metavar="MODEL",
        default_text=f"that of the weights; {SERSIC_NAME} without them",
        common=True,
    )
    samples: int = option(256, help="draws of each galaxy", low=2, common=True)
    seed: int = option(0, help="seed of the random numbers")
    weights: str | None = option(
        None,
        help="folder of another network's weights, such as `hybridfit finetune` writes",
        metavar="FOLDER",
        default_text="the package's own",
        common=True,
    )
    save_samples: bool = option(False, help="write the draws too", group="Results", common=True)
    epistemic: bool = option(
        False,
        help=(
            "write for each parameter the part of its error that comes from the network's own "
            "training (_epistemic), by the disagreement of its members"
        ),
        group="Results",
    )

    def __post_init__(self) -> None:
        check_fields(self, "predict")
        if self.model is not None:
            check_choice("predict.model", self.model, MODELS)


def check_samples(save_samples: bool, uncertainty: str) -> None:
    """Raise ValueError where draws are wanted of a way to errors that makes none."""
    if save_samples and uncertainty not in DRAWN:
        raise ValueError(
            f"save_samples needs draws, and uncertainty '{uncertainty}' makes none: expected one "
            f"of {', '.join(DRAWN)}"
        )
