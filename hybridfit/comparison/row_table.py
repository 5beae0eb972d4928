"""The comparison's table: a row for each component that two catalogues share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.io.table import Column, id_width, parameter_of, record_type, shortened

TEXTS = {  # columns of texts, beside the id
    "reference": "what was compared with",
    "their_id": "what the reference calls the galaxy",
    "quality": "certified, usable or suspect: ours",
    "verdict": "agree, or who describes the pixels better",
    "flagged_by": "us, them, both, or nobody",
    "flags": "ours",
    "their_flags": "what the reference says against its numbers",
}
NUMBERS = {
    "component": "of ours, from 1",
    "their_component": "of theirs, from 1",
    "distance": "largest difference of the galaxy's parameters over both errors",
    "catastrophic": "1 where magnitude is off by 0.5 or size by a factor 2",
    "chi2": "of our parameters on the pixels, fluxes and sky as quoted",
    "their_chi2": "of theirs on the same pixels, as quoted (the sky solved for if not given)",
    "chi2_solved": "of ours with fluxes and sky solved for",
    "their_chi2_solved": "of theirs with fluxes and sky solved for",
    "delta_chi2": "their_chi2_solved - chi2_solved: above 0 ours describe the pixels better",
    "dof": "unmasked pixels less the parameters of ours",
    "snr": "signal to noise as the reference gives it",
}


def comparison_columns(
    names: Sequence[str], texts: Mapping[str, Sequence[str]], ids: Sequence[str]
) -> tuple[Column, ...]:
    """Return the columns of a comparison's table.

    Args:
        names: parameters.
        texts: entries of the columns of `TEXTS`, for their widths.
        ids: of the galaxies.
    """
    chosen = [Column("id", f"S{id_width(ids)}", "", "name of the galaxy")]
    for name, words in TEXTS.items():
        width = max((len(shortened(text)) for text in texts[name]), default=1)
        chosen.append(Column(name, f"S{max(width, 1)}", "", words))
    chosen += [Column(name, "f8", "", words) for name, words in NUMBERS.items()]
    for name in names:
        unit = parameter_of(name)[0]
        for column, words in (
            (name, "ours"),
            (f"{name}_err", "our error"),
            (f"their_{name}", "theirs"),
            (f"their_{name}_err", "their error"),
            (f"d_{name}", "ours - theirs"),
        ):
            chosen.append(Column(column, "f8", unit, f"{name}: {words}"))
        words = "(ours - theirs) over both errors; of a truth over ours"
        chosen.append(Column(f"pull_{name}", "f8", "", f"{name}: {words}"))
    return tuple(chosen)


def comparison_rows(
    columns: Sequence[Column],
    ids: Sequence[str],
    texts: Mapping[str, Sequence[str]],
    numbers: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.void]:
    """Return the rows as records; what is not given of a number is NaN.

    Args:
        columns: see `comparison_columns`.
        ids: (P,).
        texts: (P,) entries of each column of text.
        numbers: (P,) entries of each column of numbers.
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
