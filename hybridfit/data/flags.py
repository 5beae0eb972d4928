"""Flags: bits with a name and a description for the user."""

from __future__ import annotations

from enum import IntFlag

from hybridfit.options.checks import checked


class Flag(IntFlag):
    """Bits of the ``flags`` column; ``FLAG_TEXT`` describes each for the user."""

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
    LARGER_THAN_CUTOUT = 1 << 17
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
    COMPONENT_UNCERTAIN = 1 << 32
    BLENDED = 1 << 33
    LARGER_THAN_STAMP = LARGER_THAN_CUTOUT  # its old name, until the next release


FLAG_TEXT: dict[Flag, str] = {
    Flag.NOT_CONVERGED: "the optimiser stopped before the parameters settled",
    Flag.AT_LIMIT: "a parameter lies at the edge of its prior",
    Flag.NO_SIGNAL: "no flux was found, or less than 5 sigma of it",
    Flag.MASKED_CENTRE: "pixels at the centre of the galaxy are masked or have no data",
    Flag.SIGMA_ESTIMATED: "no noise map was given: sigma was estimated from the background",
    Flag.MASK_ESTIMATED: "no mask was given: neighbours were found and masked",
    Flag.BAD_PSF: "the PSF is unphysical (negative, flux at its edge), tiny, or unlike its header",
    Flag.PSF_OFF_CENTRE: "the PSF's centroid is not in its central pixel: x and y shift with it",
    Flag.PSF_NORMALISED: "the PSF did not sum to 1 and was normalised",
    Flag.NO_PSF: "measured without a PSF, as requested",
    Flag.BAD_PIXELS: "pixels without data (NaN, fill values) or a usable sigma were masked",
    Flag.CROPPED: "the cutout was cropped to the galaxy and the sky around it",
    Flag.NO_DATA: "no pixel is left to fit",
    Flag.UNREADABLE: "the input could not be read: see the column notes",
    Flag.POOR_FIT: "the model does not describe the pixels (chi2 far above its expectation)",
    Flag.UNCERTAIN: "magnitude may be off by 0.5 or size by a factor of 2 (probability > 2.5 %)",
    Flag.UNRESOLVED: "not distinguishable from a point source: size and shape follow the prior",
    Flag.LARGER_THAN_CUTOUT: "the half-light radius exceeds half of the cutout",
    Flag.OFF_CENTRE: "the fit moved away from the target's position",
    Flag.BAD_SIGMA: "the noise map does not agree with the scatter of the blank sky",
    Flag.SUSPECT_MASK: "the mask hides the target or looks like a segmentation map",
    Flag.FEW_DRAWS: "most draws of the posterior were implausible: do not trust it",
    Flag.UNFAMILIAR: "unlike every galaxy that the network was trained on",
    Flag.DISAGREES: "the fit lies far outside the network's posterior: one of them is wrong",
    Flag.UNSAMPLED: "too few draws of the posterior, or replicas: do not trust the errors",
    Flag.MISFIT: "structure in the galaxy's light that the model does not describe",
    Flag.PSF_DOUBTFUL: "the pixels favour a PSF of another width or shape",
    Flag.NOT_MODELLED: "the requested model cannot be fitted: see the column notes",
    Flag.NO_ZEROPOINT: "no zero point is known: magnitudes are instrumental, -2.5 log10(flux)",
    Flag.FAILED: "the computation failed for this galaxy: see the column notes",
    Flag.PSF_TRUNCATED: "the PSF has a background, or its image cuts off its wings",
    Flag.SEVERAL_SOURCES: "the image is a field of many sources, one of which was measured",
    Flag.COMPONENT_UNCERTAIN: (
        "one of several components has little signal, or an uncertain magnitude or size; those of "
        "the sum are known"
    ),
    Flag.BLENDED: "neighbours that were fitted with the target overlap it by more than 5 %",
}


SEPARATOR = "|"  # between the names of flags


def flag_names(value: int, separator: str = SEPARATOR) -> str:
    """Return the names of the bits set in ``value``, lowest bit first; "" for 0.

    >>> flag_names(512 + 2)
    'AT_LIMIT|NO_PSF'
    """
    return separator.join(str(flag.name) for flag in Flag if value & flag)


def joined(*texts: str) -> str:
    """Join the texts that are not empty."""
    return "; ".join(filter(None, texts))


def describe_flags(value: int) -> list[str]:
    """Return ``NAME: text`` for every bit set in ``value``, lowest bit first."""
    value = checked("value", value, int)
    return [f"{flag.name}: {FLAG_TEXT[flag]}" for flag in Flag if value & flag]
