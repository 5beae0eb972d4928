"""Write input files of GALFIT 3; with a chi2 at the start they are restart files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from hybridfit.io.galfit import shapes
from hybridfit.io.galfit.conventions import FAMILY, NATIVE, bounds_of, raw_values
from hybridfit.io.galfit.entries import Component, Feedme, Outcome, Value
from hybridfit.io.writing import atomic

RULE = "=" * 80
TEXTS = {
    "3": "Integrated magnitude",
    "4": "R_e (effective radius)   [pix]",
    "5": "Sersic index n (de Vaucouleurs n=4)",
    "9": "Axis ratio (b/a)",
    "10": "Position angle (PA) [deg: Up=0, Left=90]",
    "C0": "Diskyness(-)/Boxyness(+)",
}
BRIGHTNESS = "Central surface brightness [mag/arcsec^2]"
OWN_TEXTS: dict[str, dict[str, str]] = {
    "expdisk": {"4": "R_s (disk scale-length)   [pix]"},
    "gaussian": {"4": "FWHM   [pix]"},
    "moffat": {"4": "FWHM   [pix]", "5": "Powerlaw"},
    "ferrer": {
        "3": BRIGHTNESS,
        "4": "Outer truncation radius  [pix]",
        "5": "Alpha (outer truncation sharpness)",
        "6": "Beta (central slope)",
    },
    "nuker": {
        "3": "Surface brightness at R_b [mag/arcsec^2]",
        "4": "R_b   [pix]",
        "5": "Alpha (sharpness of transition)",
        "6": "Beta (outer power law slope)",
        "7": "Gamma (inner power law slope)",
    },
    "king": {"3": BRIGHTNESS, "4": "R_c   [pix]", "5": "R_t   [pix]", "6": "Alpha"},
    "edgedisk": {
        "3": BRIGHTNESS,
        "4": "Disk scale-height   [pix]",
        "5": "Disk scale-length   [pix]",
    },
}
ROTATION_TEXTS = {
    "R1": "Spiral inner radius [pixels]",
    "R2": "Spiral outer radius [pixels]",
    "R3": "Cumul. rotation out to outer radius [degrees]",
    "R4": "Asymptotic spiral power law, or scale radius [pixels]",
    "R9": "Inclination to L.o.S. [degrees]",
    "R10": "Sky position angle",
}
SKY_TEXTS = {
    "1": "Sky background at center of fitting region [ADUs]",
    "2": "dsky/dx (sky gradient in x)     [ADUs/pix]",
    "3": "dsky/dy (sky gradient in y)     [ADUs/pix]",
}


def write_feedme(feedme: Feedme, path: str | Path | None = None) -> Path:
    """Write an input file of GALFIT 3, whatever version it was read from.

    Numbers are written with all their digits, so that reading the file returns the same values.
    With a chi2 and degrees of freedom the file starts like a restart file.

    Args:
        feedme: a single band, with components without extras.
        path: default: ``feedme.path``.

    Returns:
        The path of the file.

    Raises:
        ValueError: if GALFIT could not read the file, or information would be lost.
    """
    path = feedme.path if path is None else Path(path)
    with atomic(path) as file:
        file.write(feedme_text(feedme).encode())
    return path


def with_results(feedme: Feedme, outcome: Outcome) -> Feedme:
    """Return an input file that starts from the result of a run: GALFIT's restart file.

    Fixed parameters stay fixed, regardless of the outcome.

    Raises:
        ValueError: if the components differ in number or kind.
    """
    asked, found = feedme.components, outcome.components
    if [c.kind for c in asked] != [c.kind for c in found]:
        raise ValueError(
            f"the run has components {[c.kind for c in found]}, expected {[c.kind for c in asked]}"
        )
    parts = tuple(
        replace(
            part,
            values={
                name: replace(start, value=result.values[name].value)
                for name, start in part.values.items()
            },
        )
        for part, result in zip(asked, found, strict=True)
    )
    return replace(
        feedme, components=parts, chi2=outcome.chi2, dof=outcome.dof, chi2nu=outcome.chi2nu
    )


def feedme_text(feedme: Feedme) -> str:
    """Return the text of an input file; see `write_feedme`."""
    if len(feedme.bands) > 1:
        raise ValueError(f"the input file has {len(feedme.bands)} bands, expected one")
    if feedme.region is None:
        raise ValueError("the input file has no region, expected x0, x1, y0, y1")
    box = feedme.convolution_box
    least = f" {_text(feedme.min_sigma)}" if feedme.min_sigma else ""
    kernel = f" {_name(feedme.kernel)}" if feedme.kernel else ""
    control = [
        ("A", _name(feedme.image), "Input data image (FITS file)"),
        ("B", _name(feedme.output), "Output data image block"),
        ("C", _name(feedme.sigma) + least, 'Sigma image name (made from data if blank or "none")'),
        ("D", _name(feedme.psf) + kernel, "Input PSF image and (optional) diffusion kernel"),
        ("E", f"{feedme.psf_oversampling}", "PSF fine sampling factor relative to data"),
        ("F", _name(feedme.mask), "Bad pixel mask (FITS image or ASCII coord list)"),
        ("G", _name(feedme.constraints), "File with parameter constraints (ASCII file)"),
        ("H", " ".join(map(str, bounds_of(feedme.region))), "Image region to fit"),
        ("I", f"{box[0]} {box[1]}", "Size of the convolution box (x y)") if any(box) else None,
        ("J", _text(feedme.zeropoint), "Magnitude photometric zeropoint"),
        ("K", " ".join(map(_text, feedme.pixel_scale)), "Plate scale (dx dy)   [arcsec per pixel]")
        if all(map(math.isfinite, feedme.pixel_scale))
        else None,
        ("O", "regular", "Display type (regular, curses, both)"),
        ("P", f"{feedme.mode}", "Choose: 0=optimize, 1=model, 2=imgblock, 3=subcomps"),
    ]
    lines = [_head(feedme), RULE, "# IMAGE and GALFIT CONTROL PARAMETERS"]
    lines += [f"{key}) {text:<22} # {comment}" for key, text, comment in filter(None, control)]
    for k, part in enumerate(feedme.components, start=1):
        lines += ["", f"# Component number: {k}", *_component(k, part)]
    return "\n".join([*lines, "", RULE, ""])


def _head(feedme: Feedme) -> str:
    if feedme.dof < 0 or not math.isfinite(feedme.chi2):
        return ""
    numbers = f"Chi^2/nu = {feedme.chi2nu:.3f},  Chi^2 = {feedme.chi2:.3f},  Ndof = {feedme.dof}"
    return f"\n#  Input menu file: {feedme.path.name}\n\n#  {numbers}\n"


def _component(k: int, part: Component) -> list[str]:
    if part.extras:
        raise ValueError(
            f"component {k} ({part.kind}) has terms {', '.join(part.extras)}, whose values were "
            "not kept: expected ellipses, or boxy ones"
        )
    raw = raw_values(part)
    lines = [f" 0) {part.kind:<22} #  Component type"]
    texts = (
        SKY_TEXTS if part.kind == "sky" else TEXTS | ROTATION_TEXTS | OWN_TEXTS.get(part.kind, {})
    )
    known = part.kind in FAMILY or part.kind in NATIVE or part.kind == "sky"
    if part.kind != "sky":
        x, y = raw.pop("x"), raw.pop("y")
        pair = f"{_text(x.value)} {_text(y.value)} {_toggle(x)} {_toggle(y)}"
        lines.append(f" 1) {pair:<22} #  Position x, y")
    rotation = shapes.rotation_of(part.values)
    for row, value in raw.items():
        if row == "R1":
            lines.append(f"R0) {rotation:<22} #  Coordinate rotation function")
        if row.endswith("PA"):
            continue
        if phase := raw.get(f"{row}PA"):
            pair = f"{_text(value.value)} {_text(phase.value)} {_toggle(value)} {_toggle(phase)}"
            lines.append(f"{row:>2}) {pair:<22} #  Azim. Fourier mode, amplitude and phase angle")
            continue
        number = f"{_text(value.value)} {_toggle(value)}"
        lines.append(f"{row:>2}) {number:<22} #  {texts.get(row, '-----') if known else '-----'}")
    skip = "Skip this model in output image?  (yes=1, no=0)"
    return [*lines, f" Z) {int(part.skipped):<22} #  {skip}"]


def _toggle(value: Value) -> int:
    return int(not value.fixed)


def _text(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"a value is {value}, expected a finite number")
    return repr(float(value)).removesuffix(".0")


def _name(name: str) -> str:
    """Return a file name; GALFIT's names end at white space."""
    if len(name.split()) > 1:
        raise ValueError(f"the file name '{name}' contains white space, which GALFIT cannot read")
    return name or "none"
