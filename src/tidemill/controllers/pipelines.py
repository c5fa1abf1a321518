"""Pipelines: each child that ends is taken in, the next decision asked for, and carried out.

What is kept here is what the rows say; a restart reads it again. Every act is safe to repeat: a child has the
name that its step gives it, an end is one commit, and the decision is a function of the children's rows.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidemill.app.jobs import composites, endings, families, jobs, step_reuse
from tidemill.app.jobs.pipeline_children import CONTROL, MOST_VALUE, body_for, made_of, values_of, view_of
from tidemill.app.jobs.pipeline_gathering import gather
from tidemill.app.jobs.prepared import Child, Prepared
from tidemill.app.jobs.transitions import job_event
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.services import Services
from tidemill.domain.components import LITERALS
from tidemill.domain.errors import Conflict, OutOfSpace, TidemillError
from tidemill.domain.model import JobState, Resource
from tidemill.domain.pipelines.deciding import (
    Action,
    ChildView,
    Decision,
    Finish,
    Gather,
    Start,
    Stop,
    decide,
)
from tidemill.domain.pipelines.model import COMMAND, PARALLEL, Pipeline
from tidemill.domain.plan import JobError, JobPlan, JobProgress, JobStatus, PlannedOutput
from tidemill.domain.states import cancel_timetable
from tidemill.domain.units import human_duration
from tidemill.store.api import Tx

log = logging.getLogger("tidemill.pipelines")

AT_ONCE = 32  # children submitted together
ENDED = "StepEnded"  # event of the pipeline: its `data` names the child


@dataclass(slots=True)
class _Run:
    """What is known of one pipeline that runs."""

    pipeline: Pipeline
    views: dict[str, ChildView] = field(default_factory=dict[str, ChildView])
    uids: dict[str, str] = field(default_factory=dict[str, str])  # of children -> instance
    planned: dict[str, PlannedOutput] = field(default_factory=dict[str, PlannedOutput])  # by address
    gathered: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    told: set[str] = field(default_factory=set[str])  # children whose end is in the time line
    telling: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])


class Pipelines:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._runs: dict[str, _Run] = {}

    def forget(self, uid: str) -> None:
        self._runs.pop(uid, None)

    async def carry(self, row: Resource, changed: frozenset[str]) -> int | None:
        run = self._runs.get(row.uid)
        if run is None:
            run = await self._load(row)
            if run is None:
                return None
            self._runs[row.uid] = run
        else:
            found = await self._s.store.read(lambda r: [r.by_uid(uid) for uid in changed])
            await self._take_in(row, run, [child for child in found if child is not None])
        canceled = row.state == JobState.CANCEL_REQUESTED
        try:
            while True:
                decision = decide(run.pipeline, run.views, run.gathered, canceled=canceled)
                if not decision.actions or not await self._carry_out(row, run, decision):
                    return None
        finally:
            await _told(run)

    async def _load(self, row: Resource) -> _Run | None:
        pipeline = job_status(row.status).pipeline
        if pipeline is None:
            return None
        run = _Run(pipeline)
        children, events = await self._s.store.read(lambda r: (families.children(r, row), r.events(row.uid)))
        run.told = {str(decode_object(event.data).get("child")) for event in events if event.code == ENDED}
        await self._take_in(row, run, children)
        return run

    # ------------------------------------------------------------ taking in

    async def _take_in(self, row: Resource, run: _Run, children: Iterable[Resource]) -> None:
        ended: list[Resource] = []
        for child in children:
            status = job_status(child.status)
            if status.child is None:
                continue
            instance = status.child.step
            run.uids[child.uid] = instance
            if JobState(child.state).final and child.uid not in run.told:
                child = await self._valued(run, instance, child)
                ended.append(child)
            run.views[instance] = view_of(child)
            run.planned |= {out.uri: out for out in job_status(child.status).plan.outputs}
        if ended:
            # In one commit with what is started next, instead of before it.
            run.telling.append(asyncio.create_task(self._tell(row, run, ended)))

    async def _valued(self, run: _Run, instance: str, child: Resource) -> Resource:
        """The child with the values of its literal outputs: what it said of its run, else what is in the
        files. They are recorded with it, so that a decision by them stays what it was."""
        step = run.pipeline.step(instance.partition("[")[0])
        wanted = [made.name for made in step.outputs if made.type in LITERALS] if step is not None else []
        missing = [name for name in wanted if name not in values_of(child)]
        if child.state != JobState.COMPLETED or not missing:
            return child
        places = {out.name: out.place for out in job_status(child.status).plan.outputs}

        def read() -> dict[str, str]:
            found: dict[str, str] = {}
            for name in missing:
                place = places.get(name)
                raw = self._s.blobs.read_bytes(place.account, place.container, place.path) if place else None
                if raw is not None and len(raw) <= MOST_VALUE:
                    found[name] = raw.decode("utf-8", "replace").strip()
            return found

        found = await asyncio.to_thread(read)
        now = self._s.clock.now()
        absent = [name for name in missing if name not in found]

        def record(tx: Tx) -> Resource:
            now_row = tx.by_uid(child.uid) or child
            for name in absent:
                place = f"the file ${{{{outputs.{name}}}}}"
                text = f"Output {name!r} has no value: write it (at most {MOST_VALUE} bytes) to {place}."
                tx.add_event(job_event(now_row, now, "Note", text))
            if not found:
                return now_row
            spec = decode_object(now_row.spec)
            values = json.dumps({**values_of(now_row), **found}, sort_keys=True)
            spec["properties"] = {**(spec.get("properties") or {}), CONTROL: values}
            return tx.update(replace(now_row, spec=encode(spec), modified_at=now))

        return await self._s.store.write(record)

    async def _tell(self, row: Resource, run: _Run, ended: Sequence[Resource]) -> None:
        """That they have ended, in the pipeline's time line, once; and their results are kept for later."""
        now = self._s.clock.now()
        uids = [self._s.ids.uid() for _ in ended]

        def record(tx: Tx) -> None:
            for child, uid in zip(ended, uids, strict=True):
                event = job_event(row, now, ENDED, _ended(child, run.uids[child.uid]))
                tx.add_event(replace(event, data=encode({"child": child.uid})))
                step_reuse.keep(tx, child, uid, now)

        await self._s.store.write(record)
        run.told |= {child.uid for child in ended}

    # ------------------------------------------------------------ carrying out

    async def _carry_out(self, row: Resource, run: _Run, decision: Decision) -> bool:
        """-> whether to decide again at once."""
        starts = [action for action in decision.actions if isinstance(action, Start)]
        others: list[Action] = [action for action in decision.actions if not isinstance(action, Start)]
        again = False
        for action in others:
            if isinstance(action, Gather):
                await self._gather(row, run, action)
                again = True
            elif isinstance(action, Stop):
                await self._stop(row, action)
            elif isinstance(action, Finish):
                await _told(run)
                await self._finish(row, run, action)
                return False
        for at in range(0, len(starts), AT_ONCE):
            some = starts[at : at + AT_ONCE]
            found = await asyncio.gather(*(self._start(row, run, start) for start in some))
            children = [child for child in found if child is not None]
            await self._take_in(row, run, children)
            again = again or any(JobState(child.state).final for child in children)
            if len(children) < len(some):
                return False  # the pipeline starts nothing any more: its row says so with the next call
        return again

    async def _start(self, row: Resource, run: _Run, start: Start) -> Resource | None:
        step = run.pipeline.step(start.step)
        assert step is not None
        name = composites.child_name(row, start.instance)
        properties = decode_object(row.spec)
        body = body_for(
            row.key.name,
            properties,
            job_status(row.status).plan,
            run.pipeline,
            step,
            start.inputs,
            composites.inherited_tags(row),
        )
        if start.instance != step.name:
            body["displayName"] = f"{body.get('displayName') or step.name}{start.instance[len(step.name) :]}"
        keeps = step.deterministic and step.kind in (COMMAND, PARALLEL)
        child = Child(
            row,
            start.instance,
            (("StepStarted", f"Step {start.instance} is started: job {name}."),),
            keeps=keeps,
            reuse=keeps and not run.pipeline.force_rerun,
            made=tuple(given.name for given in start.inputs if given.made),
        )
        try:
            caller = await composites.submitter(self._s, row)
            return (await jobs.submit(self._s, caller, row.key.scope, name, {"properties": body}, child))[0]
        except OutOfSpace:
            raise
        except TidemillError as error:
            if isinstance(error, Conflict) and error.code == "ParentNotRunning":
                return None
            log.info("step %s of %s could not be started: %s", start.instance, row.key.name, error)
            return await self._refused(row, name, body, replace(child, told=()), error)

    async def _refused(
        self, row: Resource, name: str, body: Mapping[str, object], child: Child, error: TidemillError
    ) -> Resource | None:
        plan: JobPlan = job_status(row.status).plan
        job = replace(plan.job, display_name=str(body.get("displayName") or name), command="")
        said = f"It could not be started: {error.message}"
        progress = JobProgress(ended_at=self._s.clock.now(), error=JobError(error.code, said))
        status = JobStatus(replace(plan, job=job, outputs=()), progress)
        prepared = Prepared(JobState.FAILED, status, str(body.get("jobType") or "Command"), "")
        try:
            return await jobs.refused_child(self._s, name, {"properties": body}, child, prepared)
        except Conflict:
            return None

    async def _gather(self, row: Resource, run: _Run, action: Gather) -> None:
        account = job_status(row.status).plan.account
        planned = await gather(self._s, row, account, action, run.planned)
        run.planned[planned.uri] = planned
        run.gathered[(action.step, action.output)] = planned.uri

    async def _stop(self, row: Resource, action: Stop) -> None:
        now = self._s.clock.now()
        timetable = cancel_timetable(self._s.settings.cancel_grace_s, self._s.settings.close_grace_s).sentence

        def change(tx: Tx) -> None:
            live = [c for c in families.children(tx, row, live=True) if c.state != JobState.CANCEL_REQUESTED]
            for child in live:
                endings.cancel_in(tx, child, now, f"pipeline {row.key.name}", timetable)
            if live:
                tx.add_event(job_event(row, now, "StepsCanceled", f"{action.reason} What runs is cancelled."))

        await self._s.store.write(change)

    async def _finish(self, row: Resource, run: _Run, action: Finish) -> None:
        now = self._s.clock.now()
        outputs = tuple(made_of(run.pipeline, action.outputs, run.planned))
        values = {name: output.value for name, output in action.outputs.items() if output.value is not None}

        def change(tx: Tx) -> None:
            current = tx.by_uid(row.uid)
            if current is None or JobState(current.state).final:
                return
            state, code, message = action.state, action.code, action.message
            if current.state == JobState.CANCEL_REQUESTED and state is not JobState.CANCELED:
                state, code, message = JobState.CANCELED, "Canceled", "Canceled."
            current = composites.restated(current, outputs=outputs)
            if values:
                spec = decode_object(current.spec)
                control = json.dumps(values, sort_keys=True)
                spec["properties"] = {**(spec.get("properties") or {}), CONTROL: control}
                current = replace(current, spec=encode(spec))
            composites.end(tx, current, state, code, message, now)

        await self._s.store.write(change)


async def _told(run: _Run) -> None:
    """Once all that has ended is in the time line. Raises what kept it from that."""
    telling, run.telling = run.telling, []
    await asyncio.gather(*telling)


def _ended(child: Resource, instance: str) -> str:
    progress = job_status(child.status).progress
    took = (progress.ended_at or 0) - (progress.started_at or progress.ended_at or 0)
    origin = (decode_object(child.spec).get("properties") or {}).get(step_reuse.REUSED_FROM)
    if origin:
        return f"Step {instance} is reused: job {origin} has its results."
    if child.state == JobState.COMPLETED:
        return f"Step {instance} completed after {human_duration(took)}."
    why = (progress.error.message if progress.error else "").split("\n", 1)[0]
    return f"Step {instance} {'failed' if child.state == JobState.FAILED else 'was canceled'}: {why}"
