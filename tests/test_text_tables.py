"""Manifests as spreadsheets write them; ids and formulas, letters beyond ASCII, in and out."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import hybridfit as hf
from hybridfit.io.delimited import decimal, guarded, read_delimited, unguarded
from hybridfit.io.manifest import read_manifest
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.read_results import read_results
from hybridfit.io.references.tables import read_table
from hybridfit.io.sources import find_sources
from hybridfit.io.table import Column, record_type
from hybridfit.io.unicode_columns import Reiterable
from hybridfit.io.write_tables import write_results

PLAIN = ReadOptions(no_psf=True, crop="none", mask_neighbours=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one in a folder below."""
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    (tmp_path / "sub").mkdir()
    for name in ("a.fits", "sub/b.fits", "sub/größe.fits"):
        fits.writeto(tmp_path / name, image)
    return tmp_path


ROWS = [["id", "image", "x", "zeropoint"], ["0042", "a.fits", "19.5", "25"]]


def text(separator: str, decimal_comma: bool = False, ending: str = "\n") -> str:
    rows = [list(row) for row in [*ROWS, ["é", "sub/größe.fits", "20.25", ""]]]
    if decimal_comma:
        rows = [
            rows[0],
            *([c if "fits" in c else c.replace(".", ",") for c in r] for r in rows[1:]),
        ]
    return ending.join(separator.join(row) for row in rows) + ending


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(folder: Path, encoding: str, separator: str):
    path = folder / "list.csv"
    path.write_bytes(text(separator, decimal_comma=separator in ";\t").encode(encoding))
    sources = find_sources(path, PLAIN)
    assert list(sources.ids) == ["0042", "é"]
    assert [source.start[0] for source in sources] == [19.5, 20.25]
    assert sources[0].zeropoint == 25
    for source in sources:
        read_cutout(source, PLAIN)  # the file is found


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_ends_of_lines(folder: Path, ending: str):
    (folder / "list.csv").write_bytes(text(";", True, ending).encode())
    assert list(find_sources(folder / "list.csv", PLAIN).ids) == ["0042", "é"]


@pytest.mark.parametrize(
    "written",
    [
        "sep=;\nid;image\na;a.fits\n",
        '"sep=;"\r\nid;image\r\na;a.fits\r\n',
        "id;image;;\na;a.fits;;\n;;;\n;;;\n",
        '"id";"image"\n"a";"a.fits"\n',
        " id ; image \n\na ; a.fits\n",
        "# made by hand, or so\nid;image\na;a.fits\n",
        'id;image;note\na;a.fits;"one, two, three; and, so, on"\n',
        "id\timage\na\ta.fits\n",
        "ID_OTHER|id|image\n7|a|a.fits\n",
    ],
)
def test_what_spreadsheets_add(folder: Path, written: str):
    (folder / "list.csv").write_text(written)
    sources = find_sources(folder / "list.csv", PLAIN)
    assert list(sources.ids) == ["a"]
    read_cutout(sources[0], PLAIN)


def test_tsv_is_a_manifest(folder: Path):
    (folder / "list.tsv").write_text("id\timage\na\ta.fits\n")
    assert list(find_sources(folder / "list.tsv", PLAIN).ids) == ["a"]


@pytest.mark.parametrize(
    "name", ["sub\\b.fits", ".\\sub\\b.fits", "sub\\b.fits[0]", "sub/b.fits+0"]
)
def test_separators_of_windows(folder: Path, name: str):
    (folder / "list.csv").write_text(f"id,image\na,{name}\n")
    read_cutout(find_sources(folder / "list.csv", PLAIN)[0], PLAIN)


def test_a_backslash_may_be_part_of_a_name(folder: Path):
    (folder / "a.fits").rename(folder / "b\\a.fits")
    (folder / "list.csv").write_text("id,image\na,b\\a.fits\n")
    read_cutout(find_sources(folder / "list.csv", PLAIN)[0], PLAIN)


@pytest.mark.parametrize(
    ("written", "number"),
    [("25,5", 25.5), ("-0,05", -0.05), (",5", 0.5), ("1.234,5", 1234.5), ("1.234.567,0", 1234567.0),
     ("1,5e-3", 1.5e-3), ("25.5", 25.5), ("25", 25.0)],
)  # fmt: skip
def test_decimal_commas(written: str, number: float):
    assert float(decimal(written)) == number


