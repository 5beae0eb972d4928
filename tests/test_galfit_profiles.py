"""Input files with every profile that GALFIT and the package have: fits, tables, blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_galfit_run import ONE, SKY, flags_of, galaxy, rows_of, sersic, write

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.io.galfit import Component, Value, read_block, read_feedme, write_feedme
from hybridfit.io.galfit.native import not_kept, parameters_of, profile_of
from hybridfit.model.layout import ComponentLayout, Geometry
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import find_profile
from hybridfit.pipeline.options import RunOptions
from hybridfit.rendering.render import render

AREA = 0.04  # arcsec^2, of a pixel of 0.2 arcsec
SAVING = RunOptions(uncertainty="covariance", initial_values="moments", save_models=True)
HEAD = "\n 0) {kind}\n 1) {x} {y} 1 1\n"
ROWS = {  # GALFIT's rows of each kind, and initial values that are off by a few per cent
    "psf": ({"3": 18.0}, {"3": 18.2}),
    "moffat": (
        {"3": 17.5, "4": 6.0, "5": 2.5, "9": 0.7, "10": 30.0},
        {"3": 17.7, "4": 5.5, "5": 2.2, "9": 0.8, "10": 20.0},
    ),
    "ferrer": (
        {"3": 19.2, "4": 14.0, "5": 2.0, "6": 0.5, "9": 0.4, "10": 60.0},
        {"3": 19.3, "4": 13.0, "5": 1.7, "6": 0.3, "9": 0.45, "10": 65.0},
    ),
    "king": (
        {"3": 18.0, "4": 3.0, "5": 16.0, "6": 2.0, "9": 0.8, "10": -50.0},
        {"3": 18.1, "4": 3.3, "5": 15.0, "6": 2.2, "9": 0.75, "10": -40.0},
    ),
    "edgedisk": (
        {"3": 18.0, "4": 2.0, "5": 6.0, "10": 40.0},
        {"3": 18.1, "4": 2.3, "5": 5.5, "10": 44.0},
    ),
    "nuker": (
        {"3": 19.2, "4": 4.0, "5": 2.0, "6": 2.6, "7": 0.4, "9": 0.6, "10": 30.0},
        {"3": 19.4, "4": 4.4, "5": 1.8, "6": 2.4, "7": 0.5, "9": 0.7, "10": 36.0},
    ),
    "sersic": (
        {"3": 17.5, "4": 6.0, "5": 2.0, "9": 0.6, "10": 30.0, "C0": 0.5},
        {"3": 17.6, "4": 5.6, "5": 1.8, "9": 0.65, "10": 33.0, "C0": 0.2},
    ),
    "expdisk": (
        {"3": 17.5, "4": 5.0, "9": 0.6, "10": 30.0, "C0": -0.4},
        {"3": 17.6, "4": 4.6, "9": 0.65, "10": 33.0, "C0": -0.2},
    ),
}
FREE: dict[str, str] = {}


def block_text(kind: str, numbers: dict[str, float], toggles: dict[str, str] = FREE) -> str:
    """A component in GALFIT's words, at pixel 27, 25 (from 1)."""
    lines = [f"{row}) {value} {toggles.get(row, '1')}" for row, value in numbers.items()]
    return HEAD.format(kind=kind, x=27.3, y=24.8) + "\n".join(lines) + "\n Z) 0\n"


def part_of(tmp_path: Path, text: str) -> Component:
    path = tmp_path / "one.feedme"
    path.write_text("A) a.fits\nB) b.fits\nH) 1 52 1 52\nJ) 25\nK) 0.2 0.2\nP) 0\n" + text)
    return read_feedme(path).components[0]


def space_of(*parts: Component) -> ParameterSpace:
    profiles = [find_profile(profile_of(part) or "") for part in parts]
    layouts = []
    for part, profile in zip(parts, profiles, strict=True):
        kind = Geometry.ELLIPSE if "size" in profile.coordinates else Geometry.POINT
        name = profile_of(part) or ""
        layouts.append(ComponentLayout("", name, profile.shape_parameters, kind))
    return ParameterSpace(tuple(layouts))


