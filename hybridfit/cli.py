"""The command line: parses arguments, calls the pipeline, turns errors into lines and statuses."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# What options say of themselves; those without a line here are shown too, without words.
HELP = {
    "psf": "one PSF file (or file.fits[HDU]) for all galaxies without their own",
    "no_psf": "fit without a PSF",
    "psf_oversampling": "PSF pixels per image pixel",
    "psf_includes_pixel": "the PSF holds the pixel's response already (a star, an ePSF)",
    "psf_center": "array | centroid: pixel N // 2 as GALFIT, or shifted onto it",
    "columns": 'manifest columns under other names: "id=NAME,mag=MAG_AUTO"',
    "zeropoint": "magnitude of one flux unit",
    "pixel_scale": "arcsec per pixel; else from the WCS",
    "gain": "electrons per image unit, for the noise where no sigma is given",
    "crop": "auto | none: cut large stamps to the galaxy and its sky",
    "mask_neighbours": "find and mask neighbours where no mask is given",
    "x": "start value, pixels of the file, the first one is 0",
    "y": "start value, pixels of the file, the first one is 0",
    "mag": "start value",
    "r_eff": "start value, pixels",
    "n": "start value",
    "q": "start value",
    "pa": "start value, degrees from +y towards -x",
    "estimator": "map | ml: with the prior, or maximum likelihood",
    "sky": "constant | plane | fixed",
    "sky_value": "flux per pixel of a fixed sky",
    "method": "lm | adam",
    "max_iter": "evaluations a galaxy may use in each try",
    "tolerance": "of the optimiser",
    "coarse": "fit stamps of 96 pixels and more on their middle first",
    "second_tries": "repeat doubtful fits from other starts",
    "compile": "auto | on | off: compiled kernels",
    "chunk": "galaxies a kernel takes at once; 0 chooses",
    "precision": "float32 | float64",
    "convolution": "continuous | galfit: PSF taken as a smooth function, or as GALFIT does",
    "uncertainty": "covariance: where errors come from",
    "start": "moments: where the fit starts",
    "device": "cpu | cuda",
    "threads": "CPU threads",
    "format": "fits | ecsv | parquet | csv",
    "covariance": "write the covariance matrices too",
    "save_models": "write models/<id>_block.fits: image, model, residual",
    "part": "galaxies that are computed and kept at a time",
    "limit": "only so many galaxies, in the order of their ids; 0: all",
}
INPUT = "directory, manifest or file"
PANELS = ("Input", "Fit", "Run")
REQUIRED = inspect.Parameter.empty


def main() -> NoReturn:
    """Run the command line; the process ends with status 0, 1 or 2."""
    try:
        make_app(sys.argv[1:2] == ["fit"])()
    except KeyboardInterrupt:  # while torch was being imported
        typer.echo("\nstopped before anything was done", err=True)
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(OK)


def make_app(with_options: bool = True) -> typer.Typer:
    """Return the application.

    Args:
        with_options: whether ``fit`` has its options; knowing them takes importing torch,
            which the help of all commands need not wait for.
    """
    app = typer.Typer(
        name="hybridfit",
        help="Fit galaxy cutouts in batches: FITS in, a table out.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    app.command("fit")(_fit_command() if with_options else _fit_stub)
    app.command("simulate")(_simulate)
    app.command("train")(_train)
    return app


def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"hybridfit {version('hybridfit')}")
        raise typer.Exit


def _fit(
    input: Path,
    out: Path,
    config: Path | None,
    overwrite: bool,
    quiet: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Fit all galaxies of INPUT and write OUT/results.fits.

    INPUT is a directory with <id>_image.fits, <id>_sigma.fits, <id>_psf.fits, <id>_mask.fits, or
    with multi-extension files, or a manifest (CSV, ECSV, FITS, Parquet) with columns id, image,
    sigma, psf...

    A run that was stopped goes on where it stopped when the same command is given again. Exit
    status: 0 the run is whole (flagged galaxies included), 1 it failed, 2 wrong usage.
    """
    from hybridfit import pipeline

    with _errors(debug):
        with _usage():
            read, options, run = _options(config, given)
        summary = pipeline.fit_files(input, out, read, options, run, overwrite, quiet)
        if not quiet:
            typer.echo(_told(summary), err=True)


def _fit_stub() -> None:
    pass


_fit_stub.__doc__ = _fit.__doc__


def _simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="directory for the cutouts")],
    n: Annotated[int, typer.Option(help="galaxies", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="of the random numbers")] = 0,
    size: Annotated[int, typer.Option(help="pixels a side", min=16)] = 96,
    snr_min: Annotated[float, typer.Option(help="least signal to noise")] = 15.0,
    snr_max: Annotated[float, typer.Option(help="largest signal to noise")] = 500.0,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Simulate noisy galaxies as FITS cutouts, with their true parameters in truth.fits."""
    from hybridfit.io.cutout_files import write_cutouts
    from hybridfit.model.simulate import SimulateOptions
    from hybridfit.model.simulate import simulate as draw

    with _errors(debug):
        with _usage():
            options = SimulateOptions(shape=(size, size), snr=(snr_min, snr_max))
        cutouts, truth = draw(n, seed, options)
        write_cutouts(cutouts, out, truth)
        typer.echo(f"{n} galaxies in {out}", err=True)


def _train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, see configs/")],
    out: Annotated[Path, typer.Option("--out", "-o", help="directory for the run")],
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint in OUT")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="wall time of all legs, instead of the file's")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="images to be seen, instead of the file's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of the network; 0: all")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="only write the last checkpoint's weights into this folder")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Train the posterior network on simulated galaxies; weights come into OUT/weights.

    A run that was stopped, or killed at any moment, goes on with --resume. A run with a limit on
    its time anneals its learning rate to the end of it.
    """
    from hybridfit.pipeline.training import train_network

    with _errors(debug):
        done = train_network(config, out, resume, minutes, images, device, threads, export, quiet)
        if not done:
            typer.echo(f"stopped: --resume goes on from the checkpoint in {out}", err=True)
            raise typer.Exit(INTERRUPTED)


