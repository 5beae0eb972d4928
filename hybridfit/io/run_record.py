"""The record of a run: its input and options and, once complete, its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridfit.data.errors import UsageError
from hybridfit.io.writing import LinkedPath, atomic, read_regular

RECORD = "run.json"
LARGEST = 1 << 26  # bytes


def check_same(path: Path, old: Any, new: Mapping[str, Any]) -> None:
    """Raise UsageError if a run was started with other settings, naming the differences.

    Args:
        path: the run's folder.
        old, new: names to values, of its record and of this call.
    """
    if not isinstance(old, dict):
        raise UsageError(
            f"'{path / RECORD}' does not say how its run was started: --overwrite begins anew"
        )
    # entries missing in one of them follow from others
    names = sorted({*old, *new}, key=lambda name: (name not in old or name not in new, name))
    differing = [
        f"{name} was {_brief(old.get(name))} and is now {_brief(new.get(name))}"
        for name in names
        if json.dumps(old.get(name)) != json.dumps(new.get(name))
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise UsageError(
            f"output '{path}' holds a run that was started otherwise: {'; '.join(differing[:3])}"
            f"{more}. Give the same command to go on with it, --overwrite to begin anew, or "
            "another -o"
        )


def _brief(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the run in ``path``, empty if there is none.

    Raises:
        UsageError: if it is damaged or a link.
    """
    try:
        found = json.loads(read_regular(path / RECORD, LARGEST))
    except FileNotFoundError:
        return {}
    except LinkedPath:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"'{path / RECORD}' cannot be read ({error}): --overwrite begins anew"
        ) from error
    if not isinstance(found, dict):
        return {}
    if "outcome" in found and not _is_outcome(found["outcome"]):
        raise UsageError(f"'{path / RECORD}' is damaged (its outcome): --overwrite begins anew")
    return found


def _is_outcome(found: Any) -> bool:
    """Return whether it is a valid outcome: numbers of galaxies, of each flag and quality."""
    if not isinstance(found, dict) or not isinstance(found.get("n"), int):
        return False
    counts = [found.get(name) for name in ("flags", "quality")]
    return all(
        isinstance(each, dict) and all(isinstance(value, int) for value in each.values())
        for each in counts
    )


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record atomically."""
    with atomic(path / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
