"""Comparisons: matching, figures with their wrong twins, verdicts, the page, the command."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner, Result
from compare_helpers import IMFIT, catalogue, galaxies, noisy, sigma, table_of
from tolerances import CHAIN, TEXT

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.comparison import html as report
from hybridfit.comparison.crossmatch import match, nearest, partners
from hybridfit.comparison.differences import PARAMETERS, Pairs, pairs_of
from hybridfit.comparison.options import VerdictOptions
from hybridfit.comparison.statistics import convention_warnings, coverage_curve, summarise
from hybridfit.comparison.verdicts import Chi2, assign_verdicts, worst
from hybridfit.io.blocks import file_name
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.io.references.catalogue import COLUMN, NAMES
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.galfit.run import fit_feedmes
from hybridfit.pipeline.options import RunOptions
from hybridfit.simulation.simulate import SimulateOptions

SMALL = SimulateOptions(shape=(32, 32), psf_size=15, r_eff=(1.5, 3.0), snr=(60, 300))
QUICK = RunOptions(uncertainty="covariance", initial_values="moments")
MANY = 4000


def pairs(ours, theirs) -> Pairs:
    return pairs_of(ours, theirs, match(ours, theirs))


def against_truth(errors: float = 1.0, shift: float = 0.0, n: int = MANY) -> Pairs:
    """Measurements with true errors, quoted ``errors`` times as large, and moved in x."""
    truth = galaxies(n)
    measured = noisy(truth)
    measured[:, 0] += shift
    ours = catalogue(measured, errors * sigma(n))
    return pairs(ours, catalogue(truth, exact=True))


def row(table: Table, parameter: str, group: str = "all") -> Table.Row:
    return table[(table["parameter"] == parameter) & (table["group"] == group)][0]


@pytest.mark.parametrize("name", NAMES)
def test_true_errors_have_pulls_of_1_and_halves_of_2(name: str):
    """Also the wrong twins: errors half as wide, and twice as wide."""
    label = f"ln {name}" if name in ("r_eff", "n") else name
    for factor, width in ((1.0, 1.0), (0.5, 2.0), (2.0, 0.5)):
        found = row(summarise(against_truth(factor)), label)
        # the standard deviation of 4,000 pulls is known to 1.1 %: five of these
        assert found["pull_std"] == pytest.approx(width, rel=0.056)
        assert found["pull_both_nmad"] == pytest.approx(width, rel=0.09)
        inside = {1.0: (0.68, 0.95), 0.5: (0.381, 0.673), 2.0: (0.953, 0.9999)}[factor]
        # binomial: five times sqrt(.68 .32 / 4000)
        assert found["cover_68"] == pytest.approx(inside[0], abs=0.037)
        assert found["cover_95"] == pytest.approx(inside[1], abs=0.037)
        assert abs(found["pull_mean"]) < 5 * width / np.sqrt(MANY)


def test_a_shift_of_a_pixel_is_found_and_told():
    some = against_truth(shift=1.0)
    table = summarise(some)
    assert row(table, "x")["median"] == pytest.approx(1.0, abs=2e-3)
    assert row(table, "y")["median"] == pytest.approx(0.0, abs=3e-3)
    assert row(table, "x")["outliers"] == 1
    (said,) = convention_warnings(some)
    assert "first-pixel" in said
    assert convention_warnings(against_truth()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mag": 2.5}, "zeropoint-offset"),
        ({"pa": 90.0}, "pa-from"),
    ],
)
def test_other_slips_of_convention_are_told(change: dict[str, float], word: str):
    truth = galaxies(200)
    moved = noisy(truth)
    for name, shift in change.items():
        moved[:, COLUMN[name]] += shift
    moved[:, COLUMN["pa"]] %= 180
    some = pairs(catalogue(truth, sigma(200)), catalogue(moved, sigma(200)))
    assert any(word in text for text in convention_warnings(some))


def test_circularised_radii_are_told():
    truth = galaxies(200)
    other = noisy(truth)
    other[:, COLUMN["r_eff"]] *= np.sqrt(truth[:, COLUMN["q"]])
    some = pairs(catalogue(truth, sigma(200)), catalogue(other, sigma(200)))
    assert any("circularised" in text for text in convention_warnings(some))


def test_angles_differ_the_short_way():
    ours, theirs = galaxies(2), galaxies(2)
    ours[:, COLUMN["pa"]], theirs[:, COLUMN["pa"]] = [179, 2], [1, 178]
    some = pairs(catalogue(ours, sigma(2)), catalogue(theirs, exact=True))
    np.testing.assert_allclose(some.difference[:, COLUMN["pa"]], [-2, 4], atol=TEXT)


def test_intervals_of_quantiles_count_where_there_are_such():
    """A skewed interval that holds the truth, where value and error would not."""
    truth = galaxies(3)
    low, high = truth - 0.1, truth + 3.0
    low[:, COLUMN["pa"]], high[:, COLUMN["pa"]] = [-5, 60, 170], [5, 70, 190]
    truth[:, COLUMN["pa"]] = [178, 66, 3]  # in, in, and in on the next turn
    ours = catalogue(truth + 1.5, sigma(3), quantiles={0.16: low[:, None], 0.84: high[:, None]})
    some = pairs(ours, catalogue(truth, exact=True))
    assert (some.inside[:, 0, :7] == 1).all()
    assert (some.inside[:, 1, COLUMN["mag"]] == 0).all()  # 95 %: of the error, there is no other


def test_a_galaxy_without_a_fit_is_lost_and_outside():
    truth = galaxies(4)
    measured = noisy(truth)
    measured[0] = np.nan
    measured[1, COLUMN["mag"]] += 0.6
    measured[2, COLUMN["r_eff"]] *= 2.1
    ours = catalogue(measured, sigma(4))
    some = pairs(ours, catalogue(truth, exact=True))
    table = summarise(some)
    assert row(table, "x")["catastrophic"] == 3
    assert row(table, "x")["cover_68"] <= 0.75
    assert row(table, "x")["n"] == 3
    verdicts = assign_verdicts(some, no_pixels(4), [False] * 4, [False] * 4)
    assert verdicts.verdict[0] == "no fit of ours"
    assert verdicts.catastrophic.tolist() == [True, True, True, False]


def test_fixed_values_are_not_compared():
    truth = galaxies(5)
    fixed = np.zeros((5, 1, 7), bool)
    fixed[..., COLUMN["n"]] = True
    theirs = catalogue(noisy(truth), sigma(5), fixed=fixed)
    some = pairs(catalogue(truth, sigma(5)), theirs)
    assert np.isnan(some.difference[:, COLUMN["n"]]).all()
    assert np.isfinite(some.difference[:, COLUMN["mag"]]).all()


def test_groups_and_bins():
    n = 200
    truth = galaxies(n)
    measured = noisy(truth)
    grades = np.array(["certified"] * 150 + ["suspect"] * 50)
    measured[150:, 2] += 0.3  # only the suspect are off
    ours = catalogue(measured, sigma(n), quality=grades)
    some = pairs(ours, catalogue(truth, exact=True))
    table = summarise(some, grades)
    assert abs(row(table, "mag", "certified")["median"]) < 0.01
    assert row(table, "mag", "suspect")["median"] == pytest.approx(0.3, abs=0.02)
    assert row(table, "mag", "suspect")["galaxies"] == 50
    bins = [g for g in dict.fromkeys(table["group"]) if g.startswith("mag")]
    assert len(bins) == 4
    assert sum(row(table, "mag", g)["galaxies"] for g in bins) == n
    by_snr = summarise(some, grades, np.repeat([5.0, 20.0], n // 2))
    assert {"S/N < 10", "S/N 10 to 30"} <= set(by_snr["group"])


def test_coverage_curve():
    curve = coverage_curve(against_truth())
    for name in NAMES:
        off = np.abs(curve[name] - curve["level"])
        assert (off < 5 * curve["error"]).all()
    assert np.max(coverage_curve(against_truth(0.5))["x"] - curve["level"]) < 0


# --- matching ---------------------------------------------------------------------------------


def test_match_by_id_in_any_order():
    values = galaxies(4)
    theirs = catalogue(values[[2, 0, 3]], id=["g2", "g0", "elsewhere"])
    found = match(catalogue(values), theirs)
    assert (found.way, found.ours.tolist(), found.theirs.tolist()) == ("id", [0, 2], [1, 0])
    assert (found.only_ours, found.only_theirs) == (("g1", "g3"), ("elsewhere",))


def test_ids_that_occur_twice_are_told():
    values = galaxies(3)
    found = match(catalogue(values), catalogue(values, id=["g1", "g1", "g2"]))
    assert found.repeated == ("g1",)
    assert found.theirs.tolist() == [0, 2]  # the first counts
    assert found.only_theirs == ("g1",)


def test_aliases_that_several_have_do_not_count():
    """Every folder has a galfit.feedme: the folder's name tells them apart."""
    values = galaxies(2)
    theirs = catalogue(
        values, id=["g1/galfit", "g0/galfit"], aliases=[("galfit", "g1"), ("galfit", "g0")]
    )
    found = match(catalogue(values), theirs)
    assert found.theirs.tolist() == [1, 0]
    assert found.repeated == ()


def test_match_by_position_is_one_to_one_and_nearest():
    ours = np.array([[10.0, 10.0], [12.0, 10.0], [50.0, 50.0]])
    theirs = np.array([[11.2, 10.0], [10.1, 10.0], [90.0, 9.0], [np.nan, 1.0]])
    a, b = nearest(ours, theirs, 2.0)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (1, 0)]
    values = galaxies(3)
    values[:, :2] = ours
    other = values[[1, 0]] + 0.3
    found = match(catalogue(values), catalogue(other, id=["7", "8"]), "pixel", 1.0)
    assert (found.ours.tolist(), found.theirs.tolist()) == ([0, 1], [1, 0])
    assert found.only_ours == ("g2",)


def test_match_on_the_sky():
    values = galaxies(3)
    world = np.array([[359.9999, 10.0], [0.0001, 10.0], [20.0, -80.0]])
    moved = world + np.array([0.00005, 0.0])  # .18 arcsec, across 0 h
    theirs = catalogue(values, id=["a", "b", "c"], world=moved[[2, 1, 0]] % 360)
    found = match(catalogue(values, world=world), theirs)
    assert (found.way, found.theirs.tolist()) == ("sky", [2, 1, 0])
    with pytest.raises(ValueError, match="matches by sky: try another radius"):
        match(catalogue(values, world=world), theirs, radius=0.01)


