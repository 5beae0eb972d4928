"""Give tables of earlier versions the present column names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from hybridfit.data.flags import flag_names
from hybridfit.deprecations import rows
from hybridfit.io.flag_names import NAMES
from hybridfit.model.declaration import declared_scene

RENAMED = rows("column")
OF_LAST = "message"  # a column of every table of the last version, and of none of this one
NUMBERED = re.compile(r"([a-z]\w*?)_(\d+)(_err|_p\d+|_samples)?")  # r_eff_2_err


def with_current_names(table: Table, settings: Mapping[str, Any]) -> Table:
    """Rename columns of the last version and add derived ones, in place.

    Args:
        table: of results.
        settings: sections of options of the run.
    """
    of_galfit = "feedme" in table.colnames
    named_components(table, component_names(table, settings, of_galfit))
    if OF_LAST not in table.colnames:
        return table
    for old, new in RENAMED.items():
        if old in table.colnames and new not in table.colnames:
            table.rename_column(old, new)
    if "flags" in table.colnames and NAMES not in table.colnames:
        bits = np.ma.filled(np.ma.asarray(table["flags"]), 0)
        names = [flag_names(int(value)) for value in bits]
        table.add_column(names, table.index_column("flags") + 1, NAMES)
    return table


def component_names(table: Table, settings: Mapping[str, Any], of_galfit: bool) -> list[str]:
    """Return the present names of components whose columns end in _1, _2...; none for others.

    Args:
        table: of results or of draws.
        settings: sections of options of the run.
        of_galfit: whether it was one of GALFIT input files.
    """
    count = sum(bool(re.fullmatch(r"mag_\d+", name)) for name in table.colnames)
    if count == 0:
        return []
    if of_galfit:
        return [f"comp{k}" for k in range(1, count + 1)]
    options = settings.get("fit", {})
    model = options.get("model") or options.get("components")
    try:
        scene = declared_scene(model)
    except (ValueError, OSError):
        return []
    names = [component.name for component in scene.components]
    return names if len(names) == count and all(names) else []


def named_components(table: Table, names: Sequence[str]) -> None:
    """Rename columns of numbered components (``mag_1``) to those of named ones, in place."""
    for old in list(table.colnames):
        match = NUMBERED.fullmatch(old)
        if match is not None and 0 < int(match[2]) <= len(names):
            table.rename_column(old, f"{names[int(match[2]) - 1]}_{match[1]}{match[3] or ''}")


def current_settings(table: Table, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose model has the components of a table of GALFIT input files.

    Args:
        table: with the present names.
        settings: sections of options of the run, of this version or the last one.
    """
    names = [n.removesuffix("_mag") for n in table.colnames if re.fullmatch(r"comp\d+_mag", n)]
    profiles = settings.get("fit", {}).get("components")
    if "feedme" not in table.colnames or not names or not isinstance(profiles, list):
        return settings
    fit = {key: value for key, value in settings["fit"].items() if key != "components"}
    own = {
        name: {"profile": profile, "source": k}
        for k, (name, profile) in enumerate(zip(names, profiles, strict=False), start=1)
    }
    model = {"components": own}
    return {**settings, "fit": {**fit, "model": json.dumps(model)}}
