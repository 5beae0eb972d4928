"""Targets other than the Sersic parameters: columns of a table that a fine-tuned network predicts.

A column is a number of a galaxy that does not depend on where it lies in its cutout or how it is
turned, e.g. a bulge fraction or a mass. The flow's coordinate is the value or its logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridfit.options.yaml_options import make

TRANSFORMS = ("identity", "log")


@dataclass(frozen=True)
class TargetColumn:
    """A column of a table that a network predicts.

    Args:
        name: of the table's column.
        transform: "identity", or "log" for values above 0 that span decades.
    """

    name: str
    transform: str = "identity"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a target's name is {self.name!r}, expected a text")
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"transform of target '{self.name}' is '{self.transform}', expected one of "
                f"{', '.join(TRANSFORMS)}"
            )


def parse_targets(given: Sequence[Any]) -> tuple[TargetColumn, ...]:
    """Return the targets of a YAML list of names, or of mappings with name and transform."""
    targets = []
    for item in given:
        if isinstance(item, TargetColumn):
            targets.append(item)
        elif isinstance(item, Mapping):
            targets.append(make(TargetColumn, item, "a target"))
        else:
            targets.append(TargetColumn(item))
    names = [target.name for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"target '{twice[0]}' is given twice")
    return tuple(targets)


def encode_targets(values: Tensor, targets: Sequence[TargetColumn]) -> Tensor:
    """The flow's coordinates (B, T) of values (B, T); NaN where a value has none."""
    coordinates = [
        torch.log(value) if target.transform == "log" else value
        for value, target in zip(values.double().unbind(-1), targets, strict=True)
    ]
    t = torch.stack(coordinates, dim=-1)
    return torch.where(torch.isfinite(t), t, torch.nan)


def decode_targets(t: Tensor, targets: Sequence[TargetColumn]) -> Tensor:
    """Values (..., T) float64 of the flow's coordinates."""
    values = [
        torch.exp(one) if target.transform == "log" else one
        for one, target in zip(t.double().unbind(-1), targets, strict=True)
    ]
    return torch.stack(values, dim=-1)
