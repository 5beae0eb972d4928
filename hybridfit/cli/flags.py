"""Options from defaults, YAML and the command line: a flag for every field of a dataclass."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hybridfit.options.yaml_options import check_keys, load_yaml, make

# sections whose options carry their name on the command line: --bootstrap-kind
NAMED = ("posterior", "bootstrap", "budget")

# What options say of themselves; those without a line here are shown too, without words.
HELP = {
    "psf": "one PSF file (or file.fits[HDU]) for all galaxies without their own",
    "no_psf": "fit without a PSF",
    "psf_oversampling": "PSF pixels per image pixel; else by the PSF's header, or 1",
    "psf_includes_pixel": "the PSF holds the pixel's response already (a star, an ePSF)",
    "psf_center": "array | centroid | galfit: the middle, the centroid, or pixel N // 2 as it is",
    "columns": 'manifest columns under other names: "id=NAME,mag=MAG_AUTO"',
    "zeropoint": "magnitude of one flux unit; else by the header's unit or keywords",
    "pixel_scale": "arcsec per pixel; else from the WCS",
    "gain": "electrons per image unit, for the noise where no sigma is given",
    "crop": "auto | none: cut large stamps to the galaxy and its sky",
    "mask_neighbours": "find and mask neighbours where no mask is given",
    "mask_bits": "bits of masks and data quality that count: names (SAT,CR) or values (1,4096)",
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
    "uncertainty": "posterior | bootstrap | covariance: where errors come from",
    "posterior_laplace": "draws of the first proposal, at the fit",
    "posterior_flow": "draws of the network that are weighed too",
    "posterior_prior": "draws of the prior that are weighed too",
    "posterior_round": "draws of each later round",
    "posterior_ess": "effective number of draws that is enough",
    "posterior_max_draws": "most draws, for each component; a galaxy that needs more is UNSAMPLED",
    "posterior_no_signal_draws": "most draws of a galaxy without signal",
    "posterior_mcmc": "run a chain where weights cannot be trusted, at 30 times the cost",
    "posterior_shortcut": "render stamps much larger than the galaxy in a window",
    "posterior_seed": "of the random numbers",
    "budget_correlated_noise": "measure | off | FITS image: the noise's autocorrelation",
    "budget_psf_width_error": "standard deviation of ln(width) of a PSF that is wrong",
    "budget_psf_shape_error": "standard deviation of the stretches of a PSF that is wrong",
    "budget_psf_doubt": "share of galaxies whose PSF is wrong",
    "budget_sky_error": "of a bowl of the sky over the stamp, in a pixel's noise",
    "budget_sky_slope_error": "of the sky's slopes over the stamp, in a pixel's noise",
    "budget_covariance": "widen errors from the covariance too",
    "budget_misfit": "let structure in the residuals widen the errors",
    "bootstrap_kind": "pixels | parametric: pixels drawn with replacement, or new noise",
    "bootstrap_replicas": "of each galaxy",
    "bootstrap_refit": "fit each replica, or take one step from the fit",
    "bootstrap_seed": "of the random numbers",
    "start": "posterior | moments: where the fit starts",
    "device": "cpu | cuda",
    "threads": "CPU threads",
    "format": "fits | ecsv | parquet | csv",
    "covariance": "write the covariance matrices too",
    "save_models": "write models/<id>_block.fits: image, model, residual",
    "part": "galaxies that are computed and kept at a time",
    "samples": "draws of each posterior",
    "seed": "of the random numbers",
    "weights": "folder of another network's weights",
    "save_samples": "write the draws too, with their weights",
    "limit": "only so many galaxies, in the order of their ids; 0: all",
}


def load_options(
    config: Path | None, given: Mapping[str, Any], stages: Mapping[str, Any]
) -> list[Any]:
    """Return the options of each stage: defaults, then the YAML file, then the command line.

    Args:
        config: YAML file with a section for each stage, and ``prior`` where one of them fits.
        given: what the command line says, by field name; None where it says nothing.
        stages: name of the section and its dataclass.

    Raises:
        ValueError: for a section, a key or a value that is not understood.
    """
    from hybridfit.model.prior import Prior

    sections = load_yaml(config) if config is not None else {}
    check_keys(sections, [*stages, *(["prior"] if "fit" in stages else [])], str(config))
    for name, content in sections.items():
        if content is not None and not isinstance(content, Mapping):
            raise ValueError(f"section '{name}' of {config} is {content!r}, expected 'key: value'")
    made = []
    for section, cls in stages.items():
        values = dict(sections.get(section) or {})
        known = [f.name for f in fields(cls) if (section, f.name) != ("fit", "prior")]
        check_keys(values, known, f"section '{section}' of {config}")
        told = {f.name: given.get(option_name(section, f.name)) for f in fields(cls)}
        values |= {name: value for name, value in told.items() if value is not None}
        if section == "fit" and sections.get("prior"):
            values["prior"] = Prior.from_mapping(sections["prior"])
        made.append(make(cls, values, section))
    return made


ALLOW_IMPORT = typer.Option(
    "--allow-import",
    metavar="MODULE",
    help="import this module, for your own profiles (my_module:MyProfile)",
)


def import_allowed(modules: Sequence[str] | None) -> None:
    """Import the modules that the command line names; no file's word imports one.

    They may lie in the working directory, which counts behind all that is installed.

    Raises:
        ValueError: if one cannot be imported.
    """
    for name in modules or ():
        here = os.getcwd()
        sys.path.append(here)
        try:
            import_module(name)
        except Exception as error:  # it is the user's code: anything may come
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"--allow-import {name} cannot be imported: {reason}") from error
        finally:
            if sys.path[-1] == here:
                sys.path.pop()


def option_name(section: str, field: str) -> str:
    """Return what a field of a section's options is called on the command line, with _ for -."""
    return f"{section}_{field}" if section in NAMED else field


