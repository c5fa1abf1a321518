"""`tidemill endpoint …`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm, location_of, parse_tags
from tidemill.cli.errors import FAILED, USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, key, print_item, print_list, table
from tidemill.cli.session import Session

endpoint = group("endpoint", "Models that answer requests: addresses, keys, traffic.")
_name = click.option("--name", "-n", required=True, help="Name of the endpoint.")
_no_wait = click.option("--no-wait", is_flag=True, hidden=True, help="Taken: there is no wait.")
_SHOWN_EVENTS = 15


def shares(found: dict[str, Any] | None) -> str:
    """`blue 90, green 10`."""
    return ", ".join(f"{name} {percent}" for name, percent in (found or {}).items()) or "-"


_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("state", key("state"), state=True),
    Column("auth", key("auth_mode")),
    Column("traffic", lambda item: shares(item.get("traffic")), wide=True),
    Column(
        "deployments",
        lambda item: ", ".join(f"{n} {s}" for n, s in (item.get("deployment_states") or {}).items()),
        wide=True,
    ),
    Column("now per hour", key("run_rate_usd_hour"), lambda usd, _: text.money(usd), right=True),
    Column("created", key("created_at"), text.ago),
)


@command(
    endpoint,
    "create",
    """tidemill endpoint create --name digits
    tidemill endpoint create --file endpoint.yml --set auth_mode=aml_token""",
)
@click.option("--file", "-f", "file", metavar="YAML", help="The endpoint, in Azure's v2 YAML.")
@click.option("--name", "-n", help="Name of the endpoint; else the file's.")
@click.option("--auth-mode", help="key (the default), aml_token or aad_token.")
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file.")
@_no_wait
def create(
    session: Session,
    file: str | None,
    name: str | None,
    auth_mode: str | None,
    settings: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Create an endpoint, or change one."""
    from tidemill.cli import endpoints
    from tidemill.cli.yaml.document import Document
    from tidemill.cli.yaml.endpoint_load import load_endpoint
    from tidemill.cli.yaml.load import Spec

    given = {"name": name, "auth_mode": auth_mode}
    if file:
        extra = tuple(f"{field}={value}" for field, value in given.items() if value is not None)
        spec = load_endpoint(Path(file), (*settings, *extra), file)
    else:
        if not name or settings:
            raise CliError("Give --name NAME or --file YAML; --set changes a file.", USAGE, "UsageError")
        if auth_mode not in (None, "key", "aml_token", "aad_token"):
            raise CliError(
                f"--auth-mode {auth_mode} is not known. Use key, aml_token or aad_token.", USAGE, "UsageError"
            )
        spec = Spec({k: v for k, v in given.items() if v}, Document("flags", Path.cwd(), "", given))
    endpoints.put_endpoint(session, spec, location_of(session))
    _print(session, spec.data["name"])


@command(endpoint, "list", "tidemill endpoint list")
def list_(session: Session) -> None:
    """List endpoints with their traffic, deployments and prices."""
    rows = session.client.get(f"{session.native}/endpoints")["value"]
    empty = "No endpoints yet. Create one with: tidemill endpoint create --name NAME"
    print_list(session, rows, _COLUMNS, empty)


@command(endpoint, "show", "tidemill endpoint show --name digits")
@_name
def show(session: Session, name: str) -> None:
    """Show one endpoint: its address, what serves, what it costs."""
    _print(session, name)


