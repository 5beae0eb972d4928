"""What a measurement is made of: flags and their texts, posteriors, fits, results of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hybridfit.data.samples import Draws
from hybridfit.model.parameters import ParameterSpace
from hybridfit.options.checks import checked


class Flag(IntFlag):
    """Bits of the ``flags`` column; ``FLAG_TEXT`` says what each means for the user."""

    NOT_CONVERGED = 1 << 0
    AT_LIMIT = 1 << 1
    NO_SIGNAL = 1 << 2
    MASKED_CENTRE = 1 << 3
    SIGMA_ESTIMATED = 1 << 4
    MASK_ESTIMATED = 1 << 5
    BAD_PSF = 1 << 6
    PSF_OFF_CENTRE = 1 << 7
    PSF_NORMALISED = 1 << 8
    NO_PSF = 1 << 9
    BAD_PIXELS = 1 << 10
    CROPPED = 1 << 11
    NO_DATA = 1 << 12
    UNREADABLE = 1 << 13
    POOR_FIT = 1 << 14
    UNCERTAIN = 1 << 15
    UNRESOLVED = 1 << 16
    LARGER_THAN_STAMP = 1 << 17
    OFF_CENTRE = 1 << 18
    BAD_SIGMA = 1 << 19
    SUSPECT_MASK = 1 << 20
    FEW_DRAWS = 1 << 21
    UNFAMILIAR = 1 << 22
    DISAGREES = 1 << 23
    UNSAMPLED = 1 << 24
    MISFIT = 1 << 25
    PSF_DOUBTFUL = 1 << 26
    NOT_MODELLED = 1 << 27
    NO_ZEROPOINT = 1 << 28
    FAILED = 1 << 29
    PSF_TRUNCATED = 1 << 30
    SEVERAL_SOURCES = 1 << 31


FLAG_TEXT: dict[Flag, str] = {
    Flag.NOT_CONVERGED: "the optimiser stopped before the parameters settled",
    Flag.AT_LIMIT: "a parameter lies at the edge of what the prior allows",
    Flag.NO_SIGNAL: "no flux was found, or less than 5 sigma of it",
    Flag.MASKED_CENTRE: "pixels at the centre of the galaxy are masked or have no data",
    Flag.SIGMA_ESTIMATED: "no noise map was given: sigma was made from the background",
    Flag.MASK_ESTIMATED: "no mask was given: neighbours were found and masked",
    Flag.BAD_PSF: "the PSF is unphysical (negative, flux at its edge) or unlike its header",
    Flag.PSF_OFF_CENTRE: "the PSF's centroid is not in its central pixel: x, y are shifted with it",
    Flag.PSF_NORMALISED: "the PSF did not sum to 1 and was normalised",
    Flag.NO_PSF: "measured without a PSF, as asked",
    Flag.BAD_PIXELS: "pixels without data (NaN, fill values) or a usable sigma were masked",
    Flag.CROPPED: "the stamp was cropped to the galaxy and the sky around it",
    Flag.NO_DATA: "no pixel is left to fit",
    Flag.UNREADABLE: "the input could not be read: see the message column",
    Flag.POOR_FIT: "the model does not describe the pixels (chi2 far above its expectation)",
    Flag.UNCERTAIN: "magnitude may be off by 0.5 or size by a factor 2 (chance above 2.5 %)",
    Flag.UNRESOLVED: "the pixels cannot tell it from a point source: size and shape are prior",
    Flag.LARGER_THAN_STAMP: "the half-light radius exceeds half of the stamp",
    Flag.OFF_CENTRE: "the fit left the target's position",
    Flag.BAD_SIGMA: "the noise map does not agree with the scatter of the blank sky",
    Flag.SUSPECT_MASK: "the mask hides the target or looks like a segmentation map",
    Flag.FEW_DRAWS: "most draws of the posterior were implausible: it is not to be trusted",
    Flag.UNFAMILIAR: "the network saw nothing like this galaxy in training",
    Flag.DISAGREES: "the fit lies far outside of the network's posterior: one of them is wrong",
    Flag.UNSAMPLED: "the posterior, or enough replicas, could not be drawn: mistrust the errors",
    Flag.MISFIT: "structure under the galaxy's light that the model does not follow",
    Flag.PSF_DOUBTFUL: "the pixels ask for a PSF of another width or shape",
    Flag.NOT_MODELLED: "a model was asked for that cannot be fitted: see the message column",
    Flag.NO_ZEROPOINT: "no zero point is known: magnitudes are instrumental, -2.5 log10(flux)",
    Flag.FAILED: "the computation failed for this galaxy: see the message column",
    Flag.PSF_TRUNCATED: "the PSF has a pedestal, or its stamp cuts off its wings",
    Flag.SEVERAL_SOURCES: "the image is a frame of many sources, of which one was measured",
}


def joined(*texts: str) -> str:
    """Return what is said about a galaxy as one message: the texts that are not empty."""
    return "; ".join(filter(None, texts))


def describe_flags(value: int) -> list[str]:
    """Return ``NAME: text`` for every bit set in ``value``, lowest bit first."""
    value = checked("value", value, int)
    return [f"{flag.name}: {FLAG_TEXT[flag]}" for flag in Flag if value & flag]


@dataclass(frozen=True)
class Fit:
    """The best parameters of a batch and their covariance.

    Args:
        space: names, units and priors of the P parameters.
        theta: (B, P) float64, physical parameters in the order of ``space.names``.
        covariance: (B, P, P) float64, of ``theta``, sky included; NaN where there is none.
        chi2: (B,) float64, sum of squared residuals over sigma on the unmasked pixels.
        dof: (B,) int64, unmasked pixels minus free parameters.
        n_iter: (B,) int64, accepted and rejected steps.
        flags: (B,) int64, bits of `Flag`.
    """

    space: ParameterSpace
    theta: Tensor
    covariance: Tensor
    chi2: Tensor
    dof: Tensor
    n_iter: Tensor
    flags: Tensor

    def __post_init__(self) -> None:
        shape = (self.theta.shape[0], len(self.space.names))
        if tuple(self.theta.shape) != shape:
            raise ValueError(
                f"theta has shape {tuple(self.theta.shape)}, expected {shape}: one column for "
                f"each of {', '.join(self.space.names)}"
            )
        if tuple(self.covariance.shape) != (*shape, shape[1]):
            raise ValueError(
                f"covariance has shape {tuple(self.covariance.shape)}, "
                f"expected {(*shape, shape[1])}"
            )

    def __len__(self) -> int:
        return self.theta.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Fit:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Fit:
        """Return the same fit with its tensors on ``device``."""
        return self._map(lambda value: value.to(device))

    @property
    def error(self) -> Tensor:
        """(B, P) standard deviations, NaN where the covariance is not positive."""
        variance = torch.diagonal(self.covariance, dim1=-2, dim2=-1)
        return torch.where(variance >= 0, variance, torch.nan).sqrt()

    def _map(self, function) -> Fit:  # type: ignore[no-untyped-def]
        tensors = {
            f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "space"
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class Posterior:
    """Draws from the posterior of a batch.

    Args:
        space: names, units and priors of the Q parameters.
        samples: (B, S, Q) float64, physical parameters in the order of ``space.names``, stamp
            pixels; NaN for a galaxy that has none.
        log_prob: (B, S) float64, log density of each draw in (free u, ln flux, sky).
        rejected: (B,) int64, draws that were implausible and drawn again.
        distance: (B,) float64, how far the network's context lies from those of training.
        flags: (B,) int64, bits of `Flag`.
    """

    space: ParameterSpace
    samples: Tensor
    log_prob: Tensor
    rejected: Tensor
    distance: Tensor
    flags: Tensor

    def __post_init__(self) -> None:
        shape, q = tuple(self.samples.shape), len(self.space.names)
        if len(shape) != 3 or shape[2] != q:
            raise ValueError(
                f"samples have shape {shape}, expected (B, S, {q}): one column for each of "
                f"{', '.join(self.space.names)}"
            )
        for name, expected in (
            ("log_prob", shape[:2]),
            ("rejected", shape[:1]),
            ("distance", shape[:1]),
            ("flags", shape[:1]),
        ):
            if (came := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"{name} has shape {came}, expected {expected} as the samples")

    def __len__(self) -> int:
        return self.samples.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Posterior:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Posterior:
        """Return the same posterior with its tensors on ``device``."""
        return self._map(lambda value: value.to(device))

    @cached_property
    def draws(self) -> Draws:
        """The draws, of equal weight, and what is quoted of them."""
        return Draws(self.space, self.samples)

    @property
    def mean(self) -> Tensor:
        """(B, Q) means; of position angles the circular one, in [0, 180)."""
        return self.draws.mean

    @property
    def std(self) -> Tensor:
        """(B, Q) standard deviations; of a position angle about 52 where nothing is known."""
        return self.draws.std

    @property
    def covariance(self) -> Tensor:
        """(B, Q, Q) covariance of the draws."""
        return self.draws.covariance

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return the quantiles of each parameter on its own, (B, L, Q): `Draws.quantiles`."""
        return self.draws.quantiles(levels)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Posterior:
        tensors: dict[str, Any] = {
            f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "space"
        }
        return replace(self, **tensors)


