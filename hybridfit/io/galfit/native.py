"""GALFIT's kinds of components as our profiles, and their scales as half-light radii, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.io.galfit.conventions import FAMILY, NATIVE
from hybridfit.io.galfit.entries import Component, Value
from hybridfit.io.galfit.shapes import distortions_in
from hybridfit.model.profiles import find_profile
from hybridfit.model.profiles.distortions import SEPARATOR, Distortions

PROFILES = {"psf": "point", "moffat": "moffat", "ferrer": "ferrers", "king": "king"}
PROFILES |= {"edgedisk": "edge_on", "nuker": "nuker"} | dict.fromkeys(FAMILY, "sersic")
KINDS = {  # of profiles that are not asked for by an input file
    "sersic": "sersic",
    "boxy_sersic": "sersic",
    "exponential": "expdisk",
    "boxy_exponential": "expdisk",
    "devaucouleurs": "devauc",
    "gaussian": "gaussian",
    "point": "psf",
    "moffat": "moffat",
    "ferrers": "ferrer",
    "king": "king",
    "edge_on": "edgedisk",
    "nuker": "nuker",
}
# parameters of our profiles -> what GALFIT has in their place
SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "moffat": {"r_eff": ("fwhm", "beta")},
    "ferrer": {
        "r_eff": ("r_out", "alpha", "beta"),
        "mag": ("mu", "r_out", "alpha", "beta", "q"),
    },
    "king": {
        "r_eff": ("r_c", "r_t", "alpha"),
        "concentration": ("r_c", "r_t"),
        "mag": ("mu", "r_c", "r_t", "alpha", "q"),
    },
    "nuker": {"r_eff": ("r_b",), "mag": ("mu", "r_b", "q")},
    "edgedisk": {"r_eff": ("r_s",), "q": ("h_s", "r_s"), "mag": ("mu", "h_s", "r_s")},
}
# GALFIT's scales -> the parameters of ours that they depend on
DEPENDS: dict[str, dict[str, tuple[str, ...]]] = {
    "moffat": {"fwhm": ("r_eff", "beta")},
    "ferrer": {"r_out": ("r_eff", "alpha", "beta"), "mu": ("mag", "r_eff", "alpha", "beta", "q")},
    "king": {
        "r_c": ("r_eff", "alpha", "concentration"),
        "r_t": ("r_eff", "alpha", "concentration"),
        "mu": ("mag", "r_eff", "alpha", "concentration", "q"),
    },
    "nuker": {"r_b": ("r_eff",), "mu": ("mag", "r_eff", "q")},
    "edgedisk": {"r_s": ("r_eff",), "h_s": ("r_eff", "q"), "mu": ("mag", "r_eff", "q")},
}
STEP = 1e-5  # of finite differences, relative


def profile_of(part: Component) -> str | None:
    """Return the name of the profile that a component is; None if there is none."""
    return _profile_named(part.kind, part.values)


def _profile_named(kind: str, values: Iterable[str]) -> str | None:
    """Return the name of the profile of a kind whose values have these names."""
    profile, distortions = PROFILES.get(kind), distortions_in(values)
    if profile is None or not distortions.parameters:
        return profile
    if distortions == Distortions(boxy=True) and profile == "sersic":
        return "boxy_exponential" if kind == "expdisk" else "boxy_sersic"
    return f"{profile}{distortions.suffix}" if find_profile(profile).is_radial else None


def kind_of(profile: str) -> str:
    """Return GALFIT's kind of a profile; "other" if it has none."""
    return KINDS.get(profile.partition(SEPARATOR)[0], "other")


def parameters_of(part: Component, area: float) -> dict[str, Value]:
    """Return the parameters of our profile of a component, by their names.

    A parameter is fixed where all numbers of GALFIT's that it depends on are.

    Args:
        part: of a kind that has a profile.
        area: of a pixel, in the unit of area of GALFIT's surface brightness, arcsec^2.
    """
    values = part.values
    if part.kind in FAMILY:
        shape = find_profile(profile_of(part) or "sersic").shape
        return {n: values[n] for n in ("x", "y", "mag", "r_eff", *shape, "q", "pa")}
    if part.kind not in SOURCES:
        return dict(values)
    profile = find_profile(profile_of(part) or PROFILES[part.kind])
    native = {name: torch.tensor([v.value], dtype=torch.float64) for name, v in values.items()}
    own = {**native, **profile.from_native(native)}
    own |= _bends(part.kind, own, own, 1)
    found = {name: float(own[name]) for name in ("r_eff", *profile.shape, "q")}
    if "mu" in values:
        centre = float(profile.central_brightness(own))
        found["mag"] = values["mu"].value + 2.5 * _log10(centre / area)
    else:
        found["mag"] = values["mag"].value
    order = ("x", "y", "mag", "r_eff", *profile.shape, "q", "pa")
    sources = SOURCES[part.kind]
    return {
        name: Value(
            found.get(name, values[name].value if name in values else math.nan),
            fixed=all(values[n].fixed for n in sources.get(name, (name,))),
        )
        for name in order
    }


