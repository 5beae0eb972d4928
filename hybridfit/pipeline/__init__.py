"""The whole row, from cutouts to a table: the only room that knows every stage."""

from hybridfit.io.runs import UsageError
from hybridfit.pipeline.arrays import fit, render
from hybridfit.pipeline.files import RunOptions, Summary, fit_files

__all__ = ["RunOptions", "Summary", "UsageError", "fit", "fit_files", "render"]
