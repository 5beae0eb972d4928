"""The common style of figures: colours, labels, plain axes and drawable text."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, FAINT = "#1a1a1a", "#5c5c5c", "#d9d9d9"
# Okabe & Ito: distinguishable for all kinds of colour vision
CLEAN, FLAGGED = "#0072b2", "#d55e00"
SERIES = (CLEAN, "#e69f00", "#009e73", "#cc79a7", FLAGGED, "#56b4e9", INK, MUTED)

# the same in all figures, from the most trusted
QUALITY_COLOURS = {"certified": CLEAN, "usable": "#009e73", "suspect": FLAGGED}

LABELS = {
    "x": "x [pix]",
    "y": "y [pix]",
    "mag": "mag",
    "r_eff": "r_eff [pix]",
    "n": "n",
    "q": "q",
    "pa": "pa [deg]",
}
SKY_UNITS = {"sky": "flux/pix", "sky_dx": "flux/pix$^2$", "sky_dy": "flux/pix$^2$"}
LONGEST_ID = 90  # longest name of a galaxy in a title, characters


def plain(axis: Axes) -> None:
    """Give an axis a faint grid and no box."""
    axis.tick_params(labelsize=8, colors=MUTED)
    axis.grid(color=FAINT, lw=0.5, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)


def label_of(name: str) -> str:
    """Return a parameter's name with its unit, also for components (``r_eff_2``)."""
    if name in SKY_UNITS:
        return f"{name} [{SKY_UNITS[name]}]"
    head, _, tail = name.rpartition("_")
    if not tail.isdigit():
        return LABELS.get(name, name)
    return LABELS.get(head, head).replace(head, name, 1)


def drawable(text: str) -> str:
    """Return a text with plain spaces, and with characters missing in the font escaped."""
    plain_spaces = " ".join(text.split())
    return "".join(
        c if _has_glyph(c) else c.encode("unicode_escape").decode() for c in plain_spaces
    )


def shortened(text: str, longest: int = LONGEST_ID) -> str:
    """Return a text, with its middle omitted if it has more than ``longest`` characters."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def with_error(value: float, error: float) -> str:
    """Return ``value ± error`` to two digits of the error; a value without error to four.

    Both have a common power of ten if they are below 1e-4, or 1e7 and above.
    """
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    size = max(abs(value), error)
    if 1e-4 <= size < 1e7:
        return _rounded(value, error)
    power = math.floor(math.log10(size))
    return f"({_rounded(value / 10.0**power, error / 10.0**power)}) 1e{power}"


def _rounded(value: float, error: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))
