"""What a container of a group wrote, and where its process is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.app.errors import absent
from tidemill.app.jobs import job_logs
from tidemill.app.people import access
from tidemill.app.rows.codec import job_status
from tidemill.app.rows.container_rows import find_group, group_status, newest_run
from tidemill.app.services import Caller, Services
from tidemill.domain.containers.model import GroupSpec
from tidemill.domain.containers.plan import RUNNING, TERMINATED, ContainerRecord
from tidemill.domain.errors import Conflict, NotFound
from tidemill.domain.launch import log_names
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.engines.base import TaskKey
from tidemill.store.api import Read

PROVIDER = "Microsoft.ContainerInstance/containerGroups"
EXEC = f"{PROVIDER}/containers/exec/action"
ATTACH = f"{PROVIDER}/containers/attach/action"
_TAIL_BYTES = 4 * 1024 * 1024  # Azure shows 4 MB of a log at most


@dataclass(frozen=True, slots=True)
class Seen:
    """A container of a group, with the group's newest run (None: it never ran)."""

    group: Resource
    number: int
    name: str
    run: Resource | None

    @property
    def record(self) -> ContainerRecord | None:
        records = job_status(self.run.status).containers if self.run is not None else ()
        return records[self.number] if self.number < len(records) else None

    @property
    def runs(self) -> bool:
        live, record = self.run is not None and not JobState(self.run.state).final, self.record
        return live and record is not None and record.now.state == RUNNING


@dataclass(frozen=True, slots=True)
class Target:
    """A container's process that runs now."""

    seen: Seen
    node_id: str
    task: TaskKey


async def find(s: Services, scope: Scope, name: str, container: str) -> Seen:
    """`container` "": the only one. Raises NotFound naming what exists, Conflict where a name is needed."""
    row, run, spec = await s.store.read(lambda read: _look(read, scope, name))
    number = _number(spec, container)
    return Seen(row, number, spec.every[number].name, run)


def _look(read: Read, scope: Scope, name: str) -> tuple[Resource, Resource | None, GroupSpec]:
    """-> (group, its newest run, what that was made of; what is to be where it never ran)."""
    row = find_group(read, scope, name)
    run = newest_run(read, row)
    plan = job_status(run.status).plan.group if run is not None else None
    return row, run, plan.spec if plan is not None else group_status(row).spec


def _number(spec: GroupSpec, container: str) -> int:
    names = [one.name for one in spec.every]
    if not container:
        if len(spec.containers) > 1:
            raise Conflict(
                f"Container group {spec.name!r} has several containers: say which one ({', '.join(names)}).",
                "ContainerNameMissing",
                spec.name,
            )
        return len(spec.init)
    if container not in names:
        raise absent("Container", container, names, f"container group {spec.name!r}")
    return names.index(container)


async def read_log(s: Services, scope: Scope, name: str, container: str, tail: int | None = None) -> str:
    """The last `tail` lines that its container wrote (None: all), at most 4 MB. Raises NotFound."""
    seen = await find(s, scope, name, container)
    left_out = max(0, await log_size(s, seen) - _TAIL_BYTES)
    text = (await _read(s, seen, left_out)).decode("utf-8", "replace")
    if left_out and "\n" in text:
        text = text.split("\n", 1)[1]  # the first line lacks its beginning
    if tail is None:
        return text
    return "".join(text.splitlines(keepends=True)[-tail:]) if tail else ""


async def read_on(s: Services, seen: Seen, offset: int) -> tuple[bytes, bool]:
    """What follows in the log of that run, wherever it lies by now -> (bytes, whether it will write no
    more)."""
    run = seen.run
    row = await s.store.read(lambda read: read.by_uid(run.uid)) if run is not None else None
    if row is None:
        return b"", True
    now = replace(seen, run=row)
    ended = JobState(row.state).final or (now.record is not None and now.record.now.state == TERMINATED)
    return await _read(s, now, offset), ended


async def log_size(s: Services, seen: Seen) -> int:
    if seen.run is None:
        return 0
    files, path = await job_logs.list_logs(s, seen.run), _log(seen)
    return next((file.size for file in files if file.path == path), 0)


async def _read(s: Services, seen: Seen, offset: int) -> bytes:
    if seen.run is None:
        return b""
    try:
        return await job_logs.read_log(s, seen.run, _log(seen), offset, _TAIL_BYTES)
    except NotFound:  # it wrote nothing
        return b""


def _log(seen: Seen) -> str:
    assert seen.run is not None
    return log_names(job_status(seen.run.status).plan.job)[seen.number][0]


async def target_of(s: Services, scope: Scope, name: str, container: str) -> Target:
    """Raises NotFound, Conflict (it does not run, and why)."""
    return await _target(s, await find(s, scope, name, container))


async def any_of(s: Services, scope: Scope, name: str) -> Target:
    """A container that runs: they share one network. Raises NotFound, Conflict where none does."""
    row, run, spec = await s.store.read(lambda read: _look(read, scope, name))
    every = [Seen(row, number, one.name, run) for number, one in enumerate(spec.every)]
    running = next((one for one in every if one.runs), None)
    if running is None:
        message = f"No container of group {name!r} runs. See: tidemill container why --name {name}"
        raise Conflict(message, "ContainerNotRunning", name)
    return await _target(s, running)


async def _target(s: Services, seen: Seen) -> Target:
    record, group = seen.record, seen.group.key.name
    if seen.run is None or not seen.runs:
        how = "has not started yet" if record is None or record.now.state != TERMINATED else "has ended"
        raise Conflict(
            f"Container {seen.name!r} of group {group!r} does not run: it {how}. See: tidemill container "
            f"show --name {group}",
            "ContainerNotRunning",
            seen.name,
        )
    attempt = await job_logs.live_attempt(s, seen.run)
    if attempt is None:
        message = f"Container {seen.name!r} is just starting or ending. Try again."
        raise Conflict(message, "ContainerNotRunning", seen.name)
    return Target(seen, attempt.nodes[0], TaskKey(attempt.id, seen.number))


async def check_still(s: Services, caller: Caller, action: str, target: Target) -> None:
    """While somebody is inside. Raises what a new request would be refused with."""
    await access.check_still(s, caller, action, target.seen.group.key.scope)
    run = target.seen.run
    row = await s.store.read(lambda read: read.by_uid(run.uid)) if run is not None else None
    if row is None or JobState(row.state).final:
        raise Conflict(f"Container {target.seen.name!r} has ended.", "ContainerNotRunning", target.seen.name)
