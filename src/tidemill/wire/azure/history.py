"""Run history (`/history/v1.0`): what `jobs.stream`, `jobs.download`, `archive` and `show_services` read.

The SDK's `jobs.stream` prints logs only while a run is in progress. So the first `details` read of each of
its streams that meets an ended run answers `Finalizing`: a job of 20 ms, one that ended last week and two
streams at once all show their whole log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from tidemill.app.jobs import job_logs, job_services, jobs
from tidemill.app.people.access import JOB, authorise, check_lives
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.plan import PIPELINE, SWEEP, JobStatus
from tidemill.domain.units import parse_whole
from tidemill.store.api import ResourceQuery
from tidemill.wire.azure.jobs import page_size
from tidemill.wire.http import PUBLIC, Context, Route, json_response

W = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.MachineLearningServices/workspaces/{ws}"
HISTORY = "/history/v1.0" + W
READ = "Microsoft.MachineLearningServices/workspaces/experiments/runs/read"
WRITE = "Microsoft.MachineLearningServices/workspaces/experiments/runs/write"
WARNINGS = ("Note", "NotRegistered", "ServiceNotRunning")  # codes of events
# The first of these that the SDK sees ends its stream (its RunHistoryConstants), with the warnings.
STREAMS_END = frozenset({*(state for state in JobState if state.final), JobState.CANCEL_REQUESTED})
JOB_ID = "jobs/{name}"  # a run is its job: that is where roles are given
LOG_URL_TTL_US = 3600 * 1_000_000
SDK = "azure-ai-ml"  # in the User-Agent of the client whose streams need it
MAX_TOLD = 5  # a client that makes a new connection for each read is told the truth after so many
TOLD_WINDOW_US = 30 * 1_000_000
MAX_LINE = 4 * 1024 * 1024

RUN_TYPES = {PIPELINE: "azureml.PipelineRun", SWEEP: "hyperdrive"}
DEFAULT = "default"  # the SDK's own output: it finds the artifacts without being told


def routes() -> list[Route]:
    followed = Followed()
    run, of_experiment = HISTORY + "/runs/{name}", HISTORY + "/experiments/{exp}/runs/{name}"
    return [
        Route("GET", run + "/details", READ, followed.details, resource=JOB_ID),
        Route("GET", run, READ, get_run, resource=JOB_ID),
        Route("GET", of_experiment, READ, get_run, resource=JOB_ID),
        Route("GET", of_experiment + "/details", READ, followed.details, resource=JOB_ID),
        Route("GET", run + "/children", READ, children, resource=JOB_ID),
        Route("GET", run + "/serviceinstances/{node}", READ, service_instances, resource=JOB_ID),
        Route("POST", HISTORY + "/rundata", READ, run_data),
        Route("PATCH", of_experiment, WRITE, patch_run, resource=JOB_ID),
        Route("PATCH", run, WRITE, patch_run, resource=JOB_ID),
        Route("GET", "/signed/logs" + W + "/jobs/{name}/{path:path}", PUBLIC, signed_log),
    ]


@dataclass(slots=True)
class _Told:
    clients: set[str] = field(default_factory=set)  # connections that were told Finalizing, not yet the end
    at: list[int] = field(default_factory=list)  # when, within TOLD_WINDOW_US


class Followed:
    """Which streams were told `Finalizing` of an ended run. A stream is known by its connection. Kept in
    memory: a restart only means that one more read says Finalizing."""

    def __init__(self) -> None:
        self._runs: dict[str, _Told] = {}

    async def details(self, ctx: Context) -> Response:
        row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
        body = await run_details(ctx.services, ctx.caller, row)
        if JobState(row.state).final and SDK in ctx.request.header("user-agent"):
            client = ":".join(map(str, ctx.request.scope.get("client") or ()))
            if self.finalizing(row.uid, client, ctx.services.clock.now()):
                body["status"] = JobState.FINALIZING.value
                body.pop("endTimeUtc", None)
                body.pop("error", None)
        return json_response(body)

    def finalizing(self, uid: str, client: str, now: int) -> bool:
        """Whether this read of an ended run answers Finalizing; `client` names its connection."""
        told = self._runs.setdefault(uid, _Told())
        told.at = [at for at in told.at if now - at < TOLD_WINDOW_US]
        if client in told.clients or len(told.at) >= MAX_TOLD:
            told.clients.discard(client)  # its next stream starts anew
            return False
        told.clients.add(client)
        told.at.append(now)
        while len(self._runs) > 1_000:
            self._runs.pop(next(iter(self._runs)))
        return True


async def run_details(services: Services, caller: Caller, row: Resource) -> dict[str, Any]:
    status = job_status(row.status)
    files = await job_logs.list_logs(services, row)
    body = run_body(services, row, status)
    body["logFiles"] = {file.path: log_url(services, caller, row, file.path) for file in files}
    body["runDefinition"] = {"script": None, "command": status.plan.job.command}
    body["warnings"] = await _warnings(services, row, status) if row.state in STREAMS_END else []
    return body


async def _warnings(services: Services, row: Resource, status: JobStatus) -> list[dict[str, str]]:
    """What was done otherwise than asked, and why a job was canceled: the SDK's stream ends with them."""
    events = await services.store.read(lambda read: read.events(row.uid))
    messages = [event.message for event in events if event.code in WARNINGS]
    if row.state == JobState.CANCELED and status.progress.error is not None:
        messages.append(status.progress.error.message)
    return [{"source": "Tidemill", "message": message} for message in dict.fromkeys(messages)]


