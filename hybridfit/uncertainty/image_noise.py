"""The noise of a cutout from its image only, the same for all models of one cutout.

Residuals contain light that a model cannot follow, even far from the centre: the wings of a bright
bulge and disk lie sigmas above a single profile there. If they counted as noise, a bad model would
be excused in proportion to its misfit. So the noise's autocorrelation is measured without a model,
on sky beyond an ellipse around the target. The ellipse's shape is that of the image's moments, and
its size the first at which the mean light is `FAINT` in each part of a ring around it; if a galaxy
fills the cutout, the outermost quarter is used. The light left there is subtracted with a plane and
smooth shapes of few parameters, see `wing_shapes`.

A temperature needs a galaxy's derivatives too, see `hybridfit.uncertainty.tempering`. These are
those of one Sersic profile at the image's moments, whichever model is fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.linearised import Linearised, linearise
from hybridfit.fitting.moments import moment_start
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.correlated_noise import Autocorrelation

FAINT = 0.5  # of a pixel's sigma: the galaxy's mean light where the sky begins
LEAST_SKY = 0.25  # smallest fraction of the used pixels that counts as sky, the outermost ones
SATURATED = 3.0  # of a pixel's sigma: limit of brighter pixels in the mean around an ellipse
FIRST, GROWTH, RINGS = 3.0, 1.25, 32  # pix and ratio of the rings' radii, and their number
PARTS = 4  # of a ring, each with its opposite: a disk may be thinner than the moments suggest
STEP = 0.02  # of positions [pix], ln sizes and shapes: far below their errors
LEAST_PIXELS = 100  # of sky; fewer do not give a correlation to a tenth
REFERENCE = FitOptions(compile="off")  # model whose derivatives give the temperature


@dataclass(frozen=True)
class Place:
    """Positions and shapes of B targets, from the moments of their images.

    Args:
        coords: (B, 6) x, y, ln r_circ, ln n, eta1, eta2 in cutout pixels.
        radius: (B, H, W) circularised elliptical radius of each pixel, pix.
        angle: (B, H, W) twice the polar angle of each pixel.
    """

    coords: Tensor
    radius: Tensor
    angle: Tensor


def measure_noise(cutouts: Cutouts) -> Autocorrelation:
    """Measure the noise's autocorrelation in B cutouts, in units of sigma squared.

    Args:
        cutouts: B galaxies; neither a fit nor its options are needed.

    Returns:
        The autocorrelation; white noise if there are fewer than `LEAST_PIXELS` of sky.
    """
    place = target_place(cutouts)
    image = cutouts.image - sky_level(cutouts).to(cutouts.image.dtype)[:, None, None]
    light = image / cutouts.sigma
    used = ~cutouts.mask & torch.isfinite(light) & torch.isfinite(place.radius)
    light = torch.where(used, light, 0.0)
    edge = sky_edge(light, used, place)
    sky = used & (place.radius >= edge[:, None, None])
    found = noise.measure(light, sky, True, wing_shapes(place, edge))
    enough = (found.pixels >= LEAST_PIXELS).to(found.values)[:, None, None]
    white = noise.white(len(light), light.device).values
    white = torch.nn.functional.pad(white, [found.reach] * 4)
    return Autocorrelation(torch.where(enough > 0, found.values, white), found.pixels)


def target_place(cutouts: Cutouts) -> Place:
    """Return the targets' places, searched around the initial positions."""
    centre = nominal_centre(cutouts)
    reach = REFERENCE.prior.position * cutouts.size.amin(dim=1).double().clamp_min(8)
    coords = moment_start(cutouts, sky_level(cutouts), centre, reach)
    # other initial values or summation orders change these slightly: rounding makes them equal
    coords = torch.round(coords / STEP) * STEP
    x, y, _, _, eta1, eta2 = coords.to(cutouts.image.dtype).unbind(1)
    height, width = cutouts.image.shape[-2:]
    dx = torch.arange(width, device=x.device) - x[:, None, None]
    dy = torch.arange(height, device=x.device)[:, None] - y[:, None, None]
    # with eta = -ln q (cos 2pa, sin 2pa), pa from +y towards -x, the circularised radius is
    # rho^2 = r^2 (cosh g - sinh g cos(2 (phi - pa))), g = -ln q
    g = torch.hypot(eta1, eta2)[:, None, None]
    along = dy**2 - dx**2, -2 * dx * dy  # r^2 times cos and sin of twice the angle
    share = torch.where(g > 0, torch.sinh(g) / g.clamp_min(1e-12), 1.0)
    inner = eta1[:, None, None] * along[0] + eta2[:, None, None] * along[1]
    square = (dx**2 + dy**2) * torch.cosh(g) - share * inner
    return Place(coords, square.clamp_min(0.0).sqrt(), torch.atan2(along[1], along[0]))


