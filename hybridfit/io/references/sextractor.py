"""Catalogues of SExtractor and SourceXtractor++.

SExtractor's manual (sextractor.readthedocs.io, "Position and shape", "Photometry", "Model
fitting") and ``param.h`` define its parameters: X_IMAGE counts from 1, THETA_IMAGE runs from the
first axis towards the second, ELLIPTICITY = 1 - B / A, FLUX_RADIUS is the radius of the circle
with half of the light, including the seeing. SPHEROID_REFF_IMAGE of the models lies along the
major axis (``profit.c`` swaps the axes if the aspect ratio exceeds 1), DISK_SCALE_IMAGE is a
scale length, and ERRX2_* are variances. SourceXtractor++ writes pixel_centroid_x in FITS
coordinates, from 1, and ellipse_theta in degrees, counter-clockwise from +x
(``PixelCentroidPlugin.cpp``, ``ShapeParametersPlugin.cpp``); the user names the model columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Row, Table, vstack

from hybridfit.io.references.catalogue import NAMES, Catalogue
from hybridfit.io.references.columns import Convention, catalogue_of, chosen_rows
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.io.references.tables import read_table

DISC_RADIUS = 1.678347  # half-light radius of exp(-r / h), in h
FRACTION_COLUMN = "FLUX_RADIUS"
CIRCLE = (
    "r_eff is the half-light radius of a circle over sqrt(q), including the seeing: it is not "
    "the intrinsic size of the galaxy"
)
CENTRES = (  # x, y and their variances, in order of preference
    ("XMODEL_IMAGE", "YMODEL_IMAGE", "ERRX2MODEL_IMAGE", "ERRY2MODEL_IMAGE"),
    ("XWIN_IMAGE", "YWIN_IMAGE", "ERRX2WIN_IMAGE", "ERRY2WIN_IMAGE"),
    ("X_IMAGE", "Y_IMAGE", "ERRX2_IMAGE", "ERRY2_IMAGE"),
)
SPHEROID = {
    "mag": "MAG_SPHEROID",
    "mag_err": "MAGERR_SPHEROID",
    "r_eff": "SPHEROID_REFF_IMAGE",
    "r_eff_err": "SPHEROID_REFFERR_IMAGE",
    "n": "SPHEROID_SERSICN",
    "n_err": "SPHEROID_SERSICNERR",
    "q": "SPHEROID_ASPECT_IMAGE",
    "q_err": "SPHEROID_ASPECTERR_IMAGE",
    "pa": "SPHEROID_THETA_IMAGE",
    "pa_err": "SPHEROID_THETAERR_IMAGE",
}
DISC = {
    "mag": "MAG_DISK",
    "mag_err": "MAGERR_DISK",
    "r_eff": "DISK_SCALE_IMAGE",
    "r_eff_err": "DISK_SCALEERR_IMAGE",
    "q": "DISK_ASPECT_IMAGE",
    "q_err": "DISK_ASPECTERR_IMAGE",
    "pa": "DISK_THETA_IMAGE",
    "pa_err": "DISK_THETAERR_IMAGE",
}
MOMENTS = {
    "mag": "MAG_AUTO",
    "mag_err": "MAGERR_AUTO",
    "r_eff": FRACTION_COLUMN,
    "ellipticity": "ELLIPTICITY",
    "pa": "THETA_IMAGE",
}
WORLD = (("ALPHA_J2000", "DELTA_J2000"), ("ALPHA_SKY", "DELTA_SKY"))
FROM_X = Convention(first_pixel=1, pa_from="+x")
CIRCULAR = Convention(first_pixel=1, pa_from="+x", size="circularised")
SERIOUS = 4  # FLAGS from here on: saturated, truncated or corrupted; 1 and 2 mark neighbours

PLUSPLUS = {
    "id": "source_id",
    "x": "pixel_centroid_x",
    "y": "pixel_centroid_y",
    "mag": "auto_mag",
    "mag_err": "auto_mag_err",
    "r_eff": "flux_radius",
    "pa": "ellipse_theta",
    "ra": "world_centroid_alpha",
    "dec": "world_centroid_delta",
}


def read_sextractor(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read a SExtractor catalogue: ASCII_HEAD, FITS_1.0 or FITS_LDAC.

    Fitted models (SPHEROID_*, DISK_*), if present, are the galaxies' components; otherwise
    MAG_AUTO, FLUX_RADIUS and the ellipse from the moments are used.

    Raises:
        ValueError: if columns are missing or the file cannot be read.
    """
    table = chosen_rows(read_table(path), options, path)
    names = set(table.colnames)
    if not {"X_IMAGE", "XWIN_IMAGE", "XMODEL_IMAGE", "ALPHA_J2000"} & names:
        raise ValueError(
            f"'{path}' has no X_IMAGE, XWIN_IMAGE, XMODEL_IMAGE or ALPHA_J2000 , expected "
            f"a SExtractor catalogue: it has {', '.join(table.colnames)}"
        )
    common = {"id": "NUMBER"} if "NUMBER" in names else {}
    common |= _centre(table) | _world(names)
    models = _models(table)
    if not models:
        mapping = common | {name: c for name, c in MOMENTS.items() if c in names}
        table, mapping = _half_light(table, mapping, FRACTION_COLUMN)
        convention, notes = CIRCULAR, [CIRCLE] if "r_eff" in mapping else []
    else:
        table = vstack(models, metadata_conflicts="silent") if len(models) > 1 else models[0]
        mapping = common | {name: name for name in _model_names(table)} | {"component": "component"}
        convention, notes = FROM_X, [f"models: {', '.join(m.meta['model'] for m in models)}"]
    mapping |= options.renamed()
    flagged = [_flag_text(row, names) for row in table]
    kind = convention.with_options(options)
    found = catalogue_of(table, mapping, kind, options, path, "sextractor", flagged, notes)
    if not models:
        return found
    index = NAMES.index("n")  # the index is fixed for discs, and for spheroids without a fitted one
    given = np.isin(found.values[..., index], (1.0, 4.0)) & np.isnan(found.errors[..., index])
    fixed = found.fixed.copy()
    fixed[..., index] = given
    return replace(found, fixed=fixed)


