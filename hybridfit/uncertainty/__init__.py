"""Uncertainty: what the errors of a fit are made of."""
