"""The command line: parses arguments, calls the pipeline, turns errors into lines and statuses."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hybridfit.cli.compare import compare_command
from hybridfit.cli.exit_status import INTERRUPTED, OK, errors, told, usage
from hybridfit.cli.flags import ALLOW_IMPORT, import_allowed, load_options, with_options


def main() -> NoReturn:
    """Run the command line; the process ends with status 0, 1 or 2."""
    try:
        make_app(sys.argv[1:2])()
    except KeyboardInterrupt:  # while torch was being imported
        typer.echo("\nstopped before anything was done", err=True)
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(OK)


def make_app(named: Sequence[str] = ("fit", "predict")) -> typer.Typer:
    """Return the application.

    Args:
        named: those of ``fit`` and ``predict`` that have their options; knowing them takes
            importing torch, which the help of all commands need not wait for.
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
    for name, function, stages, own in (
        ("fit", _fit, _fit_stages, FIT_ARGUMENTS),
        ("predict", _predict, _predict_stages, {}),
    ):
        command = with_options(function, stages(), own) if name in named else _stub(function)
        app.command(name)(command)
    app.command("simulate")(_simulate)
    app.command("train")(_train)
    app.command("calibrate")(_calibrate)
    app.command("finetune")(_finetune)
    app.command("plot")(_plot)
    app.command("compare")(compare_command)
    return app


def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"hybridfit {version('hybridfit')}")
        raise typer.Exit


FIT_ARGUMENTS = {
    "input": (
        Annotated[
            list[Path],
            typer.Argument(
                metavar="INPUT", help="directory, manifest or file; several with --galfit"
            ),
        ],
        inspect.Parameter.empty,
    ),
    "galfit": (
        Annotated[
            bool, typer.Option("--galfit", help="INPUT are GALFIT input files, or hold such")
        ],
        False,
    ),
    "allow_import": (Annotated[list[str] | None, ALLOW_IMPORT], None),
}


def _fit(
    *, input: list[Path], galfit: bool, allow_import: Sequence[str] | None = None, **given: Any
) -> None:
    """Fit all galaxies of INPUT and write OUT/results.fits.

    INPUT is a directory with <id>_image.fits, <id>_sigma.fits, <id>_psf.fits, <id>_mask.fits, or
    with multi-extension files, or a manifest (CSV, ECSV, FITS, Parquet) with columns id, image,
    sigma, psf...

    For each parameter there are the best fit, _err, and the quantiles _p16, _p50, _p84 of the
    posterior, in which fit and network are reconciled; `quality` says how far to trust them.
    --uncertainty covariance is quicker, and of the fit alone.

    With --galfit INPUT is GALFIT's input files, or directories that hold such: images, regions,
    starting values and what is held are theirs. Convolution and errors are then GALFIT's too,
    unless --convolution continuous, --uncertainty posterior are said.

    A run that was stopped goes on where it stopped when the same command is given again. Exit
    status: 0 the run is whole (flagged galaxies included), 1 it failed, 2 wrong usage.
    """
    from hybridfit.pipeline.config import Config, galfit_config
    from hybridfit.pipeline.fit_files import fit_files
    from hybridfit.pipeline.galfit.run import fit_feedmes

    with errors(bool(given["debug"])), usage():
        import_allowed(allow_import)
    if galfit:
        _stream(fit_feedmes, galfit_config(), "fitted", input=input, **given)
        return
    if len(input) > 1:
        raise typer.BadParameter("several inputs came, expected one (or feedme files: --galfit)")
    _stream(fit_files, Config(), "fitted", input=input[0], **given)


def _predict(**given: Any) -> None:
    """Predict the posteriors of all galaxies of INPUT, without a fit, as OUT/results.fits.

    INPUT is what `hybridfit fit` takes. For each parameter there are the mean, _err, and the
    quantiles _p025, _p16, _p50, _p84, _p975; with --save-samples the draws.

    A run that was stopped goes on where it stopped when the same command is given again. Exit
    status: 0 the run is whole (flagged galaxies included), 1 it failed, 2 wrong usage.
    """
    from hybridfit.pipeline.config import PredictConfig
    from hybridfit.pipeline.predict import predict_files

    _stream(predict_files, PredictConfig(), "predicted", **given)


