"""GALFIT input files and their constraint files as scenes.

Each component is a source of its own: those of a file may be parts of one galaxy or several ones.
GALFIT's scales become half-light radii, and its central surface brightness a total magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hybridfit.io.galfit import Component as Part
from hybridfit.io.galfit import Constraint, Feedme, GalfitError, read_constraints, start_ranges
from hybridfit.io.galfit.native import not_kept, parameters_of, profile_of
from hybridfit.io.galfit.read_cutout import locate
from hybridfit.model.parameters import SKY_NAMES
from hybridfit.model.prior import Normal
from hybridfit.model.profiles import find_profile
from hybridfit.model.scene import Component, Parameter, Scene, Sky, Source
from hybridfit.pipeline.galfit.ties import Labels, tied, within

TINY = 1e-3  # of a parameter beyond its prior
POSITIVE = ("r_eff", "n", "q", "alpha", "concentration", "gamma", "rot_out", "rot_scale")


@dataclass(frozen=True)
class Compiled:
    """What a file asks for.

    Args:
        scene: in pixels of its image.
        unexpressed: constraints that no scene expresses; they are checked after the fit.
        notes: what is done in another way than the file asks for.
    """

    scene: Scene
    unexpressed: tuple[Constraint, ...] = ()
    notes: tuple[str, ...] = ()


def scene_of(feedme: Feedme, named: bool = False) -> Compiled:
    """Return what a file asks for as a scene.

    Args:
        feedme: with components that have profiles.
        named: whether the components are called comp1, comp2...

    Raises:
        GalfitError: if a fixed value is not readable, or a constraint names what is not fitted.
    """
    parts = feedme.components
    values = [free_values(feedme, part) for part in parts]
    labels = Labels(feedme, named)
    notes = [note for k, part in enumerate(parts) for note in _lost_toggles(part, values[k], k)]
    unexpressed = []
    constraints = _constraints(feedme)
    ranges = start_ranges(feedme, constraints)
    for k, own in enumerate(ranges):
        for name, limits in own.items():
            if not within(values, labels, k, name, limits):
                unexpressed += [c for c in constraints if _is_range_of(c, feedme, k, name)]
    for tie in (c for c in constraints if c.is_tie):
        if not tied(values, labels, tie):
            unexpressed.append(tie)
    components = [
        Component(labels.own(k), profile_of(part) or "", values[k])
        for k, part in enumerate(parts)
        if part.kind != "sky"
    ]
    sky, sky_notes = _sky(feedme)
    scene = Scene(tuple(Source((component,)) for component in components), Sky("plane", sky))
    notes += [*sky_notes, *_scale_note(feedme)]
    return Compiled(scene, tuple(dict.fromkeys(unexpressed)), tuple(notes))


def free_values(feedme: Feedme, part: Part) -> dict[str, Parameter]:
    """Return the parameters of a component as they stand in the input file.

    Raises:
        GalfitError: if a fixed value is not readable.
    """
    if part.kind == "sky":
        return {}
    own = {}
    priors = {p.name: p.prior for p in find_profile(profile_of(part) or "").shape_parameters}
    for name, value in parameters_of(part, feedme.pixel_area).items():
        usable = math.isfinite(value.value) and not (name in POSITIVE and value.value <= 0)
        if value.fixed and not usable:
            raise GalfitError(feedme.path, None, f"{name} is fixed, but has no readable value")
        prior = _about(priors.get(name), value.value) if usable and not value.fixed else None
        own[name] = Parameter(value.value if usable else None, prior, value.fixed)
    return own


def _about(prior: object, start: float) -> Normal | None:
    """Return a normal prior about the value in the file; None where the prior is another."""
    if not isinstance(prior, Normal):
        return None
    low, high = min(prior.low, start - TINY), max(prior.high, start + TINY)
    return Normal(start, prior.sigma, low, high)


def _scale_note(feedme: Feedme) -> list[str]:
    """Return a note where a surface brightness needs a pixel scale that the file does not give."""
    known = abs(feedme.pixel_scale[0] * feedme.pixel_scale[1]) > 0
    if known or not any("mu" in part.values for part in feedme.components):
        return []
    return ["row K) has no pixel scale: surface brightness is taken as mag / pix^2"]


def _lost_toggles(part: Part, own: Mapping[str, Parameter], k: int) -> list[str]:
    if part.kind == "sky":
        return []
    lost = not_kept(part, {name: value.fixed for name, value in own.items()})
    if not lost:
        return []
    names = " and ".join(lost)
    return [f"{names} of component {k + 1} ({part.kind}) cannot be fixed on its own and was fitted"]


def _sky(feedme: Feedme) -> tuple[Mapping[str, Parameter], list[str]]:
    """Return level and slopes of all skies together; without one GALFIT's sky is 0."""
    skies = [part for part in feedme.components if part.kind == "sky"]
    found = {}
    for name in SKY_NAMES["plane"]:
        values = [part.values[name] for part in skies]
        known = all(math.isfinite(value.value) for value in values)
        fixed = all(value.fixed for value in values)
        if fixed and not known:
            raise GalfitError(feedme.path, None, f"{name} is fixed, but has no readable value")
        start = math.fsum(value.value for value in values) if known else None
        found[name] = Parameter(start, fixed=fixed)
    notes = [f"{len(skies)} skies were added up"] if len(skies) > 1 else []
    return found, notes


def _constraints(feedme: Feedme) -> tuple[Constraint, ...]:
    if not feedme.constraints:
        return ()
    return read_constraints(locate(feedme, "G", feedme.constraints))


def _is_range_of(constraint: Constraint, feedme: Feedme, k: int, name: str) -> bool:
    own = k in constraint.components and not constraint.is_tie
    return own and constraint.name(feedme.components[k].kind) == name