def sky_edge(light: Tensor, used: Tensor, place: Place) -> Tensor:
    """Return the (B,) circularised radius beyond which there is sky.

    Args:
        light: (B, H, W) image minus its sky level, over sigma.
        used: (B, H, W) bool.
        place: of the targets.
    """
    # parts of rings average many pixels: none is selected by its own noise
    radius = place.radius
    steps = torch.log(radius.clamp_min(1.0) / FIRST) / math.log(GROWTH)
    ring = steps.floor().nan_to_num(0.0).clamp(-1, RINGS - 2).long() + 1
    turn = (
        place.angle - torch.atan2(place.coords[:, 5], place.coords[:, 4])[:, None, None]
    ).nan_to_num()
    part = torch.remainder(turn / (2 * math.pi) * PARTS + 0.5, PARTS).floor().long()
    index = (ring * PARTS + part.clamp_max(PARTS - 1)).flatten(1)  # (B, N)
    shown = torch.where(used, light.clamp(-SATURATED, SATURATED), 0.0).flatten(1)
    nothing = shown.new_zeros(len(light), RINGS * PARTS)
    total = nothing.scatter_add(1, index, shown)
    count = nothing.scatter_add(1, index, used.flatten(1).to(shown))
    faint = (total <= FAINT * count).view(-1, RINGS, PARTS).all(dim=2)
    faint &= (count > 0).view(-1, RINGS, PARTS).any(dim=2)
    faint[:, -1] = True
    first = faint.to(torch.int8).argmax(dim=1).to(radius.dtype)
    edge = torch.where(first > 0, FIRST * GROWTH ** (first - 1), 0.0)
    far = torch.where(used, radius, torch.nan).flatten(1)
    outermost = torch.nanquantile(far[:, ::7], 1 - LEAST_SKY, dim=1).nan_to_num(0.0)
    return torch.minimum(edge, outermost)


def wing_shapes(place: Place, edge: Tensor) -> Tensor:
    """Return (B, 5, H, W) shapes of a galaxy's light beyond the edge: three profiles, and m = 2.

    With u = (edge / radius)^2, 1 at the edge and 0 far out, they are Chebyshev polynomials in u
    (powers -2, -4 and -6 of the radius), and u times cos and sin of twice the polar angle.
    """
    u = (edge[:, None, None] / place.radius.clamp_min(1.0)).clamp(0.0, 1.0).nan_to_num(0.0) ** 2
    v, angle = 2 * u - 1, place.angle.nan_to_num(0.0)
    rings = [v, 2 * v**2 - 1, 4 * v**3 - 3 * v]
    return torch.stack([*rings, u * torch.cos(angle), u * torch.sin(angle)], dim=1)


def reference(cutouts: Cutouts) -> tuple[Linearised, Problem]:
    """Return the derivatives of one Sersic profile at the image's moments, and its problem."""
    problem = build_problem(cutouts, REFERENCE)
    coords = target_place(cutouts).coords
    whitened = problem.space.to_whitened(coords.nan_to_num(0.0), problem.constants)
    return linearise(problem, cutouts, whitened), problem
