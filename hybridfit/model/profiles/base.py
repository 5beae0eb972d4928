"""The contract of a profile: its parameters, its brightness, and what the renderer reads of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.prior import LogNormal, Normal

# smaller values of exp are rounded away next to the rest of any image; if its result underflows,
# `torch.exp` takes thirty times as long on a CPU
LEAST_EXPONENT = -80.0
Values = Mapping[str, Tensor]  # public parameters of a component by name, of one shape


@dataclass(frozen=True)
class ShapeParameter:
    """A shape parameter: ``value = shift + sign exp(z)``, where z is its render coordinate.

    A linear one, whose prior is normal, is its render coordinate itself: ``value = z``.

    Args:
        name: as users write it.
        unit: empty for numbers without one.
        description: one line.
        prior: of exp(z), which is the value itself unless there is a shift or a sign; or of the
            value, if it is normal; None if the user must give one.
        shift, sign: of the value; ``sign`` is 1 or -1.
    """

    name: str
    unit: str = ""
    description: str = ""
    prior: LogNormal | Normal | None = None
    shift: float = 0.0
    sign: float = 1.0

    def __post_init__(self) -> None:
        if self.sign not in (1.0, -1.0):
            raise ValueError(f"sign of '{self.name}' is {self.sign}, expected 1 or -1")
        if self.is_linear and (self.shift, self.sign) != (0.0, 1.0):
            raise ValueError(f"'{self.name}' has a normal prior, expected no shift and no sign")

    @property
    def is_linear(self) -> bool:
        """Whether the value is the coordinate itself."""
        return isinstance(self.prior, Normal)

    @property
    def is_plain(self) -> bool:
        """Whether the value is exp(z) itself."""
        return (self.shift, self.sign) == (0.0, 1.0) and not self.is_linear

    def value(self, z: Tensor) -> Tensor:
        """Return the value at the render coordinate ``z``."""
        if self.is_linear:
            return z
        return torch.exp(z) if self.is_plain else self.shift + self.sign * torch.exp(z)

    def slope(self, z: Tensor) -> Tensor:
        """Return the derivative of the value by the render coordinate ``z``."""
        return torch.ones_like(z) if self.is_linear else self.sign * torch.exp(z)

    def coordinate(self, value: Tensor) -> Tensor:
        """Return the render coordinate of a value; NaN where there is none."""
        return value if self.is_linear else torch.log(self.sign * (value - self.shift))

    def of_prior(self, value: float) -> float:
        """Return the value where the prior's own variable is ``value``."""
        return value if self.is_linear else self.shift + self.sign * value


@dataclass(frozen=True)
class NativeScale:
    """A scale of a profile in the terms of its literature, for tables: name, unit, meaning."""

    name: str
    unit: str
    description: str


