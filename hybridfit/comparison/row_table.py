"""The table of a comparison: one row per matched component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.ucd import ucd_of
from hybridfit.io.common_columns import id_column
from hybridfit.io.table import Column, id_width, parameter_of, record_type, shortened

TEXTS = {  # text columns other than the id: description and UCD
    "reference": ("name of the reference", "meta.ref"),
    "their_id": ("id of the galaxy in the reference", "meta.id.cross"),
    "quality": ("quality of our row: certified, usable or suspect", "meta.code.qual"),
    "verdict": ("agree, or which parameters describe the pixels better", "meta.code.class"),
    "flagged_by": ("who flagged the galaxy: us, them or both; empty for neither", "meta.code"),
    "flags": ("names of our flags", "meta.code"),
    "their_flags": ("the reference's warnings about its own values", "meta.note"),
}
NUMBERS = {  # numeric columns: description and UCD
    "component": ("number of our component, from 1", "meta.number"),
    "their_component": ("number of their component, from 1", "meta.number"),
    "max_pull": (
        "largest pull of any parameter, the difference over both errors",
        "stat.fit.residual;stat.max",
    ),
    "catastrophic": ("1 if mag is off by 0.5 or r_eff by a factor of 2, else 0", "meta.code"),
    "chi2": ("chi2 of our parameters, with our fluxes and sky", "stat.fit.chi2"),
    "their_chi2": (
        "chi2 of theirs on the same pixels, with their fluxes and sky (solved for if unknown)",
        "stat.fit.chi2",
    ),
    "chi2_solved": ("chi2 of ours after solving for fluxes and sky", "stat.fit.chi2"),
    "their_chi2_solved": ("chi2 of theirs after solving for fluxes and sky", "stat.fit.chi2"),
    "delta_chi2": (
        "their_chi2_solved - chi2_solved; above 0, ours describe the pixels better",
        "stat.fit.chi2;arith.diff",
    ),
    "dof": ("unmasked pixels minus our parameters", "stat.fit.dof"),
    "snr": ("signal-to-noise ratio in the reference", "stat.snr"),
}


def comparison_columns(
    names: Sequence[str], texts: Mapping[str, Sequence[str]], ids: Sequence[str]
) -> tuple[Column, ...]:
    """Return the columns of a comparison's table.

    Args:
        names: the parameters.
        texts: entries of the columns in `TEXTS`, which set their widths.
        ids: the galaxies' ids.
    """
    chosen = [id_column(id_width(ids))]
    for name, (words, ucd) in TEXTS.items():
        width = max((len(shortened(text)) for text in texts[name]), default=1)
        chosen.append(Column(name, f"S{max(width, 1)}", "", words, ucd))
    chosen += [Column(name, "f8", "", words, ucd) for name, (words, ucd) in NUMBERS.items()]
    for name in names:
        unit, value, error = parameter_of(name)[0], ucd_of(name), ucd_of(name, "_err")
        difference = value if value.endswith("arith.diff") else f"{value};arith.diff"
        for column, words, ucd in (
            (name, "ours", value),
            (f"{name}_err", "our error", error),
            (f"their_{name}", "theirs", value),
            (f"their_{name}_err", "their error", error),
            (f"d_{name}", "ours - theirs", difference),
        ):
            chosen.append(Column(column, "f8", unit, f"{name}: {words}", ucd))
        words = "(ours - theirs) over both errors, or over ours against a truth"
        ucd = f"stat.fit.residual;{value}"
        chosen.append(Column(f"pull_{name}", "f8", "", f"{name}: {words}", ucd))
    return tuple(chosen)


def comparison_rows(
    columns: Sequence[Column],
    ids: Sequence[str],
    texts: Mapping[str, Sequence[str]],
    numbers: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.void]:
    """Return the rows as records; missing numbers are NaN.

    Args:
        columns: see `comparison_columns`.
        ids: (P,) ids.
        texts: (P,) entries of each text column.
        numbers: (P,) entries of each numeric column.
    """
    rows = np.zeros(len(ids), record_type(columns))
    for column in columns:
        if column.name == "id":
            rows["id"] = [name.encode() for name in ids]
        elif column.is_text:
            rows[column.name] = [shortened(text) for text in texts[column.name]]
        else:
            rows[column.name] = numbers.get(column.name, np.nan)
    return rows