@command(endpoint, "update", "tidemill endpoint update --name digits --traffic 'blue=90 green=10'")
@_name
@click.option("--traffic", "-r", multiple=True, metavar="D=N", help="Shares of traffic, summing to 100.")
@click.option("--mirror-traffic", "-m", multiple=True, metavar="D=N", help="Copies, at most 50 percent.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags to add or change; repeatable.")
@_no_wait
def update(
    session: Session,
    name: str,
    traffic: tuple[str, ...],
    mirror_traffic: tuple[str, ...],
    tags: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Change traffic or tags. For all else: tidemill endpoint create --file."""
    from tidemill.cli import endpoints

    added = parse_tags(tags)
    if not traffic and not mirror_traffic and not added:
        message = "Nothing to change: give --traffic, --mirror-traffic or --tags."
        raise CliError(message, USAGE, "UsageError")
    if added:
        path, query = endpoints.path_of(session, name), {"api-version": endpoints.API}
        session.client.begin("PATCH", path, {"tags": added}, dict(query))
    changes = {"traffic": traffic, "mirrorTraffic": mirror_traffic}
    wanted = {field: percentages(said) for field, said in changes.items() if said}
    if wanted:
        endpoints.set_traffic(session, name, wanted)
    _print(session, name)


@command(
    endpoint,
    "traffic",
    """tidemill endpoint traffic --name digits
    tidemill endpoint traffic --name digits blue=90 green=10
    tidemill endpoint traffic --name digits --mirror green=20""",
)
@_name
@click.argument("share", nargs=-1, metavar="[DEPLOYMENT=PERCENT]…")
@click.option("--mirror", multiple=True, metavar="D=N", help="Copies nobody waits for; 0 ends them.")
def traffic(session: Session, name: str, share: tuple[str, ...], mirror: tuple[str, ...]) -> None:
    """Show how requests are shared out, or share them out anew. Who is not named gets none."""
    from tidemill.cli import endpoints

    changes = {"traffic": share, "mirrorTraffic": mirror}
    wanted = {field: percentages(said) for field, said in changes.items() if said}
    if wanted:
        endpoints.set_traffic(session, name, wanted)
    found = session.client.get(endpoints.native(session, name))
    rows = [
        {
            "deployment": one["name"],
            "traffic": one["traffic"],
            "mirrored": one["mirror_traffic"],
            "state": one["state"],
        }
        for one in found["deployments"]
    ]
    columns = (
        Column("deployment", key("deployment"), wide=True),
        Column("traffic", key("traffic"), lambda v, _: f"{v} %", right=True),
        Column("mirrored", key("mirrored"), lambda v, _: f"{v} %", right=True),
        Column("state", key("state"), state=True),
    )
    print_list(session, rows, columns, f"{name} has no deployments.")


def percentages(said: tuple[str, ...]) -> dict[str, int]:
    """`("blue=90 green=10",)` or `("blue=90", "green=10")` -> {"blue": 90, "green": 10}."""
    found: dict[str, int] = {}
    for pair in " ".join(said).split():
        name, equals, percent = pair.partition("=")
        if not equals or not name or not percent.isascii() or not percent.isdigit():
            raise CliError(f"{pair}: write DEPLOYMENT=PERCENT, for example blue=90.", USAGE, "UsageError")
        found[name] = int(percent)
    return found


@command(
    endpoint,
    "invoke",
    """tidemill endpoint invoke --name digits --request-file sample.json
    tidemill endpoint invoke --name digits --data '{"data": [[1, 2]]}' --deployment-name green
    tidemill endpoint invoke --name digits --request-file sample.json --repeat 100""",
)
@_name
@click.option("--request-file", "-r", "file", metavar="JSON", help="The request; - reads it from stdin.")
@click.option("--data", help="The request itself.")
@click.option("--deployment-name", "-d", "deployment", help="Ask this deployment, whatever its traffic.")
@click.option("--repeat", type=Whole(1, 1_000_000), default=1, help="Ask so many times, one by one.")
def invoke(
    session: Session, name: str, file: str | None, data: str | None, deployment: str | None, repeat: int
) -> int:
    """Send a request, and print the answer and how long it took."""
    from tidemill.cli import endpoints

    body = _request(file, data)
    caller = endpoints.Caller(session, name, deployment or "")
    answers = [caller.send(body) for _ in range(repeat)]
    last = answers[-1]
    failed = [answer for answer in answers if answer.status >= 400]
    if failed:
        worst = failed[-1]
        count = f" ({len(failed)} of {repeat} requests)" if repeat > 1 else ""
        code = f"Http{worst.status}"
        told = endpoints.where_told(name, worst)
        raise CliError(f"{worst.status}: {endpoints.problem_of(worst)}{count}{told}", FAILED, code)
    click.echo(last.body.decode("utf-8", "replace"))
    session.note(latency([answer.seconds for answer in answers], last.deployment))
    return 0


def latency(seconds: list[float], deployment: str) -> str:
    """`3.1 ms, by deployment blue`; of many the median, the 95th and 99th of a hundred and the longest."""
    by = f", by deployment {deployment}" if deployment else ""
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:.1f} ms{by}"
    ordered = sorted(seconds)
    points = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99)]
    p50, p95, p99 = (f"{point * 1000:.1f}" for point in points)
    longest = f"{ordered[-1] * 1000:.1f}"
    return f"{len(seconds)} answers: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, longest {longest} ms"


def _request(file: str | None, data: str | None) -> bytes:
    if (file is None) == (data is None):
        raise CliError("Give --request-file JSON or --data TEXT.", USAGE, "UsageError")
    if data is not None:
        return data.encode()
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(str(file)).read_bytes()
    except OSError as error:
        raise CliError(f"--request-file {file}: {error.strerror}.", USAGE, "UsageError") from None


@command(
    endpoint,
    "keys",
    """tidemill endpoint keys --name digits
    tidemill endpoint keys --name digits --regenerate secondary""",
)
@_name
@click.option(
    "--regenerate",
    type=click.Choice(("primary", "secondary")),
    help="A new key in its place; the old one is worth nothing at once.",
)
def keys(session: Session, name: str, regenerate: str | None) -> None:
    """Show what opens an endpoint: its keys, or a token."""
    from tidemill.cli import endpoints

    path, query = endpoints.path_of(session, name), {"api-version": endpoints.API}
    mode = session.client.get(path, dict(query))["properties"]["authMode"]
    if regenerate:
        body = {"keyType": regenerate.capitalize()}
        session.client.begin("POST", f"{path}/regenerateKeys", body, dict(query))
    if mode == "Key":
        found = session.client.call("POST", f"{path}/listKeys", None, dict(query))
        print_item(session, {"primary_key": found["primaryKey"], "secondary_key": found["secondaryKey"]})
    else:
        print_item(session, {"access_token": endpoints.credential(session, name, mode)})


@command(endpoint, "logs", "tidemill endpoint logs --name digits --deployment-name blue --lines 50")
@_name
@click.option("--deployment-name", "-d", "deployment", help="Of this deployment only.")
@click.option("--lines", "-l", type=Whole(1, 100_000), default=100, help="Last lines of each instance.")
@click.option("--container", "-c", help="inference-server (the default) or storage-initializer.")
def logs(session: Session, name: str, deployment: str | None, lines: int, container: str | None) -> None:
    """Print what the instances of an endpoint wrote."""
    from tidemill.cli import endpoints

    names = [deployment] if deployment else None
    if names is None:
        found = session.client.get(endpoints.native(session, name))["deployments"]
        names = [str(one["name"]) for one in found]
        if not names:
            session.note(f"{name} has no deployments.")
    for one in names:
        click.echo(endpoints.logs(session, name, one, lines, container), nl=False)


@command(endpoint, "why", "tidemill endpoint why --name digits")
@_name
@click.option("--deployment-name", "-d", "deployment", help="Of this deployment only.")
def why(session: Session, name: str, deployment: str | None) -> None:
    """Say why an endpoint does not answer as it should."""
    from tidemill.cli import endpoints

    query: dict[str, str | int] = {"deployment": deployment} if deployment else {}
    found = session.client.get(endpoints.native(session, name, "why"), query)
    facts = [("endpoint", found["name"]), ("state", found["state"]), ("why", found["sentence"])]
    facts += [("", reason["message"]) for reason in found["reasons"][1:]]
    facts += [("next", told) for told in found["next"]]
    print_item(session, found, facts)


@command(endpoint, "watch", "tidemill endpoint watch --name digits")
@_name
@click.option("--once", is_flag=True, help="Print the table once.")
def watch(session: Session, name: str, once: bool) -> None:
    """A live table of an endpoint's deployments. Ctrl-C ends it."""
    from tidemill.cli import endpoints

    live = sys.stdout.isatty() and not once
    while True:
        found = session.client.get(endpoints.native(session, name))
        rows = found["deployments"]
        if session.output != "table":
            print_item(session, found)
            return
        lines = table(rows, _WATCHED, time.time(), None, session.color) if rows else ["No deployments."]
        if live:
            click.echo("\x1b[H\x1b[2J", nl=False)
        click.echo(f"{name}  {found['state']}  {text.money(found['run_rate_usd_hour'])} per hour")
        click.echo("\n".join(lines))
        if not live:
            return
        time.sleep(1)


def instances(item: dict[str, Any]) -> str:
    """`1 of 2`: those that are ready, of those that are wanted."""
    ready = sum(one["phase"] == "ready" for one in item.get("instances") or [])
    return f"{ready} of {item.get('instance_count', 0)}"


_WATCHED = (
    Column("deployment", key("name"), wide=True),
    Column("state", key("state"), state=True),
    Column("traffic", key("traffic"), lambda v, _: f"{v} %", right=True),
    Column("instances", instances, right=True),
    Column("per second", key("metrics", "rate"), lambda v, _: "-" if v is None else f"{v:.1f}", right=True),
    Column("in flight", key("metrics", "in_flight"), right=True),
    Column("waiting", key("metrics", "held"), right=True),
    Column("p50", key("metrics", "p50_ms"), lambda v, _: _ms(v), right=True),
    Column("p95", key("metrics", "p95_ms"), lambda v, _: _ms(v), right=True),
    Column("p99", key("metrics", "p99_ms"), lambda v, _: _ms(v), right=True),
    Column("errors", lambda item: _errors(item.get("metrics")), right=True),
    Column("per hour", key("run_rate_usd_hour"), lambda usd, _: text.money(usd), right=True),
)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _errors(metrics: dict[str, Any] | None) -> str | None:
    """`3 of 1200`."""
    return None if not metrics else f"{metrics['errors']} of {metrics['requests']}"


@command(endpoint, "delete", "tidemill endpoint delete --name digits --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Return before it is gone.")
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete an endpoint with its deployments."""
    from tidemill.cli import endpoints

    found = session.client.get(endpoints.native(session, name))["deployments"]
    held = f" with {', '.join(one['name'] for one in found)}" if found else ""
    confirm(f"Delete endpoint {name}{held}?", yes)
    path, query = endpoints.path_of(session, name), {"api-version": endpoints.API}
    session.client.begin("DELETE", path, None, dict(query), wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}deleted.")


def _print(session: Session, name: str) -> None:
    from tidemill.cli import endpoints

    found = session.client.get(endpoints.native(session, name))
    print_item(session, found, show_facts(found))


def show_facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("endpoint", str(found["name"])),
        ("state", str(found["state"])),
        ("address", found.get("scoring_uri") or "none: this server runs no gateway"),
        ("auth", str(found["auth_mode"])),
        ("traffic", shares(found.get("traffic"))),
    ]
    if found.get("mirror_traffic"):
        facts.append(("mirrored", shares(found["mirror_traffic"])))
    facts.append(("costs now", f"{text.money(found['run_rate_usd_hour'])} per hour"))
    if found.get("cost_usd") is not None:
        facts.append(("so far", text.money(found["cost_usd"])))
    for one in found["deployments"]:
        what = one["model"] or one["code"] or one["environment"]
        size = f"{instances(one)} instances ready, {one['instance_type']}"
        facts.append((f"deployment {one['name']}", f"{one['state']}, {what}, {size}"))
        if one["error"]:
            facts.append(("", one["error"]["message"].rstrip()))
    events = found["timeline"][-_SHOWN_EVENTS:]
    if events:
        facts.append(("time line", "\n".join(map(told, events))))
    return facts


def told(entry: dict[str, Any]) -> str:
    """An entry of a time line; of a traceback its first line."""
    first = text.plain(entry["message"]).splitlines()[0]
    return f"{entry['at'][:19].replace('T', ' ')}  {first}"