def run_body(services: Services, row: Resource, status: JobStatus) -> dict[str, Any]:
    """The run as run history shows it (RunDetails and Run share these names)."""
    progress = status.progress
    spec = decode_object(row.spec)
    body: dict[str, Any] = {
        "runId": row.key.name,
        "runUuid": row.uid,
        "rootRunId": status.child.root if status.child else row.key.name,
        "parentRunId": status.child.parent if status.child else None,
        "experimentId": status.plan.job.experiment,
        "experimentName": status.plan.job.experiment,
        "displayName": spec.get("displayName"),
        "description": spec.get("description"),
        "status": row.state,
        "runType": RUN_TYPES.get(status.kind, "azureml.scriptrun"),
        "target": status.plan.compute_name,
        "createdUtc": iso(row.created_at),
        "startTimeUtc": iso(progress.started_at),
        "endTimeUtc": iso(progress.ended_at),
        "tags": spec.get("tags", {}),
        "properties": spec.get("properties", {}),
        "hidden": row.archived,
        "inputs": {},
        "outputs": {},
    }
    if progress.error is not None:
        body["error"] = {"error": {"code": progress.error.code, "message": progress.error.message}}
    return {key: value for key, value in body.items() if value is not None}


def log_url(services: Services, caller: Caller, row: Resource, path: str) -> str:
    """Readable without a token for an hour, as long as `caller` may read the job: the SDK fetches log
    addresses without one."""
    holder = f"job:{caller.oid}" if caller.kind == JOB else caller.oid
    where = _signed(row.key.scope, row.key.name, path, holder)
    query = services.tokens.sign_path(where, services.clock.now() + LOG_URL_TTL_US)
    return f"{services.addresses.https}{where}&{query}"


def _signed(scope: Scope, name: str, path: str, holder: str) -> str:
    """What is signed: the address, whose link it is included."""
    where = f"/signed/logs{scope.arm_id}/jobs/{quote(name)}/{quote(path)}"
    return f"{where}?holder={quote(holder, safe=':')}"


async def signed_log(ctx: Context) -> Response:
    scope = Scope(ctx.params["sub"], ctx.params["rg"], ctx.params["ws"])
    holder = ctx.request.query.get("holder", "")
    where = _signed(scope, ctx.params["name"], ctx.params["path"], holder)
    ctx.services.tokens.check_path(where, ctx.request.query)
    await _check_holder(ctx.services, holder, scope, ctx.params["name"])
    row = await jobs.get(ctx.services, scope, ctx.params["name"])
    lines = log_lines(ctx.services, row, ctx.params["path"])
    first = await anext(lines, b"")  # a log that is not there is an error, not a broken answer

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for piece in lines:
            yield piece

    return StreamingResponse(body(), media_type="text/plain; charset=utf-8")


