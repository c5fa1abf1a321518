"""Commands that share their global options, load lazily, and name the nearest word after a typing error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from tidemill.cli.errors import USAGE, CliError, did_you_mean
from tidemill.cli.query import parse
from tidemill.cli.session import Given, Session

FORMATS = ("table", "json", "yaml", "tsv", "none")


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """An option given after the command wins over the same one before it."""
    if value is not None:
        session: Session = context.ensure_object(_NewSession)
        setattr(session.given, parameter.name or "", value)


def _keep_query(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Refused before anything is done."""
    if value is not None:
        parse(value)
    _keep(context, parameter, value)


class _NewSession(Session):
    def __init__(self) -> None:
        super().__init__(Given())


def common_options() -> list[click.Parameter]:
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep}
    return [
        click.Option(
            ["--home"],
            metavar="DIR",
            help="Home of the server (default $TIDEMILL_HOME or ~/.tidemill).",
            **shared,
        ),
        click.Option(
            ["--output", "-o"],
            type=click.Choice(FORMATS),
            help="How results are printed (default table).",
            **shared,
        ),
        click.Option(
            ["--query"],
            metavar="PATH",
            help="Print only this of the result: name, price.usd, [0].name, [].name.",
            expose_value=False,
            callback=_keep_query,
        ),
        click.Option(
            ["--workspace-name", "-w", "workspace"],
            metavar="NAME",
            help="Workspace (default $AZUREML_WORKSPACE_NAME or the home's).",
            **shared,
        ),
        click.Option(["--resource-group", "-g", "group"], metavar="NAME", help="Resource group.", **shared),
        click.Option(["--subscription"], metavar="ID", help="Subscription id.", **shared),
    ]


class Whole(click.IntRange):
    """A whole number in a range; what is none is told the range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = int(value)
        except ValueError:
            number = None
        low, high = self.min, self.max
        if number is None or (low is not None and number < low) or (high is not None and number > high):
            span = f"from {low} to {high}" if high is not None else f"of {low} or more"
            self.fail(f"{value!r} is not a whole number {span}.", param, ctx)
        return number


class Number(click.types.FloatParamType):
    """A number that JSON has: neither nan nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


def typed(*names: str) -> list[str]:
    """Of some parameters of the command that runs, the flags of those that were given to it."""
    ctx = click.get_current_context()
    return [
        param.opts[0]
        for param in ctx.command.params
        if param.name in names and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]


def pairs(flag: str, given: Iterable[str], *, secret: bool = False) -> dict[str, str]:
    """What a flag that is repeated says, each time NAME=VALUE. Raises CliError, of a `secret` one without
    what was given."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            said = "what was given" if secret else repr(pair)
            raise CliError(f"{flag} {said} is not NAME=VALUE.", USAGE, "UsageError")
        found[name] = value
    return found


class Command(click.Command):
    """A command with the global options and, in its help, an example."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        kwargs["params"] = [*kwargs.get("params", []), *common_options()]
        super().__init__(*args, **kwargs)
        self.example = example

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            left = [] if error.param is None else self.make_parser(ctx).parse_args(given)[1]
            if not isinstance(error.param, click.Option) or len(left) != 1:
                raise
            option = error.param.opts[0]
            raise click.UsageError(
                f"Missing option '{option}'. Did you mean {ctx.command_path} {option} {left[0]}?", ctx
            ) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.example:
            with formatter.section("Examples"):
                for line in self.example.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Group(click.Group):
    """`lazy`: {name: (module:attribute, one line of help)}; a module is imported when its command is used."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        kwargs["params"] = [*kwargs.get("params", []), *common_options()]
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy) + [name for name in super().list_commands(ctx) if name not in self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = super().get_command(ctx, cmd_name)
        if known is not None or cmd_name not in self._lazy:
            return known
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            hint = did_you_mean(name, known) or f" Commands: {', '.join(known)}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            if name in self._lazy:
                rows.append((name, self._lazy[name][1]))
            else:
                command = self.get_command(ctx, name)
                if command is not None and not command.hidden:
                    rows.append((name, command.get_short_help_str(90)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def group(name: str, help: str) -> Group:
    """A group of commands such as `tidemill job`."""
    return Group(name=name, help=help, no_args_is_help=True, context_settings=CONTEXT)


def command(of: Group | None, name: str, example: str) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: a command whose function gets the session first."""

    def decorate(function: Callable[..., Any]) -> Command:
        made = click.command(name, cls=Command, example=example, context_settings=CONTEXT)(
            click.make_pass_decorator(Session, ensure=False)(function)
        )
        if of is not None:
            of.add_command(made)
        return made

    return decorate


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
