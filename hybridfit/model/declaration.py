"""Models as users write them: names of presets and profiles, YAML files, mappings.

    sersic | bulge+disk | sersic+point | sersic+exponential | my_module:MyProfile | model.yaml

A file names the components and says of their parameters what is not simply free. Components that
are called 1, 2... have no names. Components belong to one source unless they say which
(``source: 2``).

    components:
      bulge:
        profile: sersic
        n: {start: 3, prior: {median: 3, sigma: 0.5, low: 0.5, high: 8}}
      disk:
        profile: exponential
        x: {tied: bulge.x}
        y: {tied: bulge.y}
        r_eff: {bounds: [0.5, 60]}
        q: {fixed: 0.8}
    sky: constant
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from hybridfit.model.prior import Distribution, LogNormal, Normal, Uniform
from hybridfit.model.profiles import PROFILES
from hybridfit.model.profiles.distortions import SEPARATOR
from hybridfit.model.scene import (
    SUMS,
    UNBOUNDED,
    Component,
    Parameter,
    Scene,
    Sky,
    Source,
    Tie,
    equal,
    nearest,
    ratio,
)
from hybridfit.options.checks import checked, described
from hybridfit.options.yaml_options import load_yaml, parse_yaml

KEYS = ("start", "fixed", "prior", "tied", "ratio", "offset", "bounds")
PRIORS: dict[frozenset[str], type[LogNormal | Normal | Uniform]] = {
    frozenset({"median", "sigma", "low", "high"}): LogNormal,
    frozenset({"mean", "sigma"}): Normal,
    frozenset({"mean", "sigma", "low", "high"}): Normal,
    frozenset({"low", "high"}): Uniform,
}
SAME_CENTRE = ("x", "y")


# pseudobulges have n = 1.7 +- 0.6, classical ones 3.5 +- 0.6 (Fisher & Drory 2008, AJ 136, 773)
BULGE_N = LogNormal(2.4, 0.6, 0.4, 8.0)
# A disk's half-light radius is 1.68 scale lengths h. Of the bulge's radius, r_eff / h is about 0.2
# in spirals of all types, with a scatter of a factor of 2 (Graham & Worley 2008, MNRAS 388, 1708),
# and several times that in fits of large samples with early types (Allen et al. 2006, MNRAS 371, 2;
# Simard et al. 2011, ApJS 196, 11): 0.12 to 0.6 of the disk's radius. What is larger than the
# disk is no bulge (Allen et al.: such fits describe an elliptical, or the roles are swapped).
BULGE_TO_DISK = LogNormal(0.25, 0.8, 0.01, 1.0)


# Bulges are thick: of those with intrinsic axis ratios of 0.65 +- 0.15 half have q above 0.7 to 0.8
# (Mendez-Abreu et al. 2010, A&A 521, A71). Disks of thickness 0.2 at random inclinations have q
# nearly uniform from 0.2 to 1, with a median of 0.6.
BULGE_Q_SCALE, DISK_Q_SCALE = 0.4, 0.6


def _concentric(first: Component, second: Component) -> Scene:
    """Return two components of one centre."""
    tied = {axis: Parameter(tied=equal(f"{first.name}.{axis}")) for axis in SAME_CENTRE}
    return Scene((Source((first, replace(second, parameters=tied))),))


def _bulge() -> Component:
    """Return a bulge that is smaller than the disk."""
    size = Parameter(tied=ratio("disk.r_eff", prior=BULGE_TO_DISK))
    parameters = {"r_eff": size, "n": Parameter(prior=BULGE_N)}
    return Component("bulge", "sersic", parameters, {"q_scale": BULGE_Q_SCALE})


PRESETS: dict[str, Scene] = {
    "bulge+disk": _concentric(
        _bulge(), Component("disk", "exponential", prior={"q_scale": DISK_Q_SCALE})
    ),
    "sersic+point": _concentric(Component("galaxy", "sersic"), Component("nucleus", "point")),
}


def declared_scene(model: str | Sequence[str] | Mapping[str, Any] | Scene) -> Scene:
    """Return the scene of a model as a user writes it.

    Args:
        model: the name of a preset or profile, profiles joined by "+", the path of a YAML file,
            what such a file contains, or a scene.

    Raises:
        ValueError: for what is none of these; it names what was expected.
        FileNotFoundError: if a YAML file does not exist.
    """
    if isinstance(model, Scene):
        return model
    if isinstance(model, Mapping) and "components" in model:
        return _scene_of(model, "model")
    if isinstance(model, str) and model in PRESETS:
        return PRESETS[model]
    if isinstance(model, str) and model.endswith((".yaml", ".yml")):
        return _scene_of(load_yaml(model), model)
    if isinstance(model, str) and model.startswith("{"):
        return _scene_of(parse_yaml(model, "model"), "model")
    if not isinstance(model, str) and not (
        isinstance(model, Sequence) and model and all(isinstance(part, str) for part in model)
    ):
        raise ValueError(
            f"model is {described(model)}, expected a profile's name, profiles joined by '+', a "
            "YAML file or a Scene"
        )
    profiles = model.replace(",", "+").split("+") if isinstance(model, str) else list(model)
    _check_preset(profiles)
    if len(profiles) == 1:
        return Scene((Source((Component(profile=profiles[0]),)),))
    names = _names_of(profiles)
    components = [Component(n, p) for n, p in zip(names, profiles, strict=True)]
    return Scene((Source(tuple(components)),))


def _check_preset(profiles: Sequence[str]) -> None:
    """Raise ValueError where profiles that are not known look like a preset."""
    text = "+".join(profiles)
    close = get_close_matches(text, PRESETS, n=1, cutoff=0.75)
    unknown = [p for p in profiles if p not in PROFILES and ":" not in p]
    if close and unknown:
        raise ValueError(f"unknown model '{text}': did you mean '{close[0]}'?")


def profile_names(model: Any) -> list[str]:
    """Return the profiles that a call names itself, in no file: modules of these are imported."""
    if isinstance(model, str) and model.endswith((".yaml", ".yml")):
        return []
    try:
        return [component.profile for component in declared_scene(model).components]
    except ValueError:  # which the options will say
        return []


def _names_of(profiles: Sequence[str]) -> list[str]:
    """Return a name for each profile: its own, numbered where it occurs more than once."""
    own = [
        profile.partition(SEPARATOR)[0].rpartition(":")[2].lower().replace("-", "_")
        for profile in profiles
    ]
    return [
        f"{name}{own[: k + 1].count(name)}" if own.count(name) > 1 else name
        for k, name in enumerate(own)
    ]


def _scene_of(given: Any, where: str) -> Scene:
    """Return the scene of a YAML file's content."""
    checked(where, given, Mapping)
    _check_keys(given, ("components", "sky"), where)
    parts = checked(f"{where}: components", given.get("components"), Mapping)
    numbered = [str(name) for name in parts] == [str(k) for k in range(1, len(parts) + 1)]
    components = tuple(
        _component("" if numbered else str(name), content, where) for name, content in parts.items()
    )
    numbers = [
        checked(f"{where}: {name}.source", content.get("source", 1), int)
        if isinstance(content, Mapping)
        else 1
        for name, content in parts.items()
    ]
    sources = [
        Source(tuple(c for c, own in zip(components, numbers, strict=True) if own == number))
        for number in sorted(set(numbers))
    ]
    return Scene(tuple(sources), _sky(given.get("sky", "constant"), where))


