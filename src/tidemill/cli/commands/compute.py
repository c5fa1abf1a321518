"""`tidemill compute …`"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import FAILED, USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import PROVIDER, Session
from tidemill.cli.urls import segment

API = "2023-08-01-preview"
WORKSPACES_API = "2024-10-01-preview"
_WAITING = ("Queued", "Preparing", "Provisioning")  # states of jobs
_MOST_NAMED = 10  # jobs or deployments in one sentence

compute = group("compute", "Clusters: sizes, nodes, scaling, prices.")
_name = click.option("--name", "-n", required=True, help="Name of the cluster.")


def _usd(value: Any, now: float) -> str:
    return text.money(value)


def _nodes(item: dict[str, Any]) -> str:
    nodes = item.get("nodes") or {}
    held = (
        sum(value for value in nodes.values() if isinstance(value, int))
        if isinstance(nodes, dict)
        else len(nodes)
    )
    return f"{held} of {item.get('min', 0)}..{item.get('max', 0)}"


_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("type", key("type")),
    Column("size", key("size")),
    Column("state", key("state"), state=True),
    Column("nodes", _nodes),
    Column("running", key("running_jobs"), right=True),
    Column("queued", key("queued_jobs"), right=True),
    Column("per node hour", key("price_usd_hour"), _usd, right=True),
    Column("now per hour", key("run_rate_usd_hour"), _usd, right=True),
    Column("next", key("next_action"), wide=True),
)


@command(
    compute,
    "create",
    """tidemill compute create --name cpu-cluster --type AmlCompute --size Standard_DS3_v2 --max-instances 2
    tidemill compute create --file cluster.yml --set max_instances=4""",
)
@click.option("--file", "-f", "file", metavar="YAML", help="The cluster, in Azure's v2 YAML.")
@click.option("--name", "-n", help="Name of the cluster.")
@click.option("--type", "-t", "kind", help="AmlCompute (the default).")
@click.option("--size", help="VM size, see `tidemill compute list-sizes`.")
@click.option("--min-instances", type=Whole(0, 1000), help="Nodes kept when idle (default 0).")
@click.option("--max-instances", type=Whole(0, 1000), help="Most nodes at once (default 1).")
@click.option("--idle-time-before-scale-down", type=Whole(0), help="Seconds a node may be idle.")
@click.option("--tier", help="dedicated or low_priority.")
@click.option("--location", "-l", help="Region, for prices (default: the workspace's).")
@click.option("--description", help="Description.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags; repeatable.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
@click.option("--no-wait", is_flag=True, help="Return before it is ready.")
def create(
    session: Session, file: str | None, settings: tuple[str, ...], no_wait: bool, **flags: Any
) -> None:
    """Create a cluster, or change one."""
    from tidemill.cli.yaml import to_arm
    from tidemill.cli.yaml.load import from_flags, load_compute

    given = {
        "name": flags["name"],
        "type": flags["kind"] or (None if file else "amlcompute"),
        "size": flags["size"],
        "min_instances": flags["min_instances"],
        "max_instances": flags["max_instances"],
        "idle_time_before_scale_down": flags["idle_time_before_scale_down"],
        "tier": flags["tier"],
        "location": flags["location"],
        "description": flags["description"],
        "tags": parse_tags(flags["tags"]),
    }
    if file:
        extra = tuple(f"{k}={v}" for k, v in given.items() if v is not None and k != "tags")
        spec = load_compute(Path(file), settings + extra, file)
    else:
        if settings:
            raise CliError("--set changes a file; give --file too.", USAGE, "UsageError")
        if not flags["name"]:
            raise CliError("Give --name NAME or --file YAML.", USAGE, "UsageError")
        spec = from_flags("compute", given)
    name = spec.data["name"]
    body = to_arm.aml_compute(spec.data, location_of(session))
    path = f"{session.workspace_id()}/computes/{segment(name)}"
    session.client.begin("PUT", path, body, {"api-version": API}, wait=not no_wait)
    _print(session, name)


@command(compute, "list", "tidemill compute list")
@click.option("--type", "-t", "kind", help="Only this type, for example AmlCompute.")
def list_(session: Session, kind: str | None) -> None:
    """List clusters with their nodes, jobs and prices."""
    rows = session.client.get(f"{session.native}/computes")["value"]
    if kind:
        rows = [row for row in rows if str(row.get("type", "")).lower() == kind.lower()]
    empty = (
        "No clusters yet. Create one with: tidemill compute create --name cpu-cluster --size Standard_DS3_v2"
    )
    print_list(session, rows, _COLUMNS, empty)


@command(compute, "show", "tidemill compute show --name cpu-cluster")
@_name
def show(session: Session, name: str) -> None:
    """Show one cluster: its nodes, its queue and what happens next."""
    _print(session, name)


@command(compute, "update", "tidemill compute update --name cpu-cluster --max-instances 4")
@_name
@click.option("--min-instances", type=Whole(0, 1000), help="Nodes kept when idle.")
@click.option("--max-instances", type=Whole(0, 1000), help="Most nodes at once.")
@click.option("--idle-time-before-scale-down", type=Whole(0), help="Seconds a node may be idle.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags to add or change; repeatable.")
@click.option("--no-wait", is_flag=True, help="Return before it is done.")
def update(
    session: Session,
    name: str,
    min_instances: int | None,
    max_instances: int | None,
    idle_time_before_scale_down: int | None,
    tags: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Change the scaling of a cluster."""
    from tidemill.cli.yaml.to_arm import iso_duration

    path = f"{session.workspace_id()}/computes/{segment(name)}"
    body = session.client.get(path, {"api-version": API})
    scale = body["properties"].setdefault("properties", {}).setdefault("scaleSettings", {})
    before = dict(scale)
    if min_instances is not None:
        scale["minNodeCount"] = min_instances
    if max_instances is not None:
        scale["maxNodeCount"] = max_instances
    if idle_time_before_scale_down is not None:
        scale["nodeIdleTimeBeforeScaleDown"] = iso_duration(idle_time_before_scale_down)
    added = parse_tags(tags)
    if added:
        body["tags"] = {**(body.get("tags") or {}), **added}
    if scale == before and not added:
        raise CliError(
            "Nothing to change: give --min-instances, --max-instances or another option.", USAGE, "UsageError"
        )
    session.client.begin("PUT", path, body, {"api-version": API}, wait=not no_wait)
    _print(session, name)


