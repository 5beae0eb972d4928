"""Fit galaxy cutouts in batches: an accurate differentiable renderer, FITS in, a table out.

>>> import hybridfit as hf
>>> cutouts = hf.read("cutouts/")
>>> table = hf.fit(cutouts)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridfit.comparison.compare import compare as compare
    from hybridfit.comparison.options import CompareOptions as CompareOptions
    from hybridfit.data.cutouts import Cutouts as Cutouts
    from hybridfit.data.errors import UsageError as UsageError
    from hybridfit.data.exposure import Exposure as Exposure
    from hybridfit.data.fit import Fit as Fit
    from hybridfit.data.flags import Flag as Flag
    from hybridfit.data.flags import describe_flags as describe_flags
    from hybridfit.data.result import Quality as Quality
    from hybridfit.data.result import Result as Result
    from hybridfit.data.samples import Posterior as Posterior
    from hybridfit.fitting.fit import fit_cutouts as fit_cutouts
    from hybridfit.fitting.options import FitOptions as FitOptions
    from hybridfit.io.arrays import prepare as prepare
    from hybridfit.io.exposures import with_exposures as with_exposures
    from hybridfit.io.options import ReadOptions as ReadOptions
    from hybridfit.io.read import read as read
    from hybridfit.io.read_results import read_draws as read_draws
    from hybridfit.io.references.options import ReferenceOptions as ReferenceOptions
    from hybridfit.model.parameters import ParameterInfo as ParameterInfo
    from hybridfit.model.parameters import ParameterSpace as ParameterSpace
    from hybridfit.model.prior import LogNormal as LogNormal
    from hybridfit.model.prior import Normal as Normal
    from hybridfit.model.prior import Prior as Prior
    from hybridfit.model.prior import Uniform as Uniform
    from hybridfit.model.profiles import Profile as Profile
    from hybridfit.model.profiles import ShapeParameter as ShapeParameter
    from hybridfit.model.profiles import register_profile as register_profile
    from hybridfit.model.scene import Component as Component
    from hybridfit.model.scene import Parameter as Parameter
    from hybridfit.model.scene import Scene as Scene
    from hybridfit.model.scene import Sky as Sky
    from hybridfit.model.scene import Source as Source
    from hybridfit.model.scene import Tie as Tie
    from hybridfit.model.scene import equal as equal
    from hybridfit.model.scene import offset as offset
    from hybridfit.model.scene import ratio as ratio
    from hybridfit.mosaic.config import CatalogConfig as CatalogConfig
    from hybridfit.mosaic.options import CatalogOptions as CatalogOptions
    from hybridfit.mosaic.run import catalog as catalog
    from hybridfit.pipeline.config import Config as Config
    from hybridfit.pipeline.config import PredictConfig as PredictConfig
    from hybridfit.pipeline.fit import fit as fit
    from hybridfit.pipeline.fit import render as render
    from hybridfit.pipeline.fit_files import fit_files as fit_files
    from hybridfit.pipeline.galfit.run import fit_feedmes as fit_feedmes
    from hybridfit.pipeline.options import FileRunOptions as FileRunOptions
    from hybridfit.pipeline.options import PredictOptions as PredictOptions
    from hybridfit.pipeline.options import RunOptions as RunOptions
    from hybridfit.pipeline.predict import predict as predict
    from hybridfit.pipeline.predict import predict_files as predict_files
    from hybridfit.plots import plot_residuals as plot_residuals
    from hybridfit.plots import plot_truth as plot_truth
    from hybridfit.rendering.psf_images import prepare_psf as prepare_psf
    from hybridfit.sampling.options import SamplingOptions as SamplingOptions
    from hybridfit.simulation.simulate import simulate as simulate
    from hybridfit.uncertainty.options import BootstrapOptions as BootstrapOptions
    from hybridfit.uncertainty.options import BudgetOptions as BudgetOptions

    __version__: str

# each is loaded when it is first asked for, so that `hybridfit --help` need not wait for torch
_HOMES = {
    "comparison.compare": ("compare",),
    "comparison.options": ("CompareOptions",),
    "data.cutouts": ("Cutouts",),
    "data.errors": ("UsageError",),
    "data.exposure": ("Exposure",),
    "data.fit": ("Fit",),
    "data.flags": (
        "Flag",
        "describe_flags",
    ),
    "data.result": (
        "Quality",
        "Result",
    ),
    "data.samples": ("Posterior",),
    "fitting.fit": ("fit_cutouts",),
    "fitting.options": ("FitOptions",),
    "io.arrays": ("prepare",),
    "io.exposures": ("with_exposures",),
    "io.options": ("ReadOptions",),
    "io.read": ("read",),
    "io.references.options": ("ReferenceOptions",),
    "io.read_results": ("read_draws",),
    "model.parameters": ("ParameterInfo", "ParameterSpace"),
    "model.prior": ("LogNormal", "Normal", "Prior", "Uniform"),
    "model.profiles": ("Profile", "ShapeParameter", "register_profile"),
    "model.scene": (
        "Component",
        "Parameter",
        "Scene",
        "Sky",
        "Source",
        "Tie",
        "equal",
        "offset",
        "ratio",
    ),
    "pipeline.config": ("Config", "PredictConfig"),
    "pipeline.fit": (
        "fit",
        "render",
    ),
    "mosaic.config": ("CatalogConfig",),
    "mosaic.options": ("CatalogOptions",),
    "mosaic.run": ("catalog",),
    "pipeline.fit_files": ("fit_files",),
    "pipeline.galfit.run": ("fit_feedmes",),
    "pipeline.options": ("FileRunOptions", "PredictOptions", "RunOptions"),
    "pipeline.predict": (
        "predict",
        "predict_files",
    ),
    "plots": (
        "plot_residuals",
        "plot_truth",
    ),
    "rendering.psf_images": ("prepare_psf",),
    "sampling.options": ("SamplingOptions",),
    "simulation.simulate": ("simulate",),
    "uncertainty.options": ("BootstrapOptions", "BudgetOptions"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hybridfit")
    if name not in _HOME:
        from hybridfit.deprecations import current_name

        new = current_name(name)
        if new is None:
            raise AttributeError(f"module 'hybridfit' has no attribute '{name}'")
        return getattr(import_module(f"hybridfit.{_HOME[new]}"), new)
    value = getattr(import_module(f"hybridfit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
