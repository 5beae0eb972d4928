"""Rendering: PSF-convolved, pixel-integrated profiles and their Jacobian."""
