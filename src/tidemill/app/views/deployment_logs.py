"""Logs of an online deployment: the newest lines of its instances; or what happened before they ran."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.app.jobs.job_logs import BUILD_LOG, LogFile, list_logs, read_log
from tidemill.app.rows.codec import job_status
from tidemill.app.rows.endpoint_rows import deployment_status, find_deployment
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.model import Event, JobState, Resource, Scope
from tidemill.domain.serving.model import Provisioning
from tidemill.store.api import Read, ResourceQuery

SERVER, INITIALIZER = "InferenceServer", "StorageInitializer"  # Azure's names of the two containers
LINES, MOST_LINES = 5000, 100_000  # asked for where nothing is said, as `az ml`; at most
_TAIL_BYTES = 4 * 1024 * 1024  # of one file
_ENDED = 3  # instances that have ended whose logs are shown where none lives


async def read(s: Services, scope: Scope, endpoint: str, name: str, tail: int, kind: str = SERVER) -> str:
    """The last `tail` lines of each instance, under a line that names it. `kind` INITIALIZER: how each came
    to run. Raises NotFound."""

    def look(read: Read) -> tuple[Resource, Sequence[Resource]]:
        row = find_deployment(read, scope, endpoint, name)
        return row, instances_of(read, row)

    row, instances = await s.store.read(look)
    if not instances:
        return await _timeline(s, row, tail)
    parts = [await _of_instance(s, instance, tail, kind) for instance in shown(row, instances)]
    return "\n".join(parts)


def instances_of(read: Read, deployment: Resource) -> Sequence[Resource]:
    """The jobs that its instances are, newest first, those that have ended too."""
    return read.find(ResourceQuery("jobs", deployment.key.scope, parent_uid=deployment.uid))


def shown(deployment: Resource, instances: Sequence[Resource]) -> Sequence[Resource]:
    """Of instances, newest first: those that live, else the last few; the last failure of a failed one."""
    live = [row for row in instances if not JobState(row.state).final]
    if deployment.state == Provisioning.FAILED:
        wanted = deployment_status(deployment).generation
        failed = [row for row in instances if row not in live and _generation(row) == wanted]
        return [*failed[:1], *live]
    return live or instances[:_ENDED]


def _generation(row: Resource) -> int:
    service = job_status(row.status).plan.service
    return service.generation if service is not None else 0


async def _of_instance(s: Services, row: Resource, tail: int, kind: str) -> str:
    files = await list_logs(s, row)
    wanted = [file for file in files if (file.path == BUILD_LOG) == (kind == INITIALIZER)]
    text = "".join([await _last_lines(s, row, file, tail) for file in wanted])
    if kind == INITIALIZER or not text:  # nothing was written: what happened instead
        text = await _timeline(s, row, tail) + text
    return f"=== instance {row.key.name}: {row.state}\n{text}"


async def _last_lines(s: Services, row: Resource, file: LogFile, tail: int) -> str:
    """Whole lines, as far back as the last 4 MiB."""
    offset = max(0, file.size - _TAIL_BYTES)
    raw = await read_log(s, row, file.path, offset, _TAIL_BYTES)
    lines = raw.decode("utf-8", "replace").splitlines(keepends=True)
    if offset and lines:
        lines = lines[1:]
    found = lines[-tail:]
    if found and not found[-1].endswith("\n"):
        found[-1] += "\n"
    return "".join(found)


async def _timeline(s: Services, row: Resource, tail: int) -> str:
    events = await s.store.read(lambda read: read.last_events(row.uid, tail))
    return "".join(_line(event) for event in reversed(events))


def _line(event: Event) -> str:
    return f"[{iso(event.at)}] {event.message}\n"
