"""Fit galaxy cutouts in batches: an accurate differentiable renderer, FITS in, a table out.

>>> import hybridfit as hf
>>> cutouts = hf.read("cutouts/")
>>> table = hf.fit(cutouts)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridfit.cutouts import Cutouts as Cutouts
    from hybridfit.fitting.fit import FitOptions as FitOptions
    from hybridfit.fitting.fit import fit_cutouts as fit_cutouts
    from hybridfit.io.arrays import prepare as prepare
    from hybridfit.io.fits import ReadOptions as ReadOptions
    from hybridfit.io.fits import prepare_psf as prepare_psf
    from hybridfit.io.fits import read as read
    from hybridfit.io.references import ReferenceOptions as ReferenceOptions
    from hybridfit.model.simulate import simulate as simulate
    from hybridfit.parameters import LogNormal as LogNormal
    from hybridfit.parameters import Parameter as Parameter
    from hybridfit.parameters import ParameterSpace as ParameterSpace
    from hybridfit.parameters import Prior as Prior
    from hybridfit.pipeline import BootstrapOptions as BootstrapOptions
    from hybridfit.pipeline import BudgetOptions as BudgetOptions
    from hybridfit.pipeline import CompareOptions as CompareOptions
    from hybridfit.pipeline import PredictOptions as PredictOptions
    from hybridfit.pipeline import ReconcileOptions as ReconcileOptions
    from hybridfit.pipeline import RunOptions as RunOptions
    from hybridfit.pipeline import StreamOptions as StreamOptions
    from hybridfit.pipeline import UsageError as UsageError
    from hybridfit.pipeline import compare as compare
    from hybridfit.pipeline import fit as fit
    from hybridfit.pipeline import fit_feedmes as fit_feedmes
    from hybridfit.pipeline import fit_files as fit_files
    from hybridfit.pipeline import predict_files as predict_files
    from hybridfit.pipeline import render as render
    from hybridfit.pipeline.predict import predict as predict
    from hybridfit.plots import plot_residuals as plot_residuals
    from hybridfit.plots import plot_truth as plot_truth
    from hybridfit.results import Fit as Fit
    from hybridfit.results import Flag as Flag
    from hybridfit.results import Posterior as Posterior
    from hybridfit.results import Quality as Quality
    from hybridfit.results import Result as Result
    from hybridfit.results import describe_flags as describe_flags

    __version__: str

# each is loaded when it is first asked for, so that `hybridfit --help` need not wait for torch
_HOMES = {
    "cutouts": ("Cutouts",),
    "fitting.fit": ("FitOptions", "fit_cutouts"),
    "io.arrays": ("prepare",),
    "io.fits": ("ReadOptions", "prepare_psf", "read"),
    "io.references": ("ReferenceOptions",),
    "model.simulate": ("simulate",),
    "parameters": ("LogNormal", "Parameter", "ParameterSpace", "Prior"),
    "pipeline": (
        "BootstrapOptions",
        "BudgetOptions",
        "CompareOptions",
        "PredictOptions",
        "ReconcileOptions",
        "RunOptions",
        "StreamOptions",
        "UsageError",
        "compare",
        "fit",
        "fit_feedmes",
        "fit_files",
        "predict",
        "predict_files",
        "render",
    ),
    "plots": ("plot_residuals", "plot_truth"),
    "results": ("Fit", "Flag", "Posterior", "Quality", "Result", "describe_flags"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hybridfit")
    if name not in _HOME:
        raise AttributeError(f"module 'hybridfit' has no attribute '{name}'")
    value = getattr(import_module(f"hybridfit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
