"""Pixel kernels: PSF-convolved, pixel-integrated profiles and their Jacobian, batched.

The profile f is split by a smooth window around its centre, ``f = f (1 - w) + f w`` with
``w = (1 - exp(-rho^2 / 2 R^2))^4``. The outer piece f w is smooth, so sampling it at pixel
centres is enough. The core f (1 - w) has the cusp, but it is radial in the elliptical radius,
so a one-dimensional Hankel transform gives its modes exactly, for any ellipticity and sub-pixel
centre. Both meet in Fourier space, where PSF and pixel are one product and the derivatives by
the centre are a factor i k.

The elliptical radius is ``rho^2 = d^T M d`` with ``M = exp`` of a traceless symmetric matrix of
``eta = -ln q (cos 2 pa, sin 2 pa)``; det M = 1, so sizes are circularised radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.model.profiles import LEAST_EXPONENT, Boxy, EdgeOnDisk, PointSource, Profile
from hybridfit.model.profiles.distorted import Distorted
from hybridfit.rendering import boxy, distorted, edge_on
from hybridfit.rendering.galfit_pixels import far_pixels, shift_response
from hybridfit.rendering.grid import CORE_WIDTH, S_STEP, Grid


@dataclass(frozen=True)
class Geometry:
    """Per-galaxy numbers of one component, each (B,) or (B, n), ready for the pixel kernels.

    Args:
        position: (B, 2) centre x, y in cutout pixels.
        metric: (B, 3) M_xx, M_xy, M_yy.
        metric_slopes: (B, 2, 3) derivatives of the metric by eta1, eta2.
        inverse: (B, 3) of M^-1, for the modes.
        inverse_slopes: (B, 2, 3).
        log_size: (B,) ln of the circularised size.
        width: (B,) scale R of the core's window in the circularised radius.
        coefficients: (B, C) of the profile.
        eta: (B, 2) ellipticity pair, for profiles that are not functions of one radius.
    """

    position: Tensor
    metric: Tensor
    metric_slopes: Tensor
    inverse: Tensor
    inverse_slopes: Tensor
    log_size: Tensor
    width: Tensor
    coefficients: Tensor
    eta: Tensor


def geometry(coords: Tensor, profile: Profile, dtype: torch.dtype) -> Geometry:
    """Convert the render coordinates (B, P) of one component into the kernels' input."""
    coords = coords.double()
    if isinstance(profile, PointSource):  # of no size, and round
        coords = torch.cat([coords, coords.new_zeros(len(coords), 3)], dim=1)
    eta = coords[:, -2:]
    g2 = (eta**2).sum(dim=1)
    g = torch.sqrt(g2)
    small = g < 1e-3
    safe = torch.where(small, 1.0, g)
    cosh = torch.cosh(g)
    # sigma = sinh g / g and tau = (d sigma / dg) / g, regular at a round galaxy
    sigma = torch.where(small, 1 + g2 / 6, torch.sinh(safe) / safe)
    tau = torch.where(small, 1 / 3 + g2 / 30, (torch.cosh(safe) - sigma) / safe**2)
    forward, forward_slopes = _metric(eta, cosh, sigma, tau, 1.0)
    backward, backward_slopes = _metric(eta, cosh, sigma, tau, -1.0)
    values = (
        coords[:, :2],
        forward,
        forward_slopes,
        backward,
        backward_slopes,
        coords[:, 2],
        CORE_WIDTH * torch.exp(g / 2),
        profile.prepare(coords[:, 3:-2]),
        eta,
    )
    return Geometry(*(value.to(dtype) for value in values))


def _metric(
    eta: Tensor, cosh: Tensor, sigma: Tensor, tau: Tensor, sign: float
) -> tuple[Tensor, Tensor]:
    """Return M_xx, M_xy, M_yy (B, 3) and their derivatives by eta1, eta2 (B, 2, 3).

    Args:
        eta: (B, 2), of length g.
        cosh, sigma, tau: (B,) cosh g, sinh g / g and (d sigma / dg) / g.
        sign: 1 for the metric, -1 for its inverse.
    """
    e1, e2 = eta.unbind(1)
    value = torch.stack([cosh + sign * sigma * e1, sign * sigma * e2, cosh - sign * sigma * e1])
    slopes = torch.stack(
        [
            torch.stack([sigma * e, sigma * 0, sigma * e])
            + sign * torch.stack([tau * e * e1, tau * e * e2, -tau * e * e1])
            for e in (e1, e2)
        ]
    )
    slopes[0, 0] += sign * sigma
    slopes[0, 2] -= sign * sigma
    slopes[1, 1] += sign * sigma
    return value.T, slopes.permute(2, 0, 1)