def errors_of(part: Component, area: float) -> dict[str, float]:
    """Return the standard deviations of `parameters_of`, as of independent errors; NaN if unknown.

    Args:
        part, area: as there.
    """
    found = parameters_of(part, area)
    if part.kind not in SOURCES:
        return {name: value.error for name, value in found.items()}
    sources = SOURCES[part.kind]
    errors = {}
    for name in found:
        if name not in sources:
            errors[name] = part.values[name].error
            continue
        steps = [_step(part, area, source, name) for source in sources[name]]
        errors[name] = math.sqrt(math.fsum(step**2 for step in steps))
    return errors


def _step(part: Component, area: float, source: str, name: str) -> float:
    """Return what a parameter of ours changes by if one of GALFIT's numbers does by its error."""
    value = part.values[source]
    if value.fixed:
        return 0.0
    step = STEP * max(abs(value.value), STEP)
    ends = [
        parameters_of(
            replace(part, values={**part.values, source: replace(value, value=value.value + move)}),
            area,
        )[name].value
        for move in (step, -step)
    ]
    return (ends[0] - ends[1]) / (2 * step) * value.error


def not_kept(part: Component, fixed: Mapping[str, bool]) -> list[str]:
    """Return GALFIT's scales that a file fixes and that no fixed parameter of ours keeps.

    Args:
        part: the component.
        fixed: for each parameter of our profile, whether it is.
    """
    depends = DEPENDS.get(part.kind, {})
    return [
        name
        for name, value in part.values.items()
        if value.fixed and name in depends and not all(fixed[n] for n in depends[name])
    ]


def native_numbers(kind: str, values: Mapping[str, Tensor], area: float) -> dict[str, Tensor]:
    """Return the numbers of a component under GALFIT's names.

    Args:
        kind: GALFIT's; an unknown one keeps our names.
        values: (B,) each, by the names of our profile's parameters.
        area: see `parameters_of`.
    """
    if kind in FAMILY:
        index = FAMILY[kind][1]
        own = {} if index is None else {"n": torch.full_like(values["mag"], index)}
        return {**values, **own}
    if kind not in SOURCES:
        return dict(values)
    profile = find_profile(_profile_named(kind, values) or PROFILES[kind])
    given = {**values, **profile.native_scales(dict(values))}
    given |= _bends(kind, given, given, -1)
    if "mu" in DEPENDS[kind]:
        centre = profile.central_brightness(dict(values))
        given["mu"] = values["mag"] - 2.5 * torch.log10(centre / area)
    lost = {"r_eff", "concentration"} | ({"mag"} if "mu" in given else set())
    lost |= {"q"} if kind == "edgedisk" else set()
    return {name: value for name, value in given.items() if name not in lost}


def _bends(
    kind: str, numbers: Mapping[str, Tensor], scales: Mapping[str, Tensor], way: int
) -> dict[str, Tensor]:
    """Return bending modes at r_eff of those at GALFIT's scale, or back where ``way`` is -1."""
    size = next((name for name, row in NATIVE[kind].items() if row == "4"), "")
    return {
        f"b{m}": numbers[f"b{m}"] * (scales["r_eff"] / scales[size]) ** (way * m)
        for m in distortions_in(numbers).bending
    }


def native_component(
    kind: str, names: tuple[str, ...], theta: Tensor, covariance: Tensor, area: float
) -> dict[str, tuple[float, float]]:
    """Return values of a component under GALFIT's names with their standard deviations.

    Args:
        kind: GALFIT's; an unknown one keeps our names.
        names: of our profile's parameters.
        theta: (P,) their values, float64.
        covariance: (P, P) of them.
        area: see `parameters_of`.
    """
    step = STEP * theta.abs().clamp_min(STEP)
    ahead, behind = theta + torch.diag(step), theta - torch.diag(step)
    points = torch.cat([theta[None], ahead, behind])
    found = native_numbers(kind, dict(zip(names, points.unbind(1), strict=True)), area)
    n = len(names)
    result = {}
    for name, value in found.items():
        slope = (value[1 : n + 1] - value[n + 1 :]) / (2 * step)
        slope = slope if name not in names else _own_slope(names, name, theta)
        variance = float(slope @ covariance @ slope)
        result[name] = float(value[0]), math.sqrt(variance) if variance > 0 else variance
    return result


def _own_slope(names: tuple[str, ...], name: str, theta: Tensor) -> Tensor:
    slope = torch.zeros_like(theta)
    slope[names.index(name)] = 1.0
    return slope


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan
