"""The networks of a run: loaded once in each process, and the same ones on every machine."""

from __future__ import annotations

from functools import lru_cache

from hybridfit.data.errors import UsageError
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator, weights_digest


def checked_digest(weights: str | None) -> str:
    """Return the digest of a network's weights.

    Args:
        weights: their folder; None for the package's own.

    Raises:
        UsageError: if they are not there, or cannot be loaded.
    """
    try:
        load_estimator(weights)  # says what is missing, or does not fit
        return weights_digest(weights)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


@lru_cache(maxsize=2)
def loaded_network(weights: str | None, digest: str) -> Estimator:
    """Return a network, read once in a process. Not to be changed.

    Args:
        weights: see `checked_digest`.
        digest: what the weights' digest was when the run began.

    Raises:
        UsageError: if it is another one now.
    """
    found = weights_digest(weights)
    if found != digest:
        raise UsageError(
            f"the weights '{weights or 'of the package'}' have the digest {found}, expected "
            f"{digest}: they have changed since the run began, or differ between machines"
        )
    return load_estimator(weights)
