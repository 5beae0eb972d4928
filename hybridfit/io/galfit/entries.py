"""The content of GALFIT's files in our conventions: x, y from 0, half-light radii, pa mod 180.

GALFIT counts pixels from 1, and gives scale lengths for discs and FWHM for Gaussians (Peng et al.
2010, AJ 139, 2097); these conventions stay inside this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SERSIC_KINDS = ("sersic", "devauc", "expdisk", "gaussian")
PLAIN = {"x", "y", "mag", "r_eff", "n", "q", "pa"}  # values of an ellipse


class GalfitError(ValueError):
    """A file that is not valid for GALFIT; the message names the file and the line.

    Args:
        path: the file.
        line: line number, from 1; None if the error is not on a single line.
        text: what was expected, what was found, and what to do.
    """

    def __init__(self, path: str | Path, line: int | None, text: str) -> None:
        where = f"'{path}'" if line is None else f"'{path}', line {line}"
        super().__init__(f"{where}: {text}")
        self.path, self.line = Path(path), line


@dataclass(frozen=True)
class Value:
    """One number of a component.

    Args:
        value: NaN if the file's value is invalid.
        error: standard deviation; NaN if there is none.
        fixed: not fitted: toggle 0, or ``[..]`` in results.
        coupled: tied to another parameter by a constraint, ``{..}``.
        suspect: marked by GALFIT as numerically doubtful, ``*..*``.
    """

    value: float
    error: float = math.nan
    fixed: bool = False
    coupled: bool = False
    suspect: bool = False


@dataclass(frozen=True)
class Component:
    """One component of a model, with initial or fitted values.

    Args:
        kind: GALFIT's name: ``sersic``, ``expdisk``, ``devauc``, ``gaussian``, ``psf``, ``sky``...
        values: by name. The Sersic family has x, y [pix, from 0 in the image], mag, r_eff
            [pix, half light, semi-major], n, q, pa [deg, in [0, 180), from +y towards -x]:
            n of devauc is 4, of expdisk 1 (r_eff = 1.67835 Rs), of gaussian 0.5 (r_eff =
            FWHM / 2), fixed. A psf has x, y, mag; a moffat fwhm and beta; a ferrer mu [mag /
            arcsec^2 at the centre], r_out, alpha, beta; a king mu, r_c, r_t, alpha; an edgedisk
            mu, h_s, r_s; a nuker mu [at r_b], r_b, alpha, beta, gamma. All but the psf may have
            what distorts isophotes: c0; f1_amp, f1_phase
            [deg, from +y towards -x: GALFIT's plus pa]...; b1 [pix]...; rot_in, rot_out [pix],
            rot_angle [deg], rot_power or rot_scale [pix], rot_incl, rot_pa [deg]. A sky has sky,
            sky_dx, sky_dy. Others have x, y, mag and the rest under GALFIT's own numbers, "4"...
        extras: shape terms that affect the model and whose values are not kept: "T0", "Ti"...
        skipped: excluded from the model that is subtracted, ``Z) 1``.
    """

    kind: str
    values: Mapping[str, Value]
    extras: tuple[str, ...] = ()
    skipped: bool = False

    @property
    def is_sersic(self) -> bool:
        """Return whether the component is a plain ellipse of the Sersic family."""
        return self.kind in SERSIC_KINDS and not self.extras and set(self.values) <= PLAIN


class _Model:
    """The part that input files and results have in common."""

    components: tuple[Component, ...]

    @property
    def sersics(self) -> tuple[Component, ...]:
        """Return the components of the Sersic family."""
        return tuple(c for c in self.components if c.is_sersic)

    @property
    def sky(self) -> Component | None:
        """Return the sky component, if any."""
        return next((c for c in self.components if c.kind == "sky"), None)


@dataclass(frozen=True)
class Feedme(_Model):
    """A GALFIT input file (or restart file); file names are as written, "" for none.

    Args:
        path: the file itself.
        image, output, sigma, psf, kernel, mask, constraints: A) to G).
        min_sigma: second entry of C), 0 if absent.
        psf_oversampling: E).
        region: x0, x1, y0, y1 of H), from 0, half-open.
        convolution_box: x and y of I), 0, 0 if absent.
        zeropoint: J); NaN if absent.
        pixel_scale: dx, dy of K) [arcsec]; NaN if absent.
        mode: P): 0 optimise, 1 model, 2 image block, 3 subcomponents.
        bands: GALFITM's A1), if there are several bands: values are those of the first.
        components: initial values; fixed means toggle 0.
        version: GALFIT's major version, 2 or 3.
        chi2, dof, chi2nu: from a restart file's header; NaN, -1, NaN otherwise.
        notes: notes for the user, in sentences.
    """

    path: Path
    image: str = ""
    output: str = ""
    sigma: str = ""
    psf: str = ""
    kernel: str = ""
    mask: str = ""
    constraints: str = ""
    min_sigma: float = 0.0
    psf_oversampling: int = 1
    region: tuple[int, int, int, int] | None = None
    convolution_box: tuple[int, int] = (0, 0)
    zeropoint: float = math.nan
    pixel_scale: tuple[float, float] = (math.nan, math.nan)
    mode: int = 0
    bands: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    version: int = 3
    chi2: float = math.nan
    dof: int = -1
    chi2nu: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def pixel_area(self) -> float:
        """Return the area of a pixel [arcsec^2] by row K); 1 where it is missing."""
        area = abs(self.pixel_scale[0] * self.pixel_scale[1])
        return area if area > 0 else 1.0

    def resolve(self, name: str) -> Path:
        """Return the path of a file named relative to the feedme's folder."""
        return self.path.parent / name


@dataclass(frozen=True)
class Outcome(_Model):
    """The result of one GALFIT run, from an image block, an entry of fit.log or a restart file.

    Args:
        path: the file it was read from.
        feedme, image, restart, output, sigma, psf, mask: names as written, "" for none.
        region: x0, x1, y0, y1, from 0, half-open; None if unknown.
        zeropoint: NaN if unknown (logs).
        components: fitted values, with errors if available.
        chi2, dof, chi2nu, n_free: NaN or -1 if unknown.
        flags: GALFIT's flags, "1", "2", "A-1", "I" ...
        version: text as written, "" if unknown.
        bands: GALFITM's bands, if there are several: values are those of the first.
        notes: notes for the user, in sentences.
    """

    path: Path
    feedme: str = ""
    image: str = ""
    restart: str = ""
    output: str = ""
    sigma: str = ""
    psf: str = ""
    mask: str = ""
    region: tuple[int, int, int, int] | None = None
    zeropoint: float = math.nan
    components: tuple[Component, ...] = ()
    chi2: float = math.nan
    dof: int = -1
    chi2nu: float = math.nan
    n_free: int = -1
    flags: tuple[str, ...] = ()
    version: str = ""
    bands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