class Quality(IntEnum):
    """How far a galaxy's numbers can be trusted; the column ``quality`` in lower case."""

    SUSPECT = 0
    USABLE = 1
    CERTIFIED = 2


@dataclass(frozen=True)
class Result:
    """What was measured of a batch: best fit, errors, and how far to trust them.

    Args:
        fit: the best fit; its covariance is what is quoted, its flags are all there are.
        quality: (B,) int64, of `Quality`.
        draws: weighted draws of the posterior or the bootstrap; None for errors from a
            covariance alone.
        ess: (B,) effective number of draws; NaN where it does not apply, as in what follows.
        khat: (B,) Pareto k of the weights: below .7 they can be trusted.
        log_evidence: (B,) ln of the evidence: the likelihood over the prior, which compares models
            of one cutout, whatever their components and sky; NaN where draws or sky are too few to
            tell. The prior of total flux and sky has density 1 for the noise of a typical pixel,
            that of the components' shares is uniform, see `hybridfit.uncertainty.evidence`.
        missed: (B,) share of the posterior's mass where the network's has next to none.
        disagreement: (B,) distance of fit and network's posterior in their joint errors.
        flow_distance: (B,) of the fit from the middle of the network's posterior, in the
            coordinates in which that is a standard normal: root mean square; some tenths are usual.
        risk: (B,) probability that magnitude or size are off by 0.5 mag or a factor 2.
        notes: B sentences on what is most likely wrong, "" where nothing is seen.
        flux, flux_err: (B,) of all components together, flux units; of a galaxy without signal
            that of a profile forced at the target's position, which may be negative.
        flux_limit: (B,) its upper limit of 95 %; NaN where there is signal.
    """

    fit: Fit
    quality: Tensor
    draws: Draws | None = None
    ess: Tensor = None  # type: ignore[assignment]
    khat: Tensor = None  # type: ignore[assignment]
    log_evidence: Tensor = None  # type: ignore[assignment]
    missed: Tensor = None  # type: ignore[assignment]
    disagreement: Tensor = None  # type: ignore[assignment]
    flow_distance: Tensor = None  # type: ignore[assignment]
    risk: Tensor = None  # type: ignore[assignment]
    notes: tuple[str, ...] = ()
    flux: Tensor = None  # type: ignore[assignment]
    flux_err: Tensor = None  # type: ignore[assignment]
    flux_limit: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        batch = len(self.fit)
        if len(self.notes) not in (0, batch):
            raise ValueError(f"{len(self.notes)} notes came for {batch} galaxies")
        object.__setattr__(self, "notes", self.notes or ("",) * batch)
        for name in (*CERTIFICATE, *FLUXES):
            value = getattr(self, name)
            if value is None:
                value = torch.full((batch,), torch.nan, dtype=torch.float64)
            if tuple(value.shape) != (batch,):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected {(batch,)} as the fit"
                )
            object.__setattr__(self, name, value)
        if tuple(self.quality.shape) != (batch,):
            raise ValueError(
                f"quality has shape {tuple(self.quality.shape)}, expected {(batch,)} as the fit"
            )

    def __len__(self) -> int:
        return len(self.fit)

    def __getitem__(self, index: slice | Tensor) -> Result:
        names = ("fit", "quality", *CERTIFICATE, *FLUXES)
        values = {name: getattr(self, name)[index] for name in names}
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].tolist()
        values["notes"] = tuple(self.notes[i] for i in rows)
        return replace(self, draws=None if self.draws is None else self.draws[index], **values)


CERTIFICATE = (
    "ess",
    "khat",
    "log_evidence",
    "missed",
    "disagreement",
    "flow_distance",
    "risk",
)
FLUXES = ("flux", "flux_err", "flux_limit")
