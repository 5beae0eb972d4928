"""Keywords of a file's primary header that count for its extensions.

The INHERIT convention of the FITS registry: an extension has what the primary header says unless
it says otherwise itself, or ``INHERIT = F``. Only what this package asks of headers is taken.
"""

from __future__ import annotations

from astropy.io import fits

from hybridfit.io.image_header import value_in
from hybridfit.io.photometry import PHOTOMETRIC_KEYS

FRAME_KEYS = ("RADESYS", "RADECSYS", "EQUINOX", "MJD-OBS", "DATE-OBS")


def full_header(hdus: fits.HDUList, hdu: fits.hdu.base._BaseHDU) -> fits.Header:
    """Return the header of ``hdu`` with what it inherits; a new one if there is any."""
    primary, own = hdus[0].header, hdu.header
    if hdu is hdus[0] or value_in(own, "INHERIT") is False:
        return own
    # the unit of an image in the primary HDU is that image's
    skipped = {"BUNIT"} if hdus[0].header.get("NAXIS") else set()
    wanted = [key for key in (*PHOTOMETRIC_KEYS, *FRAME_KEYS) if key not in skipped]
    if "EQUINOX" in own or "RADESYS" in own or "RADECSYS" in own:  # a frame is not made of two
        wanted = [key for key in wanted if key not in FRAME_KEYS[:3]]
    found = [key for key in wanted if key in primary and key not in own]
    if not found:
        return own
    whole = own.copy()
    for key in found:
        if (value := value_in(primary, key)) is not None:
            whole.append((key, value, primary.comments[key]))
    return whole
