"""Units, descriptions and UCDs of the columns in simulations' tables of true parameters."""

from __future__ import annotations

from astropy.table import Table

from hybridfit.data.column_facts import ColumnFacts, describe_columns
from hybridfit.data.positions import plain_name
from hybridfit.data.ucd import ucd_of
from hybridfit.model.parameters import PARAMETERS

OTHERS = {
    "id": ColumnFacts("", "name of the galaxy", "meta.id;meta.main"),
    "snr": ColumnFacts("", "signal-to-noise ratio of the total flux", "stat.snr"),
    "psf_fwhm": ColumnFacts(
        "pix", "full width at half maximum of the PSF", "phys.angSize;instr.det.psf"
    ),
    "kind": ColumnFacts("", "bits of the galaxy's contaminants; 0 for none", "meta.code"),
    "kinds": ColumnFacts("", "names of the contaminants, separated by commas", "meta.code"),
}


def truth_facts(name: str) -> ColumnFacts:
    """Return the facts of a column of true values of a parameter."""
    parameter = PARAMETERS[plain_name(name)]
    return ColumnFacts(parameter.unit, f"{parameter.description}; true", ucd_of(plain_name(name)))


def describe_truth(table: Table) -> Table:
    """Add metadata to the columns of a table of true parameters, in place."""
    known = {n: truth_facts(n) for n in table.colnames if plain_name(n) in PARAMETERS}
    return describe_columns(table, {**OTHERS, **known})
