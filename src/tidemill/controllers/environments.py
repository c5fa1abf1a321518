"""The environments controller: builds what accepted jobs need, once each, before any node is held."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from tidemill.app.assets import images, scoring_side
from tidemill.app.computes import implicit_computes
from tidemill.app.containers import container_images
from tidemill.app.jobs import notices, transitions
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.controllers import container_files
from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.domain.plan import JobError, JobPlan, PlannedEnvironment
from tidemill.domain.states import DEFAULT_ALLOWANCES
from tidemill.domain.units import human_duration
from tidemill.environments.shared import LogLine, Shared
from tidemill.store.api import ResourceQuery, Tx

log = logging.getLogger("tidemill.environments")

FULL_PAUSE_S = 1.0
BUILD_S = DEFAULT_ALLOWANCES.build_s


class Environments:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._images: Shared[tuple[PlannedEnvironment, tuple[str, ...]]] = Shared()

    async def start(self) -> None:
        for row in await self._s.store.read(
            lambda r: r.find(ResourceQuery("jobs", states=(JobState.PREPARING,)))
        ):
            self.take(row)

    def follow(self, row: Resource) -> None:
        """A job has changed: what it needs is built; a cancelled one waits for nothing any more."""
        if row.state == JobState.PREPARING:
            self.take(row)
        elif row.uid in self._tasks and JobState(row.state).final:
            self._tasks[row.uid].cancel()

    def take(self, row: Resource) -> None:
        if row.uid not in self._tasks:
            task = asyncio.create_task(self._prepare(row), name=f"environment of {row.key.name}")
            self._tasks[row.uid] = task
            task.add_done_callback(lambda _: self._tasks.pop(row.uid, None))

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, row: Resource) -> None:
        plan = job_status(row.status).plan
        if plan.group is not None:
            return await self._prepare_group(row, plan)
        planned = plan.environment
        started = self._s.clock.now()
        try:
            async with asyncio.timeout(BUILD_S):
                prepared, notes = await self._make(row.key.scope, planned)
                if plan.service is not None and plan.service.container is None:
                    why = await scoring_side.settle(self._s, prepared, _unheard)
                    if why:
                        notes = (*notes, f"Its scoring server does without uvloop and orjson: {why}")
        except TidemillError as error:
            problem = JobError(error.code, f"Environment {planned.label} could not be built: {error.message}")
            await self._write(lambda tx: self._failed(tx, row.uid, problem))
            return
        except TimeoutError:
            late = f"Environment {planned.label} was not built within {human_duration(round(BUILD_S * 1e6))}."
            problem = JobError(
                "EnvironmentTimeout", f"{late} Its log says how far it came; submit again to go on."
            )
            await self._write(lambda tx: self._failed(tx, row.uid, problem))
            return
        except Exception as error:
            log.exception("the build of environment %s failed", planned.label)
            said = f"Environment {planned.label} could not be built: {type(error).__name__}: {error}"
            problem = JobError("EnvironmentFailed", said)
            await self._write(lambda tx: self._failed(tx, row.uid, problem))
            return
        seconds = (self._s.clock.now() - started) / 1e6
        await self._write(lambda tx: self._ready(tx, row.uid, prepared, notes, seconds))

    async def _prepare_group(self, row: Resource, plan: JobPlan) -> None:
        """The images of a container group's run, one after the other."""
        assert plan.group is not None
        started, found, label = self._s.clock.now(), list(plan.images), plan.environment.label
        notes: list[str] = []
        try:
            group = await container_files.row_of(self._s, plan.group)
            async with asyncio.timeout(BUILD_S):
                for at, one in enumerate(plan.images):
                    label = one.label
                    found[at], said = await container_images.fetch(self._s, group, one, _unheard)
                    notes += [note for note in said if note not in notes]
        except (TidemillError, TimeoutError) as error:
            late = f"that took longer than {human_duration(round(BUILD_S * 1e6))}."
            why = error.message if isinstance(error, TidemillError) else late
            code = error.code if isinstance(error, TidemillError) else "ImageTimeout"
            problem = JobError(code, f"Image {label} could not be fetched: {why}")
            return await self._write(lambda tx: self._failed(tx, row.uid, problem))
        except Exception as error:
            log.exception("image %s could not be fetched", label)
            said = f"Image {label} could not be fetched: {type(error).__name__}: {error}"
            problem = JobError("ImageFailed", said)
            return await self._write(lambda tx: self._failed(tx, row.uid, problem))
        seconds, images = (self._s.clock.now() - started) / 1e6, tuple(found)
        await self._write(lambda tx: self._fetched(tx, row.uid, images, notes, seconds))

    def _fetched(
        self, tx: Tx, uid: str, images: tuple[PlannedEnvironment, ...], notes: Sequence[str], seconds: float
    ) -> None:
        row = tx.by_uid(uid)
        if row is None or row.state != JobState.PREPARING:
            return
        now, status = self._s.clock.now(), job_status(row.status)
        for note in (*notes, f"Its images are there after {seconds:.1f} s."):
            tx.add_event(transitions.job_event(row, now, "Note", note))
        status = replace(status, plan=replace(status.plan, images=images))
        tx.update(transitions.with_progress(row, status, JobState.QUEUED, now, status.progress))

    async def _make(
        self, scope: Scope, planned: PlannedEnvironment
    ) -> tuple[PlannedEnvironment, tuple[str, ...]]:
        """-> (what it has become, notes)."""
        if not planned.digest:  # the host's own
            return planned, ()
        if planned.in_image:
            return await self._images.join(
                planned.digest, _unheard, lambda say: self._in_image(scope, planned, say)
            )
        built = await self._s.environments.ensure(images.spec_of(planned), _unheard)
        return planned, built.notes

    async def _in_image(
        self, scope: Scope, planned: PlannedEnvironment, say: LogLine
    ) -> tuple[PlannedEnvironment, tuple[str, ...]]:
        """Its log is the job's build log. Jobs that ask meanwhile wait for the same."""
        path = self._s.environments.log_path(planned.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", buffering=1) as file:

            def write(line: str) -> None:
                say(line)
                file.write(line + "\n")

            try:
                return await images.prepare(self._s, scope, planned, write)
            except TidemillError as error:
                file.write(error.message + "\n")
                raise

    async def _write(self, change: Callable[[Tx], None]) -> None:
        """On a full disk: as soon as there is space."""
        while True:
            try:
                return await self._s.store.write(change)
            except OutOfSpace as error:
                log.warning("an environment's end: %s", error)
                await asyncio.sleep(FULL_PAUSE_S)

    def _ready(
        self, tx: Tx, uid: str, planned: PlannedEnvironment, notes: tuple[str, ...], seconds: float
    ) -> None:
        row = tx.by_uid(uid)
        if row is None or row.state != JobState.PREPARING:
            return
        now = self._s.clock.now()
        status = job_status(row.status)
        for note in notes:
            if note not in planned.notes:
                tx.add_event(transitions.job_event(row, now, "Note", note))
        message = f"Environment {planned.label} is ready after {seconds:.1f} s."
        tx.add_event(transitions.job_event(row, now, "EnvironmentReady", message))
        if planned != status.plan.environment:
            status = replace(status, plan=replace(status.plan, environment=planned))
        tx.update(transitions.with_progress(row, status, JobState.QUEUED, now, status.progress))

    def _failed(self, tx: Tx, uid: str, problem: JobError) -> None:
        row = tx.by_uid(uid)
        if row is None or row.state != JobState.PREPARING:
            return
        now = self._s.clock.now()
        status = job_status(row.status)
        tx.add_event(transitions.job_event(row, now, "EnvironmentFailed", problem.message))
        progress = replace(status.progress, ended_at=now, error=problem)
        tx.update(transitions.with_progress(row, status, JobState.FAILED, now, progress))
        notices.post(tx, row, status.plan, progress, JobState.FAILED, status.kind)
        if status.plan.serverless:
            implicit_computes.remove(tx, row, now)


def _unheard(_: str) -> None: ...
