"""GALFIT's outputs as a `Catalogue`: image blocks, restart files and fit.log of a directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from hybridfit.io.galfit import Component, Outcome, Value
from hybridfit.io.galfit.conventions import FAMILY
from hybridfit.io.galfit.native import errors_of, parameters_of, profile_of
from hybridfit.io.references.catalogue import NAMES, Catalogue, canonical, grouped
from hybridfit.io.references.options import ReferenceOptions

LEVELS = 3  # number of parent folders that may bear the galaxy's name
SERIOUS = {"1", "2"}  # of GALFIT's flags: out of iterations, numerical trouble (``*..*``)


def outcomes_catalogue(
    outcomes: Sequence[Outcome], root: Path, options: ReferenceOptions
) -> Catalogue:
    """Convert GALFIT's results to a catalogue, one galaxy per run.

    A galaxy may have the name of its block, of a parent folder, or of its feedme; the matching
    determines which one. ``where`` may be ``path=GLOB``.

    Args:
        outcomes: one per run; components of kinds that have a profile here are compared.
        root: the directory or file that was read.
        options: conditions, names and the zero-point offset.

    Raises:
        ValueError: if no run is left.
    """
    kept = _chosen(outcomes, root, options)
    parts = [_numbers(_compared(o)) for o in kept]
    values, errors = canonical(
        grouped([p[..., 0] for p in parts]), grouped([p[..., 1] for p in parts])
    )
    values[..., NAMES.index("mag")] += options.zeropoint_offset
    fixed = grouped([p[..., 2] for p in parts])
    names = [_names(o, root) for o in kept]
    return Catalogue(
        name=options.name or root.name,
        kind="galfit",
        id=[options.as_ours(possible[0]) for possible in names],
        aliases=[tuple(dict.fromkeys(map(options.as_ours, possible))) for possible in names],
        values=values,
        errors=errors,
        fixed=fixed == 1,
        sky=np.array([_sky(o) for o in kept]),
        chi2_dof=np.array([(o.chi2, o.dof if o.dof > 0 else math.nan) for o in kept]),
        complete=np.array([_complete(o) for o in kept]),
        flagged=[_flagged(o) for o in kept],
        notes=_notes(kept),
    )


def _chosen(outcomes: Sequence[Outcome], root: Path, options: ReferenceOptions) -> list[Outcome]:
    """Return the results that satisfy the conditions; raise ValueError if none does."""
    conditions = options.conditions()
    if unknown := sorted(set(conditions) - {"path"}):
        raise ValueError(f"where has '{unknown[0]}', expected path=GLOB for GALFIT output")
    pattern = conditions.get("path", "*")
    kept = [o for o in outcomes if fnmatchcase(str(o.path), pattern)]
    if not kept:
        raise ValueError(f"'{root}' has no GALFIT output: expected blocks, fit.log or galfit.NN")
    return kept


def _compared(outcome: Outcome) -> list[Component]:
    """Return the components that have a profile here, and no shape terms whose values are lost."""
    return [c for c in outcome.components if profile_of(c) is not None and not c.extras]


def _numbers(components: Sequence[Component]) -> np.ndarray:
    """Return (K, 7, 3): value, error, and 1 if fixed else 0.

    Sizes are half-light radii. A surface brightness gives no magnitude, as results do not say how
    large pixels are.
    """
    out = np.full((len(components), len(NAMES), 3), np.nan)
    for k, component in enumerate(components):
        values, errors = _parameters(component)
        for j, name in enumerate(NAMES):
            value = values.get(name)
            if value is not None:
                given = value.fixed or value.coupled
                out[k, j] = value.value, errors.get(name, math.nan), float(given)
    return out


def _parameters(component: Component) -> tuple[Mapping[str, Value], Mapping[str, float]]:
    """Return the parameters of a component, and their errors, by our names."""
    values = component.values
    if component.kind in FAMILY:
        return values, {name: value.error for name, value in values.items()}
    known = all(math.isfinite(value.value) for value in values.values())
    if not known or component.kind == "psf":
        own = {name: v for name, v in values.items() if name in ("x", "y", "mag", "q", "pa")}
        return own, {name: value.error for name, value in own.items()}
    found, errors = parameters_of(component, 1.0), errors_of(component, 1.0)
    marked = {n: replace(v, coupled=n in values and values[n].coupled) for n, v in found.items()}
    if "mu" in values:
        marked["mag"], errors["mag"] = Value(math.nan), math.nan
    if component.kind == "nuker":  # whose light has no half
        marked["r_eff"], errors["r_eff"] = Value(math.nan), math.nan
    return marked, errors


def _sky(outcome: Outcome) -> tuple[float, float, float, float]:
    sky = outcome.sky
    if sky is None:
        return 0.0, math.nan, 0.0, 0.0  # without a sky component GALFIT's model has sky 0
    level, dx, dy = (sky.values.get(name) for name in ("sky", "sky_dx", "sky_dy"))
    if level is None:
        return math.nan, math.nan, 0.0, 0.0
    slopes = [v.value if v is not None and math.isfinite(v.value) else 0.0 for v in (dx, dy)]
    return level.value, level.error, slopes[0], slopes[1]


def _complete(outcome: Outcome) -> bool:
    """Return whether the compared components and the sky are the full model."""
    modelled = [c for c in outcome.components if c.kind != "sky"]
    return bool(modelled) and all(c.is_sersic and not c.skipped for c in modelled)


def _flagged(outcome: Outcome) -> str:
    warnings = [f"flag {flag}" for flag in outcome.flags if flag in SERIOUS]
    doubtful = any(v.suspect for c in outcome.components for v in c.values.values())
    broken = any(math.isnan(v.value) for c in _compared(outcome) for v in c.values.values())
    if doubtful:
        warnings.append("*suspect* values")
    if broken:
        warnings.append("values that are not numbers")
    return ", ".join(warnings)


def _names(outcome: Outcome, root: Path) -> list[str]:
    """Return the galaxy's possible names, from the paths of its feedme, folders and files."""
    path = outcome.path.absolute()
    above = list(path.parent.parts[-LEVELS:])
    files = [outcome.feedme, outcome.output, outcome.image, path.name]
    stems = [_stem(Path(name).name) for name in files if name]
    folders = [sign.join(above[-k:]) for k in range(len(above), 0, -1) for sign in ("/", "_")]
    try:
        below = path.parent.relative_to(root.absolute()).as_posix()
    except ValueError:
        below = "."
    first = [below] if below != "." else [above[-1]] if root.is_dir() else []
    first = [f"{name}/{stem}" for name in first for stem in stems[:1]] if len(above) else stems
    feedme = [str((path.parent / Path(outcome.feedme).name).resolve())] if outcome.feedme else []
    long = [f"{folder}{sign}{stem}" for folder in folders for stem in stems for sign in ("/", "_")]
    found = [*first, *feedme, *long, *folders, *stems, *(Path(n).name for n in files if n)]
    return list(dict.fromkeys(name for name in found if name))


def _stem(name: str) -> str:
    for end in (".gz", ".fits", ".fit", ".feedme", ".inp", ".txt", ".log"):
        name = name.removesuffix(end)
    for end in ("_block", "_imgblock", "_out"):
        name = name.removesuffix(end)
    return name


def _notes(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    others = sorted(
        {c.kind for o in outcomes for c in o.components if c not in _compared(o)} - {"sky"}
    )
    bands = sum(1 for o in outcomes if o.bands)
    notes = ["read in GALFIT's conventions (Peng et al. 2010, AJ 139, 2097)"]
    if others:
        notes.append(f"components not compared: {', '.join(others)}")
    if bands:
        notes.append(f"{bands} multi-band runs of GALFITM: values are those of the first band")
    return tuple(notes)
