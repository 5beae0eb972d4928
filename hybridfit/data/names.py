"""Names and limits of what cutouts may hold, for options that must not wait for torch."""

NOISE_ROLES = ("sigma", "variance", "ivar")  # what a noise map may hold
START_NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")
MOST_OVERSAMPLING = 32  # memory grows by its square
OVERSAMPLINGS = f"a whole number from 1 to {MOST_OVERSAMPLING}"
PSF_CENTERS = ("array", "centroid", "galfit")  # what of a PSF image is its centre


def is_oversampling(value: float) -> bool:
    """Whether a PSF can have so many pixels per image pixel."""
    return 1 <= value <= MOST_OVERSAMPLING and value == int(value)