def test_what_cannot_be_matched_says_what_to_do():
    values = galaxies(2)
    with pytest.raises(ValueError, match=r"ids here are 'g0'.*'somebody' '0'.*id-format"):
        match(catalogue(values), catalogue(values, id=["0", "1"]))
    with pytest.raises(ValueError, match="needs equal numbers of rows: got 2 here and 1"):
        match(catalogue(values), catalogue(values[:1]), "row")


def test_components_are_found_in_any_order():
    """By place, then by size and magnitude; their numbers do not matter."""
    bulge, disc = galaxies(2)
    bulge[:4], disc[:4] = [30, 30, 20, 1.0], [30.1, 30, 19, 6.0]
    far = disc.copy()
    far[:2] += 40
    ours = np.stack([bulge, disc, far])
    assert partners(ours, ours[[2, 0, 1]]).pairs == ((0, 1), (1, 2), (2, 0))
    # a neighbour of theirs that we masked is no component of the galaxy
    assert partners(disc[None], np.stack([far, disc])).pairs == ((0, 1),)
    whole = partners(disc[None], np.stack([bulge, disc, far]))
    assert (whole.pairs, whole.whole) == (((0, 1),), True)


def test_a_single_profile_against_bulge_and_disc_compares_the_sum():
    ours, bulge, disc = galaxies(3)
    ours[:3], bulge[:3], disc[:3] = [30, 30, 18.5], [30, 30, 20.0], [30.2, 30, 19.0]
    theirs = np.stack([bulge, disc])[None]
    some = pairs(catalogue(ours[None]), catalogue(theirs))
    together = -2.5 * np.log10(10 ** (-0.4 * 20.0) + 10 ** (-0.4 * 19.0))
    assert some.theirs[0, 2] == pytest.approx(together)
    assert some.theirs[0, 0] == 30.2  # the brighter one's
    assert np.isnan(some.theirs[0, 3:7]).all()


# --- verdicts ---------------------------------------------------------------------------------


def no_pixels(n: int) -> Chi2:
    nothing = np.full(n, np.nan)
    return Chi2(nothing, nothing, nothing, nothing, nothing)


