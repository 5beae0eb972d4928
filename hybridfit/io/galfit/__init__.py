"""GALFIT's files, read and written: the only code that counts pixels from 1."""

from hybridfit.io.galfit.entries import Component, Feedme, GalfitError, Outcome, Value
from hybridfit.io.galfit.header import model_header

__all__ = ["Component", "Feedme", "GalfitError", "Outcome", "Value", "model_header"]
