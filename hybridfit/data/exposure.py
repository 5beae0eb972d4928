"""A further image of the same galaxies: another dither, epoch or camera, in the same band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutout_checks import checked_cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.tensors import as_tensor, expanded
from hybridfit.options.checks import described

# |determinant| of an affine map: the ratio of two pixels' areas that no pair of cameras exceeds
LEAST_AREA, MOST_AREA = 1e-4, 1e4
# flags of an image that say nothing of a galaxy which has others
OF_THE_FIRST = Flag.NO_ZEROPOINT | Flag.NO_DATA | Flag.UNREADABLE | Flag.MASKED_CENTRE
# fields of cutouts that belong to the galaxies, not to an image of them
OTHERS = ("id", "wcs", "messages", "zeropoint_from", "parameters", "pixel_scale", "origin", "start")


@dataclass(frozen=True, init=False)
class Exposure(Batch):
    """A further image of each of B galaxies, of one padded shape.

    Arrays are converted, checked and masked as those of `hybridfit.Cutouts`. Exposures may differ
    from the first image in shape, depth, PSF, orientation, pixels and zero point. A galaxy that
    lacks one has all of its pixels masked.

    Args:
        image, sigma, mask: (B, H, W), flux units of this image.
        psf, psf_oversampling, psf_includes_pixel: as those of `Cutouts`.
        zeropoint: (B,) default, and where NaN, that of the first image.
        to_pixels: (B, 2, 3) or (2, 3) affine map from x, y in the first image to x, y in this one,
            ``[A | b]``; default the same pixels.
        flags: (B,) int64 bits of `hybridfit.Flag` raised while reading; those of missing data, of a
            missing zero point and of a masked centre are dropped, as the first image may have them.
        size: (B, 2) true height and width before padding; default H, W.

    Raises:
        ValueError: as `Cutouts`, or if a map has no inverse.
    """

    image: Tensor
    sigma: Tensor
    psf: Tensor | None
    mask: Tensor
    psf_oversampling: Tensor
    psf_includes_pixel: Tensor
    zeropoint: Tensor
    to_pixels: Tensor
    flags: Tensor
    size: Tensor

    def __init__(
        self,
        image: Any,
        sigma: Any,
        psf: Any,
        mask: Any = None,
        psf_oversampling: Any = None,
        psf_includes_pixel: Any = None,
        zeropoint: Any = None,
        to_pixels: Any = None,
        flags: Any = None,
        size: Any = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in _checked_exposure(given).items():
            object.__setattr__(self, name, value)

    @property
    def has_data(self) -> Tensor:
        """(B,) whether a galaxy has a pixel that is not masked."""
        return ~self.mask.flatten(1).all(dim=1)

    def positions(self, first: Tensor) -> Tensor:
        """Return x, y (B, 2) in this image of those in the first."""
        turned = (self.to_pixels[:, :, :2] @ first.to(self.to_pixels)[:, :, None])[:, :, 0]
        return turned + self.to_pixels[:, :, 2]


def _checked_exposure(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Exposure` from the user's input."""
    values = checked_cutouts(dict.fromkeys(OTHERS) | dict(given))
    image, flags = values["image"], values["flags"]
    unknown = (flags & int(Flag.NO_ZEROPOINT)) != 0
    values["zeropoint"] = torch.where(unknown, torch.nan, values["zeropoint"])
    values["flags"] = flags & ~int(OF_THE_FIRST)
    affine = torch.eye(2, 3) if given["to_pixels"] is None else given["to_pixels"]
    affine = as_tensor(affine, torch.float64, "to_pixels").to(image.device)
    affine = expanded(affine, (len(image), 2, 3), "to_pixels").contiguous()
    area = torch.linalg.det(affine[:, :, :2]).abs()
    good = torch.isfinite(affine).flatten(1).all(dim=1) & (area >= LEAST_AREA) & (area <= MOST_AREA)
    if not good.all():
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"to_pixels of galaxy {first} is {affine[first].tolist()}, expected a map [A | b] "
            "whose A has an inverse"
        )
    return {f.name: values[f.name] for f in fields(Exposure) if f.name != "to_pixels"} | {
        "to_pixels": affine
    }


def checked_exposures(given: Any, values: Mapping[str, Any]) -> tuple[Exposure, ...]:
    """Return the exposures of B galaxies.

    Args:
        given: the user's, or None.
        values: checked fields of the first image.

    Raises:
        ValueError: if they are not exposures of as many galaxies, if only some have PSFs, or if an
            exposure has a zero point and the first image has none.
    """
    exposures = () if given is None else given
    exposures = tuple(exposures) if isinstance(exposures, list | tuple) else (exposures,)
    without = torch.tensor([one == "" for one in values["zeropoint_from"]], dtype=torch.bool)
    for k, exposure in enumerate(exposures):
        name = f"exposures[{k}]"
        if not isinstance(exposure, Exposure):
            raise ValueError(f"{name} is {described(exposure)}, expected a hybridfit.Exposure")
        if len(exposure) != len(without):
            raise ValueError(f"{name} has {len(exposure)} galaxies, expected {len(without)}")
        if (exposure.psf is None) != (values["psf"] is None):
            raise ValueError(
                f"{name} has {'no' if exposure.psf is None else 'a'} PSF, unlike the first image: "
                "expected PSFs in all images or in none"
            )
        wrong = without & torch.isfinite(exposure.zeropoint).cpu()
        if wrong.any():
            raise ValueError(
                f"{name} of galaxy '{values['id'][int(wrong.nonzero()[0])]}' has a zero point, but "
                "the first image has none: give both, or neither"
            )
    return tuple(exposure.to(values["image"].device) for exposure in exposures)
