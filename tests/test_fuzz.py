"""Whatever a user's files hold: one clear line or a row for each galaxy, soon, in little memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from fuzz_helpers import (
    BYTES,
    SECONDS,
    OverBounds,
    bounded,
    mutate_fits,
    mutate_text,
    replaced,
)

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.simulation.simulate import SimulateOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

SMALL = SimulateOptions(shape=(48, 48), psf_size=15, r_eff=(1.5, 3.0), snr=(60, 300))
QUICK = ("--uncertainty", "covariance", "--initial-values", "moments")
ROLES = ("image", "sigma", "psf", "mask", "segmap", "whole")
IDS = ("other", "target")  # only the second one's files are broken
CHUNK = 20  # inputs a test

APP = make_app()


def inputs(count: int, total: int) -> list[object]:
    """Seeds of inputs, ``CHUNK`` a test: the first ``count`` by default, others in the slow set."""
    few = [pytest.param(range(i, i + CHUNK), id=str(i)) for i in range(0, count, CHUNK)]
    many = [
        pytest.param(range(i, i + CHUNK), id=str(i), marks=pytest.mark.slow)
        for i in range(count, total, CHUNK)
    ]
    return [*few, *many]


def run(*arguments: object, seconds: float = SECONDS) -> tuple[int, str]:
    """Status and output of a command, which ends by itself, soon and without a traceback."""
    with bounded(seconds):
        result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    assert result.exit_code in (0, 2), f"status {result.exit_code}: {result.output}"
    if result.exit_code == 2:
        assert result.output.strip(), "wrong usage without a word"
        assert len(result.output) < 3000, f"{len(result.output)} letters say what is wrong"
    return result.exit_code, result.output


def each(seeds: range, folder: Path, check: Callable[[np.random.Generator, Path], None]) -> None:
    """Check inputs in folders of their own; a failure names the seed."""
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        try:
            check(np.random.default_rng([seed, 14]), place)
        except BaseException as error:
            error.add_note(f"input of seed {seed}")
            raise
        shutil.rmtree(place)


def rows_of(out: Path) -> Table:
    table = Table.read(out / "results.fits")
    assert np.isfinite(table["flags"]).all()
    return table


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two galaxies with every plane there is."""
    folder = tmp_path_factory.mktemp("galaxies")
    cutouts, _ = hf.simulate(2, 5, SMALL)
    write_cutouts(cutouts, folder / "files")
    written = sorted({file.name.split("_")[0] for file in (folder / "files").iterdir()})
    for name, id in zip(written, IDS, strict=True):
        for file in (folder / "files").glob(f"{name}_*"):
            file.rename(file.with_name(file.name.replace(name, id, 1)))
        mask = np.zeros((48, 48), np.uint8)
        mask[:4, :4] = 1
        fits.writeto(folder / "files" / f"{id}_mask.fits", mask)
        fits.writeto(folder / "files" / f"{id}_segmap.fits", np.full((48, 48), 1, np.int32))
    (folder / "whole").mkdir()
    for id in IDS:
        hdus = [fits.PrimaryHDU()]
        for role in ("image", "sigma", "psf", "mask"):
            data, header = fits.getdata(folder / "files" / f"{id}_{role}.fits", header=True)
            name = "SCI" if role == "image" else role.upper()
            own = header if role == "image" else None
            hdus.append(fits.ImageHDU(data, own, name=name))
        fits.HDUList(hdus).writeto(folder / "whole" / f"{id}.fits")
    return folder


