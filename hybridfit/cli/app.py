"""The command line: find the command, and turn errors into an exit status."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from hybridfit.cli.exit_status import INTERRUPTED, OK

COMMANDS = (
    *("fit", "catalog", "predict", "compare", "plot"),
    *("simulate", "calibrate", "finetune", "train"),
)


def main() -> NoReturn:
    """Run the command line; the process exits with status 0, 1 or 2."""
    try:
        status = make_app().main(prog_name="hybridfit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (click.Abort, KeyboardInterrupt):  # while torch was being imported
        click.echo("\ninterrupted before anything was done", err=True)
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(status or OK)


class App(click.Group):
    """The commands, each imported only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, the most common first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"hybridfit.cli.{cmd_name}").COMMAND
        return command


def make_app() -> App:
    """Return the application."""
    app = App(
        name="hybridfit",
        help="Fit galaxy cutouts in batches: FITS in, a table out.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["--help"], "max_content_width": 100},
    )
    app.params.append(
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        )
    )
    return app


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"hybridfit {version('hybridfit')}")
        ctx.exit()
