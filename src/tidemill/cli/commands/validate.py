"""`tidemill validate`: everything that would be checked at a submit, and nothing submitted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tidemill.cli import submit, trial
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command
from tidemill.cli.output import print_item
from tidemill.cli.session import Session
from tidemill.cli.text import money
from tidemill.cli.urls import segment
from tidemill.cli.yaml import blame
from tidemill.cli.yaml.document import read_file

KINDS = (
    "job",
    "schedule",
    "component",
    "environment",
    "data",
    "model",
    "compute",
    "endpoint",
    "deployment",
    "batch-endpoint",
    "batch-deployment",
)
_ASSETS = ("component", "environment", "data", "model")
# Words at the beginning of a schema's file name (commandJob.schema.json).
_SCHEMAS = (
    (r"(command|pipeline|parallel|sweep|spark|autoML\w*)Component$", "component"),
    (r"(command|pipeline|sweep|parallel|spark|autoML\w*|import|finetuning\w*)Job$", "job"),
    (r"schedule$", "schedule"),
    (r"(managed|kubernetes)OnlineEndpoint$", "endpoint"),
    (r"(managed|kubernetes)OnlineDeployment$", "deployment"),
    (r"batchEndpoint$", "batch-endpoint"),
    (r"((model|pipelineComponent)?Batch|batch)Deployment$", "batch-deployment"),
    (r"environment$", "environment"),
    (r"data$", "data"),
    (r"(mlflow)?model$", "model"),
    (r"(amlCompute|compute)$", "compute"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """`value`: what the server says of each request, the file's own last."""

    kind: str
    name: str
    value: list[dict[str, Any]]


