"""`tidemill`: the command line. Modules of commands are imported when they are used."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from tidemill.cli.errors import (
    FAILED,
    INTERRUPTED,
    NOT_RUNNING,
    OK,
    USAGE,
    CliError,
    did_you_mean,
    exit_code_of,
)
from tidemill.cli.framework import CONTEXT, Group
from tidemill.cli.session import Given, Session
from tidemill.domain.scopes import in_words

_ROOM = "tidemill.cli.commands."
COMMANDS = {
    "up": (_ROOM + "server:up", "Start the server of a home."),
    "down": (_ROOM + "server:down", "Stop it."),
    "status": (_ROOM + "server:status", "What runs, and where it is reached."),
    "env": (_ROOM + "server:env", "Variables that point the Azure ML SDK here."),
    "connect": (_ROOM + "connect:connect", "Use a server on another machine as if it ran here."),
    "login": (_ROOM + "connect:login", "Sign in to it again."),
    "logout": (_ROOM + "connect:logout", "Sign out of it."),
    "doctor": (_ROOM + "doctor:doctor", "What this host can enforce, and what it lacks."),
    "portal": (_ROOM + "portal:portal", "Sign a browser in to the pages."),
    "job": (_ROOM + "job:job", "Submit, follow, stop and fetch jobs."),
    "validate": (_ROOM + "validate:validate", "Check a file without submitting it."),
    "schedule": (_ROOM + "schedule:schedule", "Jobs at set times."),
    "serve": (_ROOM + "serve:serve", "Serve a script or a model here, as a deployment would."),
    "local": (_ROOM + "local:local", "Local deployments of the SDK, without Docker."),
    "ssh": (_ROOM + "looking:ssh", "A shell, or a command, inside a running job or on a node."),
    "port-forward": (_ROOM + "looking:port_forward", "A port of a running job, on this machine."),
    "endpoint": (_ROOM + "endpoint:endpoint", "Models that answer requests: addresses, keys, traffic."),
    "deployment": (_ROOM + "deployment:deployment", "What answers behind an endpoint."),
    "batch": (_ROOM + "batch:batch", "Models that score whole folders: batch endpoints, deployments, calls."),
    "container": (_ROOM + "container:container", "Container groups: images that run until they are stopped."),
    "compute": (_ROOM + "compute:compute", "Clusters: sizes, nodes, scaling, prices."),
    "environment": (_ROOM + "assets:environment", "Environments and their versions."),
    "data": (_ROOM + "assets:data", "Data assets and their versions."),
    "model": (_ROOM + "packages:model", "Models and their versions."),
    "package": (_ROOM + "packages:package", "Packages of models: images that run anywhere."),
    "component": (_ROOM + "assets:component", "Components: steps that pipelines are made of."),
    "tracking": (_ROOM + "tracking:tracking", "MLflow's runs and metrics, and their export."),
    "datastore": (_ROOM + "datastore:datastore", "Where data lies."),
    "connection": (_ROOM + "connection:connection", "How a workspace reaches something outside."),
    "secret": (_ROOM + "secret:secret", "Values for jobs that nobody sees."),
    "keys": (_ROOM + "keys:keys", "The home's own keys, and their rotation."),
    "backup": (_ROOM + "backup:backup", "Everything of a home in one file, and a home of such a file."),
    "retention": (_ROOM + "housekeeping:retention", "What may be removed from the home, and when."),
    "notifications": (_ROOM + "notifications:notifications", "Messages at the end of jobs: mail, webhooks."),
    "gc": (_ROOM + "housekeeping:gc", "What would be removed; with --apply, remove it."),
    "activity": (_ROOM + "activity:activity", "Who did what, allowed or refused."),
    "workspace": (_ROOM + "workspace:workspace", "Workspaces."),
    "registry": (_ROOM + "registry:registry", "Registries: assets that several workspaces share."),
    "queue": (_ROOM + "quota:queue", "Jobs that wait: order, shares, reasons, expected starts."),
    "quota": (_ROOM + "quota:quota", "Limits and shares of teams, users, workspaces and computes."),
    "access": (_ROOM + "credentials:access", "People, groups, programs and their roles."),
}

EPILOG = (
    "Exit codes: 0 done, 1 failed (also: the job that was followed failed), 2 wrong usage or file, "
    "3 not found, 4 refused or in conflict, 5 server not running."
)


def root() -> Group:
    return Group(
        name="tidemill",
        help="Azure Machine Learning Compute, on machines you own.",
        epilog=EPILOG,
        lazy=COMMANDS,
        no_args_is_help=True,
        params=[_version_option()],
        context_settings=CONTEXT,
    )


def _version_option() -> click.Option:
    def show(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            from importlib.metadata import version

            click.echo(f"tidemill {version('tidemill')}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits with the codes of cli/errors.py."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(args))


def run(args: list[str]) -> int:
    """-> exit code; every error becomes one message on stderr (ARM JSON when the output is json)."""
    as_json = _asks_json(args)
    try:
        result = root().main(args, prog_name="tidemill", standalone_mode=False, obj=Session(Given()))
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        _report_usage(error, as_json)
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except CliError as error:
        _report(error, as_json)
        return error.exit_code
    except Exception as error:
        known = _domain_error(error)
        if known is None:
            raise
        _report(known, as_json)
        return known.exit_code


def _report(error: CliError, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(error.arm(), ensure_ascii=False), err=True)
        return
    # The server's text of a refusal is Azure's, with ARM ids: programs get it as it is.
    message = in_words(error.message) if error.code == "AuthorizationFailed" else error.message
    click.echo(f"Error: {message}", err=True)
    for detail in error.details:
        if detail.get("message") and detail["message"] not in error.message:
            click.echo(f"  {detail['message']}", err=True)


def _report_usage(error: click.UsageError, as_json: bool) -> None:
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and not error.possibilities and error.ctx is not None:
        names = [name for parameter in error.ctx.command.params for name in parameter.opts]
        message += did_you_mean(error.option_name, names)
    if as_json:
        click.echo(json.dumps(CliError(message, USAGE, "UsageError").arm(), ensure_ascii=False), err=True)
        return
    where = f"{error.ctx.command_path} --help" if error.ctx is not None else "tidemill --help"
    click.echo(f"Error: {message}\nSee: {where}", err=True)


def _domain_error(error: Exception) -> CliError | None:
    """Errors raised by the server's own code, which `up`, `down` and `env` call in this process."""
    from tidemill.domain.errors import TidemillError

    if isinstance(error, TidemillError):
        exit_code = NOT_RUNNING if error.code == "ServerNotRunning" else exit_code_of(error.status)
        return CliError(error.message, exit_code, error.code, error.target)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return CliError(f"{place}{error.strerror or error}", FAILED, "SystemError")
    return None


def _asks_json(args: Sequence[str]) -> bool:
    """Read before parsing, so that errors of the parsing itself come in the wanted form."""
    wanted = False
    for index, word in enumerate(args):
        if word in ("-o", "--output") and index + 1 < len(args):
            wanted = args[index + 1] == "json"
        elif word.startswith("--output="):
            wanted = word == "--output=json"
        elif word.startswith("-o") and len(word) > 2:
            wanted = word[2:].lstrip("=") == "json"
    return wanted


if __name__ == "__main__":
    main()
