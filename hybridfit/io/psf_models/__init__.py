"""Readers of PSFs that vary over an image."""