@command(
    None,
    "validate",
    """tidemill validate --file job.yml
    tidemill validate -f pipeline.yml --set settings.default_compute=azureml:gpu""",
)
@click.option("--file", "-f", "file", required=True, metavar="YAML", help="In Azure's v2 YAML.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
@click.option("--kind", type=click.Choice(KINDS), help="What it is, where neither $schema nor its keys tell.")
def validate(session: Session, file: str, settings: tuple[str, ...], kind: str | None) -> None:
    """Check a file as a submit would, by the same rules of the server, and submit nothing: names, versions,
    bindings, cycles, types, rights, quotas. Says what it would hold, and what that costs an hour."""
    found = _check(session, Path(file), file, settings, kind or _kind_of(Path(file), file))
    own = found.value[-1]
    if session.output != "table":
        result = {"file": file, "kind": found.kind, "name": found.name, "valid": True, **own}
        print_item(session, {**result, "requests": [one["path"] for one in found.value[:-1]]})
        return
    there = "" if own["created"] else ", and is there already as it is written"
    click.echo(f"{file} is valid: {found.kind} {found.name}{there}.")
    for run in own["runs"]:
        click.echo("  " + _held(run))
    if len(found.value) > 1:
        session.note(f"A submit would first make or find: {_counted(found.value[:-1])}.")


def _held(run: dict[str, Any]) -> str:
    step = f"{run['step']}: " if run["step"] else ""
    nodes = "1 node" if run["nodes"] == 1 else f"{run['nodes']} nodes"
    price = "no list price"
    if run["usd_hour"] is not None:
        price = f"{money(run['usd_hour'])} an hour ({run['price_basis']} of {run['price_date']})"
    return f"{step}{nodes} of {run['size']} on {run['compute']}, {price}"


def _counted(requests: list[dict[str, Any]]) -> str:
    kinds = [one["path"].split("/")[0] for one in requests]
    return ", ".join(f"{kinds.count(kind)} of {kind}" for kind in dict.fromkeys(kinds))


def _check(session: Session, path: Path, shown: str, settings: tuple[str, ...], kind: str) -> Found:
    if kind == "job":
        return _job(session, path, shown, settings)
    if kind == "schedule":
        return _schedule(session, path, shown, settings)
    if kind == "compute":
        return _compute(session, path, shown, settings)
    if kind in ("endpoint", "deployment"):
        return _serving(session, path, shown, settings, kind)
    if kind in ("batch-endpoint", "batch-deployment"):
        return _batch(session, path, shown, settings, kind)
    return _asset(session, path, shown, settings, kind)


def _job(session: Session, path: Path, shown: str, settings: tuple[str, ...]) -> Found:
    from tidemill.cli.yaml.load import load_job

    spec = load_job(path, settings, shown)
    name: str = spec.data.get("name") or submit.new_name()
    value = trial.tried(session, lambda dry: _ignore(submit.submit(dry, spec, name)), blame.placed(spec))
    return Found(
        f"{spec.data.get('type') or 'command'} job", spec.data.get("name") or "without a name", value
    )


def _schedule(session: Session, path: Path, shown: str, settings: tuple[str, ...]) -> Found:
    from tidemill.cli import scheduling
    from tidemill.cli.yaml.schedule import load_schedule

    found = load_schedule(path, settings, shown)
    name: str = found.spec.data["name"]
    value = trial.tried(session, lambda dry: scheduling.put(dry, found, name), scheduling.placed(found))
    return Found("schedule", name, value)


def _compute(session: Session, path: Path, shown: str, settings: tuple[str, ...]) -> Found:
    from tidemill.cli.commands.compute import API, location_of
    from tidemill.cli.yaml import to_arm
    from tidemill.cli.yaml.load import load_compute

    spec = load_compute(path, settings, shown)
    name: str = spec.data["name"]

    def send(dry: Session) -> None:
        body = to_arm.aml_compute(spec.data, location_of(dry))
        dry.client.begin("PUT", f"{dry.workspace_id()}/computes/{segment(name)}", body, {"api-version": API})

    return Found("compute", name, trial.tried(session, send, blame.placed(spec)))


def _serving(session: Session, path: Path, shown: str, settings: tuple[str, ...], kind: str) -> Found:
    from tidemill.cli import endpoints
    from tidemill.cli.commands.compute import location_of
    from tidemill.cli.yaml.endpoint_load import load_deployment, load_endpoint

    spec = (load_endpoint if kind == "endpoint" else load_deployment)(path, settings, shown)
    put = endpoints.put_endpoint if kind == "endpoint" else endpoints.put_deployment
    send: Callable[[Session], None] = lambda dry: _ignore(put(dry, spec, location_of(dry)))  # noqa: E731
    return Found(f"online {kind}", spec.data["name"], trial.tried(session, send, endpoints.placed(spec)))


def _batch(session: Session, path: Path, shown: str, settings: tuple[str, ...], kind: str) -> Found:
    from tidemill.cli import batches
    from tidemill.cli.commands.compute import location_of
    from tidemill.cli.yaml.batch_load import load_deployment, load_endpoint

    is_endpoint = kind == "batch-endpoint"
    spec = (load_endpoint if is_endpoint else load_deployment)(path, settings, shown)
    put = batches.put_endpoint if is_endpoint else batches.put_deployment
    send: Callable[[Session], None] = lambda dry: put(dry, spec, location_of(dry))  # noqa: E731
    value = trial.tried(session, send, batches.placed(spec))
    return Found(kind.replace("-", " "), spec.data["name"], value)


def _asset(session: Session, path: Path, shown: str, settings: tuple[str, ...], kind: str) -> Found:
    from tidemill.cli.commands import assets

    asset = next(one for one in assets.KINDS if one.name == kind)
    spec = asset.load(path, settings, shown)
    name: str = spec.data["name"]
    send: Callable[[Session], None] = lambda dry: _ignore(assets.put(dry, asset, spec))  # noqa: E731
    return Found(kind, name, trial.tried(session, send, blame.placed(spec)))


def _ignore(_: Any) -> None: ...


def _kind_of(path: Path, shown: str) -> str:
    """By $schema, else by keys that only one kind has. Raises CliError."""
    data = read_file(path, shown).data
    keys: dict[str, Any] = data if isinstance(data, dict) else {}
    schema = str(keys.get("$schema") or "").rsplit("/", 1)[-1].removesuffix(".json").removesuffix(".schema")
    for pattern, kind in _SCHEMAS:
        if schema and re.match(pattern, schema, re.IGNORECASE):
            return kind
    if "endpoint_name" in keys:
        return "batch-deployment" if keys.get("type") in ("model", "pipeline") else "deployment"
    if keys.keys() & {"auth_mode", "traffic", "mirror_traffic"}:
        return "endpoint"
    if "create_job" in keys or "trigger" in keys:
        return "schedule"
    if (
        keys.keys() & {"min_instances", "max_instances", "size"}
        or str(keys.get("type")).lower() == "amlcompute"
    ):
        return "compute"
    if keys.keys() & {"command", "jobs", "trial", "search_space", "component"}:
        return "component" if "version" in keys or "is_deterministic" in keys else "job"
    if keys.keys() & {"image", "build", "conda_file"}:
        return "environment"
    if "path" in keys:
        return "model" if str(keys.get("type")).endswith("_model") or "flavors" in keys else "data"
    raise CliError(
        f"{shown}: neither its $schema nor its keys say what it is. Give --kind, one of: {', '.join(KINDS)}.",
        USAGE,
        "UsageError",
    )