def _component(name: str, given: Any, where: str) -> Component:
    if isinstance(given, str):
        return Component(name, given)
    checked(f"{where}: {name}", given, Mapping)
    profile = checked(f"{where}: {name}.profile", given.get("profile", "sersic"), str)
    values = {
        str(key): _parameter(value, f"{where}: {name}.{key}")
        for key, value in given.items()
        if key not in ("profile", "source", "prior")
    }
    prior = checked(f"{where}: {name}.prior", given.get("prior", {}), Mapping)
    try:
        return Component(name, profile, values, prior)
    except ValueError as error:
        raise ValueError(f"{where}: {name}: {error}") from None


def _sky(given: Any, where: str) -> Sky:
    if isinstance(given, str):
        return Sky(given)
    checked(f"{where}: sky", given, Mapping)
    kind = checked(f"{where}: sky.kind", given.get("kind", "constant"), str)
    values = {
        str(key): _parameter(value, f"{where}: sky.{key}")
        for key, value in given.items()
        if key != "kind"
    }
    return Sky(kind, values)


def _parameter(given: Any, where: str) -> Parameter:
    """Return a parameter: a number is its initial value, a mapping says more."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return Parameter(float(given))
    checked(where, given, Mapping)
    _check_keys(given, KEYS, where)
    fixed = given.get("fixed", False)
    start = given.get("start")
    if not isinstance(fixed, bool):
        start, fixed = fixed, True
    bounds = tuple(given.get("bounds", UNBOUNDED))
    if len(bounds) != 2:
        raise ValueError(f"{where}.bounds has {len(bounds)} values, expected [lower, upper]")
    low, high = (_number(v, d, f"{where}.bounds") for v, d in zip(bounds, UNBOUNDED, strict=True))
    try:
        return Parameter(
            None if start is None else _number(start, math.nan, f"{where}.start"),
            _prior(given["prior"], f"{where}.prior") if "prior" in given else None,
            fixed,
            _tie(given, where) if "tied" in given else None,
            (low, high),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _number(value: Any, default: float, where: str) -> float:
    return default if value is None else float(checked(where, value, float))


def _tie(given: Mapping[str, Any], where: str) -> Tie:
    others = given["tied"]
    if isinstance(others, str):
        others = {others: 1.0}
    checked(f"{where}.tied", others, Mapping)
    values: dict[str, Any] = {}
    for key in ("offset", "ratio"):
        number = given.get(key, 0.0 if key == "offset" else 1.0)
        if isinstance(number, Mapping):
            values["prior"] = _prior(number, f"{where}.{key}")
        elif isinstance(number, list):
            values["bounds"] = tuple(float(v) for v in number)
        else:
            values[key] = math.nan if number == "start" else float(number)
    return Tie({str(k): float(v) for k, v in others.items()}, **values)


def _prior(given: Any, where: str) -> Distribution:
    """Return the prior that a mapping says; ``where`` is its place for messages."""
    checked(where, given, Mapping)
    kind = PRIORS.get(frozenset(given))
    if kind is None:
        raise ValueError(
            f"{where} has {', '.join(map(str, given))}: expected median, sigma, low and high "
            "(log-normal), mean and sigma (normal), or low and high (uniform)"
        )
    return kind(**given)


def _check_keys(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"{where} has no '{key}': {nearest(str(key), list(known))}")


def scene_mapping(scene: Scene) -> dict[str, Any]:
    """Return a scene as the content of a YAML file, the inverse of `declared_scene`."""
    numbers = [k for k, source in enumerate(scene.sources, start=1) for _ in source.components]
    components: dict[str, dict[str, Any]] = {}
    for k, (component, number) in enumerate(zip(scene.components, numbers, strict=True), start=1):
        own = {name: _content(value, name) for name, value in component.parameters.items()}
        of = {"source": number} if number > 1 else {}
        prior = {"prior": _plain(component.prior)} if component.prior else {}
        content = {"profile": component.profile, **of, **prior, **own}
        components[component.name or str(k)] = content
    sky = {"kind": scene.sky.kind} | {k: _content(v, k) for k, v in scene.sky.parameters.items()}
    return {"components": components, "sky": sky if len(sky) > 1 else scene.sky.kind}


def _content(value: Parameter, name: str) -> dict[str, Any]:
    """Return what a YAML file says of a parameter."""
    content: dict[str, Any] = {}
    if value.start is not None:
        content["fixed" if value.fixed else "start"] = value.start
    elif value.fixed:
        content["fixed"] = True
    if value.prior is not None:
        content["prior"] = _prior_content(value.prior)
    if value.is_bounded:
        content["bounds"] = [v if math.isfinite(v) else None for v in value.bounds]
    if value.tied is not None:
        content |= _tie_content(value.tied, "offset" if name in SUMS else "ratio")
    return content


def _plain(prior: Mapping[str, Any]) -> dict[str, Any]:
    return {k: vars(v) if isinstance(v, LogNormal) else v for k, v in prior.items()}


def _prior_content(prior: Distribution) -> dict[str, float]:
    return {k: v for k, v in vars(prior).items() if math.isfinite(v)}


def _tie_content(tie: Tie, constant: str) -> dict[str, Any]:
    """Return what a YAML file says of a tie, whose ``constant`` is "offset" or "ratio"."""
    others = dict(tie.factors)
    single = [*others.values()] == [1.0]
    content: dict[str, Any] = {"tied": next(iter(others)) if single else others}
    for key, default in (("offset", 0.0), ("ratio", 1.0)):
        value = getattr(tie, key)
        if value != default:
            content[key] = "start" if math.isnan(value) else value
    if tie.bounds is not None:
        content[constant] = list(tie.bounds)
    if tie.prior is not None:
        content[constant] = _prior_content(tie.prior)
    return content
