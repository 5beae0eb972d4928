"""Engines: how a run over many galaxies is cut in parts, computed and kept."""