def chi2(ours: float, theirs: float, dof: float = 1000.0) -> Chi2:
    one = np.array([1.0])
    return Chi2(ours * one, theirs * one, ours * one, theirs * one, dof * one)


@pytest.mark.parametrize(
    ("off", "numbers", "by", "verdict"),
    [
        (0.0, (1000, 1200), "", "agree"),  # parameters agree, whatever chi2
        (0.5, (1000, 1008), "", "same chi2"),
        (0.5, (1000, 1010), "", "ours lower chi2"),
        (0.5, (1010, 1000), "", "theirs lower chi2"),
        (0.5, (1600, 1612), "", "same chi2"),  # chi2/dof is 1.6: 9 count as 14.4
        (0.5, (2500, 3500), "", "both poor"),
        (0.5, (1000, 1002), "us", "flagged by us"),
        (0.5, (1000, 1002), "them", "flagged by them"),
        (0.5, (1000, 1002), "both", "flagged by both"),
        (0.5, (1000, 1100), "us", "ours lower chi2"),  # pixels go before flags
        (0.5, (np.nan, 1000), "", "differ"),
        (0.5, (np.nan, 1000), "them", "flagged by them"),
    ],
)
def test_verdicts(off: float, numbers: tuple[float, float], by: str, verdict: str):
    values = galaxies(1)
    other = values.copy()
    other[:, COLUMN["r_eff"]] += off  # .5 over .05 sqrt 2: seven sigma
    some = pairs(catalogue(values, sigma(1)), catalogue(other, sigma(1)))
    suspect, flagged = by in ("us", "both"), by in ("them", "both")
    found = assign_verdicts(some, chi2(*numbers), [suspect], [flagged])
    assert found.verdict == (verdict,)
    assert found.flagged_by == (by,)


def test_a_truth_lies_above_the_minimum_by_its_parameters():
    values = galaxies(1)
    truth = values.copy()
    truth[:, COLUMN["n"]] += 0.5
    some = pairs(catalogue(values, sigma(1)), catalogue(truth, exact=True))
    assert assign_verdicts(some, chi2(1000, 1020), [False], [False]).verdict == ("same chi2",)
    assert assign_verdicts(some, chi2(1000, 1030), [False], [False]).verdict == ("ours lower chi2",)


def test_the_worst_come_first():
    values = galaxies(5)
    other = values.copy()
    other[1, COLUMN["r_eff"]] += 0.5
    other[2, COLUMN["mag"]] += 1.0  # catastrophic
    other[3, COLUMN["r_eff"]] += 0.8
    some = pairs(catalogue(values, sigma(5)), catalogue(other, sigma(5)))
    empty = no_pixels(5)
    found = assign_verdicts(some, empty, [False] * 5, [False] * 5)
    assert worst(found, empty, 10) == [2, 3, 1]
    assert worst(found, empty, 1) == [2]
    with pytest.raises(ValueError, match="max_sigma is 0, expected a finite number above 0"):
        VerdictOptions(max_sigma=0)


# --- the page ---------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Checks that tags close as they opened, and keeps what is asked for from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> None:
    """The page needs nothing from elsewhere, and its tags are in order."""
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in tags.sources)
    assert not re.search(r"https?://|@import|url\(", text)


def test_page_escapes_and_sorts():
    evil = '<script>alert("&")</script>'
    table = report.table({"id": [evil, "b"], "value": [1.5, float("nan")]}, notes={"value": '"x"'})
    text = report.page(evil, [report.paragraph(evil)], [report.Section("S", [table], "s")])
    check_page(text)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(&quot;&amp;&quot;)") >= 4
    assert 'data-value="nan">–</td>' in text  # no number: a dash, sorted last
    assert 'data-numeric="1" title="&quot;x&quot;"' in text


# --- everything together ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiny galaxies, one of them with an id that HTML must not take for a tag, fitted."""
    folder = tmp_path_factory.mktemp("compare")
    cutouts, truth = hf.simulate(6, 4, SMALL)
    ids = [*cutouts.id[:5], "a<b>&"]
    truth["id"] = ids
    write_cutouts(replace(cutouts, id=ids), folder / "in")
    manifest = ["id,image,sigma,psf"]
    for id in ids:
        files = (f"in/{file_name(id)}_{kind}.fits" for kind in ("image", "sigma", "psf"))
        manifest.append(",".join([id, *files]))
    (folder / "galaxies.csv").write_text("\n".join(manifest) + "\n")
    truth.write(folder / "truth.fits")
    fit_files(folder / "galaxies.csv", folder / "out", run=QUICK)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["compare", *(str(a) for a in arguments)])


