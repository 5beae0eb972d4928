"""Profiles: surface brightness for unit flux as a function of elliptical radius.

A new profile is one class with its shape parameters and one method, ``evaluate``.
"""

from hybridfit.model.profiles.base import LEAST_EXPONENT, NativeScale, Profile, ShapeParameter
from hybridfit.model.profiles.boxy import Boxy
from hybridfit.model.profiles.check import check_profile
from hybridfit.model.profiles.distorted import Distorted
from hybridfit.model.profiles.distortions import Distortions
from hybridfit.model.profiles.edge_on import EdgeOnDisk
from hybridfit.model.profiles.point import PointSource
from hybridfit.model.profiles.registry import (
    PROFILES,
    find_profile,
    import_profiles,
    register_profile,
)
from hybridfit.model.profiles.sersic import DeVaucouleurs, Exponential, Sersic

__all__ = [
    "LEAST_EXPONENT",
    "PROFILES",
    "Boxy",
    "DeVaucouleurs",
    "Distorted",
    "Distortions",
    "EdgeOnDisk",
    "Exponential",
    "NativeScale",
    "PointSource",
    "Profile",
    "Sersic",
    "ShapeParameter",
    "check_profile",
    "find_profile",
    "import_profiles",
    "register_profile",
]
