"""`tidemill deployment …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm, location_of
from tidemill.cli.commands.endpoint import instances, told
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session

deployment = group("deployment", "What answers behind an endpoint: model, code, environment, instances.")
_name = click.option("--name", "-n", required=True, help="Name of the deployment.")
_endpoint = click.option("--endpoint-name", "-e", "endpoint", required=True, help="Its endpoint.")
_SHOWN_EVENTS = 15
_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("state", key("state"), state=True),
    Column("traffic", key("traffic"), lambda v, _: f"{v} %", right=True),
    Column("model", key("model"), wide=True),
    Column("size", key("instance_type")),
    Column("instances", instances, right=True),
    Column("now per hour", key("run_rate_usd_hour"), lambda usd, _: text.money(usd), right=True),
    Column("created", key("created_at"), text.ago),
)


@command(
    deployment,
    "create",
    """tidemill deployment create --file blue.yml --all-traffic
    tidemill deployment create --file blue.yml --endpoint-name digits --set instance_count=2""",
)
@click.option(
    "--file", "-f", "file", required=True, metavar="YAML", help="The deployment, in Azure's v2 YAML."
)
@click.option("--endpoint-name", "-e", "endpoint", help="Its endpoint; else the file's.")
@click.option("--name", "-n", help="Name of the deployment; else the file's.")
@click.option("--all-traffic", is_flag=True, help="Give it all traffic once it is ready.")
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file.")
@click.option("--no-wait", is_flag=True, help="Return before it is ready.")
def create(
    session: Session,
    file: str,
    endpoint: str | None,
    name: str | None,
    all_traffic: bool,
    settings: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Deploy a model, or change a deployment: new instances first, then the old ones go."""
    from tidemill.cli import endpoints
    from tidemill.cli.yaml.endpoint_load import load_deployment

    if all_traffic and no_wait:
        raise CliError("--all-traffic waits until it is ready: leave --no-wait out.", USAGE, "UsageError")
    given = {"endpoint_name": endpoint, "name": name}
    extra = tuple(f"{field}={value}" for field, value in given.items() if value is not None)
    spec = load_deployment(Path(file), (*settings, *extra), file)
    above, made = spec.data["endpoint_name"], spec.data["name"]
    before = endpoints.put_deployment(session, spec, location_of(session))
    if not no_wait:
        endpoints.follow(session, above, made, before)
    if all_traffic:
        endpoints.set_traffic(session, above, {"traffic": {made: 100}})
    _print(session, above, made)


@command(deployment, "list", "tidemill deployment list --endpoint-name digits")
@_endpoint
def list_(session: Session, endpoint: str) -> None:
    """List the deployments of an endpoint."""
    from tidemill.cli import endpoints

    rows = session.client.get(endpoints.native(session, endpoint))["deployments"]
    empty = "No deployments yet. Create one with: tidemill deployment create --file deployment.yml"
    print_list(session, rows, _COLUMNS, empty)


@command(deployment, "show", "tidemill deployment show --endpoint-name digits --name blue")
@_endpoint
@_name
def show(session: Session, endpoint: str, name: str) -> None:
    """Show one deployment: its instances, and what became of it."""
    _print(session, endpoint, name)


@command(
    deployment,
    "update",
    "tidemill deployment update --endpoint-name digits --name blue --instance-count 3",
)
@_endpoint
@_name
@click.option("--instance-count", "-c", type=Whole(0, 1000), required=True, help="Instances from now on.")
@click.option("--no-wait", is_flag=True, help="Return before it is done.")
def update(session: Session, endpoint: str, name: str, instance_count: int, no_wait: bool) -> None:
    """Change the number of instances. For all else: tidemill deployment create --file."""
    from tidemill.cli import endpoints

    path = endpoints.deployment_path(session, endpoint, name)
    before = endpoints.last_event(session, endpoint, name)
    body = {"sku": {"capacity": instance_count}}
    session.client.call("PATCH", path, body, {"api-version": endpoints.DEPLOYMENTS_API})
    if not no_wait:
        endpoints.follow(session, endpoint, name, before)
    _print(session, endpoint, name)


@command(deployment, "logs", "tidemill deployment logs --endpoint-name digits --name blue --lines 50")
@_endpoint
@_name
@click.option("--lines", "-l", type=Whole(1, 100_000), default=100, help="Last lines of each instance.")
@click.option("--container", "-c", help="inference-server (the default) or storage-initializer.")
def logs(session: Session, endpoint: str, name: str, lines: int, container: str | None) -> None:
    """Print what the instances of a deployment wrote."""
    from tidemill.cli import endpoints

    click.echo(endpoints.logs(session, endpoint, name, lines, container), nl=False)


@command(deployment, "delete", "tidemill deployment delete --endpoint-name digits --name blue --yes")
@_endpoint
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Return before it is gone.")
def delete(session: Session, endpoint: str, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a deployment that has no traffic."""
    from tidemill.cli import endpoints

    path, query = (
        endpoints.deployment_path(session, endpoint, name),
        {"api-version": endpoints.DEPLOYMENTS_API},
    )
    session.client.get(path, dict(query))
    confirm(f"Delete deployment {name} of {endpoint}?", yes)
    session.client.begin("DELETE", path, None, dict(query), wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}deleted.")


def _print(session: Session, endpoint: str, name: str) -> None:
    from tidemill.cli import endpoints

    found = session.client.get(endpoints.native(session, endpoint, "deployments", name))
    print_item(session, found, show_facts(found))


def show_facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    mirrored = f", {found['mirror_traffic']} % mirrored" if found["mirror_traffic"] else ""
    facts = [
        ("deployment", f"{found['endpoint']}/{found['name']}"),
        ("state", str(found["state"])),
        ("traffic", f"{found['traffic']} %{mirrored}"),
        ("model", found["model"] or "none"),
        ("scoring script", found["code"] or "none"),
        ("environment", str(found["environment"])),
        ("instances", f"{instances(found)} ready, {found['instance_type']}"),
        (
            "requests",
            f"{found['max_concurrent']} at once per instance, {found['request_timeout_s']:g} s each, "
            f"{found['max_queue_wait_s']:g} s in the queue",
        ),
        ("costs now", f"{text.money(found['run_rate_usd_hour'])} per hour"),
    ]
    for one in found["instances"]:
        where = f" on {one['node']}" if one["node"] else ""
        again = f", restarted {one['restarts']} times" if one["restarts"] else ""
        waits = f": {one['waits']}" if one["waits"] else ""
        facts.append((f"instance {one['name']}", f"{one['phase']}{where}{again}{waits}"))
    if found["error"]:
        facts.append(("error", found["error"]["message"].rstrip()))
    events = found["timeline"][-_SHOWN_EVENTS:]
    if events:
        facts.append(("time line", "\n".join(map(told, events))))
    return facts
