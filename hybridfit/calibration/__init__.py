"""Calibration: whether posteriors are calibrated, and how sharp they are."""