class Profile:
    """A radial profile; subclasses define ``shape_parameters`` and ``evaluate``.

    Names alone are enough, ``shape = ("n",)``: such parameters are positive, and the user gives
    their priors.
    """

    shape: tuple[str, ...] = ()
    shape_parameters: tuple[ShapeParameter, ...] = ()
    scales: tuple[NativeScale, ...] = ()
    # points of a pixel along each axis at which the light away from the centre is sampled: one is
    # enough unless it has an edge
    subpixels: int = 1
    is_radial: bool = True  # whether `evaluate` gives the brightness as a function of a radius
    has_total_light: bool = True  # whether `mag` and `r_eff` are of all of its light
    compiles: bool = True  # whether its kernels are compiled where that pays

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "shape_parameters" in cls.__dict__:
            cls.shape = tuple(p.name for p in cls.shape_parameters)
        elif "shape" in cls.__dict__:
            cls.shape_parameters = tuple(ShapeParameter(name) for name in cls.shape)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the render coordinates."""
        return ("x", "y", "size", *self.shape, "eta1", "eta2")

    @property
    def has_plain_parameters(self) -> bool:
        """Whether it has size and ellipticity, and all shape parameters are exp of coordinates."""
        whole = self.coordinates == ("x", "y", "size", *self.shape, "eta1", "eta2")
        return whole and all(p.is_plain for p in self.shape_parameters)

    @property
    def key(self) -> object:
        """Hashable; equal for profiles that are one and the same, a key of compiled kernels."""
        return type(self)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Return the surface brightness at ``rho``, the elliptical radius over the size parameter.

        Args:
            rho: radius in units of the size parameter, any shape, > 0.
            shape: the shape parameters, broadcast against ``rho``.

        Returns:
            Brightness normalised so that its integral 2 pi rho d rho is 1.
        """
        raise NotImplementedError

    def native_scales(self, values: Values) -> dict[str, Tensor]:
        """Return the scales named in ``scales`` of r_eff [pix], q and the shape parameters."""
        return {}

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return r_eff (and q where it is native) and the shape parameters of native scales.

        Args:
            native: the scales named in ``scales``, and the shape parameters that are native.
        """
        return {name: native[name] for name in ("r_eff", *self.shape)}

    def central_brightness(self, values: Values) -> Tensor:
        """Return the brightness at the centre per unit of total flux, 1 / pix^2.

        It turns magnitudes of a central surface brightness, as GALFIT has them for some profiles,
        into total ones.
        """
        r_eff = values["r_eff"]
        centre = self.evaluate(torch.full_like(r_eff, 1e-9), *(values[n] for n in self.shape))
        return centre / (r_eff**2 * values["q"])

    def prepare(self, log_shape: Tensor) -> Tensor:
        """Turn render coordinates of the shape (B, S) into coefficients (B, C) used per pixel."""
        return self.shape_values(log_shape)

    def shape_values(self, log_shape: Tensor) -> Tensor:
        """Return the shape parameters (B, S) of their render coordinates (B, S)."""
        if all(p.is_plain for p in self.shape_parameters):
            return torch.exp(log_shape)
        columns = zip(self.shape_parameters, log_shape.unbind(1), strict=True)
        return torch.stack([p.value(z) for p, z in columns], dim=1)

    def value(self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Return the brightness at ln(rho^2), without derivatives."""
        return self.evaluate(torch.exp(0.5 * log_rho2), *coefficients)

    def derivatives(
        self, log_rho2: Tensor, coefficients: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the brightness and its derivatives by ln(rho^2) and each shape coordinate.

        The default is automatic (forward mode); override it if speed matters.
        """

        def at(log_rho2: Tensor, *log_shape: Tensor) -> Tensor:
            values = (p.value(z) for p, z in zip(self.shape_parameters, log_shape, strict=True))
            return self.evaluate(torch.exp(0.5 * log_rho2), *values)

        columns = zip(self.shape_parameters, coefficients, strict=True)
        f, slopes = forward_slopes(at, log_rho2, *(p.coordinate(c) for p, c in columns))
        return f, slopes[0], slopes[1:]


def forward_slopes(
    function: Callable[..., Tensor], *arguments: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return an elementwise function and its derivative by each argument, in forward mode."""
    if torch.is_inference_mode_enabled() and not torch.compiler.is_compiling():
        # there torch (2.6 and 2.8 were tried) gives powers a slope of 0
        with torch.inference_mode(False), torch.no_grad():
            return _slopes(function, *(argument.clone() for argument in arguments))
    return _slopes(function, *arguments)


def _slopes(
    function: Callable[..., Tensor], *arguments: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    value, slopes = arguments[0], []
    for i in range(len(arguments)):
        one_hot = tuple(
            torch.ones_like(a) if i == j else torch.zeros_like(a) for j, a in enumerate(arguments)
        )
        value, slope = torch.func.jvp(function, arguments, one_hot)[:2]
        slopes.append(slope)
    return value, tuple(slopes)


def at_least(exponent: Tensor) -> Tensor:
    """Limit an exponent so that its exp does not underflow."""
    return exponent.clamp_min(LEAST_EXPONENT)


LOG_2PI = math.log(2 * math.pi)