def test_command(run: Path, tmp_path: Path):
    """Two references at once: the truth, and the same fits by other hands, one of them wrong."""
    ours, truth = Table.read(run / "out" / "results.fits"), Table.read(run / "truth.fits")
    values = np.stack([np.asarray(ours[name], float) for name in NAMES], axis=1)
    errors = np.stack([np.asarray(ours[f"{name}_err"], float) for name in NAMES], axis=1)
    values[:, :2] += 1  # counted from 1
    values[2, COLUMN["mag"]] += 1.0
    values[2, COLUMN["r_eff"]] *= 1.5
    ids = [str(id) for id in ours["id"]]
    assert ids[0] == "a<b>&"  # which they do not have
    table_of(values[1:], errors[1:], ids[1:]).write(tmp_path / "theirs.ecsv")
    out = tmp_path / "page"
    options = ("--first-pixel", 0, "--first-pixel", 1, "--name", "truth", "--name", "th<e>irs")
    result = call(run / "out", run / "truth.fits", tmp_path / "theirs.ecsv", "-o", out, *options)
    assert result.exit_code == 0, result.output
    assert "th<e>irs (table): 5 galaxies, matched by id" in result.stdout
    assert "ours lower chi2 1" in result.stdout
    assert re.search(r"agree: .*\d of \d usable", result.stdout)
    table = Table.read(out / "comparison.fits")
    assert len(table) == 11
    mine = table[table["reference"] == "truth"]
    assert "a<b>&" in mine["id"]
    true = dict(zip(truth["id"], truth["mag"], strict=True))
    np.testing.assert_allclose(mine["their_mag"], [true[id] for id in mine["id"]], atol=TEXT)
    # our renderer gives the fit's own chi2 back; it fits in float32
    known = dict(zip(ours["id"], ours["chi2"], strict=True))
    np.testing.assert_allclose(
        mine["chi2"], [known[id] for id in mine["id"]], rtol=1e-4, atol=CHAIN
    )
    np.testing.assert_allclose(mine["chi2"], mine["chi2_solved"], atol=0.05)
    assert (mine["delta_chi2"] > 0).all()  # the truth lies above the minimum
    assert (mine["delta_chi2"] < 40).all()
    theirs = table[table["reference"] == "th<e>irs"]
    others = theirs["id"] != ids[2]
    assert (theirs["verdict"][others] == "agree").all()
    np.testing.assert_allclose(theirs["d_x"], 0, atol=1e-9)
    np.testing.assert_allclose(theirs["delta_chi2"][others], 0, atol=1e-6)
    (wrong,) = theirs[~others]
    assert (wrong["verdict"], wrong["catastrophic"]) == ("ours lower chi2", 1)
    assert wrong["their_chi2"] > wrong["their_chi2_solved"] > wrong["chi2"] + 9
    summary = Table.read(out / "summary.ecsv")
    assert set(summary["reference"]) == {"truth", "th<e>irs"}
    left = Table.read(out / "unmatched.ecsv")
    assert list(map(tuple, left)) == [("th<e>irs", "ours", "a<b>&")]
    text = (out / "report.html").read_text()
    check_page(text)
    assert "a&lt;b&gt;&amp;" in text
    assert "th&lt;e&gt;irs" in text
    assert text.count("data:image/png") >= 9  # four a reference, and the galaxy that is wrong


def test_the_run_may_be_compared_without_pixels(run: Path, tmp_path: Path):
    result = call(run / "out", run / "truth.fits", "-o", tmp_path, "--no-pixels", "--format", "csv")
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "comparison.csv", format="ascii.csv")
    assert np.ma.getmaskarray(table["chi2"]).all() or np.isnan(table["chi2"]).all()
    check_page((tmp_path / "report.html").read_text())


