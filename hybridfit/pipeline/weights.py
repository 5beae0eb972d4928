"""The networks of a run: loaded once in each process, and the same ones on every machine."""

from __future__ import annotations

from functools import lru_cache

from hybridfit.data.errors import UsageError
from hybridfit.model.model_names import MODELS, SERSIC_NAME
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import is_packaged, load_estimator, weights_digest


def starting_model(weights: str | None, model: str) -> str | None:
    """Return the model whose network fits of ``model`` start from.

    Without one of their own they start from that of one Sersic profile. Given weights decide
    themselves: None.
    """
    if weights is not None:
        return None
    return model if model in MODELS and is_packaged(model) else SERSIC_NAME


def checked_digest(weights: str | None, model: str | None = None) -> str:
    """Return the digest of a network's weights.

    Args:
        weights: their folder; None for the package's own.
        model: that they shall know; default whichever they do, of the package's own sersic.

    Raises:
        UsageError: if they are not there, cannot be loaded, or are of another model.
    """
    try:
        load_estimator(weights, model)  # says what is missing, or does not fit
        return weights_digest(weights, model or SERSIC_NAME)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


@lru_cache(maxsize=2)
def loaded_network(weights: str | None, digest: str, model: str | None = None) -> Estimator:
    """Return a network, read once in a process. Not to be changed.

    Args:
        weights: see `checked_digest`.
        digest: what the weights' digest was when the run began.
        model: see `checked_digest`.

    Raises:
        UsageError: if it is another one now.
    """
    found = weights_digest(weights, model or SERSIC_NAME)
    if found != digest:
        raise UsageError(
            f"the weights '{weights or 'of the package'}' have the digest {found}, expected "
            f"{digest}: they have changed since the run began, or differ between machines"
        )
    return load_estimator(weights, model)