@pytest.fixture(scope="module")
def undisturbed(galaxies: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What the galaxy measures whose files are whole, by the kind of input."""
    found = {}
    for kind in ("files", "whole"):
        out = tmp_path_factory.mktemp("undisturbed")
        assert run("fit", galaxies / kind, "-o", out, *QUICK)[0] == 0
        found[kind] = float(rows_of(out)["r_eff"][0])
    return found


@pytest.mark.parametrize("seeds", inputs(80, 1200))
def test_images(galaxies: Path, undisturbed, tmp_path: Path, seeds: range):
    """A broken image, noise map, PSF or mask is a row; the galaxy beside it measures the same."""

    def check(rng: np.random.Generator, place: Path) -> None:
        role = ROLES[int(rng.integers(len(ROLES)))]
        kind = "whole" if role == "whole" else "files"
        shutil.copytree(galaxies / kind, place / "in")
        broken = f"target{'' if role == 'whole' else '_' + role}.fits"
        mutate_fits(place / "in" / broken, rng)
        more = QUICK if rng.random() < 0.9 else ()
        seconds = SECONDS if more else 2 * SECONDS  # of two posteriors
        status, output = run("fit", place / "in", "-o", place / "out", *more, seconds=seconds)
        assert status == 0, output
        table = rows_of(place / "out")
        found = [str(id) for id in table["id"]]
        # a file that is no longer one, a folder say, is not found by its name
        assert found == list(IDS) or (found == ["other"] and not (place / "in" / broken).is_file())
        # float32 sums in a batch of another padded shape: far below the error
        assert float(table["r_eff"][0]) == pytest.approx(undisturbed[kind], rel=2e-3)
        row = table[-1]
        if not row["flags"]:
            values = [row[name] for name in ("x", "y", "mag", "r_eff", "n", "q", "pa", "r_eff_err")]
            assert np.isfinite(values).all(), "a value that is none, without a flag"

    each(seeds, tmp_path, check)


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_shared_psfs(galaxies: Path, tmp_path: Path, seeds: range):
    """A PSF of all galaxies is used, or refused in words before anything is made."""

    def check(rng: np.random.Generator, place: Path) -> None:
        shutil.copy(galaxies / "files" / "other_psf.fits", place / "psf.fits")
        mutate_fits(place / "psf.fits", rng)
        folder = galaxies / "whole"
        status, _ = run("fit", folder, "-o", place / "out", "--psf", place / "psf.fits", *QUICK)
        assert (place / "out").exists() == (status == 0)
        if status == 0:
            assert len(rows_of(place / "out")) == 2

    each(seeds, tmp_path, check)


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_manifests(galaxies: Path, tmp_path: Path, seeds: range):
    """A manifest gives a row for each of its rows, or one line that says what is wrong with it."""

    def check(rng: np.random.Generator, place: Path) -> None:
        shutil.copytree(galaxies / "files", place / "in")
        path = place / "in" / "galaxies.csv"
        lines = ["id,image,sigma,psf,mask,zeropoint,gain,x,y"]
        for i in range(4):
            files = ",".join(f"{IDS[i % 2]}_{role}.fits" for role in ("image", "sigma", "psf"))
            lines.append(f"g{i},{files},,22.5,1.0,{23.5 + i / 4},23.5")
        path.write_text("\n".join(lines) + "\n")
        mutate_text(path, rng)
        status, _ = run("fit", path, "-o", place / "out", *QUICK)
        if status == 0:
            ids = list(rows_of(place / "out")["id"])
            assert len(set(ids)) == len(ids) >= 1

    each(seeds, tmp_path, check)


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_options_in_yaml(galaxies: Path, tmp_path: Path, seeds: range):
    """A broken file of options is refused in a line, or gives a table."""
    example = Path(__file__).parents[1] / "configs" / "fit.yaml"

    def check(rng: np.random.Generator, place: Path) -> None:
        text = "\n".join(line.split("#")[0] for line in example.read_text().splitlines())
        (place / "my.yaml").write_text(text.replace("posterior  ", "covariance"))
        mutate_text(place / "my.yaml", rng)
        folder, config = galaxies / "whole", place / "my.yaml"
        status, _ = run("fit", folder, "-o", place / "out", "--config", config, *QUICK)
        if status == 0 and not list((place / "out").glob("results.[!f]*")):
            assert len(rows_of(place / "out")) in (1, 2)  # a limit of one is among the options

    each(seeds, tmp_path, check)


FEEDME = """
A) target_image.fits
B) imgblock.fits
C) target_sigma.fits
D) target_psf.fits
E) 1
F) none
G) constraints
H) 1 48 1 48
I) 40 40
J) 25.0
K) 0.2 0.2
O) regular
P) 0

 0) sersic
 1) 24.5 24.5 1 1
 3) 20.0 1
 4) 3.0 1
 5) 2.0 1
 9) 0.7 1
10) 40.0 1
 Z) 0

 0) sky
 1) 0.0 1
 2) 0.0 0
 3) 0.0 0
 Z) 0
