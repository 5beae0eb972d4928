"""Tables of earlier versions, whose components were numbered: ``mag_1``, ``mag_2``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from astropy.table import Table
from test_galfit_run import ONE, SKY, TWO, galaxy, rows_of, sersic, write

from hybridfit.io.read_results import Results, read_results
from hybridfit.io.references.own import own_catalogue
from hybridfit.model.declaration import declared_scene, scene_mapping
from hybridfit.pipeline.plot import plot_run


def aged(file: Path) -> None:
    """Give a table the names of components, and the options, of the last version."""
    table = Table.read(file)
    for name in list(table.colnames):
        if match := re.fullmatch(r"comp(\d)_(.*?)(_err)?", name):
            table.rename_column(name, f"{match[2]}_{match[1]}{match[3] or ''}")
    settings = json.loads(table.meta["OPTIONS"])
    settings["fit"].pop("model")
    settings["fit"]["components"] = ["sersic", "sersic"]
    table.meta["OPTIONS"] = json.dumps(settings)
    table.write(file, overwrite=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_table_of_galfit_files_is_read_drawn_and_compared(tmp_path: Path):
    cutouts, _ = galaxy(ONE, TWO, snr=200.0)
    path = write(tmp_path / "pair", cutouts, sersic(ONE) + sersic(TWO) + SKY.format(sky=1))
    new = rows_of([path], tmp_path / "out")["pair"]
    aged(tmp_path / "out" / "results.fits")
    results = read_results(tmp_path / "out")
    assert results.table["comp2_r_eff_err"][0] == new["comp2_r_eff_err"]
    assert not {"mag_1", "ra_2", "r_eff_arcsec_1_err"} & set(results.table.colnames)
    catalogue = own_catalogue(results)
    assert catalogue.values[0, 1, 2] == new["comp2_mag"]
    assert [file.name for file in plot_run(tmp_path / "out")] == ["pair_fit.png"]
    path.unlink()  # then the table alone says what was fitted
    with pytest.raises(Exception, match="cannot be read"):
        plot_run(tmp_path / "out")


def test_components_get_the_names_of_the_model():
    columns = {"id": ["a"], "mag_1": [20.0], "x_1": [1.0], "mag_2_err": [0.1], "mag_2": [21.0]}
    for fit in ({"model": "bulge+disk"}, {"components": ["sersic", "exponential"]}):
        table = Table(columns, meta={"OPTIONS": json.dumps({"fit": fit})})
        names = Results.of_table(table).table.colnames
        first, second = ("bulge", "disk") if "model" in fit else ("sersic", "exponential")
        assert names == ["id", f"{first}_mag", f"{first}_x", f"{second}_mag_err", f"{second}_mag"]


def test_components_without_names_keep_their_numbers():
    model = json.dumps({"components": {"1": "sersic", "2": "point"}})
    columns = {"id": ["a"], "mag_1": [20.0], "mag_2": [21.0]}
    table = Table(columns, meta={"OPTIONS": json.dumps({"fit": {"model": model}})})
    assert Results.of_table(table).table.colnames == ["id", "mag_1", "mag_2"]


def test_a_model_says_which_source_a_component_is_of():
    given = {"components": {"a": "sersic", "b": {"profile": "point", "source": 2}}}
    scene = declared_scene(given)
    assert [len(source.components) for source in scene.sources] == [1, 1]
    assert declared_scene(scene_mapping(scene)) == scene