async def _check_holder(services: Services, holder: str, scope: Scope, name: str) -> None:
    """Whom the link was made for may read the job still. Raises Unauthenticated, AccessDenied."""
    oid = holder.removeprefix("job:")
    caller = Caller(oid, holder, JOB if oid != holder else "", scope, name)
    await check_lives(services, caller)
    await authorise(services, caller, READ, scope, f"jobs/{name}")


async def log_lines(services: Services, row: Resource, path: str) -> AsyncIterator[bytes]:
    """The log as whole lines of valid UTF-8. The SDK counts lines: of one shown half, it never shows the
    rest, so a running job's last line is held back until it is whole."""
    offset, rest = 0, b""
    while chunk := await job_logs.read_log(services, row, path, offset):
        offset += len(chunk)
        rest += chunk
        end = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1
        if end == 0 and len(rest) > MAX_LINE:
            end = len(rest)
        if end:
            yield _text(rest[:end])
            rest = rest[end:]
    if rest and JobState(row.state).final:
        yield _text(rest)


def _text(data: bytes) -> bytes:
    return data.decode(errors="replace").encode()


async def get_run(ctx: Context) -> Response:
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    return json_response(run_body(ctx.services, row, job_status(row.status)))


async def run_data(ctx: Context) -> Response:
    body = await ctx.request.json()
    name = body.get("runId")
    if not isinstance(name, str):
        raise InvalidRequest("rundata needs a runId.", target="runId")
    row = await jobs.get(ctx.services, ctx.scope, name)
    status = job_status(row.status)
    metadata = run_body(ctx.services, row, status)
    registered = dict(status.progress.registered)
    # Models too are reported as the data they are: the SDK fails on its own request for models' addresses.
    metadata["outputs"] = {
        output.name: {
            "assetId": registered.get(output.name) or output.uri,
            "type": "uri_file" if output.type == "uri_file" else "uri_folder",
        }
        for output in status.plan.outputs
        if row.state == JobState.COMPLETED and output.name != DEFAULT
    }
    return json_response({"runMetadata": metadata, "runDefinition": None, "jobSpecification": None})


async def children(ctx: Context) -> Response:
    """Runs that the run started, oldest first, in pages."""
    s, query = ctx.services, ctx.request.query
    row = await jobs.get(s, ctx.scope, ctx.params["name"])
    limit = min(page_size(query.get("$top") or "100"), 500)
    after = query.get("$continuationToken") or None
    asked = ResourceQuery(
        jobs.TYPE, ctx.scope, parent_uid=row.uid, ascending=True, limit=limit + 1, after=after
    )
    found = await s.store.read(lambda read: read.find(asked))
    body: dict[str, Any] = {
        "value": [run_body(s, child, job_status(child.status)) for child in found[:limit]]
    }
    if len(found) > limit:
        token = found[limit - 1].uid
        body["continuationToken"] = token
        body["nextLink"] = (
            f"{s.addresses.https}{ctx.request.path}?api-version=v1.0&$top={limit}&$continuationToken={token}"
        )
    return json_response(body)


async def service_instances(ctx: Context) -> Response:
    """The job's services on one of its nodes, by name: ServiceInstanceResult of run history."""
    row = await jobs.get(ctx.services, ctx.scope, ctx.params["name"])
    node = parse_whole(ctx.params["node"])
    if node is None:
        raise InvalidRequest(f"{ctx.params['node']!r} is no number of a node.", target="node")
    instances: dict[str, Any] = {}
    for state in await job_services.states(ctx.services, row, node):
        instances[state.place.service.name] = instance = {
            "type": state.place.service.type,
            "port": state.place.port or None,
            "status": state.status,
            "endpoint": state.reach,
            "properties": {},
        }
        if state.error:
            instance["error"] = {"error": {"code": "ServiceNotRunning", "message": state.error}}
    return json_response({"instances": instances})


async def patch_run(ctx: Context) -> Response:
    row = await jobs.patch(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], await ctx.request.json())
    return json_response(run_body(ctx.services, row, job_status(row.status)))