def test_imfit_takes_its_zero_point_from_the_pixels(run: Path, tmp_path: Path):
    """imfit knows counts only: with the zero point of what was fitted, magnitudes compare."""
    one = Table.read(run / "out" / "results.fits")[1]
    text = IMFIT[: IMFIT.index("FUNCTION Exp")]
    text = text.replace("32.9439", f"{one['x'] + 1:.6f}").replace("34.0933", f"{one['y'] + 1:.6f}")
    text = text.replace("198.2612", f"{one['pa']:.6f}").replace("0.25 #", f"{1 - one['q']:.8f} #")
    text = text.replace("n		2 #", f"n		{one['n']:.8f} #").replace(
        "r_e		5 #", f"r_e		{one['r_eff']:.8f} #"
    )
    (tmp_path / one["id"]).mkdir()
    file = tmp_path / one["id"] / "bestfit_parameters_imfit.dat"
    file.write_text(text)
    counts = hf.compare(run / "out", tmp_path, kind="imfit").table
    # I_e was 20: what it has to be for our magnitude
    peak = 20 * 10 ** (-0.4 * (one["mag"] - counts["their_mag"][0]))
    file.write_text(text.replace("I_e		20.0", f"I_e		{peak:.8f}"))
    found = hf.compare(run / "out", tmp_path).table[0]
    assert found["their_mag"] == pytest.approx(one["mag"], abs=1e-6)
    assert found["verdict"] == "agree"
    # their flux, as quoted, is ours; the sky is solved for
    assert found["their_chi2"] == pytest.approx(found["chi2"], abs=0.05)


def test_in_python_from_memory(run: Path):
    cutouts, truth = hf.simulate(3, 4, SMALL)
    table = hf.fit(cutouts, uncertainty="covariance", initial_values="moments")
    found = hf.compare(table, truth, cutouts=cutouts)
    assert found.out is None
    assert (found.table["delta_chi2"] > 0).all()
    other = hf.compare(table, table, name="again")
    assert set(other.table["verdict"]) == {"agree"}
    assert set(other.table["reference"]) == {"again"}


def test_two_runs(run: Path, tmp_path: Path):
    """A run of another estimator: nearly the same, under its folder's name; pixels of ours."""
    options = hf.FitOptions(objective="ml")
    fit_files(run / "galaxies.csv", tmp_path / "ml", fit=options, run=QUICK)
    found = hf.compare(run / "out", tmp_path / "ml")
    (one,) = found.comparisons
    assert (one.theirs.name, one.theirs.kind) == ("ml", "hybridfit")
    assert set(found.table["verdict"]) == {"agree"}
    # maximum likelihood has the lowest chi2 there is; to the fitter's tolerance
    assert (found.table["delta_chi2"] < 0.05).all()
    assert {"sky", "their_sky"} <= set(found.table.colnames)


def test_galfit_blocks(run: Path, tmp_path: Path):
    """Blocks in GALFIT's form, as GALFIT's outputs: ids of files, four digits, and the sky."""
    out = tmp_path / "with"
    options = replace(QUICK, save_models=True)
    fit_files(run / "galaxies.csv", out, run=options)
    found = hf.compare(run / "out", out / "models")
    (one,) = found.comparisons
    assert (one.theirs.kind, one.matches.way) == ("galfit", "id")
    assert len(one.matches) == 6  # one by what the block says of its image
    assert set(found.table["verdict"]) == {"agree"}
    np.testing.assert_allclose(found.table["d_x"], 0, atol=5.1e-5)  # the digits of a block
    np.testing.assert_allclose(found.table["d_pa"], 0, atol=5.1e-5)
    np.testing.assert_allclose(
        found.table["their_chi2"], found.table["chi2"], rtol=1e-3, atol=CHAIN
    )
    assert np.isfinite(found.table["their_sky"]).all()


def test_feedmes_are_told_by_their_paths(shared_data: Path, tmp_path: Path):
    """A run of GALFIT's input files against GALFIT's own outputs, on the pixels of the former."""
    folder = shared_data / "real" / "galfit3" / "hst_galfit_example"
    fit_feedmes([folder], tmp_path, run=QUICK)
    found = hf.compare(tmp_path, folder)
    (one,) = found.comparisons
    assert len(one.matches) == len(found.table["id"][found.table["component"] == 1])
    single = found.table[np.char.endswith(found.table["id"].astype(str), "single")][0]
    assert single["verdict"] == "agree"
    # GALFIT's own chi2 of its numbers, in our renderer: 8475.5; the image is noisy, 93 x 93
    assert single["their_chi2"] == pytest.approx(8475.5, abs=8)
    assert single["dof"] == 8471