def _stream(
    files: Callable[..., Any],
    defaults: Any,
    done: str,
    *,
    input: Path | list[Path],
    out: Path,
    config: Path | None,
    overwrite: bool,
    quiet: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Run ``files`` of the pipeline over INPUT with the options of its sections."""
    with errors(debug):
        with usage():
            chosen = load_options(config, given, defaults)
        summary = files(input, out, chosen, overwrite=overwrite, quiet=quiet)
        if not quiet:
            typer.echo(told(summary, done), err=True)


def _stub(function: Callable[..., None]) -> Callable[[], None]:
    """A command with the help's first line only."""

    def stub() -> None:
        pass

    stub.__doc__ = function.__doc__
    return stub


def _simulate(
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="directory for the cutouts")
    ],
    n: Annotated[int, typer.Option(help="galaxies", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="of the random numbers", min=0)] = 0,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="as surveys have them: neighbours, masks, any PSF")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="scenes of a YAML file, as `hybridfit train` takes"),
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels a side [96]", min=16)] = None,
    snr_min: Annotated[float | None, typer.Option(help="least signal to noise [15]")] = None,
    snr_max: Annotated[float | None, typer.Option(help="largest signal to noise [500]")] = None,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Simulate noisy galaxies as FITS cutouts, with their true parameters in truth.fits.

    Tidy and isolated ones to try things on; with --scenes what the posterior is trained on.
    """
    from hybridfit.io.cutout_files import write_cutouts
    from hybridfit.simulation.simulate import SimulateOptions, simulate, simulate_fields

    with errors(debug):
        if scenes or config is not None:
            from hybridfit.training.recipe import Recipe

            with usage():
                if (size, snr_min, snr_max) != (None, None, None):
                    raise ValueError(
                        "--size, --snr-min and --snr-max are of tidy galaxies: for scenes write "
                        "`simulator: {sides: [96], snr: [15, 500]}` into a file for --config"
                    )
                recipe = Recipe() if config is None else Recipe.read(config)
            drawn = simulate_fields(n, seed, recipe.simulator, recipe.prior)
            cutouts, truth = drawn.cutouts, drawn.table()
        else:
            with usage():
                side = size or 96
                snr = (15.0 if snr_min is None else snr_min, 500.0 if snr_max is None else snr_max)
                tidy = SimulateOptions(shape=(side, side), snr=snr)
            cutouts, truth = simulate(n, seed, tidy)
        write_cutouts(cutouts, out, truth)
        typer.echo(f"{n} galaxies in {out}", err=True)


def _train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, see configs/")],
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="directory for the run")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint in OUT")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            help="begin with the network of this run, or of these weights, grown if need be"
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="wall time of all legs, instead of the file's")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="images to be seen, instead of the file's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of the network; 0: all")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(help="only write the last checkpoint's weights here, by OUT's own recipe"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Train the posterior network on simulated galaxies; weights come into OUT/weights.

    A run that was stopped, or killed at any moment, goes on with --resume. A run with a limit on
    its time anneals its learning rate to the end of it.
    """
    from hybridfit.training.train import train_network

    with errors(debug):
        done = train_network(
            config, out, resume, minutes, images, device, threads, export, quiet, start
        )
    if not done:
        typer.echo(f"stopped: --resume goes on from the checkpoint in {out}", err=True)
        raise typer.Exit(INTERRUPTED)


def _finetune(
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="YAML file with a simulator, or labelled cutouts as for fit"
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="folder for the new weights")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="folder of trained weights; else the package's own")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML options for labelled cutouts")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="table of labels; else truth.fits beside the cutouts")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Adapt trained weights to another survey, noise, or other parameters.

    The labels are a table with id, x, y, mag, r_eff, n, q, pa and, where known, sky; a tenth of
    the galaxies is held out to decide when to stop. The section finetune of the YAML file may
    name other columns as targets.
    """
    from hybridfit.training.finetune_files import finetune_network

    with errors(debug):
        tuned = finetune_network(input, out, weights, config, truth, device, threads, quiet)
        if not quiet:
            before = "" if tuned.before is None else f", {tuned.before:.3f} before"
            typer.echo(f"held-out NLL {tuned.after:.3f}{before}: {out}", err=True)


def _calibrate(
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="directory for tables, pictures")
    ],
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", help="cutouts with truth.fits; else galaxies are simulated"
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="folder of the network; else the package's own")
    ] = None,
    n: Annotated[int, typer.Option(help="galaxies", min=2)] = 2000,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML file with simulator, prior and calibrate"),
    ] = None,
    samples: Annotated[int, typer.Option(help="draws a galaxy", min=16)] = 256,
    seed: Annotated[int, typer.Option(help="of the random numbers", min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Is the posterior calibrated and sharp? Coverage, ranks, TARP, width over the limit.

    Held against galaxies as the network was trained on, or cutouts whose truth is known. OUT gets
    calibration.ecsv, by signal to noise, size and index, and pictures.
    """
    from hybridfit.calibration.calibrate import calibrate_network, format_summary

    with errors(debug):
        report = calibrate_network(out, weights, input, config, n, samples, seed, device, quiet)
        if not quiet:
            typer.echo(format_summary(report), err=True)


def _plot(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="directory of a finished run")],
    id: Annotated[list[str] | None, typer.Option(metavar="ID", help="galaxies")] = None,
    input: Annotated[Path | None, typer.Option(help="the cutouts that were fitted")] = None,
    truth: Annotated[Path | None, typer.Option(help="true parameters; else INPUT's")] = None,
    limit: Annotated[int, typer.Option(help="galaxies, where no --id is given", min=1)] = 12,
    allow_import: Annotated[list[str] | None, ALLOW_IMPORT] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Draw pictures of a finished run into OUT/plots.

    Data, model and residual of the cutouts, else of what --save-models left; and of the draws that
    --save-samples left corner plots, with the cutouts over those of network and fit.
    """
    from hybridfit.pipeline.plot import plot_run

    with errors(debug):
        with usage():
            import_allowed(allow_import)
        said: list[str] = []
        files = plot_run(out, id or (), input, truth, limit, quiet, said.append)
        if not quiet:
            typer.echo("\n".join([f"{len(files)} pictures in {files[0].parent}", *said]), err=True)


def _fit_stages() -> dict[str, Any]:
    from hybridfit.fitting.options import FitOptions
    from hybridfit.io.options import ReadOptions
    from hybridfit.pipeline.options import RunOptions
    from hybridfit.sampling.options import SamplingOptions
    from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions

    return {
        "read": ReadOptions,
        "fit": FitOptions,
        "sampling": SamplingOptions,
        "bootstrap": BootstrapOptions,
        "budget": BudgetOptions,
        "run": RunOptions,
    }


def _predict_stages() -> dict[str, Any]:
    from hybridfit.io.options import ReadOptions
    from hybridfit.pipeline.options import FileRunOptions, PredictOptions

    return {"read": ReadOptions, "predict": PredictOptions, "run": FileRunOptions}