def _options(config: Path | None, given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Reading, fit and run options: defaults, then the YAML file, then the command line."""
    from hybridfit.config import check_keys, load_yaml, make
    from hybridfit.parameters import Prior

    sections = load_yaml(config) if config is not None else {}
    check_keys(sections, ["read", "fit", "prior", "run"], str(config))
    for name, content in sections.items():
        if content is not None and not isinstance(content, Mapping):
            raise ValueError(f"section '{name}' of {config} is {content!r}, expected 'key: value'")
    made = []
    for section, cls in _stages().items():
        values = dict(sections.get(section) or {})
        known = [f.name for f in fields(cls) if f.name != "prior"]
        check_keys(values, known, f"section '{section}' of {config}")
        values |= {f.name: given[f.name] for f in fields(cls) if given.get(f.name) is not None}
        if section == "fit" and sections.get("prior"):
            values["prior"] = Prior.from_mapping(sections["prior"])
        made.append(make(cls, values, section))
    return made[0], made[1], made[2]


def _stages() -> dict[str, Any]:
    from hybridfit.fitting.fit import FitOptions
    from hybridfit.io.fits import ReadOptions
    from hybridfit.pipeline import RunOptions

    return {"read": ReadOptions, "fit": FitOptions, "run": RunOptions}


def _parameter(field: Field[Any], panel: str) -> inspect.Parameter | None:
    """A command-line option for a field of an options dataclass; None if it cannot be one."""
    kinds = {"str": str, "int": int, "float": float, "bool": bool}
    kind = kinds.get(str(field.type).removesuffix(" | None"))
    if kind is None:
        return None
    flag = f"--{field.name.replace('_', '-')}"
    if kind is bool and not field.name.startswith("no_"):
        flag = f"{flag}/--no-{field.name.replace('_', '-')}"
    text = HELP.get(field.name, "")
    if field.name.startswith("hdu_"):
        text = f"HDUs that hold the {field.name[4:]}, a comma list"
    elif field.name.startswith("pattern_"):
        text = f"{field.name[8:]} files in a directory"
    if field.default not in (None, "", 0) and kind is not bool:
        text = f"{text} [{field.default}]".strip()
    option = typer.Option(flag, help=text, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _fit_command() -> Callable[..., None]:
    """`_fit` with an option for every field of the stages' options."""
    flag, path = typer.Option, Path | None
    named: dict[str, tuple[Any, Any]] = {
        "input": (
            Annotated[Path, typer.Argument(metavar="INPUT", help="directory, manifest or file")],
            ...,
        ),
        "out": (Annotated[Path, flag("--out", "-o", help="directory for the results")], REQUIRED),
        "config": (Annotated[path, flag("--config", "-c", help="YAML file of options")], None),
        "overwrite": (
            Annotated[bool, flag("--overwrite", help="replace another run's results")],
            False,
        ),
        "quiet": (Annotated[bool, flag("--quiet", help="say nothing but errors")], False),
        "debug": (Annotated[bool, flag("--debug", help="show where an error came from")], False),
    }
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            name,
            kind,
            annotation=annotation,
            default=inspect.Parameter.empty if default is ... else default,
        )
        for name, (annotation, default) in named.items()
    ]
    for panel, cls in zip(PANELS, _stages().values(), strict=True):
        parameters += [p for field in fields(cls) if (p := _parameter(field, panel))]

    def fit(**values: Any) -> None:
        _fit(**values)

    fit.__doc__ = _fit.__doc__
    fit.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    fit.__annotations__ = {p.name: p.annotation for p in parameters}
    return fit


def _told(summary: Any) -> str:
    """What a run came to, in two or three lines."""
    flags = dict(summary.flags)
    flagged = flags.pop("any", 0)
    lines = [f"{summary.n} galaxies, {flagged} with flags: {summary.results}"]
    if flags:
        common = sorted(flags.items(), key=lambda item: -item[1])
        lines.append("flags: " + ", ".join(f"{name} {count}" for name, count in common))
    if summary.n_fitted:
        total = sum(summary.seconds.values())
        shares = ", ".join(f"{what} {s:.1f} s" for what, s in summary.seconds.items() if s >= 0.05)
        rate = summary.n_fitted / max(total, 1e-9)
        lines.append(f"{summary.n_fitted} fitted now, {rate:.3g} a second ({shares})")
    else:
        lines.append("the run was complete already: nothing to do")
    return "\n".join(lines)


@contextmanager
def _usage() -> Iterator[None]:
    """What is raised in here is wrong usage."""
    from hybridfit.pipeline import UsageError

    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Turn exceptions into one line on stderr and an exit status."""
    from hybridfit.pipeline import UsageError

    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nstopped: the same command goes on where it stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        usage = isinstance(error, UsageError)
        typer.echo(f"hybridfit: {_line(error)}", err=True)
        raise typer.Exit(USAGE if usage else FAILED) from None


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        what = os.strerror(error.errno)
        file = f" '{error.filename}'" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": make room and give the same command to go on" if full else ""
        return f"cannot use{file}: {what}{hint}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and "space on disk" in text:  # astropy's words, without a number
        return "cannot write: no space left: make room and give the same command to go on"
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"out of memory: try a smaller --part or --chunk ({text[:200]})"
    if type(error).__name__ == "UsageError":
        return text
    return f"{type(error).__name__}: {text[:500]} (--debug shows where)"
