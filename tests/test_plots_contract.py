"""What every plot function keeps: it draws, warns of nothing, and leaves no figure behind."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from plots_helpers import PICTURES, SIDE, sky_wcs, tables

from hybridfit import plots

RNG = np.random.default_rng(5)
NAMES = ("x", "mag", "pa")


def batch(n: int, **changed) -> Figure:
    image = RNG.normal(size=(n, 20, 24))
    given = {"image": image, "model": 0 * image, "sigma": 0 * image + 1} | changed
    return plots.plot_residuals(**given)


def rivals(**changed) -> Figure:
    image = RNG.normal(size=(20, 24))
    given = {"image": image, "theirs": 0 * image, "ours": 0 * image, "sigma": 0 * image + 1}
    return plots.plot_rivals(**{**given, "mask": image > 9, **changed})


def differences(n: int, value: float = 0.1) -> Figure:
    offsets = value * RNG.normal(size=n)
    mag = np.linspace(18, 24, n)
    kinds = ["certified", "usable"] * (n // 2) + ["suspect"] * (n % 2)
    return plots.plot_differences(mag, {"ln r_eff": offsets}, {"ln r_eff": offsets * 0}, kinds)


def curve() -> Table:
    level = np.linspace(0.05, 0.95, 19)
    made = Table({"level": level, "error": 0.02 + 0 * level, "mag": level, "n": level**2})
    made["coverage"] = level
    made.meta.update(n=100, p_value=0.3)
    return made


def bins() -> Table:
    rows = [
        {"bin": "snr", "parameter": name, "low": low, "high": high, "width": 1.2}
        | {f"cover_{p}{end}": value for p in (68, 95) for end, value in (("", 0.7), ("_err", 0.02))}
        for name in ("mag", "n")
        for low, high in ((10.0, 30.0), (30.0, math.inf))
    ]
    return Table(rows)


def ranks(n: int) -> Table:
    histogram = [RNG.integers(0, 9, 10) for _ in range(n)]
    made = Table({"parameter": [f"p{k}" for k in range(n)], "n": [50] * n})
    made["histogram"], made["chi2_p"], made["ks_p"] = histogram, [0.5] * n, [1e-9] * n
    return made


def corner(n: int) -> Figure:
    layers = [
        plots.DrawsLayer("draws", RNG.normal(size=(n, 3))),
        plots.GaussianLayer("failed", np.full(3, math.nan), np.full((3, 3), math.nan)),
    ]
    return plots.plot_corner(NAMES, layers, {"mag": math.nan}, title="$ an id \u4e16")


def truth_of(count: int, **columns: float) -> Figure:
    table, truth = tables(count)
    for name, value in columns.items():
        table[name][: count // 2 + 1] = value
    return plots.plot_truth(table, truth)


def pulls(n: int) -> Figure:
    return plots.plot_pulls({"mag": RNG.normal(size=n), "n": np.full(n, math.nan)})


def chi2(n: int) -> Figure:
    excess = np.where(np.arange(n) % 3 == 0, math.nan, RNG.normal(size=n) * 1e3)
    return plots.plot_chi2(np.linspace(18, 24, n), excess, ["alike"] * n)


MANY = np.full((12, 20, 24), math.nan)
CASES: dict[str, dict[str, Callable[[], Figure]]] = {
    "plot_galaxy": {name: lambda one=one: plots.plot_galaxy(one) for name, one in PICTURES.items()},
    "plot_residuals": {
        "one": lambda: batch(1),
        "twelve": lambda: batch(12, titles=["a $ title " * 20] * 12),
        "nan": lambda: batch(12, image=MANY, model=MANY),
        "masked": lambda: batch(2, mask=np.ones((2, 20, 24), bool)),
        "sky": lambda: batch(2, wcs=[sky_wcs(), None], pixel_scale=[0.2, math.nan]),
        "pixel": lambda: batch(1, image=MANY[:1, :1, :1], model=MANY[:1, :1, :1], sigma=[[[0.0]]]),
    },
    "plot_rivals": {
        "both": rivals,
        "sky": lambda: rivals(wcs=sky_wcs(), pixel_scale=0.2, names=("a $ name", "ours")),
        "zoom": lambda: rivals(box=plots.Box(2, 14, 5, 17), wcs=sky_wcs(), origin=(100.0, 7.0)),
        "no model": lambda: rivals(theirs=MANY[0], ours=MANY[0]),
        "nan": lambda: rivals(image=MANY[0], sigma=MANY[0]),
        "masked": lambda: rivals(mask=np.ones((20, 24), bool)),
    },
    "plot_truth": {
        "one": lambda: truth_of(1),
        "twelve": lambda: truth_of(12),
        "nan": lambda: truth_of(12, mag=math.nan, r_eff_err=math.nan),
        "failed": lambda: truth_of(1, **dict.fromkeys(plots.LABELS, math.nan)),
    },
    "plot_corner": {"some": lambda: corner(300), "few": lambda: corner(2)},
    "plot_differences": {
        "none": lambda: differences(0),
        "one": lambda: differences(1),
        "many": lambda: differences(300),
        "nan": lambda: differences(12, math.nan),
        "alike": lambda: differences(12, 0.0),
    },
    "plot_pulls": {"one": lambda: pulls(1), "many": lambda: pulls(300), "none": lambda: pulls(0)},
    "plot_chi2": {"one": lambda: chi2(1), "many": lambda: chi2(99), "none": lambda: chi2(0)},
    "plot_methods": {
        "one": lambda: plots.plot_methods({"a": curve()["level", "error", "mag"]}),
        "two": lambda: plots.plot_methods({"a": curve(), "b": curve()}, "a title"),
    },
    "plot_coverage": {
        "binned": lambda: plots.plot_coverage(curve()["level", "error", "mag", "n"], bins())
    },
    "plot_ranks": {
        "one": lambda: plots.plot_ranks(ranks(1)),
        "six": lambda: plots.plot_ranks(ranks(6)),
    },
    "plot_tarp": {"curve": lambda: plots.plot_tarp(curve())},
    "plot_widths": {
        "some": lambda: plots.plot_widths(
            RNG.uniform(5, 100, 50), {"mag": RNG.uniform(0.5, 3, 50)}, bins()
        ),
        "none": lambda: plots.plot_widths(np.zeros(0), {"mag": np.zeros(0)}, bins()[:0]),
    },
}


def test_every_plot_function_is_tried():
    assert set(CASES) == {name for name in plots.__all__ if name.startswith("plot_")}


@pytest.mark.parametrize(
    ("function", "case"), [(f, c) for f, cases in CASES.items() for c in cases]
)
def test_a_picture_is_drawn_without_a_warning(function: str, case: str):
    before = plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = CASES[function][case]()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=50)
    assert file.getvalue()[:4] == b"\x89PNG"
    assert plt.get_fignums() == before
    # nothing is cut off at the edge of the page
    page = figure.bbox
    for axis in figure.get_axes():
        extent = axis.get_tightbbox()
        if extent is not None:
            assert page.x0 - 1 <= extent.x0, axis.get_title(loc="left")
            assert extent.x1 <= page.x1 + 1, axis.get_title(loc="left")
            assert page.y0 - 1 <= extent.y0, axis.get_title(loc="left")
            assert extent.y1 <= page.y1 + 1, axis.get_title(loc="left")


@pytest.mark.parametrize(
    "case",
    ["ordinary", "two components", "strange id", "many flags", "long notes", "flat", "tall"],
)
def test_texts_stay_on_the_page_and_off_the_pictures(case: str):
    figure = plots.plot_galaxy(PICTURES[case])
    figure.draw_without_rendering()
    page = figure.bbox
    for text in (figure._suptitle, figure._supxlabel):
        extent = text.get_window_extent()
        assert page.x0 <= extent.x0
        assert extent.x1 <= page.x1
        assert page.y0 <= extent.y0
        assert extent.y1 <= page.y1
        for axis in figure.axes:
            if axis.axison:
                assert not extent.overlaps(axis.get_window_extent())


def test_all_flags_are_named():
    figure = plots.plot_galaxy(PICTURES["many flags"])
    text = " ".join(figure._supxlabel.get_text().split())
    assert all(f"A_FLAG_WITH_A_NAME_{k}" in text for k in range(32))


def panels(figure: Figure) -> dict[str, object]:
    return {axis.get_title(loc="left"): axis for axis in figure.axes if axis.images}


def test_a_small_galaxy_has_a_zoom_beside_the_whole_cutout():
    found = panels(plots.plot_galaxy(PICTURES["large"]))
    assert set(found) == {"data", "model", "residual", "entire cutout"}
    # in pixels of the image that the cutout is from, as the parameters are
    assert found["entire cutout"].get_xlim() == (99.5, 499.5)
    low, high = found["data"].get_xlim()
    assert 25 <= high - low <= 40
    assert (low + high) / 2 == pytest.approx(300, abs=1)
    assert "entire cutout" not in panels(plots.plot_galaxy(PICTURES["huge galaxy"]))


def test_panels_have_units_scale_and_north():
    found = panels(plots.plot_galaxy(PICTURES["ordinary"]))
    assert found["data"].get_xlabel() == "x [pix]"
    assert found["data"].get_ylabel() == "y [pix]"
    texts = {text.get_text() for text in found["data"].texts}
    assert {"N", "E", '2"'} <= texts
    bare = {
        text.get_text()
        for text in panels(plots.plot_galaxy(PICTURES["nothing known"]))["data"].texts
    }
    assert not {"N", "E"} & bare
    assert "10 pix" in bare


def test_the_profile_is_in_known_units():
    def labels(case: str) -> list[str]:
        axes = plots.plot_galaxy(PICTURES[case]).axes
        return [a.get_ylabel() + a.get_xlabel() for a in axes if a.get_xscale() == "log"]

    assert "mag / arcsec" in labels("ordinary")[0]
    assert labels("ordinary")[1].endswith("[arcsec]")
    assert "flux / pix" in labels("no zero point")[0]
    assert labels("no zero point")[1].endswith("[arcsec]")
    assert labels("nothing known")[1].endswith("[pix]")
    assert labels("failed") == []


def test_masked_pixels_are_left_to_the_hatched_ground():
    data = panels(plots.plot_galaxy(PICTURES["ordinary"]))["data"].images[0].get_array()
    assert np.ma.getmaskarray(data).any()
    assert np.ma.getmaskarray(data).sum() < SIDE**2 / 2


def test_a_zoom_is_a_square_around_the_galaxy_inside_the_cutout():
    assert plots.zoom_box((100, 120), (60.2, 50.4), 5.0) == plots.Box(40, 81, 30, 71)
    assert plots.zoom_box((100, 120), (2.0, 97.0), 1.0) == plots.Box(0, 25, 75, 100)
    assert plots.zoom_box((100, 120), (60.0, 50.0), 1.0, 8.0) == plots.Box(36, 85, 26, 75)
    for unknown in (8.0, math.nan, math.inf, 1e300):
        assert plots.zoom_box((100, 120), (60.0, 50.0), unknown) is None
    assert plots.zoom_box((100, 120), (math.nan, 50.0), 5.0) is None


def test_a_zoomed_comparison_is_in_pixels_of_the_image():
    figure = CASES["plot_rivals"]["zoom"]()
    assert figure.axes[0].get_xlim() == (101.5, 113.5)
    assert figure.axes[0].get_ylim() == (11.5, 23.5)


def test_qualities_have_their_colours_and_order():
    figure = differences(13)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["certified (6)", "usable (6)", "suspect (1)"]


def test_misuse_of_a_picture():
    one = PICTURES["ordinary"]
    for changed, text in (
        ({"image": np.ones(3)}, r"image has shape \(3,\)"),
        ({"model": np.ones((2, 2))}, r"model has shape \(2, 2\)"),
        ({"components": np.ones((1, 2, 2))}, "components have shape"),
    ):
        with pytest.raises(ValueError, match=text):
            plots.GalaxyPicture(**{**vars(one), **changed})
