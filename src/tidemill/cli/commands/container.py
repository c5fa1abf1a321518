"""`tidemill container …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm, location_of
from tidemill.cli.commands.endpoint import told
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import Number, Whole, command, group, typed
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.domain.units import join_words

container = group("container", "Container groups: images that run until they are stopped.")
_name = click.option("--name", "-n", required=True, help="Name of the container group.")
_container = click.option(
    "--container-name", "-c", "container_name", default="", help="Which one, where there are several."
)
_no_wait = click.option("--no-wait", is_flag=True, help="Return before it is done.")
_WAIT_S = 1800
_SHOWN_EVENTS = 15
# What `create` is told of a group that no file says.
_OF_IMAGE = ("command_line", "cpu", "memory", "ports", "variables", "secure", "restart_policy", "runtime")


def _sizes(item: dict[str, Any]) -> str:
    return f"{item['cpu']:g} CPU, {item['memory_gib']:g} GiB"


def _states(item: dict[str, Any]) -> str:
    return ", ".join(f"{one['name']} {one['state']}" for one in item["containers"])


_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("state", key("running"), state=True),
    Column("containers", _states, wide=True),
    Column("size", _sizes),
    Column("now per hour", key("run_rate_usd_hour"), lambda usd, _: text.money(usd), right=True),
    Column("created", key("created_at"), text.ago),
)


@command(
    container,
    "create",
    """tidemill container create --file group.yaml
    tidemill container create --name web --image oci:/images/web --cpu 0.5 --memory 1 --ports 8080
    tidemill container create --name hello --image host-python --command-line "python -m http.server 8000"\
""",
)
@click.option("--file", "-f", "file", metavar="YAML", help="The group, in Azure's YAML or JSON.")
@click.option("--name", "-n", help="Name of the group; else the file's.")
@click.option(
    "--image",
    help="A registry's image, oci:/PATH, oci-archive:/PATH, package://WORKSPACE/NAME:VERSION or host-python.",
)
@click.option("--command-line", metavar="TEXT", help="In place of the image's own command.")
@click.option("--cpu", type=Number(), default=1.0, help="Cores (default 1).")
@click.option("--memory", type=Number(), default=1.5, help="GiB (default 1.5).")
@click.option("--ports", multiple=True, type=Whole(1, 65535), help="A port that it listens on; repeatable.")
@click.option("--environment-variables", "-e", "variables", multiple=True, metavar="N=V", help="Repeatable.")
@click.option(
    "--secure-environment-variables", "secure", multiple=True, metavar="N=V", help="Never shown again."
)
@click.option(
    "--restart-policy",
    type=click.Choice(("Always", "OnFailure", "Never")),
    default="Always",
    help="What a container's end leads to (default Always).",
)
@click.option(
    "--runtime",
    type=click.Choice(("sandbox", "runc")),
    default="sandbox",
    help="What runs the containers: the sandbox, as it runs jobs (default), or runc.",
)
@_no_wait
def create(
    session: Session,
    file: str | None,
    name: str | None,
    image: str | None,
    command_line: str | None,
    cpu: float,
    memory: float,
    ports: tuple[int, ...],
    variables: tuple[str, ...],
    secure: tuple[str, ...],
    restart_policy: str,
    runtime: str,
    no_wait: bool,
) -> None:
    """Create a container group, or replace what it runs."""
    from tidemill.cli import containers

    if bool(file) == bool(image):
        raise CliError("Give --file YAML, or --name NAME and --image IMAGE.", USAGE, "UsageError")
    if file and (beside := typed(*_OF_IMAGE)):
        raise CliError(
            f"{join_words(beside)} cannot be given beside --file: write it into {file}.", USAGE, "UsageError"
        )
    document = containers.load(Path(file), file) if file else None
    data = document.data if document is not None else {}
    wanted = name or data.get("name")
    if not wanted:
        raise CliError("Give --name NAME: the file has none.", USAGE, "UsageError")
    if image:
        data = containers.body_from_flags(
            wanted, image, command_line, cpu, memory, ports, variables, secure, restart_policy, runtime
        )
    body = containers.body_of(data, location_of(session))
    with containers.placed(document):
        session.client.begin(
            "PUT",
            containers.path_of(session, str(wanted)),
            body,
            {"api-version": containers.API},
            wait=not no_wait,
            deadline_s=_WAIT_S,
        )
    _print(session, str(wanted))


@command(container, "list", "tidemill container list")
def list_(session: Session) -> None:
    """List the container groups of the resource group."""
    from tidemill.cli import containers

    rows = session.client.get(containers.native(session))["value"]
    empty = "No container groups yet. Create one with: tidemill container create --name NAME --image IMAGE"
    print_list(session, rows, _COLUMNS, empty)


@command(container, "show", "tidemill container show --name web")
@_name
def show(session: Session, name: str) -> None:
    """Show one group: its containers, how they are reached, what it costs."""
    _print(session, name)


@command(container, "logs", "tidemill container logs --name web --tail 50")
@_name
@_container
@click.option("--tail", type=Whole(1, 1_000_000), help="The last lines only.")
def logs(session: Session, name: str, container_name: str, tail: int | None) -> None:
    """Print what a container wrote."""
    from tidemill.cli import containers

    path = containers.path_in(session, name, container_name or _only(session, name), "logs")
    query: dict[str, str | int] = {"api-version": containers.API}
    if tail:
        query["tail"] = tail
    click.echo(session.client.get(path, query)["content"], nl=False)


@command(container, "attach", "tidemill container attach --name web")
@_name
@_container
def attach(session: Session, name: str, container_name: str) -> None:
    """Print what a container writes from now on, until Ctrl-C or its end."""
    from tidemill.cli import containers
    from tidemill.cli.inside import follow

    path = containers.path_in(session, name, container_name or _only(session, name), "attach")
    follow(session, session.client.call("POST", path, None, {"api-version": containers.API}))


@command(
    container,
    "exec",
    """tidemill container exec --name web
    tidemill container exec --name web -- ls -l /data""",
)
@_name
@_container
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGS]...]")
def exec_(session: Session, name: str, container_name: str, words: tuple[str, ...]) -> int:
    """Open a shell inside a container that runs, or run a command there. The exit code is the command's."""
    from tidemill.cli import containers
    from tidemill.cli.inside import run

    query: dict[str, str | int] = {"container": container_name} if container_name else {}
    return run(session, containers.native(session, name, "exec"), query, list(words))