def component_images(
    shape: Geometry, profile: Profile, grid: Grid, transfer: Tensor, jacobian: bool
) -> Tensor:
    """Return unit-flux images of one component, and their derivatives by render coordinates.

    Args:
        shape: of B galaxies.
        profile: of the component.
        grid: for this padded shape.
        transfer: (B, 2, kx, ky) of `grid.transfer_function`.
        jacobian: whether to compute derivatives.

    Returns:
        (B, 1, H, W), or (B, 1 + P, H, W): the image, then its derivatives by the profile's
        coordinates: x, y, ln size, ln shape..., eta1, eta2, or x, y of a point.
    """
    core = _core_modes(shape, profile, grid, jacobian)
    if isinstance(profile, PointSource):
        return _point_images(shape, core, grid, transfer, jacobian)
    outer = _outer_modes(shape, profile, grid, jacobian)
    if not grid.folds:
        both = _times(_add(outer, core), transfer)
        modes = _stack(_with_centre(both, grid.kx, grid.ky, jacobian))
        return _to_pixels(modes, grid)
    if grid.galfit_pixels:
        response = shift_response(shape.position, grid)
        transfer = torch.stack(_times([response], transfer)[0], dim=1)
    # what of the transfer function lies on the FFT's own modes is enough for the outer piece
    smooth = _times(outer, grid.inside(transfer))
    if grid.galfit_pixels and profile.is_radial and not isinstance(profile, Boxy | Distorted):
        (far,) = _far_modes(shape, profile, grid, transfer)
        smooth[0] = smooth[0][0] + far[0], smooth[0][1] + far[1]
    smooth = _with_centre(smooth, grid.inside_kx, grid.inside_ky, jacobian)
    core = _with_centre(_times(core, transfer), grid.phase_kx, grid.phase_ky, jacobian)
    return _to_pixels(_fold(_stack(core), grid) + _stack(smooth), grid)


def _point_images(
    shape: Geometry, point: list[Pair], grid: Grid, transfer: Tensor, jacobian: bool
) -> Tensor:
    """Return images of a point of the modes ``point`` and their derivatives by x, y."""
    if grid.galfit_pixels:
        # GALFIT shifts the PSF image itself: no pixel, and no modes but those of the image. A PSF
        # that includes the pixel is not known to GALFIT
        kx, ky = grid.inside_kx, grid.inside_ky
        pixel = torch.sinc(kx / (2 * math.pi)) * torch.sinc(ky / (2 * math.pi))
        response = torch.stack(shift_response(shape.position, grid), dim=1)
        inside = [(grid.inside(re), grid.inside(im)) for re, im in point]
        modes = _times(_times(inside, grid.inside(response)), grid.inside(transfer) / pixel)
        return _to_pixels(_stack(_with_centre(modes, kx, ky, jacobian)), grid)
    modes = _with_centre(_times(point, transfer), grid.phase_kx, grid.phase_ky, jacobian)
    return _to_pixels(_fold(_stack(modes), grid) if grid.folds else _stack(modes), grid)


def _far_modes(shape: Geometry, profile: Profile, grid: Grid, transfer: Tensor) -> list[Pair]:
    """Return the excess of GALFIT's pixels far from the centre over the pixel integral."""
    coefficients = _columns(shape.coefficients, 3)
    log_size, width = _columns(torch.stack([shape.log_size, shape.width], dim=1), 3)

    def light(rho2: Tensor) -> Tensor:
        log_rho2 = torch.log(rho2) - 2 * log_size
        return profile.value(log_rho2, coefficients) * torch.exp(-2 * log_size)

    metric = _columns(shape.metric, 3)
    far = far_pixels(metric, shape.position, width, light, grid)
    kx, ky = grid.inside_kx, grid.inside_ky
    x0, y0 = _columns(shape.position - shape.position.round(), 3)
    pixel = torch.sinc(kx / (2 * math.pi)) * torch.sinc(ky / (2 * math.pi))
    phase = kx * x0 + ky * y0
    shift = torch.stack([torch.cos(phase), -torch.sin(phase)], dim=1) / pixel
    return _times(_times(_to_modes(far[:, None]), grid.inside(transfer)), shift)