def test_simulated_set_against_its_truth(shared_data: Path):
    """The pulls are those that the benchmark works out by itself, to the last digit."""
    path, some = shared_data / "sims" / "main.npz", slice(0, 24)
    with np.load(path) as sims:
        image, sigmas, psf = (sims[name][some] for name in ("data", "sigma", "psf"))
        columns = [sims[f"t_{name}"][some] for name in ("x", "y", "mag", "re", "n", "q", "pa")]
    ids = [f"g{i:03d}" for i in range(24)]
    cutouts = hf.Cutouts(
        image=image, sigma=sigmas, psf=psf / psf.sum((1, 2))[:, None, None], id=ids
    )
    cutouts = replace(cutouts, zeropoint=np.full(24, 22.5))
    table = hf.fit(cutouts, uncertainty="covariance", initial_values="moments")
    found = hf.compare(table, path, id_format="g{id:03d}", cutouts=cutouts)
    (one,) = found.comparisons
    assert len(one.matches.only_theirs) == 176
    true = np.stack([*columns[:6], columns[6] - 90], axis=1)  # t_pa is from +x
    values, errors = (
        np.stack([table[name + end] for name in NAMES], axis=1) for end in ("", "_err")
    )
    off = values - true
    off[:, 6] = (off[:, 6] + 90) % 180 - 90
    good = (np.abs(off[:, 2]) <= 0.5) & (np.abs(np.log(values[:, 3] / true[:, 3])) < np.log(2))
    pull = off[good] / errors[good]
    for k, name in enumerate(NAMES):
        label = f"ln {name}" if name in ("r_eff", "n") else name
        assert row(one.summary, label)["pull_std"] == pytest.approx(pull[:, k].std(), rel=1e-12)
        assert row(one.summary, label)["pull_mean"] == pytest.approx(pull[:, k].mean(), rel=1e-10)
    assert row(one.summary, "x")["catastrophic"] == (~good).sum()
    # the truth lies above the minimum by about as much as there are parameters, 8 each; with
    # the prior in the fit and 24 galaxies the mean scatters by 4 / sqrt(24)
    assert 4 < np.mean(found.table["delta_chi2"]) < 11


def test_gone_pixels_are_no_failure(run: Path, tmp_path: Path):
    """Cutouts that were moved leave chi2 out; a wrong --input is wrong usage."""
    table = Table.read(run / "out" / "results.fits")
    table.meta["OPTIONS"] = table.meta["OPTIONS"].replace(str(run), "/nowhere")
    found = hf.compare(table, run / "truth.fits")
    assert np.isnan(found.table["chi2"]).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--match", "name"), "match is 'name', expected one of auto, id"),
        (("--estimate", "median"), "has no medians"),
        (("--estimate", "mean"), "needs a run with --save-samples"),
        (("--kind", "truth", "--kind", "table"), "--kind was given 2 times for 1 references"),
        (("--where", "mode=single"), "has no column 'mode'"),
        (("--id-format", "{nothing}"), "does not fit the id"),
        (("--format", "xls"), "format is 'xls'"),
        (("--input", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_wrong_usage_is_one_line(run: Path, tmp_path: Path, more: tuple, message: str):
    result = call(run / "out", run / "truth.fits", "-o", tmp_path / "o", *more)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_means_of_draws(tmp_path: Path):
    """Of an angle about its mean direction, across 0."""
    cutouts, truth = hf.simulate(2, 4, SMALL)
    quick = hf.BootstrapOptions(replicas=40, refit=False)
    table = hf.fit(
        cutouts,
        uncertainty="bootstrap",
        bootstrap=quick,
        save_samples=True,
        initial_values="moments",
    )
    table["pa_samples"] = np.tile([179.0, 1.0, 3.0, 177.0], 10) % 180
    found = hf.compare(table, truth, point="mean")
    for row_ in found.table:
        assert min(row_["pa"], 180 - row_["pa"]) < 0.5
        assert row_["pa_err"] == pytest.approx(np.sqrt(5.0), abs=0.3)
    samples = table["mag_samples"][0], table["weight"][0]
    assert found.table["mag"][0] == pytest.approx(np.average(samples[0], weights=samples[1]))
    assert PARAMETERS[:7] == NAMES
