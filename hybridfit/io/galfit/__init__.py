"""Read and write GALFIT's files: the only code that counts pixels from 1."""

from hybridfit.io.galfit.block import read_block
from hybridfit.io.galfit.constraints import Constraint, read_constraints, start_ranges
from hybridfit.io.galfit.entries import Component, Feedme, GalfitError, Outcome, Value
from hybridfit.io.galfit.feedme import read_feedme
from hybridfit.io.galfit.find import find_feedmes
from hybridfit.io.galfit.header import model_header
from hybridfit.io.galfit.log import read_log
from hybridfit.io.galfit.outcomes import read_outcomes, read_restart
from hybridfit.io.galfit.read_cutout import read_feedme_cutout
from hybridfit.io.galfit.write import feedme_text, with_results, write_feedme

__all__ = [
    "Component",
    "Constraint",
    "Feedme",
    "GalfitError",
    "Outcome",
    "Value",
    "feedme_text",
    "find_feedmes",
    "model_header",
    "read_block",
    "read_constraints",
    "read_feedme",
    "read_feedme_cutout",
    "read_log",
    "read_outcomes",
    "read_restart",
    "start_ranges",
    "with_results",
    "write_feedme",
]
