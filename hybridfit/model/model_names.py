"""Names of the models that networks are trained for."""

from __future__ import annotations

SERSIC_NAME = "sersic"
MODELS = (SERSIC_NAME, "bulge+disk")
