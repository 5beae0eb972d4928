"""Simulation: galaxies, PSFs, contaminants and noise."""
