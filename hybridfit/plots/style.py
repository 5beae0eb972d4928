"""What all pictures share: colours and plain axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"
# Okabe & Ito: apart for every kind of eye
CLEAN, FLAGGED = "#0072b2", "#d55e00"
SERIES = (CLEAN, "#e69f00", "#009e73", "#cc79a7", FLAGGED, "#56b4e9", INK, MUTED)

LABELS = {
    "x": "x [pix]",
    "y": "y [pix]",
    "mag": "mag",
    "r_eff": "r_eff [pix]",
    "n": "n",
    "q": "q",
    "pa": "pa [deg]",
}


def plain(axis: Axes) -> None:
    """Give an axis a faint grid and no box."""
    axis.tick_params(labelsize=8, colors=MUTED)
    axis.grid(color=FAINT, lw=0.5, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)
