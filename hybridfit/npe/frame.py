"""The frame in which the network sees a galaxy, and the flow's coordinates in it.

A measured centre, angle, size and flux bring every galaxy into one position: centred, its long
side along x, in pixels of its view and in units of its noise. The frame is a fixed function of the
pixels, however good the measurement is, so that a posterior learned in it remains a posterior;
there is only less to learn. The coordinates are

    t = (3 asinh((x', y') / 3 s),  u_size,  u_n,  u_e turned,
         ln(flux / flux_0),  asinh((sky - sky_0) / w))

with (x', y') the centre in the frame, s its rough uncertainty, u the prior's whitened size, index
and ellipticity pair, flux_0 and sky_0 as measured. Where the frame has locked onto a neighbour the
centre is hundreds of s away: hence the asinh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.views import BASE

N_TARGETS = 8
LINEAR = 3.0  # of t for the centre: near it t is the offset over its spread
SKY_WIDTH = 0.05  # rough uncertainty of the sky, in units of a pixel's noise
WHITENED = Prior()  # of the flow's own coordinates, whatever prior a user fits with
SPACE = ParameterSpace(prior=WHITENED)
# half of the field of view: of larger galaxies the network cannot know anything
LARGEST = float(WHITENED.r_circ.whitened(torch.tensor(math.log(BASE / 2), dtype=torch.float64)))


@dataclass(frozen=True)
class Frame(Batch):
    """Where and how the network sees B galaxies; all (B,) or (B, 2) float64, cutout pixels.

    Args:
        centre: (B, 2) measured x, y.
        angle: (B,) radians, of the long side from +x towards +y.
        spread: (B,) pixels, rough uncertainty of the centre.
        rebin: (B,) cutout pixels per view pixel.
        noise: (B,) typical sigma of a pixel, flux units.
        flux: (B,) flux units, as measured.
        sky: (B,) flux per pixel, as measured.
        nominal: (B, 2) x, y where the target was expected.
        half_width: (B,) pixels, of the position's default prior.
    """

    centre: Tensor
    angle: Tensor
    spread: Tensor
    rebin: Tensor
    noise: Tensor
    flux: Tensor
    sky: Tensor
    nominal: Tensor
    half_width: Tensor

    @classmethod
    def unknown(cls, n: int, device: torch.device | str = "cpu") -> Frame:
        """Frames of n galaxies that have not been looked at: NaN."""
        one = torch.full((n,), torch.nan, dtype=torch.float64, device=device)
        shapes = {"centre": one[:, None].expand(n, 2), "nominal": one[:, None].expand(n, 2)}
        return cls(**{f.name: shapes.get(f.name, one) for f in fields(cls)})

    @property
    def position_bounds(self) -> Tensor:
        """(B, 4) of `ParameterSpace.from_whitened`, by the default prior."""
        return torch.cat([self.nominal, self.half_width[:, None], self.half_width[:, None]], dim=1)

    def position_bounds_of(self, space: ParameterSpace) -> Tensor:
        """(B, 4) of `ParameterSpace.from_whitened`, by the position's prior of ``space``."""
        half = self.half_width[:, None] * (space.prior.position / WHITENED.position)
        return torch.cat([self.nominal, half, half], dim=1)


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def encode(theta: Tensor, zeropoint: Tensor, frame: Frame) -> Tensor:
    """Return the flow's coordinates of physical parameters.

    Args:
        theta: (B, 8) x, y, mag, r_eff, n, q, pa, sky in cutout pixels.
        zeropoint: (B,) mag.
        frame: of B galaxies.

    Returns:
        (B, 8) float64.
    """
    coords, linear = ParameterSpace().from_physical(theta.double(), zeropoint.double())
    return encode_coords(coords, linear, frame)


def encode_coords(coords: Tensor, linear: Tensor, frame: Frame) -> Tensor:
    """`encode` of coords (B, 6) and linear parameters (B, 2); differentiable but at q = 1."""
    x, y = _turn(coords[:, 0] - frame.centre[:, 0], coords[:, 1] - frame.centre[:, 1], -frame.angle)
    view = coords.clone()
    view[:, 2] = coords[:, 2] - torch.log(frame.rebin)
    box = torch.ones(len(coords), 4, dtype=coords.dtype, device=coords.device)
    whitened = SPACE.to_whitened(view, SPACE.constants(box))
    e1, e2 = _turn(whitened[:, 4], whitened[:, 5], -2 * frame.angle)
    flux = torch.log(linear[:, 0] / frame.flux)
    sky = torch.asinh((linear[:, 1] - frame.sky) / (frame.noise * SKY_WIDTH))
    x, y = (LINEAR * torch.asinh(v / (LINEAR * frame.spread)) for v in (x, y))
    columns = (x, y, whitened[:, 2], whitened[:, 3], e1, e2, flux, sky)
    return torch.stack(columns, dim=1)


