"""Fit power laws to costs, and straight lines for extrapolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Power:
    """cost = scale x^exponent; ``scatter`` is the rms of ln(cost / law)."""

    scale: float
    exponent: float
    scatter: float

    def at(self, x: float) -> float:
        """Return the law's cost at x."""
        return float(self.scale * x**self.exponent)


@dataclass(frozen=True)
class Line:
    """cost = fixed + each * x."""

    fixed: float
    each: float

    def at(self, x: float) -> float:
        """Return the line's cost at x."""
        return self.fixed + self.each * x


def power_law(x: Sequence[float], cost: Sequence[float]) -> Power:
    """Fit a power law by least squares in logarithms.

    Raises:
        ValueError: with fewer than two different x, or numbers that are not above 0.
    """
    a, b = np.asarray(x, float), np.asarray(cost, float)
    if len(np.unique(a)) < 2 or not ((a > 0).all() and (b > 0).all()):
        raise ValueError(f"expected two different x, all above 0, got x {x} and cost {cost}")
    slope, level = np.polyfit(np.log(a), np.log(b), 1)
    off = np.log(b) - level - slope * np.log(a)
    return Power(float(np.exp(level)), float(slope), float(np.sqrt((off**2).mean())))


def straight_line(x: Sequence[float], cost: Sequence[float]) -> Line:
    """Fit a line by least squares in relative differences, as times scatter in proportion.

    Raises:
        ValueError: with fewer than two different x, or costs that are not above 0.
    """
    a, b = np.asarray(x, float), np.asarray(cost, float)
    if len(np.unique(a)) < 2 or not (b > 0).all():
        raise ValueError(f"expected two different x, costs above 0, got x {x} and cost {cost}")
    design = np.stack([1 / b, a / b], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones(len(b)), rcond=None)
    return Line(float(fixed), float(each))
