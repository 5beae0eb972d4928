"""The whole row, from cutouts to a table: the only room that knows every stage."""

from hybridfit.io.runs import UsageError
from hybridfit.pipeline.arrays import fit, render
from hybridfit.pipeline.compare_result import CompareOptions, CompareResult
from hybridfit.pipeline.compare_result import told as told_comparison
from hybridfit.pipeline.comparing import compare
from hybridfit.pipeline.files import RunOptions, fit_files
from hybridfit.pipeline.galfit import FeedmeFitOptions, FeedmeRunOptions, fit_feedmes
from hybridfit.pipeline.predict import PredictOptions, predict, predict_files
from hybridfit.pipeline.stream import StreamOptions, Summary
from hybridfit.uncertainty.bootstrap import BootstrapOptions
from hybridfit.uncertainty.budget import BudgetOptions
from hybridfit.uncertainty.reconcile import ReconcileOptions

__all__ = [
    "BootstrapOptions",
    "BudgetOptions",
    "CompareOptions",
    "CompareResult",
    "FeedmeFitOptions",
    "FeedmeRunOptions",
    "PredictOptions",
    "ReconcileOptions",
    "RunOptions",
    "StreamOptions",
    "Summary",
    "UsageError",
    "compare",
    "fit",
    "fit_feedmes",
    "fit_files",
    "predict",
    "predict_files",
    "render",
    "told_comparison",
]
