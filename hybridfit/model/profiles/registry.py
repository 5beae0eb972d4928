"""Profiles by name: the table of those there are, and how to add and find one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module

from hybridfit.model.profiles.base import Profile
from hybridfit.model.profiles.boxy import BoxyExponential, BoxySersic
from hybridfit.model.profiles.broken_exponential import BrokenExponential
from hybridfit.model.profiles.check import check_profile
from hybridfit.model.profiles.core_sersic import CoreSersic
from hybridfit.model.profiles.distorted import Distorted
from hybridfit.model.profiles.distortions import SEPARATOR, distortions_of
from hybridfit.model.profiles.edge_on import EdgeOnDisk
from hybridfit.model.profiles.ferrers import Ferrers
from hybridfit.model.profiles.gaussian import Gaussian
from hybridfit.model.profiles.king import King
from hybridfit.model.profiles.moffat import Moffat
from hybridfit.model.profiles.nuker import Nuker
from hybridfit.model.profiles.point import PointSource
from hybridfit.model.profiles.sersic import DeVaucouleurs, Exponential, Sersic

PROFILES: dict[str, Callable[[], Profile]] = {
    "sersic": Sersic,
    "exponential": Exponential,
    "devaucouleurs": DeVaucouleurs,
    "gaussian": Gaussian,
    "moffat": Moffat,
    "ferrers": Ferrers,
    "king": King,
    "core_sersic": CoreSersic,
    "broken_exponential": BrokenExponential,
    "nuker": Nuker,
    "point": PointSource,
    "edge_on": EdgeOnDisk,
    "boxy_sersic": BoxySersic,
    "boxy_exponential": BoxyExponential,
}


def register_profile(name: str, profile_class: type[Profile]) -> None:
    """Make a profile known by a name, for this process.

    Args:
        name: a word; letters, digits and underscores.
        profile_class: a subclass of `Profile` that is created without arguments.

    Raises:
        ValueError: if the name is no word or already that of another profile, or if the profile
            fails `check_profile`.
        TypeError: if the class is no subclass of `Profile`.
    """
    if not name.isidentifier():
        raise ValueError(f"profile name '{name}': expected letters, digits and underscores")
    if not (isinstance(profile_class, type) and issubclass(profile_class, Profile)):
        raise TypeError(f"expected a subclass of Profile for '{name}', got {profile_class!r}")
    if PROFILES.get(name, profile_class) is not profile_class:
        raise ValueError(f"profile '{name}' exists already: choose another name")
    check_profile(name, profile_class())
    PROFILES[name] = profile_class


def find_profile(name: str) -> Profile:
    """Return the profile of that name, or the class named by ``my_module:MyProfile``.

    Either may be followed by distortions: ``sersic~f1~f3``.

    This never imports a module, as the name may come from a table or a settings file of someone
    else: the user must import it (`import_profiles`, ``--allow-import``).

    Raises:
        ValueError: if there is no such profile; the message lists the known ones.
    """
    if name in PROFILES:
        return PROFILES[name]()
    if SEPARATOR in name:
        plain, *terms = name.split(SEPARATOR)
        return Distorted(find_profile(plain), distortions_of(name, terms))
    module, colon, attribute = name.partition(":")
    if not colon:
        close = get_close_matches(name, PROFILES, n=1, cutoff=0.5)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        known = ", ".join(PROFILES)
        raise ValueError(
            f"unknown profile '{name}': expected {known}, or my_module:MyProfile{hint}"
        )
    if module not in sys.modules:
        raise ValueError(
            f"profile '{name}' is of a module that was not imported, and a name in a file imports "
            f"none: import {module} first, or on the command line say --allow-import {module}"
        )
    kind = getattr(sys.modules[module], attribute, None)
    if kind is None:
        raise ValueError(f"profile '{name}' cannot be found: '{module}' has no '{attribute}'")
    if not (isinstance(kind, type) and issubclass(kind, Profile)):  # checked before it is called
        raise ValueError(f"'{name}' is not a subclass of hybridfit.model.profiles.Profile")
    try:
        return kind()
    except TypeError as error:
        raise ValueError(f"profile '{name}' cannot be created: {error}") from error


def import_profiles(names: Iterable[str]) -> None:
    """Import the modules of profiles named by the user, e.g. ``my_module:MyProfile``.

    Raises:
        ValueError: if one cannot be imported.
    """
    for name in names:
        module, colon, _ = name.partition(SEPARATOR)[0].partition(":")
        if name in PROFILES or not colon:
            continue
        try:
            import_module(module)
        except (ImportError, TypeError, ValueError) as error:
            raise ValueError(f"profile '{name}' cannot be imported: {error}") from error