@command(compute, "delete", "tidemill compute delete --name cpu-cluster --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Return before it is gone.")
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a cluster: its jobs are ended, and its nodes are closed."""
    path = f"{session.workspace_id()}/computes/{segment(name)}"
    session.client.get(path, {"api-version": API})
    for sentence in _ends(session.client.get(f"{session.native}/computes/{segment(name)}")):
        session.note(sentence)
    confirm(f"Delete cluster {name}?", yes)
    query: dict[str, str | int] = {"api-version": API, "underlyingResourceAction": "Delete"}
    session.client.begin("DELETE", path, None, query, wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}deleted.")


def _ends(detail: dict[str, Any]) -> list[str]:
    """What goes with a cluster."""
    queue = detail.get("queue") or []
    running = [job["name"] for job in queue if job["state"] not in _WAITING]
    waiting = [job["name"] for job in queue if job["state"] in _WAITING]
    found: list[str] = []
    for what, count, names in (
        ("running", detail["running_jobs"], running),
        ("waiting", detail["queued_jobs"], waiting),
    ):
        if count:
            found.append(f"Ends {count} {what} job{'s' * (count > 1)}: {_some(names, count)}.")
    if deployments := detail.get("deployments"):
        verb = "names" if len(deployments) == 1 else "name"
        found.append(
            f"{len(deployments)} batch deployment{'s' * (len(deployments) > 1)} {verb} {detail['name']}, and "
            f"cannot run until another compute is given: {_some(deployments, len(deployments))}."
        )
    return found


def _some(names: list[str], count: int) -> str:
    shown = names[:_MOST_NAMED]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


@command(compute, "list-nodes", "tidemill compute list-nodes --name cpu-cluster")
@_name
def list_nodes(session: Session, name: str) -> None:
    """List the nodes that a cluster holds now."""
    detail = session.client.get(f"{session.native}/computes/{segment(name)}")
    columns = (
        Column("node", key("id"), wide=True),
        Column("state", key("state"), state=True),
        Column("job", key("job"), wide=True),
        Column("since", key("since"), text.ago),
        Column("cpus", key("granted", "cpus"), lambda v, now: text.number(v), right=True),
        Column(
            "memory",
            key("granted", "memory_gib"),
            lambda v, now: text.gib(v) if v else "-",
            right=True,
        ),
        Column("gpus", key("granted", "gpus"), right=True),
        Column("enforced", _enforced, wide=True),
        Column("cost", key("cost_usd"), _usd, right=True),
    )
    print_list(session, nodes_of(detail), columns, f"{name} holds no nodes now.")


@command(compute, "list-sizes", "tidemill compute list-sizes --location westeurope")
@click.option("--location", "-l", help="Region of the prices (default: the workspace's).")
@click.option("--type", "-t", "kind", help="Ignored: every size serves every compute type here.", hidden=True)
def list_sizes(session: Session, location: str | None, kind: str | None) -> None:
    """List VM sizes with their list prices."""
    query: dict[str, str | int] = {"region": location} if location else {}
    columns = (
        Column("size", key("name"), wide=True),
        Column("vcpus", key("vcpus"), right=True),
        Column("memory", key("memory_gib"), lambda v, now: text.gib(v), right=True),
        Column("gpus", key("gpus"), lambda v, now: text.plain(v or None), right=True),
        Column("gpu", key("gpu_model")),
        Column("family", key("family"), wide=True),
        Column("per hour", key("price_usd_hour"), _usd, right=True),
        Column("price of", key("price_date")),
    )
    print_list(session, session.client.get("/api/v1/catalog/sizes", query)["value"], columns, "No sizes.")


@command(compute, "list-usage", "tidemill compute list-usage")
@click.option("--location", "-l", help="Region (default: the workspace's).")
def list_usage(session: Session, location: str | None) -> None:
    """List quotas and what is used of them."""
    place = location or location_of(session)
    path = f"{session.subscription_id}/{PROVIDER}/locations/{segment(place)}/usages"
    columns = (
        Column("quota", key("name", "localizedValue"), wide=True),
        Column("used", key("currentValue"), right=True),
        Column("limit", key("limit"), right=True),
        Column("unit", key("unit")),
    )
    print_list(session, list(session.client.pages(path, {"api-version": API})), columns, "No quotas.")


def _print(session: Session, name: str) -> None:
    detail = session.client.get(f"{session.native}/computes/{segment(name)}")
    print_item(session, detail, show_facts(detail))


def _size(name: str, usd: float | None, region: str) -> str:
    if usd is not None:
        return f"{name} at {text.money(usd)} per node and hour"
    return f"{name}, no list price" + ("" if name == "host" else f" for region {region}")


def show_facts(detail: dict[str, Any]) -> list[tuple[str, str]]:
    now = detail.get("run_rate_usd_hour")
    facts = [
        ("cluster", str(detail.get("name"))),
        ("state", str(detail.get("state"))),
        ("size", _size(str(detail.get("size")), detail.get("price_usd_hour"), detail.get("region", ""))),
        ("nodes", _nodes(detail)),
        ("idle time", text.duration(detail.get("idle_s"))),
        ("jobs", f"{detail.get('running_jobs', 0)} running, {detail.get('queued_jobs', 0)} queued"),
        ("costs now", "not known" if now is None else f"{text.money(now)} per hour"),
    ]
    if detail.get("capacity"):
        facts.append(("capacity", text.plain(detail["capacity"])))
    if detail.get("next_action"):
        facts.append(("next", text.plain(detail["next_action"])))
    for node in nodes_of(detail):
        runs = f", runs {node['job']}" if node.get("job") else ""
        shells = [text.plain(visitor["who"]) for visitor in node.get("visitors") or []]
        runs += f", shell of {', '.join(shells)}" if shells else ""
        facts.append((f"node {node.get('id')}", f"{node.get('state')}{runs}"))
    for job in detail.get("queue") or []:
        facts.append((f"job {job.get('name')}", str(job.get("why") or job.get("state"))))
    return facts


def nodes_of(detail: dict[str, Any]) -> list[dict[str, Any]]:
    """The NodeViews of a compute's detail; `nodes` itself may be the counts of the summary."""
    views = detail.get("nodes_list")
    if views is None and isinstance(detail.get("nodes"), list):
        views = detail["nodes"]
    return views or []