def read_sourcextractor(path: Path, options: ReferenceOptions) -> Catalogue:
    """Read a SourceXtractor++ catalogue; ``options.columns`` names those of the fitted model.

    Without such names the ellipse from the moments is used. Angles of models are usually in
    radians: set ``pa_unit``.
    """
    table = chosen_rows(read_table(path), options, path)
    names = set(table.colnames)
    renamed = options.renamed()
    mapping = {name: column for name, column in PLUSPLUS.items() if column in names}
    convention, notes = FROM_X, []
    if not {"q", "ellipticity"} & set(renamed) and {"ellipse_a", "ellipse_b"} <= names:
        table = table.copy()
        table["q"] = np.asarray(table["ellipse_b"]) / np.asarray(table["ellipse_a"])
        mapping["q"] = "q"
    if "r_eff" not in renamed and "r_eff" in mapping:
        table, mapping = _half_light(table, mapping, "flux_radius")
        convention, notes = CIRCULAR, [CIRCLE]
    mapping |= renamed
    columns = [name for name in ("source_flags", "auto_flags") if name in names]
    flagged = [
        "; ".join(f"{name} {int(row[name])}" for name in columns if np.max(row[name]) >= SERIOUS)
        for row in table
    ]
    kind = convention.with_options(options)
    return catalogue_of(table, mapping, kind, options, path, "sourcextractor++", flagged, notes)


def _models(table: Table) -> list[Table]:
    """Return a table with our names for each component of the fitted model."""
    names, found = set(table.colnames), []
    for number, (model, columns) in enumerate((("SPHEROID", SPHEROID), ("DISK", DISC)), start=1):
        if columns["r_eff"] not in names:
            continue
        part = table.copy()
        part.meta["model"] = model
        part["component"] = number
        for name, column in columns.items():
            if column in names:
                part[name] = table[column]
        if model == "DISK":
            part["n"] = 1.0
            for name in ("r_eff", "r_eff_err"):
                if name in part.colnames:
                    part[name] = DISC_RADIUS * np.asarray(part[name], float)
        elif "n" not in part.colnames:
            part["n"] = 4.0  # the index that the model implies if it was not fitted
        alone = not {"DISK_SCALE_IMAGE", "SPHEROID_REFF_IMAGE"} <= names
        if alone and "mag" not in part.colnames and "MAG_MODEL" in names:
            part["mag"] = table["MAG_MODEL"]
            if "MAGERR_MODEL" in names:
                part["mag_err"] = table["MAGERR_MODEL"]
        found.append(part)
    return found


def _model_names(table: Table) -> list[str]:
    return [name for name in (*SPHEROID, "n") if name in table.colnames]


def _centre(table: Table) -> dict[str, str]:
    for x, y, xx, yy in CENTRES:
        if x in table.colnames:
            chosen = {"x": x, "y": y}
            for name, variance in (("x_err", xx), ("y_err", yy)):
                if variance in table.colnames:
                    with np.errstate(invalid="ignore"):
                        table[name] = np.sqrt(np.asarray(table[variance], float))
                    chosen[name] = name
            return chosen
    return {}


def _world(names: set[str]) -> dict[str, str]:
    for ra, dec in WORLD:
        if {ra, dec} <= names:
            return {"ra": ra, "dec": dec}
    return {}


def _half_light(table: Table, mapping: dict[str, str], column: str) -> tuple[Table, dict[str, str]]:
    """Return the half-light radius: the first one, if there are several fractions."""
    if "r_eff" in mapping and table[column].ndim > 1:
        mapping = mapping | {"r_eff": f"{column}[0]"}
    return table, mapping


def _flag_text(row: Row, names: set[str]) -> str:
    texts = []
    if "FLAGS" in names and int(row["FLAGS"]) >= SERIOUS:
        texts.append(f"FLAGS {int(row['FLAGS'])}")
    if "FLAGS_MODEL" in names and int(row["FLAGS_MODEL"]) > 0:
        texts.append(f"FLAGS_MODEL {int(row['FLAGS_MODEL'])}")
    return ", ".join(texts)


def sextractor_columns(names: Sequence[str]) -> str:
    """Return which of the two programs has such columns; "" for neither."""
    found = set(names)
    if {"X_IMAGE", "XWIN_IMAGE", "XMODEL_IMAGE"} & found or {"NUMBER", "MAG_AUTO"} <= found:
        return "sextractor"
    if {"pixel_centroid_x", "source_id", "world_centroid_alpha"} & found and "id" not in found:
        return "sourcextractor++"
    return ""