def decode(t: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return render coordinates (B, 6) and linear parameters (B, 2) of t (B, 8), float64."""
    t = t.double()
    x, y = position(t[:, None], frame)
    e1, e2 = _turn(t[:, 4], t[:, 5], 2 * frame.angle)
    whitened = torch.stack(
        [torch.zeros_like(e1), torch.zeros_like(e1), t[:, 2], t[:, 3], e1, e2], dim=1
    )
    box = torch.ones(len(t), 4, dtype=t.dtype, device=t.device)
    coords, _ = SPACE.from_whitened(whitened, SPACE.constants(box))
    coords[:, 0], coords[:, 1] = x[:, 0], y[:, 0]
    coords[:, 2] += torch.log(frame.rebin)
    flux = frame.flux * torch.exp(t[:, 6].clamp(-30, 30))
    sky = frame.sky + frame.noise * SKY_WIDTH * torch.sinh(t[:, 7].clamp(-30, 30))
    return coords, torch.stack([flux, sky], dim=1)


def decode_with_slopes(t: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """`decode` t (B, 8): coords (B, 6), linear (B, 2), and d (coords, linear) / d t (B, 8, 8)."""
    coords, linear = decode(t, frame)
    t = t.double()
    slopes = torch.zeros(len(t), N_TARGETS, N_TARGETS, dtype=t.dtype, device=t.device)
    stretch = frame.spread[:, None] * torch.cosh((t[:, :2] / LINEAR).clamp(-30, 30))
    slopes[:, :2, :2] = _rotation(frame.angle) * stretch[:, None, :]
    whitened = t[:, :6].clone()
    whitened[:, :2] = 0
    whitened[:, 4], whitened[:, 5] = _turn(t[:, 4], t[:, 5], 2 * frame.angle)
    box = torch.ones(len(t), 4, dtype=t.dtype, device=t.device)
    _, by_white = SPACE.from_whitened(whitened, SPACE.constants(box))
    slopes[:, 2:4, 2:4] = by_white[:, 2:4, 2:4]
    slopes[:, 4:6, 4:6] = by_white[:, 4:6, 4:6] @ _rotation(2 * frame.angle)
    slopes[:, 6, 6] = linear[:, 0]
    slopes[:, 7, 7] = frame.noise * SKY_WIDTH * torch.cosh(t[:, 7].clamp(-30, 30))
    return coords, linear, slopes


def _rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 2, 2) of `_turn`."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def position(t: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Centres x, y (B, S) in cutout pixels of coordinates t (B, S, 8), float64."""
    wide = LINEAR * frame.spread[:, None]
    along, across = (
        wide * torch.sinh((t[..., i].double() / LINEAR).clamp(-30, 30)) for i in (0, 1)
    )
    x, y = _turn(along, across, frame.angle[:, None])
    return frame.centre[:, :1] + x, frame.centre[:, 1:] + y


def log_jacobian(t: Tensor, coords: Tensor, frame: Frame, space: ParameterSpace) -> Tensor:
    """Return ln |d t / d (u, ln flux, sky)|, with u the whitened coordinates of ``space``.

    Added to the flow's log density of t it gives the density in u, ln flux [any unit] and sky
    [flux per pixel]. Draws outside the position bounds of ``space`` have no u: -inf.

    Args:
        t: (B, 8).
        coords: (B, 6) render coordinates of t.
        frame: of B galaxies.
        space: one Sersic component; its prior may differ from the network's.

    Returns:
        (B,) float64.
    """
    t, box = t.double(), frame.position_bounds_of(space)
    inside = ((coords[:, :2] - box[:, :2]).abs() < box[:, 2:]).all(dim=1)
    whitened = t[:, :6].clone()
    whitened[:, 4], whitened[:, 5] = _turn(t[:, 4], t[:, 5], 2 * frame.angle)
    constants = space.constants(box)
    value = space.log_volume(space.to_whitened(coords, constants), constants)
    value = value - SPACE.log_volume(whitened, SPACE.constants(box), positions=False)
    value = value - 2 * torch.log(frame.spread)
    value = value - torch.log(torch.cosh((t[:, :2] / LINEAR).clamp(-30, 30))).sum(dim=1)
    value = value - torch.log(frame.noise * SKY_WIDTH * torch.cosh(t[:, 7].clamp(-30, 30)))
    return torch.where(inside, value, -math.inf)
