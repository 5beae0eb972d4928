"""From an image to its catalogue."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from hybridfit.data.errors import BadInput, UsageError
from hybridfit.io.options import ReadOptions
from hybridfit.mosaic.config import CatalogConfig
from hybridfit.mosaic.detections import (
    FILE,
    Detections,
    detected,
    given_positions,
    read_detections,
    write_detections,
)
from hybridfit.mosaic.field import Field, FieldFiles, open_field
from hybridfit.mosaic.regions import write_regions
from hybridfit.mosaic.work import CatalogWork, FieldSource
from hybridfit.pipeline.engine.job import Summary
from hybridfit.pipeline.run import run_files
from hybridfit.pipeline.weights import checked_digest

REGIONS = "sources.reg"


def catalog(
    image: str | Path,
    out: str | Path,
    config: CatalogConfig | str | Path | None = None,
    *,
    psf: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    **sections: Any,
) -> Summary:
    """Find all sources of an image, fit them with their neighbours, and write their table.

    A run that was killed continues where it stopped, with the same call.

    Args:
        image: file, or ``file.fits[HDU]``; noise and mask are found beside it, see `SurveyOptions`.
        out: directory for ``results.fits``, ``neighbours.fits``, ``detections.ecsv`` and
            ``sources.reg``.
        config: a `CatalogConfig`, or the path of its YAML file.
        psf: file or directory of the PSF, in place of the configuration's; without any the image
            is fitted without one.
        overwrite: discard another run's results in ``out``.
        quiet: without a progress bar.
        sections: ``survey``, ``catalog``, ``fit``, ``sampling``, ``bootstrap``,
            ``budget`` and ``run`` in place of the configuration's.

    Raises:
        UsageError: if the image or its PSF cannot be read, or no source is found.
        OSError: if ``out`` cannot be written.
    """
    config = CatalogConfig.of(config, sections)
    chosen = config.psf_file if psf is None else str(psf)
    files = FieldFiles(str(image), config.survey, chosen, config.psf)
    try:
        field = open_field(files)
        detections = _detections(field, Path(out), files, config, overwrite)
    except BadInput as error:
        raise UsageError(str(error)) from error
    sources = _sources(detections, str(image))
    digest = "" if config.run.initial_values == "moments" else checked_digest(config.run.weights)
    read = ReadOptions(no_psf=chosen is None)
    work = CatalogWork(read, config.run, config.fit, config.errors, digest, files)
    summary = run_files(str(image), out, work, overwrite, quiet, sources)
    write_regions(Path(out) / REGIONS, summary.results)
    return summary


def _detections(
    field: Field, out: Path, files: FieldFiles, config: CatalogConfig, overwrite: bool
) -> Detections:
    """Return the sources of an image, from an earlier call with the same options if there was."""
    options = config.catalog
    text = json.dumps([files.image, asdict(files.survey), asdict(options)], default=str)
    key = sha256(text.encode()).hexdigest()[:16]
    path = out / FILE
    known = None if overwrite else read_detections(path, key)
    if known is not None:
        return known
    if options.detections is None:
        found = detected(field.image, options)
    else:
        found = given_positions(options.detections, field.image, options)
    out.mkdir(parents=True, exist_ok=True)
    write_detections(path, found, key)
    return found


def _sources(detections: Detections, image: str) -> list[FieldSource]:
    """Return the sources as a run takes them."""
    missing = (math.nan,) * 5
    return [
        FieldSource(id, image, start=(float(x), float(y), *missing), side=int(side))
        for id, x, y, side in zip(
            detections.id, detections.x, detections.y, detections.side, strict=True
        )
    ]
