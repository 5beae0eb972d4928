"""The galaxies of an input and their files, found without opening images."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.names import START_NAMES
from hybridfit.io.address import Address, parse_address
from hybridfit.io.manifest import TABLE_ENDINGS, Manifest, is_fits_table, read_manifest
from hybridfit.io.options import ROLES, VALUES, ReadOptions
from hybridfit.io.planes import hdu_names
from hybridfit.io.psf_files import read_psf
from hybridfit.model.value_columns import NONE, ValueColumns
from hybridfit.options.checks import as_path

ENDINGS = ("", ".gz", ".fz")  # appended to a pattern that ends in .fits
MEF_PATTERN = "{id}.fits"
SHOWN = 5  # number of examples in an error
LONGEST_ID = 10_000  # characters


@dataclass(frozen=True)
class Source:
    """The files and values of one galaxy; "" or NaN for those that are not given.

    Args:
        id: the galaxy's name.
        image, sigma, variance, ivar, psf, mask, segmap, dq, weight: paths, also
            ``file.fits[HDU]``.
        zeropoint, pixel_scale, gain, psf_oversampling, psf_includes_pixel: values of its manifest
            row.
        start: x, y, mag, r_eff, n, q, pa of its manifest row; x, y in pixels of the file.
        parameters: names and values of its row for the model's parameters, in pixels of the file.
        problem: why the galaxy cannot be read, if that is known before any file is opened.
        exposures: further images of the galaxy; without an ``image`` where it has none.
    """

    id: str
    image: str
    sigma: str = ""
    variance: str = ""
    ivar: str = ""
    psf: str = ""
    mask: str = ""
    segmap: str = ""
    dq: str = ""
    weight: str = ""
    zeropoint: float = np.nan
    pixel_scale: float = np.nan
    gain: float = np.nan
    psf_oversampling: float = np.nan
    psf_includes_pixel: float = np.nan
    start: tuple[float, ...] = (np.nan,) * len(START_NAMES)
    parameters: tuple[tuple[str, float], ...] = ()
    problem: str = ""
    exposures: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Sources(Sequence[Source]):
    """The galaxies of one input, sorted by id; each `Source` is made on access.

    Args:
        ids: the galaxies' names.
        root: the directory to which paths are relative.
        files: for each role the galaxies' files: paths as bytes (a manifest), or one plus the
            number of the matching pattern in ``patterns``, 0 for no file; those of further images
            as ``image_2``.
        patterns: for each role the file names with ``{id}``; empty for a manifest.
        values: numeric columns of the manifest, NaN for missing values.
        parameters: columns of initial and fixed values of the model's parameters.
        problems: reasons why galaxies cannot be read, by id, as far as known.
    """

    ids: Sequence[str]
    root: str
    files: dict[str, NDArray] = field(default_factory=dict)
    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    parameters: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]
        value = {name: float(column[i]) for name, column in self.values.items()}
        given = self._image(i, value, "")
        given["exposures"] = tuple(
            Source(id=self.ids[i], **self._image(i, value, f"_{number}"))
            for number in self._exposures
        )
        start = tuple(value.get(name, np.nan) for name in START_NAMES)
        given["parameters"] = tuple((k, float(v[i])) for k, v in self.parameters.items())
        problem = id_problem(self.ids[i]) or self.problems.get(self.ids[i], "")
        return Source(id=self.ids[i], start=start, problem=problem, **given)

    @cached_property
    def _exposures(self) -> list[int]:
        """The numbers of further images."""
        return sorted(int(role[6:]) for role in self.files if role.startswith("image_"))

    def _image(self, i: int, value: Mapping[str, float], ending: str) -> dict[str, Any]:
        """Return files and values of one image of galaxy ``i``, "_2" of the second."""
        files = {role: self._path(role + ending, i) for role in ROLES}
        return files | {name: value[name + ending] for name in VALUES if name + ending in value}

    def has(self, role: str) -> bool:
        """Return whether any galaxy has a file for ``role``."""
        return any(map(bool, self.files.get(role, ())))

    def _path(self, role: str, i: int) -> str:
        if role not in self.files:
            return ""
        entry = self.files[role][i]
        if role in self.patterns:
            name = self.patterns[role][int(entry) - 1] if entry else ""
            name = name.replace("{id}", self.ids[i])
        else:
            name = os.fsdecode(entry)
        return _found(os.path.join(self.root, name)) if name else ""


def _found(path: str) -> str:
    """Return the path in this system's form: slashes, and accents encoded as on disk."""
    if "\\" not in path and path.isascii():
        return path
    slashed = path.replace("\\", "/")
    ways = [path, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
    return next((way for way in ways if os.path.lexists(parse_address(way).path)), path)


def id_problem(name: str) -> str:
    """Explain why ``name`` cannot be an id, and so part of a file name; "" if it can."""
    if not name.strip():
        return "the id is empty"
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        return (
            f"the id {name!r} has a slash or an unprintable character, or is '.' or '..': "
            "expected a name that can be part of a file name"
        )
    return ""


def find_sources(
    input: str | Path, options: ReadOptions = ReadOptions(), columns: ValueColumns = NONE
) -> Sources:
    """Find the galaxies of a directory, a manifest or a multi-extension file, sorted by id.

    Args:
        input: directory with ``<id>_image.fits`` and so on, or with one multi-extension
            ``<id>.fits`` a galaxy; a manifest table (.csv, .ecsv, .fits, .parquet); or one
            multi-extension file.
        options: see `ReadOptions`.
        columns: of a manifest, with values of the model's parameters, see `value_columns`.

    Returns:
        The galaxies; only names are kept in memory, and no image is read.

    Raises:
        FileNotFoundError: if the input or the shared PSF file does not exist.
        ValueError: if the entire input is unusable: no galaxies, duplicate ids, a missing
            column, or no PSF for any galaxy.
    """
    try:
        address = parse_address(str(as_path("input", input)))
    except BadInput as error:
        raise ValueError(f"input {error}") from error
    path = Path(address.path)
    if not path.exists():
        raise FileNotFoundError(f"input '{path}' does not exist")
    if not (path.is_dir() or path.is_file()):
        raise ValueError(f"input '{path}' is neither a directory nor a regular file")
    if options.psf is not None:
        _check_shared_psf(options)
    is_directory = path.is_dir()
    sources = _of_directory(path, options) if is_directory else _of_file(address, options, columns)
    if not (options.no_psf or options.psf or sources.has("psf")):
        _require_psf(sources, options, path)
    return sources


def hdu_names_or_error(path: Path) -> list[str]:
    """Return the names of a FITS file's HDUs; raise ValueError if the input file is unusable."""
    try:
        return hdu_names(str(path))
    except BadInput as error:
        raise ValueError(f"input {error}") from error


def _of_file(address: Address, options: ReadOptions, columns: ValueColumns) -> Sources:
    """Return the galaxies of a manifest, or the single galaxy of a FITS file."""
    path = Path(address.path)
    if not address.tail and (path.name.lower().endswith(TABLE_ENDINGS) or is_fits_table(path)):
        return _of_manifest(read_manifest(path, options, columns), path)
    if not _stem(path.name):
        raise ValueError(
            f"input '{path}' is a file of an unknown type: expected a directory, a manifest "
            f"({', '.join(TABLE_ENDINGS)}) or a FITS file"
        )
    hdu_names_or_error(path)
    image = np.array([os.fsencode(path.name + address.tail)])
    return Sources([_stem(path.name)], str(path.parent), files={"image": image})


def _of_directory(root: Path, options: ReadOptions) -> Sources:
    names = _listing(root)
    patterns = {role: _variants(getattr(options, f"pattern_{role}")) for role in ROLES}
    found = {role: _matches(root, names, patterns[role]) for role in ROLES}
    if not found["image"] and options.pattern_image == ReadOptions.pattern_image:
        patterns["image"] = _variants(MEF_PATTERN)
        found["image"] = _matches(root, names, patterns["image"])
        if options.psf is not None:  # the shared PSF may be in the same directory as the galaxies
            shared = _stem(Path(parse_address(options.psf).path).name)
            if (root / Path(options.psf).name).exists():
                found["image"].pop(shared, None)
    # with "{id}.fits" for images, a_sigma.fits is the sigma of a, not a galaxy named a_sigma
    sidecars = {
        patterns[role][code - 1].replace("{id}", name)
        for role in ROLES
        if role != "image" and patterns[role] != patterns["image"]
        for name, code in found[role].items()
        if name in found["image"]
    }
    ids = sorted(
        name
        for name, code in found["image"].items()
        if patterns["image"][code - 1].replace("{id}", name) not in sidecars
    )
    if not ids:
        examples = ", ".join(sorted(names)[:SHOWN]) or "nothing"
        raise ValueError(
            f"no galaxy found in directory '{root}': expected files like "
            f"'{options.pattern_image}' (--pattern-image) or multi-extension '{MEF_PATTERN}', "
            f"found {examples}"
        )
    files = {
        role: np.array([found[role].get(name, 0) for name in ids], dtype=np.uint8) for role in ROLES
    }
    return Sources(ids, str(root), files, patterns)


def _listing(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            # pipes and broken links are listed: the galaxy's row reports them
            return [entry.name for entry in entries if not _is_folder(entry)]
    except OSError as error:
        raise ValueError(f"directory '{root}' cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a cycle of symbolic links
        return False


def _variants(pattern: str) -> tuple[str, ...]:
    if not pattern.endswith(".fits"):
        return (pattern,)
    return tuple(pattern + ending for ending in ENDINGS)


def _matches(root: Path, names: Sequence[str], variants: tuple[str, ...]) -> dict[str, int]:
    """Map each id to the number, from 1, of the first variant for which it has a file."""
    found: dict[str, int] = {}
    for code, variant in enumerate(variants, start=1):
        head, tail = variant.split("{id}")
        if "/" in variant:  # "{id}/image.fits": one directory a galaxy
            escaped = "*".join(re.sub(r"([*?\[])", r"[\1]", part) for part in (head, tail))
            names = [file.relative_to(root).as_posix() for file in root.glob(escaped)]
        for name in names:
            if name.startswith(head) and name.endswith(tail) and len(name) > len(head + tail):
                found.setdefault(name[len(head) : len(name) - len(tail)], code)
    return found


def _of_manifest(manifest: Manifest, path: Path) -> Sources:
    ids = manifest.ids
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ordered = [ids[i] for i in order]
    twice = sorted({a for a, b in pairwise(ordered) if a == b})
    if twice:
        more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise ValueError(
            f"manifest '{path}' has the same id in several rows: "
            f"{', '.join(map(repr, twice[:SHOWN]))}{more}: give each galaxy a unique id"
        )
    longest = max(ids, key=len)
    if len(longest) > LONGEST_ID:  # every row of the results would be that wide
        raise ValueError(
            f"manifest '{path}' has an id of {len(longest)} characters "
            f"({longest[:20]}...), expected {LONGEST_ID} at most"
        )
    return Sources(
        ordered,
        str(path.parent),
        files={role: column[order] for role, column in manifest.files.items()},
        values={name: column[order] for name, column in manifest.values.items()},
        parameters={name: column[order] for name, column in manifest.parameters.items()},
        problems={ids[i]: text for i, text in manifest.problems.items()},
    )


def _stem(name: str) -> str:
    """Return a FITS file's name without its endings; "" for other files."""
    match = re.fullmatch(r"(.+)\.(fits|fit|fts)(\.gz|\.fz)?", name, flags=re.IGNORECASE)
    return match[1] if match else ""


def _check_shared_psf(options: ReadOptions) -> None:
    """Read the PSF shared by all galaxies, so that an error is raised once, not in every row."""
    try:
        file = parse_address(str(options.psf)).path
        if not os.path.exists(file):
            raise FileNotFoundError(f"PSF file '{file}' does not exist")
        read_psf(str(options.psf), options.psf_center, options.psf_oversampling)
    except BadInput as error:
        raise ValueError(str(error)) from error


def _require_psf(sources: Sources, options: ReadOptions, path: Path) -> None:
    """Raise ValueError if no galaxy has a PSF: no files, and no HDU in the first few images."""
    for source in sources[:SHOWN]:
        try:
            if set(options.hdu_names("psf")) & set(hdu_names(source.image)):
                return
        except BadInput:
            continue  # reported in the galaxy's row
    looked = f"'{options.pattern_psf}', " if path.is_dir() else ""
    raise ValueError(
        f"no PSF found for any galaxy of '{path}' (looked for {looked}a manifest column 'psf', an "
        f"HDU {options.hdu_psf or 'PSF'}): pass --psf FILE, or --no-psf to fit without one"
    )
