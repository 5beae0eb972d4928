"""The frame in which the network sees a galaxy, and the flow's coordinates in it.

A measured centre, angle, size and flux bring every galaxy into one position: centred, its long
side along x, in pixels of its view and in units of its noise. The frame is a fixed function of the
pixels, however good the measurement is, so that a posterior learned in it remains a posterior;
there is only less to learn. The coordinates are

    t = (3 asinh((x', y') / 3 s),  u_size,  u_n,  u_e turned,
         ln(flux / flux_0),  asinh((sky - sky_0) / w))

with (x', y') the centre in the frame, s its rough uncertainty, u the prior's whitened size, index
and ellipticity pair, flux_0 and sky_0 as measured. Where the frame has locked onto a neighbour the
centre is hundreds of s away: hence the asinh. Models of several components have more of these, see
`hybridfit.npe.coordinates`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.galaxy_model import constants_in
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues
from hybridfit.npe.coordinates import FAR, SERSIC, WHITENED, FlowCoordinates

N_TARGETS = SERSIC.n
LINEAR = 3.0  # of t for the centre: near it t is the offset over its spread
SKY_WIDTH = 0.05  # rough uncertainty of the sky, in units of a pixel's noise


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


def encode(
    theta: Tensor, zeropoint: Tensor, frame: Frame, coordinates: FlowCoordinates = SERSIC
) -> Tensor:
    """Return the flow's coordinates of physical parameters.

    Args:
        theta: (B, Q) in the order of the model's space: x, y, mag, r_eff, n, q, pa, sky of one
            Sersic profile; cutout pixels.
        zeropoint: (B,) mag.
        frame: of B galaxies.
        coordinates: of the model.

    Returns:
        (B, T) float64.
    """
    coords, linear = coordinates.space.from_physical(theta.double(), zeropoint.double())
    return encode_coords(coords, linear, frame, coordinates)


def encode_coords(
    coords: Tensor, linear: Tensor, frame: Frame, coordinates: FlowCoordinates = SERSIC
) -> Tensor:
    """`encode` of coords (B, C) and linear parameters (B, L); differentiable but at q = 1."""
    view = coords.clone()
    for row in coordinates.size_rows:
        view[:, row] = coords[:, row] - torch.log(frame.rebin)
    constants = coordinates.constants(len(coords), coords.device)
    columns = list(coordinates.space.to_whitened(view, constants).unbind(1))
    for i, j in coordinates.pairs:
        columns[i], columns[j] = _turn(columns[i], columns[j], -2 * frame.angle)
    for place in coordinates.positions:
        dx, dy = (coords[:, place.rows[0] + k] - frame.centre[:, k] for k in (0, 1))
        columns[place.column : place.column + 2] = [
            LINEAR * torch.asinh(v / (LINEAR * frame.spread)) for v in _turn(dx, dy, -frame.angle)
        ]
    *flux, sky = linear.unbind(1)
    total = flux[0] if len(flux) == 1 else torch.stack(flux).sum(dim=0)
    columns.append(torch.log(total / frame.flux))
    columns += [torch.log(one / flux[-1]) for one in flux[:-1]]
    columns.append(torch.asinh((sky - frame.sky) / (frame.noise * SKY_WIDTH)))
    return torch.stack(columns, dim=1)


def decode(t: Tensor, frame: Frame, coordinates: FlowCoordinates = SERSIC) -> tuple[Tensor, Tensor]:
    """Return render coordinates (B, C) and linear parameters (B, L) of t (B, T), float64."""
    t = t.double()
    whitened = _whitened(t, frame, coordinates)
    constants = coordinates.constants(len(t), t.device)
    coords, _ = coordinates.space.from_whitened(whitened, constants)
    return _in_cutout(t, coords, frame, coordinates), _linear(t, frame, coordinates)


def _whitened(t: Tensor, frame: Frame, coordinates: FlowCoordinates) -> Tensor:
    """Return whitened coordinates (B, P) of t, not turned, with positions in the middle."""
    whitened = t[:, : coordinates.n_whitened].clone()
    for place in coordinates.positions:
        whitened[:, place.column : place.column + 2] = 0.0
    for i, j in coordinates.pairs:
        whitened[:, i], whitened[:, j] = _turn(t[:, i], t[:, j], 2 * frame.angle)
    return whitened


def _in_cutout(t: Tensor, coords: Tensor, frame: Frame, coordinates: FlowCoordinates) -> Tensor:
    """Return coords (B, C) with the positions of t, and sizes in cutout pixels."""
    for place in coordinates.positions:
        x, y = position(t[:, None], frame, place.column)
        for row in place.rows:
            coords[:, row], coords[:, row + 1] = x[:, 0], y[:, 0]
    for row in coordinates.size_rows:
        coords[:, row] += torch.log(frame.rebin)
    return coords


def _linear(t: Tensor, frame: Frame, coordinates: FlowCoordinates) -> Tensor:
    """Return fluxes and sky (B, K + 1) of t (B, T)."""
    total = frame.flux * torch.exp(t[:, coordinates.n_whitened].clamp(-FAR, FAR))
    sky = frame.sky + frame.noise * SKY_WIDTH * torch.sinh(t[:, -1].clamp(-FAR, FAR))
    if coordinates.n_components == 1:
        return torch.stack([total, sky], dim=1)
    return torch.cat([total[:, None] * _shares(t, coordinates), sky[:, None]], dim=1)


def _shares(t: Tensor, coordinates: FlowCoordinates) -> Tensor:
    """Return the share (B, K) of each component in the flux."""
    ratios = t[:, coordinates.n_whitened + 1 : -1].clamp(-FAR, FAR)
    return torch.softmax(torch.cat([ratios, torch.zeros_like(ratios[:, :1])], dim=1), dim=1)


def decode_with_slopes(
    t: Tensor, frame: Frame, coordinates: FlowCoordinates = SERSIC
) -> tuple[Tensor, Tensor, Tensor]:
    """`decode` t (B, T): coords (B, C), linear (B, L), d (coords, linear) / d t (B, C + L, T)."""
    t = t.double()
    whitened = _whitened(t, frame, coordinates)
    constants = coordinates.constants(len(t), t.device)
    coords, by_white = coordinates.space.from_whitened(whitened, constants)
    n = coords.shape[1]
    linear = _linear(t, frame, coordinates)
    slopes = torch.zeros(len(t), n + linear.shape[1], coordinates.n, dtype=t.dtype, device=t.device)
    for j in coordinates.shapes:
        slopes[:, :n, j] = by_white[:, :, j]
    for first, second in coordinates.pairs:
        own = slice(first, second + 1)  # a list would be an index on the current device
        slopes[:, :n, own] = by_white[:, :, own] @ _rotation(2 * frame.angle)
    for place in coordinates.positions:
        own = slice(place.column, place.column + 2)
        stretch = frame.spread[:, None] * torch.cosh((t[:, own] / LINEAR).clamp(-FAR, FAR))
        for row in place.rows:
            slopes[:, row : row + 2, own] = _rotation(frame.angle) * stretch[:, None, :]
    _fill_linear(slopes[:, n:, coordinates.n_whitened :], t, linear, frame, coordinates)
    return _in_cutout(t, coords, frame, coordinates), linear, slopes


def _fill_linear(
    slopes: Tensor, t: Tensor, linear: Tensor, frame: Frame, coordinates: FlowCoordinates
) -> None:
    """Write the derivatives (B, K + 1, K + 1) of fluxes and sky by the last ones of t."""
    slopes[:, :-1, 0] = linear[:, :-1]
    slopes[:, -1, -1] = frame.noise * SKY_WIDTH * torch.cosh(t[:, -1].clamp(-FAR, FAR))
    if coordinates.n_components > 1:
        share, flux = _shares(t, coordinates), linear[:, :-1]
        unit = torch.eye(share.shape[1], dtype=t.dtype, device=t.device)
        ratios = flux[:, :, None] * (unit - share[:, None, :])
        slopes[:, :-1, 1:-1] = ratios[:, :, :-1]


def _rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 2, 2) of `_turn`."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def position(t: Tensor, frame: Frame, column: int = 0) -> tuple[Tensor, Tensor]:
    """Return x, y (B, S) [cutout pixels] of the position in ``column`` of t (B, S, T), float64."""
    wide = LINEAR * frame.spread[:, None]
    along, across = (
        wide * torch.sinh((t[..., i].double() / LINEAR).clamp(-FAR, FAR))
        for i in (column, column + 1)
    )
    x, y = _turn(along, across, frame.angle[:, None])
    return frame.centre[:, :1] + x, frame.centre[:, 1:] + y


def log_jacobian(
    t: Tensor,
    coords: Tensor,
    frame: Frame,
    space: ParameterSpace,
    coordinates: FlowCoordinates = SERSIC,
    scenes: SceneValues | None = None,
) -> Tensor:
    """Return ln |d t / d (u, ln fluxes, sky)|, with u the whitened coordinates of ``space``.

    Added to the flow's log density of t it gives the density in u, ln flux [any unit] of each
    component and sky [flux per pixel]; ln flux and the ratios of fluxes have the same volume. Draws
    outside the position bounds of ``space`` have no u: -inf.

    Args:
        t: (B, T).
        coords: (B, C) render coordinates of t.
        frame: of B galaxies.
        space: of the model; its prior may differ from the network's.
        coordinates: of the model.
        scenes: B of them, of ``space``, where something is tied.

    Returns:
        (B,) float64.
    """
    t, box = t.double(), frame.position_bounds_of(space)
    inside = torch.ones_like(t[:, 0], dtype=torch.bool)
    constants = space.constants(box) if scenes is None else constants_in(scenes, box)
    value = space.log_volume(space.to_whitened(coords, constants), constants)
    own = coordinates.constants(len(t), t.device)
    whitened = _whitened(t, frame, coordinates)
    value = value - coordinates.space.log_volume(whitened, own, positions=False)
    for place in coordinates.positions:
        at = coords[:, place.rows[0] : place.rows[0] + 2]
        inside &= ((at - box[:, :2]).abs() < box[:, 2:]).all(dim=1)
        bent = t[:, place.column : place.column + 2] / LINEAR
        value = value - 2 * torch.log(frame.spread)
        value = value - torch.log(torch.cosh(bent.clamp(-FAR, FAR))).sum(dim=1)
    value = value - torch.log(frame.noise * SKY_WIDTH * torch.cosh(t[:, -1].clamp(-FAR, FAR)))
    return torch.where(inside, value, -math.inf)
