"""Makes the packages that were asked for, one at a time: what a kill interrupts is begun anew at the next
start, from the row."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable

from tidemill.app.assets import package_images
from tidemill.app.rows.package_rows import PACKAGES, event, label
from tidemill.app.services import Services
from tidemill.app.serving import packages
from tidemill.controllers.packaging import Making, Packed
from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.model import Resource
from tidemill.domain.plan import JobError
from tidemill.domain.serving.packaging import CREATING
from tidemill.domain.units import human_bytes
from tidemill.environments import tree
from tidemill.store.api import ResourceQuery, Tx

log = logging.getLogger("tidemill.packages")

FULL_PAUSE_S = 1.0


class Packages:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Takes up what is not finished, and removes what a kill left behind."""
        await asyncio.to_thread(shutil.rmtree, package_images.place(self._s), True)
        for row in await self._s.store.read(
            lambda read: read.find(ResourceQuery(PACKAGES, states=(CREATING,), ascending=True))
        ):
            self._take(row)

    async def stop(self) -> None:
        tasks = [*self._tasks.values(), *self._looks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, uid: str) -> None:
        task = asyncio.create_task(self._look(uid), name=f"package {uid}")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, uid: str) -> None:
        row = await self._s.store.read(lambda read: read.by_uid(uid))
        if row is not None and row.state == CREATING:
            self._take(row)
        elif row is None and uid in self._tasks:
            await self._end(self._tasks[uid])

    async def _end(self, making: asyncio.Task[None]) -> None:
        """Of a package that was deleted meanwhile."""
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    def _take(self, row: Resource) -> None:
        if row.uid not in self._tasks:
            task = asyncio.create_task(self._make(row), name=f"package {label(row)}")
            self._tasks[row.uid] = task
            task.add_done_callback(lambda _: self._tasks.pop(row.uid, None))

    async def _make(self, row: Resource) -> None:
        problem: JobError
        try:
            async with self._turn:
                packed = await Making(self._s, row, lambda line: self._tell(row, line)).run()
            return await self._succeed(row, packed)
        except TidemillError as error:
            problem = JobError(error.code, error.message)
        except Exception as error:
            if isinstance(error, OSError) and tree.is_full(error):
                problem = JobError(
                    "InsufficientStorage",
                    "No space left on the disk of this home: nothing of the package was kept. Free space and "
                    "try again.",
                )
            else:
                log.exception("package %s failed", label(row))
                problem = JobError("PackagingFailed", f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            if await self._s.store.read(lambda read: read.by_uid(row.uid)) is None:
                await asyncio.to_thread(packages.remove_files, self._s, row)
            raise
        await asyncio.to_thread(packages.remove_files, self._s, row)
        await self._write(row, lambda tx, there: packages.fail(tx, there, problem, self._s.clock.now()))

    async def _tell(self, row: Resource, line: str) -> None:
        now = self._s.clock.now()

        def write(tx: Tx) -> None:
            if tx.by_uid(row.uid) is not None:
                tx.add_event(event(row, now, "Progress", line))

        await self._s.store.write(write)

    async def _succeed(self, row: Resource, packed: Packed) -> None:
        s, status = self._s, packed.status
        uids, now = (s.ids.uid(), s.ids.uid()), s.clock.now()

        def write(tx: Tx, there: Resource) -> None:
            for note in packed.notes:
                tx.add_event(event(there, now, "Note", note))
            packages.succeed(tx, there, status, uids, now)
            said = (
                f"{human_bytes(status.size)}, {status.digest[:19]}"
                if status.digest
                else human_bytes(status.size)
            )
            tx.add_event(event(there, now, "Succeeded", f"Package {label(there)} is ready: {said}."))

        if not await self._write(row, write):  # deleted meanwhile
            await asyncio.to_thread(packages.remove_files, s, row)

    async def _write(self, row: Resource, change: Callable[[Tx, Resource], None]) -> bool:
        """-> False where the row is gone, or has ended. On a full disk: as soon as there is space."""

        def write(tx: Tx) -> bool:
            there = tx.by_uid(row.uid)
            if there is None or there.state != CREATING:
                return False
            change(tx, there)
            return True

        while True:
            try:
                return await self._s.store.write(write)
            except OutOfSpace as error:
                log.warning("package %s: %s", label(row), error)
                await asyncio.sleep(FULL_PAUSE_S)
