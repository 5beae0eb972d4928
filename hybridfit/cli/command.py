"""Commands built from descriptions of their arguments and options, with brief and full help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from hybridfit.cli.arguments import FILES, MESSAGES, Arguments
from hybridfit.cli.exit_status import errors, usage
from hybridfit.cli.flags import (
    TITLES,
    Flag,
    Positional,
    by_section,
    old_flags,
    option_name,
    parameter_of,
)
from hybridfit.cli.messages import log_to_stderr, warn_of_old_flag
from hybridfit.options.metadata import describe
from hybridfit.options.sections import Sections

# first and last headings in help; the others come in between, in the order of their fields
FIRST = (FILES, "Input", "Model", "Errors", "Results", "Prediction", "Fit")
LAST = ("Run", MESSAGES)
ALL = "hybridfit.all"  # key of a context in which full help was requested


class Command(click.Command):
    """A command of hybridfit.

    Args:
        name: the command's name.
        function: called with the command's arguments, and the options given for each section.
        arguments: dataclass of the command's arguments.
        sections: options dataclasses by section.
        repeated: sections whose options may be given several times.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any, dict[str, dict[str, Any]]], None],
        arguments: type[Arguments],
        sections: Mapping[str, type] | None = None,
        repeated: Sequence[str] = (),
    ) -> None:
        self.function, self.arguments, self.sections = function, arguments, dict(sections or {})
        own = [parameter_of(one, one.name, "Options", own=True) for one in describe(arguments)]
        params: list[click.Parameter] = [one for one in own if one is not None]
        for section, cls in self.sections.items():
            for one in describe(cls):
                flag = option_name(section, one.name)
                made = parameter_of(one, flag, TITLES[section], section in repeated)
                if made is not None:
                    params.append(made)
        text = inspect.cleandoc(function.__doc__ or "")
        first = " ".join(text.split("\n\n")[0].split())
        super().__init__(name, params=params, callback=self._run, help=text, short_help=first)
        if not all(flag.common for flag in self.flags()):
            self.params.append(_help_all())

    def flags(self) -> list[Flag]:
        """Return the options, each of which has a heading in help."""
        return [one for one in self.params if isinstance(one, Flag)]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option --help, worded like the others."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "show this help and exit"
        return option

    def _run(self, **values: Any) -> None:
        """Call the function; turn an exception into one line and an exit status."""
        known = {one.name: values.pop(one.name) for one in describe(self.arguments)}
        given = {name: value for name, value in known.items() if value is not None}
        with errors(bool(known["debug"])):
            with usage():
                arguments = self.arguments(**given)
            with log_to_stderr(arguments.verbose, arguments.quiet):
                self.function(arguments, by_section(values, self.sections))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; replace flags of an earlier version by their new names."""
        old, known = old_flags(self.name or "", self.sections), []
        for word in args:
            flag, equals, value = word.partition("=")
            if flag in old:
                warn_of_old_flag(flag, old[flag])
                word = f"{old[flag]}{equals}{value}"
            known.append(word)
        return super().parse_args(ctx, known)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, and the options under their headings."""
        whole = bool(ctx.meta.get(ALL))
        texts = [
            (one.make_metavar(ctx), one.text) for one in self.params if isinstance(one, Positional)
        ]
        if texts:
            with formatter.section("Arguments"):
                formatter.write_dl(texts)
        flags = [flag for flag in self.flags() if whole or flag.common]
        for group in _ordered([flag.group for flag in flags]):
            self._write_group(ctx, formatter, group, [f for f in flags if f.group == group])
        hidden = len(self.flags()) - len(flags)
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(
                f"{hidden} more options: {ctx.command_path} --help-all shows all of them."
            )

    def _write_group(
        self, ctx: click.Context, formatter: click.HelpFormatter, title: str, flags: Sequence[Flag]
    ) -> None:
        records = [one.get_help_record(ctx) for one in flags]
        if title == MESSAGES:
            records += [
                one.get_help_record(ctx)
                for one in self.get_params(ctx)
                if isinstance(one, click.Option) and not isinstance(one, Flag)
            ]
        with formatter.section(title):
            formatter.write_dl([record for record in records if record is not None])


def sections_of(cls: type[Sections]) -> dict[str, type]:
    """Return the sections of a configuration, with their options dataclasses."""
    names = cls.names()
    return {one.name: one.kind for one in describe(cls) if one.name in names}


def _ordered(groups: Sequence[str]) -> list[str]:
    """Return the headings, each once, in the order of the help."""
    seen = list(dict.fromkeys(groups))
    middle = [group for group in seen if group not in (*FIRST, *LAST)]
    return [group for group in (*FIRST, *middle, *LAST) if group in seen]


def _help_all() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[ALL] = True
            click.echo(ctx.get_help())
            ctx.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="show all options and exit",
    )
