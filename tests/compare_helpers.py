"""Small catalogues for tests of comparisons, and other programs' files in their true formats."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from hybridfit.io.references.catalogue import COLUMN, NAMES, Catalogue

ERRORS = {"x": 0.02, "y": 0.03, "mag": 0.02, "r_eff": 0.05, "n": 0.1, "q": 0.01, "pa": 1.5}


def galaxies(n: int, seed: int = 0) -> np.ndarray:
    """(n, 7) plausible parameters."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            rng.uniform(30, 34, n),
            rng.uniform(30, 34, n),
            rng.uniform(18, 22, n),
            rng.uniform(2, 6, n),
            rng.uniform(0.8, 4, n),
            rng.uniform(0.3, 0.7, n),
            rng.uniform(0, 180, n),
        ],
        axis=1,
    )


def catalogue(values: np.ndarray, errors: np.ndarray | None = None, **more) -> Catalogue:
    """A catalogue of (N, 7) or (N, K, 7) values; ids g0, g1 ..."""
    values = values[:, None] if values.ndim == 2 else values
    if errors is not None:
        errors = np.broadcast_to(errors[:, None] if errors.ndim == 2 else errors, values.shape)
    given = {"name": "somebody", "kind": "table", "id": [f"g{i}" for i in range(len(values))]}
    if errors is not None:
        more = {"errors": errors, **more}
    return Catalogue(**{**given, "values": values, **more})


def sigma(n: int) -> np.ndarray:
    """(n, 7) the errors of `ERRORS`."""
    return np.tile([ERRORS[name] for name in NAMES], (n, 1))


def noisy(truth: np.ndarray, seed: int = 1) -> np.ndarray:
    """Truth plus Gaussian errors, angles in [0, 180)."""
    rng = np.random.default_rng(seed)
    out = truth + rng.standard_normal(truth.shape) * sigma(len(truth))
    out[:, COLUMN["pa"]] %= 180
    return out


def table_of(values: np.ndarray, errors: np.ndarray | None = None, ids=None) -> Table:
    """A table with our names."""
    table = Table({"id": [f"g{i}" for i in range(len(values))] if ids is None else ids})
    for k, name in enumerate(NAMES):
        table[name] = values[:, k]
        if errors is not None:
            table[f"{name}_err"] = errors[:, k]
    return table


IMFIT = """\
# Best-fit model results for imfit (version 1.9)
# Generated on Sat Nov 21 2026 by the following command:
#    imfit image.fits -c config.dat --noise sigma.fits
# Results of fit:
#   Levenberg-Marquardt: status = 1 -- SUCCESS: Convergence in fit-statistic value.
#   Fit statistic: chi-squared (user-supplied errors)
#   Best-fit value: 4000.500000
#   Reduced value: 0.978356
#   AIC: 4014.5
#   BIC: 4058.7

X0		32.9439 # +/- 0.0128
Y0		34.0933 # +/- 0.0156
FUNCTION Sersic   # LABEL bulge
PA		198.2612 # +/- 0.30986	deg (CCW from +y axis)
ell		0.25 # +/- 0.0023165
n		2 # +/- 0.018072
I_e		20.0 # +/- 0.40396	counts/pixel
r_e		5 # +/- 0.86063	pixels
FUNCTION Exponential
PA		20.0 # +/- 0	deg (CCW from +y axis)
ell		0.5 # +/- 0.01
I_0		10 # +/- 0.2	counts/pixel
h		10 # +/- 0.5	pixels

X0		1.0000 # +/- 0.0000
Y0		1.0000 # +/- 0.0000
FUNCTION FlatSky
I_sky		1.5e-01 # +/- 2.0e-03	counts/pixel
"""

ASCII_HEAD = """\
#   1 NUMBER                 Running object number
#   2 X_IMAGE                Object position along x                                    [pixel]
#   3 Y_IMAGE                Object position along y                                    [pixel]
#   4 ERRX2_IMAGE            Variance of position along x                               [pixel**2]
#   5 ERRY2_IMAGE            Variance of position along y                               [pixel**2]
#   6 MAG_AUTO               Kron-like elliptical aperture magnitude                    [mag]
#   7 MAGERR_AUTO            RMS error for AUTO magnitude                               [mag]
#   8 FLUX_RADIUS            Fraction-of-light radii                                    [pixel]
#  10 ELLIPTICITY            1 - B_IMAGE/A_IMAGE
#  11 THETA_IMAGE            Position angle (CCW/x)                                     [deg]
#  12 FLAGS                  Extraction flags
#  13 ALPHA_J2000            Right ascension of barycenter (J2000)                      [deg]
#  14 DELTA_J2000            Declination of barycenter (J2000)                          [deg]
         1    11.0000    21.0000 4.0e-04 9.0e-04 20.50  0.03  4.000  7.000 0.360 -30.0 0 150.00 2.00
         2    51.5000    61.2500 1.0e-02 1.0e-02 99.00 99.00  3.000  5.000 0.000  80.0 4 150.01 2.01
"""
