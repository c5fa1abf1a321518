"""Carries every live attempt from its assignment to its end: stage, start, follow, stop, collect, record.

One asyncio task per attempt (`_drive`). What it knows comes from the engine's events, which are repeated
after a reconnect until forgotten, so a restarted server simply drives again: starting is idempotent by
(attempt, epoch) on the agent, staging is marked done on disk, collecting overwrites with the same bytes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from tidemill.app.computes import isolation
from tidemill.app.jobs import transitions
from tidemill.app.jobs.node_visits import make_way
from tidemill.app.jobs.transitions import Collected, Moment
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set
from tidemill.controllers import containers, instances, launching, staging
from tidemill.controllers.beside import start_services
from tidemill.controllers.cleaning import Cleaner, Leftover
from tidemill.controllers.kept import Kept
from tidemill.controllers.live_attempt import LiveAttempt, PlacedRank
from tidemill.data.outputs import kept
from tidemill.data.staging import Stopped
from tidemill.domain.containers.records import end_in_words
from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.launch import first_rank_on
from tidemill.domain.model import Attempt, AttemptState, Event, JobState, NodeState, Outcome, Resource
from tidemill.domain.outcome import AttemptEnd, attempt_end
from tidemill.domain.plan import JobPlan
from tidemill.domain.states import DEFAULT_ALLOWANCES, Retry, after_attempt
from tidemill.engines.base import EngineError, EngineEvent, InvalidTask, TaskKey, Unreachable

log = logging.getLogger("tidemill.attempts")

# A job that ends within this time is recorded in one commit, its start included: nobody could have read
# "Running" before, and a short job then costs one commit less.
RUNNING_DELAY_S = 0.015
FULL_BYTES = 1 << 20  # a disk with less is full: nothing of use fits
FIRST_PAUSE_S = 0.2  # doubled with each failure, up to 10 s
MOST_FAULTS = 6  # of what is nobody's doing and no full disk, before an attempt of which nothing runs ends
UNREACHABLE_S = 1.0  # a node that does not answer is asked again after this


class Attempts:
    def __init__(
        self, services: Services, moment: Callable[[], Moment], cleaner: Cleaner, kept: Kept
    ) -> None:
        self._cleaner = cleaner
        self._kept = kept
        self._s = services
        self._moment = moment
        self._live: dict[str, LiveAttempt] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    # --- what others tell us -------------------------------------------------------------------

    def take(self, attempt: Attempt, row: Resource | None = None) -> None:
        """A live attempt: new (then with its job's row), or found at start."""
        if attempt.id in self._tasks or attempt.state is AttemptState.ENDED:
            return
        self._live[attempt.id] = LiveAttempt(attempt, row)
        self._tasks[attempt.id] = asyncio.create_task(
            self._drive_safely(attempt.id), name=f"attempt {attempt.id}"
        )

    def stop_job(self, job_uid: str) -> None:
        """A stop was asked for, in the rows of its live attempts."""
        self._spawn(self._stop_job(job_uid))

    async def _stop_job(self, job_uid: str) -> None:
        for attempt in await self._s.store.read(lambda r: r.attempts_of(job_uid)):
            live = self._live.get(attempt.id)
            if live is not None and attempt.stop_requested_at is not None:
                live.attempt = attempt
                live.changed.set()

    def on_engine_event(self, event: EngineEvent) -> None:
        self._s.visits.on_engine_event(event)
        if event.task is not None:
            live = self._live.get(event.task.attempt_id)
            if live is None:
                if event.kind == "task_started" and self._s.visits.knows(event.task):
                    return
                # Repeated for an attempt that has ended: the agent may drop it now. One that nobody knows is
                # stopped; a stop changes nothing for a task that has ended.
                if event.kind == "task_exited":
                    if self._kept.keeps(event.task.attempt_id):
                        return  # with its files
                    self._cleaner.add(Leftover(event.node_id, event.task.attempt_id, (event.task.rank,)))
                else:
                    self._spawn(self._stop_orphan(event.node_id, event.task, event.epoch))
                return
            if event.epoch >= live.attempt.epoch:
                live.note(event)
            if event.kind == "task_started":
                live.started_at = min(live.started_at or event.at, event.at)
                self._start_services(live, event.task.rank)
            elif event.kind == "task_exited" and event.epoch >= live.attempt.epoch:
                live.rank_ended(event, self._s.clock.now())
            live.changed.set()
        elif event.kind == "node_closed":
            for live in self._live.values():
                if event.node_id in live.attempt.nodes:
                    live.closed_nodes.setdefault(event.node_id, self._s.clock.now())
                    live.changed.set()

    def _start_services(self, live: LiveAttempt, rank: int) -> None:
        placed = live.ranks.get(rank)
        if placed is None or live.row is None:
            return
        plan = job_status(live.row.status).plan
        if plan.services and rank == first_rank_on(plan.job, placed.node_index):
            self._spawn(start_services(self._s, live.row, live.attempt, placed.node_index))

    async def _stop_orphan(self, node_id: str, task: TaskKey, epoch: int) -> None:
        try:
            await self._s.engine.stop(node_id, task, epoch, "nobody knows its job any more")
        except EngineError as error:
            log.warning("task %s of an unknown attempt was not stopped: %s", task, error)

    async def stop(self) -> None:
        """Lets go: what runs goes on."""
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one attempt -----------------------------------------------------------------------------

    async def _drive_safely(self, attempt_id: str) -> None:
        delay, faults = FIRST_PAUSE_S, 0
        try:
            while True:
                try:
                    live = self._live[attempt_id]
                    if faults < MOST_FAULTS:
                        await self._drive(live)
                    else:
                        await self._give_up(live)
                    return
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except OutOfSpace as error:
                    # The work is kept on its node until there is space.
                    log.warning("attempt %s: %s", attempt_id, error)
                    await self._say_full(self._live[attempt_id], error)
                except TidemillError as error:
                    log.warning("attempt %s: %s", attempt_id, error)
                except Exception as error:
                    log.exception("attempt %s: driving it failed; again in %.1f s", attempt_id, delay)
                    self._live[attempt_id].fault = f"{type(error).__name__}: {error}"
                    # While something runs it is followed, whatever else fails.
                    live = self._live[attempt_id]
                    if live.result is not None or not live.ranks:
                        faults += 1
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)
        finally:
            self._tasks.pop(attempt_id, None)
            self._live.pop(attempt_id, None)

    async def _give_up(self, live: LiveAttempt) -> None:
        """What is left to do fails again and again: it ends with the reason, once nothing of it runs."""
        error = f"Its outputs and logs could not be stored: {live.fault}"
        failed = AttemptEnd(Outcome.SYSTEM_FAILURE, "StagingFailed", f"It could not be started: {live.fault}")
        if live.result is None and live.may_run:  # from before a restart: proved gone first
            row = live.row or await self._find_row(live)
            live.failure, live.ranks = failed, launching.outline(job_status(row.status).plan)
            self._mark_absent_nodes(live)
            return await self._drive(live)
        await self._record_end(live, live.result or failed, Collected(error=error))
        self._leave(live)

    async def _drive(self, live: LiveAttempt) -> None:
        row = live.row or await self._find_row(live)
        plan = job_status(row.status).plan
        live.know(plan)
        # Once its ranks are known it is only followed, however often something fails on the way.
        failed = None if live.ranks else await self._launch(live, row, plan)
        if failed is None:
            await self._follow(live)
            failed = live.result = live.failure or self._result(live, plan)
            if failed.outcome is Outcome.FAILED and not live.ended_full:
                live.ended_full = shutil.disk_usage(self._s.settings.home).free < FULL_BYTES
            collected = await self._collect_or_wait(live, row, plan, failed)
            result = await self._with_tail(live, failed)
        else:
            result, collected = failed, Collected()
        await self._record_end(live, result, collected)
        self._leave(live)

    async def _say_full(self, live: LiveAttempt, error: OutOfSpace) -> None:
        """In the time line, if there is space for that; else `_collect_or_wait` says it afterwards. Once
        nothing of it runs, its own files make room, but for its results."""
        message = f"Waits for space on the disk. {error.message}"
        if live.result is not None:
            succeeded = live.result.outcome is Outcome.SUCCEEDED
            spared = (staging.LOGS, "outputs", "code") if succeeded else (staging.LOGS,)
            await staging.make_room(self._s, live.attempt, spared)
            if not succeeded:
                message += " Only its log is stored: what it wrote to its outputs is given up for that."
        if live.full_since is not None:
            return
        now = live.full_since = self._s.clock.now()
        event = Event(live.attempt.job_uid, "job", now, "OutOfSpace", message)
        with suppress(OutOfSpace):
            await self._s.store.write(lambda tx: tx.add_event(event))

    async def _find_row(self, live: LiveAttempt) -> Resource:
        """Of an attempt found at a start. Its nodes may have been closed before: that is not told again."""
        attempt = live.attempt
        row, nodes = await self._s.store.read(
            lambda r: (r.by_uid(attempt.job_uid), [r.node(id) for id in attempt.nodes])
        )
        if row is None:
            raise RuntimeError(f"attempt {attempt.id} has no job row")
        for node_id, node in zip(attempt.nodes, nodes, strict=True):
            if node is None or node.state is NodeState.CLOSED:
                live.closed_nodes[node_id] = (node and node.closed_at) or self._s.clock.now()
        live.row = row
        live.may_run = staging.may_have_started(job_status(row.status).plan, attempt)
        return row

    async def _launch(self, live: LiveAttempt, row: Resource, plan: JobPlan) -> AttemptEnd | None:
        """Stages, and says what is to be started. -> an end if it could not be started at all."""
        if live.attempt.state is AttemptState.COLLECTING:
            # Everything had ended before a restart; the exit records will be repeated, or their node is gone.
            live.ranks = launching.outline(plan)
            self._mark_absent_nodes(live)
            return None
        await make_way(self._s, row, live.attempt.nodes)
        await self._cleaner.make_room(live.attempt.nodes)
        try:
            placed = await self._place(live, row, plan)
        except Stopped:
            failed = attempt_end({}, live.attempt.stop_reason)
        except InvalidTask as error:
            failed = AttemptEnd(Outcome.SYSTEM_FAILURE, "StagingFailed", str(error))
        except (OutOfSpace, EngineError, OSError) as error:
            # What may run goes on; that its files were not found once more is no end of it.
            if live.may_run or not (isinstance(error, OutOfSpace | EngineError) or _is_full(error)):
                raise
            if isinstance(error, EngineError):
                return AttemptEnd(Outcome.SYSTEM_FAILURE, "StagingFailed", str(error))
            await staging.make_room(self._s, live.attempt)
            return _full_end(error)
        except TidemillError as error:
            failed = AttemptEnd(Outcome.FAILED, error.code, error.message)
        else:
            live.ranks = {rank.rank: rank for rank in placed}
            if live.attempt.stop_requested_at is None:
                live.to_start = {rank.rank: rank.task for rank in placed if rank.task is not None}
            live.may_run = True
            self._mark_absent_nodes(live)
            return None
        if not live.may_run:
            return failed
        live.failure, live.ranks = failed, launching.outline(plan)
        self._mark_absent_nodes(live)
        return None

    async def _place(self, live: LiveAttempt, row: Resource, plan: JobPlan) -> list[PlacedRank]:
        isolated = await isolation.check_nodes(self._s, live.attempt, plan.isolation)
        staged, attempt = await self._stage(live, plan)
        if live.attempt.stop_requested_at is None:
            live.attempt = attempt
        live.notes = (isolated, *staged.notes)
        live.port = staged.ports[0] if plan.service is not None else 0
        return await launching.prepare(self._s, row, plan, attempt, staged)

    async def _stage(self, live: LiveAttempt, plan: JobPlan) -> tuple[staging.Staged, Attempt]:
        """Again until it is done: a node that does not answer comes back or is closed, and nothing of what
        has files runs yet."""
        while True:
            try:
                return await staging.stage(self._s, plan, live.attempt, live.going)
            except Unreachable:
                if live.closed_nodes:
                    raise
                live.going()
                live.changed.clear()
                await wait_set(live.changed, UNREACHABLE_S)

    def _mark_absent_nodes(self, live: LiveAttempt) -> None:
        for rank in live.ranks:
            if live.node_of(rank) in live.closed_nodes and rank not in live.ends:
                live.rank_lost(rank, self._s.clock.now())

    async def _follow(self, live: LiveAttempt) -> None:
        """Until every rank's processes are proved gone."""
        recorded = live.attempt.state not in (
            AttemptState.ASSIGNED,
            AttemptState.STAGING,
            AttemptState.STARTING,
        )
        loop = asyncio.get_running_loop()
        while not live.settled:
            self._decide_stop(live, loop.time())
            await self._send(live)
            if live.news and recorded:
                await self._record_news(live)
            timeout = self._next_wait(live, recorded, loop.time())
            if await wait_set(live.changed, timeout):
                live.changed.clear()
                self._mark_absent_nodes(live)
            elif live.stop_deadline is not None and loop.time() >= live.stop_deadline:
                await self._close_nodes(live)
                live.stop_deadline = None
            elif not recorded and live.started_at is not None:
                recorded = True
                await self._s.store.write(
                    partial(
                        transitions.running,
                        attempt_id=live.attempt.id,
                        started_at=live.started_at,
                        notes=live.notes,
                    )
                )

        if live.news and live.grouped:
            await self._record_news(live)

    async def _record_news(self, live: LiveAttempt) -> None:
        await (containers if live.grouped else instances).record(self._s, live)

    def _next_wait(self, live: LiveAttempt, recorded: bool, now: float) -> float | None:
        waits: list[float] = []
        if not recorded and live.started_at is not None:
            waits.append(RUNNING_DELAY_S)
        if live.stop_deadline is not None:
            waits.append(max(live.stop_deadline - now, 0.0))
        if live.to_start or live.to_stop:
            waits.append(UNREACHABLE_S)
        return min(waits) if waits else None

    def _decide_stop(self, live: LiveAttempt, now: float) -> None:
        """Once: because it was asked for, or because the ranks that are left wait in vain."""
        if live.stop_why:
            return
        if live.attempt.stop_requested_at is not None:
            live.stop_why = live.attempt.stop_reason or "cancel"
        elif live.failure is not None or live.broken or live.primaries_done:
            live.stop_why = "peer"
        else:
            return
        live.stop_deadline = now + self._s.settings.cancel_grace_s + self._s.settings.close_grace_s
        live.to_start.clear()
        live.to_stop = set(live.ranks)

    async def _send(self, live: LiveAttempt) -> None:
        """Starts and stops that their nodes have not heard; both are the same when said twice. A node that
        does not answer is asked again, until it does or is closed."""
        for rank, task in list(live.to_start.items()):
            if not live.may_start(rank):
                continue
            try:
                if rank not in live.ends:
                    await self._s.engine.start(live.node_of(rank), task)
            except InvalidTask as error:
                live.rank_refused(rank, str(error), self._s.clock.now())
                live.changed.set()
            except Unreachable as error:
                log.warning("attempt %s: rank %d: %s", live.attempt.id, rank, error)
                continue
            live.to_start.pop(rank, None)
        for rank in sorted(live.to_stop):
            try:
                if rank not in live.ends:
                    key = TaskKey(live.attempt.id, rank)
                    await self._s.engine.stop(live.node_of(rank), key, live.attempt.epoch, live.stop_why)
            except Unreachable as error:
                log.warning("attempt %s: a stop of rank %d: %s", live.attempt.id, rank, error)
                continue
            live.to_stop.discard(rank)

    async def _close_nodes(self, live: LiveAttempt) -> None:
        """The last step of the published timetable: what KILL did not end goes with its node."""
        for rank in live.ranks:
            if rank not in live.ends:
                await self._s.engine.close_node(live.node_of(rank))

    def _result(self, live: LiveAttempt, plan: JobPlan) -> AttemptEnd:
        ends = {
            rank: end
            for rank, end in live.ends.items()
            # A rank that is no primary, or was stopped because a peer was done, decides nothing.
            if rank in live.ranks
            and (live.ranks[rank].primary or (end.reason == "lost" and not live.ranks[rank].spared))
        }
        end = attempt_end(ends, live.attempt.stop_reason)
        if plan.group is None or end.outcome is not Outcome.SUCCEEDED:
            return end
        containers = {one.name: live.ends[rank] for rank, one in enumerate(plan.group.spec.every)}
        return replace(end, message=end_in_words(containers))

    async def _with_tail(self, live: LiveAttempt, result: AttemptEnd) -> AttemptEnd:
        """A failure's message carries the end of the log of the rank that failed first."""
        if result.outcome is not Outcome.FAILED or live.failure is not None:
            return result
        rank = min(live.failed_ranks(), key=lambda r: live.ends[r].ended_at, default=0)
        tail = await staging.log_tail(self._s, live.attempt, live.node_of(rank), live.ranks[rank].log)
        ends = {r: e for r, e in live.ends.items() if r in live.ranks and live.ranks[r].primary}
        end = attempt_end(ends, live.attempt.stop_reason, tail)
        if live.ended_full:
            full = "No space left on device: the disk of this server was full, its log may lack its end. "
            return replace(end, message=full + end.message)
        return end

    async def _collect_or_wait(
        self, live: LiveAttempt, row: Resource, plan: JobPlan, result: AttemptEnd
    ) -> Collected:
        """Raises OutOfSpace, to be tried again, until that has lasted too long."""
        waited = 0.0 if live.full_since is None else (self._s.clock.now() - live.full_since) / 1e6
        try:
            collected = await self._collect(live, row, plan, result)
        except OutOfSpace as error:
            if waited < DEFAULT_ALLOWANCES.collect_s:
                raise
            return Collected(error=f"Its outputs and logs were not stored: {error.message}")
        if waited:
            note = f"Its outputs and logs waited {waited:.0f} s for space on the disk."
            return replace(collected, notes=(*collected.notes, note))
        return collected

    async def _collect(
        self, live: LiveAttempt, row: Resource, plan: JobPlan, result: AttemptEnd
    ) -> Collected:
        succeeded = result.outcome is Outcome.SUCCEEDED
        if kept(plan.outputs, succeeded):
            now = self._s.clock.now()
            await self._s.store.write(
                partial(
                    transitions.collecting,
                    attempt_id=live.attempt.id,
                    now=now,
                    message="Storing outputs and logs.",
                    started_at=live.started_at,
                    notes=live.notes,
                )
            )
        failures = job_status(row.status).progress.system_failures + 1
        retried = isinstance(after_attempt(result.outcome, failures), Retry)
        return await staging.collect(self._s, plan, live.attempt, succeeded=succeeded, retried=retried)

    async def _record_end(self, live: LiveAttempt, result: AttemptEnd, collected: Collected) -> None:
        # What ended while no server was there to hear of it is neither timed nor billed until we came.
        now = self._moment()
        when = replace(now, at=now.at - live.heard_late, mono=now.mono - live.heard_late)
        started, notes = live.started_at, live.notes
        state = await self._s.store.write(
            lambda tx: transitions.end(tx, live.attempt.id, when, result, started, collected, notes, now.at)
        )
        if state is JobState.FAILED:
            await self._kept.job_failed(live.attempt.job_uid)
            log.info("job %s failed: %s", live.attempt.job_uid, result.message.split("\n", 1)[0])

    def _leave(self, live: LiveAttempt) -> None:
        """Its files and records on its nodes are no longer needed, unless they stay for a look."""
        if self._kept.keeps(live.attempt.id):
            return
        soon = live.row is not None and bool(job_status(live.row.status).plan.serverless)
        for index, node_id in enumerate(live.attempt.nodes):
            ranks = tuple(rank for rank, placed in live.ranks.items() if placed.node_index == index)
            self._cleaner.add(Leftover(node_id, live.attempt.id, ranks), soon)

    def _spawn(self, coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _full_end(error: Exception) -> AttemptEnd:
    full = OutOfSpace("No space left on the disk of this server for the files of the job.")
    known = error if isinstance(error, OutOfSpace) else full
    return AttemptEnd(Outcome.FAILED, known.code, known.message)
