"""What others say of the same galaxies, in the project's conventions."""

from hybridfit.io.references.catalogue import NAMES, Catalogue
from hybridfit.io.references.options import KINDS, ReferenceOptions
from hybridfit.io.references.own import own_catalogue
from hybridfit.io.references.read import find_kind, read_reference

__all__ = [
    "KINDS",
    "NAMES",
    "Catalogue",
    "ReferenceOptions",
    "find_kind",
    "own_catalogue",
    "read_reference",
]