def with_options(
    function: Callable[..., None],
    stages: Mapping[str, Any],
    own: Mapping[str, tuple[Any, Any]] | None = None,
) -> Callable[..., None]:
    """Return a command that calls ``function`` with an option for every field of its stages.

    Args:
        function: takes input, out, config, overwrite, quiet, debug, and the fields by name.
        stages: name of the panel in the help, in lower case, and its options dataclass.
        own: annotation and default of parameters that this command has otherwise, or beside.
    """
    flag, path, required = typer.Option, Path | None, inspect.Parameter.empty
    named: dict[str, tuple[Any, Any]] = {
        "input": (
            Annotated[Path, typer.Argument(metavar="INPUT", help="directory, manifest or file")],
            required,
        ),
        "out": (Annotated[Path, flag("--out", "-o", help="directory for the results")], required),
        "config": (Annotated[path, flag("--config", "-c", help="YAML file of options")], None),
        "overwrite": (
            Annotated[bool, flag("--overwrite", help="replace another run's results")],
            False,
        ),
        "quiet": (Annotated[bool, flag("--quiet", help="say nothing but errors")], False),
        "debug": (Annotated[bool, flag("--debug", help="show where an error came from")], False),
    } | dict(own or {})
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, (annotation, default) in named.items()
    ]
    for section, cls in stages.items():
        panel = {"read": "Input"}.get(section, section.capitalize())
        for field in fields(cls):
            if parameter := _parameter(field, option_name(section, field.name), panel):
                parameters.append(parameter)

    def command(**values: Any) -> None:
        function(**values)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(field: Field[Any], name: str, panel: str) -> inspect.Parameter | None:
    """A command-line option for a field of an options dataclass; None if it cannot be one."""
    kinds = {"str": str, "int": int, "float": float, "bool": bool}
    kind = kinds.get(str(field.type).removesuffix(" | None"))
    if kind is None:
        return None
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and not name.startswith("no_"):
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    text = HELP.get(name, "")
    if name.startswith("hdu_"):
        text = f"HDUs that hold the {name[4:]}, a comma list"
    elif name.startswith("pattern_"):
        text = f"{name[8:]} files in a directory"
    if field.default not in (None, "", 0) and kind is not bool:
        text = f"{text} [{field.default}]".strip()
    option = typer.Option(flag, help=text, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