def test_a_comma_in_a_table_with_commas_is_no_point(folder: Path):
    """1,234 in quotes may be a thousand: told, not guessed."""
    (folder / "list.csv").write_text('id,image,x\na,a.fits,"1,234"\nb,a.fits,2\n')
    manifest = read_manifest(folder / "list.csv", PLAIN)
    assert np.isnan(manifest.values["x"][0])
    assert "x is '1,234', expected a number" in manifest.problems[0]


@pytest.mark.parametrize("data", [bytes(range(256)) * 20, b"a" * 3_000_000, b"\0" * 100_000])
def test_what_is_no_text(folder: Path, data: bytes):
    (folder / "list.csv").write_bytes(data)
    with pytest.raises(ValueError, match=r"list\.csv"):
        find_sources(folder / "list.csv", PLAIN)


FORMULAS = ["=1+1", "+1", "-7", "@a", "'=1", "''", "'a", "=cmd|' /C calc'!A0", "a=1", "＝1"]


@pytest.mark.parametrize("name", [*FORMULAS, "\t=1", "\r=1", "\n=1", "'", ""])
def test_no_text_is_a_formula_and_each_comes_back(name: str):
    assert guarded(name)[:1] not in tuple("=+-@\t\r\n＝＋－＠")
    assert unguarded(guarded(name)) == name


def galaxies(folder: Path, ids: list[str]) -> Path:
    """A manifest of simulated galaxies of these names."""
    from hybridfit.io.cutout_files import write_cutouts

    cutouts, truth = hf.simulate(len(ids), 3)
    write_cutouts(cutouts, folder / "cutouts")
    names = [f"cutouts/{name}_image.fits" for name in cutouts.id]
    truth["id"] = ids
    truth.write(folder / "truth.ecsv")
    table = Table({"id": ids, "image": names})
    for role in ("sigma", "psf"):
        table[role] = [name.replace("image", role) for name in names]
    table.write(folder / "list.ecsv")
    return folder / "list.ecsv"