def observed(*parts: Component, seed: int = 1, noise: float = 1.0) -> tuple[Cutouts, list[float]]:
    """A noisy image of components, and their parameters and the sky's level."""
    space = space_of(*parts)
    theta = [v.value for part in parts for v in parameters_of(part, AREA).values()] + [0.1]
    empty, _ = galaxy(ONE)
    flat = torch.zeros(1, 52, 56)
    empty = Cutouts(image=flat, sigma=flat + noise, psf=empty.psf, zeropoint=25.0)
    profiles = tuple(find_profile(profile_of(part) or "") for part in parts)
    image = render(torch.tensor([theta]).double(), empty, space, profiles, torch.float64)
    random = np.random.default_rng(seed).standard_normal((1, 52, 56))
    return Cutouts(
        image=image + noise * torch.tensor(random),
        sigma=flat + noise,
        psf=empty.psf,
        zeropoint=25.0,
    ), theta


@pytest.mark.parametrize("kind", list(ROWS))
def test_a_profile_is_fitted_and_written(tmp_path: Path, kind: str):
    """The truth within 5 errors; block and restart file have the values of the row."""
    truth, start = (part_of(tmp_path, block_text(kind, rows)) for rows in ROWS[kind])
    cutouts, theta = observed(truth)
    path = write(tmp_path / "a", cutouts, block_text(kind, ROWS[kind][1]) + SKY.format(sky=1))
    row = rows_of([path], tmp_path / "out", run=SAVING)["a"]
    names = [*parameters_of(start, AREA), "sky"]
    for name, value in zip(names, theta, strict=True):
        off = float(row[name]) - value
        off = (off + 90) % 180 - 90 if name == "pa" else off
        assert abs(off) < 5 * row[f"{name}_err"], (name, row[name], value)
    found = read_block(tmp_path / "out" / "models" / "a_block.fits")
    assert [part.kind for part in found.components] == [kind, "sky"]
    part = found.components[0]
    assert set(part.values) == set(truth.values)
    again = parameters_of(part, AREA)
    for name in names[:-1]:
        assert again[name].value == pytest.approx(row[name], abs=0.1 * row[f"{name}_err"] + 2e-4)
    for name, value in part.values.items():
        assert value.error > 0 or value.fixed, name
        off = value.value - truth.values[name].value
        off = (off + 90) % 180 - 90 if name == "pa" else off
        assert abs(off) < 5 * value.error or value.fixed, name
    restart = tmp_path / "out" / "models" / "a.galfit.01"
    second = rows_of([restart], tmp_path / "again")["a.galfit.01"]
    assert second["chi2"] == pytest.approx(row["chi2"], abs=0.1)  # the fit's tolerance


@pytest.mark.parametrize("kind", ["ferrer", "king", "edgedisk"])
def test_central_surface_brightness(tmp_path: Path, kind: str):
    """GALFIT's row 3 is the brightness at the centre [mag / arcsec^2]."""
    numbers = {row: value * (3 if row in ("4", "5") else 1) for row, value in ROWS[kind][0].items()}
    if kind == "ferrer":
        numbers |= {"5": 2.0, "6": -1.0}  # flat in the middle
    part = part_of(tmp_path, block_text(kind, numbers))
    space = space_of(part)
    theta = [v.value for v in parameters_of(part, AREA).values()] + [0.0]
    flat = torch.zeros(1, 101, 101)
    empty = Cutouts(image=flat, sigma=flat + 1, psf=None, zeropoint=25.0)
    theta[:2] = [50.0, 50.0]
    profile = find_profile(profile_of(part) or "")
    image = render(torch.tensor([theta]).double(), empty, space, (profile,), torch.float64)
    expected = 10 ** (-0.4 * (part.values["mu"].value - 25.0)) * AREA
    # a pixel's mean is below the centre, most in the thin disk
    assert float(image[0, 50, 50]) == pytest.approx(expected, rel=0.02)