@command(container, "port-forward", "tidemill container port-forward --name web 9000:8080")
@_name
@click.argument("ports", metavar="LOCAL[:REMOTE]")
def port_forward(session: Session, name: str, ports: str) -> int:
    """Reach a port of a group at this machine's loopback, until Ctrl-C."""
    from tidemill.cli import containers
    from tidemill.cli.commands.looking import port_of
    from tidemill.cli.forward import forward

    local, _, remote = ports.partition(":")
    numbers = [port_of(given, ports) for given in (local, remote or local)]
    path = containers.native(session, name, "ports", str(numbers[1]))
    hint = "tidemill container port-forward --name"
    return forward(session, name, path, {}, numbers[0], numbers[1], command=hint)


@command(container, "stop", "tidemill container stop --name web")
@_name
def stop(session: Session, name: str) -> None:
    """End its containers and close its node: it costs nothing until it is started."""
    from tidemill.cli import containers

    _act(session, name, "stop", wait=False)
    found = session.client.get(containers.native(session, name))
    over = found["running"] == "Stopped" and not found["run_rate_usd_hour"]
    session.note(
        f"{name} is stopped: it has no node, and costs nothing." if over else f"{name} is being stopped."
    )


@command(container, "start", "tidemill container start --name web")
@_name
@_no_wait
def start(session: Session, name: str, no_wait: bool) -> None:
    """Start a group that is stopped, has ended or failed."""
    _act(session, name, "start", wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}started.")


@command(container, "restart", "tidemill container restart --name web")
@_name
@_no_wait
def restart(session: Session, name: str, no_wait: bool) -> None:
    """End all its containers, and start them anew."""
    _act(session, name, "restart", wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}restarted.")


def _act(session: Session, name: str, verb: str, *, wait: bool) -> None:
    from tidemill.cli import containers

    path, query = f"{containers.path_of(session, name)}/{verb}", {"api-version": containers.API}
    session.client.begin("POST", path, None, dict(query), wait=wait, deadline_s=_WAIT_S)


@command(container, "delete", "tidemill container delete --name web --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_no_wait
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a group with its containers and their logs."""
    from tidemill.cli import containers

    session.client.get(containers.native(session, name))
    confirm(f"Delete container group {name}?", yes)
    path, query = containers.path_of(session, name), {"api-version": containers.API}
    session.client.begin("DELETE", path, None, dict(query), wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}deleted.")


@command(container, "why", "tidemill container why --name web")
@_name
def why(session: Session, name: str) -> None:
    """Say why a group does not run as it should."""
    from tidemill.cli import containers

    found = session.client.get(containers.native(session, name, "why"))
    facts = [("group", found["name"]), ("state", found["state"]), ("why", found["sentence"])]
    facts += [("", reason["message"]) for reason in found["reasons"][1:]]
    facts += [("next", told) for told in found["next"]]
    print_item(session, found, facts)


def _only(session: Session, name: str) -> str:
    """The name of its one container. Raises CliError where there are several."""
    from tidemill.cli import containers

    found = session.client.get(containers.native(session, name))["containers"]
    if len(found) > 1:
        names = ", ".join(one["name"] for one in found)
        raise CliError(
            f"{name} has several containers ({names}): give --container-name.", USAGE, "UsageError"
        )
    return str(found[0]["name"])


def _print(session: Session, name: str) -> None:
    from tidemill.cli import containers

    found = session.client.get(containers.native(session, name))
    facts = [
        ("group", found["name"]),
        ("state", f"{found['running']} ({found['state']})"),
        ("size", f"{_sizes(found)}, restart policy {found['restart_policy']}"),
        ("runtime", found["runtime"]),
    ]
    for one in found["containers"]:
        facts.append((f"container {one['name']}", _line(one)))
    if found["ports"]:
        ports = found["ports"]
        facts.append(("ports", ", ".join(str(port) for port in ports)))
        facts.append(("reach", f"tidemill container port-forward --name {name} {ports[0]}"))
    facts.append(("price", f"{text.money(found['price_usd_hour'])} per hour while it is not stopped"))
    facts.append(("now", f"{text.money(found['run_rate_usd_hour'])} per hour"))
    facts.append(("so far", text.money(found["cost_usd"])))
    if found["error"]:
        facts.append(("error", found["error"]["message"]))
    if events := found["timeline"][-_SHOWN_EVENTS:]:
        facts.append(("time line", "\n".join(map(told, events))))
    print_item(session, found, facts)


def _line(one: dict[str, Any]) -> str:
    parts = [one["state"], one["image"]]
    if one["detail"]:
        parts.append(one["detail"])
    if one["exit_code"] is not None:
        parts.append(f"exit code {one['exit_code']}")
    if one["restarts"]:
        parts.append(f"{one['restarts']} restarts")
    return ", ".join(parts)
