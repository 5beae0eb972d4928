"""Limits of the detection that options name, importable without what detects."""

from __future__ import annotations

# of whole images, where every faint source counts: a few per cent of the sources are noise
FAINTER = 4.7
THRESHOLD = 5.5  # of the filtered noise: one false source in some 100 cutouts of 128 x 128
