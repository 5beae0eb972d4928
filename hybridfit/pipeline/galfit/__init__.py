"""Runs of existing GALFIT input files."""