"""


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_feedmes(galaxies: Path, tmp_path: Path, seeds: range):
    """A broken input file of GALFIT's is a row, whatever else is fitted beside it."""

    def check(rng: np.random.Generator, place: Path) -> None:
        for name in ("whole", "broken"):
            shutil.copytree(galaxies / "files", place / "in" / name)
            (place / "in" / name / "galfit.feedme").write_text(FEEDME)
            (place / "in" / name / "constraints").write_text("1 n 0.5 to 6\n1 x -3 3\n")
        which = "constraints" if rng.random() < 0.25 else "galfit.feedme"
        mutate_text(place / "in" / "broken" / which, rng)
        paths = [place / "in" / name / "galfit.feedme" for name in ("broken", "whole")]
        if not paths[0].is_file():
            return
        status, _ = run("fit", "--galfit", *paths, "-o", place / "out")
        assert status == 0
        table = rows_of(place / "out")
        assert len(table) == 2
        fine = [row for row in table if "whole" in str(row["id"])]
        assert len(fine) == 1
        assert np.isfinite(fine[0]["mag"])

    each(seeds, tmp_path, check)


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def stopped(galaxies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    """A run that was stopped before its table was written, and that table."""
    out = tmp_path_factory.mktemp("stopped")
    arguments = ("fit", galaxies / "whole", "-o", out / "run", *QUICK, "--part-size", "1")
    with (
        mock.patch("hybridfit.io.write_tables.write_results", side_effect=Stopped),
        pytest.raises(Stopped),
    ):
        run(*arguments)
    shutil.copytree(out / "run", out / "whole")
    assert run(*arguments[:3], out / "whole", *arguments[4:])[0] == 0
    return out / "run", rows_of(out / "whole")


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_parts(galaxies: Path, stopped, tmp_path: Path, seeds: range):
    """A broken part is computed again; a broken record is refused; never another table."""
    folder, table = stopped

    def check(rng: np.random.Generator, place: Path) -> None:
        shutil.copytree(folder, place / "out")
        files = sorted(file for file in (place / "out").rglob("*") if file.is_file())
        parts = [file for file in files if file.suffix != ".json" and not file.name.startswith(".")]
        assert len(parts) >= 2
        path = parts[int(rng.integers(len(parts)))]
        if rng.random() < 0.2:
            path = place / "out" / "run.json"
        before = path.read_bytes()
        mutate_text(path, rng) if path.suffix == ".json" else _mutate_bytes(path, rng)
        changed = not path.is_file() or path.read_bytes() != before
        more = (*QUICK, "--part-size", "1")
        status, output = run("fit", galaxies / "whole", "-o", place / "out", *more)
        if path.suffix != ".json":
            assert status == 0, output
            if changed:
                assert path.name in output
        if status == 0:
            found = rows_of(place / "out")
            for name in table.colnames:
                a, b = (np.ma.filled(t[name]) for t in (found, table))
                np.testing.assert_array_equal(a, b, err_msg=name)  # the same numbers, computed anew

    each(seeds, tmp_path, check)


def _mutate_bytes(path: Path, rng: np.random.Generator) -> None:
    if rng.random() < 0.1:
        replaced(path, rng)
    else:
        path.write_bytes(BYTES[int(rng.integers(len(BYTES)))](path.read_bytes(), rng))


@pytest.mark.parametrize("seeds", inputs(20, 200))
def test_weights(galaxies: Path, tmp_path: Path, seeds: range):
    """A broken folder of weights is refused in a line, or serves."""
    packaged = Path(hf.__file__).parent / "npe" / "weights"

    def check(rng: np.random.Generator, place: Path) -> None:
        shutil.copytree(packaged, place / "weights")
        names = sorted(file.name for file in packaged.iterdir())
        path = place / "weights" / names[int(rng.integers(len(names)))]
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            if rng.random() < 0.7:  # the header, which says where the numbers are
                path.write_bytes(_broken(content[:20_000], rng) + content[20_000:])
            else:
                _mutate_bytes(path, rng)
        else:
            mutate_text(path, rng)
        run("predict", galaxies / "whole", "-o", place / "out", "--weights", place / "weights")

    each(seeds, tmp_path, check)


def _broken(content: bytes, rng: np.random.Generator) -> bytes:
    return BYTES[int(rng.integers(len(BYTES)))](content, rng)


def test_the_bounds_bind():
    """What takes too long, or too much memory, is seen."""

    def endless() -> None:
        while True:
            pass

    with pytest.raises(OverBounds, match="CPU time"), bounded(0.05):
        endless()
    with pytest.raises(OverBounds, match="GiB"), bounded():
        np.ones(200_000_000)
    with bounded():
        yaml.safe_load("a: 1")