def test_what_no_fixed_parameter_keeps():
    """R_c alone cannot be fixed where R_t is free; both together can, with alpha."""

    def lost(kind: str, *fixed: str) -> tuple[list[str], list[str]]:
        numbers = {name: Value(2.0, fixed=name in fixed) for name in NUMBERS[kind]}
        part = Component(kind, numbers)
        found = parameters_of(part, AREA)
        own = [name for name, value in found.items() if value.fixed]
        return own, not_kept(part, {name: value.fixed for name, value in found.items()})

    assert lost("king", "r_c") == ([], ["r_c"])
    assert lost("king", "r_c", "r_t") == (["concentration"], ["r_c", "r_t"])
    assert lost("king", "r_c", "r_t", "alpha") == (["r_eff", "alpha", "concentration"], [])
    assert lost("moffat", "fwhm") == ([], ["fwhm"])
    assert lost("moffat", "fwhm", "beta") == (["r_eff", "beta"], [])
    assert lost("ferrer", "r_out", "alpha", "beta") == (["r_eff", "alpha", "beta"], [])
    assert lost("ferrer", "mu") == ([], ["mu"])
    assert lost("edgedisk", "r_s") == (["r_eff"], [])
    assert lost("edgedisk", "h_s") == ([], ["h_s"])
    assert lost("edgedisk", "r_s", "h_s", "mu") == (["mag", "r_eff", "q"], [])


NUMBERS = {
    "king": ("x", "y", "mu", "r_c", "r_t", "alpha", "q", "pa"),
    "moffat": ("x", "y", "mag", "fwhm", "beta", "q", "pa"),
    "ferrer": ("x", "y", "mu", "r_out", "alpha", "beta", "q", "pa"),
    "edgedisk": ("x", "y", "mu", "h_s", "r_s", "pa"),
}


def test_a_toggle_that_cannot_be_kept_is_a_note(tmp_path: Path):
    truth = part_of(tmp_path, block_text("king", ROWS["king"][0]))
    cutouts, _ = observed(truth)
    text = block_text("king", ROWS["king"][0], {"4": "0"}) + SKY.format(sky=1)
    row = rows_of([write(tmp_path / "a", cutouts, text)], tmp_path / "out")["a"]
    assert "r_c of component 1 (king) cannot be fixed on its own and was fitted" in row["notes"]
    assert not flags_of(row) & Flag.NOT_MODELLED
    assert row["r_eff_err"] > 0


def test_several_skies_are_added_up(tmp_path: Path):
    cutouts, _ = galaxy(ONE)
    skies = SKY.format(sky=0) + SKY.format(sky=1)
    path = write(tmp_path / "a", cutouts, sersic(ONE) + skies)
    row = rows_of([path], tmp_path / "out", run=SAVING)["a"]
    assert "2 skies were added up" in str(row["notes"])
    assert row["sky"] == pytest.approx(0.15, abs=5 * row["sky_err"])
    found = read_block(tmp_path / "out" / "models" / "a_block.fits").components
    levels = [part.values["sky"].value for part in found if part.kind == "sky"]
    assert sum(levels) == pytest.approx(row["sky"], abs=1e-4)
    assert levels[1] == 0.1
    restart = tmp_path / "out" / "models" / "a.galfit.01"
    again = rows_of([restart], tmp_path / "again")["a.galfit.01"]
    assert again["sky"] == pytest.approx(row["sky"], abs=0.1 * row["sky_err"])


def test_a_table_has_the_parameters_of_all_profiles(tmp_path: Path):
    """Components have names, those of a kind that a file does not have are NaN; there is no sum."""
    moffat = block_text("moffat", ROWS["moffat"][0])
    point = block_text("psf", {"3": 19.0})
    alone, _ = observed(part_of(tmp_path, moffat))
    both, _ = galaxy(ONE)
    paths = [
        write(tmp_path / "lone", alone, moffat + SKY.format(sky=1)),
        write(tmp_path / "both", both, sersic(ONE) + point + SKY.format(sky=1)),
    ]
    run = RunOptions(uncertainty="covariance", initial_values="moments", covariance=True)
    rows = rows_of(paths, tmp_path / "out", run=run)
    lone, both_row = rows["lone"], rows["both"]
    names = set(lone.colnames)
    assert {"comp1_n", "comp1_beta", "comp1_r_eff", "comp2_x", "comp2_mag", "comp2_ra"} <= names
    assert not {"mag", "r_eff", "q", "pa", "comp2_r_eff", "comp2_pa_sky"} & names
    assert math.isfinite(lone["comp1_beta"])
    assert math.isnan(lone["comp1_n"])
    assert math.isnan(lone["comp2_mag"])
    assert math.isfinite(both_row["comp1_n"])
    assert math.isnan(both_row["comp1_beta"])
    own = [name for name in lone.colnames if f"{name}_err" in names and "arcsec" not in name]
    variance = np.diagonal(np.asarray(lone["covariance"]))[own.index("comp1_beta")]
    assert variance == pytest.approx(lone["comp1_beta_err"] ** 2)