Pair = tuple[Tensor, Tensor]  # real and imaginary part, each (B, kx, ky)


def _add(values: list[Pair], others: list[Pair]) -> list[Pair]:
    return [(a + c, b + d) for (a, b), (c, d) in zip(values, others, strict=True)]


def _times(values: list[Pair], transfer: Tensor) -> list[Pair]:
    t_re, t_im = transfer[:, 0], transfer[:, 1]
    return [(re * t_re - im * t_im, re * t_im + im * t_re) for re, im in values]


def _with_centre(values: list[Pair], kx: Tensor, ky: Tensor, jacobian: bool) -> list[Pair]:
    """Insert the derivatives by the centre: d / dx0 of exp(-i k x0) is -i k."""
    if not jacobian:
        return values
    re, im = values[0]
    return [values[0], (kx * im, -kx * re), (ky * im, -ky * re), *values[1:]]


def _stack(values: list[Pair]) -> Tensor:
    if torch.compiler.is_compiling():  # which makes one kernel of it, but not of complex numbers
        return torch.stack([torch.stack(pair, dim=-1) for pair in values], dim=1)
    return torch.view_as_real(torch.stack([torch.complex(*pair) for pair in values], dim=1))


def _to_modes(images: Tensor) -> list[Pair]:
    """Return Fourier modes (B, kx, ky) of images (B, C, rows, columns).

    kx comes first: one-dimensional transforms along the contiguous axis, with a transposition
    between them, are several times faster on a CPU than the library's two-dimensional ones.
    """
    along_x = torch.fft.rfft(images).transpose(-1, -2).contiguous()
    parts = torch.view_as_real(torch.fft.fft(along_x))
    return [(parts[:, i, ..., 0], parts[:, i, ..., 1]) for i in range(parts.shape[1])]


def _to_pixels(modes: Tensor, grid: Grid) -> Tensor:
    """Return images (B, C, H, W) of modes (B, C, kx, ky, 2)."""
    along_y = torch.fft.ifft(torch.view_as_complex(modes))[..., : grid.height]
    along_y = along_y.transpose(-1, -2).contiguous()
    return torch.fft.irfft(along_y, n=grid.columns)[..., : grid.width]


def _fold(modes: Tensor, grid: Grid) -> Tensor:
    """Add the modes beyond the Nyquist frequency to those they alias to by sampling.

    (B, C, all kx, all ky, 2) -> (B, C, columns / 2 + 1, rows, 2).
    """
    columns, half, last = grid.columns, grid.columns // 2, grid.kx.shape[0] - 1
    folded = modes.new_zeros(*modes.shape[:2], half + 1, modes.shape[3], 2)
    start = 0
    while start <= last:  # kx >= 0 that fold onto 0 ... half
        stop = min(start + half, last)
        folded[:, :, : stop - start + 1] += modes[:, :, start : stop + 1]
        start += columns
    start = columns
    sign = modes.new_tensor([1.0, -1.0])
    while start - half <= last:  # kx < 0: -start ... half - start fold onto 0 ... half
        # the mode at -kx is the conjugate of the one at kx with ky turned round
        stop = min(start, last)
        piece = modes[:, :, start - half : stop + 1].flip(2)[:, :, :, grid.ky_flip] * sign
        folded[:, :, start - stop :] += piece
        start += columns
    result = modes.new_zeros(*modes.shape[:2], half + 1, grid.rows, 2)
    return result.index_add_(3, grid.ky_target, folded)


def _columns(value: Tensor, ndim: int) -> tuple[Tensor, ...]:
    """Split (B, n) into n tensors (B, 1, ..., 1) that broadcast against pixels or modes."""
    return tuple(v.reshape(-1, *(1,) * (ndim - 1)) for v in value.unbind(-1))