NAMED = ["Ångström", "星系", "-7", "=1+1", "plain"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same galaxies, measured into all formats."""
    folder = tmp_path_factory.mktemp("runs")
    manifest = galaxies(folder, NAMED)
    for format in ("fits", "csv", "ecsv", "parquet"):
        hf.fit_files(
            manifest,
            folder / format,
            run=hf.RunOptions(
                format=format, uncertainty="covariance", initial_values="moments", save_models=True
            ),
        )
    return folder


@pytest.mark.parametrize("format", ["fits", "csv", "ecsv", "parquet"])
def test_ids_come_back_from_every_format(runs: Path, format: str):
    results = read_results(runs / format)
    assert sorted(map(str, results.table["id"])) == sorted(NAMED)
    assert "id_utf8" not in results.table.colnames
    rows = results.rows_of(NAMED)
    assert [str(results.table["id"][row]) for row in rows] == NAMED
    if format == "csv":
        return
    found = hf.compare(runs / format, runs / "truth.ecsv", pixels=False, quiet=True)
    assert sorted(map(str, found.table["id"])) == sorted(NAMED)
    assert not len(found.unmatched)


def test_a_fits_table_is_ascii_with_utf8_beside(runs: Path):
    with fits.open(runs / "fits" / "results.fits") as hdus:
        data = hdus[1].data
        escaped = [str(name) for name in data["id"]]
        assert all(name.isascii() for name in escaped)
        assert hdus[1].columns["id_utf8"].format.endswith("B")
        named = [bytes(name).rstrip(b"\0").decode() for name in data["id_utf8"]]
    assert sorted(named) == sorted(NAMED)
    assert "\\xc5ngstr\\xf6m" in escaped
    # as a manifest, or a reference, it has the names
    table = read_table(runs / "fits" / "results.fits")
    assert sorted(map(str, table["id"])) == sorted(NAMED)


ID = Column("id", "S4", "", "name", "meta.id")
X = Column("x", "f8", "", "number", "pos.cartesian.x")


def test_ascii_ids_have_no_column_beside(tmp_path: Path):
    columns = (ID, X)
    rows = np.array([(b"a", 1.0), (b"b", 2.0)], record_type(columns))
    write_results(tmp_path / "results.fits", [rows], columns, {})
    assert Table.read(tmp_path / "results.fits").colnames == ["id", "x"]


def test_parts_of_a_fits_table_have_one_width(tmp_path: Path):
    """Letters beyond ASCII in the last part only; all rows keep their numbers."""
    columns = (
        replace(ID, format="S16"),
        X,
        Column("notes", "S20", "", "prose", "meta.note"),
    )
    parts = [
        np.array([(name.encode(), k, name.encode())], record_type(columns))
        for k, name in enumerate(("a", "b", "éß", ""))
    ]
    write_results(tmp_path / "results.fits", Reiterable(lambda: iter(parts)), columns, {})
    table = read_results(tmp_path).table
    assert list(map(str, table["id"])) == ["a", "b", "éß", ""]
    assert table["x"].tolist() == [0, 1, 2, 3]
    assert str(table["notes"][2]) == "??"


def test_a_run_goes_on_and_its_pictures_have_its_names(runs: Path):
    from hybridfit.pipeline.plot import plot_run

    again = hf.fit_files(
        runs / "list.ecsv",
        runs / "fits",
        run=hf.RunOptions(
            format="fits", uncertainty="covariance", initial_values="moments", save_models=True
        ),
    )
    assert again.n_fitted == 0  # it was whole
    for out in (runs / "fits", runs / "csv"):
        files = plot_run(out, ids=["Ångström", "-7"])
        assert len(files) == 2
        assert all(file.is_file() for file in files)


def test_csv_shows_a_spreadsheet_no_formula(runs: Path):
    rows = list(csv.reader(io.StringIO((runs / "csv" / "results.csv").read_text())))
    at = rows[0].index("id")
    assert sorted(row[at] for row in rows[1:]) == sorted(
        [*(name for name in NAMED if name[0] not in "-="), "'-7", "'=1+1"]
    )
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row)
    # what we wrote is read as what it was, as a reference and as a manifest
    assert sorted(map(str, read_table(runs / "csv" / "results.csv")["id"])) == sorted(NAMED)
    assert sorted(read_delimited(runs / "csv" / "results.csv").columns["id"]) == sorted(NAMED)


@pytest.mark.parametrize("format", ["fits", "csv", "ecsv", "parquet"])
@pytest.mark.parametrize("data", [b"", b"garbage,two\nx\n", b"\0" * 10_000, "cut"])
def test_results_that_cannot_be_read_are_told(tmp_path: Path, runs: Path, format: str, data):
    path = tmp_path / f"results.{format}"
    whole = (runs / format / path.name).read_bytes()
    left = len(whole) - 20 if format == "csv" else len(whole) // 2  # of a CSV half a line must go
    path.write_bytes(whole[:left] if data == "cut" else data)
    with pytest.raises(hf.UsageError, match=rf"results\.{format}' cannot be read"):
        list(read_results(tmp_path).table["id"])


def test_options_that_are_none_are_told(tmp_path: Path):
    table = Table({"id": ["a"]}, meta={"OPTIONS": "[1, 2"})
    table.write(tmp_path / "results.ecsv")
    with pytest.raises(hf.UsageError, match=r"results\.ecsv' cannot be read"):
        read_results(tmp_path)


def test_one_long_cell_does_not_widen_all_rows(tmp_path: Path):
    """A file name of 100,000 letters among 20,000 others would take 2 GB at a fixed width."""
    path = tmp_path / "many.csv"
    rows = [f"g{i:05d},none{i}.fits" for i in range(20_000)]
    path.write_text("\n".join(["id,image", *rows, "long," + "x" * 100_000]))
    manifest = read_manifest(path, ReadOptions())
    assert manifest.files["image"].nbytes < 1e6
    sources = find_sources(path, ReadOptions(no_psf=True))
    assert sources.has("image")
    assert not sources.has("psf")
    assert Path(sources[7].image).name == "none7.fits"
    assert Path(sources[-1].image).name == "x" * 100_000
    path.write_text("id,image\na,a.fits\n" + "i" * 100_000 + ",b.fits\n")
    with pytest.raises(ValueError, match="an id of 100000 characters"):
        find_sources(path, ReadOptions(no_psf=True))