LIMITS = [  # kind, toggles, lines of the constraint file, column, range
    ("moffat", {"5": "0"}, "1 fwhm 3 to 5.5", "fwhm", (3.0, 5.5)),
    ("moffat", {}, "1 5 1.2 to 2.3", "beta", (1.2, 2.3)),
    ("edgedisk", {}, "1 rs 2 to 5.5", "r_s", (2.0, 5.5)),
    ("king", {}, "1 alpha 2.3 to 4", "alpha", (2.3, 4.0)),
    ("ferrer", {"5": "0", "6": "0"}, "1 4 10 to 13", "r_out", (10.0, 13.0)),
    ("sersic", {}, "1 c -0.5 to 0.2", "c0", (-0.5, 0.2)),
    ("expdisk", {}, "1 rs factor 1.05", "r_eff", (4.6 / 1.05 * 1.67835, 4.6 * 1.05 * 1.67835)),
]


@pytest.mark.parametrize(("kind", "toggles", "lines", "name", "limits"), LIMITS)
def test_ranges_of_native_scales(tmp_path: Path, kind, toggles, lines, name, limits):
    """What GALFIT's number may be is kept, and its bound is flagged."""
    truth = part_of(tmp_path, block_text(kind, ROWS[kind][0]))
    cutouts, _ = observed(truth, noise=0.05)
    numbers = {**ROWS[kind][1], **{row: ROWS[kind][0][row] for row in toggles}}
    text = block_text(kind, numbers, toggles) + SKY.format(sky=1)
    path = write(tmp_path / "a", cutouts, text, constraints=lines)
    row = rows_of([path], tmp_path / "out", run=SAVING)["a"]
    block = read_block(tmp_path / "out" / "models" / "a_block.fits")
    value = block.components[0].values[name].value
    assert limits[0] - 1e-4 <= value <= limits[1] + 1e-4
    assert min(abs(value - limit) for limit in limits) < 0.05 * abs(limits[1] - limits[0])
    assert flags_of(row) & Flag.AT_LIMIT
    assert not flags_of(row) & Flag.NOT_MODELLED


def test_what_no_scene_expresses_is_checked(tmp_path: Path):
    """A range of r_c with r_t free, and of a sky: flagged only where the fit does not keep it."""
    truth = part_of(tmp_path, block_text("king", ROWS["king"][0]))
    cutouts, _ = observed(truth)
    text = block_text("king", ROWS["king"][0]) + SKY.format(sky=1)
    paths = [
        write(tmp_path / "kept", cutouts, text, constraints="1 rc 1 to 6\n2 sky -1 1"),
        write(tmp_path / "lost", cutouts, text, constraints="1 rc 5 to 6"),
        write(tmp_path / "sky", cutouts, text, constraints="2 sky 0.05 0.1"),
    ]
    rows = rows_of(paths, tmp_path / "out")
    assert not flags_of(rows["kept"]) & Flag.NOT_MODELLED
    assert flags_of(rows["lost"]) & Flag.NOT_MODELLED
    assert "1 r_c 5 to 6 (is" in str(rows["lost"]["notes"])
    assert flags_of(rows["sky"]) & Flag.NOT_MODELLED


FIRST, SECOND = [24.3, 22.8, 15.0, 5.0, 2.0, 0.6, 40.0], [33.5, 30.1, 15.6, 3.0, 1.2, 0.7, 110.0]