def _enforced(node: dict[str, Any]) -> str:
    limits = node.get("limits") or {}
    on = [name for name, limit in limits.items() if isinstance(limit, dict) and limit.get("enforced")]
    off = [
        f"not {name}"
        for name, limit in limits.items()
        if isinstance(limit, dict) and not limit.get("enforced")
    ]
    return ", ".join(on + off)


def location_of(session: Session) -> str:
    found = session.client.get(session.workspace_id(), {"api-version": WORKSPACES_API})
    return found.get("location") or "local"


def parse_tags(tags: tuple[str, ...]) -> dict[str, str] | None:
    """`("a=1", "b=2 c=3")` -> {"a": "1", …}; None for none."""
    result: dict[str, str] = {}
    for text_ in tags:
        for pair in re.split(r"\s+(?=[^\s=]+=)", text_.strip()):
            name, equals, value = pair.partition("=")
            if not equals or not name:
                raise CliError(f"--tags {text_}: write NAME=VALUE.", USAGE, "UsageError")
            result[name] = value
    return result or None


def confirm(question: str, yes: bool) -> None:
    """Asks a person; a script must say --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{question} Say so with --yes.", USAGE, "ConfirmationNeeded")
    if not click.confirm(question, err=True):
        raise CliError("Nothing was done.", FAILED, "NotConfirmed")
