"""Carries sweeps: starts their trials, reads what they report, stops those not worth it, names the best.

What is known of a sweep's trials is read from their rows and the tracking store; it is kept in memory between
calls and read anew after a restart. A trial's row is its start: its name is that of the sweep and its number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tidemill.app.jobs import composites, endings, families, jobs, sweep_jobs
from tidemill.app.jobs.prepared import Child
from tidemill.app.jobs.transitions import job_event
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.controllers.bayesian import SamplerFailed
from tidemill.domain.errors import Conflict, NotFound, OutOfSpace, TidemillError
from tidemill.domain.model import Caller, JobState, Resource
from tidemill.domain.states import cancel_timetable
from tidemill.domain.sweeps import decide, sampling
from tidemill.domain.sweeps.decide import End, Trial
from tidemill.domain.sweeps.sampling import Ask
from tidemill.domain.sweeps.space import Point, in_words
from tidemill.domain.sweeps.spec import SweepSpec
from tidemill.domain.sweeps.trials import trial_body
from tidemill.store.api import Tx

log = logging.getLogger("tidemill.sweeps")

AT_ONCE = 16  # trials submitted together: they share commits
LOOK_US = 500_000  # how often the reports of running trials are read, where a policy judges them


class Sampler(Protocol):
    async def next(self, ask: Ask) -> Point: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Known:
    """Of one sweep. `rows` and `trials` by uid of the trial."""

    spec: SweepSpec
    properties: dict[str, Any]
    trials: dict[str, Trial] = field(default_factory=dict[str, Trial])
    judged: dict[str, int] = field(default_factory=dict[str, int])
    logged: set[str] = field(default_factory=set[str])  # metrics of completed trials, while none had ours
    used_up: bool = False
    fault: End | None = None


class Sweeps:
    def __init__(self, services: Services, sampler: Sampler) -> None:
        self._s = services
        self._sampler = sampler
        self._known: dict[str, _Known] = {}

    async def carry(self, row: Resource, changed: frozenset[str]) -> int | None:
        known = self._known.get(row.uid)
        if known is None:
            known = self._known[row.uid] = _Known(*sweep_jobs.spec_of(row))
            found = await self._s.store.read(lambda r: families.children(r, row))
            changed = frozenset(one.uid for one in found)
        await self._read(known, row, changed)
        started_at = job_status(row.status).progress.started_at or row.created_at
        trials = sorted(known.trials.values(), key=lambda trial: trial.number)
        await self._note_best(known, row, trials)
        now = self._s.clock.now()
        todo = decide.decide(
            known.spec,
            trials,
            elapsed_us=now - started_at,
            canceled=row.state == JobState.CANCEL_REQUESTED,
            used_up=known.used_up,
            fault=known.fault,
            judged=known.judged,
            logged=sorted(known.logged),
        )
        known.judged.update(todo.judged)
        if todo.end is not None:
            await self._end(row, todo.end, decide.best(trials, known.spec.maximize))
            return None
        if todo.stop:
            await self._stop(row, todo.stop, by_policy=bool(todo.judged))
        if todo.start:
            await self._start(known, row, trials, todo.start)
            return now  # what was started, and what could not be, is looked at at once
        return _due(known.spec, trials, started_at, now)

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)
        if not any(known.spec.algorithm == sampling.BAYESIAN for known in self._known.values()):
            self._sampler.close()

    async def _read(self, known: _Known, row: Resource, changed: frozenset[str]) -> None:
        """The trials that changed, and what running ones reported meanwhile, where that matters now."""
        watched = {uid for uid, t in known.trials.items() if t.live} if known.spec.policy else set[str]()
        uids = sorted(changed | watched)
        rows = await self._s.store.read(lambda r: [r.by_uid(uid) for uid in uids])
        for one in rows:
            if one is None or one.parent_uid != row.uid:
                continue
            reports = await self._reports(one, known.spec.metric)
            trial = known.trials[one.uid] = sweep_jobs.trial_of(one, reports)
            if trial.state is JobState.COMPLETED and not reports and len(known.logged) < 100:
                latest = await self._latest(one)
                known.logged |= set(latest)

    async def _reports(self, trial: Resource, metric: str) -> tuple[float, ...]:
        """In the order of their steps."""
        try:
            points = await self._s.tracking.metric_history(trial.key.scope.arm_id, trial.key.name, metric)
        except NotFound:
            return ()  # it has not said anything yet
        return tuple(point.value for point in sorted(points, key=lambda p: (p.step, p.timestamp_ms)))

    async def _latest(self, trial: Resource) -> list[str]:
        try:
            return [m.key for m in await self._s.tracking.latest(trial.key.scope.arm_id, trial.key.name)]
        except NotFound:
            return []

    async def _note_best(self, known: _Known, row: Resource, trials: Sequence[Trial]) -> None:
        best = decide.best(trials, known.spec.maximize)
        progress = job_status(row.status).sweep
        score = best.score(known.spec.maximize) if best is not None else None
        if best is None or score is None or (progress is not None and progress.best == best.name):
            return
        values = in_words(known.spec.space.values(best.point))
        message = f"Best so far: trial {best.number + 1} ({values}) with {known.spec.metric} {score:g}."

        def note(tx: Tx) -> None:
            now = tx.by_uid(row.uid)
            if now is not None and not JobState(now.state).final:
                at = self._s.clock.now()
                tx.update(replace(sweep_jobs.with_best(now, best.name, score), modified_at=at))
                tx.add_event(job_event(row, at, "BestTrial", message))

        await self._s.store.write(note)

    async def _start(
        self, known: _Known, row: Resource, trials: Sequence[Trial], numbers: Sequence[int]
    ) -> None:
        try:
            caller = await composites.submitter(self._s, row)
            if known.spec.algorithm == sampling.BAYESIAN:
                seen = decide.seen(trials, known.spec.maximize)
                for number in numbers:  # one after the other: each counts for the next
                    ask = sampling.ask(known.spec.space, seen, known.spec.maximize, known.spec.seed)
                    point = await self._sampler.next(ask)
                    await self._submit(known, row, caller, number, point)
                    seen = (*seen, sampling.Seen(point, None, live=True))
                return
            for first in range(0, len(numbers), AT_ONCE):
                group: list[tuple[int, Point]] = []
                for number in numbers[first : first + AT_ONCE]:
                    point = sampling.sampled(known.spec.algorithm, known.spec.space, number, known.spec.seed)
                    known.used_up |= point is None
                    group += [(number, point)] if point is not None else []
                await asyncio.gather(*(self._submit(known, row, caller, *one) for one in group))
        except OutOfSpace:
            raise
        except Conflict as error:
            if error.code != "ParentNotRunning":  # canceled meanwhile: the next look sees that
                known.fault = _fault(error.code, error.message)
        except TidemillError as error:
            known.fault = _fault(error.code, error.message)
        except SamplerFailed as error:
            known.fault = _fault("SamplerFailed", f"the sampler: {error}")

    async def _submit(self, known: _Known, row: Resource, caller: Caller, number: int, point: Point) -> None:
        step = sweep_jobs.step_of(number)
        tags = composites.inherited_tags(row)
        body = trial_body(known.spec, known.properties, number, point, row.key.name, tags)
        name = composites.child_name(row, step)
        values = in_words(known.spec.space.values(point))
        told = ("TrialStarted", f"Trial {number + 1} is started: {values}.")
        child = Child(row, step, (told,))
        trial, _ = await jobs.submit(self._s, caller, row.key.scope, name, body, child)
        known.trials[trial.uid] = sweep_jobs.trial_of(trial, ())

    async def _stop(self, row: Resource, stop: Any, by_policy: bool) -> None:
        timetable = cancel_timetable(self._s.settings.cancel_grace_s, self._s.settings.close_grace_s).sentence
        now = self._s.clock.now()

        def change(tx: Tx) -> None:
            for name, why in stop.items():
                child = tx.get(jobs.key_of(row.key.scope, name))
                if child is None or child.state == JobState.CANCEL_REQUESTED or JobState(child.state).final:
                    continue
                if by_policy:
                    child = sweep_jobs.mark_stopped(tx, child, why, now)
                    tx.add_event(job_event(row, now, "TrialStopped", f"Trial {name} is stopped: {why}."))
                tx.add_event(job_event(child, now, "StoppedEarly", f"Stopped by the sweep: {why}."))
                endings.cancel_in(tx, child, now, "the sweep", timetable)

        await self._s.store.write(change)

    async def _end(self, row: Resource, end: End, best: Trial | None) -> None:
        def change(tx: Tx) -> None:
            now = tx.by_uid(row.uid)
            if now is None or JobState(now.state).final:
                return
            winner = tx.get(jobs.key_of(row.key.scope, best.name)) if best is not None else None
            if winner is not None and end.state is JobState.COMPLETED:
                now = sweep_jobs.with_outputs_of(now, winner)
            composites.end(tx, now, end.state, end.code, end.message, self._s.clock.now())

        await self._s.store.write(change)


def _fault(code: str, message: str) -> End:
    return End(JobState.FAILED, code, f"A trial could not be started: {message}")


def _due(spec: SweepSpec, trials: Sequence[Trial], started_at: int, now: int) -> int | None:
    """When to look again although nothing changed: at the limit, and while a policy watches."""
    times = [started_at + spec.timeout_s * 1_000_000] if spec.timeout_s is not None else []
    if spec.policy is not None and any(trial.live for trial in trials):
        times.append(now + LOOK_US)
    return max(min(times), now + 1000) if times else None
