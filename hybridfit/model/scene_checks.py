"""Checks of a scene's numbers: starts within priors, ties that agree with fixed values."""

from __future__ import annotations

import math

import torch

from hybridfit.model.compile import compile_scene, component_names
from hybridfit.model.layout import ComponentLayout
from hybridfit.model.prior import Prior
from hybridfit.model.scene import SUMS, Parameter, Scene, Tie

AGREE = 1e-6  # relative difference of values that count as equal


def check_scene(scene: Scene, prior: Prior) -> None:
    """Check the values that a user declared, before anything is fitted.

    Raises:
        ValueError: for a value that its parameter cannot have, a start outside of the prior, and a
            tie to fixed values that contradicts its own start, bounds or prior.
    """
    space = compile_scene(scene, prior)
    values: dict[str, Parameter] = {}
    for name, component, layout in zip(
        component_names(scene), scene.components, space.components, strict=True
    ):
        for parameter, value in component.parameters.items():
            full = f"{name}.{parameter}"
            values[full] = value
            if value.start is None:
                continue
            problem = value_problem(layout, parameter, value.start)
            if not problem and not value.fixed and value.prior is None:
                problem = _prior_problem(layout, parameter, value.start, layout.prior or prior)
            if problem:
                raise ValueError(f"the start of '{full}' is {value.start:g}, {problem}")
    sums = {
        f"{name}.{parameter}"
        for name, layout in zip(component_names(scene), space.components, strict=True)
        for parameter in (*SUMS, *layout.linear)
    }
    for full, value in values.items():
        _check_tie(full, value, values, sums)


def value_problem(layout: ComponentLayout, parameter: str, value: float) -> str:
    """Return why a parameter cannot have a value; "" if it can."""
    if not math.isfinite(value):
        return "expected a finite number"
    if parameter == "r_eff" and value <= 0:
        return "expected more than 0"
    if parameter == "q" and not 0 < value <= 1:
        return "expected more than 0 and at most 1"
    for shape in layout.shapes:
        coordinate = shape.coordinate(torch.tensor(value, dtype=torch.float64))
        if shape.name == parameter and not bool(torch.isfinite(coordinate)):
            side = "more" if shape.sign > 0 else "less"
            return f"expected {side} than {shape.shift:g}"
    return ""


def _prior_problem(layout: ComponentLayout, parameter: str, value: float, prior: Prior) -> str:
    """Return where a start lies outside of the prior that the fit uses; "" if it does not."""
    if parameter == "q":
        low, high = prior.q_min, 1.0
    elif parameter == "r_eff":
        low, high = prior.r_circ.low, prior.r_circ.high / math.sqrt(prior.q_min)
    elif parameter in layout.shape:
        shape = next(p for p in layout.shapes if p.name == parameter)
        own = layout.prior_of(parameter, prior)
        low, high = sorted(shape.of_prior(v) for v in (own.low, own.high))
    else:
        return ""
    return "" if low <= value <= high else f"outside of its prior, {low:g} to {high:g}"


def _check_tie(full: str, value: Parameter, values: dict[str, Parameter], sums: set[str]) -> None:
    """Raise ValueError if a parameter that fixed values determine was declared to be another."""
    if value.tied is None:
        return
    implied = _implied(full, value.tied, values, sums)
    if implied is None:
        return
    others = ", ".join(f"'{name}'" for name in value.tied.factors)
    where = f"'{full}' is tied to {others}, which makes it {implied:g}"
    if value.start is not None and not math.isclose(
        value.start, implied, rel_tol=AGREE, abs_tol=AGREE
    ):
        raise ValueError(f"{where}, but its start is {value.start:g}: leave out one of both")
    if not value.reaches(implied):
        raise ValueError(f"{where}, outside of its prior or bounds")


def _implied(full: str, tie: Tie, values: dict[str, Parameter], sums: set[str]) -> float | None:
    """Return the value that fixed parameters give a tied one; None if it is not determined."""
    if tie.is_free or math.isnan(tie.offset) or math.isnan(tie.ratio):
        return None
    others = []
    for name, factor in tie.factors.items():
        other = values.get(name, Parameter())
        if not other.fixed or other.start is None:
            return None
        others.append((other.start, factor))
    if full in sums:
        return tie.offset + sum(factor * start for start, factor in others)
    return tie.ratio * math.prod(start**factor for start, factor in others)
