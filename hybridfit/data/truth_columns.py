"""Units, descriptions and UCDs of the columns in simulations' tables of true parameters."""

from __future__ import annotations

from astropy.table import Table

from hybridfit.data.ucd import ucd_of
from hybridfit.model.parameters import PARAMETERS

OTHERS = {  # name: unit, description, UCD
    "id": ("", "name of the galaxy", "meta.id;meta.main"),
    "snr": ("", "signal-to-noise ratio of the total flux", "stat.snr"),
    "psf_fwhm": ("pix", "full width at half maximum of the PSF", "phys.angSize;instr.det.psf"),
    "kind": ("", "bits of what makes the galaxy difficult; 0 for nothing", "meta.code"),
    "kinds": ("", "names of these bits, a comma list", "meta.code"),
}


def describe_truth(table: Table) -> Table:
    """Add metadata to the columns of a table of true parameters, in place."""
    for name in table.colnames:
        if name in PARAMETERS:
            parameter = PARAMETERS[name]
            unit, text, ucd = parameter.unit, f"{parameter.description}; true", ucd_of(name)
        elif name in OTHERS:
            unit, text, ucd = OTHERS[name]
        else:
            continue
        table[name].unit, table[name].description = unit or None, text
        table[name].meta["ucd"] = ucd
    return table
