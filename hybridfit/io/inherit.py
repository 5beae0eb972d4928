"""Inheritance of keywords from a file's primary header.

The INHERIT convention of the FITS registry: an extension inherits the keywords of the primary
header unless it has its own, or ``INHERIT = F``. Only keywords that this package reads are taken.
"""

from __future__ import annotations

from astropy.io import fits

from hybridfit.io.image_header import value_in
from hybridfit.io.photometry import PHOTOMETRIC_KEYS

FRAME_KEYS = ("RADESYS", "RADECSYS", "EQUINOX", "MJD-OBS", "DATE-OBS")


def full_header(hdus: fits.HDUList, hdu: fits.hdu.base._BaseHDU) -> fits.Header:
    """Return the header of ``hdu`` with inherited keywords; a copy if there are any."""
    primary, own = hdus[0].header, hdu.header
    if hdu is hdus[0] or value_in(own, "INHERIT") is False:
        return own
    # the unit of an image in the primary HDU describes that image only
    skipped = {"BUNIT"} if hdus[0].header.get("NAXIS") else set()
    wanted = [key for key in (*PHOTOMETRIC_KEYS, *FRAME_KEYS) if key not in skipped]
    if "EQUINOX" in own or "RADESYS" in own or "RADECSYS" in own:  # never mix two headers' frames
        wanted = [key for key in wanted if key not in FRAME_KEYS[:3]]
    found = [key for key in wanted if key in primary and key not in own]
    if not found:
        return own
    whole = own.copy()
    for key in found:
        if (value := value_in(primary, key)) is not None:
            whole.append((key, value, primary.comments[key]))
    return whole
