"""Names and limits of the contents of cutouts, for options that must load without torch."""

NOISE_ROLES = ("sigma", "variance", "ivar")  # quantities that a noise map may hold
START_NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")
MOST_OVERSAMPLING = 32  # memory grows by its square
OVERSAMPLINGS = f"a whole number from 1 to {MOST_OVERSAMPLING}"
PSF_CENTERS = ("array", "centroid", "galfit")  # definitions of a PSF image's centre


def is_oversampling(value: float) -> bool:
    """Return whether a PSF can have this many pixels per image pixel."""
    return 1 <= value <= MOST_OVERSAMPLING and value == int(value)


INTERPOLATIONS = ("linear", "nearest")  # of PSFs between the positions of a grid
