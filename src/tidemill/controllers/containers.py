"""A run of a container group on its node: what its containers are started with, and what nodes say of them.

Beside what every attempt's directory has: containers/NAME (a container's home and working directory) and
volumes/NAME. All containers of a run are tasks of one node, so they share its network.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from tidemill.app.assets.surroundings import View, view_of
from tidemill.app.containers import container_runs
from tidemill.app.rows.container_rows import secrets_of
from tidemill.app.services import Services
from tidemill.controllers.container_files import row_of
from tidemill.controllers.staging import NodeFiles
from tidemill.domain.containers import records
from tidemill.domain.containers.model import ALWAYS, ON_FAILURE, SANDBOX, ContainerProbe, ContainerSpec
from tidemill.domain.containers.plan import VOLUMES, PlannedGroup, folder_of, mounts_of
from tidemill.domain.containers.records import ContainerNews
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.launch import log_names
from tidemill.domain.model import Attempt
from tidemill.domain.plan import JobPlan
from tidemill.engines import base

if TYPE_CHECKING:
    from tidemill.controllers.live_attempt import LiveAttempt

_WORDS = {
    "task_started": records.STARTED,
    "task_restarting": records.AGAIN,
    "task_exited": records.ENDED,
    "task_ready": records.READY,
    "task_unready": records.UNREADY,
}
_POLICIES = {ALWAYS: "always", ON_FAILURE: "on-failure"}


async def tasks(
    s: Services, plan: JobPlan, group: PlannedGroup, attempt: Attempt, files: NodeFiles
) -> list[base.TaskSpec]:
    """One for each container, in their order. Raises InvalidRequest, Conflict."""
    secure = secrets_of(s, await row_of(s, group)).variables
    logs = [path for path, _ in log_names(plan.job)]
    return [
        _task(
            s,
            group,
            one,
            attempt,
            number,
            view_of(s, replace(plan, environment=plan.images[number])),
            files.root,
            logs[number],
            secure.get(one.name, {}),
        )
        for number, one in enumerate(group.spec.every)
    ]


def _task(
    s: Services,
    group: PlannedGroup,
    one: ContainerSpec,
    attempt: Attempt,
    number: int,
    view: View,
    root: str,
    log: str,
    secure: dict[str, str],
) -> base.TaskSpec:
    command = one.command or view.command
    if not command:
        raise InvalidRequest(
            f"Container {one.name!r} has no command, and image {one.image} has neither an entry point nor "
            "one: give it a command.",
            "EntryPointMissing",
        )
    home = f"{root}/{folder_of(one.name)}"
    own = {"HOME": home, "PYTHONUNBUFFERED": "1"}
    mounts = [(f"{root}/{m.folder}", m.path, m.read_only) for m in mounts_of(group.spec, one.mounts)]
    return base.TaskSpec(
        attempt_id=attempt.id,
        epoch=attempt.epoch,
        rank=number,
        argv=command,
        env={**own, **view.told(home), **dict(one.variables), **secure},
        cwd=home,
        log_path=f"{root}/{log}",
        term_grace_s=s.settings.cancel_grace_s,
        gpu_ids=(),
        rootfs=view.rootfs,
        # No container may put something else in a volume's place: it is mounted again when another starts.
        read_only=(*view.read_only, f"{root}/{VOLUMES}"),
        service=base.Service(
            base.RestartPolicy(_policy(group, one), 1.0, 300.0, 60.0),
            ready=_probe(one.readiness),
            live=_probe(one.liveness),
        ),
        shown_at=tuple((source, target) for source, target, read_only in mounts if read_only),
        writable_at=tuple((source, target) for source, target, read_only in mounts if not read_only),
        chdir=view.working_dir or home,
        runtime="" if group.spec.runtime == SANDBOX else group.spec.runtime,
    )


def _policy(group: PlannedGroup, one: ContainerSpec) -> str:
    """An init container that has succeeded is done, whatever the policy."""
    policy = _POLICIES.get(group.spec.restart, "never")
    return "on-failure" if policy == "always" and one in group.spec.init else policy


def _probe(probe: ContainerProbe | None) -> base.Probe | None:
    if probe is None:
        return None
    return base.Probe(
        probe.port,
        "http",
        probe.path,
        probe.delay_s,
        probe.period_s,
        probe.timeout_s,
        probe.failures,
        probe.successes,
    )


async def record(s: Services, live: LiveAttempt) -> None:
    """What was heard, in the order it came. It is repeated after a restart of ours: that changes nothing."""
    events = list(live.news)
    news: dict[int, list[ContainerNews]] = defaultdict(list)
    for event in events:
        assert event.task is not None
        news[event.task.rank].append(
            ContainerNews(
                _WORDS[event.kind],
                event.at,
                event.restarts,
                event.exit_code,
                event.signal,
                event.reason,
                event.message,
                event.again_in_s,
            )
        )
    await s.store.write(lambda tx: container_runs.record(tx, live.attempt.id, news))
    del live.news[: len(events)]