@pytest.mark.parametrize(
    ("line", "value", "limits"),
    [
        ("1/2 re 1.8 2.5", lambda a, b: a("r_eff") / b("r_eff"), (1.8, 2.5)),
        ("1-2 mag -0.5 0.4", lambda a, b: b("mag") - a("mag"), (-0.5, 0.4)),
        ("1-2 x 8 9", lambda a, b: b("x") - a("x"), (8.0, 9.0)),
        ("1/2 q 1 1.2", lambda a, b: a("q") / b("q"), (1.0, 1.2)),
        ("1_2 re ratio", lambda a, b: a("r_eff") / b("r_eff"), (5 / 3, 5 / 3)),
        ("1_2 mag offset", lambda a, b: b("mag") - a("mag"), (0.6, 0.6)),
        ("1_2 n ratio", lambda a, b: a("n") / b("n"), (2 / 1.2, 2 / 1.2)),
        ("1_2 pa offset", lambda a, b: b("pa") - a("pa"), (70.0, 70.0)),
    ],
)
def test_each_kind_of_tie_is_kept(tmp_path: Path, line, value, limits):
    """Between two components, at the bound where the truth lies outside."""
    texts = [sersic(FIRST), sersic(SECOND)]
    truth = [part_of(tmp_path, text.replace(" 5) 2.0", " 5) 2.4")) for text in texts]
    cutouts, _ = observed(*truth, noise=0.2)
    text = "".join(texts) + SKY.format(sky=1)
    path = write(tmp_path / "a", cutouts, text, constraints=line)
    row = rows_of([path], tmp_path / "out")["a"]
    found = value(*(lambda name, k=k: row[f"comp{k}_{name}"] for k in (1, 2)))
    assert limits[0] - 1e-6 <= found <= limits[1] + 1e-6
    assert not flags_of(row) & Flag.NOT_MODELLED, row["notes"]


def test_ties_in_a_chain(tmp_path: Path):
    """Three components, each tied to the one before, or all to the last."""
    third = [18.0, 30.0, 16.0, 2.0, 1.0, 0.8, 20.0]
    texts = [sersic(FIRST), sersic(SECOND), sersic(third)]
    cutouts, _ = observed(*(part_of(tmp_path, text) for text in texts), noise=0.2)
    text = "".join(texts) + SKY.format(sky=1)
    lines = {"chain": "1_2 x offset\n2_3 x offset", "fan": "1_3 x offset\n2_3 x offset"}
    paths = [
        write(tmp_path / name, cutouts, text, constraints=line) for name, line in lines.items()
    ]
    for row in rows_of(paths, tmp_path / "out").values():
        assert row["comp2_x"] - row["comp1_x"] == pytest.approx(SECOND[0] - FIRST[0], abs=1e-6)
        assert row["comp3_x"] - row["comp1_x"] == pytest.approx(third[0] - FIRST[0], abs=1e-6)
        assert row["dof"] == 52 * 56 - (3 * 7 - 2 + 1)
        assert not flags_of(row) & Flag.NOT_MODELLED


@pytest.mark.slow
def test_every_constraint_file_of_the_data_runs(shared_data: Path, tmp_path: Path):
    """All are kept, and nothing of them is left to be checked but ranges of a sky."""
    paths = []
    for folder in sorted((shared_data / "real" / "cases").iterdir()):
        if not (folder / "constraints.txt").exists():
            continue
        files = {row: folder / f"{row}.fits" for row in ("image", "sigma", "psf", "mask")}
        names = {row: str(file) if file.exists() else "" for row, file in files.items()}
        own = {**names, "constraints": str(folder / "constraints.txt"), "output": "block.fits"}
        feedme = replace(read_feedme(folder / "feedme.txt"), **own)
        paths.append(write_feedme(feedme, tmp_path / f"{folder.name}.feedme"))
    rows = rows_of(paths, tmp_path / "out")
    assert len(rows) == len(paths) >= 6
    for row in rows.values():
        assert math.isfinite(row["chi2"]), (row["id"], row["notes"])
        lost = str(row["notes"]).partition("constraints that were not kept: ")[2]
        assert not lost or lost.startswith("2 sky"), (row["id"], row["notes"])