def _quadratic(form: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
    return (form[0] * x + (2 * form[1]) * y) * x + form[2] * y * y


def _outer_modes(shape: Geometry, profile: Profile, grid: Grid, jacobian: bool) -> list[Pair]:
    """Return modes of the smooth outer piece, and of its derivatives except by the centre.

    Profiles with an edge are sampled at several points of each pixel, each set of points being one
    image that is shifted in Fourier space.
    """
    if profile.subpixels == 1:
        return _to_modes(_outer(shape, profile, grid, jacobian))
    n = profile.subpixels
    sums: list[Pair] = []
    for k in range(n * n):
        dx, dy = (k % n + 0.5) / n - 0.5, (k // n + 0.5) / n - 0.5
        offset = shape.position.new_tensor([dx, dy])
        moved = replace(shape, position=shape.position - offset)
        phase = grid.inside_kx * dx + grid.inside_ky * dy
        shift = torch.stack([torch.cos(phase), -torch.sin(phase)])[None] / n**2
        pairs = _times(_to_modes(_outer(moved, profile, grid, jacobian)), shift)
        sums = _add(sums, pairs) if sums else pairs
    return sums


def _outer(shape: Geometry, profile: Profile, grid: Grid, jacobian: bool) -> Tensor:
    """Return the smooth outer piece at pixel centres, and its derivatives except by the centre."""
    if isinstance(profile, EdgeOnDisk):
        return _images(edge_on.outer_images(profile, *_placed(shape), grid), jacobian)
    coefficients = _columns(shape.coefficients, 3)
    if isinstance(profile, Boxy):
        return _images(boxy.outer_images(profile, *_placed(shape), coefficients, grid), jacobian)
    if isinstance(profile, Distorted):
        numbers = *_placed(shape), coefficients
        return torch.stack(distorted.outer_images(profile, *numbers, grid, jacobian), dim=1)
    x0, y0 = _columns(shape.position, 3)
    dx, dy = grid.x - x0, grid.y - y0  # (B, 1, columns), (B, rows, 1)
    rho2 = _quadratic(_columns(shape.metric, 3), dx, dy).clamp_min(1e-8)
    log_size, width = _columns(torch.stack([shape.log_size, shape.width], dim=1), 3)
    log_rho2 = torch.log(rho2) - 2 * log_size
    scale = torch.exp(-2 * log_size)
    decay = 0.5 / width**2
    gauss = torch.exp((-rho2 * decay).clamp_min(LEAST_EXPONENT))
    hole = 1 - gauss
    hole2 = hole * hole  # ** is a slow general power here
    window = hole2 * hole2 * scale
    if not jacobian:
        return (profile.value(log_rho2, coefficients) * window)[:, None]
    f, f_log, f_shape = profile.derivatives(log_rho2, coefficients)
    outer = f * window
    falling = f_log * window
    by_rho2 = falling / rho2 + f * (hole2 * hole * gauss * (4 * decay * scale))
    falling = f_log * window
    images = [outer, -2 * (outer + falling), *(s * window for s in f_shape)]
    for i in range(2):
        images.append(by_rho2 * _quadratic(_columns(shape.metric_slopes[:, i], 3), dx, dy))
    return torch.stack(images, dim=1)


def _core_table(shape: Geometry, profile: Profile, grid: Grid, jacobian: bool) -> Tensor:
    """Return Hankel transforms of the core at multiples of S_STEP / width, with derivatives.

    The slope is dH / d(s^2) x 2, with s = |k| x width in the circularised metric.
    """
    width2 = (shape.width**2)[:, None]
    t2 = (grid.nodes**2)[None, :]
    log_rho2 = torch.log(t2 * width2) - 2 * shape.log_size[:, None]  # (B, N)
    window = (
        (1 - (1 - torch.exp(-0.5 * t2)) ** 4) * width2 * torch.exp(-2 * shape.log_size[:, None])
    )
    coefficients = _columns(shape.coefficients, 2)
    if not jacobian:
        core = profile.value(log_rho2, coefficients) * window
        return torch.stack([core @ grid.hankel, core @ grid.hankel_slope], dim=-1)
    f, f_log, f_shape = profile.derivatives(log_rho2, coefficients)
    core = f * window
    others = [-2 * (core + f_log * window), *(s * window for s in f_shape)]
    transforms = torch.stack([core, *others], dim=1) @ grid.hankel  # (B, 2 + S, table)
    slope = (core @ grid.hankel_slope)[:, None]
    return torch.cat([transforms[:, :1], slope, transforms[:, 1:]], dim=1).transpose(1, 2)


def _placed(shape: Geometry) -> tuple[Tensor, Tensor, Pair]:
    """Return position and eta (B, 2), and size and width (B, 1, 1), circularised pixels."""
    size, width = _columns(torch.stack([torch.exp(shape.log_size), shape.width], dim=1), 3)
    return shape.position, shape.eta, (size, width)


def _images(images: list[Tensor], jacobian: bool) -> Tensor:
    return torch.stack(images if jacobian else images[:1], dim=1)


def _core_modes(shape: Geometry, profile: Profile, grid: Grid, jacobian: bool) -> list[Pair]:
    """Return the core's transform at each mode: value, then by the coordinates but the centre."""
    _, eta, scales = _placed(shape)
    x0, y0 = _columns(shape.position, 3)
    phase = grid.phase_kx * x0 + grid.phase_ky * y0
    cos, sin = torch.cos(phase), -torch.sin(phase)
    if isinstance(profile, Distorted):
        numbers = eta, scales, _columns(shape.coefficients, 3)
        pairs = distorted.core_modes(profile, *numbers, grid, jacobian)
        return _times(pairs, torch.stack([cos, sin], dim=1))
    if isinstance(profile, PointSource):
        values = [torch.ones_like(shape.position[:, :1, None] + grid.kx + grid.ky)]
    elif isinstance(profile, EdgeOnDisk):
        values = edge_on.core_values(profile, eta, scales, grid)
    elif isinstance(profile, Boxy):
        coefficients = _columns(shape.coefficients, 3)
        values = boxy.core_values(profile, eta, scales, coefficients, grid, jacobian)
    else:
        table = _core_table(shape, profile, grid, jacobian)  # (B, S, 2 or 3 + shapes)
        values = _radial_core(shape, table, grid, jacobian)
    return [(v * cos, v * sin) for v in (values if jacobian else values[:1])]


def _radial_core(shape: Geometry, table: Tensor, grid: Grid, jacobian: bool) -> list[Tensor]:
    """Return the core's transform at each mode: value, then by ln size, ln shape, eta1, eta2."""
    kx, ky = grid.kx, grid.ky
    s = torch.sqrt(_quadratic(_columns(shape.inverse, 3), kx, ky).clamp_min(0.0))
    (width,) = _columns(shape.width[:, None], 3)
    position = (s * (width / S_STEP)).clamp_max(table.shape[1] - 1.001)
    i = position.to(torch.int64).clamp_min(0)  # NaN has no index, but stays NaN in t
    t = position - i
    index = i.flatten(1)

    def at(column: Tensor) -> Tensor:
        """Interpolate a table column (B, S) at each mode; whole rows are several times slower."""
        return column.gather(1, index).view_as(t)

    # cubic Hermite for the value; dH/ds = s x slope
    node = S_STEP * torch.arange(table.shape[1], dtype=table.dtype, device=table.device)
    value, slope = table[..., 0], S_STEP * node * table[..., 1]
    jump = value[:, 1:] - value[:, :-1]
    d0, d1 = slope[:, :-1], slope[:, 1:]
    linear, square, cube = (at(c) for c in (d0, 3 * jump - 2 * d0 - d1, d0 + d1 - 2 * jump))
    values = [at(value) + t * (linear + t * (square + t * cube))]
    if jacobian:
        rest = [at(c) + t * at(c[:, 1:] - c[:, :-1]) for c in table[..., 1:].unbind(-1)]
        by_s2 = rest[0] * (0.5 * width**2)
        values += rest[1:]
        for j in range(2):
            form = _columns(shape.inverse_slopes[:, j], 3)
            values.append(by_s2 * _quadratic(form, kx, ky))
    return values
