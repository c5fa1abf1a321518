"""Shells on the nodes of a compute: who may have one, what it is, and when it has to end.

A shell is a task of its own on the node: as the node's job user, in the node's limits and network, in a
sandbox that shows no job's files. A job's ports are in reach there, so while a job runs on the node the shell
is for those alone who may look inside that job, and others' shells end before a job starts. It counts as use
of the node, which is not closed as idle meanwhile; the compute pays for the node as it always does.

On a node that stays because its job failed (`app/jobs/kept_nodes.py`), a shell is among that job's files, in
its environment or image, for those who may look inside the job; it ends when the node is released.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tidemill.app.assets.surroundings import view_of
from tidemill.app.computes import computes
from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.computes.isolation import limits_of
from tidemill.app.jobs import jobs, kept_nodes, looking
from tidemill.app.people import access
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Caller, Services
from tidemill.app.visitors import Visit
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound, OutOfSpace
from tidemill.domain.launch import DEFAULT_PATH
from tidemill.domain.looking import MOST_S, MOST_VISITS, NODE_ACTION, use_interval
from tidemill.domain.model import Event, Node, NodeState, Resource, Scope
from tidemill.domain.plan import KeptNodes
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.secretrefs import references
from tidemill.domain.units import human_duration, plural
from tidemill.engines.base import EngineError, TaskSpec, Unreachable
from tidemill.store.api import Read, Tx

log = logging.getLogger("tidemill.visits")

_OPEN = (NodeState.IDLE, NodeState.RUNNING)
_GRACE_S = 0.5  # from TERM to KILL
_FIRST_RANK = 1_000_000  # no job has so many
_KEPT_NO_LONGER = "Node {} is kept for the failed job no longer."
_GONE_S = 10.0  # a shell that has to make way is gone within this, or the attempt is tried again


@dataclass(frozen=True, slots=True)
class Target:
    """A node that the caller may have a shell on now. `job`: the failed one whose files are kept there."""

    node: Node
    spec: ClusterSpec
    job: Resource | None = None


async def target_of(s: Services, caller: Caller, scope: Scope, compute: str, node_id: str) -> Target:
    """Raises NotFound naming the nodes there are, Conflict (not open, no sandbox), Forbidden (it
    runs a job that the caller may not look inside). `compute`: also "serverless"."""
    spec = await _compute_of(s, scope, compute, node_id)
    node, others = await s.store.read(lambda r: (r.node(node_id), r.nodes_of(spec.uid)))
    if node is None or node.compute_uid != spec.uid:
        raise NotFound(
            f"Compute {spec.name!r} has no node {node_id!r}. {_named(others)}", "NodeNotFound", node_id
        )
    if node.state not in _OPEN:
        raise Conflict(f"Node {node_id} is {node.state.lower()}. {_named(others)}", "NodeNotOpen", node_id)
    files = limits_of(node).get("files")
    if files is None or not files.enforced:
        why = "its agent did not say why" if files is None else files.why_not
        raise Conflict(
            f"Node {node_id} gives nobody a view of files of their own ({why}), so a shell there would show "
            "the files of every job. Look inside a job: tidemill ssh JOB. What is missing: tidemill doctor",
            "NodeNotIsolated",
            node_id,
        )
    await _check_job(s, caller, node)
    row = await s.store.read(lambda r: _job_on(r, node))
    return Target(node, spec, row if kept_nodes.of(row) is not None else None)


async def target_in_job(s: Services, caller: Caller, scope: Scope, name: str, number: int) -> Target | None:
    """On the node of that number of a job that has failed and keeps its nodes; None: it keeps none. Raises
    NotFound, Forbidden, InvalidRequest."""
    row = await jobs.get(s, scope, name)
    kept = kept_nodes.of(row)
    if kept is None:
        return None
    await looking.check_may_enter(s, caller, row)
    if number >= len(kept.nodes):
        raise InvalidRequest(
            f"Job {name!r} keeps {plural(len(kept.nodes), 'node')}, numbered from 0: there is no {number}.",
            target="node",
        )
    node = await s.store.read(lambda r: r.node(kept.nodes[number]))
    spec = await computes.resolve_uid(s, node.compute_uid) if node is not None else None
    if node is None or spec is None or node.state not in _OPEN:
        raise Conflict(f"Node {kept.nodes[number]} was closed.", "NodeNotOpen", name)
    return Target(node, spec, row)


async def _compute_of(s: Services, scope: Scope, compute: str, node_id: str) -> ClusterSpec:
    if compute.casefold() != SERVERLESS:
        return await computes.resolve(s, scope, compute)
    node = await s.store.read(lambda r: r.node(node_id))
    spec = await computes.resolve_uid(s, node.compute_uid) if node is not None else None
    if spec is None or spec.workspace != scope or not spec.purpose:
        raise NotFound(f"There is no node {node_id!r} of a job without a compute.", "NodeNotFound", node_id)
    return spec


async def begin(s: Services, caller: Caller, target: Target) -> Visit:
    """Starts what the shell is entered in. Raises EngineError, Conflict where there are too many, and what
    `target_of` does where that has changed meanwhile."""
    node, now = target.node, s.clock.now()
    if len(s.visits.on((node.id,))) >= MOST_VISITS:
        raise Conflict(
            f"{MOST_VISITS} shells are open on node {node.id}: end one of them first.", "NodeBusy", node.id
        )
    visit = Visit(f"visit-{s.ids.uid()}", node.id, caller, now)
    if target.job is not None:
        attempt = node.attempt_id
        visit = replace(visit, attempt=attempt, rank=_FIRST_RANK + int(s.ids.short(), 16))
    s.visits.add(visit)  # from here on a job that comes to this node sees it
    try:
        await _check_open(s, caller, node.id)
        task = await _task(s, target, visit)
        opened = f"{caller.name} opened a shell on node {node.id}, which counts as used while it is open."
        await s.store.write(lambda tx: _use(tx, visit, now, "ShellOpened", opened))
        if visit.ended:
            raise Conflict(visit.ended, "SessionEnded")
        await s.engine.start(node.id, task)
        return visit
    except BaseException:
        await _stop(s, visit, "it did not begin")
        raise


async def keep(s: Services, target: Target, visit: Visit) -> None:
    """While it is open: the node is in use. Never returns."""
    while True:
        await asyncio.sleep(use_interval(target.spec.idle_us))
        with suppress(OutOfSpace):  # the shell goes on; its node may be closed as idle
            await s.store.write(lambda tx: _use(tx, visit, s.clock.now()))


async def check_still(
    s: Services, caller: Caller, scope: Scope, target: Target, action: str = NODE_ACTION, below: str = ""
) -> None:
    """The sign-in, the principal, the role and the node are still there. Raises what a new request would be
    refused with."""
    below = below or f"computes/{target.spec.name}/nodes/{target.node.id}"
    await access.check_still(s, caller, action, scope, below)
    await _check_open(s, caller, target.node.id)
    if target.job is not None:
        uid = target.job.uid
        if kept_nodes.of(await s.store.read(lambda r: r.by_uid(uid))) is None:
            raise Conflict(_KEPT_NO_LONGER.format(target.node.id), "NodeNotKept", target.node.id)


async def why_ended(s: Services, visit: Visit, code: int | None) -> str:
    """Of one whose process is gone, with this exit code or by force (None); "": it ended by itself."""
    if visit.ended:
        return visit.ended
    node = await s.store.read(lambda r: r.node(visit.node_id))
    if node is None or node.state not in _OPEN:
        return f"Node {visit.node_id} was closed, and this with it."
    return "All of its processes were killed." if code is None else ""


async def end(s: Services, visit: Visit, why: str) -> None:
    """Ends all of it, and returns at once: its agent tells when nothing is left."""
    now = s.clock.now()
    took = human_duration(now - visit.since)
    message = f"The shell of {visit.caller.name} on node {visit.node_id} ended after {took}: {why}."
    try:
        await s.store.write(lambda tx: _use(tx, visit, now, "ShellEnded", message))
    finally:
        await _stop(s, visit, why)


async def make_way(s: Services, row: Resource, nodes: Sequence[str]) -> None:
    """Before a job starts on these nodes: shells of those who may not look inside it are gone. Raises
    EngineError where one cannot be ended."""
    for visit in s.visits.on(nodes):
        if not visit.ended and await _may_enter(s, visit.caller, row):
            continue
        visit.ended = visit.ended or (
            f"A job that you may not look inside came to run on node {visit.node_id}."
        )
        await s.engine.stop(visit.node_id, visit.task, 1, visit.ended)
        try:
            async with asyncio.timeout(_GONE_S):
                await visit.gone.wait()
        except TimeoutError:
            raise EngineError(
                f"The shell of {visit.caller.name} on node {visit.node_id} did not end within {_GONE_S:g} s."
            ) from None


async def leave(s: Services, kept: KeptNodes) -> None:
    """Before the files of a failed job go: nobody is among them any more, or cannot be ended."""
    for visit in s.visits.on(kept.nodes):
        if visit.attempt != kept.attempt:
            continue
        visit.ended = visit.ended or _KEPT_NO_LONGER.format(visit.node_id)
        await _stop(s, visit, visit.ended)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GONE_S):
                await visit.gone.wait()


async def _stop(s: Services, visit: Visit, why: str) -> None:
    if visit.gone.is_set():
        return
    try:
        await s.engine.stop(visit.node_id, visit.task, 1, why)
    except Unreachable as error:  # it comes back, or is lost and closed with all that is on it
        log.warning("the shell %s on node %s was not stopped: %s", visit.id, visit.node_id, error)
    except EngineError:
        s.visits.remove(visit)  # there is no such node


async def _task(s: Services, target: Target, visit: Visit) -> TaskSpec:
    if target.job is not None:
        return await _among_files(s, target.node, target.job, visit)
    root = await s.engine.prepare_dir(target.node.id, visit.id)
    env = {"PATH": DEFAULT_PATH, "HOME": root, "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
    return _asleep(target.node, visit, root, root, env)


async def _among_files(s: Services, node: Node, row: Resource, visit: Visit) -> TaskSpec:
    """In the surroundings of the job's own processes, but for its token and its secrets: those ended with it.
    Raises InvalidRequest where its environment is gone."""
    plan, kept = job_status(row.status).plan, kept_nodes.of(row)
    view = view_of(s, plan)
    root = s.engine.work_dir(node.id, visit.attempt)
    own = {name: value for name, value in plan.job.environment_variables if not references([(name, value)])}
    env = {**view.told(root), "HOME": root, "TMPDIR": root, "AZUREML_RUN_ID": row.key.name, **own}
    task = _asleep(node, visit, root, f"{root}/code", env)
    first = kept.nodes[0] if kept is not None else node.id
    return replace(
        task,
        argv=(view.shell, "-c", "while sleep 3600; do :; done"),  # an image may have no other program
        rootfs=view.rootfs,
        read_only=view.read_only,
        network_of="" if first == node.id else first,
    )


def _asleep(node: Node, visit: Visit, root: str, cwd: str, env: dict[str, str]) -> TaskSpec:
    return TaskSpec(
        attempt_id=visit.task.attempt_id,
        epoch=1,
        rank=visit.rank,
        argv=("/bin/sleep", "infinity"),  # sessions are entered in a task, and end with it
        env=env,
        cwd=cwd,
        log_path=f"{root}/.log",
        term_grace_s=_GRACE_S,
        timeout_s=MOST_S,
        gpu_ids=node.gpu_ids,
    )


async def _check_open(s: Services, caller: Caller, node_id: str) -> None:
    node = await s.store.read(lambda r: r.node(node_id))
    if node is None or node.state not in _OPEN:
        raise Conflict(f"Node {node_id} was closed.", "NodeNotOpen", node_id)
    await _check_job(s, caller, node)


async def _check_job(s: Services, caller: Caller, node: Node) -> None:
    row = await s.store.read(lambda r: _job_on(r, node))
    if row is not None and not await _may_enter(s, caller, row):
        raise Forbidden(
            f"Node {node.id} runs a job that you may not look inside: its ports would be in reach from "
            "there. Try again when the node is idle.",
            target=node.id,
        )


async def _may_enter(s: Services, caller: Caller, row: Resource) -> bool:
    try:
        await looking.check_may_enter(s, caller, row)
    except Forbidden:
        return False
    return True


def _job_on(read: Read, node: Node) -> Resource | None:
    return read.by_uid(node.attempt_id.split(".", 1)[0]) if node.attempt_id else None


def _use(tx: Tx, visit: Visit, now: int, code: str = "", message: str = "") -> None:
    """The node is idle from now on, if it is; with a code, it is told, too."""
    node = tx.node(visit.node_id)
    if node is None:
        return
    if node.state is NodeState.IDLE:
        tx.update_node(replace(node, idle_since=now))
    if code:
        for subject, kind in ((node.id, "node"), (node.compute_uid, "compute")):
            tx.add_event(Event(subject, kind, now, code, message, visit.caller.name))


def _named(nodes: Sequence[Node]) -> str:
    named = [f"{node.id} ({node.state.lower()})" for node in nodes]
    return f"Its nodes: {', '.join(named)}." if named else "It has no node open now."
