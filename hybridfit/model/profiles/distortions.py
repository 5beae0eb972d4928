"""What distorts the isophotes of a radial profile, and the parameters of it, as in GALFIT 3.

The names of distorted profiles list the distortions: ``sersic~c0~f1~f3~b2~power``.

    c0         boxiness
    f1, f2...  azimuthal Fourier modes of the radius
    b1, b2...  bending modes of the major axis
    power, log rotation by an angle that depends on the radius: spiral arms
    outer      truncation from outside; inner from inside
    outer_r, inner_r  the same with GALFIT's radii of 99 and 1 per cent on the other sides
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hybridfit.model.prior import LogNormal, Normal
from hybridfit.model.profiles.base import ShapeParameter
from hybridfit.model.profiles.boxy import C0

SEPARATOR = "~"
TERM = re.compile(r"(f|b)([1-9]\d*)")
ROTATIONS = ("power", "log")
TRUNCATIONS = ("inner", "inner_r", "outer", "outer_r")
EXPECTED = f"expected c0, f1, f2..., b1, b2..., power, log, {', '.join(TRUNCATIONS)}"


@dataclass(frozen=True)
class Distortions:
    """The distortions of one component.

    Args:
        boxy: whether isophotes are generalised ellipses.
        fourier: numbers of the azimuthal Fourier modes.
        bending: numbers of the bending modes.
        rotation: "power", "log", or "" for none.
        truncations: none, or an inner one, an outer one or both.
    """

    boxy: bool = False
    fourier: tuple[int, ...] = ()
    bending: tuple[int, ...] = ()
    rotation: str = ""
    truncations: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """What the name of the profile ends with: ``~f1~f3``."""
        terms = ["c0"] if self.boxy else []
        terms += [f"f{m}" for m in self.fourier] + [f"b{m}" for m in self.bending]
        terms += [self.rotation] if self.rotation else []
        terms += self.truncations
        return "".join(f"{SEPARATOR}{term}" for term in terms)

    @cached_property
    def parameters(self) -> tuple[ShapeParameter, ...]:
        """The parameters of all distortions."""
        own = [C0] if self.boxy else []
        for m in self.fourier:
            own += [_amplitude(m), _phase(m)]
        own += [_bend(m) for m in self.bending]
        if self.rotation:
            own += [ROT_IN, ROT_OUT, ROT_ANGLE]
            own += [ROT_POWER if self.rotation == "power" else ROT_SCALE, ROT_INCL, ROT_PA]
        for kind in self.truncations:
            own += _truncation(side_of(kind))
        return tuple(own)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of `parameters`."""
        return tuple(parameter.name for parameter in self.parameters)


def distortions_of(name: str, terms: Sequence[str]) -> Distortions:
    """Return the distortions that the name of a profile lists.

    Raises:
        ValueError: for a term that is not known, and for one that is listed twice.
    """
    modes: dict[str, list[int]] = {"f": [], "b": []}
    rotation, truncations = "", [term for term in TRUNCATIONS if term in terms]
    for k, term in enumerate(terms):
        match = TERM.fullmatch(term)
        sides = [side_of(t) for t in terms[:k] if t in TRUNCATIONS]
        twice = term in TRUNCATIONS and side_of(term) in sides
        if twice or term in terms[:k] or (term in ROTATIONS and rotation):
            raise ValueError(f"profile '{name}' has '{term}' after another one: leave out one")
        if match:
            modes[match[1]].append(int(match[2]))
        elif term in ROTATIONS:
            rotation = term
        elif term != "c0" and term not in TRUNCATIONS:
            raise ValueError(f"profile '{name}' has the distortion '{term}': {EXPECTED}")
    fourier, bending = (tuple(sorted(modes[letter])) for letter in "fb")
    return Distortions("c0" in terms, fourier, bending, rotation, tuple(truncations))


def side_of(truncation: str) -> str:
    """Return "inner" or "outer"."""
    return truncation.partition("_")[0]


def _amplitude(m: int) -> ShapeParameter:
    text = f"amplitude of Fourier mode {m}, over the radius"
    return ShapeParameter(f"f{m}_amp", "", text, Normal(0.0, 0.3, -0.99, 0.99))


def _phase(m: int) -> ShapeParameter:
    text = f"phase of Fourier mode {m}, from +y towards -x"
    return ShapeParameter(f"f{m}_phase", "deg", text, Normal(0.0, 180.0))


def _bend(m: int) -> ShapeParameter:
    text = f"bending mode {m}: shift of the major axis at r_eff"
    return ShapeParameter(f"b{m}", "pix", text, Normal(0.0, 5.0))


def _truncation(side: str) -> list[ShapeParameter]:
    first, second = (
        ("break radius: 99 % of the light is left there", LogNormal(10.0, 1.5, 0.1, 1e4)),
        ("distance from there to where 1 % is left", LogNormal(5.0, 1.5, 0.05, 1e4)),
    )
    return [
        ShapeParameter(f"{side}_break", "pix", f"{side} truncation: {first[0]}", first[1]),
        ShapeParameter(f"{side}_soft", "pix", f"{side} truncation: {second[0]}", second[1]),
    ]


ROT_IN = ShapeParameter("rot_in", "pix", "radius of the bar", Normal(0.0, 50.0))
ROT_OUT = ShapeParameter(
    "rot_out", "pix", "radius of the outer end of the winding", LogNormal(20.0, 1.5, 0.1, 1e4)
)
ROT_ANGLE = ShapeParameter(
    "rot_angle", "deg", "rotation at rot_out, anticlockwise", Normal(0.0, 720.0)
)
ROT_POWER = ShapeParameter(
    "rot_power", "", "power of the radius in the rotation far out", Normal(0.5, 3.0)
)
ROT_SCALE = ShapeParameter(
    "rot_scale", "pix", "scale radius of logarithmic winding", LogNormal(10.0, 1.5, 0.01, 1e5)
)
ROT_INCL = ShapeParameter(
    "rot_incl", "deg", "inclination of the disk of the arms", Normal(0.0, 60.0, -89.0, 89.0)
)
ROT_PA = ShapeParameter(
    "rot_pa", "deg", "position angle on the sky of that disk, as in GALFIT", Normal(0.0, 180.0)
)
