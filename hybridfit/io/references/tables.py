"""Read tables: saved GALFIT results, truths, and any table with named columns."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import ascii as text_tables
from astropy.io import fits
from astropy.table import Table

from hybridfit.files.fits import looks_like_fits, open_fits
from hybridfit.files.regular import FileProblem, check_regular, check_text, peek_text
from hybridfit.io.read_results import read_csv, read_parquet
from hybridfit.io.references.catalogue import NAMES, Catalogue
from hybridfit.io.references.columns import QUANTITIES, Convention, catalogue_of, chosen_rows, texts
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.io.unicode_columns import restored
from hybridfit.io.votable import read_votable

# columns of a table of GALFIT results, made from fit.log or block headers
GALFIT_COLUMNS = {"r_eff": "re_pix", "pa": "pa_deg"}
# arrays of simulated truths: t_re is semi-major, t_pa counter-clockwise from +x, t_x from 0
ARRAYS = {"r_eff": "t_re", **{name: f"t_{name}" for name in NAMES if name != "r_eff"}}


def read_table(path: Path) -> Table:
    """Read a table of any known format.

    Args:
        path: csv, ecsv, parquet, VOTable, npz of one-dimensional arrays, FITS (the first table, or
            the LDAC_OBJECTS of a FITS_LDAC file), or text columns with SExtractor's header.

    Raises:
        ValueError: if it cannot be read.
    """
    name = path.name.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of old headers and units
            check_regular(path)
            if name.endswith(".npz"):
                return _read_arrays(path)
            if name.endswith((".parquet", ".pq")):
                return read_parquet(path)
            if name.endswith(".ecsv"):
                check_text(path)
                return Table.read(path, format="ascii.ecsv")
            if name.endswith((".vot", ".xml")):
                return read_votable(path)
            if name.endswith((".csv", ".tsv")):
                return read_csv(path)
            if looks_like_fits(path):
                return _read_fits(path)
            check_text(path)
            if looks_like_sextractor(path):
                return text_tables.read(path, format="sextractor")
            return text_tables.read(path)
    except ImportError as error:
        raise ValueError(f"reading '{path}' needs pyarrow: pip install pyarrow") from error
    except (OSError, FileProblem):
        raise
    except Exception as error:  # each reader raises its own types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"'{path}' cannot be read as a table: {reason}") from error


def looks_like_sextractor(path: Path) -> bool:
    """Return whether a text has SExtractor's ASCII_HEAD: ``#   1 NUMBER ...``."""
    words = peek_text(path, 1000).partition("\n")[0].split()
    return len(words) > 2 and words[0] == "#" and words[1].isdigit() and words[2].isupper()


def is_truth(path: Path, table: Table) -> bool:
    """Return whether a table is a truth: it has our names and no errors."""
    names = set(table.colnames)
    if set(ARRAYS.values()) <= names:
        return True
    has_errors = any(f"{name}_err" in names for name in NAMES)
    return set(NAMES) <= names and not has_errors


def read_truth(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read a truth: a table with our names, or a .npz with t_x, t_y, t_mag, t_re, t_n, t_q, t_pa.

    In the latter t_x and t_y count from 0, t_re is semi-major and t_pa counts from +x; the ids are
    row numbers.
    """
    return truth_of(read_table(path), path, options)


def truth_of(table: Table, path: Path | str, options: ReferenceOptions) -> Catalogue:
    """Convert a table of truths to a catalogue without errors."""
    table = chosen_rows(table, options, path)
    if set(ARRAYS.values()) <= set(table.colnames):
        mapping, convention = dict(ARRAYS), Convention(pa_from="+x")
        mapping |= {name: f"t_{name}" for name in ("snr", "sky") if f"t_{name}" in table.colnames}
        mapping |= {"id": "id"} if "id" in table.colnames else {}
    else:
        mapping, convention = _ours(table), Convention()
    mapping |= options.renamed()
    mapping = {name: column for name, column in mapping.items() if not name.endswith("_err")}
    found = catalogue_of(table, mapping, convention.with_options(options), options, path, "truth")
    return replace(found, exact=True)


def read_plain(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read any table whose columns have our names, or those given in the options."""
    return plain_of(read_table(path), path, options)


def plain_of(table: Table, path: Path | str, options: ReferenceOptions) -> Catalogue:
    """Convert a table with our column names, or those given in the options."""
    table = chosen_rows(table, options, path)
    mapping = _ours(table) | options.renamed()
    if not {"x", "y", "mag", "flux", "ra"} & set(mapping):
        raise ValueError(
            f"'{path}' has no known column: name them with columns, as "
            f'--columns "x=XC,y=YC,mag=MAG"; it has {", ".join(table.colnames)}'
        )
    convention = Convention().with_options(options)
    return catalogue_of(table, mapping, convention, options, path, "table")


def read_galfit_table(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read a table of GALFIT results: re_pix, pa_deg, x and y from 1, one row per component.

    GALFIT's conventions are those of Peng et al. 2010 (AJ 139, 2097): pixels count from 1, radii
    are along the major axis, angles from +y counter-clockwise.
    """
    table = chosen_rows(read_table(path), options, path)
    mapping = _ours(table)
    for name, column in GALFIT_COLUMNS.items():
        mapping |= {name: column} if column in table.colnames else {}
        error = f"{column}_err"
        mapping |= {f"{name}_err": error} if error in table.colnames else {}
    mapping |= {"dof": "ndof"} if "ndof" in table.colnames else {}
    mapping |= options.renamed()
    flagged = [""] * len(table)
    if "verdict" in table.colnames:
        flagged = ["" if v in ("", "good") else v for v in texts(table["verdict"])]
    convention = Convention(first_pixel=1).with_options(options)
    return catalogue_of(table, mapping, convention, options, path, "galfit-table", flagged)


def _ours(table: Table) -> dict[str, str]:
    return {name: name for name in QUANTITIES if name in table.colnames}


def _read_arrays(path: Path) -> Table:
    """Return the one-dimensional arrays of the most common length."""
    with np.load(path, allow_pickle=False) as data:
        flat = {name: data[name] for name in data.files if data[name].ndim == 1}
    lengths = [len(column) for column in flat.values()]
    if not lengths:
        raise ValueError("it has no one-dimensional arrays")
    most = max(set(lengths), key=lengths.count)
    return Table({name: column for name, column in flat.items() if len(column) == most})


def _read_fits(path: Path) -> Table:
    with open_fits(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        objects = [hdu for hdu in tables if hdu.name == "LDAC_OBJECTS"]
        if not tables:
            raise ValueError("it has no table")
        if len(objects) > 1:
            raise ValueError(
                f"it has {len(objects)} LDAC_OBJECTS tables, one per chip: expected one"
            )
        return restored(Table.read(objects[0] if objects else tables[0]))
