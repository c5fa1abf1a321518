"""`tidemill batch endpoint …`, `tidemill batch deployment …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm, location_of, parse_tags
from tidemill.cli.commands.endpoint import told
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session

batch = group("batch", "Models that score whole folders: batch endpoints, deployments, calls.")
endpoint = group("endpoint", "Addresses whose calls are jobs.")
deployment = group("deployment", "What a call runs: a model with its script, or a pipeline component.")
batch.add_command(endpoint)
batch.add_command(deployment)

_name = click.option("--name", "-n", required=True, help="Name of the endpoint.")
_deployment_name = click.option("--name", "-n", required=True, help="Name of the deployment.")
_endpoint_name = click.option("--endpoint-name", "-e", "above", required=True, help="Its endpoint.")
_set = click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_SHOWN_EVENTS = 15
_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("state", key("state"), state=True),
    Column("default", key("default_deployment")),
    Column("deployments", lambda item: ", ".join(item["deployment_names"]) or "-", wide=True),
    Column("running jobs", key("running_jobs"), right=True),
    Column("created", key("created_at"), text.ago),
)
_DEPLOYMENTS = (
    Column("name", key("name"), wide=True),
    Column("state", key("state"), state=True),
    Column("default", lambda item: "yes" if item["default"] else ""),
    Column("runs", lambda item: _runs(item), wide=True),
    Column("compute", lambda item: _compute(item)),
    Column("running jobs", key("running_jobs"), right=True),
    Column("created", key("created_at"), text.ago),
)
_JOBS = (
    Column("name", key("name"), wide=True),
    Column("experiment", key("experiment"), wide=True),
    Column("status", key("status"), state=True),
    Column("submitted", key("created_at"), text.ago),
    Column("took", key("duration_s"), lambda v, now: text.duration(v), right=True),
    Column("price", key("cost_usd"), lambda v, now: text.money(v), right=True),
)


@command(
    endpoint,
    "create",
    """tidemill batch endpoint create --name digits
    tidemill batch endpoint create --file endpoint.yml""",
)
@click.option("--file", "-f", "file", metavar="YAML", help="The endpoint, in Azure's v2 YAML.")
@click.option("--name", "-n", help="Name of the endpoint; else the file's.")
@_set
def create_endpoint(session: Session, file: str | None, name: str | None, settings: tuple[str, ...]) -> None:
    """Create a batch endpoint, or change one."""
    from tidemill.cli import batches
    from tidemill.cli.yaml.batch_load import load_endpoint
    from tidemill.cli.yaml.document import Document
    from tidemill.cli.yaml.load import Spec

    if file:
        spec = load_endpoint(Path(file), (*settings, *([f"name={name}"] if name else [])), file)
    elif name and not settings:
        spec = Spec({"name": name}, Document("flags", Path.cwd(), "", {"name": name}))
    else:
        raise CliError("Give --name NAME or --file YAML; --set changes a file.", USAGE, "UsageError")
    batches.put_endpoint(session, spec, location_of(session))
    _print_endpoint(session, spec.data["name"])


@command(endpoint, "list", "tidemill batch endpoint list")
def list_endpoints(session: Session) -> None:
    """List batch endpoints with their deployments."""
    rows = session.client.get(f"{session.native}/batchEndpoints")["value"]
    empty = "No batch endpoints yet. Create one with: tidemill batch endpoint create --name NAME"
    print_list(session, rows, _COLUMNS, empty)


@command(endpoint, "show", "tidemill batch endpoint show --name digits")
@_name
def show_endpoint(session: Session, name: str) -> None:
    """Show one batch endpoint: its address, deployments and jobs."""
    _print_endpoint(session, name)


@command(endpoint, "update", "tidemill batch endpoint update --name digits --default second")
@_name
@click.option("--default", help="The deployment that calls go to which name none.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags to add or change; repeatable.")
def update_endpoint(session: Session, name: str, default: str | None, tags: tuple[str, ...]) -> None:
    """Change the default deployment, or tags."""
    from tidemill.cli import batches

    added = parse_tags(tags)
    if default is None and not added:
        raise CliError("Nothing to change: give --default or --tags.", USAGE, "UsageError")
    if added:
        path = batches.path_of(session, name)
        session.client.begin("PATCH", path, {"tags": added}, {"api-version": batches.API})
    if default is not None:
        batches.set_default(session, name, default)
    _print_endpoint(session, name)


@command(endpoint, "delete", "tidemill batch endpoint delete --name digits --yes")
@_name
@_yes
def delete_endpoint(session: Session, name: str, yes: bool) -> None:
    """Delete a batch endpoint with its deployments. Its jobs stay."""
    from tidemill.cli import batches

    names = session.client.get(batches.native(session, name))["deployment_names"]
    held = f" with {', '.join(names)}" if names else ""
    confirm(f"Delete batch endpoint {name}{held}?", yes)
    session.client.begin("DELETE", batches.path_of(session, name), None, {"api-version": batches.API})
    session.note(f"{name} is deleted.")


@command(
    endpoint,
    "invoke",
    """tidemill batch endpoint invoke --name digits --input ./images --stream
    tidemill batch endpoint invoke --name digits --input azureml:images@latest --deployment-name second
    tidemill batch endpoint invoke --name flow --file inputs.yml --set inputs.epochs=3""",
)
@_name
@click.option("--deployment-name", "-d", "called", help="Run this deployment; else the default one.")
@click.option("--input", "given", metavar="PATH", help="What is scored: a folder, a file, an asset, a URL.")
@click.option("--input-type", metavar="TYPE", help="uri_folder, uri_file or mltable; else by the path.")
@click.option("--file", "-f", "file", metavar="YAML", help="inputs, outputs and the rest of a call.")
@click.option(
    "--output-path", metavar="URI", help="Folder for the scores: azureml://datastores/NAME/paths/PATH."
)
@click.option("--output-file-name", metavar="NAME", help="File that rows are appended to.")
@click.option("--output-asset", metavar="NAME[:V]", help="Register the scores as this data asset.")
@click.option("--mini-batch-size", "-m", type=Whole(1), help="Files of a mini-batch.")
@click.option("--instance-count", "-c", type=Whole(1), help="Nodes.")
@click.option("--experiment-name", help="Experiment of the job; else the endpoint's name.")
@click.option("--job-name", "-j", help="Name of the job; else one is made.")
@_set
@click.option("--stream", is_flag=True, help="Follow it until it ends; exit code 1 when it fails.")
@click.option("--web", is_flag=True, help="Open its page.")
def invoke(
    session: Session,
    name: str,
    called: str | None,
    given: str | None,
    input_type: str | None,
    file: str | None,
    settings: tuple[str, ...],
    stream: bool,
    web: bool,
    **flags: Any,
) -> int:
    """Call a batch endpoint: a job of yours that scores the input."""
    from tidemill.cli import batches
    from tidemill.cli.commands.job import tell_created
    from tidemill.cli.yaml.batch_load import add_flag, call_in, load_call

    document = load_call(Path(file) if file else None, settings, file)
    if input_type and not given:
        raise CliError("--input-type is of --input: give that, too.", USAGE, "UsageError")
    if given:
        typed = {"type": input_type} if input_type else {}
        add_flag(document, "--input", ("inputs", "input"), {"path": given, **typed})
    for flag, trail, value in _said(flags):
        add_flag(document, flag, trail, value)
    spec = call_in(document)
    if not spec.data.get("inputs"):
        message = "A call needs an input: give --input PATH, or --file YAML with inputs."
        raise CliError(message, USAGE, "UsageError")
    return tell_created(session, batches.invoke(session, name, called or "", spec), stream, web)


def _said(flags: dict[str, Any]) -> list[tuple[str, tuple[str, ...], Any]]:
    """(flag, where it stands in a call's file, value) of what was given."""
    asset, _, version = (flags["output_asset"] or "").partition(":")
    said: list[tuple[str, tuple[str, ...], Any]] = [
        ("--output-path", ("outputs", "score", "path"), flags["output_path"]),
        ("--output-asset", ("outputs", "score", "name"), asset or None),
        ("--output-asset", ("outputs", "score", "version"), version or None),
        ("--output-file-name", ("output_file_name",), flags["output_file_name"]),
        ("--mini-batch-size", ("mini_batch_size",), flags["mini_batch_size"]),
        ("--instance-count", ("compute", "instance_count"), flags["instance_count"]),
        ("--experiment-name", ("experiment_name",), flags["experiment_name"]),
        ("--job-name", ("job_name",), flags["job_name"]),
    ]
    return [one for one in said if one[2] is not None]


@command(endpoint, "list-jobs", "tidemill batch endpoint list-jobs --name digits")
@_name
def list_endpoint_jobs(session: Session, name: str) -> None:
    """List the jobs of a batch endpoint, the newest first: the last 20."""
    from tidemill.cli import batches

    _list_jobs(session, name, session.client.get(batches.native(session, name)))


@command(
    deployment,
    "create",
    """tidemill batch deployment create --file deployment.yml --set-default
    tidemill batch deployment create -f deployment.yml --set settings.instance_count=2""",
)
@click.option(
    "--file", "-f", "file", required=True, metavar="YAML", help="The deployment, in Azure's v2 YAML."
)
@click.option("--endpoint-name", "-e", "above", help="Its endpoint; else the file's.")
@click.option("--name", "-n", help="Name of the deployment; else the file's.")
@click.option("--set-default", is_flag=True, help="Calls that name no deployment go to it.")
@_set
def create_deployment(
    session: Session,
    file: str,
    above: str | None,
    name: str | None,
    set_default: bool,
    settings: tuple[str, ...],
) -> None:
    """Create a deployment, or change one. Jobs that run stay as they are."""
    from tidemill.cli import batches
    from tidemill.cli.yaml.batch_load import load_deployment

    given = {"endpoint_name": above, "name": name}
    extra = tuple(f"{field}={value}" for field, value in given.items() if value is not None)
    spec = load_deployment(Path(file), (*settings, *extra), file)
    batches.put_deployment(session, spec, location_of(session))
    if set_default:
        batches.set_default(session, spec.data["endpoint_name"], spec.data["name"])
    _print_deployment(session, spec.data["endpoint_name"], spec.data["name"])


@command(deployment, "list", "tidemill batch deployment list --endpoint-name digits")
@_endpoint_name
def list_deployments(session: Session, above: str) -> None:
    """List the deployments of a batch endpoint."""
    from tidemill.cli import batches

    rows = session.client.get(batches.native(session, above))["deployments"]
    empty = "No deployments yet. Create one with: tidemill batch deployment create --file deployment.yml"
    print_list(session, rows, _DEPLOYMENTS, empty)


@command(deployment, "show", "tidemill batch deployment show --endpoint-name digits --name first")
@_endpoint_name
@_deployment_name
def show_deployment(session: Session, above: str, name: str) -> None:
    """Show one deployment: what a call runs, and its jobs."""
    _print_deployment(session, above, name)


@command(
    deployment,
    "update",
    "tidemill batch deployment update --endpoint-name digits --name first --instance-count 3",
)
@_endpoint_name
@_deployment_name
@click.option("--instance-count", "-c", type=Whole(1), help="Nodes of the next calls.")
@click.option("--mini-batch-size", "-m", type=Whole(1), help="Files of a mini-batch.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags to add or change; repeatable.")
def update_deployment(
    session: Session,
    above: str,
    name: str,
    instance_count: int | None,
    mini_batch_size: int | None,
    tags: tuple[str, ...],
) -> None:
    """Change what the next calls run with. For all else: tidemill batch deployment create --file."""
    from tidemill.cli import batches

    properties: dict[str, Any] = {}
    if instance_count is not None:
        properties["resources"] = {"instanceCount": instance_count}
    if mini_batch_size is not None:
        properties["miniBatchSize"] = mini_batch_size
    added = parse_tags(tags)
    if not properties and not added:
        message = "Nothing to change: give --instance-count, --mini-batch-size or --tags."
        raise CliError(message, USAGE, "UsageError")
    path, query = batches.deployment_path(session, above, name), {"api-version": batches.DEPLOYMENTS_API}
    session.client.begin("PATCH", path, {"properties": properties, "tags": added}, dict(query))
    _print_deployment(session, above, name)


@command(deployment, "delete", "tidemill batch deployment delete --endpoint-name digits --name first --yes")
@_endpoint_name
@_deployment_name
@_yes
def delete_deployment(session: Session, above: str, name: str, yes: bool) -> None:
    """Delete a deployment that is not the default one. Its jobs stay."""
    from tidemill.cli import batches

    path, query = batches.deployment_path(session, above, name), {"api-version": batches.DEPLOYMENTS_API}
    session.client.get(path, dict(query))
    confirm(f"Delete deployment {name} of {above}?", yes)
    session.client.begin("DELETE", path, None, dict(query))
    session.note(f"{name} is deleted.")


@command(deployment, "list-jobs", "tidemill batch deployment list-jobs --endpoint-name digits --name first")
@_endpoint_name
@_deployment_name
def list_deployment_jobs(session: Session, above: str, name: str) -> None:
    """List the jobs of a deployment, the newest first: the last 20."""
    from tidemill.cli import batches

    _list_jobs(session, name, session.client.get(batches.native(session, above, "deployments", name)))


def _list_jobs(session: Session, name: str, found: dict[str, Any]) -> None:
    if found["jobs"] is None:
        raise CliError(
            f"You may not list the jobs of {name}: that takes …/batchEndpoints/jobs/read. Ask an owner for a "
            "role that has it (tidemill access grant)."
        )
    print_list(session, found["jobs"], _JOBS, f"{name} has not been called yet.")


def _print_endpoint(session: Session, name: str) -> None:
    from tidemill.cli import batches

    found = session.client.get(batches.native(session, name))
    facts = [
        ("batch endpoint", str(found["name"])),
        ("state", str(found["state"])),
        ("address", str(found["scoring_uri"])),
        ("default", found["default_deployment"] or "none"),
    ]
    facts += [
        (f"deployment {one['name']}", f"{_runs(one)} on {_compute(one)}") for one in found["deployments"]
    ]
    print_item(session, found, [*facts, *_jobs(found), *_events(found)])


def _print_deployment(session: Session, above: str, name: str) -> None:
    from tidemill.cli import batches

    found = session.client.get(batches.native(session, above, "deployments", name))
    facts = [
        ("batch deployment", f"{found['endpoint']}/{found['name']}{', the default' * found['default']}"),
        ("state", str(found["state"])),
        ("runs", _runs(found)),
        ("compute", _compute(found)),
    ]
    if found["type"] == "model":
        errors = found["error_threshold"]
        facts += [
            ("environment", str(found["environment"])),
            (
                "mini-batches",
                f"of {found['mini_batch_size']}, {found['max_concurrency_per_instance']} at once a node, "
                f"{found['timeout_s']:g} s each, {found['max_retries']} more tries",
            ),
            ("errors", "any number of items" if errors < 0 else f"at most {errors} items"),
            ("output", found["output_file_name"] or "what the script writes"),
        ]
    print_item(session, found, [*facts, *_jobs(found), *_events(found)])


def _jobs(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [("job", f"{one['name']}  {one['status']}") for one in (found["jobs"] or ())[:5]]


def _events(found: dict[str, Any]) -> list[tuple[str, str]]:
    events = found["timeline"][-_SHOWN_EVENTS:]
    return [("time line", "\n".join(map(told, events)))] if events else []


def _runs(item: dict[str, Any]) -> str:
    """`score.py with model digits:3`."""
    if item["type"] == "pipeline":
        return f"pipeline component {item['component']}"
    model = f"model {item['model']}" if item["model"] else ""
    return " with ".join(part for part in (item["code"], model) if part)


def _compute(item: dict[str, Any]) -> str:
    if item["type"] == "pipeline":
        return str(item["settings"].get("default_compute") or "its steps' computes").rsplit("/", 1)[-1]
    nodes = "1 node" if item["instance_count"] == 1 else f"{item['instance_count']} nodes"
    return f"{item['compute'] or 'serverless'}, {nodes}"
