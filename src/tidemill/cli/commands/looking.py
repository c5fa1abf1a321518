"""`tidemill ssh` and `tidemill port-forward`: into a running job or a node, through the server."""

from __future__ import annotations

import sys

import click

from tidemill.cli.errors import NOT_FOUND, USAGE, CliError
from tidemill.cli.framework import command
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

_node = click.option(
    "--node", type=click.IntRange(0), metavar="NUMBER", help="Of a job on several nodes: which (default 0)."
)


@command(
    None,
    "ssh",
    """tidemill ssh brave_apple_0k3d9x2hbw
    tidemill ssh brave_apple_0k3d9x2hbw -- nvidia-smi
    tidemill ssh brave_apple_0k3d9x2hbw --node 1 -- tail -n 5 outputs/log.txt
    tidemill ssh cpu-cluster-3fa2c1""",
)
@click.argument("target", metavar="JOB|NODE")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGS]...]")
@_node
def ssh(session: Session, target: str, words: tuple[str, ...], node: int | None) -> int:
    """Open a shell inside a running job or on a node of a compute, or run a command there.

    The exit code is the command's. Nodes are listed by `tidemill compute list-nodes`; one is not closed as
    idle while somebody is there.
    """
    from tidemill.cli.inside import node_named, run

    if not words and not sys.stdin.isatty():
        words = ("sh",)  # commands from a file or a pipe
    try:
        return run(session, f"{session.native}/jobs/{segment(target)}/exec", {"node": node or 0}, list(words))
    except CliError as error:
        if error.exit_code != NOT_FOUND:
            raise
        compute = node_named(session, target)
    if node is not None:
        raise CliError(f"--node counts the nodes of a job, and {target} is a node.", USAGE, "UsageError")
    path = f"{session.native}/computes/{segment(compute)}/nodes/{segment(target)}/exec"
    return run(session, path, {}, list(words))


@command(
    None,
    "port-forward",
    """tidemill port-forward brave_apple_0k3d9x2hbw 6006
    tidemill port-forward brave_apple_0k3d9x2hbw 9000:8888
    tidemill port-forward brave_apple_0k3d9x2hbw my_jupyter""",
)
@click.argument("job")
@click.argument("ports", metavar="LOCAL[:REMOTE]|SERVICE")
@_node
def port_forward(session: Session, job: str, ports: str, node: int | None) -> int:
    """Reach a port of a running job, or one of its services, at this machine's loopback, until Ctrl-C."""
    node = node or 0
    from tidemill.cli.forward import forward, page_of, service_of

    page = ""
    if not ports[:1].isdigit():
        service = service_of(session, job, ports, node)
        page, ports = page_of(session, job, service, node), f"0:{service['port']}"
    local, _, remote = ports.partition(":")
    numbers = [port_of(text, ports) for text in (local, remote or local)]
    path = f"{session.native}/jobs/{segment(job)}/ports/{numbers[1]}"
    return forward(session, job, path, {"node": node}, numbers[0], numbers[1], page)


def port_of(text: str, given: str) -> int:
    """Raises CliError."""
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise CliError(
        f"{given!r} is not LOCAL or LOCAL:REMOTE, two ports from 1 to 65535 (LOCAL 0: any that is free).",
        USAGE,
        "UsageError",
    )
