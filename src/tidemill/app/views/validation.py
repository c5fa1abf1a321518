"""What would come of requests, one after the other, if they were made now: nothing is written."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from tidemill.app.assets import assets
from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.storage import account_for
from tidemill.app.computes import computes
from tidemill.app.computes.compute_rules import SERVERLESS, object_at
from tidemill.app.computes.teams import tags_of, team_of
from tidemill.app.jobs import costs, jobs, serverless
from tidemill.app.people import access
from tidemill.app.rows import batch_rows
from tidemill.app.rows.asset_rows import KINDS
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.endpoint_rows import DEPLOYMENTS, ENDPOINTS, deployment_status
from tidemill.app.schedules import schedules
from tidemill.app.services import Services
from tidemill.app.serving import batch_deployments, batch_endpoints, endpoints, online_deployments
from tidemill.app.upkeep.dry_run import dry
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobspec import CommandJob, compute_of, instance_types
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.plan import Place
from tidemill.store.api import Read

PROVIDER = "Microsoft.MachineLearningServices"
MOST = 500

Door = Callable[[Services, Caller, Scope, str, Mapping[str, Any]], Awaitable[tuple[Resource, bool]]]
_DOORS: Mapping[str, Door] = {
    "jobs": jobs.submit,
    "computes": computes.put,
    "schedules": schedules.put,
    "onlineEndpoints": endpoints.put,
    "batchEndpoints": batch_endpoints.put,
}
_DEPLOYMENTS = {ENDPOINTS: DEPLOYMENTS, batch_rows.ENDPOINTS: batch_rows.DEPLOYMENTS}


@dataclass(frozen=True, slots=True)
class Asked:
    """A PUT: `path` below the workspace, `jobs/NAME`, `data/NAME/versions/VERSION` or
    `onlineEndpoints/NAME/deployments/NAME` (also of batchEndpoints)."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Upload:
    """`uri`: a folder of the workspace's storage; `files`: names below it; `texts`: of those that are read at
    a submit (MLTable)."""

    uri: str
    files: tuple[str, ...]
    texts: Mapping[str, str]


async def validate(
    s: Services, caller: Caller, scope: Scope, asked: Sequence[Asked], uploads: Sequence[Upload]
) -> list[dict[str, Any]]:
    """-> of each {path, created, runs}. `created` False: it is there already, as it was given. `uploads`:
    what would be uploaded first. Raises what the first request that is refused would be
    refused with; each needs the right that it would need."""
    if not asked or len(asked) > MOST:
        raise InvalidRequest(f"Give 1 to {MOST} requests.", target="requests")
    places = await s.store.read(lambda r: [_place(s, r, scope, one.uri) for one in uploads])
    coming = {
        replace(place, path=f"{place.path.rstrip('/')}/{name}"): one.texts.get(name, "").encode()
        for one, place in zip(uploads, places, strict=True)
        for name in one.files
    }
    tried = dry(s, coming)
    return [await _try(tried, caller, scope, one) for one in asked]


def _place(s: Services, read: Read, scope: Scope, uri: str) -> Place:
    storage = Storage(scope, account_for(read, scope), s.addresses.data_netloc)
    place = locate(read, storage, uri).place
    if place is None:
        raise InvalidRequest(f"{uri!r} is not an address of this workspace's storage.", target="uploads")
    return place


async def _try(s: Services, caller: Caller, scope: Scope, asked: Asked) -> dict[str, Any]:
    kind, *names = asked.path.split("/")
    if kind in _DOORS and len(names) == 1:
        await access.authorise(s, caller, f"{PROVIDER}/workspaces/{kind}/write", scope, asked.path)
        row, created = await _DOORS[kind](s, caller, scope, names[0], asked.body)
    elif kind in KINDS and len(names) == 3 and names[1] == "versions":
        await access.authorise(s, caller, f"{PROVIDER}/workspaces/{kind}/versions/write", scope, asked.path)
        row, created = await assets.put_version(s, caller, scope, KINDS[kind], names[0], names[2], asked.body)
    elif kind in _DEPLOYMENTS and len(names) == 3 and names[1] == "deployments":
        action = f"{PROVIDER}/workspaces/{_DEPLOYMENTS[kind]}/write"
        await access.authorise(s, caller, action, scope, asked.path)
        put = online_deployments.put if kind == ENDPOINTS else batch_deployments.put
        row, created = await put(s, caller, scope, names[0], names[2], asked.body)
        runs = [_instances(s, row)] if kind == ENDPOINTS else []  # a batch deployment holds nothing by itself
        return {"path": asked.path, "created": created, "runs": runs}
    else:
        known = ", ".join(
            [f"{one}/NAME" for one in _DOORS]
            + [f"{one}/NAME/versions/V" for one in KINDS]
            + [f"{one}/NAME/deployments/NAME" for one in _DEPLOYMENTS]
        )
        raise InvalidRequest(f"{asked.path!r} cannot be validated. Known: {known}.", target="path")
    runs = await _runs(s, caller, scope, row) if kind == "jobs" else []
    return {"path": asked.path, "created": created, "runs": runs}


async def _runs(s: Services, caller: Caller, scope: Scope, row: Resource) -> list[dict[str, Any]]:
    """What of it would be held: of a pipeline for each step, of a sweep for one trial."""
    pipeline = job_status(row.status).pipeline
    if pipeline is None:
        spec = decode_object(row.spec)
        trial = object_at(spec, "trial")
        return [await _run(s, caller, scope, "", {"resources": trial.get("resources"), **spec})]
    bodies = [(step.name, cast(dict[str, Any], json.loads(step.body))) for step in pipeline.steps]
    commands = [(name, body) for name, body in bodies if body.get("jobType") == "Command"]
    return [await _run(s, caller, scope, name, body) for name, body in commands]


async def _run(
    s: Services, caller: Caller, scope: Scope, step: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    """`usd_hour` of all its nodes, by the list; None for a size without a price."""
    resources = object_at(body, "resources")
    nodes = int(resources.get("instanceCount") or 1)
    compute = compute_of(body)
    if computes.name_of(scope, compute).casefold() in ("", SERVERLESS):
        workspace = await s.store.read(lambda r: require_workspace(r, scope))
        job = CommandJob("", node_count=nodes, instance_types=instance_types(resources))
        team = await team_of(s, caller, tags_of(body))
        cluster = (await serverless.choose(s, caller, workspace, step, job, team)).spec
    else:
        cluster = await computes.resolve(s, scope, compute)
    return _held(s, step, cluster.name, cluster.size, cluster.region or s.settings.region, nodes)


def _instances(s: Services, row: Resource) -> dict[str, Any]:
    spec = deployment_status(row).plan.spec
    size = s.sizes.require(spec.instance_type).name
    return _held(s, "", spec.label, size, row.location, spec.instances)


def _held(s: Services, step: str, compute: str, size: str, region: str, nodes: int) -> dict[str, Any]:
    price = costs.listed(s, size, region)
    each = price["price_usd_hour"]
    return {
        "step": step,
        "compute": compute,
        "size": size,
        "nodes": nodes,
        "usd_hour": None if each is None else round(each * nodes, 6),
        "price_basis": price["price_basis"],
        "price_date": price["price_date"],
    }
