"""Detect the kind of a reference from its content, and read it as a `Catalogue`."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from astropy.table import Table

from hybridfit.files.fits import looks_like_fits, open_fits
from hybridfit.files.regular import peek_text
from hybridfit.io.formats import tables_in
from hybridfit.io.references.catalogue import Catalogue
from hybridfit.io.references.galfit_outputs import outcomes_catalogue
from hybridfit.io.references.imfit import imfit_files, looks_like_imfit, read_imfit
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.io.references.own import read_own
from hybridfit.io.references.sextractor import (
    read_sextractor,
    read_sourcextractor,
    sextractor_columns,
)
from hybridfit.io.references.tables import (
    is_truth,
    looks_like_sextractor,
    plain_of,
    read_galfit_table,
    read_plain,
    read_table,
    read_truth,
    truth_of,
)
from hybridfit.options.checks import as_path

GALFIT_TEXT = re.compile(
    r"^\s*#?\s*(A\)|Input image\s*:|Init\. par\. file|Restart file|=+\s*IMAGE (and|PARAM))",
    re.M | re.I,
)


def read_reference(
    source: str | Path | Table, options: ReferenceOptions = ReferenceOptions()
) -> Catalogue:
    """Read a reference catalogue: other measurements of the galaxies, or their truth.

    Args:
        source: a path, see `find_kind`; or an astropy table with our names, taken as the truth if
            it has no errors.
        options: conventions that the reference does not state itself.

    Raises:
        ValueError: if its kind is unknown, or it cannot be read.
        FileNotFoundError: if the path does not exist.
    """
    if isinstance(source, Table):
        name = options.name or str(source.meta.get("name", "table"))
        exact = options.kind == "truth" or (not options.kind and is_truth(Path(name), source))
        return (truth_of if exact else plain_of)(source, name, options)
    path = as_path("reference", source)
    kind = options.kind or find_kind(path)
    if kind == "hybridfit":
        return read_own(path, options)
    if kind == "galfit":
        from hybridfit.io.galfit import read_outcomes

        return outcomes_catalogue(read_outcomes(path), path, options)
    readers = {
        "galfit-table": read_galfit_table,
        "imfit": read_imfit,
        "sextractor": read_sextractor,
        "sourcextractor++": read_sourcextractor,
        "table": read_plain,
        "truth": read_truth,
    }
    return readers[kind](path, options)


def find_kind(path: Path) -> str:
    """Return which of `KINDS` a path is, from its content.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is none of these kinds.
    """
    if not path.exists():
        raise FileNotFoundError(f"reference '{path}' does not exist")
    if path.is_dir():
        if any(file.is_file() for file in tables_in(path)):
            return "hybridfit"
        return "imfit" if _has_imfit(path) else "galfit"
    if path.suffix == ".npz":
        return "truth"
    if looks_like_fits(path):
        if _is_block(path):
            return "galfit"
    elif not path.name.lower().endswith((".csv", ".ecsv", ".parquet", ".pq", ".vot", ".xml")):
        if looks_like_imfit(path):
            return "imfit"
        if looks_like_sextractor(path):
            return "sextractor"
        if GALFIT_TEXT.search(peek_text(path, 20_000)):
            return "galfit"
    table = read_table(path)
    if known := sextractor_columns(table.colnames):
        return known
    if {"re_pix", "pa_deg"} <= set(table.colnames):
        return "galfit-table"
    return "truth" if is_truth(path, table) else "table"


def _has_imfit(path: Path) -> bool:
    try:
        return bool(imfit_files(path))
    except OSError:
        return False


def _is_block(path: Path) -> bool:
    """Return whether a FITS file is an image block of GALFIT or GALFITM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_fits(path) as hdus:
                names = {hdu.name.upper() for hdu in hdus}
                return "FINAL_BAND" in names or any("COMP_1" in hdu.header for hdu in hdus)
        except Exception:  # a damaged header can raise almost any exception
            return False
